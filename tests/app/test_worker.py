"""The worker: real processes, real ends of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import diary
from app.db import migrate, open_database
from app.jobs import Asked, Book, Job, directory_of
from app.worker import prepare
from tests.app.databases import url
from tests.postgres_server import PostgresServer, postgres

__all__ = ["postgres", "url"]

PATIENCE_S = 60.0
COMMAND = (
    "from app.settings import Settings; from app.worker import run; "
    "from tests.app.roads import counting; run(Settings(), roads=counting)"
)
#: What is done first in a worker of the release before, and in one with room for files of 8 MB.
EARLIER = "import app.worker; app.worker.VERSION = 'before'; "
NARROW = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20)); "

one_database = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


class Office:
    """Workers on one database, and what they do to its jobs."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url, self.directory = url, directory
        migrate(url)
        prepare(url)
        self.engine = open_database(url)
        self.book = Book(self.engine)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, first: str = "") -> subprocess.Popen[bytes]:
        own = {
            "SHOPCAST_DATA_DIR": str(self.directory),
            "SHOPCAST_DATABASE_URL": self.url,
            "SHOPCAST_JOB_NICE": "0",  # others may use the machine
        }
        with (self.directory / "worker.log").open("a") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-c", first + COMMAND],
                env=os.environ | own,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def ask(self, most: int = 10, kind: str = "finetune") -> Job:
        asked = Asked(kind, "sales", "ds_0", {"most": most})  # type: ignore[arg-type]
        return self.book.add(asked, actor="anonymous")[0]

    def until(self, job: Job, holds: Callable[[Job], bool]) -> Job:
        """Wait until something holds of a job."""
        ends_s = time.monotonic() + PATIENCE_S
        while not holds(found := self.book.get(job.id)):
            assert time.monotonic() < ends_s, (found, self.log())
            time.sleep(0.05)
        return found

    def end(self, job: Job) -> Job:
        return self.until(job, lambda each: each.ended)

    def log(self) -> str:
        return (self.directory / "worker.log").read_text()

    def files(self, job: Job) -> Path:
        return directory_of(self.directory, job.id)


@contextmanager
def opened(url: str, directory: Path) -> Iterator[Office]:
    made = Office(url, directory)
    try:
        yield made
    finally:
        for process in made.processes:
            process.kill()
            process.wait()
        made.engine.dispose()


@pytest.fixture
def office(url: str, tmp_path: Path) -> Iterator[Office]:
    with opened(url, tmp_path) as made:
        yield made


def test_a_job_goes_its_road_and_tells_of_it(office: Office) -> None:
    good, bad = office.ask(most=100), office.ask(kind="quantize")
    office.start()
    seen = office.until(good, lambda job: job.step == "fit" and 0.2 < job.progress < 0.9)
    assert seen.state == "running"
    done = office.end(good)
    assert (done.state, done.progress, done.error) == ("succeeded", 1.0, None)
    assert done.facts["fit"] == {"count": 100, "first": 0}
    assert done.curve[-1].step == 100
    assert done.curve[-1].training == pytest.approx(0.01)
    assert not (office.files(good) / "state").exists()
    assert "read the data" in diary.read(office.files(good))
    failed = office.end(bad)
    assert (failed.state, failed.error) == ("failed", "the dataset ds_0 has too few series")


def test_a_killed_worker_is_followed_by_one_that_goes_on(office: Office) -> None:
    job = office.ask(most=250)
    first = office.start()
    office.until(job, lambda each: each.step == "fit" and each.progress > 0.3)
    first.kill()
    first.wait()
    office.start()
    done = office.end(job)
    assert done.state == "succeeded"
    assert done.facts["fit"]["first"] > 20
    assert (office.files(job) / "reads.txt").read_text() == "x"
    assert (office.files(job) / "versions.txt").read_text() == "x"
    assert [each.id for each in office.book.workers()] == [office.book.workers()[0].id]


def test_a_worker_told_to_stop_leaves_its_job_to_the_next(office: Office) -> None:
    job = office.ask(most=250)
    first = office.start()
    office.until(job, lambda each: each.step == "fit" and each.progress > 0.3)
    first.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0
    assert office.book.get(job.id).state == "running"
    office.start()
    assert office.end(job).facts["fit"]["first"] > 20


def test_cancelling_stops_within_seconds_and_leaves_nothing_half(office: Office) -> None:
    running, queued = office.ask(most=100_000), office.ask()
    office.start()
    office.until(running, lambda job: job.step == "fit" and bool(job.curve))
    assert office.book.cancel(queued.id).state == "cancelled"
    asked_s = time.monotonic()
    assert office.book.cancel(running.id).cancelling
    office.end(running)
    assert time.monotonic() - asked_s < 5.0
    assert office.book.get(running.id).state == "cancelled"
    assert not (office.files(running) / "state").exists()
    assert not (office.files(running) / "versions.txt").exists()
    last = office.ask(most=1)
    assert office.end(last).state == "succeeded"
    assert not office.files(queued).exists()


@one_database
def test_a_job_begun_by_an_earlier_release_begins_anew(office: Office) -> None:
    job = office.ask(most=150)
    earlier = office.start(EARLIER)
    office.until(job, lambda each: each.step == "fit" and each.progress > 0.3)
    earlier.kill()
    earlier.wait()
    office.start()
    done = office.end(job)
    assert (done.state, done.error) == ("succeeded", None)
    assert done.facts["fit"] == {"count": 150, "first": 0}
    assert (office.files(job) / "reads.txt").read_text() == "xx"
    assert (office.files(job) / "versions.txt").read_text() == "x"


@one_database
def test_a_full_disk_ends_the_job_alone(office: Office) -> None:
    full, good = office.ask(kind="distill"), office.ask()
    office.start(NARROW)
    failed = office.end(full)
    assert failed.state == "failed"
    assert "the disk is full" in str(failed.error)
    assert not (office.files(full) / "state").exists()
    assert not (office.files(full) / "versions.txt").exists()
    assert office.end(good).state == "succeeded"


def test_jobs_outlive_a_restart_of_the_database(postgres: PostgresServer, tmp_path: Path) -> None:
    with opened(postgres.url, tmp_path) as office:
        running, queued = office.ask(most=120), office.ask()
        worker = office.start()
        office.until(running, lambda job: job.step == "fit" and job.progress > 0.3)
        postgres.crash()
        time.sleep(4.0)  # in which the step ends
        postgres.start()
        asked = office.ask()
        for job in (running, queued, asked):
            done = office.end(job)
            assert (done.state, done.error) == ("succeeded", None)
            assert done.facts["fit"]["first"] == 0
            assert (office.files(job) / "reads.txt").read_text() == "x"
            assert (office.files(job) / "versions.txt").read_text() == "x"
        assert worker.poll() is None
        assert len(office.book.workers()) == 1
