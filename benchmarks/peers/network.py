"""What every peer serves: the library's network on one padded batch, JSON in and out.

The library's forward pass is called directly, as its pipeline's data loader would cost more.
"""

import argparse
from typing import Any

import numpy as np
import torch
from chronos import Chronos2Pipeline

LEVELS = (0.1, 0.5, 0.9)
HORIZON = 28


def arguments() -> argparse.Namespace:
    """What the benchmark tells a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait-ms", type=float, required=True)
    return parser.parse_args()


class Network:
    """The library's network; `predict` takes and gives what JSON holds."""

    def __init__(self, checkpoint: str, threads: int) -> None:
        torch.set_num_threads(threads)
        pipeline = Chronos2Pipeline.from_pretrained(checkpoint, dtype=torch.float32)
        self._model = pipeline.model.eval()
        self._patch = pipeline.model_output_patch_size
        self._levels = [pipeline.quantiles.index(level) for level in LEVELS]

    @torch.inference_mode()
    def predict(self, histories: list[Any]) -> list[dict[str, Any]]:
        """Forecast histories of any lengths in one batch padded on the left."""
        context = np.full((len(histories), max(map(len, histories))), np.nan, dtype=np.float32)
        for row, history in zip(context, histories, strict=True):
            row[len(row) - len(history) :] = history
        patches = -(-HORIZON // self._patch)
        answer = self._model(context=torch.from_numpy(context), num_output_patches=patches)
        quantiles = answer.quantile_preds[..., :HORIZON]
        mean = quantiles.mean(dim=1).tolist()
        wanted = quantiles[:, self._levels].tolist()
        return [
            {"mean": one, **dict(zip(map(str, LEVELS), rows, strict=True))}
            for one, rows in zip(mean, wanted, strict=True)
        ]
