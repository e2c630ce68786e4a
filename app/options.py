"""Settings as the options of a command: of the service, or of a frozen dataclass.

Invariant: an option a field, of the field's type and default; a field without default is required.
An option that is not given leaves what the environment says.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer
from pydantic import ValidationError

from app.errors import ConfigurationError
from app.settings import Settings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SettingsT = TypeVar("SettingsT")


def settings_of(**options: object) -> Settings:
    """The settings of the environment under the options that were given.

    Raises ConfigurationError, which names each option or variable that is wrong.
    """
    given: dict[str, Any] = {name: each for name, each in options.items() if each is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = [_complaint(each, given) for each in error.errors()]
        raise ConfigurationError("; ".join(wrong)) from None


def _complaint(error: "ErrorDetails", given: Collection[str]) -> str:
    """What is wrong with one setting, by the name it was given under."""
    name = "_".join(str(part) for part in error["loc"])
    plain = name.removeprefix("series_").removeprefix("purchase_")
    option = f"--{plain.replace('_', '-')}"
    place = option if name in given else f"SHOPCAST_{name.upper()}"
    return f"{place}: {error['msg']}, not {error['input']!r}"


def command_of(kind: type[SettingsT], run: Callable[[SettingsT], object]) -> typer.Typer:
    """The command that fills in the dataclass `kind` from its options and runs it."""
    assert dataclasses.is_dataclass(kind)  # noqa: S101 - tells the type checker
    hints = get_type_hints(kind)

    def call(**values: Any) -> None:  # noqa: ANN401 - each of its field's type
        typer.echo(run(kind(**values)))

    parameters = [_parameter(field, hints[field.name]) for field in dataclasses.fields(kind)]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    call.__doc__ = inspect.getdoc(kind)
    command = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
    )
    command.command()(call)
    return command


def _parameter(field: "dataclasses.Field[Any]", hint: Any) -> inspect.Parameter:  # noqa: ANN401
    required = field.default is dataclasses.MISSING
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else field.default,
        annotation=Annotated[hint, typer.Option()],
    )
