"""The command `shopcast`: each command reads its options and makes one call.

Invariant: whatever goes wrong is one clear message on stderr with the way out; exit code 2 says
that the input or the options are wrong, 1 that the work failed. Nothing heavy is imported before
a command needs it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from app import datasets_cli, jobs_cli, keys_cli, models_cli
from app.errors import (
    ConfigurationError,
    InvalidInputError,
    Issue,
    NotFoundError,
    ShopcastError,
)

if TYPE_CHECKING:
    import pandas as pd

    from app.event_tables import EventColumns, EventTable, Known
    from app.forecasters import Ask, Forecast, Forecaster, StockAsk
    from app.foretellers import Foreteller, Foretold, PurchaseAsk
    from app.histories import History
    from app.resources import Resources
    from app.settings import Settings
    from models.backtest import Backtest, Plan, Record

SettingsT = TypeVar("SettingsT")

DEFAULT_SUBJECT = "sales"
CHUNK = 64  # inputs a request
ISSUES_SHOWN = 10
PLOTS = (".png", ".html")
OUTPUTS = (".csv", ".parquet", ".pq")
FAN = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # levels a picture is drawn from


class Layout(StrEnum):
    """How a file is laid out."""

    LONG = "long"
    WIDE = "wide"


class Gaps(StrEnum):
    """What a period without a row means."""

    MISSING = "missing"
    ZERO = "zero"


class ServiceKind(StrEnum):
    """What a service level counts."""

    CYCLE = "cycle"
    FILL_RATE = "fill_rate"


class Commands(TyperGroup):
    """Commands whose errors are told in one message, with the exit code that fits."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as click types it
        try:
            return super().invoke(ctx)
        except (ShopcastError, OSError) as error:
            raise _told(error) from error


