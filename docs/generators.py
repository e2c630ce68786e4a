"""Draw docs/images/generators.png: one series of each family, and shops with what drives them.

    python docs/generators.py

The same picture each time, from fixed seeds. Run it after a family has changed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.synth.series import FAMILIES, shop
from models.synth.shops import rivals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from models.synth.series import Family, Floats
    from models.synth.shops import Shop

PICTURE = Path(__file__).parent / "images" / "generators.png"
COLUMNS = 6
INK, FAINT, GRID, LINE, DRIVER = "#1f2933", "#7b8794", "#e4e7eb", "#c2410c", "#2a6f97"
#: Of each family the row shown of those drawn.
SHOWN = {
    "trend_season_irregular": 2,
    "exponential_smoothing": 7,
    "seasonal_arima": 7,
    "random_walk": 6,
    "economic": 5,
    "tourism": 7,
    "stationary": 6,
    "ornstein_uhlenbeck": 2,
    "regimes": 3,
    "moving_season": 0,
    "kernels": 0,
    "causal": 1,
    "spikes": 0,
    "sawtooths": 6,
    "intermittent": 0,
    "shop_sales": 4,
    "store_sales": 2,
}
#: Season length and periods shown, where not 12 and 120.
SPANS = {"shop_sales": (7, 150), "store_sales": (7, 500)}


def main() -> None:
    """Write the picture."""
    PICTURE.parent.mkdir(exist_ok=True)
    draw().savefig(PICTURE, dpi=90, metadata={"Software": None})


def draw() -> "Figure":
    """Families above; an article with what drives it and two rivals below."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(rc=_style()):
        figure = Figure(figsize=(13, 11.5), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=[5, 7])
        grid = list(above.subplots(-(-len(FAMILIES) // COLUMNS), COLUMNS).flat)
        for axes in grid[len(FAMILIES) :]:
            axes.set_visible(False)
        for axes, (family, _) in zip(grid, FAMILIES, strict=False):
            _draw_family(axes, family)
        left, right = below.subfigures(1, 2)
        _draw_shop(left)
        _draw_rivals(right)
    return figure


def _style() -> Any:  # noqa: ANN401 - matplotlib types each key by itself
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": 8,
        "axes.edgecolor": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelsize": 6,
        "ytick.labelsize": 6,
        "text.color": INK,
        "lines.linewidth": 0.9,
    }


def _example(family: "Family") -> "Floats":
    """(time,) the series that is shown of a family."""
    length, time = SPANS.get(family.__name__, (12, 120))
    return family(np.random.default_rng(5), np.full(8, length), time)[SHOWN[family.__name__]]


def _draw_family(axes: "Axes", family: "Family") -> None:
    axes.plot(_example(family), color=LINE)
    axes.set_title(family.__name__.replace("_", " "), loc="left", fontsize=9)


def _draw_shop(figure: "SubFigure") -> None:
    made = shop(np.random.default_rng(404), np.full(1, 7), 200)
    drivers = {"price": made.price, "promotion": made.promotion, "holiday": made.holiday}
    rows = {"sales": made.sales, "expected": made.rate} | drivers | {"in stock": made.stocked}
    _draw_rows(figure, "An article and what drives it", list(rows.items()), row=0)


def _draw_rivals(figure: "SubFigure") -> None:
    first, second, _ = rivals(np.random.default_rng(1), np.full(6, 7), 200)
    rows = [*_named("first", first), *_named("second", second)]
    _draw_rows(figure, "Two rivals: a promotion of the one costs the other", rows, row=2)


def _named(name: str, made: "Shop") -> "list[tuple[str, Floats]]":
    return [(f"sales, {name}", made.sales), ("expected", made.rate), ("promotion", made.promotion)]


def _draw_rows(
    figure: "SubFigure", title: str, rows: "list[tuple[str, Floats]]", *, row: int
) -> None:
    """One panel a name, those of units higher and in another colour than what drives them."""
    units = [name.startswith(("sales", "expected")) for name, _ in rows]
    panels = figure.subplots(
        len(rows), 1, sharex=True, height_ratios=[2.5 if unit else 1 for unit in units]
    )
    panels[0].set_title(title, loc="left", fontsize=9)
    for axes, (name, values), unit in zip(panels, rows, units, strict=True):
        axes.plot(values[row], color=LINE if unit else DRIVER, drawstyle="steps-mid")
        axes.set_ylabel(name, rotation=0, ha="right", va="center", color=FAINT)


if __name__ == "__main__":
    main()
