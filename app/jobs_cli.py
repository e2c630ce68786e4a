"""`shopcast finetune` and `shopcast jobs`: ask for jobs, and look on.

Invariant: whoever looks on may leave and come back; the job does not notice.
"""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from app.job_doors import Door, Shown

LOOK_S = 0.5
ALONE_AFTER_S = 5.0
ENDED = frozenset({"succeeded", "failed", "cancelled", "awaiting_promotion"})
COLUMNS = ("id", "kind", "model", "state", "step", "progress", "version", "created")

finetune = typer.Typer(no_args_is_help=True, help="Train a model further on a dataset.")
app = typer.Typer(no_args_is_help=True, help="List, show, follow and cancel jobs.")

WHERE = "Where"
Server = Annotated[
    str | None,
    typer.Option(
        help="A running server; without one, the database of the settings.",
        metavar="URL",
        rich_help_panel=WHERE,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(help="API key.", envvar="SHOPCAST_KEY", metavar="KEY", rich_help_panel=WHERE),
]
JobId = Annotated[str, typer.Argument(help="Of the job.", metavar="ID")]
Dataset = Annotated[str, typer.Option(help="The dataset, as in ds_…", metavar="ID")]
Method = Annotated[
    str | None, typer.Option(help="lora, full, head, adalora, ia3 or adapter.", metavar="NAME")
]
Horizon = Annotated[int | None, typer.Option(help="Periods to forecast.", min=1, max=1024)]
Steps = Annotated[int | None, typer.Option(help="Steps of training at most.", min=1)]
Budget = Annotated[float | None, typer.Option(help="Seconds of training at most.", metavar="S")]
Promote = Annotated[
    str, typer.Option(help="if_better, manual (a person decides) or never.", metavar="WHEN")
]
Margin = Annotated[float, typer.Option(help="Share by which it has to be better.")]
Segment = Annotated[
    str | None, typer.Option(help="Column by whose values scores are shown.", metavar="NAME")
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Another setting of the training; may be repeated.", metavar="NAME=VALUE"
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Look on until it has ended.")]


@finetune.command("sales")
def finetune_sales(
    dataset: Dataset,
    method: Method = None,
    horizon: Horizon = None,
    steps: Steps = None,
    time_budget: Budget = None,
    promote: Promote = "if_better",
    margin: Margin = 0.0,
    segment: Segment = None,
    setting: Setting = None,
    watch: Watch = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Fine-tune the series network on a dataset of series.

    Example: `shopcast finetune sales --dataset ds_0123456789abcdef --method lora --watch`
    """
    words = {
        "kind": "finetune",
        "model": "sales",
        "dataset_id": dataset,
        "method": method,
        "prediction_length": horizon,
        "steps": steps,
        "time_budget_s": time_budget,
        "promote": promote,
        "margin": margin,
        "segment": segment,
    }
    _ask(words, setting or (), watch=watch, server=server, key=key)


@finetune.command("purchase")
def finetune_purchase(
    dataset: Dataset,
    method: Annotated[
        str | None, typer.Option(help="lora, adalora, ia3, full or head.", metavar="NAME")
    ] = None,
    horizons: Annotated[
        str | None,
        typer.Option(help="Days ahead it is judged by, as in 30,90.", metavar="LIST"),
    ] = None,
    steps: Steps = None,
    time_budget: Budget = None,
    promote: Promote = "if_better",
    margin: Margin = 0.0,
    segment: Segment = None,
    setting: Setting = None,
    watch: Watch = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Fine-tune the events network on a dataset of events.

    Example: `shopcast finetune purchase --dataset ds_0123456789abcdef --watch`
    """
    words = {
        "kind": "finetune",
        "model": "purchase",
        "dataset_id": dataset,
        "method": method,
        "horizons_days": None if horizons is None else _days(horizons),
        "steps": steps,
        "time_budget_s": time_budget,
        "promote": promote,
        "margin": margin,
        "segment": segment,
    }
    _ask(words, setting or (), watch=watch, server=server, key=key)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=200)] = 20,
    kind: Annotated[str | None, typer.Option(help="Of this kind alone.")] = None,
    state: Annotated[str | None, typer.Option(help="In this state alone.")] = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """List the latest jobs."""
    with _door(server, key) as door:
        rows = [_cells(job) for job in door.some(limit, kind, state)]
    console = Console(highlight=False)
    if not console.is_terminal:
        import csv
        import sys

        csv.writer(sys.stdout, lineterminator="\n").writerows([COLUMNS, *rows])
        return
    table = Table(*COLUMNS, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@app.command()
def show(job_id: JobId, server: Server = None, key: Key = None) -> None:
    """Print a job as JSON, as the API shows it."""
    with _door(server, key) as door:
        typer.echo(json.dumps(door.show(job_id), indent=1, default=str))


@app.command("watch")
def watch_job(job_id: JobId, server: Server = None, key: Key = None) -> None:
    """Look on until a job has ended."""
    with _door(server, key) as door:
        _watch(door, job_id)


@app.command()
def cancel(job_id: JobId, server: Server = None, key: Key = None) -> None:
    """Stop a job; it takes seconds at most."""
    with _door(server, key) as door:
        job = door.cancel(job_id)
    typer.echo("cancelled" if job["state"] == "cancelled" else "stopping")


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    server: Server = None,
    key: Key = None,
) -> None:
    """Print the log of a job."""
    with _door(server, key) as door:
        printed = 0
        while True:
            ended = not follow or door.show(job_id)["state"] in ENDED
            text = door.log(job_id)
            typer.echo(text[printed:], nl=False)
            printed = len(text)
            if ended:
                return
            time.sleep(LOOK_S)


def _ask(
    words: dict[str, Any],
    settings: Sequence[str],
    *,
    watch: bool,
    server: str | None,
    key: str | None,
) -> None:
    said = {name: value for name, value in words.items() if value is not None}
    with _door(server, key) as door:
        job = door.ask(said | dict(map(_setting, settings)))
        if not watch:
            typer.echo(job["id"])
            return
        _watch(door, job["id"])


def _days(text: str) -> list[int]:
    """[30, 90] of 30,90."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--horizons {text}: must be whole days, as in 30,90") from None


def _setting(text: str) -> tuple[str, Any]:
    """A name and a value: ("rank", 16) of rank=16."""
    name, equals, raw = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--set {text}: must be NAME=VALUE, as in rank=16")
    try:
        return name.replace("-", "_"), json.loads(raw)
    except json.JSONDecodeError:
        return name.replace("-", "_"), raw


def _door(server: str | None, key: str | None) -> Any:  # noqa: ANN401 - a context of a Door
    from app.job_doors import door
    from app.options import settings_of

    return door(settings_of(), server=server, key=key)


def _watch(door: "Door", job_id: str) -> None:
    """Show a job until it has ended. Exits with 1 if it failed."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("[dim]{task.fields[loss]}{task.fields[left]}"),
    )
    console.print(f"[dim]·[/dim] job {job_id}")
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("queued", total=1.0, loss="", left="")
        job = _follow(door, job_id, progress, bar)
    _tell(job, console)
    if job["state"] != "succeeded" and job["state"] != "awaiting_promotion":
        raise typer.Exit(1)


