"""Data sets: what shops upload of their past, by id; their rows on disk, the rest in the database.

Invariant: a data set is there whole or not at all, also after a crash, a full disk or a caller
who left; it never changes, and the same content read in the same way has the same id.

A directory that is being made or taken away holds a lock that its process keeps; one whose lock
nobody keeps is what a dead process left.
"""

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, delete, select, tuple_
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.contents import EventContents, SeriesContents
from app.db import DatasetRow, ModelVersionRow
from app.errors import (
    ConflictError,
    DiskFullError,
    InvalidInputError,
    Issue,
    NotFoundError,
    ShopcastError,
    TooLargeError,
    UnavailableError,
)
from app.events_intake import SEGMENT, THINGS
from app.intake import FULL, Order, Taken, check
from app.mappings import Kind
from app.metrics import Metrics
from app.moments import Moment
from app.settings import Settings
from models.backtest import Record
from models.customers import Population

DIRECTORY = "datasets"
LOCK = "lock"
MEMORY_BYTES = 1 << 30  # of the process that takes a file in
COMMAND = (sys.executable, "-P", "-m", "app.intake")
WATCH_S = 0.05
BUSY = frozenset({errno.ENOTEMPTY, errno.EEXIST})
LONGEST_NAME = 128
MOST_LISTED = 100
_ID = re.compile("ds_[0-9a-f]{16}")
_CURSOR = re.compile("([0-9]{1,17})-(ds_[0-9a-f]{16})")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is known of one. series: series or customers. bytes: on disk.

    columns: what each column of the file was taken for. errors: the first rows that were left out,
    of `error_rows`. types: of events, how many of each. Times are local.
    """

    id: str
    name: str
    kind: Kind
    digest: str
    rows: int
    series: int
    bytes: int
    created_at: datetime
    freq: str | None
    start: str | None
    end: str | None
    gaps: int | None
    duplicates: int | None
    unsorted: int
    columns: dict[str, Any]
    errors: list[dict[str, Any]]
    error_rows: int
    warnings: list[dict[str, Any]]
    notes: list[str]
    types: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some data sets, the latest first; cursor: where the list goes on, None at its end."""

    datasets: list[Dataset]
    cursor: str | None


