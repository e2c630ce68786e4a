"""Jobs: what was asked, how far it is, what came of it.

Invariant: the row is the truth of a job. Whoever asks for one writes a row and no more; the worker
that holds it is the only one to write how it goes, and what has ended never changes again.
"""

import asyncio
import hashlib
import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson
from sqlalchemy import Engine, Select, and_, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.db import JobRow, WorkerRow
from app.errors import (
    ConflictError,
    InvalidInputError,
    Issue,
    NotFoundError,
    UnavailableError,
)
from app.metrics import Metrics

Kind = Literal["finetune", "predict", "evaluate", "search", "distill", "quantize"]
State = Literal["queued", "running", "awaiting_promotion", "succeeded", "failed", "cancelled"]
KINDS: tuple[Kind, ...] = ("finetune", "predict", "evaluate", "search", "distill", "quantize")
STATES: tuple[State, ...] = (
    *("queued", "running", "awaiting_promotion", "succeeded", "failed", "cancelled"),
)
UNFINISHED = ("queued", "running")
ENDED = ("succeeded", "failed", "cancelled")

PATIENCE_S = 5.0  # for the database
CURVE_POINTS = 400  # kept of a loss curve
SILENT_S = 30.0  # a worker that was not seen for so long does not answer a wish to cancel
GONE = 0  # the beat of a worker that said good-bye
PAGE = 50

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A job to be done. details: what is particular to its kind, as JSON."""

    kind: Kind
    model: str
    dataset_id: str | None
    details: Mapping[str, Any]

    def json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "model": self.model,
            "dataset_id": self.dataset_id,
            **self.details,
        }

    @property
    def digest(self) -> str:
        """Equal if the same is asked."""
        words = orjson.dumps(self.json(), option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(words, digest_size=32).hexdigest()


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A point of the loss curve: after how many steps of training, and what was lost."""

    step: int
    training: float | None
    validation: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. progress: 0 to 1, of all its steps."""

    step: str
    progress: float
    eta_s: float | None
    curve: Sequence[CurvePoint]


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. facts: what each step found, by its name."""

    id: str
    kind: Kind
    model: str
    dataset_id: str | None
    asked: Mapping[str, Any]
    actor: str
    schedule: str | None
    state: State
    step: str | None
    progress: float
    eta_s: float | None
    curve: Sequence[CurvePoint]
    facts: Mapping[str, Mapping[str, Any]]
    error: str | None
    cancelling: bool
    worker: str | None
    road: str | None
    revision: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def details(self) -> dict[str, Any]:
        """What is particular to its kind."""
        return {
            name: value
            for name, value in self.asked.items()
            if name not in {"kind", "model", "dataset_id"}
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, the latest first. next_cursor: where the list goes on."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs a list is of."""

    kind: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that runs jobs."""

    id: str
    road: str
    beat: int
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Census:
    """All jobs counted. durations_s: of the latest that succeeded, by kind."""

    jobs: Mapping[tuple[str, str], int]
    last_success: Mapping[str, datetime]
    durations_s: Mapping[str, float]
    best_gains: Mapping[str, float]
    workers: int


class LostError(Exception):
    """The job is another worker's by now, or nobody's."""


def directory_of(data_dir: Path, job_id: str) -> Path:
    """Where the files of a job lie."""
    return data_dir / "jobs" / job_id


class Book:
    """The jobs in the database. Every method blocks, and raises SQLAlchemyError as it comes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(
        self,
        asked: Asked,
        *,
        actor: str,
        idempotency_key: str | None = None,
        schedule: str | None = None,
        most_queued: int | None = None,
        check_data: Callable[[str, str], None] | None = None,
    ) -> tuple[Job, bool]:
        """Queue a job, and whether it is a new one: a key brings back the job it came with first.

        check_data: raises if a data set is none for a model; a repeat is not checked again.
        Raises InvalidInputError if the key was sent for something else, UnavailableError if
        `most_queued` wait already, and what `check_data` raises.
        """
        row = _fresh(asked, actor, idempotency_key, schedule)
        found = self._sent_before(asked, actor, idempotency_key)
        if found is not None:
            return found, False
        if check_data is not None and asked.dataset_id is not None:
            check_data(asked.dataset_id, asked.model)
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                if most_queued is not None:
                    _refuse_more(session, most_queued)
                session.add(row)
                session.flush()
                return _job(row), True
        except IntegrityError:  # sent twice at the same time
            found = self._sent_before(asked, actor, idempotency_key)
            if found is None:
                raise
            return found, False

    def get(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        with Session(self._engine) as session:
            row = session.get(JobRow, job_id)
            if row is None:
                raise _unknown(job_id)
            return _job(row)

    def revision(self, job_id: str) -> int:
        """Raises NotFoundError."""
        with Session(self._engine) as session:
            found = session.scalar(select(JobRow.revision).where(JobRow.id == job_id))
        if found is None:
            raise _unknown(job_id)
        return found

    def page(self, wanted: Wanted, *, limit: int = PAGE, cursor: str | None = None) -> Page:
        """The latest first. Raises InvalidInputError for a cursor that is none."""
        query = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id.desc())
        if wanted.kind is not None:
            query = query.where(JobRow.kind == wanted.kind)
        if wanted.state is not None:
            query = query.where(JobRow.state == wanted.state)
        with Session(self._engine) as session:
            if cursor is not None:
                query = _after(session, query, cursor)
            rows = session.scalars(query.limit(limit + 1)).all()
            jobs = tuple(_job(row) for row in rows[:limit])
        return Page(jobs, jobs[-1].id if len(rows) > limit else None)

    def cancel(self, job_id: str) -> Job:
        """Wish a job's end; who runs it stops within seconds. Raises NotFoundError, ConflictError.

        One that waits, also for a promotion, ends here and now, and so does one whose worker is
        gone.
        """
        here = JobRow.id == job_id
        gone = or_(JobRow.worker.is_(None), JobRow.worker.not_in(self._seen()))
        idle = JobRow.state.in_(("queued", "awaiting_promotion"))
        ends = or_(idle, and_(JobRow.state == "running", gone))
        with Session(self._engine) as session, session.begin():
            done = _change(session, and_(here, ends), state="cancelled", **_over())
            if not done:
                done = _change(session, and_(here, JobRow.state == "running"), cancelling=True)
            row = session.get(JobRow, job_id)
            if row is None:
                raise _unknown(job_id)
            job = _job(row)
        if not done and job.state != "cancelled":
            raise ConflictError(f"the job {job_id} has {job.state} already; nothing was stopped")
        return job

    def in_use(self, dataset_id: str) -> str | None:
        """A job that needs a dataset and has not ended."""
        mine = and_(JobRow.dataset_id == dataset_id, JobRow.state.in_(UNFINISHED))
        with Session(self._engine) as session:
            return session.scalar(select(JobRow.id).where(mine).limit(1))

    def census(self) -> Census:
        """All jobs and living workers, counted."""
        spent = select(JobRow.kind, JobRow.model, JobRow.started_at, JobRow.finished_at)
        with Session(self._engine) as session:
            by_state = session.execute(
                select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
            ).all()
            last: dict[str, datetime] = {}
            took_s: dict[str, float] = {}
            for kind, *_ in {(each[0],) for each in by_state}:
                good = and_(JobRow.kind == kind, JobRow.state == "succeeded")
                row = session.execute(
                    spent.where(good).order_by(JobRow.finished_at.desc()).limit(1)
                ).first()
                if row is not None and row.started_at and row.finished_at:
                    last[kind] = row.finished_at
                    took_s[kind] = (row.finished_at - row.started_at).total_seconds()
            gains = _best_gains(session)
            workers = session.scalar(select(func.count()).where(WorkerRow.id.in_(self._seen())))
        counts = {(kind, state): number for kind, state, number in by_state}
        return Census(counts, last, took_s, gains, workers or 0)

    # --- for the worker

    def waiting(self, road: str) -> list[Job]:
        """Queued jobs that are on no queue of a road yet, the eldest first."""
        other = or_(JobRow.road.is_(None), JobRow.road != road)
        query = select(JobRow).where(JobRow.state == "queued", other)
        with Session(self._engine) as session:
            rows = session.scalars(query.order_by(JobRow.created_at, JobRow.id).limit(PAGE))
            return [_job(row) for row in rows]

    def put_on(self, job_id: str, road: str) -> None:
        """Note that a job is on the queue of a road."""
        with Session(self._engine) as session, session.begin():
            _change(session, and_(JobRow.id == job_id, JobRow.state == "queued"), road=road)

    def take(self, job_id: str, worker: str) -> Job | None:
        """Begin a job, or go on with it; None if there is nothing to be done any more."""
        mine = and_(JobRow.id == job_id, JobRow.state.in_(UNFINISHED))
        began = func.coalesce(JobRow.started_at, datetime.now(UTC))
        with Session(self._engine) as session, session.begin():
            if not _change(session, mine, state="running", worker=worker, started_at=began):
                return None
            row = session.get(JobRow, job_id)
            return None if row is None else _job(row)

    def report(self, job_id: str, worker: str, progress: Progress) -> bool:
        """Note how far a job is; whether somebody wishes its end. Raises LostError."""
        return self._write(
            job_id,
            worker,
            step=progress.step,
            progress=progress.progress,
            eta_s=progress.eta_s,
            curve=[[each.step, each.training, each.validation] for each in progress.curve],
        )

    def cancelling(self, job_id: str, worker: str) -> bool:
        """Whether somebody wishes a job's end. Raises LostError."""
        held = and_(JobRow.id == job_id, JobRow.worker == worker, JobRow.state == "running")
        with Session(self._engine) as session:
            found = session.scalar(select(JobRow.cancelling).where(held))
        if found is None:
            raise LostError(job_id)
        return found

    def found(self, job_id: str, worker: str, facts: Mapping[str, Mapping[str, Any]]) -> bool:
        """Note what the steps found; whether somebody wishes the job's end. Raises LostError."""
        return self._write(job_id, worker, facts=dict(facts))

    def end(self, job_id: str, worker: str, state: State, *, error: str | None = None) -> None:
        """Note the end of a job, or that it waits for a promotion. Raises LostError."""
        over = _over() if state in ENDED else {"worker": None, "eta_s": None}
        whole = {} if error else {"progress": 1.0} if state != "cancelled" else {}
        self._write(job_id, worker, state=state, error=error, **over, **whole)

    def settle(self, job_id: str, state: State) -> None:
        """End a job that waited for a promotion."""
        waits = and_(JobRow.id == job_id, JobRow.state == "awaiting_promotion")
        with Session(self._engine) as session, session.begin():
            _change(session, waits, state=state, **_over())

    def give_up(self, job_id: str, error: str) -> None:
        """Fail a job that nobody runs."""
        alone = and_(JobRow.id == job_id, JobRow.state == "running")
        with Session(self._engine) as session, session.begin():
            _change(session, alone, state="failed", error=error, **_over())

    def begin_again(self, job_id: str) -> None:
        """Put a job that nobody runs back among the queued, as if it had not begun."""
        alone = and_(JobRow.id == job_id, JobRow.state == "running")
        with Session(self._engine) as session, session.begin():
            _change(
                session,
                alone,
                state="queued",
                worker=None,
                road=None,
                facts={},
                curve=[],
                progress=0.0,
            )

    def held_by(self, worker: str) -> list[Job]:
        """The running jobs of a worker."""
        query = select(JobRow).where(JobRow.worker == worker, JobRow.state == "running")
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query)]

    def in_state(self, state: State) -> list[Job]:
        with Session(self._engine) as session:
            return [
                _job(row) for row in session.scalars(select(JobRow).where(JobRow.state == state))
            ]

    def depart(self, worker: str) -> None:
        """Show that a worker has gone; what it held is for the others."""
        gone = update(WorkerRow).where(WorkerRow.id == worker)
        with Session(self._engine) as session, session.begin():
            session.execute(gone.values(beat=GONE, seen_at=datetime.fromtimestamp(0, UTC)))

    def beat(self, worker: str, road: str) -> None:
        """Show that a worker is alive."""
        now = datetime.now(UTC)
        with Session(self._engine) as session, session.begin():
            me = update(WorkerRow).where(WorkerRow.id == worker)
            found = session.execute(me.values(beat=WorkerRow.beat + 1, seen_at=now))
            if not found.rowcount:  # type: ignore[attr-defined]  # of a CursorResult
                session.add(WorkerRow(id=worker, road=road, beat=1, started_at=now, seen_at=now))

    def workers(self) -> list[Worker]:
        with Session(self._engine) as session:
            rows = session.scalars(select(WorkerRow))
            return [Worker(row.id, row.road, row.beat, row.seen_at) for row in rows]

    def leave(self, worker: str) -> None:
        """Forget a worker."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(WorkerRow).where(WorkerRow.id == worker))

    def forget(self, *, before: datetime) -> list[str]:
        """Delete the jobs that ended before a time, and name them."""
        old = and_(JobRow.state.in_(ENDED), JobRow.finished_at < before)
        with Session(self._engine) as session, session.begin():
            names = list(session.scalars(select(JobRow.id).where(old)))
            session.execute(delete(JobRow).where(JobRow.id.in_(names), old))
        return names

    def _sent_before(self, asked: Asked, actor: str, key: str | None) -> Job | None:
        if key is None:
            return None
        mine = and_(JobRow.actor == actor, JobRow.idempotency_key == key)
        with Session(self._engine) as session:
            row = session.scalar(select(JobRow).where(mine))
            if row is None:
                return None
            if row.digest != asked.digest:
                msg = (
                    "Idempotency-Key: was sent with another request before; a new request needs a "
                    "new key"
                )
                issue = Issue(("header", "Idempotency-Key"), msg, "idempotency_key_reused")
                raise InvalidInputError((issue,))
            return _job(row)

    def _seen(self) -> Select[Any]:
        """The workers that are alive, as far as one can see."""
        lately = datetime.now(UTC) - timedelta(seconds=SILENT_S)
        return select(WorkerRow.id).where(WorkerRow.seen_at > lately)

    def _write(self, job_id: str, holder: str, /, **values: Any) -> bool:  # noqa: ANN401 - columns
        held = and_(JobRow.id == job_id, JobRow.worker == holder, JobRow.state == "running")
        with Session(self._engine) as session, session.begin():
            if not _change(session, held, **values):
                raise LostError(job_id)
            return bool(session.scalar(select(JobRow.cancelling).where(JobRow.id == job_id)))


class Jobs:
    """The jobs as routes ask for them. Belongs to one event loop."""

    def __init__(self, engine: Engine, *, most_queued: int, patience_s: float = PATIENCE_S) -> None:
        self.book = Book(engine)
        self._most_queued, self._patience_s = most_queued, patience_s

    async def add(
        self,
        asked: Asked,
        *,
        actor: str,
        idempotency_key: str | None,
        check_data: Callable[[str, str], None],
    ) -> tuple[Job, bool]:
        """Queue a job, and whether it is a new one. Raises as Book.add, and UnavailableError."""
        return await self.call(
            lambda: self.book.add(
                asked,
                actor=actor,
                idempotency_key=idempotency_key,
                most_queued=self._most_queued,
                check_data=check_data,
            )
        )

    async def get(self, job_id: str) -> Job:
        """Raises NotFoundError, UnavailableError."""
        return await self.call(lambda: self.book.get(job_id))

    async def page(self, wanted: Wanted, *, limit: int, cursor: str | None) -> Page:
        """Raises InvalidInputError, UnavailableError."""
        return await self.call(lambda: self.book.page(wanted, limit=limit, cursor=cursor))

    async def cancel(self, job_id: str) -> Job:
        """Raises NotFoundError, ConflictError, UnavailableError."""
        return await self.call(lambda: self.book.cancel(job_id))

    async def call(self, work: Callable[[], T]) -> T:
        """Do something with the database, in a thread, for a bounded time."""
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.to_thread(work)
        except (SQLAlchemyError, TimeoutError) as error:
            log.warning("the database did not answer for jobs", exc_info=True)
            raise UnavailableError(
                "jobs cannot be read or stored now; those that run go on, and predictions too",
                reason="database",
                retry_after_s=2.0,
            ) from error


async def watch(jobs: Jobs, metrics: Metrics, interval_s: float = 5.0) -> None:
    """Show in the metrics what jobs there are, until cancelled."""
    while True:
        try:
            _show(await jobs.call(jobs.book.census), metrics)
        except UnavailableError:
            metrics.workers.set(math.nan)  # nobody knows
        await asyncio.sleep(interval_s)


def _show(census: Census, metrics: Metrics) -> None:
    for kind in KINDS:
        for state in STATES:
            metrics.jobs.labels(kind, state).set(census.jobs.get((kind, state), 0))
        if kind in census.last_success:
            metrics.job_seconds.labels(kind).set(census.durations_s[kind])
            metrics.job_success_seconds.labels(kind).set(census.last_success[kind].timestamp())
    for model, gain in census.best_gains.items():
        metrics.job_best_gain.labels(model).set(gain)
    metrics.workers.set(census.workers)


def thinned(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """At most CURVE_POINTS of a curve, its last point among them."""
    every = -(-len(curve) // CURVE_POINTS)
    return list(curve) if every <= 1 else list(curve[::-1][::every][::-1])


def _fresh(asked: Asked, actor: str, key: str | None, schedule: str | None) -> JobRow:
    return JobRow(
        id=f"job_{secrets.token_hex(8)}",
        kind=asked.kind,
        model=asked.model,
        dataset_id=asked.dataset_id,
        asked=asked.json(),
        digest=asked.digest,
        actor=actor,
        idempotency_key=key,
        schedule=schedule,
        state="queued",
        progress=0.0,
        curve=[],
        facts={},
        cancelling=False,
        revision=1,
        created_at=datetime.now(UTC),
    )


def _refuse_more(session: Session, most: int) -> None:
    queued = session.scalar(select(func.count()).where(JobRow.state == "queued"))
    if (queued or 0) >= most:
        raise UnavailableError(
            f"{queued} jobs wait already; wait for some to end, or cancel them",
            reason="queue_full",
            retry_after_s=60.0,
        )


def _after(session: Session, query: Select[Any], cursor: str) -> Select[Any]:
    """The part of a list that follows a job."""
    created = session.scalar(select(JobRow.created_at).where(JobRow.id == cursor))
    if created is None:
        issue = Issue(("query", "cursor"), "cursor: leads nowhere any more; begin again", "cursor")
        raise InvalidInputError((issue,))
    earlier = JobRow.created_at < created
    return query.where(or_(earlier, and_(JobRow.created_at == created, JobRow.id < cursor)))


def _change(session: Session, where: Any, **values: Any) -> bool:  # noqa: ANN401 - columns
    """Change what is found, and whether anything was."""
    changed = update(JobRow).where(where).values(revision=JobRow.revision + 1, **values)
    options = {"synchronize_session": False}
    return bool(session.execute(changed, execution_options=options).rowcount)  # type: ignore[attr-defined]


def _over() -> dict[str, Any]:
    return {"finished_at": datetime.now(UTC), "worker": None, "eta_s": None, "cancelling": False}


def _best_gains(session: Session) -> dict[str, float]:
    """The best gain over production that a job found, by model."""
    query = select(JobRow.model, JobRow.facts).where(
        JobRow.state.in_(("succeeded", "awaiting_promotion")),
        JobRow.kind.in_(("finetune", "search")),
    )
    best: dict[str, float] = {}
    for model, facts in session.execute(query.order_by(JobRow.created_at.desc()).limit(1000)):
        gain = facts.get("gate", {}).get("gain", {}).get("gain")
        if gain is not None:
            best[model] = max(gain, best.get(model, gain))
    return best


def _job(row: JobRow) -> Job:
    names = ("id", "kind", "model", "dataset_id", "asked", "actor", "schedule", "state", "step")
    more = ("progress", "eta_s", "facts", "error", "cancelling", "worker", "road", "revision")
    times = ("created_at", "started_at", "finished_at")
    values = {name: getattr(row, name) for name in (*names, *more, *times)}
    return Job(curve=[CurvePoint(*point) for point in row.curve], **values)


def _unknown(job_id: str) -> NotFoundError:
    return NotFoundError(f"there is no job {job_id[:64]!r}; GET /jobs lists them")