class Subjects(TyperGroup):
    """Commands by subject; what begins with no subject is of sales."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - as click types it
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = [DEFAULT_SUBJECT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Forecasts for shops, from pretrained Transformers on your own machine.",
)
predict = typer.Typer(no_args_is_help=True, help="Forecast what a file holds.")
pretrain = typer.Typer(no_args_is_help=True, help="Train a network from scratch.")
backtests = typer.Typer(
    cls=Subjects,
    no_args_is_help=True,
    help="Foretell what is past, and score it against what came.",
)
app.add_typer(predict, name="predict")
app.add_typer(keys_cli.app, name="keys")
app.add_typer(datasets_cli.app, name="datasets")
app.add_typer(jobs_cli.finetune, name="finetune")
app.add_typer(jobs_cli.app, name="jobs")
app.add_typer(backtests, name="backtest")
app.add_typer(models_cli.app, name="models")
app.add_typer(pretrain, name="pretrain")

WHO = "Who answers"

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Directory of a Chronos-2 checkpoint or of a LoRA adapter.",
        metavar="DIR",
        rich_help_panel=WHO,
    ),
]
Base = Annotated[
    Path | None,
    typer.Option(help="Directory of an adapter's base.", metavar="DIR", rich_help_panel=WHO),
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda.", metavar="NAME", rich_help_panel=WHO)
]
Server = Annotated[
    str | None,
    typer.Option(
        help="A running server; without one, the checkpoint is loaded here.",
        metavar="URL",
        rich_help_panel=WHO,
    ),
]

Key = Annotated[
    str | None,
    typer.Option(
        help="The API key to show to the server, better given as SHOPCAST_KEY: other users of a "
        "machine see the options of a command.",
        metavar="KEY",
        rich_help_panel=WHO,
    ),
]


def _file_option(words: str, metavar: str | None = None) -> Any:  # noqa: ANN401 - as typer types it
    """An option about how to read a file."""
    panel = "How the file is read (guessed where left out)"
    return typer.Option(help=words, metavar=metavar, rich_help_panel=panel)


SalesFile = Annotated[
    Path,
    typer.Argument(
        help="CSV or Parquet. Long: a row an item and period. Wide: a column an item and "
        "a row a period, or a row an item and a column a period.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
Horizon = Annotated[int, typer.Option(help="Periods to forecast.", min=1, max=1024)]
Items = Annotated[
    list[str] | None, typer.Option(help="Only this item; may be repeated.", metavar="NAME")
]
Freq = Annotated[str | None, _file_option("Frequency, as in D, W-MON, MS, h, 15min.", "ALIAS")]
GapsMean = Annotated[Gaps, _file_option("What a period without a row means.")]
LaidOut = Annotated[Layout | None, _file_option("Rows a period, or a table.")]
IdColumn = Annotated[str, _file_option("Column or columns that tell items apart.", "NAMES")]
TimeColumn = Annotated[str | None, _file_option("Column of dates.", "NAME")]
TargetColumn = Annotated[str | None, _file_option("Column to forecast.", "NAME")]
KnownFuture = Annotated[str, _file_option("Covariates whose future is in the file.", "NAMES")]
OutOfStock = Annotated[
    str | None, _file_option("Column of 1 where the shelf was empty: sold is not demand.", "NAME")
]
KnownPast = Annotated[str, _file_option("Covariates of which the past alone is used.", "NAMES")]
DateFormat = Annotated[str | None, _file_option("How dates are written, as in %d/%m/%Y.", "FORMAT")]
Alias = Annotated[str, typer.Option(help="Alias or version.", metavar="NAME", rich_help_panel=WHO)]


def main() -> None:
    """The entry point."""
    app()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that serve the port.", min=1, max=256)
    ] = None,
    checkpoint: Checkpoint = None,
    base: Base = None,
    device: Device = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the service keeps its files.", metavar="DIR")
    ] = None,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous", help="Serve the network without a key.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error.", metavar="LEVEL")
    ] = None,
) -> None:
    """Serve forecasts over HTTP.

    Options come before the environment (SHOPCAST_HOST, SHOPCAST_PORT, …); docs/configuration.md
    lists every setting.

    Example: `shopcast serve --port 9000 --checkpoint ./chronos-2`
    """
    settings = _settings(
        host=host,
        port=port,
        workers=workers,
        series_checkpoint=checkpoint,
        series_base=base,
        device=device,
        data_dir=data_dir,
        allow_anonymous=allow_anonymous,
        log_level=log_level,
    )
    from app.main import run
    from app.worker import run as run_jobs

    run(settings, beside=run_jobs if settings.worker == "embedded" else None)


@app.command()
def worker() -> None:
    """Run jobs, until told to stop; a job at hand is left to the next worker.

    `shopcast serve` starts one of its own unless SHOPCAST_WORKER=external.
    """
    from app.worker import run

    run(_settings())


@app.command()
def migrate() -> None:
    """Bring the database up to date: creates its tables, keeps its data."""
    from app.db import migrate as migrate_database
    from app.worker import prepare

    database = _settings().database
    migrate_database(database)
    prepare(database)


@app.command()
def check(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at the setup without starting anything: what is reachable, which versions, what room.

    Ends with 1 if the service would not start or not do its work.
    """
    import json
    from dataclasses import asdict

    from app.check import examine

    found = examine(_settings())
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        table = Table(box=None, show_header=False)
        colours = {"ok": "green", "note": "yellow", "wrong": "bold red"}
        for each in found:
            state = f"[{colours[each.state]}]{each.state}[/]"
            table.add_row(state, escape(each.subject), escape(each.detail))
        _out().print(table)
    if any(each.state == "wrong" for each in found):
        raise typer.Exit(1)


