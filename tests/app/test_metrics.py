"""Metrics are a contract: what a scrape shows, and what the operations page says of it."""

import asyncio
import re
from pathlib import Path

from app.metrics import Metrics, ModelInfo, watch_loop
from tests.app.networks import value_of

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
INFO = ModelInfo("sales", 3, "ab" * 32, "cpu", "float32", 2_000_000)


def scraped(metrics: Metrics) -> str:
    return metrics.render()[0].decode()


def names(metrics: Metrics) -> set[str]:
    """Names as a scrape shows them, _total included."""
    return set(re.findall(r"^# TYPE (\S+)", scraped(metrics), re.MULTILINE))


def test_every_metric_has_a_line_in_the_operations_page() -> None:
    metrics = Metrics()
    metrics.watch_gpu_memory(lambda: 0.0)
    documented = re.findall(r"^\| `(shopcast_\w+)[`{]", PAGE.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(names(metrics))


def test_names_begin_with_the_service_and_counters_end_in_total() -> None:
    text = scraped(Metrics())
    assert all(name.startswith("shopcast_") for name in names(Metrics()))
    counters = re.findall(r"^# TYPE (\S+) counter", text, re.MULTILINE)
    assert counters
    assert all(name.endswith("_total") for name in counters)


def test_two_services_in_one_process_do_not_collide() -> None:
    one, other = Metrics(), Metrics()
    one.batches.inc()
    assert value_of(one, "shopcast_batches_total") == 1
    assert value_of(other, "shopcast_batches_total") == 0


def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 422):
        metrics.observe_http("/predict/sales", method="POST", status=status, seconds=0.004)
    labels = {"route": "/predict/sales", "method": "POST", "status": "200"}
    assert value_of(metrics, "shopcast_http_requests_total", **labels) == 2
    route = {"route": "/predict/sales"}
    assert value_of(metrics, "shopcast_http_request_seconds_count", **route) == 3
    assert value_of(metrics, "shopcast_http_request_seconds_bucket", le="0.005", **route) == 3


def test_latency_is_told_apart_from_one_millisecond_to_ten_seconds() -> None:
    metrics = Metrics()
    metrics.observe_http("/", method="GET", status=200, seconds=0.1)
    bounds = re.findall(r'http_request_seconds_bucket{le="([^"]+)"', scraped(metrics))
    assert bounds[0] == "0.001"
    assert bounds[-2:] == ["10.0", "+Inf"]


def test_a_model_is_shown_while_it_is_live() -> None:
    metrics = Metrics()
    metrics.set_model(INFO, load_seconds=1.5)
    text = scraped(metrics)
    assert 'version="3"' in text
    assert f'fingerprint="{"ab" * 6}"' in text
    assert value_of(metrics, "shopcast_model_load_seconds", name="sales", version="3") == 1.5
    metrics.drop_model(INFO)
    assert 'version="3"' not in scraped(metrics)


def test_gpu_memory_is_read_when_the_metrics_are() -> None:
    metrics, used = Metrics(), [1.0]
    assert "gpu" not in scraped(metrics)
    metrics.watch_gpu_memory(lambda: used[0])
    used[0] = 7.0
    assert value_of(metrics, "shopcast_gpu_memory_bytes") == 7


def test_the_process_is_watched() -> None:
    metrics = Metrics()
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        assert value_of(metrics, f"shopcast_process_{name}") > 0


async def test_the_lag_of_the_event_loop_is_measured() -> None:
    metrics = Metrics()
    watching = asyncio.create_task(watch_loop(metrics, 0.001))
    async with asyncio.timeout(10):
        while value_of(metrics, "shopcast_event_loop_lag_seconds_count") < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    watching.cancel()
