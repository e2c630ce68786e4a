"""Smaller and faster networks of customers' events, as models/compress.py makes those of series.

Invariant: what is written is a checkpoint as any other, and beside it stand its size, speed and
loss and those of its parent, measured on a CPU, in turns, on customers that the gate does not judge
by.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from models.compress import (
    Compressed,
    Measured,
    bytes_of,
    files_of,
    packed_of,
    speeds_of,
    write_eight_bits,
)
from models.customers import context_of
from models.events import EventsNetwork, load_events
from models.events_graph import events_graph_of
from models.graph import weight_bytes_of
from models.stretch import MOST_EVENTS, Stretch, tokens_at
from models.tokens import chosen
from models.train_events import fine_tune, validation_days
from models.tuning import EventsTrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.cuts import Moment
    from models.train_events import EventsTrained
    from models.tuning import TrainProgress

AT_ONCE = 256  # customers that are answered to take the time


def quantize_events(
    base: Path, shop: Moment, out: Path, *, base_of: Path | None = None
) -> Compressed:
    """Write the network as one that computes in 8 bits on a CPU, wherever `dtype` is auto.

    shop: all of it may be looked at. The weights are kept whole, in half precision: they are made
    small as they are loaded. Raises ModelError for a shop with too few customers or too short a
    past.
    """
    checkpoint = load_events(base, base=base_of)
    write_eight_bits(checkpoint, out)
    return measured_events(base, out, shop, base_of=base_of, trained=None)


def distill_events(  # noqa: PLR0913 - as fine_tune
    teacher: Path,
    student: Path,
    shop: Moment,
    out: Path,
    *,
    state: Path,
    settings: EventsTrainSettings | None = None,
    teacher_base: Path | None = None,
    base_of: Path | None = None,
    earlier: Sequence[Moment] = (),
    threads: int | None = None,
    logs: Path | None = None,
    told: Callable[[TrainProgress], None] | None = None,
) -> Compressed:
    """Teach a student what another network says of a shop's customers at earlier moments.

    teacher: of any size and bins; it is the parent that the student is measured against. base_of:
    the student's base, where it is an adapter; what is written is whole.
    """
    settings = replace(settings or EventsTrainSettings(), method="full")
    trained = fine_tune(
        student,
        shop,
        out,
        state=state,
        settings=settings,
        base_of=base_of,
        earlier=earlier,
        teacher=EventsNetwork.load(teacher, teacher_base),
        threads=threads,
        logs=logs,
        told=told,
    )
    return measured_events(teacher, out, shop, base_of=teacher_base, trained=trained)


def measured_events(
    parent: Path, child: Path, shop: Moment, *, base_of: Path | None, trained: EventsTrained | None
) -> Compressed:
    """Both on the latest stretch of a shop, in turns."""
    settings = EventsTrainSettings()
    days = validation_days(shop, settings)
    stretch = Stretch.latest(shop, (np.ceil(days / 3), days), most=settings.judged)
    networks = [
        EventsNetwork.load(parent, base_of, device="cpu"),
        EventsNetwork.load(child, device="cpu"),
    ]
    speeds = _speeds(networks, stretch)
    sides = zip((parent, child), (base_of, None), networks, speeds, strict=True)
    before, after = (_measured(*side, stretch) for side in sides)
    return Compressed(child=after, parent=before, trained=trained)


def _measured(
    directory: Path, base: Path | None, network: EventsNetwork, speed: float, stretch: Stretch
) -> Measured:
    model, files = load_events(directory, base=base).model, files_of(directory, base)
    count = sum(weight.numel() for weight in model.parameters())
    zeros = sum(int((weight == 0).sum()) for weight in model.parameters())
    graph = events_graph_of(model, int8=network.describe().dtype == "int8")
    return Measured(
        bytes=bytes_of(files),
        packed_bytes=packed_of(files),
        weight_bytes=weight_bytes_of(graph),
        zeros=zeros / count,
        rows_per_s=round(speed, 1),
        loss=float(stretch.losses(stretch.foretold("", network)).mean()),
    )


def _speeds(networks: list[EventsNetwork], stretch: Stretch) -> list[float]:
    """Customers a second of each, from their histories to their curves."""
    shop, rows = stretch.before, stretch.rows[:AT_ONCE]
    some, context = chosen(shop.crowd, rows, most_events=MOST_EVENTS), context_of(shop.crowd)

    def answer(network: EventsNetwork) -> object:
        return network.curves(tokens_at(shop, some, context, length=network.length))

    return speeds_of([partial(answer, one) for one in networks], len(rows))
