"""The one road of a retraining: data, split, fit, score, gate, register, promote.

Invariant: nothing that is scored was fitted to the windows it is scored on, and production changes
in the last step alone, if it is still what the candidate was compared with.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import pandas as pd

from app.datasets import Dataset, Datasets
from app.db import open_database
from app.desk import Desk, Facts, Road, Steps, Told
from app.errors import ConflictError, JobError, NotFoundError
from app.jobs import Job, State
from app.metrics import Metrics
from app.periods import parse_freq
from app.plain import plain
from app.versions import CANDIDATE, PRODUCTION, Checkpoint, Manifest, Version, Versions
from models.backtest import Plan, Record, season_of, windows_of
from models.base import ModelError
from models.recipe import settings_of
from models.tuning import TrainProgress, TrainSettings

if TYPE_CHECKING:
    from models.gate import Verdict
    from models.series import SeriesNetwork
    from models.tuning import Trained

FEWEST_SERIES = 5
#: Periods that are forecast by default, by the letter of the calendar.
HORIZONS = {"h": 48, "D": 28, "B": 20, "W": 8, "M": 6, "Q": 4, "Y": 2}
OWN = frozenset(
    {
        *("prediction_length", "origins", "parent", "time_budget_s", "promote", "margin"),
        *("segment", "trials", "teacher"),
    }
)
VERDICT = "verdict.json"

T = TypeVar("T")

Fit = Callable[["Retraining"], Facts]
"""Makes a candidate from the parent, into `made`; `until` and `whole` among its facts."""


def road_by(fit: Fit, *, share: float) -> Road:
    """A retraining with this way to a candidate. share: of the time that it takes."""
    rest = 1 - share
    return Road(
        {
            "read": 0.07 * rest,
            "split": 0.03 * rest,
            "fit": share,
            "score": 0.73 * rest,
            "gate": 0.03 * rest,
            "register": 0.07 * rest,
            "promote": 0.07 * rest,
        },
        lambda desk: Retraining(desk, fit).steps(),
        last=frozenset({"register", "promote"}),
    )


class Stores:
    """Where data sets and versions are kept, as a job sees them."""

    def __init__(self, desk: Desk) -> None:
        database = open_database(desk.settings.database)
        self.datasets = Datasets(database, desk.settings, Metrics())
        self.versions = Versions(database, desk.settings)

    def version_of(self, name: str, wanted: object) -> int:
        """The number that an alias, or a number, stands for now. Raises JobError."""
        if isinstance(wanted, int) or str(wanted).isdigit():
            return self.versions.get(name, int(wanted)).version  # type: ignore[call-overload]
        alias = self.versions.alias(name, str(wanted))
        if alias is None:
            raise JobError(f"{name} has no version {str(wanted)[:64]!r}")
        return alias.version


class Subject:
    """The records a job is about, and the windows that it is judged by."""

    def __init__(self, desk: Desk, stores: Stores) -> None:
        self._desk, self._stores = desk, stores

    @cached_property
    def dataset(self) -> Dataset:
        return self._stores.datasets.read(self._desk.job.dataset_id or "")

    @cached_property
    def records(self) -> list[Record]:
        return self._stores.datasets.records(self.dataset.id)[0]

    @cached_property
    def plan(self) -> Plan:
        details = self._desk.job.details
        freq = parse_freq(self.dataset.freq or "D").freqstr  # as pandas spells it today
        horizon = details.get("prediction_length") or usual_horizon(freq)
        return Plan(freq, horizon, details["origins"], season=season_of(freq))

    @cached_property
    def segments(self) -> Mapping[str, str] | None:
        column = self._desk.job.details.get("segment")
        return None if column is None else self._stores.datasets.segment(self.dataset.id, column)

    def read(self) -> Facts:
        """What there is. Raises JobError if it is too little."""
        if len(self.records) < FEWEST_SERIES:
            raise JobError(
                f"the dataset {self.dataset.id} has {len(self.records)} series with sales; at "
                f"least {FEWEST_SERIES} are needed to learn from some and be sure of it on others"
            )
        note = f"{len(self.records)} series of {self.dataset.rows:,} rows, {self.plan.freq}"
        self._desk.note(note)
        return {
            "series": len(self.records),
            "rows": self.dataset.rows,
            "freq": self.plan.freq,
            "digest": self.dataset.digest,
        }

    def split(self) -> Facts:
        """The windows held out. Raises JobError if no series is long enough."""
        batches = list(windows_of(self.records, self.plan))
        if not all(batch.windows for batch in batches):
            raise JobError(_too_short(self.records, self.plan))
        start = min(batch.windows[0].ahead[0] for batch in batches)
        end = max(batch.windows[0].ahead[-1] for batch in batches)
        windows = sum(len(batch.windows) for batch in batches)
        held = f"{windows} windows of {self.plan.horizon} periods from {start:%Y-%m-%d} on"
        self._desk.note(f"held out: {held}")
        return {
            "prediction_length": self.plan.horizon,
            "origins": self.plan.origins,
            "windows": windows,
            "held_out_from": start.isoformat(),
            "held_out_until": end.isoformat(),
        }


class Retraining:
    """The steps from a dataset to a version of the series network."""

    def __init__(self, desk: Desk, fit: Fit) -> None:
        self.desk, self.job, self._fit = desk, desk.job, fit
        self.stores = Stores(desk)
        self.subject = Subject(desk, self.stores)

    def steps(self) -> Steps:
        return {
            "read": self.subject.read,
            "split": self.split,
            "fit": self.fit,
            "score": self.score,
            "gate": self.gate,
            "register": self.register,
            "promote": self.promote,
        }

    def split(self) -> Facts:
        """Hold windows out, and pin the versions that are compared."""
        held = self.subject.split()
        versions, name = self.stores.versions, self.job.model
        wanted = {"parent": self.job.details["parent"], "production": PRODUCTION}
        if "teacher" in self.job.details:
            wanted["teacher"] = self.job.details["teacher"]
        numbers = {role: self.stores.version_of(name, each) for role, each in wanted.items()}
        for number in set(numbers.values()):
            _refuse_seen(self.subject, versions, versions.get(name, number), held)
        return held | numbers

    def fit(self) -> Facts:
        """Make the candidate from what lies before the held-out windows."""
        self.desk.state.mkdir(parents=True, exist_ok=True)
        return self._fit(self)

    def score(self) -> Facts:
        """Compare the candidate with production and with methods that learn nothing."""
        verdict = self._judged()
        found = plain(asdict(verdict))
        (self.desk.state / VERDICT).write_bytes(orjson.dumps(found))
        scores: Facts = found["scores"]
        return scores

    def gate(self) -> Facts:
        """Whether the candidate is better, and by which numbers."""
        verdict: Facts = orjson.loads((self.desk.state / VERDICT).read_bytes())
        verdict.pop("scores", None)
        reasons = "; ".join(verdict["reasons"])
        self.desk.note(f"{'accepted' if verdict['accepted'] else 'not accepted'}: {reasons}")
        return verdict

    def register(self) -> Facts:
        """Keep the candidate as a version, unless it was turned down and nobody waits for it."""
        facts, promote = self.desk.facts, self.job.details["promote"]
        if promote == "if_better" and not facts["gate"]["accepted"]:
            return {"version": None}
        fit, split = facts["fit"], facts["split"]
        manifest = Manifest(
            source=self.job.kind,
            parent=split["parent"],
            base=None if fit.get("whole", True) else split["parent"],
            dataset_id=self.job.dataset_id,
            dataset_digest=facts["read"]["digest"],
            job_id=self.job.id,
            trained_until=fit.get("until"),
            evaluation=facts["gate"] | {"scores": facts["score"]},
            settings=dict(self.job.details),
        )
        number = self.stores.versions.register(self.job.model, self.made, manifest)
        self.desk.note(f"registered as version {number} of {self.job.model}")
        return {"version": number}

    def promote(self) -> Facts:
        """Let it serve, or wait for a person, as was asked."""
        number, wish = self.desk.facts["register"]["version"], self.job.details["promote"]
        if number is None or wish == "never":
            return {"promoted": False}
        versions, name, actor = self.stores.versions, self.job.model, f"job:{self.job.id}"
        if wish == "if_better":
            expected = self.desk.facts["split"]["production"]
            try:
                versions.promote(name, number, actor=actor, expected=expected)
            except ConflictError as error:  # somebody promoted another one meanwhile
                self.desk.note(f"not promoted: {error}")
            else:
                self.desk.note(f"version {number} of {name} is production now")
                return {"promoted": True}
        versions.nominate(name, number, actor=actor)
        self.desk.note(f"version {number} of {name} waits to be promoted by a person")
        return {"promoted": False, "state": "awaiting_promotion"}

    @property
    def made(self) -> Path:
        return self.desk.state / "made"

    def checkpoint(self, role: str) -> Checkpoint:
        number = self.desk.facts["split"][role]
        return self.stores.versions.checkpoint_of(self.job.model, number)

    def _judged(self) -> "Verdict":
        from models.backtest import network
        from models.gate import Rules, judge, simulated

        facts, plan = self.desk.facts, self.subject.plan
        production = load_series(self.desk, self.checkpoint("production"))
        candidate = load_series(self.desk, self._candidate())
        counted = Counted(self.desk, 3 * facts["split"]["windows"])
        return refusable(
            lambda: judge(
                self.subject.records,
                plan,
                {PRODUCTION: network(production), CANDIDATE: network(candidate)},
                production=PRODUCTION,
                candidate=CANDIDATE,
                rules=Rules(margin=self.job.details["margin"]),
                segments=self.subject.segments,
                references=simulated(),
                trained_until={CANDIDATE: facts["fit"].get("until")},
                on_done=counted.done,
            )
        )

    def _candidate(self) -> Checkpoint:
        whole = self.desk.facts["fit"].get("whole", True)
        return Checkpoint(self.made, None if whole else self.checkpoint("parent").directory)

    def tell(self, progress: TrainProgress) -> None:
        self.desk.tell(told_of(progress))

    def note_trained(self, trained: "Trained") -> None:
        """Say in the log what a training came to."""
        before, after = trained.scores["zero_shot"], trained.scores["tuned"]
        self.desk.note(
            f"{trained.steps} of {trained.steps_done} steps kept, {trained.trained:,} of "
            f"{trained.parameters:,} weights trained; validation {before:.4f} to {after:.4f}"
        )


def fine_tuned(work: Retraining) -> Facts:
    """Train the parent further."""
    from models.train import fine_tune

    parent = work.checkpoint("parent")
    trained = refusable(
        lambda: fine_tune(
            parent.directory,
            work.subject.records,
            work.subject.plan,
            work.made,
            state=work.desk.state / "run",
            settings=train_settings(work.job.details),
            base_of=parent.base,
            threads=job_threads(work.desk),
            told=work.tell,
        )
    )
    work.note_trained(trained)
    facts: Facts = plain(asdict(trained))
    return facts


FINETUNE = road_by(fine_tuned, share=0.7)


def settled(job: Job, versions: Versions) -> State | None:
    """What a job that waits for a promotion has come to, if it need not wait any more."""
    number = job.facts.get("register", {}).get("version")
    if number is None:
        return "succeeded"
    try:
        versions.get(job.model, number)
    except NotFoundError:
        return "cancelled"  # nobody can promote what was deleted
    alias = versions.alias(job.model)
    return "succeeded" if alias is not None and alias.version == number else None


def train_settings(details: Mapping[str, Any]) -> TrainSettings:
    """How to train, from a job's words. Raises JobError for what cannot be."""
    said = {name: value for name, value in details.items() if name not in OWN}
    if details.get("time_budget_s") is not None:
        said["budget_s"] = details["time_budget_s"]
    return refusable(lambda: settings_of(TrainSettings, said))


