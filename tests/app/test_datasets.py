"""Data sets in each database that is supported, and what comes back from them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from sqlalchemy import Engine, delete
from sqlalchemy.orm import Session

from app.datasets import LOCK, Dataset, Datasets
from app.db import DatasetRow, ModelVersionRow, migrate, open_database
from app.errors import (
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from app.intake import Order
from app.metrics import Metrics
from app.moments import Clock
from app.settings import Settings
from tests.app.databases import url
from tests.app.test_intake import EVENTS, HEADER, LINES, weekly

__all__ = ["url"]

ORDERS = "\n".join(["customer,date,amount", *EVENTS])


@pytest_asyncio.fixture
async def engine(url: str) -> AsyncIterator[Engine]:
    migrate(url)
    engine = open_database(url)
    yield engine
    engine.dispose()


@pytest.fixture
def datasets(engine: Engine, tmp_path: Path) -> Datasets:
    return Datasets(engine, Settings(data_dir=tmp_path / "data"), Metrics())


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Datasets]:
    """On a database that is a file."""
    settings = Settings(data_dir=tmp_path / "data")
    migrate(settings.database)
    engine = open_database(settings.database)
    yield Datasets(engine, settings, Metrics())
    engine.dispose()


async def add(
    datasets: Datasets,
    content: list[str] | str = LINES,
    kind: Any = "series",
    name: str = "history",
    **columns: Any,
) -> tuple[Dataset, bool]:
    text = content if isinstance(content, str) else "\n".join([HEADER, *content])
    async with datasets.staging() as stage:
        file = stage / "upload"
        file.write_text(text)
        return await datasets.add(file, stage, Order(kind, columns or None), name=name)


def left(datasets: Datasets) -> list[str]:
    """What lies in the directory of the data sets."""
    directory = datasets._settings.data_dir / "datasets"
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


async def test_a_data_set_is_stored_shown_and_deleted(datasets: Datasets) -> None:
    stored, new = await add(datasets)
    assert new
    assert stored.id.startswith("ds_")
    assert (stored.name, stored.kind, stored.rows, stored.series) == ("history", "series", 180, 3)
    assert await datasets.get(stored.id) == stored
    assert left(datasets) == [stored.id, f"{stored.id}/data.parquet", f"{stored.id}/index.parquet"]
    again, new = await add(datasets, name="the same")
    assert (again, new) == (stored, False)
    other, new = await add(datasets, known_future=["price"])
    assert new
    assert other.id != stored.id
    assert other.digest == stored.digest
    assert await datasets.delete(stored.id) == stored
    with pytest.raises(NotFoundError, match="there is no data set"):
        await datasets.get(stored.id)
    with pytest.raises(NotFoundError):
        await datasets.delete("../../etc")
    assert (await add(datasets))[1]


async def test_pages_go_from_the_latest_to_the_first(datasets: Datasets) -> None:
    stored = [(await add(datasets, weekly(name)))[0].id for name in ("a", "b", "c")]
    first = await datasets.page(2)
    assert [each.id for each in first.datasets] == stored[:0:-1]
    second = await datasets.page(2, first.cursor)
    assert [each.id for each in second.datasets] == stored[:1]
    assert second.cursor is None
    with pytest.raises(InvalidInputError, match="next_cursor"):
        await datasets.page(2, "1; DROP TABLE")


async def test_the_same_at_once_is_stored_once(engine: Engine, tmp_path: Path) -> None:
    several = [Datasets(engine, Settings(data_dir=tmp_path), Metrics()) for _ in range(3)]
    found = await asyncio.gather(*(add(each) for each in several))
    assert len({dataset.id for dataset, _ in found}) == 1
    assert sorted(new for _, new in found) == [False, False, True]
    assert len(left(several[0])) == 3


async def test_what_is_refused_leaves_nothing(local: Datasets) -> None:
    with pytest.raises(InvalidInputError, match="a header and no rows"):
        await add(local, HEADER)
    assert left(local) == []


async def test_a_full_disk_leaves_nothing(local: Datasets, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    limited += "runpy.run_module('app.intake', run_name='__main__')"
    monkeypatch.setattr("app.datasets.COMMAND", (sys.executable, "-c", limited))
    with pytest.raises(DiskFullError, match="the disk is full"):
        await add(local, weekly(*(f"item-{number}" for number in range(100))))
    assert left(local) == []


async def test_too_much_memory_and_a_crash_leave_nothing(
    local: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    hungry = "import time; all = bytearray(400_000_000); time.sleep(60)"
    monkeypatch.setattr("app.datasets.COMMAND", (sys.executable, "-c", hungry))
    monkeypatch.setattr("app.datasets.MEMORY_BYTES", 100_000_000)
    with pytest.raises(TooLargeError, match="takes more than 95 MiB of memory"):
        await add(local)
    monkeypatch.setattr("app.datasets.COMMAND", (sys.executable, "-c", "import os; os.abort()"))
    with pytest.raises(UnavailableError, match="could not be taken in"):
        await add(local)
    assert left(local) == []


async def test_a_caller_who_leaves_ends_the_work(
    local: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "import time; time.sleep(60)"
    monkeypatch.setattr("app.datasets.COMMAND", (sys.executable, "-c", slow))
    work = asyncio.create_task(add(local))
    await asyncio.sleep(0.5)
    assert left(local)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert left(local) == []


async def test_what_a_dead_process_left_is_swept_away(local: Datasets) -> None:
    stored, _ = await add(local)
    directory = local._settings.data_dir / "datasets"
    die = "import fcntl, os, sys; path = sys.argv[1]; os.makedirs(path); "
    die += "lock = open(path + '/lock', 'w'); fcntl.flock(lock, fcntl.LOCK_EX); os._exit(9)"
    half = directory / ".half"
    dead = await asyncio.create_subprocess_exec(sys.executable, "-c", die, str(half))
    await dead.wait()
    (directory / stored.id / LOCK).touch()  # stored, and killed before the lock was gone
    async with local.staging() as mine:
        local.sweep()
        assert not half.exists()
        assert mine.exists()
    assert left(local) == [stored.id, f"{stored.id}/data.parquet", f"{stored.id}/index.parquet"]


async def test_rows_that_the_database_has_forgotten_are_stored_anew(
    datasets: Datasets, engine: Engine
) -> None:
    stored, _ = await add(datasets)
    with Session(engine) as session, session.begin():
        session.execute(delete(DatasetRow))
    again, new = await add(datasets)
    assert (again.id, new) == (stored.id, True)
    os.unlink(datasets._settings.data_dir / "datasets" / stored.id / "data.parquet")  # noqa: PTH108
    with pytest.raises(InvalidInputError, match="has lost its files; upload it again"):
        datasets.records(stored.id)


async def test_versions_trained_on_a_data_set_are_known(datasets: Datasets, engine: Engine) -> None:
    stored, _ = await add(datasets)
    assert datasets.versions_trained_on(stored.id) == []
    with Session(engine) as session, session.begin():
        row = ModelVersionRow(name="sales", version=7, source="s", size_bytes=1, manifest={})
        row.dataset_id = stored.id
        session.add(row)
    assert datasets.versions_trained_on(stored.id) == [("sales", 7)]


async def test_what_a_data_set_holds_comes_back(local: Datasets) -> None:
    stored, _ = await add(local)
    records, freq = local.records(stored.id)
    assert sorted(record.item for record in records) == ["a", "b", "c"]
    assert freq == "W-MON"
    assert local.segment(stored.id, "brand") == {"a": "Xa", "b": "Xb", "c": "Xc"}
    with pytest.raises(InvalidInputError, match="has no column 'colour'; it has brand, price"):
        local.segment(stored.id, "colour")
    with pytest.raises(InvalidInputError, match="is of series, not of events"):
        local.population(stored.id)
    events, _ = await add(local, ORDERS, "events")
    population, as_of = local.population(events.id, most_customers=50)
    assert as_of.written() == "2026-09-16T11:00:00"
    assert len(population) == 50
    with pytest.raises(InvalidInputError, match="nobody has an event before 2020"):
        local.population(events.id, Clock().moment("2020-01-01"))


async def test_a_customer_is_in_the_segment_of_its_latest_row(local: Datasets) -> None:
    lines = [
        "customer,date,amount,region,category",
        *("a,2026-01-01,1,north,shoes", "a,2026-02-01,1,south,", "a,2026-03-01,1,west,bags"),
        *("b,2026-02-05,1,,", "b,2026-04-01,1,west,shoes", "c,2026-01-05,1,east,bags"),
    ]
    stored, _ = await add(local, "\n".join(lines), "events")
    crowd, as_of = local.population(stored.id)

    def segment(column: str, month: int) -> dict[int, str | None]:
        """By the number of events, which tells the three apart."""
        before = Clock().moment(f"2026-0{month}-01").days
        found = local.customer_segment(
            stored.id, column, as_of=as_of, before=before, most_customers=None
        )
        return dict(zip(np.diff(crowd.starts).tolist(), found, strict=True))

    assert segment("region", 3) == {3: "south", 2: None, 1: "east"}
    assert segment("region", 5) == {3: "west", 2: "west", 1: "east"}
    assert segment("region", 1) == {3: None, 2: None, 1: None}
    assert segment("category", 3) == {3: "shoes", 2: None, 1: "bags"}
    with pytest.raises(InvalidInputError, match="has kept no column 'plan'; it has region, cat"):
        segment("plan", 3)
