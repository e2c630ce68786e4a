"""What holds for every request, whatever its route."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import zstandard

from app.api.edge import _hosts
from app.db import migrate
from app.main import create_app
from app.settings import Settings


@pytest_asyncio.fixture
async def closed(tiny_checkpoint: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application without a server around it, which would drop bodies by itself."""
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path)
    migrate(settings.database)
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


JSON = {"Content-Type": "application/json"}
BODY = {"inputs": [{"target": [1, 2, 3]}]}


def test_a_valid_request_id_comes_back_and_another_is_replaced(service: httpx.Client) -> None:
    given = service.get("/healthz", headers={"X-Request-ID": "shop-7:42"})
    assert given.headers["X-Request-ID"] == "shop-7:42"
    for bad in ("a b", "x" * 129, "<script>", ""):
        made = service.get("/healthz", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert len(made) == 32
    assert service.get("/nowhere").json()["request_id"]


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/docs", "/metrics", "/predict/sales"])
def test_every_answer_has_the_headers(service: httpx.Client, path: str) -> None:
    headers = service.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Request-ID"]
    assert "dur=" in headers["Server-Timing"]
    assert "Server" not in headers or headers["Server"] == "uvicorn"  # the test's own server


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "LOCALHOST:8000", "[::1]:80"])
def test_hosts_of_the_list_are_answered(service: httpx.Client, host: str) -> None:
    assert service.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "[", "*"]
)
def test_other_hosts_are_not(service: httpx.Client, host: str) -> None:
    response = service.get("/healthz", headers={"Host": host})
    assert response.status_code == 421
    assert response.json()["type"] == "urn:shopcast:problem:unknown-host"


@pytest.mark.parametrize(
    ("settings", "host", "admitted"),
    [
        ({"allowed_hosts": "shop.example"}, "Shop.example:443", True),
        ({"allowed_hosts": "shop.example"}, "a.shop.example", False),
        ({"allowed_hosts": "*.shop.example"}, "a.shop.example", True),
        ({"allowed_hosts": "*.shop.example"}, "shop.example", False),
        ({"allowed_hosts": "*"}, "anything", True),
        ({"host": "10.1.2.3"}, "10.1.2.3:8000", True),
        ({"host": "::"}, "10.1.2.3:8000", True),
        ({"host": "::"}, "[fe80::1]:8000", True),
        ({"host": "::"}, "rebound.example", False),
        ({}, "10.1.2.3", False),
    ],
)
def test_the_list_of_hosts(settings: dict[str, Any], host: str, *, admitted: bool) -> None:
    assert _hosts(Settings(**settings)).admits(host) is admitted


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_may_not_write(service: httpx.Client, headers: dict[str, str]) -> None:
    response = service.post("/predict/sales", json=BODY, headers=headers)
    assert response.status_code == 403
    assert service.get("/healthz", headers=headers).status_code == 200