def told_of(progress: TrainProgress) -> Told:
    """A training's progress as a job tells it."""
    loss, validation = plain([progress.loss, progress.validation])
    return Told(progress.share, progress.step, loss, validation)


def usual_horizon(freq: str) -> int:
    """Periods worth forecasting on a calendar."""
    letters = freq.lstrip("0123456789")
    return next((count for start, count in HORIZONS.items() if letters.startswith(start)), 24)


def job_threads(desk: Desk) -> int:
    """CPU threads of a job."""
    return desk.settings.job_threads or max(1, desk.settings.cores // 2)


def load_series(desk: Desk, checkpoint: Checkpoint) -> "SeriesNetwork":
    """A series network as the service would answer by it. Raises JobError."""
    from models.series import SeriesNetwork

    settings = desk.settings
    return refusable(
        lambda: SeriesNetwork.load(
            checkpoint.directory,
            base=checkpoint.base,
            device=settings.device,
            dtype=settings.dtype,
            runtime=settings.runtime,
            threads=job_threads(desk),
            seasonal_adjustment=settings.seasonal_adjustment,
            covariate_effects=settings.covariate_effects,
        )
    )


class Counted:
    """Windows that are answered, told as a share of all."""

    def __init__(self, desk: Desk, all_windows: int) -> None:
        self._desk, self._all, self._done = desk, max(1, all_windows), 0

    def done(self, _name: str, windows: int) -> None:
        self._done += windows
        self._desk.tell(Told(min(1.0, self._done / self._all)))


def _refuse_seen(subject: Subject, versions: Versions, version: Version, held: Facts) -> None:
    """Raise JobError if a version, or one it comes from, has trained on windows held out now."""
    start, calendar = held["held_out_from"], subject.plan.freq
    for each in _line(versions, version):
        until = each.manifest.trained_until
        if until is not None and pd.Timestamp(until) >= pd.Timestamp(start):
            raise JobError(
                f"version {version.version} of {version.name} was trained on what lies up to "
                f"{until[:10]}, and would be judged from {start[:10]} on; give newer data, or hold "
                f"out less by `origins` or `prediction_length` (now {held['origins']} windows of "
                f"{held['prediction_length']} periods of {calendar})"
            )


def _line(versions: Versions, version: Version) -> Iterator[Version]:
    """A version and those it was made from, as far as they are kept."""
    while True:
        yield version
        if version.manifest.parent is None:
            return
        try:
            version = versions.get(version.name, version.manifest.parent)
        except NotFoundError:
            return


def _too_short(records: Sequence[Record], plan: Plan) -> str:
    longest = max(len(record.times) for record in records)
    needed = plan.offsets[0] + plan.season + 1
    if longest < needed:
        return (
            f"the longest series has {longest} periods; {plan.origins} windows of {plan.horizon} "
            f"held out and a season before them need {needed}: lower `prediction_length` or "
            "`origins`, or give longer histories"
        )
    return (
        "no series changes before and is observed in every window held out; give series that sell, "
        "or lower `prediction_length` or `origins`"
    )


def refusable(work: Callable[[], T]) -> T:
    """What the learning side refuses, as the reason for a job's failure."""
    try:
        return work()
    except ModelError as error:
        raise JobError(str(error)) from error
