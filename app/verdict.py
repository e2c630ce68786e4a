"""What a backtest found, for people and their files: a table, JSON, a picture.

Invariant: the JSON holds every score the table and the picture are made of; what is not a number
(nothing sold, a method without intervals) is null there and a dash in the table.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from app.forecasters import Forecast
from app.histories import History
from app.plot import FAINT, GRID, INK, LINE, draw_panel, no_library, style, traces
from models.backtest import SHARES, Backtest, Example, Score, Summary, summaries
from models.base import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = (0.5, 0.8, 0.9)  # intervals of the table
FAN = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
#: Colours of the medians beside the fan, the best other method's first.
OTHERS = ("#2563eb", "#059669")
HORIZONS_SHOWN, FEWEST_SHOWN = 3, 28  # of the history of an example


def frame(backtest: Backtest) -> pd.DataFrame:
    """A row a method, the best WQL first."""
    rows = [_row(summary) for summary in summaries(backtest)]
    return pd.DataFrame(rows).sort_values("wql", kind="stable").reset_index(drop=True)


def _row(summary: Summary) -> dict[str, Any]:
    covered = {f"in_{share:.0%}".rstrip("%"): summary.coverage.get(share) for share in SHOWN}
    return {
        "method": summary.method,
        "mase": summary.mase,
        "wape": summary.wape,
        "bias": summary.bias,
        "wql": summary.wql,
        "relative_mase": summary.relative_mase,
        "relative_wql": summary.relative_wql,
        **covered,
        "seconds": summary.seconds,
    }


def show(backtest: Backtest, console: Console) -> None:
    """Print a table for eyes on a terminal, CSV into a pipe."""
    rows = frame(backtest)
    if not console.is_terminal:
        rows.round(4).to_csv(sys.stdout, index=False)
        return
    headers = ("method", "MASE", "WAPE", "bias", "WQL", "MASE/naive", "WQL/naive")
    intervals = [f"in {share:.0%}" for share in SHOWN]
    table = Table(*headers, *intervals, "seconds", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for cells in rows.itertuples(index=False):
        table.add_row(*_texts(cells))
    console.print(table)


def _texts(cells: Sequence[Any]) -> Iterator[str]:
    name, mase, wape, bias, wql, *ratios = cells[:7]
    yield name
    yield _text(mase, "{:.3f}")
    yield _text(wape, "{:.1%}")
    yield _text(bias, "{:+.1%}")
    yield _text(wql, "{:.3f}")
    for ratio in ratios:
        yield _text(ratio, "{:.3f}")
    for covered in cells[7:-1]:
        yield _text(covered, "{:.0%}")
    yield _text(cells[-1], "{:.1f}")


def _text(number: float | None, form: str) -> str:
    missing = number is None or math.isnan(number)
    return "–" if missing else form.format(number)


# --- JSON


def write(backtest: Backtest, path: Path) -> None:
    """Write everything that was found. Raises OSError."""
    path.write_text(json.dumps(_plain(_document(backtest)), indent=1) + "\n", encoding="utf-8")


def _document(backtest: Backtest) -> dict[str, Any]:
    return {
        "plan": asdict(backtest.plan),
        "methods": [asdict(summary) for summary in summaries(backtest)],
        "scores": [_score(score) for score in backtest.scores],
        "examples": [_example(example) for example in backtest.examples],
        "left_out": backtest.left_out,
    }


def _score(score: Score) -> dict[str, Any]:
    pit = score.pit
    told = {name: getattr(score, name) for name in Score.__dataclass_fields__ if name != "pit"}
    coverage = {share: pit.coverage(share) for share in SHARES} if pit is not None else {}
    return {**told, "origin": score.origin.isoformat(), "coverage": coverage}


def _example(example: Example) -> dict[str, Any]:
    return {
        "item": example.window.item,
        "times": [time.isoformat() for time in example.window.ahead],
        "truth": example.truth,
        "quantiles": dict(example.quantiles),
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - any part of the document
    """As JSON has it: what is not a number is null, keys are strings."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


# --- the picture


def draw(backtest: Backtest, path: Path) -> None:
    """Scores by method and some forecasts, as PNG or HTML by the name of the file."""
    if path.suffix.lower() == ".html":
        _draw_html(backtest, path)
    else:
        _draw_png(backtest, path)


def _draw_png(backtest: Backtest, path: Path) -> None:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise no_library("PNG", "matplotlib") from None
    found, examples = summaries(backtest), backtest.examples
    lines = -(-len(examples) // 2)
    bars = 0.34 * len(found) + 1.1
    with mpl.rc_context(rc=style()):
        figure = Figure(figsize=(10.5, bars + 3.2 * lines), layout="constrained")
        parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[bars, 3.2 * lines])
        _draw_scores(parts[0, 0], found)
        grid = parts[1, 0].subplots(lines, 2, squeeze=False)
        for axes in grid.flat[len(examples) :]:
            axes.set_visible(False)
        for axes, example in zip(grid.flat, examples, strict=False):
            _draw_example(axes, example, backtest)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
        figure.savefig(path, dpi=130)


