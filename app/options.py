"""A frozen dataclass of settings as the options of a command.

Invariant: an option a field, of the field's type and default; a field without default is required.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

SettingsT = TypeVar("SettingsT")


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
