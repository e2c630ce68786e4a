"""Retraining of the events network from a file of events to a version that serves."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest

from app import diary
from app.customer_subject import CustomerSubject
from app.desk import Desk
from app.errors import InvalidInputError, JobError
from app.jobs import Job
from app.stores import Stores
from app.versions import Manifest
from models.base import EVENT_TYPES
from models.checkpoint import shipped
from models.events import EventsNetwork
from models.synth.customers import ShopSettings, simulate
from tests.app.test_retrain import Shop

QUICK = {"steps": 4, "looks": 2, "rows": 64, "cuts": 3, "judged": 300}
END = pd.Timestamp("2026-07-20")


@pytest.fixture(scope="module")
def shop(tiny_events_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """In production is a network that knows nothing; version 2 is the one that is shipped."""
    made = Shop(tmp_path_factory.mktemp("shop"), tiny_events_checkpoint, "purchase")
    made.versions.register("purchase", shipped("purchase"), Manifest("shipped"))
    yield made
    made.worker.kill()
    made.worker.wait()


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> str:
    return shop.dataset(events())


def events(customers: int = 400, history: int = 240, seed: int = 1) -> pd.DataFrame:
    """Customers who come back about as regularly as clockwork, which BG/NBD does not know of.

    All move to the west late in May.
    """
    settings = ShopSettings(
        customers=customers, history=history, rate=1 / 25, gap_shape=5.0, dates_only=True
    )
    crowd = simulate(np.random.default_rng(seed), settings, labelled=1, futures=1).population
    at = END - pd.to_timedelta(crowd.days_ago, unit="D")
    region = np.where(crowd.owner % 2, "north", "south")
    return pd.DataFrame(
        {
            "customer_id": crowd.owner,
            "at": at,
            "region": np.where(at < pd.Timestamp("2026-05-22"), region, "west"),
            "type": np.array(EVENT_TYPES)[crowd.types],
            "amount": crowd.amounts.round(2),
        }
    )


def test_a_better_version_is_registered_and_promoted(shop: Shop, dataset: str) -> None:
    job = shop.done(dataset, **QUICK, parent=2, segment="region")
    assert (job.state, job.error) == ("succeeded", None)
    split, fit, verdict = (job.facts[step] for step in ("split", "fit", "gate"))
    assert (split["horizons_days"], split["held_out_from"]) == ([20, 59], "2026-05-22T00:00:00")
    assert fit["until"] < split["held_out_from"]
    assert verdict["accepted"], verdict
    assert verdict["gain"]["low"] > 0
    assert {name: each["series"] for name, each in verdict["segments"].items()} == split["segments"]
    assert set(split["segments"]) == {"north", "south"}
    assert sum(split["segments"].values()) == 298
    assert set(verdict["references"]) == {"simulated shops", "simulated shops with browsing"}
    scores = job.facts["score"]
    assert set(scores) == {"BG/NBD", "production", "candidate", "shipped"}
    assert scores["candidate"]["log_loss"] < scores["production"]["log_loss"]
    assert set(scores["candidate"]["horizons"]) == {"20", "59"}
    assert [point.step for point in job.curve] == [*range(1, fit["steps_done"] + fit["steps"] + 1)]
    number = job.facts["register"]["version"]
    alias = shop.versions.alias("purchase")
    assert alias is not None
    assert (alias.version, alias.changed_by) == (number, f"job:{job.id}")
    manifest = shop.versions.get("purchase", number).manifest
    assert (manifest.parent, manifest.base, manifest.dataset_id) == (2, 2, dataset)
    assert manifest.trained_until == fit["until"]
    assert "of 298 customers bought" in diary.read(shop.files(job))
    seen = shop.done(dataset, **QUICK, horizons_days=[30, 90])
    assert f"version {number} of purchase was trained on what lies up to" in str(seen.error)
    assert "hold out less by `horizons_days` (now 90 days)" in str(seen.error)
    shop.versions.rollback("purchase", actor="test")
    assert shop.versions.alias("purchase").version == 1  # type: ignore[union-attr]


def test_one_that_is_not_better_changes_nothing(shop: Shop, dataset: str) -> None:
    before = shop.versions.all("purchase")
    job = shop.done(dataset, **QUICK | {"steps": 1, "looks": 1}, margin=0.99, method="head")
    assert job.state == "succeeded"
    assert "does not beat the margin" in job.facts["gate"]["reasons"][0]
    assert job.facts["register"]["version"] is None
    assert shop.versions.all("purchase") == before


def test_a_killed_worker_is_followed_by_one_that_goes_on_and_can_be_stopped(
    shop: Shop, dataset: str
) -> None:
    before = shop.versions.all("purchase")
    job = shop.ask(dataset, **QUICK | {"steps": 10_000, "looks": 1}, save_every_s=0.01)
    seen = shop.until(job, lambda each: len(each.curve) > 5)
    shop.worker.kill()
    shop.worker.wait()
    assert shop.book.get(job.id).state == "running"
    shop.start()
    reached: list[int] = []

    def goes_on(each: Job) -> bool:
        reached.append(each.curve[-1].step)
        return reached[-1] > seen.curve[-1].step + 5

    shop.until(job, goes_on)
    assert min(reached) >= seen.curve[-1].step - 2
    asked_s = time.monotonic()
    assert shop.book.cancel(job.id).cancelling
    assert shop.until(job, lambda each: each.ended).state == "cancelled"
    assert time.monotonic() - asked_s < 5
    assert not (shop.files(job) / "state").exists()
    assert shop.versions.all("purchase") == before


def subject_of(shop: Shop, dataset: str, **words: Any) -> CustomerSubject:
    """What a job is about, which is looked into here, to be quick."""
    job = shop.ask(dataset, **words)
    shop.book.cancel(job.id)
    desk = Desk(job, shop.settings, shop.files(job), lambda _: None, lambda _: None)
    return CustomerSubject(desk, Stores(desk))


def test_what_its_data_cannot_carry_is_told(shop: Shop) -> None:
    def refusal(table: pd.DataFrame, **words: Any) -> str:
        subject = subject_of(shop, shop.dataset(table), **words)
        with pytest.raises((JobError, InvalidInputError)) as caught:
            _ = subject.read(), subject.split()
        return str(caught.value)

    assert "has 50 customers; at least 100 are needed" in refusal(events(customers=50))
    assert "60 are needed to learn from: give a longer" in refusal(events(history=70))
    assert "400 held out leave 0" in refusal(events(), horizons_days=[400])
    assert "nobody buys: no event is a purchase" in refusal(events().assign(type="view"))
    table = events()
    early = table["at"] < END - pd.Timedelta(days=40)
    quiet = table.assign(type=table["type"].where(early, "view"))
    without = refusal(quiet, horizons_days=[30])
    assert "nobody known before 2026-06-20 bought within 30 days" in without
    known = table[early | (table["customer_id"] > 150)]
    young = known[(known["at"] > END - pd.Timedelta(days=130)) & (known["customer_id"] < 160)]
    assert "customers are known before 2026-05-18" in refusal(young, horizons_days=[60])
    unused = "has kept no column 'colour'; it has region, type; others are kept where"
    assert unused in refusal(table, segment="colour")
    side = pd.Series(np.where(table["customer_id"] % 2, "left", "right"))
    late = refusal(table.assign(side=side.where(~early)), segment="side", horizons_days=[40])
    assert "no customer has a value of 'side' before 2026-06-10" in late
    many = table.assign(category=table["customer_id"])
    assert "'category' has " in refusal(many, segment="category")


def test_versions_are_scored_into_a_file(shop: Shop, dataset: str) -> None:
    words = {"versions": [2], "horizons_days": [7, 30], "segment": "region"}
    job = shop.done(dataset, kind="evaluate", **words)
    assert (job.state, job.error) == ("succeeded", None)
    assert set(job.facts["score"]) == {"2", "BG/NBD", "Pareto/NBD"}
    assert 0.5 < job.facts["score"]["2"]["horizons"]["30"]["auc"] < 1
    found = orjson.loads((shop.files(job) / job.facts["write"]["file"]).read_bytes())
    assert [(each["method"], each["days"]) for each in found["scores"]][:2] == [
        ("BG/NBD", 7),
        ("Pareto/NBD", 7),
    ]
    assert len(found["scores"]) == 6
    by_region = found["segments"]["2"]
    assert by_region == job.facts["score"]["2"]["segments"]
    counts = {name: each["customers"] for name, each in by_region.items()}
    assert counts == job.facts["split"]["segments"]
    assert set(counts) == {"north", "south", "west"}
    mean = sum(each["log_loss"] * each["customers"] for each in by_region.values())
    whole = job.facts["score"]["2"]["log_loss"]
    assert mean / sum(counts.values()) == pytest.approx(whole, rel=1e-6)


def test_eight_bits_wait_for_a_person_and_serve(shop: Shop, dataset: str) -> None:
    words = {"parent": 2, "margin": -0.5, "horizons_days": [20, 60]}
    job = shop.done(dataset, kind="quantize", **words)
    assert (job.state, job.error) == ("awaiting_promotion", None)
    fit, number = job.facts["fit"], job.facts["register"]["version"]
    assert fit["child"]["weight_bytes"] < 0.35 * fit["parent"]["weight_bytes"]
    assert fit["child"]["loss"] == pytest.approx(fit["parent"]["loss"], rel=0.01)
    assert job.facts["score"]["candidate"]["log_loss"] == pytest.approx(
        job.facts["score"]["shipped"]["log_loss"], rel=0.01
    )
    assert "answers/s instead of" in diary.read(shop.files(job))
    checkpoint = shop.versions.checkpoint_of("purchase", number)
    network = EventsNetwork.load(checkpoint.directory, checkpoint.base, device="cpu")
    assert network.describe().dtype == "int8"
    assert shop.versions.get("purchase", number).manifest.source == "quantize"


def test_a_search_keeps_the_best_of_its_trials(shop: Shop, dataset: str) -> None:
    words = QUICK | {"parent": 2, "horizons_days": [20, 60], "promote": "never"}
    job = shop.done(dataset, kind="search", trials=2, **words)
    assert (job.state, job.error) == ("succeeded", None)
    found = job.facts["fit"]["search"]
    assert found["finished"] + found["pruned"] == 2
    assert set(found["chosen"]) == {"learning_rate", "steps", "rank", "cuts", "rows"}
    assert job.facts["fit"]["until"] < job.facts["split"]["held_out_from"]
    manifest = shop.versions.get("purchase", job.facts["register"]["version"]).manifest
    assert (manifest.source, manifest.parent, manifest.base) == ("search", 2, 2)


def test_a_version_learns_from_another_one(shop: Shop, dataset: str) -> None:
    words: dict[str, Any] = QUICK | {"parent": 1, "teacher": 2, "teaching": 1.0}
    words |= {"learning_rate": 0.003, "steps": 20, "horizons_days": [20, 60], "promote": "manual"}
    job = shop.done(dataset, kind="distill", **words)
    assert (job.state, job.error) == ("awaiting_promotion", None)
    fit = job.facts["fit"]
    assert fit["child"]["bytes"] < fit["teacher"]["bytes"]
    assert fit["child"]["loss"] < fit["scores"]["zero_shot"]
    assert (fit["method"], fit["whole"]) == ("full", True)
    assert fit["until"] < job.facts["split"]["held_out_from"]
    assert {"production", "candidate", "shipped"} <= set(job.facts["score"])
    manifest = shop.versions.get("purchase", job.facts["register"]["version"]).manifest
    assert (manifest.source, manifest.parent, manifest.base) == ("distill", 1, None)


def test_what_was_learned_of_another_shop_is_not_forgotten(shop: Shop) -> None:
    words: dict[str, Any] = QUICK | {"horizons_days": [10, 30], "promote": "never"}
    whole = events(customers=250)
    first = shop.dataset(whole[whole["at"] < END - pd.Timedelta(days=40)])
    number = shop.done(first, **words, parent=2).facts["register"]["version"]
    words |= {"parent": number, "replay": 0.5, "method": "full"}
    job = shop.done(shop.dataset(events(customers=260, seed=2)), **words)
    assert (job.state, job.error) == ("succeeded", None)
    assert job.facts["split"]["earlier"] == [[first, number]]
    assert f"not to be forgotten: {first}, of version {number}" in diary.read(shop.files(job))
    ratio = job.facts["gate"]["references"][f"{first}, of version {number}"]
    assert ratio == pytest.approx(1.0, abs=0.9)  # beside production, which knows nothing
    again = subject_of(shop, shop.dataset(whole), horizons_days=[10, 30])
    assert again.pin([shop.versions.get("purchase", number)]) == {"earlier": []}  # told by it
