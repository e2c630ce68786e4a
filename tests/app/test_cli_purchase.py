"""Purchases at a terminal: foretold from a file, here and by a server, and scored."""

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from app.settings import Settings
from tests.app.test_cli import Terminal
from tests.live import running


@pytest.fixture
def terminal(tiny_checkpoint: Path, tiny_events_checkpoint: Path, tmp_path: Path) -> Terminal:
    return Terminal(
        {
            "SHOPCAST_SERIES_CHECKPOINT": str(tiny_checkpoint),
            "SHOPCAST_PURCHASE_CHECKPOINT": str(tiny_events_checkpoint),
            "SHOPCAST_DATA_DIR": str(tmp_path / "var"),
            "SHOPCAST_THREADS": "1",
        }
    )


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A year of 210 customers, who buy every 10 to 60 days."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2025-01-01", periods=365)
    parts = []
    for number in range(210):
        bought = np.flatnonzero(rng.random(365) < 1 / (10 + number % 50))
        bought = np.append(bought, number % 30)
        parts.append(pd.DataFrame({"customer_id": f"c-{number}", "date": days[bought]}))
    rows = pd.concat(parts, ignore_index=True)
    rows["amount"] = rng.uniform(5, 50, len(rows)).round(2)
    rows.to_csv(tmp_path / "orders.csv", index=False)
    return tmp_path / "orders.csv"


def table(out: str) -> pd.DataFrame:
    return pd.read_csv(StringIO(out))


def test_each_customer_of_a_file_is_foretold(terminal: Terminal, orders: Path) -> None:
    out, err = terminal.run("predict", "purchase", orders, "--horizons", "7,90")
    rows = table(out)
    assert list(rows.columns) == [
        *("customer_id", "probability_7", "purchases_7", "spend_7"),
        *("probability_90", "purchases_90", "spend_90", "churn"),
    ]
    assert len(rows) == 210
    assert (rows["probability_7"] <= rows["probability_90"]).all()
    assert (rows["probability_90"] <= rows["purchases_90"]).all()
    assert rows["spend_90"].notna().all()
    assert err.splitlines() == [
        "· customer = customer_id, time = date, amount = amount, every row a purchase",
        "· as of 2026-01-01T00:00:00",
        "· 210 customers foretold by the purchase checkpoint, context: file",
    ]


def test_a_server_foretells_the_same(
    terminal: Terminal,
    orders: Path,
    tiny_checkpoint: Path,
    tiny_events_checkpoint: Path,
    tmp_path: Path,
) -> None:
    words = ("predict", "purchase", orders, "--as-of", "2025-09-01", "--horizons", "30")
    here, told = terminal.run(*words)
    assert "events from 2025-09-01T00:00:00 on are left out" in told
    settings = Settings(
        series_checkpoint=tiny_checkpoint,
        purchase_checkpoint=tiny_events_checkpoint,
        data_dir=tmp_path / "server",
    )
    with running(settings) as url:
        there, told = terminal.run(*words, "--server", url)
        _, lost = terminal.run(*words, "--server", url, "--shop", "nowhere", code=2)
    assert "context: request" in told
    assert "no profile of the shop 'nowhere'" in lost
    pd.testing.assert_frame_equal(table(here), table(there), rtol=1e-4)


def test_pictures_and_files(terminal: Terminal, orders: Path, tmp_path: Path) -> None:
    for name, plot in (("out.csv", "out.png"), ("out.parquet", "out.html")):
        words = ("--output", tmp_path / name, "--plot", tmp_path / plot)
        out, err = terminal.run("predict", "purchase", orders, *words)
        assert out == ""
        assert f"written: 210 rows to {tmp_path / name}" in err
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out.html").read_text()
    assert "<svg" in page
    assert "src=" not in page


def test_what_is_past_is_scored_beside_fitted_methods(
    terminal: Terminal, orders: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "calibration.png"
    words = ("--cut", "2025-09-30", "--horizons", "30,90", "--plot", plot)
    out, err = terminal.run("backtest", "purchase", orders, *words)
    scored = table(out)
    methods = ["shopcast", "BG/NBD", "Pareto/NBD", "shopcast + Pareto/NBD"]
    pairs = list(zip(scored["days"], scored["method"], strict=True))
    assert pairs == [(days, method) for days in (30, 90) for method in methods]
    untrained, _, fitted, _ = scored[scored["days"] == 30].to_dict("records")
    assert fitted["log_loss"] < untrained["log_loss"]
    assert fitted["ratio"] == pytest.approx(1, abs=0.15)
    assert fitted["count_ratio"] == pytest.approx(1, abs=0.15)
    assert "· 210 customers known before 2025-10-01" in err
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("predict", "purchase", "FILE", "--horizons", "0"), "days from 1 to 365"),
        (("predict", "purchase", "FILE", "--horizons", "7,7"), "each once"),
        (("predict", "purchase", "FILE", "--horizons", "x"), "no list like 7,30,90"),
        (("predict", "purchase", "FILE", "--as-of", "soon"), "no local time"),
        (("predict", "purchase", "FILE", "--as-of", "2020-01-01"), "no event is before"),
        (("predict", "purchase", "FILE", "--customer-column", "x"), "no column 'x'"),
        (("backtest", "purchase", "FILE", "--cut", "2025-12-01"), "the file ends 30 days after"),
        (("backtest", "purchase", "FILE", "--cut", "2024-12-01"), "0 customers have events"),
        (("backtest", "purchase", "FILE"), "Missing option '--cut'"),
    ],
)
def test_what_cannot_be_is_told(
    terminal: Terminal, orders: Path, words: tuple[str, ...], told: str
) -> None:
    _, err = terminal.run(*(str(orders) if word == "FILE" else word for word in words), code=2)
    assert told in " ".join(err.replace("│", " ").split())
