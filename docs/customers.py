"""Pictures of the simulated customers, for docs/models.md: `python docs/customers.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from models.base import EVENT_TYPES, PURCHASE
from models.synth.customers import BIN_EDGES, ShopSettings, draw_shop, simulate

IMAGES = Path(__file__).parent / "images"
COLOURS = ("#9aa5b1", "#e0a030", "#3b7dd8", "#b0b0b0", "#c23b5a", "#7a4fbf", "#cccccc")


def main() -> None:
    mpl.use("Agg")
    histories(IMAGES / "customers.png")
    curves(IMAGES / "customers-future.png")


def histories(path: Path) -> None:
    """Some customers of a shop with a funnel: what they did, and how likely they buy."""
    import matplotlib.pyplot as plt

    settings = ShopSettings(
        customers=60, history=200, funnel=True, rate=1 / 25, lifetime=150, background=0.02
    )
    shop = simulate(np.random.default_rng(7), settings, futures=64)
    crowd = shop.population
    figure, axis = plt.subplots(figsize=(8, 3.4), dpi=80)
    month = shop.first[:, : BIN_EDGES.index(30) + 1].sum(axis=1)
    for row, who in enumerate(np.argsort(month)[:: max(len(month) // 14, 1)][:14]):
        mine = slice(crowd.starts[who], crowd.starts[who + 1])
        kinds, days = crowd.types[mine], -crowd.days_ago[mine]
        for kind in np.unique(kinds):
            size = 34 if kind == PURCHASE else 9
            at = days[kinds == kind]
            axis.scatter(at, np.full(len(at), row), s=size, color=COLOURS[kind], linewidths=0)
        axis.text(4, row, f"{month[who]:.0%}", va="center", fontsize=8)
    names = ("view", "favorite", "add_to_cart", "remove_from_cart", "purchase")
    handles = [
        axis.scatter([], [], color=COLOURS[EVENT_TYPES.index(name)], s=16, label=name)
        for name in names
    ]
    axis.legend(handles=handles, ncols=5, fontsize=7, loc="upper left", frameon=False)
    axis.set(xlim=(-200, 16), ylim=(-0.8, 15.2), yticks=[], xlabel="days before as_of")
    axis.set_title("Simulated customers, and their true chance to buy within 30 days", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def curves(path: Path) -> None:
    """The share of customers that buys within a horizon, in shops drawn from the prior."""
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(0)
    figure, axis = plt.subplots(figsize=(8, 2.8), dpi=80)
    for _ in range(40):
        shop = draw_shop(rng, labelled=64, futures=8)
        share = np.cumsum(shop.first[:, :-1].mean(axis=0))
        axis.plot(BIN_EDGES, share, color="#3b7dd8", alpha=0.45, linewidth=1)
    axis.set(xscale="log", ylim=(0, 1), xlabel="days ahead", ylabel="share buying")
    axis.set_xticks(BIN_EDGES[::2], [str(edge) for edge in BIN_EDGES[::2]])
    axis.minorticks_off()
    axis.set_title("Forty shops of the prior", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
