"""What a step of a job has before it, and the roads that jobs go.

Invariant: a step reads and writes files of its job's directory alone, tells how far it is, and
leaves facts that later steps, and a later process, go on from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.jobs import Job
from app.settings import Settings

#: What a step found, as JSON.
Facts = dict[str, Any]

#: Steps by their names.
Steps = Mapping[str, Callable[[], Facts]]


@dataclass(frozen=True, slots=True)
class Told:
    """How far a step is. share: of it done, 0 to 1. step: of training, with its losses."""

    share: float
    step: int | None = None
    training: float | None = None
    validation: float | None = None


@dataclass(slots=True, eq=False)
class Desk:
    """Before a step: the job, what earlier steps found, and whom to tell.

    directory: of the job's own files; those under `state` are deleted with its end.
    """

    job: Job
    settings: Settings
    directory: Path
    tell: Callable[[Told], None]
    note: Callable[[str], None]
    facts: Mapping[str, Facts] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """Where a step keeps what the next process needs to go on with it."""
        return self.directory / "state"


@dataclass(frozen=True, slots=True)
class Road:
    """The steps of a kind of job, in order, and how much of its time each takes.

    open: makes them; called once in the process that does them, where they may share what they
    read. last: steps that are no longer interrupted, since they change what others see.
    """

    shares: Mapping[str, float]
    open: Callable[[Desk], Steps]
    last: frozenset[str] = frozenset()


#: The road of a kind of job.
Roads = Callable[[str], Road]