class Datasets:
    """The data sets of a database and a data directory."""

    def __init__(
        self,
        database: Engine,
        settings: Settings,
        metrics: Metrics,
        *,
        in_use: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """in_use: the job that a data set is needed by, if there is one; blocking."""
        self._database, self._settings, self._metrics = database, settings, metrics
        self._in_use = in_use
        self._directory = settings.data_dir / DIRECTORY
        self._turn = asyncio.Semaphore(1)

    # --- by many callers at a time

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[Path]:
        """A directory of its own, on the disk of the data sets; gone at the end.

        Raises DiskFullError, also for what is written to it.
        """
        stage, lock = await asyncio.to_thread(self._stage)
        try:
            with _disk():
                yield stage
        finally:
            await asyncio.to_thread(_clear, stage, lock)

    async def add(
        self, file: Path, stage: Path, order: Order, *, name: str
    ) -> tuple[Dataset, bool]:
        """Take a file in, and whether it was new. stage: from `staging`, used up by this.

        Raises InvalidInputError, TooLargeError, DiskFullError, UnavailableError.
        """
        stop = threading.Event()
        began_s = time.perf_counter()
        async with self._turn:  # one at a time, each within its memory
            work = asyncio.ensure_future(
                asyncio.to_thread(self.add_now, file, stage, order, name=name, stop=stop)
            )
            try:
                dataset, new = await asyncio.shield(work)
            except asyncio.CancelledError:
                stop.set()
                with suppress(ShopcastError):
                    await work
                raise
        self._metrics.dataset_seconds.observe(time.perf_counter() - began_s)
        return dataset, new

    async def get(self, id_: str) -> Dataset:
        """Raises NotFoundError, UnavailableError."""
        return await asyncio.to_thread(self.read, id_)

    async def page(self, limit: int, cursor: str | None = None) -> Page:
        """Some data sets, the latest first. Raises InvalidInputError, UnavailableError."""
        return await asyncio.to_thread(self._page, limit, cursor)

    async def delete(self, id_: str) -> Dataset:
        """Delete one; what it was. Raises NotFoundError, ConflictError, UnavailableError."""
        return await asyncio.to_thread(self._delete, id_)

    # --- blocking

    def add_now(
        self,
        file: Path,
        stage: Path,
        order: Order,
        *,
        name: str,
        stop: threading.Event | None = None,
    ) -> tuple[Dataset, bool]:
        """As `add`. stop: set to give up."""
        _check_name(name)
        check(order)
        to = stage / "made"
        with _disk():
            to.mkdir()
        taken = _take_in(
            file, to, order, self._settings.max_upload_bytes, stop=stop or threading.Event()
        )
        found = _dataset(taken, order, name)
        with self._answers():
            return self._keep(found, to)

    def read(self, id_: str) -> Dataset:
        """As `get`."""
        with self._answers(), Session(self._database) as session:
            row = session.get(DatasetRow, id_) if _ID.fullmatch(id_) else None
            if row is None:
                raise _unknown(id_)
            return _from_row(row)

    def check_kind(self, id_: str, model: str) -> None:
        """Raise NotFoundError, or InvalidInputError if a data set is none that a model learns from.

        Blocking.
        """
        self._of_kind(id_, "series" if model == "sales" else "events")

    def series(self, id_: str) -> SeriesContents:
        """What a data set of series holds. Raises NotFoundError, InvalidInputError."""
        dataset = self._of_kind(id_, "series")
        if dataset.freq is None:
            raise _of_no_use(id_, "has no row")
        with self._there(id_):
            return SeriesContents(self._directory / id_, dataset.freq, dataset.columns)

    def events(self, id_: str) -> EventContents:
        """What a data set of events holds. Raises NotFoundError, InvalidInputError."""
        dataset = self._of_kind(id_, "events")
        if dataset.end is None:
            raise _of_no_use(id_, "has no row")
        with self._there(id_):
            return EventContents(self._directory / id_, dataset.end)

    def records(self, id_: str, *, most_series: int | None = None) -> tuple[list[Record], str]:
        """The series of a data set and their frequency; see `SeriesContents.records`.

        Raises NotFoundError, InvalidInputError.
        """
        contents = self.series(id_)
        return contents.records(most_series=most_series), contents.freq

    def population(
        self, id_: str, as_of: Moment | None = None, *, most_customers: int | None = None
    ) -> tuple[Population, Moment]:
        """The customers of a data set, and the moment they are seen from.

        as_of: by default the first whole hour after the latest event.
        Raises NotFoundError, InvalidInputError.
        """
        contents = self.events(id_)
        moment = as_of or contents.until()
        try:
            return contents.population(moment, most_customers=most_customers), moment
        except ValueError as error:
            raise _of_no_use(id_, str(error)) from error

    def segment(self, id_: str, column: str) -> dict[str, str]:
        """What a column says of each item. Raises NotFoundError, InvalidInputError."""
        known = self._of_kind(id_, "series").columns
        names = [*known["segment"], *known["unused"], *known["past_only"], *known["known_future"]]
        if column not in names:
            raise _of_no_use(id_, f"has no column {column[:64]!r}; it has {', '.join(names)}")
        return self.series(id_).segment(column)

    def customer_segment(
        self, id_: str, column: str, *, as_of: Moment, before: float, most_customers: int | None
    ) -> list[str | None]:
        """What a column says of each customer of `population`; see `EventContents.segment`.

        Raises NotFoundError, InvalidInputError.
        """
        known = self._of_kind(id_, "events").columns
        kept = {name: SEGMENT + name for name in known.get("segment", ())}
        kept |= {known[role]: role for role in ("type", *THINGS) if known[role] is not None}
        if column not in kept:
            raise _of_no_use(
                id_,
                f"has kept no column {column[:64]!r}; it has {', '.join(kept) or 'none'}; others "
                "are kept where `columns.segment` names them as the file is sent",
            )
        return self.events(id_).segment(
            kept[column], as_of=as_of, before=before, most_customers=most_customers
        )

    def versions_trained_on(self, id_: str) -> list[tuple[str, int]]:
        """The model versions that were fitted to a data set, by name and number."""
        named = (ModelVersionRow.name, ModelVersionRow.version)
        ask = select(*named).where(ModelVersionRow.dataset_id == id_).order_by(*named)
        with self._answers(), Session(self._database) as session:
            return [(name, version) for name, version in session.execute(ask)]

    def sweep(self) -> None:
        """Take away what dead processes left half done."""
        for path in self._directory.glob("*") if self._directory.is_dir() else ():
            lock = _abandoned(path)
            if lock is None:
                continue
            try:
                if self._is_known(path.name):
                    (path / LOCK).unlink()
                else:
                    log.info("a data set that was left half done is taken away: %s", path.name)
                    shutil.rmtree(path, ignore_errors=True)
            except SQLAlchemyError:
                log.warning("the data sets were not looked through", exc_info=True)
            finally:
                os.close(lock)

    # --- the database

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            log.warning("the database did not answer for a data set", exc_info=True)
            raise UnavailableError(
                "data sets cannot be read or stored now", reason="database", retry_after_s=2.0
            ) from error

    def _is_known(self, id_: str) -> bool:
        with Session(self._database) as session:
            return session.get(DatasetRow, id_) is not None

    def _keep(self, found: Dataset, made: Path) -> tuple[Dataset, bool]:
        """Let a data set be there, unless it is."""
        known = self._known(found)
        if known is not None:
            return known, False
        to, lock = self._directory / found.id, _locked(made)
        try:
            if not _placed(made, to):
                return self._settled(found), False
            with Session(self._database) as session, session.begin():
                session.add(_row(found))
            (to / LOCK).unlink()
        except IntegrityError:  # another process was quicker, with the same rows
            (to / LOCK).unlink(missing_ok=True)
            return self._settled(found), False
        finally:
            os.close(lock)
        return found, True

    def _stage(self) -> tuple[Path, int]:
        stage = self._directory / f".{uuid.uuid4().hex}"
        with _disk():
            stage.mkdir(parents=True)
            return stage, _locked(stage)

    def _known(self, found: Dataset) -> Dataset | None:
        with Session(self._database) as session:
            row = session.get(DatasetRow, found.id)
            return None if row is None else _from_row(row)

    def _settled(self, found: Dataset) -> Dataset:
        """The same data set, which another caller is about to store."""
        for _ in range(100):
            known = self._known(found)
            if known is not None:
                return known
            time.sleep(WATCH_S)
        raise UnavailableError(
            "the same data set is being stored or deleted by somebody else; try again",
            reason="dataset",
        )

    def _page(self, limit: int, cursor: str | None) -> Page:
        ask = select(DatasetRow).order_by(DatasetRow.created_at.desc(), DatasetRow.id.desc())
        if cursor is not None:
            match = _CURSOR.fullmatch(cursor)
            if match is None:
                message = "cursor: take it from `next_cursor` of the page before"
                raise InvalidInputError((Issue(("query", "cursor"), message, "cursor"),))
            place = (datetime.fromtimestamp(int(match[1]) / 1e6, UTC), match[2])
            ask = ask.where(tuple_(DatasetRow.created_at, DatasetRow.id) < place)
        with self._answers(), Session(self._database) as session:
            found = [_from_row(row) for row in session.scalars(ask.limit(limit + 1))]
        more = len(found) > limit
        last = found[limit - 1] if more else None
        told = None if last is None else f"{round(last.created_at.timestamp() * 1e6)}-{last.id}"
        return Page(found[:limit], told)

    def _delete(self, id_: str) -> Dataset:
        found, path = self.read(id_), self._directory / id_
        with self._answers():
            job = self._in_use(id_)
        if job is not None:
            raise ConflictError(
                f"the data set {id_} is needed by the job {job}; wait for its end, or cancel it"
            )
        lock = _locked(path) if path.is_dir() else None
        try:
            with self._answers(), Session(self._database) as session, session.begin():
                session.execute(delete(DatasetRow).where(DatasetRow.id == id_))
            shutil.rmtree(path, ignore_errors=True)
        finally:
            if lock is not None:
                os.close(lock)
        return found

    def _of_kind(self, id_: str, kind: Kind) -> Dataset:
        dataset = self.read(id_)
        if dataset.kind != kind:
            raise _of_no_use(id_, f"is of {dataset.kind}, not of {kind}")
        return dataset

    @contextmanager
    def _there(self, id_: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise _of_no_use(id_, "has lost its files; upload it again") from error


# --- the process that takes a file in


def _take_in(
    file: Path, to: Path, order: Order, most_bytes: int, *, stop: threading.Event
) -> Taken:
    said = {"path": str(file), "to": str(to), "most_bytes": most_bytes, "order": asdict(order)}
    passed = _descriptor(file)
    with subprocess.Popen(  # noqa: S603 - this program itself
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=passed
    ) as process:
        answer = _answer_of(process, orjson.dumps(said), stop)
    if not answer:
        raise UnavailableError("the file could not be taken in; see the log", reason="intake")
    return _taken(orjson.loads(answer))


def _answer_of(process: subprocess.Popen[bytes], said: bytes, stop: threading.Event) -> bytes:
    """What it answers, unless it takes too much memory or is not waited for any more."""
    sent: bytes | None = said
    while True:
        try:
            answer, _ = process.communicate(sent, timeout=WATCH_S)
        except subprocess.TimeoutExpired:
            sent = None
        else:
            return answer if process.returncode == 0 else b""
        if stop.is_set():
            process.kill()
        elif _resident_bytes(process.pid) > MEMORY_BYTES:
            process.kill()
            process.wait()
            raise TooLargeError(
                f"to read the file takes more than {MEMORY_BYTES >> 20:,} MiB of memory, which no "
                "usual table does; send it as CSV, or in smaller row groups"
            )


def _taken(answer: dict[str, Any]) -> Taken:
    """What was taken in. Raises what was raised there."""
    failure = answer.get("failure")
    if failure == "invalid":
        issues = (Issue(tuple(each["loc"]), each["msg"], each["type"]) for each in answer["issues"])
        raise InvalidInputError(tuple(issues))
    if failure == TooLargeError.__name__:
        raise TooLargeError(answer["message"])
    if failure == DiskFullError.__name__:
        raise DiskFullError(answer["message"])
    return Taken(**answer["taken"])


def _descriptor(file: Path) -> tuple[int, ...]:
    """The open file that a path such as /dev/fd/7 means."""
    return (int(file.name),) if file.parent == Path("/dev/fd") else ()


def _resident_bytes(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# --- files


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError("the disk is full; nothing of the file was kept") from error
        raise


def _locked(directory: Path) -> int:
    """A lock on a directory, kept until the descriptor is closed."""
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _placed(made: Path, to: Path) -> bool:
    """Move a directory to its place, unless somebody is busy there."""
    if to.exists():
        lock = _abandoned(to)
        if lock is None and (to / LOCK).exists():
            return False
        shutil.rmtree(to, ignore_errors=True)  # of equal rows, which nobody knows any more
        if lock is not None:
            os.close(lock)
    try:
        made.rename(to)
    except OSError as error:
        if error.errno in BUSY:
            return False
        raise
    return True


def _clear(stage: Path, lock: int) -> None:
    shutil.rmtree(stage, ignore_errors=True)
    os.close(lock)


def _abandoned(directory: Path) -> int | None:
    """The lock on a directory that somebody locked and nobody does now; None for others."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


# --- words


def _dataset(taken: Taken, order: Order, name: str) -> Dataset:
    columns = taken.facts["columns"]
    said = [taken.digest, order.kind, taken.facts["freq"], columns]
    named = hashlib.blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=8)
    return Dataset(
        id=f"ds_{named.hexdigest()}",
        name=name,
        kind=order.kind,
        digest=taken.digest,
        rows=taken.rows,
        series=taken.series,
        bytes=taken.bytes,
        created_at=datetime.now(UTC),
        errors=taken.errors,
        error_rows=taken.error_rows,
        warnings=taken.warnings,
        notes=taken.notes,
        **taken.facts,
    )


IN_COLUMNS = frozenset(("id", "name", "kind", "digest", "rows", "series", "bytes", "created_at"))


def _row(dataset: Dataset) -> DatasetRow:
    every = asdict(dataset)
    summary = {name: value for name, value in every.items() if name not in IN_COLUMNS}
    return DatasetRow(
        id=dataset.id,
        name=dataset.name,
        kind=dataset.kind,
        digest=dataset.digest,
        rows=dataset.rows,
        series=dataset.series,
        size_bytes=dataset.bytes,
        summary=summary,
        created_at=dataset.created_at,
    )


def _from_row(row: DatasetRow) -> Dataset:
    return Dataset(
        id=row.id,
        name=row.name,
        kind="events" if row.kind == "events" else "series",
        digest=row.digest,
        rows=row.rows,
        series=row.series,
        bytes=row.size_bytes,
        created_at=row.created_at,
        **row.summary,
    )


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        message = f"name: must be of 1 to {LONGEST_NAME} printable characters"
        raise InvalidInputError((Issue(("name",), message, "name"),))


def _unknown(id_: str) -> NotFoundError:
    return NotFoundError(f"there is no data set {id_[:64]!r}; GET /datasets lists those there are")


def _of_no_use(id_: str, why: str) -> InvalidInputError:
    message = f"dataset_id: the data set {id_} {why}"
    return InvalidInputError((Issue(("dataset_id",), message, "dataset"),))