@predict.command("sales")
def predict_sales(
    file: SalesFile,
    horizon: Horizon = 28,
    item: Items = None,
    levels: Annotated[
        str, typer.Option(help="Quantile levels of the answer.", metavar="LIST")
    ] = "0.1,0.5,0.9",
    plot: Annotated[
        Path | None, typer.Option(help="Draw the forecasts: a .png or .html file.", metavar="FILE")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the table: a .csv or .parquet file.", metavar="FILE")
    ] = None,
    freq: Freq = None,
    gaps: GapsMean = Gaps.MISSING,
    layout: LaidOut = None,
    id_column: IdColumn = "",
    time_column: TimeColumn = None,
    target_column: TargetColumn = None,
    known_future: KnownFuture = "",
    known_past: KnownPast = "",
    out_of_stock: OutOfStock = None,
    date_format: DateFormat = None,
    server: Server = None,
    key: Key = None,
    model: Alias = "production",
    checkpoint: Checkpoint = None,
    base: Base = None,
    device: Device = None,
) -> None:
    """Forecast each item of a file of sales.

    Columns, layout and frequency are guessed, and each guess is told. A known future (prices,
    promotions) stands in rows after the last sales whose target is empty.

    Examples:

    - `shopcast predict sales sales.csv`

    - `shopcast predict sales sales.csv --horizon 14 --item sku-1 --plot sku-1.png`

    - `shopcast predict sales sales.parquet --known-future price,promo --output out.csv`

    - `shopcast predict sales sales.csv --server http://127.0.0.1:8000 | head`
    """
    from app.forecasters import Ask
    from app.histories import build
    from app.tables import Columns, read

    shown = _levels(levels)
    _check_file(plot, PLOTS)
    _check_file(output, OUTPUTS)
    columns = Columns(
        item=_names(id_column),
        time=time_column,
        target=target_column,
        known_future=_names(known_future),
        known_past=_names(known_past),
        out_of_stock=out_of_stock,
        layout=layout.value if layout else None,
        date_format=date_format,
    )
    table = read(file, columns)
    _note(table.notes)
    histories = build(
        table,
        columns,
        prediction_length=horizon,
        freq=freq,
        items=item or (),
        gaps=gaps.value,
    )
    _note(histories.notes)
    settings = _settings(key=key, series_checkpoint=checkpoint, series_base=base, device=device)
    ask = Ask(horizon, histories.freq, tuple(sorted({*shown, *FAN})) if plot else shown, model)
    forecasts = asyncio.run(_forecast(histories.items, ask, settings, server=server))
    if plot is not None:
        _plot(histories.items, forecasts, ask.levels, path=plot)
    _print_or_write(forecasts, ask.levels, shown=shown, output=output)


