"""A dataset of forecasts: as the service would answer each, whole, and in parts that last."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from app.api.job_words import read_job
from app.bulk import FILE, PARTS, PREDICT
from app.datasets import Datasets
from app.db import migrate, open_database
from app.desk import Desk, Facts, Told
from app.errors import JobError
from app.intake import Order
from app.jobs import Book
from app.metrics import Metrics
from app.settings import Settings
from app.versions import Manifest, Versions
from models.base import Series, SeriesTask
from models.seasonal import season_lengths
from models.series import SeriesNetwork


class Office:
    """A data directory with both networks in production, where jobs are done by hand."""

    def __init__(self, directory: Path, series: Path, events: Path) -> None:
        self.settings = Settings(data_dir=directory, threads=1, device="cpu")
        migrate(self.settings.database)
        database = open_database(self.settings.database)
        self.book, self.versions = Book(database), Versions(database, self.settings)
        self.datasets = Datasets(database, self.settings, Metrics())
        for name, checkpoint in (("sales", series), ("purchase", events)):
            self.versions.register(name, checkpoint, Manifest("settings"))
            self.versions.promote(name, 1, actor="test")

    def dataset(self, table: pd.DataFrame, kind: Any = "series") -> str:
        file = self.settings.data_dir / "sent.csv"
        table.to_csv(file, index=False)

        async def add() -> str:
            async with self.datasets.staging() as stage:
                dataset, _ = await self.datasets.add(file, stage, Order(kind), name="sent")
                return dataset.id

        return asyncio.run(add())

    def desk(self, dataset: str, tell: Any = lambda _: None, **words: Any) -> Desk:
        raw = {"kind": "predict", "model": "sales", "dataset_id": dataset, **words}
        job, _ = self.book.add(read_job(raw), actor="test")
        directory = self.settings.data_dir / "jobs" / job.id
        directory.mkdir(parents=True)
        return Desk(job, self.settings, directory, tell, lambda _: None, {})

    def done(self, desk: Desk) -> pd.DataFrame:
        """The file that the steps leave."""
        facts: dict[str, Facts] = {}
        desk.facts = facts
        for name, step in PREDICT.open(desk).items():
            facts[name] = step()
        table: pd.DataFrame = pq.read_table(desk.directory / FILE).to_pandas()
        return table


@pytest.fixture(scope="module")
def office(
    tiny_checkpoint: Path, tiny_events_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Office:
    return Office(tmp_path_factory.mktemp("office"), tiny_checkpoint, tiny_events_checkpoint)


def sales(series: int = 300, periods: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    days = pd.date_range("2026-01-01", periods=periods, freq="D")
    parts = [
        pd.DataFrame({"item_id": f"sku-{n}", "timestamp": days, "target": rng.poisson(5, periods)})
        for n in range(series)
    ]
    return pd.concat(parts)


def test_every_series_is_forecast_as_the_service_would(
    office: Office, tiny_checkpoint: Path
) -> None:
    table = sales()
    desk = office.desk(office.dataset(table), prediction_length=3, quantile_levels=[0.1, 0.5])
    found = office.done(desk)
    assert list(found.columns) == ["item_id", "timestamp", "mean", "0.1", "0.5"]
    assert found.groupby("item_id").size().to_dict() == {f"sku-{n}": 3 for n in range(300)}
    one = found[found.item_id == "sku-7"]
    assert list(one.timestamp) == list(pd.date_range("2026-01-31", periods=3, freq="D"))
    network = SeriesNetwork.load(tiny_checkpoint, device="cpu")
    target = table[table.item_id == "sku-7"].target.to_numpy(float)[np.newaxis]
    series = Series(target, season_lengths=season_lengths("D"), non_negative=True)
    ((answer,),) = network.predict([SeriesTask((series,), 3, (0.1, 0.5))])
    np.testing.assert_allclose(one["mean"], answer.mean[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one["0.1"], answer.quantiles[0][0], rtol=1e-4, atol=1e-4)
    assert len(list((desk.state / PARTS).glob("*.parquet"))) == 2


def test_what_was_written_before_a_process_died_is_not_computed_again(office: Office) -> None:
    class KilledError(Exception):
        pass

    def die(told: Told) -> None:
        if told.share > 0.5:
            raise KilledError

    desk = office.desk(office.dataset(sales()), die, prediction_length=2)
    with pytest.raises(KilledError):
        office.done(desk)
    first = min((desk.state / PARTS).glob("*.parquet"))
    written = first.stat().st_mtime_ns
    desk.tell = lambda _: None
    assert len(office.done(desk)) == 600
    assert first.stat().st_mtime_ns == written


def test_customers_are_answered_by_their_own_shop(office: Office) -> None:
    rng = np.random.default_rng(2)
    rows = [
        {
            "customer_id": f"c{n}",
            "at": pd.Timestamp("2026-01-01") + pd.Timedelta(days=float(day)),
            "type": "purchase",
            "amount": 10.0,
        }
        for n in range(210)
        for day in np.sort(rng.uniform(0, 200, 4))
    ]
    dataset = office.dataset(pd.DataFrame(rows), "events")
    words = {"model": "purchase", "horizons_days": [30, 7], "as_of": "2026-08-01"}
    found = office.done(office.desk(dataset, **words))
    assert len(found) == 210
    assert (found.purchase_probability_7 <= found.purchase_probability_30).all()
    assert (found.expected_purchases_30 >= found.purchase_probability_30 - 1e-9).all()
    assert found.churn_probability.between(0, 1).all()


def test_a_dataset_of_the_other_kind_is_refused(office: Office) -> None:
    dataset = office.dataset(sales(5))
    with pytest.raises(JobError, match="holds series; purchase needs events"):
        office.done(office.desk(dataset, model="purchase"))
