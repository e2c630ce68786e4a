"""`shopcast models`: which versions there are, and which of them answers.

Invariant: what changes a version needs the database and the disk alone; services that run notice
within five seconds.
"""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from app.resources import Resources
    from app.settings import Settings
    from app.versions import Alias, Version, Versions

Name = Annotated[str, typer.Argument(help="The model: sales, purchase.", metavar="MODEL")]
Number = Annotated[int, typer.Argument(help="The version's number.", min=1, max=999_999_999)]
Expected = Annotated[
    int | None,
    typer.Option(help="Only if production is this version now.", metavar="NUMBER", min=1),
]

app = typer.Typer(help="List, promote, roll back and delete versions of models.")


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    server: Annotated[
        str | None, typer.Option(help="A running server; without one, this machine.", metavar="URL")
    ] = None,
    key: Annotated[str | None, typer.Option(help="API key of the server.", metavar="KEY")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Directory of a checkpoint to look at.", metavar="DIR")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Directory of an adapter's base.", metavar="DIR")
    ] = None,
) -> None:
    """Without a command: the models of a server, or what would answer here, loaded and checked."""
    if context.invoked_subcommand is not None:
        return
    from app.options import settings_of
    from app.report import show_models

    settings = settings_of(key=key, series_checkpoint=checkpoint, series_base=base)
    show_models(asyncio.run(_answering(settings, server)), _out())


@app.command("list")
def list_versions(
    name: Annotated[str | None, typer.Argument(help="Only this model.", metavar="MODEL")] = None,
) -> None:
    """All versions that are kept, their aliases and where they come from."""
    from app.report import show_versions

    versions = _versions()
    names = versions.names() if name is None else [name]
    show_versions([_kept(versions, each) for each in names], _out())


@app.command()
def promote(name: Name, version: Number, expected: Expected = None) -> None:
    """Let a version be production."""
    from app.versions import operator

    _tell(_versions().promote(name, version, actor=operator(), expected=expected))


@app.command()
def rollback(name: Name, expected: Expected = None) -> None:
    """Bring back the production before this one; a second time undoes the first."""
    from app.versions import operator

    _tell(_versions().rollback(name, actor=operator(), expected=expected))


@app.command()
def delete(name: Name, version: Number) -> None:
    """Delete a version that no alias names."""
    from app.versions import operator

    _versions().delete(name, version, actor=operator())
    typer.echo(f"version {version} of {name} is deleted")


def _tell(moved: "Alias") -> None:
    before = "" if moved.previous is None else f"; before it was {moved.previous}"
    typer.echo(f"{moved.alias} of {moved.name} is version {moved.version}{before}")


def _versions() -> "Versions":
    """The versions of the settings' database, a local one brought up to date."""
    from app.db import is_local, migrate, open_database
    from app.options import settings_of
    from app.versions import Versions

    settings = settings_of()
    if is_local(settings.database):
        migrate(settings.database)
    return Versions(open_database(settings.database), settings)


def _kept(versions: "Versions", name: str) -> dict[str, Any]:
    return {
        "name": name,
        "aliases": {each.alias: each.version for each in versions.aliases(name)},
        "versions": [_told(each) for each in versions.all(name)],
    }


def _told(kept: "Version") -> dict[str, Any]:
    origin = {key: each for key, each in asdict(kept.manifest).items() if key != "files"}
    return {
        "version": kept.version,
        "created_at": kept.created_at.isoformat(),
        "size_bytes": kept.size_bytes,
        **origin,
    }


async def _answering(settings: "Settings", server: str | None) -> list[dict[str, Any]]:
    from app.db import migrate
    from app.forecasters import connect
    from app.resources import open_resources

    if server is not None:
        async with connect(server, key=settings.key) as there:
            return await there.models()
    await asyncio.to_thread(migrate, settings.database)
    async with open_resources(settings, guest=True) as resources:
        return [_loaded(resources, name) for name in resources.registry.names()]


def _loaded(resources: "Resources", name: str) -> dict[str, Any]:
    loaded = resources.registry.loaded(name).values()
    return {
        "name": name,
        "aliases": resources.registry.aliases(name),
        "versions": [
            {"version": each.version, "network": asdict(each.description)} for each in loaded
        ],
    }


def _out() -> Console:
    return Console(highlight=False)
