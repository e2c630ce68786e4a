"""What a collector of traces, and a reader of the log, are told of requests."""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from structlog.testing import capture_logs

from app.api.exchange import phases_of
from app.errors import ConfigurationError
from app.settings import Settings
from app.tracing import open_tracing
from tests.live import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = {"inputs": [{"target": [3, 1, 4, 1, 5, 9, 2, 6]}], "parameters": {"prediction_length": 2}}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP/HTTP collector: its URL, and the spans it got."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in each.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_prediction_is_a_span_of_its_callers_trace_with_its_phases(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    with collector() as (url, spans):
        settings = Settings(
            data_dir=tmp_path, series_checkpoint=tiny_checkpoint, otlp_endpoint=url, device="cpu"
        )
        with running(settings) as address:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
            httpx.post(f"{address}/predict/sales", json=BODY, headers=headers).raise_for_status()
            httpx.post(f"{address}/predict/sales", json={"inputs": []})
        # what was not sent yet is sent when the service ends
    (server,) = [span for span in spans if span.trace_id.hex() == TRACE and span.kind == 2]
    assert server.name == "POST /predict/sales"
    assert server.parent_span_id.hex() == PARENT
    said = attributes(server)
    assert said["http.response.status_code"] == 200
    assert said["shopcast.request_id"] == "mine"
    assert said["shopcast.model"] == "sales/1"
    children = [span for span in spans if span.parent_span_id == server.span_id]
    assert {"validate", "queue", "compute", "serialize"} <= {span.name for span in children}
    for child in children:
        assert server.start_time_unix_nano - 2_000_000 <= child.start_time_unix_nano
        assert child.end_time_unix_nano <= server.end_time_unix_nano + 1_000
    (refused,) = [span for span in spans if span.kind == 2 and span.trace_id.hex() != TRACE]
    assert attributes(refused)["http.response.status_code"] == 422
    assert b"target" not in b"".join(span.SerializeToString() for span in spans)


def test_a_caller_who_does_not_sample_is_not_traced(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with collector() as (url, spans):
        settings = Settings(
            data_dir=tmp_path, series_checkpoint=tiny_checkpoint, otlp_endpoint=url, device="cpu"
        )
        with running(settings) as address:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
            httpx.post(f"{address}/predict/sales", json=BODY, headers=headers).raise_for_status()
    assert not spans


def test_a_collector_that_is_gone_hurts_no_request(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with collector() as (url, _):
        pass
    settings = Settings(
        data_dir=tmp_path, series_checkpoint=tiny_checkpoint, otlp_endpoint=url, device="cpu"
    )
    with running(settings) as address:
        httpx.post(f"{address}/predict/sales", json=BODY).raise_for_status()


def test_a_url_without_the_libraries_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=r"shopcast\[tracing\]"):
        open_tracing("http://127.0.0.1:4318", share=1.0)


@pytest.mark.parametrize(("wanted", "lines"), [("all", 2), ("slow", 0), ("none", 0)])
def test_requests_are_logged_as_asked(
    tmp_path: Path, tiny_checkpoint: Path, wanted: str, lines: int
) -> None:
    settings = Settings(
        data_dir=tmp_path,
        series_checkpoint=tiny_checkpoint,
        device="cpu",
        log_requests=wanted,
        slow_ms=60_000,
    )
    structlog.reset_defaults()
    with running(settings) as address, capture_logs() as logged:
        httpx.post(f"{address}/predict/sales", json=BODY).raise_for_status()
        httpx.get(f"{address}/models").raise_for_status()
    requests = [each for each in logged if each["event"] == "request"]
    assert len(requests) == lines
    if requests:
        first = requests[0]
        assert first["route"] == "/predict/sales"
        assert first["status"] == 200
        assert first["model"] == "sales/1"
        assert first["compute_ms"] > 0
        assert "3, 1, 4" not in json.dumps(requests)


def test_phases_are_read_off_the_header() -> None:
    assert phases_of(b"validate;dur=1.500, queue;dur=0.000") == {"validate": 0.0015, "queue": 0.0}
    assert phases_of(b"") == {}
