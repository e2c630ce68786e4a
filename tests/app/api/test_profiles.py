"""A shop's profile: stored, versioned, and never of the future."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.db import migrate, open_database
from app.main import create_app
from app.settings import Settings
from tests.app.api.conftest import Ask
from tests.app.api.test_purchase import AS_OF, PATH, bought, crowd, customer
from tests.app.networks import Rates
from tests.app.test_intake import EVENTS

NOBODY = customer(customer_id="nobody")


def put(client: httpx.Client, shop: str, count: int = 220, **parameters: Any) -> httpx.Response:
    body = {"inputs": crowd(count), "parameters": parameters or None}
    return client.put(f"/shops/{shop}/profile", json=body)


def test_a_profile_is_stored_shown_and_forgotten(shop: httpx.Client) -> None:
    stored = put(shop, "main")
    assert stored.status_code == 200, stored.text
    profile = stored.json()
    assert (profile["shop"], profile["version"], profile["warnings"]) == ("main", 1, [])
    assert (profile["customers"], profile["events"]) == (220, 550)
    assert profile["data_until"] == "2026-09-27T01:00:00"  # the hour after the latest event
    shown = shop.get("/shops/main/profile").json()
    assert shown == {name: profile[name] for name in profile if name != "warnings"}
    assert put(shop, "main").json()["version"] == 2
    assert shop.delete("/shops/main/profile").status_code == 204
    for response in (shop.get("/shops/main/profile"), shop.delete("/shops/main/profile")):
        assert response.status_code == 404
        assert "no profile of the shop 'main'" in response.json()["detail"]
    assert put(shop, "main").json()["version"] == 3


def test_a_profile_is_the_context_of_its_shop(shop: httpx.Client, foretell: Ask) -> None:
    version = put(shop, "north").json()["version"]
    with_profile = foretell(NOBODY, as_of=AS_OF, shop="north")
    meta = with_profile.json()["meta"]
    assert (meta["context"], meta["profile"]) == ("profile", {"shop": "north", "version": version})
    without = foretell(NOBODY, as_of=AS_OF)
    assert with_profile.json()["predictions"] != without.json()["predictions"]
    many = foretell(*crowd(220), NOBODY, as_of=AS_OF, shop="north")
    assert many.json()["predictions"][-1] == with_profile.json()["predictions"][0]


def test_a_profile_tells_nothing_of_the_future(shop: httpx.Client, foretell: Ask) -> None:
    put(shop, "south", as_of="2026-09-28", timezone="Europe/Berlin")
    assert shop.get("/shops/south/profile").json()["data_until"] == "2026-09-28T00:00:00+02:00"

    def asked(as_of: str, **more: Any) -> httpx.Response:
        return foretell(NOBODY, as_of=as_of, shop="south", **more)

    assert asked("2026-09-28").status_code == 200
    assert asked("2026-09-27T22:00:00Z").status_code == 200
    early = asked("2026-09-27")
    assert early.status_code == 422
    (issue,) = early.json()["errors"]
    assert (issue["loc"], issue["type"]) == (["parameters", "as_of"], "before_profile")
    assert "whose data reach until 2026-09-28T00:00:00" in issue["msg"]
    assert "store the profile of data up to as_of, or leave out `shop`" in issue["msg"]
    assert asked("2026-09-27T21:00:00Z").status_code == 422


@pytest.mark.parametrize(
    ("inputs", "parameters", "loc", "words"),
    [
        (crowd(49), {}, ["inputs"], "has 49 customers with events; a profile needs at least 50"),
        ([NOBODY], {}, ["inputs"], "has 0 customers with events"),
        ([], {}, ["inputs"], "at least one customer"),
        ([NOBODY] * 301, {}, ["inputs"], "send at most 300"),
        (crowd(60), {"as_of": "2026-05-01"}, ["inputs", 2, "events", 2, "at"], "not before as_of"),
        (crowd(60), {"horizons_days": [7]}, ["parameters", "horizons_days"], "no such field"),
        ([customer(bought("x"))], {}, ["inputs", 0, "events", 0, "at"], "must be a time"),
    ],
)
def test_what_makes_no_profile_is_refused(
    shop: httpx.Client, inputs: list[Any], parameters: dict[str, Any], loc: list[Any], words: str
) -> None:
    body = {"inputs": inputs, "parameters": parameters}
    response = shop.put("/shops/broken/profile", json=body)
    assert response.status_code == 422, response.text
    issue = response.json()["errors"][0]
    assert issue["loc"] == loc
    assert words in issue["msg"]
    assert shop.get("/shops/broken/profile").status_code == 404


def test_a_profile_is_made_of_a_data_set(shop: httpx.Client) -> None:
    text = "\n".join(["customer,date,amount", *EVENTS])
    made = shop.post("/datasets", files={"file": ("orders.csv", text)}, data={"kind": "events"})
    body = {"dataset_id": made.json()["id"]}
    profile = shop.put("/shops/orders/profile", json=body).json()
    assert (profile["customers"], profile["events"]) == (130, 400)
    assert profile["data_until"] == "2026-09-16T11:00:00"
    early = {"as_of": "2026-07-01", "timezone": "Europe/Berlin"}
    until = shop.put("/shops/orders/profile", json=body | {"parameters": early}).json()
    assert (until["data_until"], until["version"]) == ("2026-07-01T00:00:00+02:00", 2)
    for wrong, status, words in (
        ({"dataset_id": "ds_0123456789abcdef"}, 404, "there is no data set"),
        (body | {"inputs": crowd(60)}, 422, "send either that or inputs"),
        (body | {"parameters": {"as_of": "2026-07-01T00:00:00Z"}}, 422, "parameters.timezone"),
        (body | {"parameters": {"as_of": "2020-01-01"}}, 422, "nobody has an event before"),
    ):
        response = shop.put("/shops/orders/profile", json=wrong)
        assert response.status_code == status, response.text
        assert words in response.json()["detail"]


def test_a_rough_profile_is_stored_with_a_warning(shop: httpx.Client) -> None:
    (warning,) = put(shop, "rough", 60).json()["warnings"]
    assert warning["type"] == "few_customers"


@pytest.mark.parametrize("name", ["a b", "ä", "x" * 65, "-x", "%2e%2e", "a%0Ab"])
def test_a_name_that_is_none_is_refused(shop: httpx.Client, name: str) -> None:
    for response in (shop.get(f"/shops/{name}/profile"), put(shop, name, 1)):
        assert response.status_code == 422
        assert response.json()["errors"][0]["loc"] == ["path", "shop"]


def test_a_write_from_another_site_is_refused(shop: httpx.Client) -> None:
    headers = {"Origin": "http://example.org"}
    assert shop.delete("/shops/main/profile", headers=headers).status_code == 403
    assert shop.put("/shops/main/profile", content=b"{}").status_code == 415


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    migrate(settings.database)
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        app.state.resources.registry.add("purchase", Rates(), load_s=0.0)
        yield client


async def test_predictions_go_on_without_the_database(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path)
    engine = open_database(settings.database)
    async with opened(settings) as client:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE shop_profiles"))
        engine.dispose()
        asked = {"inputs": [NOBODY], "parameters": {"as_of": AS_OF, "shop": "main"}}
        told = await client.post(PATH, json=asked)
        stored = await client.put("/shops/main/profile", json={"inputs": crowd(60)})
        for response in (told, stored, await client.delete("/shops/main/profile")):
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "2"
            assert "leave out `shop`" in response.json()["detail"]
        del asked["parameters"]["shop"]  # type: ignore[attr-defined]
        assert (await client.post(PATH, json=asked)).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert "shopcast_profile_failures_total 3.0" in metrics
    assert 'shopcast_purchase_contexts_total{context="prior"} 1.0' in metrics
