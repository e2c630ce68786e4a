"""Settings of learning as they come from outside: a JSON object, each field of which may be absent.

Invariant: what is returned has been through the settings' own checks; a word or a kind of value
that they do not know is a ModelError that names the field.
"""

from __future__ import annotations

import dataclasses
import types
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from models.base import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

SettingsT = TypeVar("SettingsT")


def settings_of(kind: type[SettingsT], said: Mapping[str, object]) -> SettingsT:
    """The settings, a dataclass of plain fields, that an object of JSON asks for."""
    hints = get_type_hints(kind)
    names = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(said) - set(names)):
        raise ModelError(f"{unknown[0]!r} is no setting; there are {', '.join(names)}")
    return kind(**{name: _value(name, value, hints[name]) for name, value in said.items()})


def _value(name: str, value: object, kind: Any) -> object:  # noqa: ANN401 - a type
    choices = get_args(kind) if get_origin(kind) is types.UnionType else (kind,)
    for choice in choices:
        if choice is float and type(value) is int:
            return float(value)
        if get_origin(choice) is tuple and isinstance(value, list | tuple):
            return tuple(_value(name, each, get_args(choice)[0]) for each in value)
        if type(value) is choice:
            return value
    wanted = " or ".join(_NAMES.get(choice, "a list of texts") for choice in choices)
    raise ModelError(f"{name} must be {wanted}, not {value!r}")


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    types.NoneType: "null",
}
