"""Foretold purchases and their scores for people and their files.

Invariant: one row a customer, in the order of the file; a picture needs nothing but its own file.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from app.errors import ConfigurationError
from app.foretellers import Foretold
from models.purchase_scores import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS_SHOWN = 40
INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = ("#c2410c", "#1d4ed8", "#047857", "#7c3aed", "#b45309", "#334155")
HTML = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<div style="max-width:1100px">{svg}</div>
"""


def frame(foretold: Foretold, horizons: Sequence[int]) -> pd.DataFrame:
    """A row a customer: probability, purchases and spend by horizon, and churn."""
    columns: dict[str, Any] = {"customer_id": list(foretold.names)}
    for place, days in enumerate(horizons):
        columns[f"probability_{days}"] = foretold.probability[:, place]
        columns[f"purchases_{days}"] = foretold.purchases[:, place]
        columns[f"spend_{days}"] = foretold.spend[:, place]
    columns["churn"] = foretold.churn
    return pd.DataFrame(columns)


def show(rows: pd.DataFrame, console: Console, *, text_columns: int = 1) -> None:
    """Print a table for eyes on a terminal, CSV into a pipe."""
    if not console.is_terminal:
        rounded(rows).to_csv(sys.stdout, index=False)
        return
    table = Table(*map(str, rows.columns), box=None, header_style="bold")
    for column in table.columns[text_columns:]:
        column.justify = "right"
    for line in rounded(rows, digits=4).head(ROWS_SHOWN).itertuples(index=False):
        table.add_row(*(_cell(value) for value in line))
    console.print(table)
    if len(rows) > ROWS_SHOWN:
        console.print(f"… {len(rows) - ROWS_SHOWN:,} more rows; --output FILE takes them all")


def _cell(value: object) -> str:
    return "" if isinstance(value, float) and np.isnan(value) else str(value)


def rounded(rows: pd.DataFrame, *, digits: int = 6) -> pd.DataFrame:
    """So many significant digits."""
    numbers = rows.select_dtypes("float").map(lambda number: float(f"{number:.{digits}g}"))
    return rows.assign(**{str(name): numbers[name] for name in numbers})


def score_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row a horizon and method."""
    lines = [{"days": each.days, "method": each.method, **asdict(each.scores)} for each in verdicts]
    return pd.DataFrame(lines)


def lift_table(verdicts: Sequence[Verdict], method: str) -> pd.DataFrame:
    """A row a horizon and tenth of the customers, the likeliest first, of one method.

    lift: how many times as many of them bought as of all.
    """
    lines = []
    for verdict in (each for each in verdicts if each.method == method):
        total = sum(part.customers for part in verdict.lift)
        everybody = sum(part.bought * part.customers for part in verdict.lift) / total
        lines += [
            {
                "days": verdict.days,
                "tenth": number,
                **asdict(part),
                "lift": part.bought / everybody if everybody else float("nan"),
            }
            for number, part in enumerate(verdict.lift, start=1)
        ]
    return pd.DataFrame(lines)


# --- pictures


def draw(foretold: Foretold, horizons: Sequence[int], path: Path) -> None:
    """How likely customers are to buy: the likeliest first, a line a horizon."""
    figure, mpl = _figure(1)
    with mpl.rc_context(rc=_style()):
        (axes,) = figure.subplots(1, 1, squeeze=False)[0]
        share = 100 * (np.arange(len(foretold.names)) + 0.5) / len(foretold.names)
        for place, days in enumerate(horizons):
            likeliest = np.sort(foretold.probability[:, place])[::-1]
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(share, likeliest, color=colour, lw=1.8, label=f"within {days} days")
        axes.set_xlabel("customers, the likeliest first (%)")
        axes.set_ylabel("probability of a purchase")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 1)
        axes.legend()
        _save(figure, path, "Purchases foretold")


def draw_calibration(verdicts: Sequence[Verdict], path: Path) -> None:
    """A panel a horizon: the share that bought against what was foretold, in bins of equal mass."""
    horizons = list(dict.fromkeys(each.days for each in verdicts))
    figure, mpl = _figure(len(horizons))
    with mpl.rc_context(rc=_style()):
        panels = figure.subplots(1, len(horizons), squeeze=False)[0]
        for axes, days in zip(panels, horizons, strict=True):
            of_horizon = [each for each in verdicts if each.days == days]
            for number, verdict in enumerate(of_horizon):
                foretold = [part.foretold for part in verdict.calibration]
                bought = [part.bought for part in verdict.calibration]
                style = {"color": COLOURS[number % len(COLOURS)], "lw": 1.4, "marker": "o"}
                axes.plot(foretold, bought, ms=3.5, label=verdict.method, **style)
            axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8, ls=(0, (3, 3)))
            axes.set_title(f"{days} days", loc="left", fontweight="bold")
            axes.set_xlabel("foretold")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_aspect("equal")
        panels[0].set_ylabel("share that bought")
        panels[0].legend()
        _save(figure, path, "Foretold and come")


def _figure(panels: int) -> "tuple[Figure, Any]":
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        message = "a picture needs matplotlib: pip install 'shopcast[plot]'"
        raise ConfigurationError(message) from None
    return Figure(figsize=(max(7.0, 4.6 * panels), 4.8), layout="constrained"), mpl


def _style() -> dict[Any, Any]:
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": 10,
        "axes.edgecolor": GRID,
        "axes.labelcolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GRID,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "text.color": INK,
    }


def _save(figure: "Figure", path: Path, title: str) -> None:
    """PNG, or a page of HTML that holds the drawing."""
    if path.suffix.lower() != ".html":
        figure.savefig(path, dpi=130)
        return
    import io

    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    path.write_text(HTML.format(title=title, svg=svg[svg.index("<svg") :]), encoding="utf-8")