@predict.command("inventory")
def predict_inventory(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV or Parquet of sales, as for `predict sales`.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    stock: Annotated[
        Path,
        typer.Option(
            help="CSV with a row an item: item_id, on_hand, lead_time (periods), and as wanted "
            "on_order, in_periods or arrives_on, review_period, unmet_demand, shelf_life, costs. "
            "Further rows of an item are further orders.",
            metavar="CSV",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    horizon: Annotated[int, typer.Option(help="Periods to project.", min=1, max=1024)] = 28,
    service_level: Annotated[float, typer.Option(help="Between 0 and 1.")] = 0.95,
    service_type: Annotated[
        ServiceKind, typer.Option(help="Cycles without a stock-out, or share of demand served.")
    ] = ServiceKind.CYCLE,
    population: Annotated[
        Path | None,
        typer.Option(
            help="Sales of like items, a file like FILE or FILE itself: items of the stock that "
            "were never sold are planned by them.",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    item: Annotated[
        list[str] | None, typer.Option(help="Only this item; may be repeated.", metavar="NAME")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the stock to come: a .png file.", metavar="FILE")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the table: a .csv or .parquet file.", metavar="FILE")
    ] = None,
    freq: Annotated[
        str | None, _file_option("Frequency, as in D, W-MON, MS, h, 15min.", "ALIAS")
    ] = None,
    gaps: Annotated[Gaps, _file_option("What a period without a row means.")] = Gaps.MISSING,
    layout: Annotated[Layout | None, _file_option("Rows a period, or a table.")] = None,
    id_column: Annotated[
        str, _file_option("Column or columns that tell items apart.", "NAMES")
    ] = "",
    time_column: Annotated[str | None, _file_option("Column of dates.", "NAME")] = None,
    target_column: Annotated[str | None, _file_option("Column of sales.", "NAME")] = None,
    out_of_stock: OutOfStock = None,
    server: Server = None,
    key: Key = None,
    model: Annotated[
        str,
        typer.Option(help="Alias or version.", metavar="NAME", rich_help_panel=WHO),
    ] = "production",
    checkpoint: Checkpoint = None,
    base: Base = None,
    device: Device = None,
) -> None:
    """Say of each item when its shelf is empty, and what to order.

    Example: `shopcast predict inventory sales.csv --stock stock.csv --plot stock.png`
    """
    from app.forecasters import StockAsk
    from app.histories import build
    from app.population import Population, newcomers, read_population, unsold
    from app.report import order_frame
    from app.stocks import read_stocks
    from app.tables import Columns, read

    _check_file(plot, PLOTS[:1])
    _check_file(output, OUTPUTS)
    columns = Columns(
        item=_names(id_column),
        time=time_column,
        target=target_column,
        out_of_stock=out_of_stock,
        layout=layout.value if layout else None,
    )
    stocks = read_stocks(stock)
    table = read(file, columns)
    _note(table.notes)
    new = unsold([name for name in item or stocks if name in stocks], table) if population else []
    asked = [name for name in item or () if name not in new]
    histories = build(
        table, columns, prediction_length=horizon, freq=freq, items=asked, gaps=gaps.value
    )
    _note(histories.notes)
    likes = Population()
    if population is not None:
        likes = read_population(
            population,
            columns,
            beside=histories,
            prediction_length=horizon,
            freq=freq,
            gaps=gaps.value,
        )
        _note(likes.notes)
    items = [
        *([] if item and not asked else _stocked(histories.items, stocks, new, chosen=bool(item))),
        *newcomers(new, histories),
    ]
    settings = _settings(key=key, series_checkpoint=checkpoint, series_base=base, device=device)
    ask = StockAsk(horizon, histories.freq, service_level, service_type.value, model)
    plans = asyncio.run(_plan(items, stocks, ask, settings, server=server, likes=likes.series))
    if plot is not None:
        chosen = [stocks[each.item] for each in items]
        _plot_stock(list(zip(items, chosen, plans, strict=True)), path=plot, freq=histories.freq)
    _print_or_write_rows(order_frame(plans, stocks), output)


EventFile = Annotated[
    Path,
    typer.Argument(
        help="CSV or Parquet: a row an event, or a purchase.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
CustomerColumn = Annotated[str | None, _file_option("Column that tells customers apart.", "NAME")]
EventTimeColumn = Annotated[str | None, _file_option("Column of times.", "NAME")]
TypeColumn = Annotated[
    str | None, _file_option("Column of what happened; without, purchases.", "NAME")
]
AmountColumn = Annotated[str | None, _file_option("Column of what was paid.", "NAME")]
TimeFormat = Annotated[str | None, _file_option("How times are written, as in %d/%m/%Y.", "FORMAT")]
PurchaseCheckpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Directory of an events checkpoint or of a LoRA adapter.",
        metavar="DIR",
        rich_help_panel=WHO,
    ),
]


@predict.command("purchase")
def predict_purchase(
    file: EventFile,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            help="From when to foretell; by default the day after the latest event.",
            metavar="TIME",
        ),
    ] = None,
    horizons: Annotated[
        str, typer.Option(help="Days ahead, each up to 365.", metavar="LIST")
    ] = "7,30,90",
    churn_window: Annotated[
        int, typer.Option(help="Days without a purchase that mean gone.", min=1, max=365)
    ] = 180,
    plot: Annotated[
        Path | None, typer.Option(help="Draw how likely: a .png or .html file.", metavar="FILE")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the table: a .csv or .parquet file.", metavar="FILE")
    ] = None,
    customer_column: CustomerColumn = None,
    time_column: EventTimeColumn = None,
    type_column: TypeColumn = None,
    amount_column: AmountColumn = None,
    date_format: TimeFormat = None,
    shop: Annotated[
        str | None,
        typer.Option(help="Shop whose stored profile to use.", metavar="NAME", rich_help_panel=WHO),
    ] = None,
    server: Server = None,
    key: Key = None,
    model: Alias = "production",
    checkpoint: PurchaseCheckpoint = None,
    device: Device = None,
) -> None:
    """Foretell whether, how often and for how much each customer of a file will buy.

    Columns are guessed, and each guess is told. Purchases of one day are one.

    Examples:

    - `shopcast predict purchase orders.csv`

    - `shopcast predict purchase events.parquet --as-of 2026-10-01 --horizons 7,30,90`

    - `shopcast predict purchase orders.csv --output out.csv --plot out.png`
    """
    from app.event_tables import EventColumns
    from app.foretellers import PurchaseAsk
    from app.purchase_report import draw, frame, show
    from app.report import write

    days = _days(horizons)
    _check_file(plot, PLOTS)
    _check_file(output, OUTPUTS)
    columns = EventColumns(
        customer=customer_column,
        time=time_column,
        type=type_column,
        amount=amount_column,
        date_format=date_format,
    )
    table = _events(file, columns)
    known = _known(table, as_of)
    ask = PurchaseAsk(days, churn_window, shop=shop, model=model)
    settings = _settings(key=key, purchase_checkpoint=checkpoint, device=device)
    foretold = asyncio.run(_foretell(known, ask, settings, server=server))
    if plot is not None:
        draw(foretold, days, plot)
        _note([f"drawn: {plot}"])
    rows = frame(foretold, days)
    if output is None:
        show(rows, _out())
        return
    write(rows, output)
    _note([f"written: {len(rows):,} rows to {output}"])


@backtests.command("sales")
def backtest_sales(
    file: SalesFile,
    horizon: Horizon = 28,
    origins: Annotated[int, typer.Option(help="Windows to forecast.", min=1, max=100)] = 3,
    step: Annotated[
        int | None,
        typer.Option(help="Periods between windows; by default they do not overlap.", min=1),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Who forecasts.", metavar="LIST")
    ] = "shopcast,naive,autoets,autotheta,lightgbm",
    item: Items = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw scores and forecasts: a .png or .html file.", metavar="FILE"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write all that was found: a .json file.", metavar="FILE")
    ] = None,
    freq: Freq = None,
    gaps: GapsMean = Gaps.MISSING,
    layout: LaidOut = None,
    id_column: IdColumn = "",
    time_column: TimeColumn = None,
    target_column: TargetColumn = None,
    known_future: Annotated[
        str, _file_option("Covariates that you plan, so that they are known ahead.", "NAMES")
    ] = "",
    known_past: KnownPast = "",
    date_format: DateFormat = None,
    server: Server = None,
    key: Key = None,
    model: Alias = "production",
    checkpoint: Checkpoint = None,
    base: Base = None,
    device: Device = None,
) -> None:
    """Forecast the latest periods of a file from those before, and score who does it best.

    No method sees a later period than its forecasts start from, but for covariates that are known
    ahead. Seasonal naive always takes part: it is what the others are measured by. What the
    scores mean is told in docs/backtests.md.

    Examples:

    - `shopcast backtest sales.csv --horizon 28`

    - `shopcast backtest sales.csv --methods shopcast,autoets --known-future price,promo`

    - `shopcast backtest sales.csv --item sku-1 --plot sku-1.html --output sku-1.json`
    """
    from app import trial, verdict
    from app.histories import build
    from app.tables import Columns, read

    _check_file(plot, PLOTS)
    _check_file(output, (".json",))
    columns = Columns(
        item=_names(id_column),
        time=time_column,
        target=target_column,
        known_future=_names(known_future),
        known_past=_names(known_past),
        layout=layout.value if layout else None,
        date_format=date_format,
    )
    past = trial.past_of(columns)
    table = read(file, past)
    _note(table.notes)
    histories = build(
        table, past, prediction_length=1, freq=freq, items=item or (), gaps=gaps.value
    )
    _note(histories.notes)
    records = trial.records_of(histories, columns)
    if columns.known_future:
        _note([f"known ahead at every origin: {', '.join(columns.known_future)}"])
    plan = trial.plan_of(histories.freq, horizon, origins=origins, step=step)
    names = trial.chosen(_names(methods), records)
    settings = _settings(key=key, series_checkpoint=checkpoint, series_base=base, device=device)
    found = asyncio.run(_backtest(records, names, plan, settings, server=server, model=model))
    if plot is not None:
        verdict.draw(found, plot)
        _note([f"drawn: {plot}"])
    if output is not None:
        verdict.write(found, output)
        _note([f"written: {len(found.scores):,} scores to {output}"])
    verdict.show(found, _out())


