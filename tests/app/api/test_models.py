"""Which models answer, by which version, and how that is changed."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.db import open_database
from app.settings import Settings
from app.versions import Manifest, Versions
from models.checkpoint import save_random
from tests.live import running


def test_a_model_shows_its_versions_and_limits(service: httpx.Client) -> None:
    model = service.get("/models/sales").json()
    assert model["name"] == "sales"
    assert model["aliases"] == {"production": 1}
    (version,) = model["versions"]
    assert version["version"] == 1
    assert version["created_at"].endswith("Z")
    assert version["network"]["context_length"] == 256
    assert version["network"]["runtime"] in {"torch", "onnx"}
    assert model["limits"]["inputs"] == 8


def test_the_list_shows_them_all(shop: httpx.Client) -> None:
    listed = shop.get("/models").json()
    models = [shop.get(f"/models/{name}").json() for name in ("sales", "purchase")]
    assert listed == {"models": models, "next_cursor": None}


def test_a_model_of_customers_shows_its_own_limits(shop: httpx.Client) -> None:
    model = shop.get("/models/purchase").json()
    assert model["versions"][-1]["network"]["architecture"] == "Poisson"
    assert model["limits"]["horizon_days"] == 365
    assert model["limits"]["events"] == 20


def test_an_unknown_model_is_not_found(service: httpx.Client) -> None:
    response = service.get("/models/weather")
    assert response.status_code == 404
    assert "there is no model 'weather'" in response.json()["detail"]


# --- versions come and go


@dataclass
class Shop:
    """A service of its own with three versions, the first of them production."""

    client: httpx.Client
    versions: Versions

    def ask(self, **parameters: Any) -> httpx.Response:
        inputs = [{"target": list(range(40))}]
        body = {"inputs": inputs, "parameters": {"prediction_length": 3, **parameters}}
        return self.client.post("/predict/sales", json=body)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/models/sales").json()
        return found


@pytest.fixture(scope="module")
def three(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("versions")
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=directory / "data")
    with running(settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        engine = open_database(settings.database)
        versions = Versions(engine, settings)
        for seed in (1, 2):
            made = save_random(directory / str(seed), "tiny", seed=seed)
            told = Manifest(
                "finetune", parent=1, dataset_id="ds_1", job_id="job_1", evaluation={"mase": 0.8}
            )
            versions.register("sales", made, told)
        yield Shop(client, versions)
        engine.dispose()


def test_versions_show_where_they_come_from_and_whether_they_are_loaded(three: Shop) -> None:
    model = three.state()
    first, second, _ = model["versions"]
    assert model["serving"] == 1
    assert (first["source"], first["loaded"]) == ("settings", True)
    assert (second["source"], second["parent"], second["dataset_id"]) == ("finetune", 1, "ds_1")
    assert second["evaluation"] == {"mase": 0.8}
    assert (second["loaded"], second["network"]) == (False, None)


def test_any_version_answers_when_it_is_asked_for(three: Shop) -> None:
    answers = {model: three.ask(model=model).json() for model in ("1", "2", 3, "production")}
    assert [each["model"]["version"] for each in answers.values()] == [1, 2, 3, 1]
    medians = [str(each["predictions"][0]["mean"]) for each in answers.values()]
    assert len(set(medians)) == 3
    assert medians[0] == medians[3]
    assert three.ask(model="4").status_code == 404


def test_promoted_and_rolled_back_over_http(three: Shop) -> None:
    moved = three.client.post("/models/sales/versions/2/promote")
    assert moved.status_code == 200
    told = moved.json()
    assert (told["alias"], told["version"], told["previous"]) == ("production", 2, 1)
    assert told["changed_by"] == "anonymous"
    assert three.ask().json()["model"]["version"] == 2
    late = three.client.post("/models/sales/versions/3/promote", json={"expected": 1})
    assert late.status_code == 409
    assert "version 2 now: anonymous put it there" in late.json()["detail"]
    back = three.client.post("/models/sales/rollback", json={})
    assert back.json()["version"] == 1
    assert three.ask().json()["model"]["version"] == 1


def test_what_is_promoted_elsewhere_answers_within_five_seconds(three: Shop) -> None:
    three.versions.promote("sales", 3, actor="job_1")
    until = time.monotonic() + 5
    while three.ask().json()["model"]["version"] != 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    three.versions.rollback("sales", actor="ann")
    while three.ask().json()["model"]["version"] != 1:
        assert time.monotonic() < until + 5
        time.sleep(0.05)


def test_what_an_alias_names_is_not_deleted(three: Shop) -> None:
    refused = three.client.delete("/models/sales/versions/1")
    assert refused.status_code == 409
    assert refused.json()["detail"] == (
        "version 1 of sales is production; promote another one first"
    )


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("sales/versions/9/promote", None, 404),
        ("weather/versions/1/promote", None, 404),
        ("weather/rollback", None, 404),
        ("sales/versions/0/promote", None, 422),
        ("sales/versions/x/promote", None, 422),
        ("sales/versions/2/promote", {"expect": 1}, 422),
        ("sales/versions/2/promote", {"expected": "1"}, 422),
        ("sales/versions/2/promote", [], 422),
    ],
)
def test_what_cannot_be_promoted_is_told(three: Shop, path: str, body: Any, status: int) -> None:
    response = three.client.post(f"/models/{path}", json=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert three.state()["serving"] == 1


def test_a_deleted_version_is_gone(three: Shop, tmp_path: Path) -> None:
    made = save_random(tmp_path / "made", "tiny", seed=9)
    number = three.versions.register("sales", made, Manifest("finetune"))
    assert three.ask(model=number).status_code == 200
    assert three.client.delete(f"/models/sales/versions/{number}").status_code == 204
    assert three.ask(model=number).status_code == 404
    assert three.client.delete(f"/models/sales/versions/{number}").status_code == 404


def test_promotions_amid_a_storm_fail_nobody_and_mix_nothing(three: Shop) -> None:
    expected = {
        number: [each["mean"] for each in _storm(three.client, 0, model=number)["predictions"]]
        for number in (1, 2, 3)
    }
    stop, answers, failures = threading.Event(), [], []

    def go_on(client_number: int) -> None:
        with httpx.Client(base_url=three.client.base_url, timeout=60) as client:
            turn = client_number * 10_000
            while not stop.is_set():
                turn += 1
                try:
                    answers.append(_storm(client, turn))
                except (httpx.HTTPError, AssertionError) as error:
                    failures.append(repr(error))

    clients = [threading.Thread(target=go_on, args=(number,)) for number in range(1, 9)]
    for client in clients:
        client.start()
    for number in (2, 3, 1):
        assert three.client.post(f"/models/sales/versions/{number}/promote").status_code == 200
        time.sleep(0.2)
    assert three.client.post("/models/sales/rollback").status_code == 200
    assert three.client.post("/models/sales/rollback").status_code == 200
    stop.set()
    for client in clients:
        client.join()
    assert failures == []
    seen = set()
    for answer in answers:
        number = answer["model"]["version"]
        seen.add(number)
        means = [each["mean"] for each in answer["predictions"]]
        # the series of a turn is the first one times the turn, and so is its forecast
        scaled = np.array(means) / np.array(means)[0, 0] * expected[number][0][0]
        np.testing.assert_allclose(scaled, expected[number], rtol=1e-3)
    assert seen == {1, 2, 3}


def _storm(client: httpx.Client, turn: int, **parameters: Any) -> dict[str, Any]:
    """An answer to four series, new ones each turn, so that none comes from the cache."""
    scale = 1 + turn / 64
    inputs = [
        {"target": [scale * (50 + (each + 3 * step) % 7) for step in range(40)]}
        for each in range(4)
    ]
    body = {"inputs": inputs, "parameters": {"prediction_length": 3, **parameters}}
    response = client.post("/predict/sales", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found
