"""`shopcast backtest` as a person at a terminal meets it."""

import json
import sys
import warnings
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from app.cli import app
from app.settings import Settings
from app.verdict import show
from models.backtest import NAIVE, Method, Plan, Record, run, seasonal_naive
from tests.live import running

DAYS = pd.date_range("2026-01-01", periods=70)


@pytest.fixture(autouse=True)
def _quiet_imports() -> Iterator[None]:
    """The libraries warn of one another when they are imported first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "SHOPCAST_SERIES_CHECKPOINT": str(tiny_checkpoint),
        "SHOPCAST_DATA_DIR": str(tmp_path / "var"),
        "SHOPCAST_THREADS": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    """Two items whose promotions double sales, one that is too short, one that never moves."""
    rng = np.random.default_rng(0)
    parts = []
    for number, item in enumerate(("apple", "pear")):
        promo = (rng.uniform(size=70) < 0.3).astype(int)
        units = rng.poisson(20 * (1 + number) * (1 + promo) * (1 + 0.3 * (DAYS.dayofweek > 4)))
        parts.append(pd.DataFrame({"sku": item, "date": DAYS, "units": units, "promo": promo}))
    parts.append(pd.DataFrame({"sku": "new", "date": DAYS[-5:], "units": range(5), "promo": 0}))
    parts.append(pd.DataFrame({"sku": "flat", "date": DAYS, "units": 3, "promo": 0}))
    pd.concat(parts).to_csv(tmp_path / "sales.csv", index=False)
    return tmp_path / "sales.csv"


def told(settings: dict[str, str], *words: str | Path, code: int = 0) -> tuple[str, str]:
    """What `shopcast backtest` writes to stdout and stderr."""
    result = CliRunner(env=settings).invoke(app, ["backtest", *map(str, words)])
    everything = f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    assert result.exit_code == code, everything
    assert "Traceback" not in everything
    return result.stdout, result.stderr


def table(settings: dict[str, str], *words: str | Path) -> pd.DataFrame:
    """The CSV that it writes to stdout, by method."""
    return pd.read_csv(StringIO(told(settings, *words)[0])).set_index("method")


QUICK = ("--horizon", "7", "--methods", "shopcast,autotheta")


def test_methods_are_scored_beside_seasonal_naive(settings: dict[str, str], sales: Path) -> None:
    out, err = told(settings, sales, *QUICK)
    rows = pd.read_csv(StringIO(out)).set_index("method")
    assert set(rows.index) == {NAIVE, "shopcast", "AutoTheta"}
    assert rows["relative_mase"][NAIVE] == 1.0
    assert rows["wql"].is_monotonic_increasing
    assert rows[["in_50", "in_80", "in_90"]].isna().sum(axis=1).tolist().count(3) == 1
    assert rows["in_50"]["AutoTheta"] < rows["in_90"]["AutoTheta"]
    assert err.splitlines() == [
        "· long table: time = date, target = units, item = sku",
        "· frequency D, from the dates",
        "· not used: promo (--known-future, --known-past)",
        "· 2 items, 6 windows of 7 periods",
        "· left out, too short or constant: new, flat",
    ]


def test_everything_found_is_in_the_json(
    settings: dict[str, str], sales: Path, tmp_path: Path
) -> None:
    output = tmp_path / "found.json"
    words = ("--known-future", "promo", "--output", output, "--step", "3", "--origins", "2")
    _, err = told(settings, sales, *QUICK, *words)
    assert "· known ahead at every origin: promo" in err
    found = json.loads(output.read_text())
    names = [NAIVE, "shopcast", "shopcast without covariates", "AutoTheta"]
    assert [method["method"] for method in found["methods"]] == names
    assert len(found["scores"]) == 4 * 2 * 2
    assert {score["origin"] for score in found["scores"]} == {
        "2026-03-01T00:00:00",
        "2026-03-04T00:00:00",
    }
    assert found["left_out"] == ["new", "flat"]
    assert found["plan"]["season"] == 7
    (apple, _) = found["examples"]
    assert apple["truth"] == pd.read_csv(sales)["units"][63:70].tolist()
    made = {name: apple["quantiles"][name] for name in names}
    assert made["shopcast"] != made["shopcast without covariates"]


def test_what_names_no_subject_is_of_sales(settings: dict[str, str], sales: Path) -> None:
    words = ("--horizon", "7", "--methods", "naive", "--origins", "1")
    orders = ((sales, *words), (*words, sales), ("sales", sales, *words))
    rows, *others = (table(settings, *each).drop(columns="seconds") for each in orders)
    for other in others:
        pd.testing.assert_frame_equal(other, rows)
    assert "purchase" in told(settings, "--help")[0]


def test_lightgbm_learns_from_what_is_known_ahead(settings: dict[str, str], sales: Path) -> None:
    words = ("--horizon", "7", "--methods", "lightgbm", "--origins", "2")
    blind = table(settings, sales, *words)
    seeing = table(settings, sales, *words, "--known-future", "promo")
    assert seeing["mase"]["LightGBM"] < 0.8 * blind["mase"]["LightGBM"]


def test_all_methods_run_by_default(settings: dict[str, str], sales: Path) -> None:
    rows = table(settings, sales, "--horizon", "7", "--item", "pear", "--origins", "1")
    assert set(rows.index) == {NAIVE, "shopcast", "AutoETS", "AutoTheta", "LightGBM"}


@pytest.mark.parametrize("name", ["found.png", "found.html"])
def test_a_picture_is_drawn(
    settings: dict[str, str], sales: Path, tmp_path: Path, name: str
) -> None:
    _, err = told(settings, sales, *QUICK, "--plot", tmp_path / name)
    assert f"· drawn: {tmp_path / name}" in err
    assert (tmp_path / name).stat().st_size > 20_000
    if name.endswith("html"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert "AutoTheta" in page
        assert "<script src=" not in page


def test_a_server_is_scored_like_this_process(
    settings: dict[str, str], sales: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--horizon", "7", "--methods", "shopcast", "--known-future", "promo")
    here = table(settings, sales, *words)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with running(Settings()) as address:
        there = table(settings, sales, *words, "--server", address)
    pd.testing.assert_frame_equal(
        here.drop(columns="seconds"), there.drop(columns="seconds"), atol=2e-4
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--horizon", "30"), "3 windows of 30 periods and a season of 7 before them need 98"),
        (("--item", "flat", "--horizon", "7"), "no series changes before and is observed after"),
        (("--methods", "prophet"), "no method 'prophet'; there are shopcast, naive, autoets"),
        (("--known-future", "prize"), "no column 'prize'"),
        (("--output", "found.csv"), "found.csv does not end in .json"),
        (("--plot", "nowhere/found.png"), "no directory"),
        (("--checkpoint", "nowhere", "--horizon", "7"), "the series checkpoint is refused"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    settings: dict[str, str], sales: Path, words: tuple[str, ...], message: str
) -> None:
    out, err = told(settings, sales, *words, code=2)
    assert out == ""
    assert message in " ".join(err.replace("│", " ").split())


def test_a_missing_library_is_told_with_the_extra(
    settings: dict[str, str], sales: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlforecast", None)
    words = ("--horizon", "7", "--methods", "naive,lightgbm")
    _, err = told(settings, sales, *words, code=2)
    assert "pip install 'shopcast[backtest]', or choose others with --methods" in err


def test_a_terminal_gets_a_table() -> None:
    record = Record("a", DAYS, np.random.default_rng(0).poisson(20, 70).astype(float))
    found = run([record], [Method(NAIVE, seasonal_naive)], Plan("D", 7, season=7))
    console = Console(force_terminal=True, width=120, file=StringIO(), color_system=None)
    show(found, console)
    head, row = console.file.getvalue().splitlines()[:2]  # type: ignore[attr-defined]
    assert head.split()[:5] == ["method", "MASE", "WAPE", "bias", "WQL"]
    assert row.split()[:2] == ["seasonal", "naive"]
    assert row.split().count("–") == 3
    assert "%" in row