@backtests.command("purchase")
def backtest_purchase(
    file: EventFile,
    cut: Annotated[
        str,
        typer.Option(help="Last day that is known; what came after is foretold.", metavar="DAY"),
    ],
    horizons: Annotated[
        str, typer.Option(help="Days ahead, each up to 365.", metavar="LIST")
    ] = "30,90",
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw foretold against come: a .png or .html file.", metavar="FILE"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the scores: a .csv or .parquet file.", metavar="FILE")
    ] = None,
    customer_column: CustomerColumn = None,
    time_column: EventTimeColumn = None,
    type_column: TypeColumn = None,
    amount_column: AmountColumn = None,
    date_format: TimeFormat = None,
    server: Server = None,
    key: Key = None,
    model: Alias = "production",
    checkpoint: PurchaseCheckpoint = None,
    device: Device = None,
) -> None:
    """Foretell purchases from an earlier day, and score that against what came.

    Beside BG/NBD and Pareto/NBD, fitted to what was known then. log_loss, brier and ece: less is
    better; auc: more; ratio and count_ratio: 1 is right.

    Example: `shopcast backtest purchase orders.csv --cut 2026-06-30 --horizons 30,90`
    """
    from app.event_tables import EventColumns, days_of
    from app.foretellers import PurchaseAsk
    from app.purchase_report import draw_calibration, lift_table, score_table, show
    from app.purchase_trial import NETWORK, all_said, counts_after, fitted, known_at, told
    from app.report import write
    from models.purchase_scores import judged

    days = _days(horizons)
    _check_file(plot, PLOTS)
    _check_file(output, OUTPUTS)
    cut_days = _day(cut, "--cut", days_of)
    columns = EventColumns(
        customer=customer_column,
        time=time_column,
        type=type_column,
        amount=amount_column,
        date_format=date_format,
    )
    table = _events(file, columns)
    known = known_at(table, cut, cut_days, days)
    ask = PurchaseAsk(days, max(days), model=model)
    settings = _settings(key=key, purchase_checkpoint=checkpoint, device=device)
    foretold = asyncio.run(_foretell(known, ask, settings, server=server))
    others, notes = fitted(known, days)
    _note([told(known), *notes])
    verdicts = judged(all_said(foretold, others), counts_after(known, days), days)
    if plot is not None:
        draw_calibration(verdicts, plot)
        _note([f"drawn: {plot}"])
    rows = score_table(verdicts)
    if output is not None:
        write(rows, output)
        _note([f"written: {len(rows):,} rows to {output}"])
        return
    show(rows, _out(), text_columns=2)
    if _out().is_terminal:
        _out().print(f"\n{NETWORK}, tenths of the customers, the likeliest first:\n")
        show(lift_table(verdicts, NETWORK), _out(), text_columns=0)