def _follow(door: "Door", job_id: str, progress: Progress, bar: TaskID) -> "Shown":
    began_s, told, warned = time.monotonic(), "", False
    while True:
        job = door.show(job_id)
        words = job["step"] if job["state"] == "running" and job["step"] else job["state"]
        progress.update(
            bar, description=words, completed=job["progress"], loss=_loss(job), left=_left(job)
        )
        if words != told and not progress.console.is_terminal:
            progress.console.print(f"[dim]·[/dim] {words}")
            told = words
        if job["state"] in ENDED:
            return job
        if job["state"] == "queued" and not warned and time.monotonic() - began_s > ALONE_AFTER_S:
            warned = True
            if not door.is_manned():
                progress.console.print(
                    "[yellow]·[/yellow] no worker is there; `shopcast serve` or `shopcast worker` "
                    "starts one, and the job waits for it"
                )
        time.sleep(LOOK_S)


def _loss(job: "Shown") -> str:
    losses = [each["training"] for each in job["loss"] if each["training"] is not None]
    return f"loss {losses[-1]:.4f}  " if losses else ""


def _left(job: "Shown") -> str:
    if job["eta_s"] is None:
        return ""
    minutes, seconds = divmod(round(job["eta_s"]), 60)
    return f"{minutes}:{seconds:02d} left"


def _tell(job: "Shown", console: Console) -> None:
    """What came of it."""
    if job["error"]:
        console.print(f"[red]failed[/red]: {job['error']}", markup=True)
        return
    verdict = job["verdict"] or {}
    for reason in verdict.get("reasons", ()):
        console.print(f"[dim]·[/dim] {reason}")
    promoted = job["steps"].get("promote", {}).get("promoted")
    name, number = job["model"], job["version"]
    if promoted:
        console.print(f"[green]version {number} of {name} is production now[/green]")
    elif number is not None:
        console.print(
            f"version {number} of {name} is kept; `shopcast models promote` lets it serve"
        )
    else:
        console.print(f"{job['state']}")


def _cells(job: "Shown") -> tuple[str, ...]:
    version = "" if job["version"] is None else str(job["version"])
    created = str(job["created_at"])[:19].replace("T", " ")
    shown = (job["id"], job["kind"], job["model"], job["state"], job["step"] or "")
    return (*shown, f"{job['progress']:.0%}", version, created)
