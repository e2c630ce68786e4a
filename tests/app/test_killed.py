"""Retraining in the middle of which a process is killed, or that somebody cancels."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app import diary
from app.jobs import Job
from app.versions import Manifest
from models.checkpoint import shipped
from tests.app.test_retrain import QUICK, Shop, sales
from tests.app.test_server import PATIENCE_S, Started, children

HALTING = (
    "from app.settings import Settings; from app.worker import run; "
    "from tests.app.roads import halting; run(Settings(), roads=halting)"
)
ALONE = {"SHOPCAST_WORKER": "external", "SHOPCAST_RUNTIME": "torch"}
#: A training that takes some seconds, and is kept as it goes.
LONG = QUICK | {"steps": 100, "look_every": 50, "save_every_s": 0.2, "patience": 99}


@pytest.fixture
def shop(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path, tiny_checkpoint)
    yield made
    made.kill()


def in_training(job: Job) -> bool:
    return job.step == "fit" and bool(job.curve) and job.curve[-1].step > 10


def test_a_training_goes_on_where_its_worker_was_killed(shop: Shop) -> None:
    words = LONG | {"method": "full", "promote": "manual"}
    job = shop.ask(shop.dataset(sales()), **words, prediction_length=7)
    shop.until(job, in_training)
    shop.kill()
    left = shop.book.get(job.id)
    assert left.state == "running"
    shop.start()
    done = shop.ended(job)
    assert (done.state, done.error) == ("awaiting_promotion", None)
    found = re.search(r"goes on from step (\d+)", diary.read(shop.files(job)))
    assert found is not None
    assert 0 < int(found[1]) < 100
    steps = [point.step for point in done.curve]
    assert steps == sorted(set(steps))
    assert done.facts["fit"]["steps_done"] == 100
    assert made_by(shop, job) == [done.facts["register"]["version"]]
    assert not list(shop.settings.data_dir.glob("models/sales/.new-*"))


def test_a_training_is_cancelled_in_the_middle_of_a_step(shop: Shop) -> None:
    parent = shop.versions.register("sales", shipped("series"), Manifest("shipped"))
    before = shop.versions.all("sales")
    words = QUICK | {"steps": 5000, "rows": 2048, "parent": parent, "method": "full"}
    job = shop.ask(shop.dataset(sales()), **words, prediction_length=7)
    shop.until(job, lambda found: found.step == "fit" and bool(found.curve))
    asked_s = time.monotonic()
    shop.book.cancel(job.id)
    assert shop.ended(job).state == "cancelled"
    assert time.monotonic() - asked_s < 5.0
    assert shop.versions.all("sales") == before
    assert shop.versions.alias("sales").version == 1  # type: ignore[union-attr]
    assert not (shop.files(job) / "state").exists()
    assert not list(shop.settings.data_dir.glob("models/sales/.new-*"))


def test_a_version_is_there_once_wherever_its_worker_was_killed(shop: Shop) -> None:
    shop.kill()
    words = QUICK | {"steps": 2, "look_every": 2, "method": "full"}
    parent = shop.versions.register("sales", shipped("series"), Manifest("shipped"))
    job = shop.ask(shop.dataset(sales()), **words, parent=parent, prediction_length=7)
    for step in ("register", "promote"):  # each done, and not told yet
        halt = shop.settings.data_dir / f"halt-{step}"
        halt.touch()
        shop.start(HALTING)
        shop.until(job, there(halt.with_name(f"halted-{step}")))
        shop.kill()
        halt.unlink()
    shop.start()
    done = shop.ended(job)
    assert (done.state, done.error) == ("succeeded", None)
    number = done.facts["register"]["version"]
    assert made_by(shop, job) == [number]
    assert done.facts["promote"] == {"promoted": True}
    aliases = {each.alias: each.version for each in shop.versions.aliases("sales")}
    assert aliases == {"production": number}
    assert shop.versions.alias("sales").previous == 1  # type: ignore[union-attr]


def test_the_end_of_the_api_ends_no_job(shop: Shop, tiny_checkpoint: Path) -> None:
    data_dir = shop.settings.data_dir
    first = Started(tiny_checkpoint, data_dir, **ALONE)
    with first.client as client:
        file = {"file": ("sales.csv", sales().to_csv(index=False).encode())}
        stored = client.post("/datasets", files=file, data={"name": "sales", "kind": "series"})
        words = LONG | {"prediction_length": 7, "promote": "never", "method": "full"}
        body = {"kind": "finetune", "model": "sales", "dataset_id": stored.json()["id"], **words}
        asked = client.post("/jobs", json=body, headers={"Idempotency-Key": "once"}).json()
    job = shop.book.get(asked["id"])
    shop.until(job, in_training)
    (api,) = children(first.process.pid)
    first.process.kill()
    os.kill(api, signal.SIGKILL)
    first.process.wait()
    again = Started(tiny_checkpoint, data_dir, **ALONE)
    try:
        with again.client as client:
            known = client.post("/jobs", json=body, headers={"Idempotency-Key": "once"}).json()
            assert known["id"] == job.id
            assert shop.ended(job).state == "succeeded"
            done = client.get(f"/jobs/{job.id}").json()
            assert (done["state"], done["loss"][-1]["step"]) == ("succeeded", 100)
            assert client.get("/jobs").json()["jobs"] == [done]
            assert client.get(f"/datasets/{body['dataset_id']}").status_code == 200
    finally:
        again.process.terminate()
        assert again.process.wait(PATIENCE_S) == 0, again.log
    assert shop.log.read_text().count("job_begins") == 1


def there(file: Path) -> Callable[[Job], bool]:
    return lambda _: file.exists()


def made_by(shop: Shop, job: Job) -> list[int]:
    """The versions that a job made."""
    kept = shop.versions.all("sales")
    return [each.version for each in kept if each.manifest.job_id == job.id]
