"""The picture of a forecast: history, median and fan, one panel an item.

Invariant: a picture needs nothing but its own file; HTML carries its scripts, PNG is drawn
without a screen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from app.errors import ConfigurationError
from app.forecasters import Forecast
from app.histories import History
from app.periods import future_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 12  # most items of one picture
INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
LINE = "#c2410c"
SHADES = ("#fdebdc", "#fbd0ac", "#f7b17c")  # of intervals, the widest first
PERIODS_SHOWN = 4  # history shown, in horizons
FEWEST_SHOWN = 90
FEWEST_STOCK = 28


@dataclass(frozen=True, slots=True)
class Band:
    """A central interval of the distribution: indexes of its two levels."""

    low: int
    high: int
    percent: int


#: Ticks at the start of a year, month, day, hour, minute, second.
ZERO_FORMATS = ["", "%Y", "%b\n%Y", "%b %d\n%Y", "%H:%M", "%H:%M"]

Pair = tuple[History, Forecast]
Stocked = tuple[History, dict[str, Any], dict[str, Any]]


def draw(pairs: Sequence[Pair], levels: Sequence[float], path: Path) -> None:
    """Write the picture of the forecasts as PNG or HTML, by the name of the file."""
    shown = pairs[:PANELS]
    if path.suffix.lower() == ".html":
        _draw_html(shown, levels, path)
    else:
        _draw_png(shown, levels, path)


def bands(levels: Sequence[float]) -> list[Band]:
    """Pairs of levels about the median, the widest first."""
    places = {round(level, 6): place for place, level in enumerate(levels)}
    found = [
        Band(place, places[round(1 - level, 6)], round(100 * (1 - 2 * level)))
        for level, place in places.items()
        if level < 0.5 and round(1 - level, 6) in places
    ]
    return sorted(found, key=lambda band: -band.percent)


def _middle(forecast: Forecast, levels: Sequence[float]) -> tuple[np.ndarray, str]:
    """The line through the fan: the median if it was asked for, else the mean."""
    if 0.5 in levels:
        return forecast.quantiles[list(levels).index(0.5)], "median"
    return forecast.mean, "mean"


def _recent(history: History, forecast: Forecast) -> tuple[pd.DatetimeIndex, np.ndarray]:
    kept = max(PERIODS_SHOWN * len(forecast.times), FEWEST_SHOWN)
    return history.times[-kept:], history.target[-kept:]


def _joined(history: History, forecast: Forecast, future: np.ndarray) -> Iterator[Any]:
    """Times and values of the future, begun at the last known point so that lines meet."""
    last = history.target[-1]
    if np.isnan(last):
        yield from (forecast.times, future)
    else:
        yield from (forecast.times.insert(0, history.times[-1]), np.concatenate([[last], future]))


# --- PNG


def _draw_png(pairs: Sequence[Pair], levels: Sequence[float], path: Path) -> None:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise no_library("PNG", "matplotlib") from None
    columns = 1 if len(pairs) < 4 else 2
    lines = -(-len(pairs) // columns)
    height = 4.4 if lines == 1 else 3.0 * lines + 0.4
    with mpl.rc_context(rc=style()):
        figure = Figure(figsize=(10.5, height), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(pairs) :]:
            axes.set_visible(False)
        for axes, (history, forecast) in zip(grid.flat, pairs, strict=False):
            draw_panel(axes, history, forecast, levels)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
        figure.savefig(path, dpi=130)


def style() -> Any:  # noqa: ANN401 - matplotlib types each key by itself
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": 10,
        "axes.edgecolor": GRID,
        "axes.labelcolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "legend.labelcolor": FAINT,
        "legend.handlelength": 1.4,
        "legend.columnspacing": 1.4,
        "text.color": INK,
    }


def draw_panel(axes: "Axes", history: History, forecast: Forecast, levels: Sequence[float]) -> None:
    times, values = _recent(history, forecast)
    axes.plot(times, values, color=INK, lw=1.1, label="sold", solid_joinstyle="round")
    found = bands(levels)
    for place, band in enumerate(found):
        low = _joined(history, forecast, forecast.quantiles[band.low])
        high = _joined(history, forecast, forecast.quantiles[band.high])
        (x, bottom), (_, top) = low, high
        axes.fill_between(
            x, bottom, top, color=_shade(place, len(found)), lw=0, label=f"{band.percent} %"
        )
    middle, name = _middle(forecast, levels)
    axes.plot(*_joined(history, forecast, middle), color=LINE, lw=1.8, label=name)
    axes.axvline(_number(history.times[-1]), color=FAINT, lw=0.8, ls=(0, (3, 3)))
    _dress(axes, history, forecast)


def _shade(place: int, count: int) -> str:
    """The colour of an interval; the narrower, the darker."""
    return SHADES[min(place, 2)] if count > 1 else SHADES[1]


def _number(time: pd.Timestamp) -> float:
    """A time as matplotlib counts it: days since 1970."""
    return (time.tz_localize(None) - pd.Timestamp(0)) / pd.Timedelta(days=1)


def _date_axis(axes: "Axes") -> None:
    from matplotlib import dates

    locator = dates.AutoDateLocator(maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        dates.ConciseDateFormatter(  # type: ignore[no-untyped-call]
            locator, zero_formats=ZERO_FORMATS, show_offset=False
        )
    )


def _dress(axes: "Axes", history: History, forecast: Forecast) -> None:
    _date_axis(axes)
    axes.set_title(forecast.item, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.margins(x=0.01)
    if history.target[~np.isnan(history.target)].min() >= 0 and forecast.quantiles.min() >= 0:
        axes.set_ylim(bottom=0)


# --- stock


def draw_stock(triples: Sequence[Stocked], path: Path, *, freq: str) -> None:
    """Write the picture of what the stock will be if nothing is ordered, and of the order, as PNG.

    triples: history, stock and prediction of /predict/inventory, each of one item.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise no_library("PNG", "matplotlib") from None
    shown = triples[:PANELS]
    columns = 1 if len(shown) < 4 else 2
    lines = -(-len(shown) // columns)
    height = 4.4 if lines == 1 else 3.0 * lines + 0.4
    with mpl.rc_context(rc=style()):
        figure = Figure(figsize=(10.5, height), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, (history, stock, plan) in zip(grid.flat, shown, strict=False):
            _draw_stock_panel(axes, history, stock, plan, freq=freq)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
        figure.savefig(path, dpi=130)


def _draw_stock_panel(
    axes: "Axes", history: History, stock: dict[str, Any], plan: dict[str, Any], *, freq: str
) -> None:
    on_hand = plan["on_hand"]
    steps = len(on_hand["mean"])
    kept = max(steps, FEWEST_STOCK)
    now = history.times[-1]
    future = future_index(now, freq, steps).insert(0, now)
    step = future[1] - now
    axes.bar(
        history.times[-kept:],
        history.target[-kept:],
        width=0.8 * (step / pd.Timedelta(days=1)),
        color=GRID,
        label="sold",
    )
    begin = max(float(_shelf(stock)), 0.0)
    low, middle, high = ([begin, *on_hand[level]] for level in ("0.1", "0.5", "0.9"))
    axes.fill_between(future, low, high, color=SHADES[1], lw=0, label="80 % of stock to come")
    axes.plot(future, middle, color=LINE, lw=1.8, label="median, nothing ordered")
    axes.axhline(plan["reorder_point"], color=INK, lw=1, ls=(0, (5, 3)), label="reorder point")
    lead = plan["protection_interval"] - stock.get("review_period", 1)
    _draw_order(axes, plan, future, lead=lead)
    axes.axvline(_number(now), color=FAINT, lw=0.8, ls=(0, (3, 3)))
    axes.set_ylim(bottom=0)
    _date_axis(axes)
    axes.set_title(history.item, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.margins(x=0.01)


def _shelf(stock: dict[str, Any]) -> float:
    """Units on the shelf now."""
    raw = stock.get("on_hand", 0)
    return float(sum(lot["quantity"] for lot in raw) if isinstance(raw, list) else raw)


def _draw_order(
    axes: "Axes", plan: dict[str, Any], future: pd.DatetimeIndex, *, lead: float
) -> None:
    """A bar where the order of today is received."""
    quantity = plan["order_quantity"]
    place = min(round(lead), len(future) - 1)
    if quantity > 0:
        axes.vlines(_number(future[place]), 0, quantity, color=INK, lw=5, alpha=0.85)
        axes.annotate(
            f"order {quantity:g}",
            (_number(future[place]), quantity),
            xytext=(6, -2),
            textcoords="offset points",
            color=INK,
            fontsize=9,
        )


# --- HTML


def _draw_html(pairs: Sequence[Pair], levels: Sequence[float], path: Path) -> None:
    try:
        from plotly.subplots import make_subplots
    except ImportError:
        raise no_library("HTML", "plotly") from None
    titles = [forecast.item for _, forecast in pairs]
    figure = make_subplots(rows=len(pairs), cols=1, subplot_titles=titles, vertical_spacing=0.08)
    for row, (history, forecast) in enumerate(pairs, start=1):
        for trace in traces(history, forecast, levels, first=row == 1):
            figure.add_trace(trace, row=row, col=1)
        figure.add_vline(history.times[-1], line={"color": FAINT, "dash": "dot"}, row=row, col=1)
    figure.update_layout(
        template="plotly_white",
        height=120 + 320 * len(pairs),
        hovermode="x unified",
        font={"color": INK},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
    )
    figure.write_html(path, include_plotlyjs=True)


def traces(
    history: History, forecast: Forecast, levels: Sequence[float], *, first: bool
) -> Iterator[Any]:
    from plotly.graph_objects import Scatter

    shared = {"mode": "lines", "showlegend": first}
    found = bands(levels)
    for place, band in enumerate(found):
        x, top = _joined(history, forecast, forecast.quantiles[band.high])
        _, low = _joined(history, forecast, forecast.quantiles[band.low])
        edge = {"x": x, "line": {"width": 0}, "legendgroup": f"{band.percent}", "mode": "lines"}
        yield Scatter(y=low, name=f"{levels[band.low]:g}", showlegend=False, **edge)
        yield Scatter(
            y=top,
            name=f"{band.percent} %",
            fill="tonexty",
            fillcolor=_shade(place, len(found)),
            showlegend=first,
            **edge,
        )
    x, middle = _joined(history, forecast, _middle(forecast, levels)[0])
    name = _middle(forecast, levels)[1]
    yield Scatter(x=x, y=middle, name=name, line={"color": LINE, "width": 2.5}, **shared)
    line = {"color": INK, "width": 1.3}
    yield Scatter(x=history.times, y=history.target, name="sold", line=line, **shared)


def no_library(kind: str, library: str) -> ConfigurationError:
    return ConfigurationError(f"a picture as {kind} needs {library}: pip install 'shopcast[plot]'")
