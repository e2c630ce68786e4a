"""`shopcast datasets`: what a shop has uploaded of its past, here or at a server.

Invariant: both show a dataset in the words of the API.
"""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from app.datasets import Datasets

LISTS = frozenset({"known_future", "past_only", "segment"})
UPLOAD_S = 3600.0

Server = Annotated[
    str | None, typer.Option(help="A running server; without one, this machine.", metavar="URL")
]
Key = Annotated[str | None, typer.Option(help="API key of the server.", metavar="KEY")]
Id = Annotated[str, typer.Argument(help="Its id, as `list` shows it.", metavar="ID")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

#: A dataset as the API shows it.
Shown = dict[str, Any]

app = typer.Typer(no_args_is_help=True, help="Add, list, show and delete datasets.")


@app.command()
def add(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV or Parquet, gzip or zstd around it too.", exists=True, dir_okay=False
        ),
    ],
    kind: Annotated[str, typer.Option(help="series or events.")] = "series",
    name: Annotated[str | None, typer.Option(help="By which people know it.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Which column is what, as target=units or known_future=price,promo; "
            "what is left out is guessed and told.",
            metavar="WHAT=NAME",
        ),
    ] = None,
    freq: Annotated[str | None, typer.Option(help="Frequency of series, as D or W-MON.")] = None,
    server: Server = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Check a file row by row, and keep it for training and forecasting."""
    columns = _columns(column or ())
    called = name or file.name
    if server is not None:
        shown = _upload(file, server, key, kind=kind, name=called, columns=columns, freq=freq)
    else:
        shown = asyncio.run(_take_in(file, kind=kind, name=called, columns=columns, freq=freq))
    _print(shown, as_json=as_json)


@app.command("list")
def list_datasets(
    limit: Annotated[int, typer.Option(min=1, max=100, help="So many at most.")] = 20,
    server: Server = None,
    key: Key = None,
) -> None:
    """The datasets, the latest first."""
    if server is not None:
        found = _ask(server, key, "GET", "/datasets", params={"limit": limit})["datasets"]
    else:
        page = asyncio.run(_here().page(limit))
        found = [_shown(asdict(each)) for each in page.datasets]
    table = Table(box=None)
    for title in ("id", "name", "kind", "rows", "series", "from", "to"):
        table.add_column(title, justify="right" if title in {"rows", "series"} else "left")
    for each in found:
        counts = (f"{each['rows']:,}", f"{each['series']:,}")
        times = (str(each["start"] or ""), str(each["end"] or ""))
        table.add_row(each["id"], escape(each["name"]), each["kind"], *counts, *times)
    Console(highlight=False).print(table)


@app.command()
def show(dataset_id: Id, server: Server = None, key: Key = None, as_json: AsJson = False) -> None:
    """What is known of a dataset, and which versions were trained on it."""
    if server is not None:
        shown = _ask(server, key, "GET", f"/datasets/{dataset_id}")
    else:
        here = _here()
        trained = here.versions_trained_on(dataset_id)
        shown = _shown(asdict(here.read(dataset_id))) | {"trained": _trained(trained)}
    _print(shown, as_json=as_json)


@app.command()
def delete(dataset_id: Id, server: Server = None, key: Key = None) -> None:
    """Delete a dataset that no job needs; versions that were trained on it stay."""
    if server is not None:
        trained = _ask(server, key, "DELETE", f"/datasets/{dataset_id}")["trained"]
    else:
        here = _here()
        trained = _trained(here.versions_trained_on(dataset_id))
        asyncio.run(here.delete(dataset_id))
    typer.echo(f"{dataset_id} is deleted")
    for each in trained:
        typer.echo(f"version {each['version']} of {each['name']} was trained on it, and stays")


def _columns(pairs: "list[str] | tuple[()]") -> dict[str, Any] | None:
    """What `--column` says, as the API takes it. Raises InvalidInputError."""
    from app.errors import InvalidInputError, Issue

    found: dict[str, Any] = {}
    for pair in pairs:
        what, _, names = pair.partition("=")
        if not what or not names:
            msg = f"--column {pair}: must be WHAT=NAME, as target=units"
            raise InvalidInputError((Issue(("column",), msg, "column"),))
        listed = names.split(",")
        found[what] = listed if what in LISTS or len(listed) > 1 else names
    return found or None


# --- at a server


def _upload(file: Path, server: str, key: str | None, **fields: Any) -> Shown:  # noqa: ANN401
    said = {name: value for name, value in fields.items() if value is not None}
    if "columns" in said:
        said["columns"] = json.dumps(said["columns"])
    with file.open("rb") as stream:
        sent = {"file": (file.name, stream, "application/octet-stream")}
        return _ask(server, key, "POST", "/datasets", data=said, files=sent, timeout=UPLOAD_S)


def _ask(server: str, key: str | None, method: str, path: str, **sent: Any) -> Shown:  # noqa: ANN401
    from app.job_doors import There, client_of
    from app.options import settings_of

    with client_of(server, key=settings_of(key=key).key) as client:
        return There(client).json(method, path, **sent)


# --- here


async def _take_in(
    file: Path, *, kind: str, name: str, columns: dict[str, Any] | None, freq: str | None
) -> Shown:
    from app.intake import Order

    here = _here()
    order = Order(kind, columns, freq)  # type: ignore[arg-type]  # checked when it is taken in
    async with here.staging() as stage:
        dataset, _ = await here.add(file, stage, order, name=name)
    return _shown(asdict(dataset))


def _here() -> "Datasets":
    """The datasets of the settings' database, a local one brought up to date."""
    from app.datasets import Datasets
    from app.db import is_local, migrate, open_database
    from app.jobs import Book
    from app.metrics import Metrics
    from app.options import settings_of

    settings = settings_of()
    if is_local(settings.database):
        migrate(settings.database)
    database = open_database(settings.database)
    return Datasets(database, settings, Metrics(), in_use=Book(database).in_use)


def _shown(dataset: dict[str, Any]) -> Shown:
    return dataset | {"created_at": dataset["created_at"].isoformat()}


def _trained(versions: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"name": name, "version": version} for name, version in versions]


def _print(shown: Shown, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    table = Table(box=None, show_header=False)
    for field in ("id", "name", "kind", "rows", "series", "freq", "start", "end", "gaps"):
        if shown.get(field) is not None:
            value = shown[field]
            table.add_row(field, f"{value:,}" if isinstance(value, int) else escape(str(value)))
    for what, names in shown["columns"].items():
        if names:
            told = ", ".join(names) if isinstance(names, list) else names
            table.add_row(f"[dim]{escape(what)}[/dim]", escape(str(told)))
    console = Console(highlight=False)
    console.print(table)
    for note in shown["notes"]:
        console.print(f"[dim]·[/dim] {escape(note)}")
    for each in [*shown["warnings"], *shown["errors"]]:
        console.print(f"[yellow]![/yellow] {escape(each['msg'])}")
    for each in shown.get("trained", ()):
        console.print(f"version {each['version']} of {each['name']} was trained on it")
