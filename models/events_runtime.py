"""An events network in ONNX Runtime, on a CPU.

Invariant: an OnnxEvents answers as the EventsModel it is made from, up to rounding, in float32
within 1e-5 and in int8 within what 8 bits can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.events import Answer
from models.events_graph import events_graph_of
from models.runtime import answer_of, session_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.events import EventsModel
    from models.tokens import Tokens


class OnnxEvents:
    """Callable network: tokens in, what the network says of them out.

    Sessions have a fixed number of threads, as those of OnnxForward.
    """

    def __init__(self, model: EventsModel, *, int8: bool, threads: int) -> None:
        """Raises CheckpointError if the network cannot be written as a graph."""
        graph = events_graph_of(model, int8=int8)
        self._ahead, self._bins = 1 + model.config.shop_tokens, len(model.config.bin_edges)
        self._threads = threads
        self._single = session_of(graph, threads=1)
        self._wide = session_of(graph, threads=threads) if threads > 1 else self._single

    def __call__(self, tokens: Tokens) -> Answer:
        """On all threads if torch may use all in this thread, else on one."""
        session = self._wide if torch.get_num_threads() >= self._threads else self._single
        said = torch.from_numpy(answer_of(session, packed(tokens, ahead=self._ahead)))
        return Answer(said[:, : self._bins], said[:, self._bins : 2 * self._bins], said[:, -1])


def packed(tokens: Tokens, *, ahead: int) -> dict[str, NDArray[Any]]:
    """What the graph wants to know. ahead: tokens of a row before its events."""
    rows, longest = tokens.present.shape
    row, column = np.nonzero(tokens.present)
    first = np.arange(rows)[:, None] * (ahead + longest)  # where a row begins, padded
    before = first + np.arange(ahead)
    slots = np.zeros((rows, ahead + longest), dtype=np.int64)
    slots[:, 0] = np.arange(rows)
    slots[:, 1:ahead] = rows + np.arange(rows * (ahead - 1)).reshape(rows, -1)
    slots[row, ahead + column] = rows * ahead + np.arange(len(row))
    places = np.concatenate((before[:, 0], before[:, 1:].ravel(), first[row, 0] + ahead + column))
    wide = ("events", "types", "items", "categories")
    return {
        **{name: getattr(tokens, name)[row, column] for name in wide},
        **{name: getattr(tokens, name) for name in ("query", "contexts", "known", "shop")},
        "places": places,
        "slots": slots,
        "present": np.pad(tokens.present, ((0, 0), (ahead, 0)), constant_values=True),
        "positions": places % (ahead + longest),
    }