#: The options of a pretraining are the fields of its settings, so the command reads them itself.
OWN_OPTIONS: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}


@pretrain.command("series", **OWN_OPTIONS)
def pretrain_series(context: typer.Context) -> None:
    """Train the series network from scratch on simulated shops."""
    from models.pretrain import PretrainSettings, pretrain

    _pretrain("series", PretrainSettings, pretrain, context.args)


@pretrain.command("events", **OWN_OPTIONS)
def pretrain_events(context: typer.Context) -> None:
    """Train the events network from scratch on simulated shops."""
    from models.pretrain_events import PretrainEventsSettings, pretrain_events

    _pretrain("events", PretrainEventsSettings, pretrain_events, context.args)


@app.command()
def version() -> None:
    """Print the installed version."""
    typer.echo(f"shopcast {installed_version('shopcast')}")


# --- what the commands are made of


def _pretrain(
    name: str,
    settings: type[SettingsT],
    run: Callable[[SettingsT], object],
    arguments: list[str],
) -> None:
    from app.options import command_of
    from models.base import ModelError

    command = command_of(settings, run)
    try:
        command(arguments, prog_name=f"shopcast pretrain {name}", standalone_mode=False)
    except ModelError as error:
        raise ShopcastError(str(error)) from error


def _told(error: Exception) -> typer.Exit:
    """Print the error for people; the exit code that fits it."""
    console = _err()
    if isinstance(error, InvalidInputError):
        lines = [issue.msg for issue in error.issues]
    else:
        lines = [str(error) or type(error).__name__]
    console.print("[bold red]error:[/bold red]", end=" ")
    for line in lines[:ISSUES_SHOWN]:
        console.print(line, markup=False)
    if len(lines) > ISSUES_SHOWN:
        console.print(f"… and {len(lines) - ISSUES_SHOWN} more")
    wrong_input = isinstance(error, (InvalidInputError, ConfigurationError, NotFoundError))
    return typer.Exit(2 if wrong_input else 1)


def _err() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def _out() -> Console:
    return Console(highlight=False)


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        _err().print(f"[dim]·[/dim] {escape(note)}")


def _settings(**options: object) -> "Settings":
    """The settings of the environment under the options that were given."""
    from app.options import settings_of

    return settings_of(**options)


def _by(name: str, version: int | str) -> str:
    """Who answered. What a service never registered has no number."""
    return f"{name} version {version}" if version else f"the {name} checkpoint"


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list like 0.1,0.5,0.9") from None
    if not all(0 < level < 1 for level in levels) or len(set(levels)) < len(levels):
        raise typer.BadParameter("levels lie between 0 and 1, each once")
    return levels


def _days(text: str) -> tuple[int, ...]:
    try:
        days = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list like 7,30,90") from None
    if not all(1 <= each <= 365 for each in days) or len(set(days)) < len(days):
        raise typer.BadParameter("horizons are days from 1 to 365, each once")
    return days


