"""Who is let in, and to what."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Mount, Route

from app.api.access import NEEDS, OPEN, need_of
from app.auth import Keys
from app.db import migrate, open_database
from app.main import create_app
from app.settings import Settings
from tests.app.api.test_inventory import ITEM
from tests.app.api.test_purchase import AS_OF, crowd, customer
from tests.app.networks import Rates
from tests.live import running

SALES = {"inputs": [{"target": [1, 2, 3]}]}


@dataclass(frozen=True)
class Locked:
    """A service that has keys."""

    client: httpx.Client
    keys: Keys
    predict: str
    train: str
    admin: str
    bound: str
    expired: str
    revoked: str

    def ask(self, key: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self.client.request(method, path, headers=headers, **more)


@pytest.fixture(scope="module")
def locked(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    settings = Settings(
        series_checkpoint=tiny_checkpoint, data_dir=tmp_path_factory.mktemp("locked")
    )
    migrate(settings.database)
    engine = open_database(settings.database)
    keys = Keys(engine)

    def key(*scopes: str, **options: Any) -> str:
        return keys.create("", scopes, actor="test", **options)[1]

    revoked = key("predict", "train", "admin")
    keys.revoke(revoked[3:15], actor="test")
    with (
        running(settings, {"purchase": Rates()}) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield Locked(
            client,
            keys,
            predict=key("predict"),
            train=key("train"),
            admin=key("admin"),
            bound=key("predict", "train", shops=["main", "north"]),
            expired=key("predict", life=timedelta(microseconds=1)),
            revoked=revoked,
        )
    engine.dispose()


@pytest.mark.parametrize("path", ["/predict/sales", "/models", "/keys", "/metrics", "/nowhere"])
def test_without_a_key_nothing_is_told(locked: Locked, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "DELETE"):
        response = locked.ask(None, method, path)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="shopcast"'
    problem = locked.ask(None, "POST", path, json=SALES).json()
    assert problem["type"] == "urn:shopcast:problem:unauthenticated"
    assert "shopcast keys create" in problem["detail"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/ping", "/docs", "/openapi.json"])
def test_probes_and_pages_are_open(locked: Locked, path: str) -> None:
    assert locked.ask(None, "GET", path).status_code == 200
    assert locked.ask("not even a key", "HEAD", path).status_code == 200


def test_a_key_comes_in_either_header(locked: Locked) -> None:
    ask = locked.client.post
    shown = [
        {"Authorization": f"Bearer {locked.predict}"},
        {"Authorization": f"bearer   {locked.predict}"},
        {"X-API-Key": locked.predict},
        {"X-API-Key": locked.predict, "Authorization": f"Bearer {locked.predict}"},
        {"X-API-Key": locked.predict, "Authorization": "Basic cHJveHk6cHJveHk="},
    ]
    for headers in shown:
        assert ask("/predict/sales", json=SALES, headers=headers).status_code == 200, headers


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Authorization": "Basic eDp5"}, 401, "must be `Bearer KEY`"),
        ({"Authorization": "Bearer"}, 401, "must be `Bearer KEY`"),
        ({"Authorization": "Bearer x y"}, 401, "no key of the service"),
        ({"X-API-Key": "sk-123"}, 401, "no key of the service"),
        ({"X-API-Key": ""}, 401, "no key of the service"),
        ({"Authorization": "Bearer a", "X-API-Key": "b"}, 400, "different keys"),
    ],
)
def test_a_header_that_is_none_is_told(
    locked: Locked, headers: dict[str, str], status: int, words: str
) -> None:
    response = locked.client.post("/predict/sales", json=SALES, headers=headers)
    assert response.status_code == status
    assert words in response.json()["detail"]


def test_two_keys_in_one_header_are_refused(locked: Locked) -> None:
    twice = [("X-API-Key", locked.predict), ("X-API-Key", locked.admin)]
    response = locked.client.get("/models", headers=twice)
    assert response.status_code == 400
    assert "x-api-key comes more than once" in response.json()["detail"]


@pytest.mark.parametrize("fault", ["expired", "revoked", "unknown"])
def test_a_key_that_opens_nothing_says_why(locked: Locked, fault: str) -> None:
    key = f"sc_{'0' * 12}_{'A' * 43}" if fault == "unknown" else getattr(locked, fault)
    response = locked.ask(key, "POST", "/predict/sales", json=SALES)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].endswith('error="invalid_token"')
    assert {"unknown": "nobody has this key"}.get(fault, fault) in response.json()["detail"]
    counted = locked.ask(locked.admin, "GET", "/metrics").text
    assert f'shopcast_auth_failures_total{{reason="{fault}"}}' in counted


def test_a_scope_opens_its_routes_alone(locked: Locked) -> None:
    asked = [
        ("POST", "/predict/sales", "predict"),
        ("POST", "/invocations", "predict"),
        ("GET", "/models/sales", "predict"),
        ("GET", "/shops/main/profile", "train"),
        ("GET", "/keys", "admin"),
        ("GET", "/metrics", None),
    ]
    for method, path, scope in asked:
        for name in ("predict", "train", "admin"):
            body = {"json": SALES} if method == "POST" else {}
            response = locked.ask(getattr(locked, name), method, path, **body)
            if scope in {None, name}:
                assert response.status_code in {200, 404}, (path, name)
                continue
            assert response.status_code == 403, (path, name)
            assert f'scope="{scope}"' in response.headers["WWW-Authenticate"]
            assert f"this one has {name}" in response.json()["detail"]


def test_who_may_not_is_told_before_the_body_is_read(locked: Locked) -> None:
    address = (locked.client.base_url.host, locked.client.base_url.port)
    head = b"POST /predict/sales HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n"
    with socket.create_connection(address, timeout=30) as wire:
        wire.sendall(head)
        assert wire.recv(12) == b"HTTP/1.1 401"


def test_a_key_bound_to_shops_names_no_other(locked: Locked) -> None:
    path, body = "/shops/{}/profile", {"inputs": crowd(60), "parameters": {"as_of": AS_OF}}
    assert locked.ask(locked.bound, "PUT", path.format("main"), json=body).status_code == 200
    for method in ("GET", "PUT", "DELETE"):
        response = locked.ask(locked.bound, method, path.format("south"), json=body)
        assert response.status_code == 403
        assert "'south' is none of them" in response.json()["detail"]
    asked = {"inputs": [customer()], "parameters": {"as_of": AS_OF, "shop": "main"}}
    predict = "/predict/purchase-probability"
    assert locked.ask(locked.bound, "POST", predict, json=asked).status_code == 200
    asked["parameters"] = {"as_of": AS_OF, "shop": "south"}
    assert locked.ask(locked.bound, "POST", predict, json=asked).status_code == 403
    assert locked.ask(locked.predict, "POST", predict, json=asked).status_code == 404


def test_every_route_stands_in_the_table(tiny_checkpoint: Path, tmp_path: Path) -> None:
    app = create_app(Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path))
    own = [each.path for each in app.routes if isinstance(each, (Route, Mount))]
    paths = {*own, *app.openapi()["paths"]}
    assert len(paths) >= 15
    for path in paths:
        assert path in OPEN or path.split("/")[1] in NEEDS, path


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "/models", "predict"),
        ("POST", "/models/sales/versions/3/promote", "admin"),
        ("POST", "/models/sales/rollback", "admin"),
        ("DELETE", "/models/sales/versions/3", "admin"),
        ("POST", "/datasets", "train"),
        ("DELETE", "/datasets/ds_1", "train"),
        ("POST", "/jobs/1/cancel", "train"),
        ("PUT", "/schedules/nightly", "train"),
        ("POST", "/actuals", "train"),
        ("POST", "/explain/sales", "predict"),
        ("POST", "/v2/forecast", "predict"),
        ("POST", "/v2/finetune", "train"),
        ("DELETE", "/v2/finetuned_models/x", "train"),
        ("GET", "/v2/finetuned_models", "predict"),
        ("GET", "/validate_api_key", "any"),
        ("GET", "/", "open"),
        ("POST", "/", "any"),
        ("GET", "/console/app.js", "open"),
        ("GET", "/nowhere", "any"),
        ("GET", "//keys", "any"),
        ("GET", "", "any"),
    ],
)
def test_what_a_path_needs(method: str, path: str, need: str) -> None:
    assert need_of(method, path) == need


def test_metrics_are_open_by_setting() -> None:
    assert need_of("GET", "/metrics", metrics_open=True) == "open"


def test_a_key_has_its_rate_and_is_told_when_to_come_again(locked: Locked) -> None:
    slow, other = (
        locked.keys.create("", ["predict"], actor="test", rate="2/m")[1] for _ in range(2)
    )
    answers = [locked.ask(slow, "POST", "/predict/sales", json=SALES) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert [each.headers["RateLimit"].split(";t=")[0] for each in answers] == [
        *('"key";r=1', '"key";r=0', '"key";r=0'),
    ]
    refused = answers[2]
    assert refused.headers["RateLimit-Policy"] == '"key";q=2;w=60'
    assert 25 <= int(refused.headers["Retry-After"]) <= 30
    assert refused.json()["type"] == "urn:shopcast:problem:rate-limited"
    assert "2 requests a minute" in refused.json()["detail"]
    assert locked.ask(other, "POST", "/predict/sales", json=SALES).status_code == 200
    assert "RateLimit" not in locked.ask(locked.predict, "GET", "/models").headers


def test_a_key_may_fill_three_quarters_of_the_queue(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path, queue_points=40)
    migrate(settings.database)
    engine = open_database(settings.database)
    key = Keys(engine).create("", ["predict"], actor="test")[1]
    engine.dispose()
    bodies = {
        "/predict/sales": {"inputs": [{"target": list(range(64))}]},
        "/predict/inventory": {"inputs": [ITEM]},
        "/predict/purchase-probability": {"inputs": crowd(50), "parameters": {"as_of": AS_OF}},
    }
    with (
        running(settings, {"purchase": Rates()}) as url,
        httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=60) as client,
    ):
        for path, body in bodies.items():
            (issue,) = client.post(path, json=body).json()["errors"]
            assert "at most 30 can wait" in issue["msg"], path


def test_without_keys_a_header_is_no_matter(service: httpx.Client) -> None:
    for headers in (
        {"Authorization": "Basic eDp5"},
        {"X-API-Key": "a", "Authorization": "Bearer b"},
    ):
        assert service.get("/models", headers=headers).status_code == 200
