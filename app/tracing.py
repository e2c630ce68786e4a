"""Traces of requests for an OpenTelemetry collector, by setting (extra `tracing`).

Invariant: a span is made once its answer has left, so that no request waits for one; and it holds
names, numbers and times, never what was asked or answered.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Answered:
    """A request whose answer has left.

    headers: those that carry a trace from the caller. phases: seconds by name, one after another
    and the last one just before the answer left. facts: what else is said of it.
    """

    method: str
    route: str
    status: int
    seconds: float
    headers: Mapping[bytes, bytes]
    phases: Mapping[str, float]
    facts: Mapping[str, str]


class Tracing:
    """Sends spans of answered requests to a collector, in the background."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415 - an extra

        self._provider = provider
        self._tracer = provider.get_tracer("shopcast")
        self._propagator = tracecontext.TraceContextTextMapPropagator()

    def record(self, answered: Answered) -> None:
        """Note a request that ends now."""
        from opentelemetry import trace  # noqa: PLC0415 - an extra

        end_ns = time.time_ns()
        carried = {
            name.decode(): answered.headers[name].decode("latin-1")
            for name in (b"traceparent", b"tracestate")
            if name in answered.headers
        }
        span = self._tracer.start_span(
            f"{answered.method} {answered.route}",
            context=self._propagator.extract(carried),
            kind=trace.SpanKind.SERVER,
            start_time=end_ns - int(answered.seconds * NS),
            attributes=_attributes(answered),
        )
        if answered.status >= 500:
            span.set_status(trace.Status(trace.StatusCode.ERROR))
        inside = trace.set_span_in_context(span)
        for name, began_ns, ended_ns in _laid_out(answered.phases, end_ns):
            self._tracer.start_span(name, context=inside, start_time=began_ns).end(ended_ns)
        span.end(end_ns)

    def close(self) -> None:
        """Send what is left, and stop. Blocking."""
        self._provider.shutdown()


def open_tracing(endpoint: str, *, share: float) -> Tracing:
    """Tracing to the OTLP/HTTP collector at a URL, for a share of the traces that begin here.

    A trace that a caller began is followed if the caller follows it. Raises ConfigurationError if
    the libraries are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "SHOPCAST_OTLP_ENDPOINT needs OpenTelemetry: pip install 'shopcast[tracing]'"
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": "shopcast"}),
        sampler=ParentBasedTraceIdRatio(share),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def _attributes(answered: Answered) -> dict[str, Any]:
    said = {f"shopcast.{name}": value for name, value in answered.facts.items() if value}
    return said | {
        "http.request.method": answered.method,
        "http.route": answered.route,
        "http.response.status_code": answered.status,
    }


def _laid_out(phases: Mapping[str, float], end_ns: int) -> Iterator[tuple[str, int, int]]:
    """Each phase with its begin and end, so that the last one ends at the end."""
    at_ns = end_ns - int(sum(phases.values()) * NS)
    for name, seconds in phases.items():
        began_ns, at_ns = at_ns, at_ns + int(seconds * NS)
        if seconds > 0:
            yield name, began_ns, at_ns