def _day(text: str, option: str, read: Callable[[str], float]) -> float:
    try:
        return read(text)
    except ValueError:
        message = f"{option}: {text!r} is no local time such as 2026-10-01"
        raise typer.BadParameter(message) from None


def _events(file: Path, columns: "EventColumns") -> "EventTable":
    from app.event_tables import read_events

    table = read_events(file, columns)
    _note(table.notes)
    return table


def _known(table: "EventTable", as_of: str | None) -> "Known":
    """The customers known at a time, by default at the end of the file's last day."""
    from app.event_tables import days_of, iso_of

    latest = float(table.days.max())
    days = float(int(latest) + 1) if as_of is None else _day(as_of, "--as-of", days_of)
    known = table.before(days)
    if not len(known.rows):
        raise typer.BadParameter(f"--as-of: no event is before {iso_of(days)}")
    left = len(table.days) - int(known.events.sum())
    notes = [f"as of {iso_of(days)}"] if as_of is None else []
    if left:
        notes.append(f"{left:,} events from {iso_of(days)} on are left out")
    _note(notes)
    return known


async def _foretell(
    known: "Known", ask: "PurchaseAsk", settings: "Settings", *, server: str | None
) -> "Foretold":
    with _progress() as progress:
        bar = progress.add_task("loading", total=None)
        async with _foreteller(settings, server) as foreteller:
            progress.update(bar, description="foretelling", total=len(known.rows))
            foretold = await foreteller.foretell(
                known, ask, lambda count: progress.update(bar, completed=count)
            )
    version, context = foretold.version, foretold.context
    count = f"{len(foretold.names):,} customers"
    _note([f"{count} foretold by {_by('purchase', version)}, context: {context}"])
    return foretold


