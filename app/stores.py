"""What a job has to do with: data sets, versions, and what the learning side says.

Invariant: whatever cannot be is a JobError, whose reason a shop's analyst understands.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from app.datasets import Datasets
from app.db import open_database
from app.desk import Desk, Told
from app.errors import JobError
from app.metrics import Metrics
from app.plain import plain
from app.versions import Version, Versions
from models.base import ModelError
from models.recipe import settings_of
from models.tuning import TrainProgress

if TYPE_CHECKING:
    from models.compress import Compressed
    from models.train_events import EventsTrained
    from models.tuning import Trained

#: Words of a job that are no settings of the training.
OWN = frozenset(
    {
        *("prediction_length", "origins", "horizons_days", "parent", "time_budget_s", "promote"),
        *("margin", "segment", "trials", "teacher"),
    }
)

T = TypeVar("T")


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


class Counted:
    """Work that is told as a share of all of it."""

    def __init__(self, desk: Desk, whole: int) -> None:
        self._desk, self._whole, self._done = desk, max(1, whole), 0

    def done(self, _name: str, count: int = 1) -> None:
        self._done += count
        self._desk.tell(Told(min(1.0, self._done / self._whole)))


def train_settings(details: Mapping[str, Any], kind: type[T], *, budget: bool = True) -> T:
    """How to train, a dataclass of settings, from a job's words. Raises JobError.

    budget: whether the job's time is that of this training.
    """
    said = {name: value for name, value in details.items() if name not in OWN}
    if budget and details.get("time_budget_s") is not None:
        said["budget_s"] = details["time_budget_s"]
    return refusable(lambda: settings_of(kind, said))


def note_trained(desk: Desk, trained: "Trained | EventsTrained") -> None:
    """Say in the log what a training came to."""
    before, after = trained.scores["zero_shot"], trained.scores["tuned"]
    desk.note(
        f"{trained.steps} of {trained.steps_done} steps kept, {trained.trained:,} of "
        f"{trained.parameters:,} weights trained; validation {before:.4f} to {after:.4f}"
    )


def note_earlier(desk: Desk, versions: Sequence[Version]) -> list[tuple[str, int]]:
    """Say in the log which data sets are not to be forgotten; each, and its version."""
    found = [(each.manifest.dataset_id or "", each.version) for each in versions]
    for dataset_id, version in found:
        desk.note(f"not to be forgotten: {dataset_id}, of version {version}")
    return found


def note_smaller(desk: Desk, made: "Compressed") -> None:
    """Say in the log what a network that was made smaller costs and saves."""
    child, before = made.child, made.parent
    desk.note(
        f"{child.zeros:.0%} of the weights are zero instead of {before.zeros:.0%}; weights in "
        f"{child.weight_bytes:,} bytes instead of {before.weight_bytes:,}, files packed in "
        f"{child.packed_bytes:,} instead of {before.packed_bytes:,}; {child.rows_per_s:,.0f} "
        f"answers/s instead of {before.rows_per_s:,.0f}; loss {child.loss:.4f} instead of "
        f"{before.loss:.4f}"
    )


class Telling:
    """Tells how a training goes, and says in the log from which step one went on."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._begun = desk, False

    def __call__(self, progress: TrainProgress) -> None:
        if not self._begun and progress.step:
            self._desk.note(f"goes on from step {progress.step}")
        self._begun = True
        self._desk.tell(told_of(progress))


def told_of(progress: TrainProgress) -> Told:
    """A training's progress as a job tells it."""
    loss, validation = plain([progress.loss, progress.validation])
    return Told(progress.share, progress.step, loss, validation)


def job_threads(desk: Desk) -> int:
    """CPU threads of a job."""
    return desk.settings.job_threads or max(1, desk.settings.cores // 2)


def refusable(work: Callable[[], T]) -> T:
    """What the learning side refuses, as the reason for a job's failure."""
    try:
        return work()
    except ModelError as error:
        raise JobError(str(error)) from error
