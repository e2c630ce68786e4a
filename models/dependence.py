"""Measure how a network's errors at the periods of one forecast hang together.

    python -m models.dependence models/pretrained/series          # prints it
    python -m models.dependence models/pretrained/series --write  # and notes it in config.json

Synthetic shops are forecast from many origins each; the products of the normal scores of what
came, averaged over series, are matched by ρ·φ^lag. What a series' own errors should weigh beside
that default is the weight that best foretells its errors at its other origins.

Invariant: the same checkpoint and seed give the same numbers.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import paths
from models.base import FloatArray, Series, SeriesTask
from models.checkpoint import CONFIG
from models.paths import Dependence
from models.series import SeriesNetwork
from models.synth.shops import shop_sales

PERIODS = 8  # of each forecast
ORIGINS = 16
BEFORE = 128  # periods before the first origin
SEASONS = (0, 4, 7, 7, 12, 52)
BATCH = 64
WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PERSISTENCES = tuple(round(0.5 + 0.01 * step, 2) for step in range(51))


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found. correlations: at lags 1, 2, …; prior_origins: what the default weighs."""

    dependence: Dependence
    correlations: tuple[float, ...]
    prior_origins: float
    series: int


def measure(network: SeriesNetwork, *, series: int, seed: int = 0) -> Measured:
    """Forecast so many synthetic series from ORIGINS origins each."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([_scores(network, rng) for _ in range(max(1, series // BATCH))])
    correlations = _correlations(scores)
    dependence = fit(correlations)
    weight = min(WEIGHTS, key=lambda one: _surprise(scores, dependence, one))
    return Measured(dependence, tuple(correlations.round(4).tolist()), weight, len(scores))


def fit(correlations: Sequence[float] | NDArray[np.floating[Any]]) -> Dependence:
    """The strength and persistence whose ρ·φ^lag is nearest, weighed by how often a lag comes."""
    found = np.asarray(correlations)
    lag = np.arange(1, len(found) + 1)
    pairs = len(found) + 1 - lag
    best = (np.inf, 0.0, 1.0)
    for persistence in PERSISTENCES:
        shape = persistence**lag
        strength = float((pairs * shape * found).sum() / (pairs * shape**2).sum())
        error = float((pairs * (found - strength * shape) ** 2).sum())
        best = min(best, (error, strength, persistence))
    strength = float(np.clip(best[1], 0.0, paths.MOST_STRENGTH))
    return Dependence(round(strength, 3), best[2])


def _scores(network: SeriesNetwork, rng: np.random.Generator) -> FloatArray:
    """(series, ORIGINS, PERIODS) normal scores of a batch of shops."""
    seasons = rng.choice(SEASONS, size=BATCH)
    rows = shop_sales(rng, seasons, BEFORE + ORIGINS * PERIODS)
    scored = []
    for number in range(ORIGINS):
        end = BEFORE + number * PERIODS
        tasks = [
            SeriesTask((_series(row[:end], int(season)),), PERIODS, paths.LEVELS)
            for row, season in zip(rows, seasons, strict=True)
        ]
        made = network.predict(tasks)
        pairs = zip(made, rows, strict=True)
        scored.append([_score(result[0].quantiles[0], row, end) for result, row in pairs])
    scores = np.array(scored).transpose(1, 0, 2)
    return np.asarray(scores[np.square(scores).mean(axis=(1, 2)) > 0])


def _series(past: FloatArray, season: int) -> Series:
    seasons = (season,) if season else ()
    return Series(past[None], season_lengths=seasons, non_negative=bool((past >= 0).all()))


def _score(quantiles: FloatArray, row: FloatArray, end: int) -> FloatArray:
    """A row that may be negative is lifted, since demand is not."""
    lift = max(0.0, -float(row.min()), -float(quantiles.min()))
    truth = row[end : end + PERIODS]
    scored = paths.scores_of([quantiles + lift], [truth + lift], whole=paths.is_whole(row))
    return np.asarray(scored[0])


def _correlations(scores: FloatArray) -> FloatArray:
    """Products at each lag over squares, each series weighing the same."""
    square = np.square(scores).mean(axis=(1, 2))
    lags = range(1, scores.shape[2])
    products = [(scores[:, :, k:] * scores[:, :, :-k]).mean(axis=(1, 2)) for k in lags]
    return np.array([(each / np.maximum(square, 0.25)).mean() for each in products])


def _surprise(scores: FloatArray, default: Dependence, weight: float) -> float:
    """Mean squared error of foretelling half of a series' origins from the other half."""
    half = scores.shape[1] // 2
    found = np.array([_strength(one[:half], default) for one in scores])
    truth = np.array([_strength(one[half:], default) for one in scores])
    told = (half * found + weight * default.strength) / (half + weight)
    return float(np.square(truth - told).mean())


def _strength(scores: FloatArray, default: Dependence) -> float:
    products, expected = paths.moments(scores, default.persistence)
    square = max(float(np.square(scores).mean()), 0.25)
    return float(np.clip(products / expected / square, -1.0, 1.0))


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--series", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="note it in the config.json")
    options = parser.parse_args()
    network = SeriesNetwork.load(options.checkpoint, dtype="float32", threads=options.threads)
    measured = measure(network, series=options.series, seed=options.seed)
    print(json.dumps(asdict(measured)))  # noqa: T201 - what the command is for
    if options.write:
        note(options.checkpoint, measured.dependence)


def note(checkpoint: Path, dependence: Dependence) -> None:
    """Write a dependence into a checkpoint's config.json."""
    path = checkpoint / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config.setdefault("shopcast", {})["dependence"] = asdict(dependence)
    config["shopcast"] = dict(sorted(config["shopcast"].items()))
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
