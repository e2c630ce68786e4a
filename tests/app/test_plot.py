"""Pictures that are really drawn, and need nothing but their own file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from app.forecasters import Forecast
from app.histories import History
from app.plot import Band, Pair, bands, draw

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def pair(
    item: str = "apples", *, steps: int = 14, freq: str = "D", zone: str | None = None
) -> Pair:
    rng = np.random.default_rng(0)
    times = pd.date_range("2026-01-05", periods=200, freq=freq, tz=zone)
    history = History(item, times, rng.poisson(20, 200).astype(float))
    future = pd.date_range(times[-1], periods=steps + 1, freq=freq)[1:]
    quantiles = 20 + np.array(LEVELS)[:, None] * np.linspace(5, 10, steps)
    return history, Forecast(item, future, quantiles[3], quantiles)


def colours(path: Path) -> int:
    """How many colours a picture has; a blank one has one."""
    pixels = np.asarray(image.imread(path))[::5, ::5, :3].reshape(-1, 3)
    return len({tuple(pixel) for pixel in pixels.tolist()})


@pytest.mark.parametrize("count", [1, 5])
def test_png_is_drawn(tmp_path: Path, count: int) -> None:
    draw([pair(f"item {number}") for number in range(count)], LEVELS, tmp_path / "f.png")
    assert colours(tmp_path / "f.png") > 50


def test_png_of_any_calendar_and_zone(tmp_path: Path) -> None:
    pairs = [pair(freq=freq, zone="UTC", steps=1) for freq in ("h", "W-MON", "YE")]
    draw(pairs, LEVELS, tmp_path / "f.png")
    assert colours(tmp_path / "f.png") > 50


def test_png_of_a_history_that_ends_missing_or_is_one_point(tmp_path: Path) -> None:
    history, forecast = pair()
    history.target[-1] = np.nan
    short = History("short", history.times[-2:-1], history.target[-2:-1])
    draw([(history, forecast), (short, forecast)], LEVELS, tmp_path / "f.png")
    assert colours(tmp_path / "f.png") > 50


def test_html_carries_its_scripts(tmp_path: Path) -> None:
    draw([pair("apples"), pair("pears")], LEVELS, tmp_path / "f.html")
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert "apples" in page
    assert "pears" in page
    assert "<script src=" not in page
    assert "<link" not in page


def test_bands_are_pairs_about_the_median_the_widest_first() -> None:
    assert bands((0.5, 0.9, 0.1)) == [Band(low=2, high=1, percent=80)]
    assert [band.percent for band in bands(LEVELS)] == [90, 80, 50]
    assert bands((0.2, 0.5, 0.9)) == []


def test_without_a_median_the_mean_is_drawn(tmp_path: Path) -> None:
    history, forecast = pair()
    draw([(history, forecast)], (0.1, 0.9), tmp_path / "f.png")
    assert colours(tmp_path / "f.png") > 50
