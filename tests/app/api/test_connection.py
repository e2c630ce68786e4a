"""What a connection may send beside bodies, and how slowly."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import httpx
import pytest

from app.api import connection
from app.api.connection import HEAD_BYTES

START = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = (
    b"POST /predict/sales HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
MANY = 16 * 1024 * 1024 // HEAD_BYTES


@pytest.fixture
def line(service: httpx.Client) -> Iterator[socket.socket]:
    address = (service.base_url.host, service.base_url.port or 80)
    with socket.create_connection(address, timeout=20) as opened:
        yield opened


@pytest.mark.parametrize(
    "more", [b"X-A: " + 1000 * b"a" + b"\r\n", 1000 * b"a"], ids=["lines", "one line"]
)
def test_a_head_without_end_is_refused(line: socket.socket, more: bytes) -> None:
    line.sendall(START + b"X-B: ")
    sent = _send_on(line, more * (HEAD_BYTES // len(more)))
    assert sent < MANY / 2
    answer = HTTPResponse(line)
    answer.begin()
    body = json.loads(answer.read())
    assert answer.status == body["status"] == 431
    assert "65,536 bytes" in body["detail"]
    assert answer.headers["x-request-id"] == body["request_id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_many_headers_are_fine(line: socket.socket) -> None:
    line.sendall(START + b"".join(b"X-%d: %s\r\n" % (n, 500 * b"a") for n in range(100)) + b"\r\n")
    answer = HTTPResponse(line)
    answer.begin()
    assert answer.status == 200


@pytest.mark.parametrize("more", [b"X-A: b\r\n", b"a"], ids=["trailers", "extension"])
def test_what_follows_a_body_has_an_end_too(line: socket.socket, more: bytes) -> None:
    line.sendall(CHUNKED + b"2\r\n{}\r\n" + (b"0\r\n" if more.endswith(b"\r\n") else b"0;"))
    assert _send_on(line, more * (HEAD_BYTES // len(more))) < MANY / 2


def test_chunks_of_a_byte_are_a_body(line: socket.socket) -> None:
    raw = json.dumps({"inputs": [{"target": [1.0, 2.0, 3.0] * 10}]}).ljust(HEAD_BYTES).encode()
    line.sendall(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in raw) + b"0\r\n\r\n")
    answer = HTTPResponse(line)
    answer.begin()
    assert answer.status == 200


def test_a_head_that_does_not_end_in_time_is_hung_up_on(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    address = (service.base_url.host, service.base_url.port or 80)
    with (
        socket.create_connection(address, timeout=20) as silent,
        socket.create_connection(address, timeout=20) as slow,
    ):
        began_s = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in START * 100:  # a second and more in all, and never a pause
                slow.sendall(b"%c" % byte)
                time.sleep(0.001)
                if time.monotonic() - began_s > 5:
                    break
        assert time.monotonic() - began_s < 5
        assert silent.recv(1) == b""
    assert service.get("/healthz").status_code == 200


def _send_on(line: socket.socket, piece: bytes) -> int:
    """How many pieces were taken until the service hung up, of MANY at most."""
    for sent in range(MANY):
        try:
            line.sendall(piece)
        except ConnectionError:
            return sent
        time.sleep(0.002)
    return MANY
