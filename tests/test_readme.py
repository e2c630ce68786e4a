"""What the README shows is what a reader gets."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.settings import Settings
from models.checkpoint import shipped
from tests.live import running

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (
    *(["serve"], ["predict", "sales"], ["predict", "inventory"], ["predict", "purchase"]),
    *(["backtest", "sales"], ["backtest", "purchase"], ["finetune", "sales"]),
    ["keys", "create"],
)
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def payload(path: str = "/predict/sales") -> dict[str, Any]:
    """The body of the README's curl."""
    curl = next(block for block in blocks("sh") if block.startswith("curl") and path in block)
    body: dict[str, Any] = json.loads(curl.partition("-d '")[2].rpartition("'")[0])
    return body


@pytest.fixture
def tiny_service(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[str]:
    with running(Settings(data_dir=tmp_path, series_checkpoint=tiny_checkpoint)) as address:
        yield address


def test_curl_gets_the_answer_that_is_shown(tmp_path: Path) -> None:
    if not (shipped("series") / "model.safetensors").exists():
        pytest.skip("no checkpoint is shipped yet")
    with running(Settings(data_dir=tmp_path, device="cpu")) as address:
        answer = httpx.post(f"{address}/predict/sales", json=payload(), timeout=60).json()
    shown = json.loads(blocks("json")[0])
    assert answer.keys() == shown.keys()
    assert answer["model"] == shown["model"]
    got, told = answer["predictions"][0], shown["predictions"][0]
    assert got.keys() == told.keys()
    message = "the answer in README.md is stale; run python docs/readme.py"
    for name in ("mean", "0.1", "0.5", "0.9"):
        assert got[name] == pytest.approx(told[name], abs=0.06), message


def test_curl_is_answered_by_any_checkpoint(tiny_service: str) -> None:
    response = httpx.post(f"{tiny_service}/predict/sales", json=payload(), timeout=60)
    assert response.status_code == 200, response.text
    prediction = response.json()["predictions"][0]
    assert prediction["item_id"] == "bananas"
    assert len(prediction["mean"]) == 7


def test_what_to_order_is_answered_by_any_checkpoint(tiny_service: str) -> None:
    path = "/predict/inventory"
    response = httpx.post(f"{tiny_service}{path}", json=payload(path), timeout=60)
    assert response.status_code == 200, response.text
    assert response.json()["predictions"][0]["order_quantity"] >= 0


def test_curl_of_a_customer_gets_the_answer_that_is_shown(tmp_path: Path) -> None:
    if not (shipped("purchase") / "model.safetensors").exists():
        pytest.skip("no checkpoint is shipped yet")
    path = "/predict/purchase-probability"
    with running(Settings(data_dir=tmp_path, device="cpu")) as address:
        answer = httpx.post(f"{address}{path}", json=payload(path), timeout=60).json()
    shown = json.loads(blocks("json")[1])
    assert answer.keys() == shown.keys()
    got, told = answer["predictions"][0], shown["predictions"][0]
    assert got.keys() == told.keys()
    message = "the answer in README.md is stale; run python docs/readme.py"
    for name in ("purchase_probability", "expected_purchases", "expected_spend"):
        assert got[name] == pytest.approx(told[name], rel=0.02), message


def test_curl_of_a_customer_is_answered_by_any_checkpoint(
    tiny_checkpoint: Path, tiny_events_checkpoint: Path, tmp_path: Path
) -> None:
    path = "/predict/purchase-probability"
    settings = Settings(
        data_dir=tmp_path,
        series_checkpoint=tiny_checkpoint,
        purchase_checkpoint=tiny_events_checkpoint,
    )
    with running(settings) as address:
        response = httpx.post(f"{address}{path}", json=payload(path), timeout=60)
    assert response.status_code == 200, response.text
    shown = json.loads(blocks("json")[1])
    assert list(response.json()) == list(shown)
    assert list(response.json()["predictions"][0]) == list(shown["predictions"][0])


def test_python_snippet_runs(tiny_service: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("python")[0].replace(ADDRESS, tiny_service)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - the reader would run it too
    assert capsys.readouterr().out.startswith("{'2026-08-15': ")


def test_every_make_target_exists() -> None:
    pages = [README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")]
    command = re.compile(r"(?:`|^ *)make ([a-z]+)", re.MULTILINE)
    named = {target for page in pages for target in command.findall(page)}
    there = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"serve", "test"} <= named
    assert named - there == set()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_option_of_the_command_exists() -> None:
    helped = CliRunner(env={"COLUMNS": "200"})
    told = "".join(helped.invoke(app, [*words, "--help"]).output for words in COMMANDS)
    shown = {option for block in blocks("sh") for option in re.findall(r"--[a-z]+", block)}
    assert {option for option in shown if option not in told} == set()