def _draw_scores(figure: Any, found: Sequence[Summary]) -> None:  # noqa: ANN401 - a SubFigure
    """Three panels that share their methods: MASE, WQL, coverage."""
    names = [summary.method for summary in found][::-1]
    left, middle, right = figure.subplots(1, 3, sharey=True)
    for axes, field, title in (
        (left, "mase", "MASE"),
        (middle, "wql", "WQL"),
    ):
        values = [getattr(summary, field) for summary in found][::-1]
        axes.barh(names, np.nan_to_num(values), color=[_bar(name) for name in names], height=0.6)
        for place, value in enumerate(values):
            axes.annotate(
                _text(value, "{:.3f}"), (np.nan_to_num(value), place), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=9, color=INK,
            )  # fmt: skip
        _dress(axes, f"{title} (lower is better)")
        axes.margins(x=0.18)
    for share in SHOWN:
        right.axvline(share, color=GRID, lw=1.2)
        covered = [summary.coverage.get(share, np.nan) for summary in found][::-1]
        right.scatter(covered, range(len(names)), s=26, color=[_bar(name) for name in names])
    right.set_xlim(0.3, 1.0)
    right.set_xticks(SHOWN, [f"{share:.0%}" for share in SHOWN])
    _dress(right, "inside 50, 80, 90 % intervals")


def _dress(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=8)
    axes.grid(visible=False)
    axes.tick_params(axis="y", labelcolor=INK)


def _bar(name: str) -> str:
    return LINE if name.startswith("shopcast") else FAINT


def _draw_example(axes: "Axes", example: Example, backtest: Backtest) -> None:
    history, forecast = _pair(example, backtest)
    draw_panel(axes, history, forecast, FAN)
    axes.plot(example.window.ahead, example.truth, color=INK, lw=1.1, ls=":", label="came")
    for name, colour in _beside(backtest):
        median = _median(example, backtest, name)
        axes.plot(example.window.ahead, median, color=colour, lw=1.0, label=name)


def _pair(example: Example, backtest: Backtest) -> tuple[History, Forecast]:
    """The example as a history and the first method's fan."""
    window, levels = example.window, backtest.plan.levels
    rows = example.quantiles[_leading(backtest)][[levels.index(level) for level in FAN]]
    forecast = Forecast(window.item, window.ahead, rows[FAN.index(0.5)], rows)
    kept = max(HORIZONS_SHOWN * backtest.plan.horizon, FEWEST_SHOWN)
    return History(window.item, window.times[-kept:], window.history[-kept:]), forecast


def _leading(backtest: Backtest) -> str:
    """The method whose intervals are drawn: the network if it ran, else the last."""
    return next((name for name in backtest.methods if name == "shopcast"), backtest.methods[-1])


def _beside(backtest: Backtest) -> Iterator[tuple[str, str]]:
    """The best of the other methods, and their colours; of the network only what leads."""
    others = [name for name in frame(backtest)["method"] if not name.startswith("shopcast")]
    yield from zip([name for name in others if name != _leading(backtest)], OTHERS, strict=False)


def _median(example: Example, backtest: Backtest, name: str) -> FloatArray:
    return example.quantiles[name][backtest.plan.levels.index(0.5), :]


def _draw_html(backtest: Backtest, path: Path) -> None:
    try:
        from plotly.subplots import make_subplots
    except ImportError:
        raise no_library("HTML", "plotly") from None
    examples = backtest.examples
    titles = ["MASE (lower is better)", "WQL (lower is better)", *(e.window.item for e in examples)]
    figure = make_subplots(
        rows=1 + len(examples),
        cols=2,
        specs=[[{}, {}], *([{"colspan": 2}, None] for _ in examples)],
        subplot_titles=titles,
        vertical_spacing=0.3 / (1 + len(examples)),
    )
    for column, bar in enumerate(_bars(summaries(backtest)), start=1):
        figure.add_trace(bar, row=1, col=column)
    for row, example in enumerate(examples, start=2):
        for trace in _example_traces(example, backtest, first=row == 2):
            figure.add_trace(trace, row=row, col=1)
    figure.update_layout(
        template="plotly_white",
        height=360 + 340 * len(examples),
        hovermode="x unified",
        font={"color": INK},
        legend={"orientation": "h", "y": -0.02, "yanchor": "top"},
    )
    figure.write_html(path, include_plotlyjs=True)


def _bars(found: Sequence[Summary]) -> Iterator[Any]:
    from plotly.graph_objects import Bar

    names = [summary.method for summary in found][::-1]
    colours = [_bar(name) for name in names]
    for field in ("mase", "wql"):
        values = [getattr(summary, field) for summary in found][::-1]
        yield Bar(x=values, y=names, orientation="h", marker_color=colours, showlegend=False)


def _example_traces(example: Example, backtest: Backtest, *, first: bool) -> Iterator[Any]:
    from plotly.graph_objects import Scatter

    yield from traces(*_pair(example, backtest), FAN, first=first)
    lines = {"came": (INK, example.truth)} | {
        name: (colour, _median(example, backtest, name)) for name, colour in _beside(backtest)
    }
    for name, (colour, values) in lines.items():
        line = {"color": colour, "width": 1.2, "dash": "dot" if name == "came" else "solid"}
        group = {"legendgroup": name, "showlegend": first}
        yield Scatter(x=example.window.ahead, y=values, name=name, line=line, mode="lines", **group)
