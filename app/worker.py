"""The process that runs jobs.

Invariant: a job is run by one worker at a time, step by step, and what a step found is kept; so
the end of a worker, however sudden, costs what the step at hand had not put aside.
"""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from app import logs
from app.db import is_local, migrate, open_database
from app.desk import Facts, Road, Roads, Told
from app.diary import Diary
from app.errors import ConfigurationError, JobError, UnavailableError
from app.hand import Hand
from app.jobs import (
    GONE,
    SILENT_S,
    Book,
    CurvePoint,
    Job,
    LostError,
    Progress,
    Worker,
    directory_of,
    thinned,
)
from app.retrain import settled
from app.roads import VERSION, road_of
from app.schedules import Schedules
from app.settings import Settings
from app.versions import Versions

if TYPE_CHECKING:
    from dbos import DBOSConfig

NAME = "shopcast"
QUEUE = "shopcast-jobs"
SCHEMA = "shopcast_jobs"  # of the library's tables, in a PostgreSQL database
LOST_EXIT = 75  # EX_TEMPFAIL: another worker took over; starting again is right
RECOVERIES = 20  # a job that ended so many workers has ended for good
GIVEN_UP = "worker after worker ended in the middle of it; the log of the last one may tell why"
TURN_S = 1.0
TELL_S = 1.0  # between two reports of a job's progress
COMPARE_S = 30.0
SWEEP_S = 3600.0
AGAIN_S = 1.0  # before the database is asked again

log = structlog.get_logger(__name__)

T = TypeVar("T")


class _CancelledError(Exception):
    """Somebody wishes the end of the job."""


def run(settings: Settings, *, roads: Roads = road_of) -> None:
    """Run jobs until told to stop. Raises ConfigurationError if that cannot begin.

    roads: how each kind of job is done.
    """
    logs.configure(settings.log_level)
    _step_back(settings)
    office = _Office(settings, roads)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, office.stop)
    office.open()
    office.work()


def prepare(database: str) -> None:
    """Bring the tables of the queue up to date. Raises ConfigurationError if they cannot be."""
    from dbos import DBOS  # noqa: PLC0415 - takes a second to import, and the API never needs it

    _quiet()
    try:
        DBOS.migrate(queue_url(database), schema=SCHEMA)
    except (SQLAlchemyError, OSError) as error:
        raise ConfigurationError(f"the tables of the queue cannot be migrated: {error}") from error


def queue_url(database: str) -> str:
    """Where the queue lives: in a file beside a SQLite database, else in the same database."""
    url = make_url(database)
    if not is_local(database):
        return url.set(drivername="postgresql").render_as_string(hide_password=False)
    path = Path(url.database or "shopcast.sqlite3")
    return url.set(
        database=str(path.with_name(f"{path.stem}-queue{path.suffix}"))
    ).render_as_string()


