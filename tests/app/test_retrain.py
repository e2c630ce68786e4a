"""Retraining from a file to a version that serves, by a real worker on a tiny network."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest

from app import diary
from app.api.job_words import read_job
from app.datasets import Datasets
from app.db import migrate, open_database
from app.intake import Order
from app.jobs import Book, Job, directory_of
from app.metrics import Metrics
from app.settings import Settings
from app.versions import PRODUCTION, Manifest, Versions
from app.worker import prepare
from models.checkpoint import shipped

pytestmark = pytest.mark.timeout(300)  # some run several jobs, each of which has its patience
PATIENCE_S = 100.0
COMMAND = "from app.settings import Settings; from app.worker import run; run(Settings())"
QUICK = {"steps": 20, "rows": 16, "look_every": 10, "validation": 1, "replay": 0.0, "origins": 1}


class Shop:
    """A data directory with a version of a model in production, and a worker on it."""

    def __init__(self, directory: Path, checkpoint: Path, model: str = "sales") -> None:
        self.model = model
        self.settings = Settings(data_dir=directory, threads=1)
        migrate(self.settings.database)
        prepare(self.settings.database)
        database = open_database(self.settings.database)
        self.book, self.versions = Book(database), Versions(database, self.settings)
        self.datasets = Datasets(database, self.settings, Metrics())
        self.versions.register(model, checkpoint, Manifest("settings"))
        self.versions.promote(model, 1, actor="test")
        self.log = directory / "worker.log"
        self.start()

    def start(self, command: str = COMMAND) -> None:
        """Start a worker."""
        own = {"SHOPCAST_DATA_DIR": str(self.settings.data_dir), "SHOPCAST_THREADS": "1"}
        with self.log.open("a") as log:
            self.worker = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-c", command],
                env=os.environ | own | {"SHOPCAST_JOB_NICE": "0"},
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """Kill the worker."""
        self.worker.kill()
        self.worker.wait()

    def dataset(self, table: pd.DataFrame) -> str:
        file = self.settings.data_dir / "sent.csv"
        table.to_csv(file, index=False)
        order = Order("series" if self.model == "sales" else "events")

        async def add() -> str:
            async with self.datasets.staging() as stage:
                dataset, _ = await self.datasets.add(file, stage, order, name="sent")
                return dataset.id

        return asyncio.run(add())

    def done(self, dataset: str, **words: Any) -> Job:
        """Ask for a job, and wait for its end."""
        return self.ended(self.ask(dataset, **words))

    def ended(self, job: Job) -> Job:
        return self.until(job, lambda each: each.state not in {"queued", "running"})

    def ask(self, dataset: str, **words: Any) -> Job:
        raw = {"kind": "finetune", "model": self.model, "dataset_id": dataset, **words}
        return self.book.add(read_job(raw), actor="test")[0]

    def until(self, job: Job, holds: Callable[[Job], bool]) -> Job:
        """Wait until something holds of a job."""
        ends_s = time.monotonic() + PATIENCE_S
        while not holds(found := self.book.get(job.id)):
            assert time.monotonic() < ends_s, (found, self.log.read_text()[-3000:])
            time.sleep(0.1)
        return found

    def files(self, job: Job) -> Path:
        return directory_of(self.settings.data_dir, job.id)


@pytest.fixture(scope="module")
def shop(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("shop"), tiny_checkpoint)
    yield made
    made.kill()


def sales(
    series: int = 8, periods: int = 120, *, start: str = "2026-01-01", seed: int = 1
) -> pd.DataFrame:
    """Days of weeks that repeat, of shops in two regions."""
    rng = np.random.default_rng(seed)
    days = pd.date_range(start, periods=periods, freq="D")
    week = 20 + 10 * np.sin(2 * np.pi * np.arange(periods) / 7)
    parts = [
        pd.DataFrame(
            {
                "item_id": f"sku-{number}",
                "timestamp": days,
                "target": rng.poisson(week * rng.gamma(4, 1 / 4, periods)),
                "region": "north" if number % 2 else "south",
            }
        )
        for number in range(series)
    ]
    return pd.concat(parts)


def test_a_better_version_is_registered_and_promoted(shop: Shop) -> None:
    dataset = shop.dataset(sales())
    parent = shop.versions.register("sales", shipped("series"), Manifest("shipped"))
    words = QUICK | {"steps": 4, "look_every": 4, "origins": 2, "parent": parent}
    job = shop.done(dataset, **words, prediction_length=7, segment="region")
    assert (job.state, job.error) == ("succeeded", None)
    verdict = job.facts["gate"]
    assert verdict["accepted"], verdict
    assert verdict["gain"]["low"] > 0
    assert set(verdict["segments"]) == {"north", "south"}
    assert {"production", "candidate", "seasonal naive"} <= set(job.facts["score"])
    assert job.curve[-1].step == 4
    number = job.facts["register"]["version"]
    alias = shop.versions.alias("sales")
    assert alias is not None
    assert (alias.version, alias.changed_by) == (number, f"job:{job.id}")
    manifest = shop.versions.get("sales", number).manifest
    assert (manifest.parent, manifest.base) == (parent, parent)
    assert (manifest.dataset_id, manifest.job_id) == (dataset, job.id)
    assert manifest.trained_until == "2026-04-16T00:00:00"
    assert manifest.evaluation["accepted"]
    assert "held out" in diary.read(shop.files(job))
    shop.versions.rollback("sales", actor="test")
    assert shop.versions.alias("sales", PRODUCTION).version == 1  # type: ignore[union-attr]


def test_one_that_is_not_better_changes_nothing(shop: Shop) -> None:
    dataset = shop.dataset(sales())
    before = shop.versions.all("sales")
    job = shop.done(dataset, **QUICK, prediction_length=7, margin=0.99)
    assert job.state == "succeeded"
    assert not job.facts["gate"]["accepted"]
    assert "does not beat the margin" in job.facts["gate"]["reasons"][0]
    assert job.facts["register"]["version"] is None
    assert shop.versions.all("sales") == before


def test_one_that_a_person_promotes_waits_for_that(shop: Shop) -> None:
    dataset = shop.dataset(sales())
    job = shop.done(dataset, **QUICK, prediction_length=7, promote="manual")
    assert job.state == "awaiting_promotion"
    number = job.facts["register"]["version"]
    assert shop.versions.alias("sales", "candidate").version == number  # type: ignore[union-attr]
    shop.versions.promote("sales", number, actor="anna")
    shop.until(job, lambda each: each.state == "succeeded")
    shop.versions.rollback("sales", actor="anna")


def test_what_its_data_cannot_carry_is_told(shop: Shop) -> None:
    few = shop.done(shop.dataset(sales(series=2)), **QUICK)
    assert "has 2 series with sales; at least 5 are needed" in str(few.error)
    short = shop.done(shop.dataset(sales(periods=30)), **QUICK, prediction_length=28)
    assert "lower `prediction_length` or `origins`" in str(short.error)
    still = sales()
    still["target"] = 3
    flat = shop.done(shop.dataset(still), **QUICK, prediction_length=7)
    assert "no series changes" in str(flat.error)
    gone = shop.done("ds_0123456789abcdef", **QUICK)
    assert "ds_0123456789abcdef" in str(gone.error)
    unknown = shop.done(shop.dataset(sales()), **QUICK, parent=99)
    assert "version 99 of sales does not exist" in str(unknown.error)
    column = shop.done(shop.dataset(sales()), **QUICK, prediction_length=7, segment="colour")
    assert "'colour'" in str(column.error)


def test_a_version_is_not_judged_on_what_it_has_seen(shop: Shop) -> None:
    dataset = shop.dataset(sales())
    first = shop.done(dataset, **QUICK, prediction_length=7, promote="never", method="full")
    number = first.facts["register"]["version"]
    words = QUICK | {"origins": 2}
    seen = shop.done(dataset, **words, prediction_length=7, parent=number)
    assert f"version {number} of sales was trained on what lies up to 2026-04-23" in str(seen.error)


def test_what_was_learned_of_another_shop_is_not_forgotten(shop: Shop) -> None:
    words = QUICK | {"steps": 4, "look_every": 4, "method": "full", "promote": "never"}
    whole = sales(periods=150)
    first = shop.dataset(whole[whole["timestamp"] < "2026-05-01"])
    number = shop.done(first, **words, prediction_length=7).facts["register"]["version"]
    words |= {"parent": number, "replay": 0.5}
    job = shop.done(shop.dataset(sales(start="2026-04-01", seed=2)), **words, prediction_length=14)
    assert (job.state, job.error) == ("succeeded", None)
    assert job.facts["split"]["earlier"] == [[first, number]]
    assert f"not to be forgotten: {first}" in diary.read(shop.files(job))
    assert f"{first}, of version {number}" in job.facts["gate"]["references"]
    again = shop.done(shop.dataset(whole), **words, prediction_length=7)
    assert again.facts["split"]["earlier"] == []


def test_versions_are_scored_into_a_file(shop: Shop) -> None:
    words = {"kind": "evaluate", "prediction_length": 7, "versions": ["production"]}
    job = shop.done(shop.dataset(sales()), **words)
    assert (job.state, job.error) == ("succeeded", None)
    assert set(job.facts["score"]) == {"1", "seasonal naive"}
    found = orjson.loads((shop.files(job) / job.facts["write"]["file"]).read_bytes())
    assert len(found["scores"]) == 8 * 2 * 2


def test_a_search_keeps_the_best_of_its_trials(shop: Shop) -> None:
    dataset = shop.dataset(sales())
    words = QUICK | {"steps": 4, "look_every": 2}
    job = shop.done(dataset, kind="search", trials=2, **words, prediction_length=7, promote="never")
    assert (job.state, job.error) == ("succeeded", None)
    found = job.facts["fit"]["search"]
    assert found["finished"] + found["pruned"] == 2
    assert "learning_rate" in found["chosen"]
    assert shop.versions.get("sales", job.facts["register"]["version"]).manifest.source == "search"


def test_a_version_learns_from_a_larger_one(shop: Shop) -> None:
    dataset = shop.dataset(sales())
    teacher = shop.versions.register("sales", shipped("series"), Manifest("shipped"))
    words = QUICK | {"steps": 4, "look_every": 4, "parent": 1, "teacher": teacher}
    job = shop.done(dataset, kind="distill", **words, prediction_length=7, promote="manual")
    assert job.error is None
    assert job.state == "awaiting_promotion"
    fit = job.facts["fit"]
    assert fit["child"]["bytes"] < fit["teacher"]["bytes"]
    assert fit["whole"]


def test_what_zeros_bring_is_told_beside_the_parent(shop: Shop) -> None:
    words = QUICK | {"steps": 4, "look_every": 4, "method": "full", "sparsity": 0.7}
    job = shop.done(shop.dataset(sales()), **words, prediction_length=7, promote="never", parent=1)
    assert (job.state, job.error) == ("succeeded", None)
    child, parent = (job.facts["fit"][name] for name in ("child", "parent"))
    assert child["zeros"] > parent["zeros"] + 0.2
    assert child["packed_bytes"] < 0.9 * parent["packed_bytes"]
    assert child["weight_bytes"] == parent["weight_bytes"]
    assert {"rows_per_s", "loss", "bytes"} <= set(child)
    assert f"packed in {child['packed_bytes']:,} instead of" in diary.read(shop.files(job))


def test_an_adapter_serves_from_a_job(shop: Shop) -> None:
    dataset = shop.dataset(sales())
    parent = shop.versions.register("sales", shipped("series"), Manifest("shipped"))
    words = QUICK | {"steps": 4, "look_every": 4, "method": "adapter", "prediction_length": 7}
    job = shop.done(dataset, **words, parent=parent)
    assert (job.state, job.error) == ("succeeded", None)
    assert job.facts["gate"]["accepted"], job.facts["gate"]
    fit, number = job.facts["fit"], job.facts["register"]["version"]
    assert (fit["method"], fit["whole"]) == ("adapter", False)
    assert fit["trained"] < 0.03 * fit["parameters"]
    alias = shop.versions.alias("sales")
    assert alias is not None
    assert alias.version == number
    assert shop.versions.get("sales", number).manifest.base == parent
    said = shop.done(dataset, kind="predict", prediction_length=7)
    assert (said.state, said.error) == ("succeeded", None)
    assert said.facts["read"]["version"] == number
    shop.versions.rollback("sales", actor="test")


def test_eight_bits_wait_for_a_person(shop: Shop) -> None:
    dataset = shop.dataset(sales())
    parent = shop.versions.register("sales", shipped("series"), Manifest("shipped"))
    job = shop.done(
        dataset, kind="quantize", parent=parent, prediction_length=7, origins=1, margin=-0.05
    )
    assert (job.state, job.error) == ("awaiting_promotion", None)
    fit = job.facts["fit"]
    assert fit["child"]["weight_bytes"] < 0.3 * fit["parent"]["weight_bytes"]
    number = job.facts["register"]["version"]
    shop.versions.promote("sales", number, actor="test")
    shop.until(job, lambda each: each.state == "succeeded")
    shop.versions.rollback("sales", actor="test")
