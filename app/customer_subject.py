"""Jobs about customers: what is read of a data set, held out, learned from and judged by.

Invariant: nothing of the latest stretch is known to who is fitted, and all who are scored foretell
the same customers in it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.crowds import Crowd, CrowdBefore, crowd_before, repeats
from app.datasets import Dataset
from app.desk import Desk, Facts
from app.errors import JobError
from app.lineage import sets_before
from app.plain import plain
from app.stores import (
    Counted,
    Stores,
    Telling,
    job_threads,
    note_earlier,
    note_trained,
    refusable,
    train_settings,
)
from app.versions import CANDIDATE, PRODUCTION, Checkpoint, Version
from models import cuts
from models.base import PURCHASE
from models.purchase_scores import judged
from models.tuning import EventsTrainSettings, TrainProgress

if TYPE_CHECKING:
    from models.compress import Compressed
    from models.events import EventsNetwork
    from models.gate import Verdict
    from models.search import Searched, SearchProgress, SearchSettings
    from models.stretch import Stretch
    from models.train_events import EventsTrained

MOST_SEGMENTS = 100
SHIPPED = "shipped"
TRAINED = frozenset({"finetune", "search", "distill"})  # kinds whose words say how to train


class CustomerSubject:
    """The customers a job is about, and the stretch that it is judged by."""

    def __init__(self, desk: Desk, stores: Stores) -> None:
        self._desk, self._stores = desk, stores

    @cached_property
    def crowd(self) -> Crowd:
        return Crowd(
            self._stores.datasets,
            self._desk.job.dataset_id or "",
            horizons_days=self._desk.job.details.get("horizons_days"),
            most_customers=self._desk.settings.max_customers,
        )

    @property
    def dataset(self) -> Dataset:
        return self.crowd.dataset

    @property
    def shop(self) -> cuts.Moment:
        return self.crowd.shop

    @property
    def horizons(self) -> tuple[int, ...]:
        return self.crowd.horizons

    @property
    def stretch(self) -> "Stretch":
        return self.crowd.stretch

    @cached_property
    def segments(self) -> Mapping[str, str] | None:
        """The segment of a customer by its place in the stretch: the latest word before it began.

        Raises JobError if it tells nobody apart, or too many.
        """
        column = self._desk.job.details.get("segment")
        if column is None:
            return None
        days = float(max(self.horizons))
        words = self._stores.datasets.customer_segment(
            self.dataset.id,
            column,
            as_of=self.crowd.as_of,
            before=self.crowd.as_of.days - days,
            most_customers=self._desk.settings.max_customers,
        )
        people = cuts.cut_at(self.shop.crowd, days).people[self.stretch.rows]
        said = {str(place): words[person] for place, person in enumerate(people.tolist())}
        found = {place: word for place, word in said.items() if word is not None}
        count = len(set(found.values()))
        if not found:
            raise JobError(
                f"no customer has a value of {column!r} before {self._first:%Y-%m-%d}, when what "
                "is held out begins; name another `segment`, or shorter `horizons_days`"
            )
        if count > MOST_SEGMENTS:
            raise JobError(
                f"{column!r} has {count} different values, and {MOST_SEGMENTS} at most tell "
                "segments apart; name another `segment`"
            )
        return found

    @property
    def way_out(self) -> str:
        """What to ask for so that less is held out."""
        return f"hold out less by `horizons_days` (now {max(self.horizons)} days)"

    def read(self) -> Facts:
        """What there is. Raises JobError if it is too little."""
        count, least = len(self.shop.crowd), self._settings().least_customers
        if count < least:
            raise JobError(
                f"the dataset {self.dataset.id} has {count} customers; at least {least} are needed "
                "to learn from what they do and be sure of it"
            )
        if not np.any(self.shop.crowd.types == PURCHASE):
            raise JobError(
                f"in the dataset {self.dataset.id} nobody buys: no event is a purchase; say by "
                "`columns.type` which column tells what happened, or leave views out"
            )
        self._desk.note(f"{count:,} customers, {self.dataset.rows:,} events")
        return {
            "customers": count,
            "rows": self.dataset.rows,
            "days": round(self.shop.span, 1),
            "digest": self.dataset.digest,
        }

    def split(self) -> Facts:
        """The stretch held out. Raises JobError if it, or what is before it, tells nothing."""
        first, stretch = self._first, self.stretch
        self._refuse_little()
        shares = stretch.bought.mean(axis=0)
        if shares[-1] == 0 or shares[0] == 1:
            who, days = ("nobody", max) if shares[-1] == 0 else ("everybody", min)
            raise JobError(
                f"{who} known before {first:%Y-%m-%d} bought within {days(self.horizons)} days, so "
                "that there is nothing to be foretold better or worse; give other days by "
                "`horizons_days`, or a dataset that reaches further"
            )
        self._desk.note(
            f"held out: {max(self.horizons)} days from {first:%Y-%m-%d} on, in which "
            f"{shares[-1]:.1%} of {len(stretch.rows):,} customers bought"
        )
        counted = Counter((self.segments or {}).values())
        told = {"segments": dict(sorted(counted.items()))} if counted else {}
        return told | {
            "horizons_days": list(self.horizons),
            "customers": len(stretch.rows),
            "bought": plain(dict(zip(map(str, self.horizons), shares, strict=True))),
            "held_out_from": first.isoformat(),
            "held_out_until": self.crowd.as_of.local.isoformat(),
        }

    def pin(self, made_from: Sequence[Version]) -> Facts:
        """What must not be forgotten: data sets of versions before, each with its version."""
        found = sets_before(
            self._stores.versions,
            made_from,
            now=(self.dataset.id, self.crowd),
            read=self._crowd_before,
            repeats=lambda one, later: repeats(one.bought, later.bought),
        )
        return {"earlier": note_earlier(self._desk, [version for version, _ in found])}

    @cached_property
    def before(self) -> list[CrowdBefore]:
        """What is pinned, as far as it is still there."""
        versions, name = self._stores.versions, self._desk.job.model
        found = []
        for dataset_id, number in self._desk.facts["split"].get("earlier", []):
            crowd = self._crowd_before(dataset_id, versions.get(name, number))
            if crowd is not None:
                found.append(CrowdBefore(dataset_id, number, crowd.stretch))
        return found

    def fine_tune(self, parent: Checkpoint, to: Path) -> Facts:
        """Train the parent further on what was known before the stretch."""
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
    ) -> "Searched[EventsTrained]":
        """Train the parent further by several settings."""
        from models.search import search
        from models.train_events import EventsTrained

        return refusable(
            lambda: search(
                partial(self._tuned, parent),
                to,
                state=self._desk.state / "run",
                train=self._settings(budget=False),
                kind=EventsTrained,
                settings=asked,
                told=told,
            )
        )

    def told(
        self,
        trained: "EventsTrained",
        parent: Checkpoint,  # noqa: ARG002 - as of series
        made: Path,  # noqa: ARG002 - as of series
    ) -> Facts:
        """Note what came of a training."""
        note_trained(self._desk, trained)
        latest = self._first - timedelta(days=float(self.stretch.before.crowd.days_ago.min()))
        facts: Facts = plain(asdict(trained))
        return facts | {"until": latest.isoformat(timespec="seconds")}

    def distill(self, teacher: Checkpoint, student: Checkpoint, to: Path) -> "Compressed":
        """Teach the student what the teacher says of the customers at earlier moments."""
        from models.compress_events import distill_events

        return refusable(
            lambda: distill_events(
                teacher.directory,
                student.directory,
                self.stretch.before,
                to,
                state=self._desk.state / "run",
                settings=self._settings(),
                teacher_base=teacher.base,
                base_of=student.base,
                earlier=[each.replayed() for each in self.before],
                threads=job_threads(self._desk),
                logs=self._desk.directory,
                told=Telling(self._desk),
            )
        )

    def quantize(self, parent: Checkpoint, to: Path) -> "Compressed":
        """Write the parent as a network that computes in 8 bits."""
        from models.compress_events import quantize_events

        before = self.stretch.before
        return refusable(lambda: quantize_events(parent.directory, before, to, base_of=parent.base))

    def judge(
        self, production: Checkpoint, candidate: Checkpoint, *, until: str | None
    ) -> "Verdict[Any]":
        """Compare the two with each other, the shipped network and BG/NBD."""
        from models.gate import Rules
        from models.gate_events import judge_purchases, simulated_shops

        rivals = {PRODUCTION: production, CANDIDATE: candidate, SHIPPED: _shipped()}
        networks = {name: load_customers(self._desk, each) for name, each in rivals.items()}
        counted = Counted(self._desk, 1 + len(networks))
        return refusable(
            lambda: judge_purchases(
                self.stretch,
                pd.Timestamp(self._first),
                networks,
                production=PRODUCTION,
                candidate=CANDIDATE,
                rules=Rules(margin=self._desk.job.details["margin"]),
                segments=self.segments,
                references=[*simulated_shops(), *(each.reference() for each in self.before)],
                trained_until={CANDIDATE: until},
                on_done=counted.done,
            )
        )

    def scored(self, versions: Mapping[str, Checkpoint]) -> tuple[Facts, Any]:
        """Scores by version and of what a shop would fit, and the whole of them for a file."""
        from models.gate_events import losses_by, standing
        from models.stretch import FITTED

        counted = Counted(self._desk, len(FITTED) + len(versions))
        said = []
        for name in FITTED:
            found = self.stretch.fitted(name)
            said += [] if found is None else [found]
            counted.done(name)
        for name, each in versions.items():
            said.append(self.stretch.foretold(name, load_customers(self._desk, each)))
            counted.done(name)
        scores = {each.name: standing(self.stretch, each) for each in said}
        for name, score in scores.items():
            self._desk.note(f"{name}: log-loss {score.log_loss:.4f}, ECE {score.ece:.4f}")
        verdicts = judged(said, self.stretch.counts, self.horizons)
        whole = {"dataset_id": self.dataset.id, "scores": [asdict(each) for each in verdicts]}
        shown = {name: asdict(score) for name, score in scores.items()}
        if self.segments is None:
            return plain(shown), plain(whole)
        by_segment = {one.name: losses_by(self.stretch, one, self.segments) for one in said}
        for name, losses in by_segment.items():
            shown[name]["segments"] = {part: asdict(loss) for part, loss in losses.items()}
        whole_by = {"segments": {name: score["segments"] for name, score in shown.items()}}
        return plain(shown), plain(whole | whole_by)

    def _crowd_before(self, dataset_id: str, version: Version) -> Crowd | None:
        most = self._desk.settings.max_customers
        return crowd_before(self._stores.datasets, dataset_id, version, most_customers=most)

    def _tuned(
        self,
        parent: Checkpoint,
        settings: EventsTrainSettings,
        to: Path,
        state: Path,
        told: Callable[[TrainProgress], None],
    ) -> "EventsTrained":
        from models.train_events import fine_tune

        return fine_tune(
            parent.directory,
            self.stretch.before,
            to,
            state=state,
            settings=settings,
            base_of=parent.base,
            earlier=[each.replayed() for each in self.before],
            threads=job_threads(self._desk),
            logs=self._desk.directory,
            told=told,
        )

    def _settings(self, *, budget: bool = True) -> EventsTrainSettings:
        """As the job asks for. budget: whether its time is that of one training."""
        job = self._desk.job
        details = job.details if job.kind in TRAINED else {}
        return train_settings(details, EventsTrainSettings, budget=budget)

    @property
    def _first(self) -> datetime:
        """When the stretch begins."""
        return self.crowd.first

    def _refuse_little(self) -> None:
        """Raise JobError if too little lies before the stretch."""
        before, least = self.stretch.before, self._settings()
        if before.span < least.least_days:
            raise JobError(
                f"the dataset {self.dataset.id} has events of {self.shop.span:.0f} days; "
                f"{max(self.horizons)} held out leave {before.span:.0f}, and {least.least_days:g} "
                "are needed to learn from: give a longer history, or shorter `horizons_days`"
            )
        if len(before.crowd) < least.least_customers:
            raise JobError(
                f"{len(before.crowd)} customers are known before {self._first:%Y-%m-%d}, when what "
                f"is held out begins, and {least.least_customers} are needed: give a longer "
                "history, or shorter `horizons_days`"
            )


def _shipped() -> Checkpoint:
    from models.checkpoint import shipped

    return Checkpoint(shipped("purchase"), None)


def load_customers(desk: Desk, checkpoint: Checkpoint) -> "EventsNetwork":
    """An events network as the service would answer by it. Raises JobError."""
    from models.events import EventsNetwork

    settings = desk.settings
    return refusable(
        lambda: EventsNetwork.load(
            checkpoint.directory,
            base=checkpoint.base,
            device=settings.device,
            dtype=settings.dtype,
            runtime=settings.runtime,
            threads=job_threads(desk),
        )
    )