class _Office:
    """One worker: its place among the others, its queue, and the jobs it has at hand."""

    def __init__(self, settings: Settings, roads: Roads) -> None:
        self._settings, self._roads = settings, roads
        self.name = f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._stopping = threading.Event()
        self._hands: dict[str, Hand] = {}
        self._others: dict[str, tuple[int, float]] = {}  # their beat, and since when
        self._swept_s = self._compared_s = -SWEEP_S

    def open(self) -> None:
        """Open the database and the queue. Raises ConfigurationError."""
        settings = self._settings
        if is_local(settings.database):  # a server's schema is for its operator to change
            migrate(settings.database)
            prepare(settings.database)
        self._database = open_database(settings.database)
        self._book, self._schedules = Book(self._database), Schedules(self._database)
        self._versions = Versions(self._database, settings)
        try:
            self._book.beat(self.name, VERSION)
            self._launch()
        except SQLAlchemyError as error:
            raise ConfigurationError(
                f"the database cannot be read ({type(error).__name__}); "
                "is SHOPCAST_DATABASE_URL right, and has `shopcast migrate` run?"
            ) from error

    def work(self) -> None:
        """Look after the queue until told to stop; then leave at once."""
        log.info("worker_ready", worker=self.name, jobs_at_a_time=self._settings.concurrent_jobs)
        down = False
        while not self._stopping.wait(TURN_S):
            try:
                self._turn()
            except (SQLAlchemyError, UnavailableError) as error:
                self._others.clear()  # nobody could show that he is alive
                if not down:
                    log.warning("database_down", error=type(error).__name__)
                down = True
            else:
                down = False
        self._leave(0)

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _launch(self) -> None:
        from dbos import DBOS, SetWorkflowID  # noqa: PLC0415 - as in prepare

        _quiet()
        DBOS(config=_config(self._settings, self.name))

        @DBOS.workflow(name="job", max_recovery_attempts=RECOVERIES)
        def workflow(job_id: str) -> str:
            return self._run(job_id)

        DBOS.launch()
        DBOS.register_queue(
            QUEUE, worker_concurrency=self._settings.concurrent_jobs, on_conflict="always_update"
        )

        def enqueue(job_id: str) -> None:
            with SetWorkflowID(_workflow_id(job_id, VERSION)):
                DBOS.enqueue_workflow(QUEUE, workflow, job_id)

        self._enqueue = enqueue
        self._dbos: Any = DBOS

    # --- the turn

    def _turn(self) -> None:
        """What is due about the queue."""
        self._book.beat(self.name, VERSION)
        workers = self._book.workers()
        self._take_over(workers)
        for job_id in self._schedules.ask_for_due():
            log.info("job_scheduled", job=job_id)
        roads = {each.road for each in workers}
        for job in self._book.waiting(VERSION):
            if job.road is None or job.road not in roads:
                self._put_on(job)
        self._settle()
        now_s = time.monotonic()
        if now_s - self._compared_s > COMPARE_S:
            self._compared_s = now_s
            self._compare()
        if now_s - self._swept_s > SWEEP_S:
            self._swept_s = now_s
            self._sweep()

    def _put_on(self, job: Job) -> None:
        """Put a job on the queue; should this process end half-way, the next one does it again."""
        if job.road is not None:
            self._dbos.cancel_workflow(_workflow_id(job.id, job.road))
        self._enqueue(job.id)
        self._book.put_on(job.id, VERSION)

    def _take_over(self, workers: list[Worker]) -> None:
        """Put back on the queue what dead workers held."""
        for other in workers:
            if other.id == self.name or not self._is_dead(other):
                continue
            log.warning("worker_gone", worker=other.id)
            if other.road == VERSION:
                # declares the worker dead: what it held is queued again, and by nobody twice
                self._dbos._recover_pending_workflows([other.id])  # noqa: SLF001 - has no other name
            else:
                self._begin_again(other)
            self._book.leave(other.id)
            self._others.pop(other.id, None)

    def _begin_again(self, other: Worker) -> None:
        """Jobs of another release's worker, whose steps may not be ours, begin anew."""
        for job in self._book.held_by(other.id):
            self._dbos.cancel_workflow(_workflow_id(job.id, other.road))
            shutil.rmtree(
                directory_of(self._settings.data_dir, job.id) / "state", ignore_errors=True
            )
            self._book.begin_again(job.id)

    def _is_dead(self, other: Worker) -> bool:
        """By its process, where that is of this machine, else by its silence."""
        host, pid, _ = other.id.rsplit(":", 2)
        if other.beat == GONE:
            return True
        if host == self.name.rsplit(":", 2)[0] and not _is_alive(int(pid)):
            return True
        now_s = time.monotonic()
        beat, since_s = self._others.get(other.id, (-1, now_s))
        if beat != other.beat:
            self._others[other.id] = (other.beat, now_s)
            return False
        return now_s - since_s > SILENT_S

    def _compare(self) -> None:
        """Mend what the queue and the jobs do not agree on."""
        for job in self._book.in_state("running"):
            if job.road != VERSION:
                continue
            status = self._dbos.get_workflow_status(_workflow_id(job.id, VERSION))
            if status is None:  # somebody deleted the queue
                self._book.begin_again(job.id)
            elif status.status not in {"ENQUEUED", "PENDING"}:
                self._book.give_up(job.id, GIVEN_UP)
        for job in self._book.in_state("queued"):
            if job.road == VERSION:
                self._enqueue(job.id)  # changes nothing if it is there

    def _settle(self) -> None:
        """End the jobs that waited for a promotion which has come, or cannot come any more."""
        for job in self._book.in_state("awaiting_promotion"):
            state = settled(job, self._versions)
            if state is not None:
                self._book.settle(job.id, state)

    def _sweep(self) -> None:
        """Forget the jobs that ended long ago, with their files."""
        before = datetime.now(UTC) - timedelta(days=self._settings.keep_jobs_days)
        for job_id in self._book.forget(before=before):
            shutil.rmtree(directory_of(self._settings.data_dir, job_id), ignore_errors=True)

    def _leave(self, code: int) -> None:
        """End the process, jobs at hand or not: the next worker goes on with them."""
        for hand in list(self._hands.values()):
            hand.close()
        with contextlib.suppress(SQLAlchemyError):
            self._book.depart(self.name)
        sys.stdout.flush()
        os._exit(code)  # threads of jobs wait for ever by now

    # --- a job

    def _run(self, job_id: str) -> str:
        """The workflow: a job from where it stands to its end."""
        job = self._patiently(lambda: self._book.take(job_id, self.name))
        if job is None:
            return "was not to be done any more"
        diary = Diary(directory_of(self._settings.data_dir, job_id))
        try:
            road = self._roads(job.kind)
        except JobError as refusal:
            self._end(job, diary, state="failed", error=str(refusal))
            return "failed"
        errand = _Errand(job, road, self._book, self.name)
        hand = self._hands[job_id] = Hand(self._roads, self._settings, job)
        log.info("job_begins", job=job_id, kind=job.kind)
        diary.write(f"{job.kind} of {job.model} is run by {self.name}")
        try:
            state, error = self._steps(errand, hand, diary)
        finally:
            hand.close()
            self._hands.pop(job_id, None)
        self._end(job, diary, state=state, error=error)
        return str(state)

    def _steps(self, errand: "_Errand", hand: Hand, diary: Diary) -> tuple[Any, str | None]:
        """Go the road; the state it ends in, and the reason if it is a bad one."""
        facts: dict[str, Facts] = {}
        for step in errand.road.shares:
            options = {"name": step}
            told = self._dbos.run_step(options, self._step, step, facts, errand, hand, diary)
            if told["state"] != "done":
                return told["state"], told.get("error")
            facts[step] = told["facts"]
            self._patiently(lambda: self._book.found(errand.job.id, self.name, facts))
        ends = [each["state"] for each in facts.values() if "state" in each]
        return (ends[-1] if ends else "succeeded"), None

    def _step(
        self, step: str, facts: Mapping[str, Facts], errand: "_Errand", hand: Hand, diary: Diary
    ) -> dict[str, Any]:
        """One step; what is returned is kept, and never asked for again."""
        diary.write(f"{step} begins")
        errand.begin(step)
        idle = errand.watch_last if step in errand.road.last else errand.watch
        try:
            idle()
            if step in errand.road.last:
                errand.watch()  # for the last time
            found = hand.do(step, facts, told=errand.told, noted=diary.write, idle=idle)
        except JobError as error:
            self._if_stopping()
            return {"state": "failed", "error": str(error)}
        except _CancelledError:
            return {"state": "cancelled"}
        except LostError:
            self._give_up()
        except OSError:
            self._if_stopping()
            raise
        errand.done(step)
        return {"state": "done", "facts": found}

    def _end(self, job: Job, diary: Diary, *, state: Any, error: str | None) -> None:  # noqa: ANN401
        shutil.rmtree(directory_of(self._settings.data_dir, job.id) / "state", ignore_errors=True)
        diary.write(f"{state}: {error}" if error else f"{state}")
        log.info("job_ends", job=job.id, kind=job.kind, state=state, error=error)
        self._patiently(lambda: self._book.end(job.id, self.name, state, error=error))

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do something with the database, again until it answers."""
        while True:
            try:
                return work()
            except SQLAlchemyError:
                self._if_stopping()
                time.sleep(AGAIN_S)
            except LostError:
                self._give_up()

    def _if_stopping(self) -> None:
        """Wait for the end of the process, so that what it does to this job is not taken as its."""
        while self._stopping.is_set():
            time.sleep(1)

    def _give_up(self) -> None:
        """End at once: another worker has taken this one for dead, and does its jobs."""
        log.error("worker_lost_its_jobs", worker=self.name)
        self._leave(LOST_EXIT)


class _Errand:
    """A job on its road: how far it is, and whether it is still wanted."""

    def __init__(self, job: Job, road: Road, book: Book, worker: str) -> None:
        self.job, self.road = job, road
        self._book, self._worker = book, worker
        self._curve = list(job.curve)
        self._done, self._step = 0.0, ""
        self._whole = sum(road.shares.values())
        self._began_s, self._began_at = time.monotonic(), 0.0
        self._told_s = 0.0

    def begin(self, step: str) -> None:
        self._step = step
        before = list(self.road.shares)[: list(self.road.shares).index(step)]
        self._done = sum(self.road.shares[each] for each in before) / self._whole
        if self._began_at == 0.0:
            self._began_at = self._done  # what another worker did took none of this one's time
        self._report(self._done)

    def told(self, told: Told) -> None:
        """Note how far the step is."""
        if told.step is not None:
            self._curve = [point for point in self._curve if point.step < told.step]
            self._curve.append(CurvePoint(told.step, told.training, told.validation))
        if time.monotonic() - self._told_s >= TELL_S:
            share = self.road.shares[self._step] / self._whole
            self._report(self._done + share * min(max(told.share, 0.0), 1.0))

    def done(self, step: str) -> None:
        self._report(self._done + self.road.shares[step] / self._whole)

    def watch(self) -> None:
        """Raise _CancelledError if somebody wishes the job's end, LostError if it is another's."""
        if self.unwanted():
            raise _CancelledError

    def watch_last(self) -> None:
        """Let a step that others see come to its end."""

    def unwanted(self) -> bool:
        """Whether somebody wishes its end, as far as the database can say now."""
        try:
            return self._book.cancelling(self.job.id, self._worker)
        except SQLAlchemyError:
            return False

    def _report(self, progress: float) -> None:
        self._told_s = time.monotonic()
        progress = min(progress, 0.999)  # whole only with its end
        curve = thinned(self._curve)
        now = Progress(self._step, progress, self._eta_s(progress), curve)
        try:
            if self._book.report(self.job.id, self._worker, now) and (
                self._step not in self.road.last
            ):
                raise _CancelledError
        except SQLAlchemyError as error:
            log.warning("progress_not_kept", job=self.job.id, error=type(error).__name__)

    def _eta_s(self, progress: float) -> float | None:
        """As long as the rest takes if it goes on as it did so far."""
        gone = progress - self._began_at
        if gone < 0.02:
            return None
        return (time.monotonic() - self._began_s) / gone * (1 - progress)


def _workflow_id(job_id: str, road: str) -> str:
    return f"{job_id}:{road}"


def _config(settings: Settings, name: str) -> "DBOSConfig":
    return {
        "name": NAME,
        "system_database_url": queue_url(settings.database),
        "dbos_system_schema": SCHEMA,
        "application_version": VERSION,
        "executor_id": name,
        "run_migrations": False,
        "log_level": "WARNING",
        "max_executor_threads": settings.concurrent_jobs + 8,
        "serializer": _serializer(),
    }


def _step_back(settings: Settings) -> None:
    """Leave the machine to whoever answers requests."""
    os.nice(settings.job_nice)
    threads = str(settings.job_threads or max(1, settings.cores // 2))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = threads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the server's; see there


def _quiet() -> None:
    """Let the queue's library log as the rest does."""
    logger = logging.getLogger("dbos")
    logger.addHandler(logging.NullHandler())  # so that it adds none of its own
    logger.propagate = True


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():  # that of another life of this container
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _serializer() -> Any:  # noqa: ANN401 - a class of the library
    from dbos import Serializer  # noqa: PLC0415 - as in prepare

    class Json(Serializer):
        """What the queue keeps is JSON, which runs nothing when it is read."""

        def serialize(self, data: Any) -> str:  # noqa: ANN401 - as the library types it
            if isinstance(data, BaseException):
                data = {"error": f"{type(data).__name__}: {data}"}
            return orjson.dumps(data).decode()

        def deserialize(self, serialized_data: str) -> Any:  # noqa: ANN401 - as the library types it
            return orjson.loads(serialized_data)

        def name(self) -> str:
            return "json"

    return Json()
