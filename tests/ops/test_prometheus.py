"""What Prometheus and Grafana are told of the service holds against a real scrape of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.live import running
from tests.ops.programs import free_port, program

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
RULES = ROOT / "ops" / "prometheus"
DASHBOARD = ROOT / "ops" / "grafana" / "dashboards" / "shopcast.json"
SCRAPE_MS = 500
WINDOW = "5s"
BODY = {"inputs": [{"target": [3, 1, 4, 1, 5, 9, 2, 6]}], "parameters": {"prediction_length": 2}}
CUSTOMER = {
    "inputs": [{"customer_id": "a", "events": [{"type": "purchase", "at": "2026-09-03T09:12:00"}]}],
    "parameters": {"as_of": "2026-10-01", "horizons_days": [7]},
}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
)
def test_promtool_takes_the_configuration(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(  # noqa: S603 - our own files
        [program("promtool", package="prometheus"), *arguments],
        cwd=RULES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def queries() -> list[str]:
    """Every query of the dashboard, as Grafana would send it."""
    found = [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())
    ]
    assert len(found) > 20
    return [
        each.replace("$__rate_interval", WINDOW)
        .replace("$job", "shopcast")
        .replace("$instance", ".*")
        for each in found
    ]


def test_panels_are_told_apart() -> None:
    panels = dashboard()["panels"]
    ids, titles = ([panel[key] for panel in panels] for key in ("id", "title"))
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)


def test_a_dashboard_on_the_shelf_is_the_one_that_is_provisioned() -> None:
    provisioned = (ROOT / "ops/grafana/provisioning/dashboards/shopcast.yml").read_text()
    source = (ROOT / "ops/grafana/provisioning/datasources/prometheus.yml").read_text()
    assert "path: /var/lib/grafana/dashboards" in provisioned
    assert f"uid: {dashboard()['panels'][1]['datasource']['uid']}" in source


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_events_checkpoint: Path
) -> Iterator[str]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        series_checkpoint=tiny_checkpoint,
        purchase_checkpoint=tiny_events_checkpoint,
        device="cpu",
    )
    with running(settings) as address:
        yield address


@contextmanager
def watching(address: str, directory: Path) -> Iterator[str]:
    """A Prometheus that scrapes the service twice a second: its address."""
    target = address.removeprefix("http://")
    rules = shutil.copy(RULES / "alerts.yml", directory)
    config = directory / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {SCRAPE_MS}ms, evaluation_interval: 1s}}\n"
        f"rule_files: [{rules}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: shopcast, static_configs: [{{targets: ['{target}']}}]}}\n"
    )
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - found above
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def ask(prometheus: str, query: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def is_ready(prometheus: str) -> bool:
    try:
        return httpx.get(f"{prometheus}/-/ready").status_code == 200
    except httpx.TransportError:
        return False  # not listening yet


def wait_for_scrapes(prometheus: str, address: str) -> None:
    """Traffic until there are enough scrapes for rates."""
    for _ in range(100):
        for path, body in (("sales", BODY), ("purchase-probability", CUSTOMER)):
            httpx.post(f"{address}/predict/{path}", json=body).raise_for_status()
        counted = is_ready(prometheus) and ask(prometheus, f"count_over_time(up[{WINDOW}]) > 4")
        if counted:
            return
        time.sleep(0.1)
    pytest.fail("Prometheus did not scrape")


def test_every_query_finds_what_it_asks_for(service: str, tmp_path: Path) -> None:
    with watching(service, tmp_path) as prometheus:
        wait_for_scrapes(prometheus, service)
        empty = [query for query in queries() if not ask(prometheus, query)]
        assert not empty
        rules = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
        unwell = [rule for group in rules for rule in group["rules"] if rule["health"] == "err"]
        assert not unwell
        assert not ask(prometheus, "ALERTS")  # of a service that is well


def test_every_alert_is_about_a_metric_that_exists(service: str) -> None:
    families = text_string_to_metric_families(httpx.get(f"{service}/metrics").text)
    exist = {sample.name for family in families for sample in family.samples}
    named = set(re.findall(r"shopcast_[a-z_]+", (RULES / "alerts.yml").read_text()))
    # a histogram that nothing went through yet shows no samples
    missing = {each for each in named - exist if not each.endswith("_bucket")}
    assert missing <= {"shopcast_http_requests_total"}
