"""The one road of a retraining: data, split, fit, score, gate, register, promote.

Invariant: nothing that is scored was fitted to the windows it is scored on, and production changes
in the last step alone, if it is still what the candidate was compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import pandas as pd

from app.customer_subject import CustomerSubject
from app.desk import Desk, Facts, Road, Steps
from app.errors import ConflictError, JobError, NotFoundError
from app.jobs import Job, State
from app.lineage import line_of
from app.plain import plain
from app.series_subject import SeriesSubject
from app.stores import Stores
from app.versions import PRODUCTION, Checkpoint, Manifest, Version, Versions

if TYPE_CHECKING:
    from models.compress import Compressed
    from models.gate import Verdict
    from models.search import Searched, SearchProgress, SearchSettings

VERDICT = "verdict.json"


class Subject(Protocol):
    """What a job is about: its data, the windows that are held out, and how to learn and judge."""

    @property
    def way_out(self) -> str:
        """What to ask for so that less is held out."""

    def read(self) -> Facts:
        """What there is, `digest` among it. Raises JobError if it is too little."""

    def split(self) -> Facts:
        """What is held out, `held_out_from` among it. Raises JobError if it tells nothing."""

    def pin(self, made_from: Sequence[Version]) -> Facts:
        """What else is needed of the versions that a candidate comes from and is compared with."""

    def fine_tune(self, parent: Checkpoint, to: Path) -> Facts:
        """Write what the parent becomes by training; as `Fit` says. Raises JobError."""

    def search(
        self,
        parent: Checkpoint,
        to: Path,
        asked: "SearchSettings",
        told: "Callable[[SearchProgress], None]",
    ) -> "Searched[Any]":
        """Write what the parent becomes by the best of several trainings. Raises JobError."""

    def told(
        self,
        trained: Any,  # noqa: ANN401 - what its own trainings return
        parent: Checkpoint,
        made: Path,
    ) -> Facts:
        """Note what came of a training of the parent; as `Fit` says."""

    def distill(self, teacher: Checkpoint, student: Checkpoint, to: Path) -> "Compressed":
        """Write what the student becomes by learning from the teacher. Raises JobError."""

    def quantize(self, parent: Checkpoint, to: Path) -> "Compressed":
        """Write the parent as a network that computes in 8 bits. Raises JobError."""

    def judge(
        self, production: Checkpoint, candidate: Checkpoint, *, until: str | None
    ) -> "Verdict[Any]":
        """Score all on what is held out. until: the last that the candidate has seen."""

    def scored(self, versions: Mapping[str, Checkpoint]) -> tuple[Facts, Any]:
        """Scores by version and of what needs no network, and the whole of them for a file."""


Fit = Callable[["Retraining"], Facts]
"""Makes a candidate from the parent, into `made`; `until` and `whole` among its facts."""


def subject_of(desk: Desk, stores: Stores) -> Subject:
    """What a job of a model is about."""
    return (
        CustomerSubject(desk, stores)
        if desk.job.model == "purchase"
        else SeriesSubject(desk, stores)
    )


def road_by(fit: Fit, *, share: float) -> Road:
    """A retraining with this way to a candidate. share: of the time that it takes to make it."""

    def steps(desk: Desk) -> Steps:
        stores = Stores(desk)
        return Retraining(desk, stores, subject_of(desk, stores), fit).steps()

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
        steps,
        last=frozenset({"register", "promote"}),
    )


class Retraining:
    """The steps from a dataset to a version of a network."""

    def __init__(self, desk: Desk, stores: Stores, subject: Subject, fit: Fit) -> None:
        self.desk, self.job, self._fit = desk, desk.job, fit
        self.stores, self.subject = stores, subject

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
        made_from = [versions.get(name, numbers[role]) for role in ("parent", PRODUCTION)]
        return held | numbers | self.subject.pin(made_from)

    def fit(self) -> Facts:
        """Make the candidate from what lies before the held-out windows."""
        self.desk.state.mkdir(parents=True, exist_ok=True)
        return self._fit(self)

    def score(self) -> Facts:
        """Compare the candidate with production and with methods that learn nothing."""
        until = self.desk.facts["fit"].get("until")
        verdict = self.subject.judge(self.checkpoint("production"), self._candidate(), until=until)
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
        now = versions.alias(name)
        if now is not None and (now.version, now.changed_by) == (number, actor):
            return {"promoted": True}  # by a worker that ended before it could say so
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

    def _candidate(self) -> Checkpoint:
        whole = self.desk.facts["fit"].get("whole", True)
        return Checkpoint(self.made, None if whole else self.checkpoint("parent").directory)


def _fine_tuned(work: Retraining) -> Facts:
    """Train the parent further."""
    return work.subject.fine_tune(work.checkpoint("parent"), work.made)


FINETUNE = road_by(_fine_tuned, share=0.7)


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


def _refuse_seen(subject: Subject, versions: Versions, version: Version, held: Facts) -> None:
    """Raise JobError if a version, or one it comes from, has trained on windows held out now."""
    start = held["held_out_from"]
    for each in line_of(versions, version):
        until = each.manifest.trained_until
        if until is not None and pd.Timestamp(until) >= pd.Timestamp(start):
            raise JobError(
                f"version {version.version} of {version.name} was trained on what lies up to "
                f"{until[:10]}, and would be judged from {start[:10]} on; give newer data, or "
                f"{subject.way_out}"
            )
