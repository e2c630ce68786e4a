"""The process that does the steps of one job.

Invariant: whatever happens in it, short of memory or a crash in foreign code, ends this process
and fails this job alone; and it never outlives the worker whose hand it is.
"""

import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import logs
from app.desk import Desk, Facts, Roads, Told
from app.errors import InvalidInputError, JobError, ShopcastError, UnavailableError
from app.jobs import Job, directory_of
from app.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

POLL_S = 0.5  # how soon a wish to stop is seen
DIES_WITHIN_S = 10.0
PATIENCE_S = 300.0  # for a database that is away in the middle of a job
AGAIN_S = 2.0

log = logging.getLogger(__name__)


class Hand:
    """The worker's side: starts the process with the first step, and ends it."""

    def __init__(self, roads: Roads, settings: Settings, job: Job) -> None:
        self._roads, self._settings, self._job = roads, settings, job
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def do(
        self,
        step: str,
        facts: Mapping[str, Facts],
        *,
        told: Callable[[Told], None],
        noted: Callable[[str], None],
        idle: Callable[[], None],
    ) -> Facts:
        """Do a step. Raises JobError with the reason if it cannot be done.

        idle: called twice a second; what it raises ends the process and comes out here.
        """
        pipe = self._pipe or self._start()
        pipe.send((step, dict(facts)))
        try:
            while True:
                if pipe.poll(POLL_S):
                    sort, value = pipe.recv()
                    if sort == "done":
                        return dict(value)
                    if sort == "failed":
                        raise JobError(value)
                    (told if sort == "told" else noted)(value)
                else:
                    idle()
        except (EOFError, ConnectionError) as error:
            raise JobError(self._why_gone(step)) from error

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join(DIES_WITHIN_S)
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(self._roads, self._settings, self._job, theirs), name="job"
        )
        self._process.start()
        theirs.close()
        return self._pipe

    def _why_gone(self, step: str) -> str:
        process = self._process
        if process is None:
            return f"the step {step} was given up"
        process.join(DIES_WITHIN_S)
        if process.exitcode == -signal.SIGKILL:
            return (
                f"the process of the step {step} was killed; most likely memory ran short: ask for "
                "less at a time, or give the machine more"
            )
        return f"the process of the step {step} ended with {process.exitcode}"


def _work(roads: Roads, settings: Settings, job: Job, pipe: Connection) -> None:
    """The process: does the steps it is sent, one by one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_worker()
    logs.configure(settings.log_level)
    os.environ["HF_HUB_OFFLINE"] = "1"  # no library of the process asks the network for a model
    directory = directory_of(settings.data_dir, job.id)
    desk = Desk(
        job,
        settings,
        directory,
        tell=lambda told: pipe.send(("told", told)),
        note=lambda text: pipe.send(("note", text)),
    )
    guard = _alone_in(directory)
    steps = None
    while True:
        step, desk.facts = pipe.recv()
        try:
            steps = steps or roads(job.kind).open(desk)
            pipe.send(("done", _patiently(steps[step])))
        except Exception as error:  # noqa: BLE001 - of the worker: the job's failure is recorded
            pipe.send(("failed", _reason(error, step, job.id)))
            os.close(guard)
            return


def _patiently(work: Callable[[], Facts]) -> Facts:
    """Do a step, again while the database is away."""
    ends_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except UnavailableError as error:
            if error.reason != "database" or time.monotonic() > ends_s:
                raise
            time.sleep(AGAIN_S)


def _alone_in(directory: Path) -> int:
    """Wait until no other process works in a job's directory, and keep others out."""
    directory.mkdir(parents=True, exist_ok=True)
    guard = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(guard, fcntl.LOCK_EX)
    return guard


def _reason(error: Exception, step: str, job_id: str) -> str:
    """Why a step failed, for whoever asked for the job."""
    if isinstance(error, InvalidInputError):
        return "; ".join(issue.msg for issue in error.issues)
    if isinstance(error, ShopcastError):
        return str(error)
    log.error("a step failed: %s of %s\n%s", step, job_id, traceback.format_exc())
    if isinstance(error, MemoryError):
        return f"memory ran short in the step {step}; ask for less at a time"
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return f"the disk is full ({error.strerror}), and nothing was changed; ask again with room"
    return f"something went wrong in the step {step}; the worker's log tells more under {job_id}"


def _end_with_worker() -> None:
    worker: Any = multiprocessing.parent_process()

    def wait() -> None:
        worker.join()
        os._exit(1)

    threading.Thread(target=wait, name="worker", daemon=True).start()
