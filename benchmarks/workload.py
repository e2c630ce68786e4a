"""The series that are forecast, the requests that ask for them, and the offline call to beat.

Invariant: no two series of one workload are equal, so that a cache answers only where it should.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from callers import render
from chronos import Chronos2Pipeline
from numpy.typing import NDArray

POINTS = 512
HORIZON = 28
LEVELS = (0.1, 0.5, 0.9)
OFFLINE_BATCH = 32

Histories = NDArray[np.float64]


class Workload:
    """An endless supply of histories that look like daily sales with a weekly season."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def take(self, count: int) -> Histories:
        """(count, POINTS), two decimals."""
        rng = self._rng
        level = rng.lognormal(3, 1, (count, 1))
        week = np.tile(rng.uniform(0.6, 1.4, (count, 7)), POINTS // 7 + 1)[:, :POINTS]
        return np.round(level * week * rng.gamma(8, 1 / 8, (count, POINTS)), 2)


def body(histories: Histories) -> bytes:
    """The JSON of one request for all histories."""
    return orjson.dumps(
        {
            "inputs": [{"target": history} for history in histories.tolist()],
            "parameters": {"prediction_length": HORIZON, "quantile_levels": LEVELS},
        }
    )


def requests(histories: Histories, *, path: str = "/predict/sales", each: int = 1) -> list[bytes]:
    """One rendered request for every `each` histories."""
    starts = range(0, len(histories), each)
    return [render(path, body(histories[start : start + each])) for start in starts]


class Offline:
    """The library on the same series, in this process."""

    def __init__(self, checkpoint: Path, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self.pipeline = Chronos2Pipeline.from_pretrained(str(checkpoint), dtype=torch.float32)
        self.pipeline.model.eval()

    def predict(self, histories: Histories) -> object:
        """The call that is timed."""
        return self.pipeline.predict_quantiles(
            histories[:, None, :],
            prediction_length=HORIZON,
            quantile_levels=list(LEVELS),
            batch_size=OFFLINE_BATCH,
        )

    def expected(self, histories: Histories) -> NDArray[np.float64]:
        """(series, LEVELS, HORIZON): what an answer has to say: sorted, none below zero."""
        levels = self.pipeline.quantiles
        raw = self.pipeline.predict(histories[:, None, :], prediction_length=HORIZON)
        stacked = torch.stack(raw)[:, 0].double().sort(dim=1).values
        wanted = stacked[:, [levels.index(level) for level in LEVELS]]
        return np.maximum(wanted.numpy(), 0.0)

    @torch.inference_mode()
    def forward(self, history: NDArray[np.float64]) -> None:
        """The network alone, on one series that is a tensor already."""
        context = torch.tensor(history[None], dtype=torch.float32)
        patches = -(-HORIZON // self.pipeline.model_output_patch_size)
        self.pipeline.model(context=context, num_output_patches=patches)


def difference(answer: bytes, histories: Histories, offline: Offline) -> float:
    """Largest difference between an answer and the library's, in deviations of the history."""
    predictions: list[dict[str, Any]] = orjson.loads(answer)["predictions"]
    ours = np.array([[one[str(level)] for level in LEVELS] for one in predictions])
    scale = histories.std(axis=1)[:, None, None]
    return float((np.abs(ours - offline.expected(histories)) / scale).max())


def timed(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s