@asynccontextmanager
async def _foreteller(settings: "Settings", server: str | None) -> AsyncIterator["Foreteller"]:
    from app.forecasters import connect
    from app.foretellers import LocalForeteller, RemoteForeteller

    if server is not None:
        async with connect(server, key=settings.key) as there:
            yield RemoteForeteller(there)
        return
    async with _opened(settings) as resources:
        yield LocalForeteller(resources.purchases, resources.profiles, settings.max_events)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _check_file(path: Path | None, suffixes: Sequence[str]) -> None:
    """Refuse a file that could not be written before the work begins."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise typer.BadParameter(f"{path} does not end in {' or '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"no directory {path.absolute().parent}")


@asynccontextmanager
async def _forecaster(settings: "Settings", server: str | None) -> AsyncIterator["Forecaster"]:
    """Who answers: the server if one is named, else the checkpoint of the settings."""
    from app.forecasters import Local, connect

    if server is not None:
        async with connect(server, key=settings.key) as there:
            yield there
        return
    async with _opened(settings) as resources:
        yield Local(resources)


@asynccontextmanager
async def _opened(settings: "Settings") -> AsyncIterator["Resources"]:
    """What is production here, or the checkpoint of the settings, in this process."""
    from app.db import migrate as migrate_database
    from app.resources import open_resources

    migrate_database(settings.database)
    async with open_resources(settings, guest=True) as resources:
        yield resources


async def _forecast(
    items: Sequence["History"], ask: "Ask", settings: "Settings", *, server: str | None
) -> list["Forecast"]:
    """Forecasts of all items, some at a time, with a progress bar on a terminal."""
    forecasts: list[Forecast] = []
    with _progress() as progress:
        bar = progress.add_task("loading", total=None)
        async with _forecaster(settings, server) as forecaster:
            progress.update(bar, description="forecasting", total=len(items))
            for start in range(0, len(items), CHUNK):
                answer = await forecaster.forecast(items[start : start + CHUNK], ask)
                forecasts.extend(answer.forecasts)
                progress.update(bar, completed=len(forecasts))
    by = _by("sales", answer.version)
    _note([f"{len(forecasts):,} of {len(items):,} forecast by {by}"])
    return forecasts


async def _backtest(
    records: "Sequence[Record]",
    names: Sequence[str],
    plan: "Plan",
    settings: "Settings",
    *,
    server: str | None,
    model: str,
) -> "Backtest":
    """The backtest with a progress bar on a terminal; the network is opened only if it is asked."""
    from app import trial

    total = len(names) * trial.windows(records, plan)
    with _progress() as progress:
        bar = progress.add_task("loading", total=total)

        def on_done(name: str, windows: int) -> None:
            progress.update(bar, description=name, advance=windows)

        async with AsyncExitStack() as stack:
            forecaster = None
            if trial.needs_network(names):
                forecaster = await stack.enter_async_context(_forecaster(settings, server))
            found = await trial.tried(
                records, names, plan, forecaster=forecaster, model=model, on_done=on_done
            )
    tested = len({score.item for score in found.scores})
    _note([f"{tested:,} items, {total // len(names):,} windows of {plan.horizon} periods"])
    if found.left_out:
        left = ", ".join(found.left_out[:3])
        more = f" and {len(found.left_out) - 3:,} more" if len(found.left_out) > 3 else ""
        _note([f"left out, too short or constant: {left}{more}"])
    return found


def _stocked(
    items: Sequence["History"], stocks: dict[str, Any], new: Sequence[str], *, chosen: bool
) -> list["History"]:
    """The items whose stock is known; what is known of one side alone is told, but of the new."""
    kept = [each for each in items if each.item in stocks]
    if not kept and not new:
        first = items[0].item
        message = f"no item of the sales is in the stock file, as {first!r} should be"
        raise InvalidInputError((Issue(("stock",), message, "stock"),))
    missing, known = len(items) - len(kept), {*new, *(each.item for each in items)}
    if missing:
        _note([f"{missing:,} items left out: not in the stock file"])
    more = [] if chosen else [name for name in stocks if name not in known]
    if more:
        way = "--population FILE plans them"
        _note(
            [f"{len(more):,} items of the stock file left out: no sales, such as {more[0]} ({way})"]
        )
    return kept


async def _plan(
    items: Sequence["History"],
    stocks: dict[str, Any],
    ask: "StockAsk",
    settings: "Settings",
    *,
    server: str | None,
    likes: Sequence["History"],
) -> list[dict[str, Any]]:
    """Plans of all items, some at a time. likes: series that stand for those without a history."""
    plans: list[dict[str, Any]] = []
    with _progress() as progress:
        bar = progress.add_task("loading", total=None)
        async with _forecaster(settings, server) as forecaster:
            progress.update(bar, description="planning", total=len(items))
            for start in range(0, len(items), CHUNK):
                part = items[start : start + CHUNK]
                stock = [stocks[each.item] for each in part]
                answer = await forecaster.plan(part, stock, ask, likes)
                _note([each["msg"] for each in answer["warnings"]])
                plans.extend(answer["predictions"])
                progress.update(bar, completed=len(plans))
    cold = [str(each["item_id"]) for each in plans if each["cold_start"]]
    if cold:
        _note([f"{len(cold):,} never sold, such as {cold[0]}, planned by {len(likes):,} like ones"])
    _note([f"{len(plans):,} planned by {_by('sales', answer['model']['version'])}"])
    return plans


def _plot_stock(
    triples: Sequence[tuple["History", dict[str, Any], dict[str, Any]]], *, path: Path, freq: str
) -> None:
    from app.plot import PANELS, draw_stock

    draw_stock(triples, path, freq=freq)
    left_out = len(triples) - PANELS
    more = f" (the first {PANELS} items; choose others with --item)" if left_out > 0 else ""
    _note([f"drawn: {path}{more}"])


def _progress() -> Progress:
    console = _err()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _plot(
    items: Sequence["History"],
    forecasts: Sequence["Forecast"],
    levels: Sequence[float],
    *,
    path: Path,
) -> None:
    from app.plot import PANELS, draw

    draw(list(zip(items, forecasts, strict=True)), levels, path)
    left_out = len(forecasts) - PANELS
    more = f" (the first {PANELS} items; choose others with --item)" if left_out > 0 else ""
    _note([f"drawn: {path}{more}"])


def _print_or_write(
    forecasts: Sequence["Forecast"],
    levels: Sequence[float],
    *,
    shown: Sequence[float],
    output: Path | None,
) -> None:
    from app.report import frame

    _print_or_write_rows(frame(forecasts, levels, shown), output)


def _print_or_write_rows(rows: "pd.DataFrame", output: Path | None) -> None:
    from app.report import show, write

    if output is None:
        show(rows, _out())
        return
    write(rows, output)
    _note([f"written: {len(rows):,} rows to {output}"])


if __name__ == "__main__":
    main()
