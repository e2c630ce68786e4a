"""Write docs/configuration.md from the settings; with --check, only say whether it is fresh."""

import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from app.settings import MIB, Settings

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Configuration

Every setting is an environment variable, read once at the start. `shopcast serve` takes the
common ones as options too, which come first. An empty default means that there is none.

This page is written by `make docs` from `app/settings.py`.

| variable | values | default | meaning |
| --- | --- | --- | --- |
"""


def main() -> None:
    """Write the page, or fail if it is not what would be written."""
    page = HEAD + "".join(_line(name, field) for name, field in Settings.model_fields.items())
    if "--check" not in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"docs/{PAGE.name} is not what app/settings.py says; run `make docs`")


def _line(name: str, field: FieldInfo) -> str:
    default = _default(field.default)
    words = [f"`SHOPCAST_{name.upper()}`", _values(field), default, field.description or ""]
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |\n"


def _values(field: FieldInfo) -> str:
    kind, bounds = _kind(field.annotation, list(field.metadata))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        return "list"
    names = {bool: "0 or 1", int: "whole number", float: "number", Path: "path", str: "text"}
    return ", ".join([names[kind], *_words(bounds)])


def _kind(annotation: object, bounds: list[object]) -> tuple[Any, list[object]]:
    """What a value is, None apart, and what bounds it."""
    if get_origin(annotation) in {Union, UnionType}:
        annotation = next(kind for kind in get_args(annotation) if kind is not NoneType)
    if get_origin(annotation) is Annotated:
        kind, *more = get_args(annotation)
        return kind, [*bounds, *more]
    return annotation, bounds


def _words(bounds: list[object]) -> list[str]:
    limits = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return [
        f"{words} {getattr(bound, name)}"
        for bound in bounds
        for name, words in limits.items()
        if getattr(bound, name, None) is not None
    ]


def _default(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{int(value)}`"
    if isinstance(value, int) and value >= MIB and value % MIB == 0:
        return f"`{value}` ({value // MIB} Mi)"
    return f"`{value}`"


if __name__ == "__main__":
    main()
