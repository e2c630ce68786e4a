"""Jobs about series: what is read of a data set, held out, learned from and judged by.

Invariant: nothing of the plan's windows is known to who is fitted, and all who are scored answer
the same windows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.datasets import Dataset
from app.desk import Desk, Facts
from app.errors import JobError
from app.lineage import Before, read_before, same_sales, sets_before, usual_horizon
from app.periods import parse_freq
from app.plain import plain
from app.stores import (
    Counted,
    Stores,
    Telling,
    job_threads,
    note_earlier,
    note_smaller,
    note_trained,
    refusable,
    train_settings,
)
from app.versions import CANDIDATE, PRODUCTION, Checkpoint, Version
from models.backtest import (
    NAIVE,
    Backtest,
    Method,
    Plan,
    Record,
    network,
    run,
    season_of,
    seasonal_naive,
    summaries,
    windows_of,
)
from models.tuning import Trained, TrainProgress, TrainSettings

if TYPE_CHECKING:
    from models.compress import Compressed
    from models.gate import Verdict
    from models.search import Searched, SearchProgress, SearchSettings
    from models.series import SeriesNetwork

FEWEST_SERIES = 5


class SeriesSubject:
    """The records a job is about, and the windows that it is judged by."""

    def __init__(self, desk: Desk, stores: Stores) -> None:
        self._desk, self._stores = desk, stores

    @property
    def way_out(self) -> str:
        """How to hold out less than is held out now."""
        plan = self.plan
        return (
            f"hold out less by `origins` or `prediction_length` (now {plan.origins} windows of "
            f"{plan.horizon} periods of {plan.freq})"
        )

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

    def pin(self, made_from: Sequence[Version]) -> Facts:
        """What must not be forgotten: data sets of versions before, each with its version."""

        def read(id_: str, version: Version) -> list[Record] | None:
            before = read_before(self._stores.datasets, id_, version)
            return None if before is None else list(before.records)

        now, versions = (self.dataset.id, self.records), self._stores.versions
        found = sets_before(versions, made_from, now=now, read=read, repeats=same_sales)
        return {"earlier": note_earlier(self._desk, [version for version, _ in found])}

    @cached_property
    def before(self) -> list[Before]:
        """What is pinned, as far as it is still there."""
        versions, name = self._stores.versions, self._desk.job.model
        pinned = self._desk.facts["split"].get("earlier", [])
        kept = [(id_, versions.get(name, number)) for id_, number in pinned]
        found = [read_before(self._stores.datasets, id_, version) for id_, version in kept]
        return [each for each in found if each is not None]

    def fine_tune(self, parent: Checkpoint, to: Path) -> Facts:
        """Train the parent further on what lies before the windows."""
        state, settings = self._desk.state / "run", self._settings()
        told = Telling(self._desk)
        trained = refusable(lambda: self._tuned(parent, settings, to, state, told))
        return self.told(trained, parent, to)

    def search(
        self,
        parent: Checkpoint,
        to: Path,
        asked: "SearchSettings",
        told: "Callable[[SearchProgress], None]",
    ) -> "Searched[Trained]":
        """Train the parent further by several settings."""
        from models.search import search

        return refusable(
            lambda: search(
                partial(self._tuned, parent),
                to,
                state=self._desk.state / "run",
                train=self._settings(budget=False),
                kind=Trained,
                settings=asked,
                told=told,
            )
        )

    def told(self, trained: Trained, parent: Checkpoint, made: Path) -> Facts:
        """Note what came of a training."""
        note_trained(self._desk, trained)
        if trained.around:
            self._desk.note(f"learned beside the weights: {', '.join(trained.around)}")
        for name, effect in trained.effects.items():
            self._desk.note(
                f"across the shop a unit of {name} is expected to be worth {effect:+.2f}"
            )
        facts: Facts = plain(asdict(trained))
        return facts | self._pruned(parent, made)

    def distill(self, teacher: Checkpoint, student: Checkpoint, to: Path) -> "Compressed":
        """Teach the student what the teacher says of the records."""
        from models.compress import distill

        if student.base is not None:
            number = self._desk.facts["split"]["parent"]
            raise JobError(
                f"version {number} is an adapter on another one; name a whole version as `parent`, "
                "such as the shipped one"
            )
        return refusable(
            lambda: distill(
                teacher.directory,
                student.directory,
                self.records,
                self.plan,
                to,
                state=self._desk.state / "run",
                settings=self._settings(),
                teacher_base=teacher.base,
                logs=self._desk.directory,
                told=Telling(self._desk),
            )
        )

    def quantize(self, parent: Checkpoint, to: Path) -> "Compressed":
        """Write the parent as a network that computes in 8 bits."""
        from models.compress import quantize

        return refusable(
            lambda: quantize(parent.directory, self.records, self.plan, to, base_of=parent.base)
        )

    def judge(
        self, production: Checkpoint, candidate: Checkpoint, *, until: str | None
    ) -> "Verdict[Any]":
        """Compare the two with each other and with methods that learn nothing."""
        from models.gate import Rules, judge, simulated

        rivals = {PRODUCTION: production, CANDIDATE: candidate}
        counted = Counted(self._desk, 3 * self._desk.facts["split"]["windows"])
        return refusable(
            lambda: judge(
                self.records,
                self.plan,
                {name: network(load_series(self._desk, each)) for name, each in rivals.items()},
                production=PRODUCTION,
                candidate=CANDIDATE,
                rules=Rules(margin=self._desk.job.details["margin"]),
                segments=self.segments,
                references=[*simulated(), *(each.reference() for each in self.before)],
                trained_until={CANDIDATE: until},
                on_done=counted.done,
            )
        )

    def scored(self, versions: Mapping[str, Checkpoint]) -> tuple[Facts, Any]:
        """Scores by version and of seasonal naive, and the whole of them for a file."""
        methods = [Method(NAIVE, seasonal_naive)]
        for name, each in versions.items():
            methods.append(Method(name, network(load_series(self._desk, each))))
        counted = Counted(self._desk, len(methods) * self._desk.facts["split"]["windows"])
        found = refusable(lambda: run(self.records, methods, self.plan, on_done=counted.done))
        scores: Facts = plain({each.method: asdict(each) for each in summaries(found)})
        for name, score in scores.items():
            self._desk.note(f"{name}: MASE {score['mase']:.4g}, WQL {score['wql']:.4g}")
        return scores, self._all(found)

    def _tuned(
        self,
        parent: Checkpoint,
        settings: TrainSettings,
        to: Path,
        state: Path,
        told: "Callable[[TrainProgress], None]",
    ) -> Trained:
        from models.train import fine_tune

        return fine_tune(
            parent.directory,
            self.records,
            self.plan,
            to,
            state=state,
            settings=settings,
            base_of=parent.base,
            earlier=[each.replayed() for each in self.before],
            threads=job_threads(self._desk),
            logs=self._desk.directory,
            told=told,
        )

    def _pruned(self, parent: Checkpoint, made: Path) -> Facts:
        """Size, speed and loss of what was pruned beside its parent's; nothing if it was not."""
        from models.compress import measured

        if not self._settings().sparsity:
            return {}
        found = refusable(
            lambda: measured(
                parent.directory, made, self.records, self.plan, base_of=parent.base, trained=None
            )
        )
        note_smaller(self._desk, found)
        facts: Facts = plain({"child": asdict(found.child), "parent": asdict(found.parent)})
        return facts

    def _settings(self, *, budget: bool = True) -> TrainSettings:
        """As the job asks for. budget: whether its time is that of one training."""
        return train_settings(self._desk.job.details, TrainSettings, budget=budget)

    def _all(self, found: Backtest) -> Any:  # noqa: ANN401 - JSON
        segments = self.segments or {}
        rows = [
            {
                "method": score.method,
                "item": score.item,
                "segment": segments.get(score.item),
                "origin": score.origin.isoformat(),
                "mase": score.mase,
                "wape": score.wape,
                "bias": score.bias,
                "wql": score.wql,
            }
            for score in found.scores
        ]
        return plain(
            {
                "dataset_id": self.dataset.id,
                "freq": self.plan.freq,
                "summary": [asdict(each) for each in summaries(found)],
                "scores": rows,
                "left_out": list(found.left_out),
            }
        )


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
