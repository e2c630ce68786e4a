"""Bodies are bounded before, while and after they are read, and refused with the reason."""

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
import zstandard

from app.api.bodies import MOST_PARTS, NotFinite, decompress, parse
from app.errors import MalformedError, TooLargeError

JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"inputs": [{"target": [1, 2, 3, 4]}]}).encode()
LIMIT = 200_000  # of the service under test
LARGE = BODY + b" " * LIMIT


def post(service: httpx.Client, content: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.post("/predict/sales", content=content, headers={**JSON, **named})


def chunks(body: bytes, size: int = 10_000) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def test_a_body_may_come_in_chunks(service: httpx.Client) -> None:
    assert post(service, chunks(BODY, 5)).status_code == 200


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_be_compressed(service: httpx.Client, compress: Any, *, chunked: bool) -> None:
    packed = compress(BODY)
    encoding = "gzip" if packed[:2] == b"\x1f\x8b" else "zstd"
    response = post(service, chunks(packed, 7) if chunked else packed, Content_Encoding=encoding)
    assert response.status_code == 200, response.text


def test_several_compressed_members_are_one_body(service: httpx.Client) -> None:
    halves = (BODY[:10], BODY[10:])
    zipped = b"".join(map(gzip.compress, halves))
    packed = b"".join(map(zstandard.ZstdCompressor().compress, halves))
    assert post(service, zipped, Content_Encoding="gzip").status_code == 200
    assert post(service, packed, Content_Encoding="zstd").status_code == 200


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (LARGE, "identity"),
        (LARGE, "Identity"),
        (gzip.compress(LARGE), "gzip"),
        (zstandard.ZstdCompressor().compress(LARGE), "zstd"),
        (gzip.compress(b"0" * 300_000_000, 9), "gzip"),
        (zstandard.ZstdCompressor().compress(b"0" * 300_000_000), "zstd"),
        (gzip.compress(BODY) * 5_000, "gzip"),
    ],
    ids=["plain", "plainly", "gzip", "zstd", "gzip bomb", "zstd bomb", "gzip members"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(
    service: httpx.Client, content: bytes, encoding: str, *, chunked: bool
) -> None:
    sent = chunks(content) if chunked else content
    response = post(service, sent, Content_Encoding=encoding)
    assert response.status_code == 413
    assert response.json()["detail"].startswith("the body has more than 200,000 bytes; send fewer")


@pytest.mark.parametrize(
    ("content", "encoding", "status", "reason"),
    [
        (BODY, "gzip", 400, "no complete gzip stream"),
        (BODY, "zstd", 400, "no complete zstd stream"),
        (gzip.compress(BODY)[:-9], "gzip", 400, "no complete gzip stream"),
        (zstandard.ZstdCompressor().compress(BODY)[:-3], "zstd", 400, "no complete zstd stream"),
        (b"", "gzip", 400, "the body is empty"),
        (BODY, "br", 415, "Content-Encoding 'br' is unknown here; use gzip, zstd or none"),
        (BODY, "gzip, gzip", 415, "unknown here"),
        (b"", "identity", 400, "the body is empty; send a JSON object"),
        (b"", "Identity", 400, "the body is empty; send a JSON object"),
        (b"{", "identity", 400, "the body is not JSON"),
        (b'{"inputs": [}', "identity", 400, "line 1, column 13"),
        (b'{"inputs": \xff}', "identity", 400, "the body is not"),
        (b'{"inputs": "\xff"}', "identity", 400, "the body is not UTF-8"),
        (BODY.decode().encode("utf-16"), "identity", 400, "the body is not"),
        (b"\xef\xbb\xbf" + BODY, "identity", 400, "BOM"),
        (b"[" * 100_000 + b"]" * 100_000, "identity", 400, "nested too deeply"),
        (b'{"a":' * 30_000 + b"}" * 30_000, "identity", 400, "nested too deeply"),
        (b'{"inputs": [{"target": [NaN' + b"[" * 90_000, "identity", 400, "the body is not JSON"),
        (b'{"inputs": [{"target": [01]}]}', "identity", 400, "the body is not JSON"),
    ],
)
def test_a_broken_body_is_refused(
    service: httpx.Client, content: bytes, encoding: str, status: int, reason: str
) -> None:
    response = post(service, content, Content_Encoding=encoding)
    assert response.status_code == status
    assert reason in response.json()["detail"]


def test_of_a_name_that_comes_twice_the_last_counts(service: httpx.Client) -> None:
    twice = b'{"inputs": [], "inputs": [{"target": [1], "target": [1, 2]}]}'
    assert post(service, twice).status_code == 200


def test_a_declared_length_is_refused_before_anything_is_read(service: httpx.Client) -> None:
    head = (
        "POST /predict/sales HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/json\r\nContent-Length: 900000000\r\n\r\n"
    )
    with socket.create_connection((service.base_url.host, service.base_url.port or 80)) as caller:
        caller.settimeout(10)
        caller.sendall(head.encode())
        assert caller.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_decompressing_stops_at_the_limit() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    with pytest.raises(TooLargeError):
        decompress(bomb, "gzip", limit=1000)
    assert decompress(gzip.compress(b"0" * 1000), "gzip", limit=1000) == b"0" * 1000


def test_numbers_that_are_none_stand_where_they_were() -> None:
    value = parse(b'{"a": [NaN, 1, 2.5, 1e999, null]}')
    assert isinstance(value, dict)
    first, *middle, large, nothing = value["a"]
    assert isinstance(first, NotFinite)
    assert isinstance(large, NotFinite)
    assert (first.text, middle, large.text, nothing) == ("NaN", [1, 2.5], "1e999", None)


def test_a_large_body_is_told_by_position_alone() -> None:
    with pytest.raises(MalformedError, match="NaN or infinity at line 1, column"):
        parse(b"[NaN, " + b"0," * 5_000_000 + b"0]")


@pytest.mark.parametrize(
    "crowd",
    [b"[],", b"{},", b'{"a":1},', b'"a":1,', b'"a" :1,'],
    ids=["[]", "{}", "{a}", "a", "a "],
)
def test_what_takes_many_times_its_size_is_refused_before_it_is_parsed(
    crowd: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orjson, "loads", None)
    with pytest.raises(MalformedError, match=r"more than 500,000 lists, objects or names; send"):
        parse(b'{"inputs":[' + crowd * 1_000_001 + b"[]]}")


def test_the_largest_request_is_parsed() -> None:
    covariates = {str(number): [1] for number in range(20)}
    one = {"target": [[1]] * 64, "past_covariates": covariates, "future_covariates": covariates}
    whole = json.dumps({"inputs": [one] * 1024}).encode()
    assert len(whole) > MOST_PARTS
    assert len(parse(whole)["inputs"]) == 1024  # type: ignore[index]


def test_the_colons_of_times_are_no_names() -> None:
    time = b'"2026-09-01T10:00:00+02:00",'
    assert len(parse(b"[" + time * 400_000 + b"0]")) == 400_001  # type: ignore[arg-type]
    crowd = b'{"a":1},' * 90_000
    assert parse(b"[" + crowd + b"0]", most_names=90_000)
    with pytest.raises(MalformedError, match="send fewer inputs"):
        parse(b"[" + crowd + b"0]", most_names=89_999)
