"""Smaller and faster networks: 8-bit arithmetic, zeros, and what a larger teacher knows.

Invariant: what is written is a checkpoint as any other, and beside it stand its size, speed and
loss and those of its parent, measured in turns on the same windows, which the gate's are not among.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
import zstandard
from safetensors.torch import save_file

from models.backtest import Method, Plan, Record, network, run, task_of, windows_of
from models.base import ModelError
from models.checkpoint import ADAPTER_CONFIG, BASE_DIRECTORY, CONFIG, WEIGHTS, load_series
from models.examples import until
from models.series import SeriesNetwork
from models.train import fine_tune
from models.tuning import Trained, TrainProgress, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.checkpoint import SeriesCheckpoint
    from models.events import EventsCheckpoint
    from models.train_events import EventsTrained

#: Rounds of timing, parent and child in turns; the first does not count.
ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Measured:
    """bytes: of the files of the checkpoint and of its base; packed_bytes: of those files in zstd,
    which is where zeros take less. weight_bytes: of its weights in use, as 8 bits where the
    arithmetic is, zeros like all others. zeros: share of its weights. rows_per_s: series or
    customers of a batch, answered each second. loss: before what the gate judges by; pinball in
    units of seasonal naive's error, of customers the log-loss.
    """

    bytes: int
    packed_bytes: int
    weight_bytes: int
    zeros: float
    rows_per_s: float
    loss: float


@dataclass(frozen=True, slots=True)
class Compressed:
    """trained: how it came about, None where nothing was trained."""

    child: Measured
    parent: Measured
    trained: Trained | EventsTrained | None


def quantize(
    base: Path,
    records: Sequence[Record],
    plan: Plan,
    out: Path,
    *,
    base_of: Path | None = None,
    told: Callable[[TrainProgress], None] | None = None,
) -> Compressed:
    """Write the network as one that computes in 8 bits on a CPU, wherever `dtype` is auto.

    Its weights are kept whole, in half precision: they are made small as they are loaded.
    """
    del told  # it takes a second
    checkpoint = load_series(base, base=base_of)
    write_eight_bits(checkpoint, out)
    return measured(base, out, records, plan, base_of=base_of, trained=None)


def write_eight_bits(checkpoint: SeriesCheckpoint | EventsCheckpoint, out: Path) -> None:
    """Write a network so that it computes in 8 bits by itself, aside and then in place."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    weights = checkpoint.model.state_dict()
    halved = {k: v.to(torch.bfloat16) for k, v in checkpoint.model.named_parameters()}
    kept = {k: halved.get(k, v).detach().contiguous() for k, v in weights.items()}
    save_file(kept, part / WEIGHTS, metadata={"format": "pt"})
    options = checkpoint.options | {"dtype": "int8"}
    config = checkpoint.model.config.to_dict() | {"dtype": "bfloat16", "shopcast": options}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (part / CONFIG).write_text(text, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def prune(  # noqa: PLR0913 - as fine_tune
    base: Path,
    records: Sequence[Record],
    plan: Plan,
    out: Path,
    *,
    state: Path,
    settings: TrainSettings | None = None,
    base_of: Path | None = None,
    told: Callable[[TrainProgress], None] | None = None,
) -> Compressed:
    """Set the smallest weights to zero, half of them if `sparsity` is not set, and train the rest.

    Zeros make files that pack smaller; dense products take as long as before.
    """
    settings = settings or TrainSettings()
    settings = replace(settings, method="full", sparsity=settings.sparsity or 0.5)
    trained = fine_tune(
        base, records, plan, out, state=state, settings=settings, base_of=base_of, told=told
    )
    return measured(base, out, records, plan, base_of=base_of, trained=trained)


def distill(  # noqa: PLR0913 - as fine_tune
    teacher: Path,
    student: Path,
    records: Sequence[Record],
    plan: Plan,
    out: Path,
    *,
    state: Path,
    settings: TrainSettings | None = None,
    teacher_base: Path | None = None,
    logs: Path | None = None,
    told: Callable[[TrainProgress], None] | None = None,
) -> Compressed:
    """Teach a student, such as the shipped checkpoint, what a larger one says of a shop's data.

    teacher: any Chronos-2 directory; it is the parent that the student is measured against.
    Raises ModelError if it answers no periods so far ahead.
    """
    settings = replace(settings or TrainSettings(), method="full")
    teaching = SeriesNetwork.load(teacher, base=teacher_base)
    trained = fine_tune(
        student,
        records,
        plan,
        out,
        state=state,
        settings=settings,
        teacher=teaching,
        logs=logs,
        told=told,
    )
    return measured(teacher, out, records, plan, base_of=teacher_base, trained=trained)


def measured(
    parent: Path,
    child: Path,
    records: Sequence[Record],
    plan: Plan,
    *,
    base_of: Path | None,
    trained: Trained | None,
) -> Compressed:
    """Both on the window before the gate's, in turns."""
    before = until(records, plan.offsets[0])
    test = replace(plan, origins=1, step=None)
    networks = [SeriesNetwork.load(parent, base=base_of), SeriesNetwork.load(child)]
    methods = [Method(name, network(one)) for name, one in zip(_NAMES, networks, strict=True)]
    scores = run(before, methods, test).scores
    batch = next(iter(windows_of(before, test)))
    tasks = [task_of(window, batch.plan) for window in batch.windows[:64]]
    if not tasks:
        raise ModelError("no series can be forecast before the gate's windows")
    speeds = speeds_of([partial(one.predict, tasks) for one in networks], len(tasks))
    found = []
    for name, directory, one, speed in zip(_NAMES, (parent, child), networks, speeds, strict=True):
        losses = [score.scaled_pinball for score in scores if score.method == name]
        base = base_of if name == "parent" else None
        weights, files = load_series(directory, base=base).model, files_of(directory, base)
        values = [weight.detach() for weight in weights.parameters()]
        count = sum(weight.numel() for weight in values)
        found.append(
            Measured(
                bytes=bytes_of(files),
                packed_bytes=packed_of(files),
                weight_bytes=count * _WIDTHS[one.describe().dtype],
                zeros=sum(int((weight == 0).sum()) for weight in values) / count,
                rows_per_s=round(speed, 1),
                loss=float(np.mean(losses)),
            )
        )
    return Compressed(child=found[1], parent=found[0], trained=trained)


_NAMES = ("parent", "child")
_WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1}


def speeds_of(answers: Sequence[Callable[[], object]], rows: int) -> list[float]:
    """Rows a second of each that answers so many, the median of rounds in which they take turns."""
    seconds: list[list[float]] = [[] for _ in answers]
    for _ in range(ROUNDS):
        for answer, took in zip(answers, seconds, strict=True):
            began = time.perf_counter()
            answer()
            took.append(time.perf_counter() - began)
    return [rows / median(took[1:]) for took in seconds]


def files_of(directory: Path, base: Path | None) -> list[Path]:
    """The files of a checkpoint, and of its base if it is an adapter."""
    found = [file for file in directory.iterdir() if file.is_file()]
    if not (directory / ADAPTER_CONFIG).exists():
        return found
    return found + files_of(base or directory / BASE_DIRECTORY, None)


def bytes_of(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def packed_of(files: Sequence[Path]) -> int:
    """Bytes of files, each in zstd."""
    return sum(map(_packed, files))


def _packed(file: Path) -> int:
    with file.open("rb") as stream:
        return sum(map(len, zstandard.ZstdCompressor().read_to_iter(stream)))
