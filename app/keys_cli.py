"""`shopcast keys`: who may use the service.

Invariant: the text of a key goes to stdout once, alone, and nowhere else.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from app.auth import ApiKey, Keys

PAGE = 1000
COLUMNS = (
    *("id", "name", "scopes", "shops", "rate", "state"),
    *("created", "expires", "last used"),
)

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")


@app.command()
def create(
    name: Annotated[str, typer.Option(help="By which people know it.", metavar="TEXT")] = "",
    scope: Annotated[
        str, typer.Option(help="What it may do: predict, train, admin.", metavar="LIST")
    ] = "predict",
    shops: Annotated[
        str | None, typer.Option(help="Shops it may name; without this, all.", metavar="LIST")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Requests by time: 50/s, 3000/m.", metavar="RATE")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good: 90d, 12h.", metavar="TIME")
    ] = None,
) -> None:
    """Make a key and print it; it is shown this once.

    From the first key on every caller needs one; running services notice within five seconds.

    Example: `shopcast keys create --name till --scope predict --rate 50/s --expires 90d`
    """
    from app.auth import life_of
    from app.versions import operator

    made, text = _keys().create(
        name,
        _listed(scope),
        actor=operator(),
        shops=None if shops is None else _listed(shops),
        rate=rate,
        life=None if expires is None else life_of(expires),
    )
    Console(stderr=True, highlight=False).print(
        f"[dim]·[/dim] key {made.id} may {', '.join(made.scopes)}; it is not shown again"
    )
    typer.echo(text)


@app.command("list")
def list_keys() -> None:
    """List all keys, without their texts, in the order they were made."""
    console = Console(highlight=False)
    table = Table(*COLUMNS, box=None, header_style="bold")
    lines = [_cells(each) for each in _all(_keys())]
    if not console.is_terminal:
        import csv
        import sys

        csv.writer(sys.stdout, lineterminator="\n").writerows([COLUMNS, *lines])
        return
    for line in lines:
        table.add_row(*line)
    console.print(table)


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="Of the key, as `list` shows it.")],  # noqa: A002 - the contract's word
) -> None:
    """Revoke a key: it opens nothing any more, within five seconds everywhere."""
    from app.versions import operator

    _keys().revoke(id, actor=operator())


def _keys() -> "Keys":
    """The keys of the settings' database, a local one brought up to date."""
    from app.auth import Keys
    from app.db import is_local, migrate, open_database
    from app.options import settings_of

    database = settings_of().database
    if is_local(database):
        migrate(database)
    return Keys(open_database(database))


def _all(keys: "Keys") -> list["ApiKey"]:
    found: list[ApiKey] = []
    while page := keys.page(PAGE, found[-1].number if found else 0):
        found.extend(page)
    return found


def _cells(key: "ApiKey") -> list[str]:
    return [
        key.id,
        key.name,
        ",".join(key.scopes),
        "all" if key.shops is None else ",".join(key.shops),
        key.rate or "",
        key.state(datetime.now(UTC)),
        *map(_minute, (key.created_at, key.expires_at, key.last_used_at)),
    ]


def _minute(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%MZ}"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