def test_a_page_of_this_host_may(service: httpx.Client) -> None:
    own = {"Origin": str(service.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert service.post("/predict/sales", json=BODY, headers=own).status_code == 200


@pytest.mark.parametrize(
    "media_type",
    [
        *("text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"),
        *("text/json", "application/json; charset=latin-1"),
    ],
)
def test_other_types_than_json_are_refused(service: httpx.Client, media_type: str) -> None:
    response = service.post(
        "/predict/sales", content=json.dumps(BODY), headers={"Content-Type": media_type}
    )
    assert response.status_code == 415
    assert "must be application/json" in response.json()["detail"]


@pytest.mark.parametrize("media_type", ["Application/JSON", "application/json; charset=UTF-8"])
def test_json_is_json_however_it_is_spelt(service: httpx.Client, media_type: str) -> None:
    response = service.post(
        "/predict/sales", content=json.dumps(BODY), headers={"Content-Type": media_type}
    )
    assert response.status_code == 200


def test_a_header_that_decides_may_come_once(service: httpx.Client) -> None:
    twice = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    response = service.post("/predict/sales", content="{}", headers=twice)
    assert response.status_code == 400
    assert "content-type comes more than once" in response.json()["detail"]


def test_unknown_paths_and_methods_are_problems(service: httpx.Client) -> None:
    nowhere, wrong = service.get("/nowhere"), service.get("/predict/sales")
    assert (nowhere.status_code, wrong.status_code) == (404, 405)
    assert wrong.headers["Allow"] == "POST"
    for response in (nowhere, wrong):
        assert response.headers["Content-Type"] == "application/problem+json"
        assert set(response.json()) == {"type", "title", "status", "detail", "request_id"}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_what_a_route_does_not_take_is_no_matter_of_its_type(
    service: httpx.Client, method: str
) -> None:
    response = service.request(method, "/predict/sales", content=b"x")
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"


READ = ("/healthz", "/readyz", "/ping", "/metrics", "/models", "/models/sales", "/docs")


@pytest.mark.parametrize("path", [*READ, "/openapi.json", "/docs/assets/favicon.png", "/nowhere"])
def test_head_is_answered_like_get_without_a_body(service: httpx.Client, path: str) -> None:
    judge_head(service.get(path), service.head(path))
    assert service.get("/ping").status_code == 200  # the connection goes on in step


@pytest.mark.parametrize("path", [*READ, "/openapi.json", "/docs/assets/favicon.png", "/nowhere"])
async def test_no_body_leaves_the_application_for_head(
    closed: httpx.AsyncClient, path: str
) -> None:
    judge_head(await closed.get(path), await closed.head(path))


def judge_head(get: httpx.Response, head: httpx.Response) -> None:
    assert head.status_code == get.status_code
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert "Content-Length" in head.headers
    assert get.content
    assert head.content == b""


def test_head_is_counted_as_itself_and_refused_where_get_is(service: httpx.Client) -> None:
    service.head("/models/sales")
    text = service.get("/metrics").text
    assert 'shopcast_http_requests_total{method="HEAD",route="/models/{name}",status="200"}' in text
    refused = service.head("/predict/sales")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert service.put("/healthz", json={}).headers["Allow"] == "GET, HEAD"
    unknown = service.request("TRACE", "/shops/main/profile")
    assert (unknown.status_code, unknown.headers["Allow"]) == (405, "DELETE, GET, HEAD, PUT")


@pytest.mark.parametrize(("accepted", "coding"), [("gzip, zstd", "zstd"), ("gzip", "gzip")])
def test_large_answers_are_compressed_as_asked(
    service: httpx.Client, accepted: str, coding: str
) -> None:
    request = service.build_request("GET", "/metrics", headers={"Accept-Encoding": accepted})
    response = service.send(request, stream=True)
    raw = b"".join(response.iter_raw())
    assert response.headers["Content-Encoding"] == coding
    assert response.headers["Vary"] == "Accept-Encoding"
    assert int(response.headers["Content-Length"]) == len(raw)
    plain = zstandard.ZstdDecompressor().decompress(raw) if coding == "zstd" else b""
    if coding == "gzip":
        plain = gzip.decompress(raw)
    assert b"shopcast_http_requests_total" in plain


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0, identity", "gzip;q=x", ""])
def test_and_not_otherwise(service: httpx.Client, accepted: str) -> None:
    response = service.get("/metrics", headers={"Accept-Encoding": accepted})
    assert "Content-Encoding" not in response.headers


def test_small_answers_are_not_compressed(service: httpx.Client) -> None:
    response = service.get("/healthz", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in response.headers


def test_requests_are_counted_by_the_template_of_their_route(service: httpx.Client) -> None:
    service.get("/models/sales")
    service.get("/models/one-that-is-not")
    service.request("PROPFIND", "/nowhere")
    text = service.get("/metrics").text
    assert 'shopcast_http_requests_total{method="GET",route="/models/{name}",status="200"}' in text
    assert 'shopcast_http_requests_total{method="GET",route="/models/{name}",status="404"}' in text
    assert 'method="other",route="unknown",status="404"' in text
    assert 'route="/predict/sales"' in text
    assert "one-that-is-not" not in text
    assert "shopcast_http_in_flight 1.0" in text


async def test_a_failure_shows_its_id_and_nothing_else(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path)
    migrate(settings.database)
    app = create_app(settings)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a secret of the house")

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        response = await client.get("/broken", headers={"X-Request-ID": "find-me"})
    assert response.status_code == 500
    assert response.json()["request_id"] == "find-me"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
