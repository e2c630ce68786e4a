"""The series network: histories of numbers with covariates → quantiles of their futures.

Invariant: a task's answer depends on that task alone, whatever shares its batch; it is finite,
its quantiles never cross, and none of its intervals has vanished for want of history.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from chronos.chronos2.model import Chronos2Model
from chronos.utils import weighted_quantile
from numpy.typing import NDArray

from models import distribution
from models.base import (
    CheckpointError,
    FloatArray,
    ModelError,
    NotFiniteError,
    OutOfMemoryError,
    Series,
    SeriesForecast,
    SeriesResult,
    SeriesTask,
    Work,
)
from models.calibration import calibration_of, caution_of, recall_of
from models.censoring import complete, spells
from models.checkpoint import SeriesCheckpoint, load_series
from models.effects import CovariateEffects, Shares, without_effects
from models.features import Rows, least_deviation, row_count, rows_of, scale_of
from models.forward import Forward, Groups
from models.guide import guide
from models.paths import Dependence, dependence_of
from models.placement import (
    DeviceName,
    DtypeName,
    RuntimeName,
    Threads,
    asked,
    device_of,
    dtype_of,
    runtime_of,
    without_packages,
)
from models.pooling import pooled_effects_of
from models.seasonal import SeasonalAdjustment, adjust

ENGINE = 7  # raise it when the same weights begin to answer differently
PATH_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # followed beyond one horizon
FARTHEST = 6.0  # from the history's mean a guide counts, in the network's space; as in training
LARGEST = float(np.finfo(np.float32).max)
SWITCHES: dict[str, bool | None] = {"auto": None, "on": True, "off": False}

SwitchName = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class SeriesDescription:
    """What a person wants to know of a loaded series network."""

    checkpoint: str
    architecture: str
    parameters: int
    device: str
    dtype: str
    runtime: str
    context_length: int
    horizon: int  # periods answered in one pass; longer horizons are unrolled
    quantile_levels: tuple[float, ...]
    seasonal_adjustment: bool
    covariate_effects: bool
    guided: bool
    dependence: Dependence  # of its errors at the periods of one forecast


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """What is known of the steps to come: (rows, steps), NaN where nothing; targets are guided."""

    known: FloatArray
    target: NDArray[np.bool_]


class SeriesNetwork:
    """A Chronos-2 network on a device, answering batches of SeriesTask."""

    def __init__(
        self,
        checkpoint: SeriesCheckpoint,
        *,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        runtime: RuntimeName = "auto",
        seasonal_adjustment: bool | None = None,
        covariate_effects: bool | None = None,
    ) -> None:
        """seasonal_adjustment, covariate_effects: None does what the checkpoint was trained for."""
        config = checkpoint.model.chronos_config
        dtype = asked(dtype, checkpoint.options, device, runtime)
        self._runtime = runtime_of(runtime, device, dtype)
        self._device = device_of("cpu" if self._runtime == "onnx" else device)
        self._dtype = dtype_of(dtype, self._device)
        if self._device.type == "cuda" and self._dtype == torch.bfloat16:
            torch.set_float32_matmul_precision("high")  # TF32 for what is not reduced
        self._threads = Threads()
        self._forward = self._load(checkpoint.model)
        self._levels = tuple(config.quantiles)
        self._patch: int = config.input_patch_size
        self._context: int = config.context_length
        self._most_patches = config.max_output_patches
        self._arcsinh = config.use_arcsinh
        options = checkpoint.options
        self._adjusts = _chosen(seasonal_adjustment, options, "seasonal_adjustment")
        self._effects = _chosen(covariate_effects, options, "covariate_effects")
        self._guided = bool(options.get("guide", False))
        self._caution = caution_of(options)
        self._recall = recall_of(options)
        self._pooled = pooled_effects_of(options)
        self._dependence = dependence_of(options)
        self._calibration = calibration_of(options)
        self._paths = _paths(self._levels)
        self._name = checkpoint.name
        self._parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
        where = f"{self._dtype}:{self._device.type}:{self._runtime}"
        around = f"{self._adjusts}:{self._effects}"
        setup = f"{ENGINE}:{checkpoint.digest}:{where}:{around}"
        self._fingerprint = hashlib.sha256(setup.encode()).hexdigest()

    @classmethod
    def load(  # noqa: PLR0913 - each is a setting of the service
        cls,
        directory: Path,
        *,
        base: Path | None = None,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        runtime: RuntimeName = "auto",
        threads: int | None = None,
        seasonal_adjustment: SwitchName = "auto",
        covariate_effects: SwitchName = "auto",
    ) -> "SeriesNetwork":
        """Read, verify and warm up a checkpoint; CheckpointError says what is wrong with it.

        threads: CPU threads of torch, for the whole process. Raises SetupError if device, dtype
        and runtime do not go together, or if a package is missing.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        network = cls(
            load_series(directory, base=base),
            device=device,
            dtype=dtype,
            runtime=runtime,
            seasonal_adjustment=SWITCHES[seasonal_adjustment],
            covariate_effects=SWITCHES[covariate_effects],
        )
        network.warm_up()
        return network

    @property
    def fingerprint(self) -> str:
        """Hex digest of the weights and of every setting that moves an answer."""
        return self._fingerprint

    def describe(self) -> SeriesDescription:
        return SeriesDescription(
            checkpoint=self._name,
            architecture="Chronos-2",
            parameters=self._parameters,
            device=str(self._device),
            dtype=str(self._dtype).removeprefix("torch."),
            runtime=self._runtime,
            context_length=self._context,
            horizon=self._most_patches * self._patch,
            quantile_levels=self._levels,
            seasonal_adjustment=self._adjusts,
            covariate_effects=self._effects,
            guided=self._guided,
            dependence=self._dependence,
        )

    def gpu_memory_bytes(self) -> int:
        """Memory that this process holds on the network's GPU; 0 on a CPU."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def lane(self, task: SeriesTask) -> int:
        """The number of patches asked for: the network's answer moves with it."""
        return math.ceil(task.prediction_length / self._patch)

    def work(self, task: SeriesTask) -> Work:
        patches = self.lane(task)
        paths = 1 if patches <= self._most_patches else len(self._paths)
        rows = sum(row_count(one) + row_count(one) * len(spells(one)) for one in task.series)
        history = max(one.target.shape[1] for one in task.series)
        length = min(history, self._context) + min(patches, self._most_patches) * self._patch
        return Work(rows=rows * paths, length=length)

    def predict(self, tasks: Sequence[SeriesTask]) -> list[SeriesResult]:
        """Answer tasks of one lane, in order.

        Raises OutOfMemoryError if the batch does not fit the device, NotFiniteError if an
        answer is not a number.
        """
        patches = self.lane(tasks[0])
        if any(self.lane(task) != patches for task in tasks):
            raise ModelError("tasks of different lanes in one batch")
        if any(one.censored is not None for task in tasks for one in task.series):
            tasks = complete(tasks, self.predict, longest=self._patch)
        rows = rows_of(tasks, context_length=self._context, horizon=patches * self._patch)
        try:
            with self._threads.counted():
                quantiles = self._quantiles(rows, patches)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()  # a smaller batch needs what this one broke into pieces
            raise OutOfMemoryError(str(error)) from error
        return _results(tasks, quantiles, self._levels, floors=rows.non_negative[rows.target])

    def warm_up(self) -> None:
        """Forecast a small season at one and at two rows; raises CheckpointError."""
        season = 10 + np.tile(np.arange(7.0), 8)[None]
        task = SeriesTask((Series(season, season_lengths=(7,)),), self._patch, (0.1, 0.5, 0.9))
        try:
            self.predict([task])
            self.predict([task, replace(task, prediction_length=1)])
        except (ModelError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the warm-up forecast failed: {error}") from error

    def _load(self, model: Chronos2Model) -> Callable[..., torch.Tensor]:
        """The forward pass, in the runtime and arithmetic wanted."""
        if self._runtime == "torch":
            return Forward(model, device=self._device, dtype=self._dtype)
        try:
            from models.runtime import OnnxForward  # noqa: PLC0415 - packages that few may lack
        except ImportError as error:
            raise without_packages(error) from error
        forward = Forward(model, device=self._device, dtype=torch.float32)
        return OnnxForward(forward, int8=self._dtype == torch.int8, threads=self._threads.count)

    def _quantiles(self, rows: Rows, patches: int) -> FloatArray:
        """(target rows, levels, patches * patch): monotone, wide enough, the season put back."""
        deviations = least_deviation(rows.past[rows.target])
        undone: list[SeasonalAdjustment | CovariateEffects] = []
        seasons = [s for s, wanted in zip(rows.seasons, rows.target, strict=True) if wanted]
        seasonal = np.zeros(len(seasons), dtype=np.bool_)
        shares: Shares = ()
        if self._adjusts:
            adjustment = adjust(rows.past[rows.target], seasons)
            seasonal, shares = adjustment.found, adjustment.shares
            undone.append(adjustment)
            rows.past[rows.target] = adjustment.adjusted
        if self._effects:
            expected = self._pooled.of(rows.names)
            parts = (rows.past, rows.future, rows.group, rows.target)
            undone.append(without_effects(*parts, shares, expected))
            rows.past[rows.target] = undone[-1].adjusted
        if undone:
            # a season that explains everything leaves a constant
            deviations = np.maximum(deviations, least_deviation(rows.past[rows.target]))
        raw = self._unroll(rows, patches)[rows.target]
        _verify_finite(raw)
        sane = distribution.monotone(_bounded(raw))
        history = rows.past[rows.target]
        cautious = self._caution.apply(sane, self._levels, seasons, history)
        recalled = self._recall.apply(cautious, self._levels, seasons, history)
        calibrated = self._calibration.apply(recalled, self._levels, seasons, seasonal)
        answer = distribution.widen(calibrated, self._levels, deviations)
        for part in reversed(undone):
            answer = part.restore(answer)
        return answer

    def _unroll(self, rows: Rows, patches: int) -> FloatArray:
        """Quantiles of all rows over any number of patches: (rows, levels, patches * patch).

        Beyond one horizon each of PATH_LEVELS is fed back as a history of its own, and the
        answers, weighted by the mass each level stands for, make the next quantiles, as in
        Chronos2Pipeline.
        """
        paths, past, group = len(self._paths), rows.past, rows.group
        step = min(patches, self._most_patches)
        ahead = Ahead(rows.future[:, : step * self._patch], rows.target)
        parts = [self._pass(past, ahead, group, step)]
        done, histories = step, np.repeat(past[:, None], paths, axis=1)
        groups = np.repeat(group * paths, paths) + np.tile(np.arange(paths), len(group))
        targets = np.repeat(rows.target, paths)
        while done < patches:
            known = rows.future[:, (done - step) * self._patch : done * self._patch]
            histories = self._continued(histories, parts[-1], known)
            step = min(patches - done, self._most_patches)
            future = rows.future[:, done * self._patch : (done + step) * self._patch]
            wide = Ahead(np.repeat(future, paths, axis=0), targets)
            flat = histories.reshape(-1, histories.shape[2])
            parts.append(self._merge(self._pass(flat, wide, groups, step), len(past)))
            done += step
        return np.concatenate(parts, axis=2)

    def _continued(
        self, histories: FloatArray, quantiles: FloatArray, known: FloatArray
    ) -> FloatArray:
        """Append to each path its level of the forecast, or what is known: (rows, paths, time)."""
        ahead = quantiles[:, self._paths]
        ahead = np.where(np.isnan(known)[:, None], ahead, known[:, None])
        return np.concatenate((histories, ahead), axis=2)[:, :, -self._context :]

    def _merge(self, quantiles: FloatArray, rows: int) -> FloatArray:
        """Quantiles of the mixture of all paths: (rows * paths, levels, steps) → (rows, …)."""
        mass = torch.outer(_mass([self._levels[i] for i in self._paths]), _mass(self._levels))
        samples = quantiles.reshape(rows, -1, quantiles.shape[2]).transpose(0, 2, 1)
        merged = weighted_quantile(
            query_quantile_levels=torch.tensor(self._levels, dtype=torch.float32),
            sample_weights=mass.flatten(),
            samples=torch.from_numpy(np.ascontiguousarray(samples)),
        )
        return np.asarray(merged.numpy().transpose(0, 2, 1), dtype=np.float64)

    def _pass(
        self, past: FloatArray, ahead: Ahead, group: NDArray[np.int64], patches: int
    ) -> FloatArray:
        """One pass through the network: values in, values out, (rows, levels, steps)."""
        scale = scale_of(past, arcsinh=self._arcsinh)
        n_rows, time = self._bucket(len(past), math.ceil(past.shape[1] / self._patch))
        context = np.full((n_rows, time * self._patch), np.nan, dtype=np.float32)
        future = np.full((n_rows, ahead.known.shape[1]), np.nan, dtype=np.float32)
        context[: len(past), context.shape[1] - past.shape[1] :] = scale.apply(past)
        future[: len(past)] = scale.apply(ahead.known)
        about = np.zeros((len(past), 1, future.shape[1]), dtype=np.float32)
        if self._guided:
            guides = scale.take(ahead.target).apply(guide(past[ahead.target], future.shape[1]))
            future[: len(past)][ahead.target] = guides
            about[ahead.target, 0] = np.clip(guides, -FARTHEST, FARTHEST)
        products = n_rows * (time + 1 + patches) * self._parameters
        self._threads.take(products)
        answer = self._forward(
            self._to_device(context),
            self._to_device(future),
            groups=_groups(group, n_rows, self._device),
            n_patches=patches,
        )
        return scale.undo(answer.cpu().numpy()[: len(past)] + about)

    def _bucket(self, rows: int, patches: int) -> tuple[int, int]:
        """The shape a batch is padded to: few distinct ones on a GPU, no padding on a CPU."""
        if self._device.type == "cpu":
            return rows, patches
        return 1 << (rows - 1).bit_length(), math.ceil(patches / 8) * 8

    def _to_device(self, array: NDArray[np.float32]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _chosen(wanted: bool | None, options: dict[str, Any], name: str) -> bool:
    return bool(options.get(name, False)) if wanted is None else wanted


def _results(
    tasks: Sequence[SeriesTask],
    quantiles: FloatArray,
    known: tuple[float, ...],
    *,
    floors: NDArray[np.bool_],
) -> list[SeriesResult]:
    """Cut the rows of a batch into the answers of its tasks. floors: True where cut at zero."""
    means = _bounded(distribution.mean(quantiles, known, floors=np.where(floors, 0.0, -np.inf)))
    by_levels = {}
    for levels in {task.quantile_levels for task in tasks}:
        answer = _bounded(distribution.at_levels(quantiles, known, levels))
        by_levels[levels] = np.where(floors[:, None, None], np.maximum(answer, 0.0), answer)
    results, first = [], 0
    for task in tasks:
        forecasts = []
        for one in task.series:
            rows, steps = slice(first, first + len(one.target)), slice(task.prediction_length)
            quantile = by_levels[task.quantile_levels][rows, :, steps]
            forecasts.append(SeriesForecast(quantile, means[rows, steps]))
            first = rows.stop
        results.append(tuple(forecasts))
    return results


def _verify_finite(values: FloatArray) -> None:
    if not np.isfinite(values).all():
        raise NotFiniteError("the network's answer is not a finite number")


def _bounded(values: FloatArray) -> FloatArray:
    """Within the range of float32, which histories are held to as well."""
    return np.clip(values, -LARGEST, LARGEST)


def _groups(group: NDArray[np.int64], n_rows: int, device: torch.device) -> Groups | None:
    """Rows that share a group; None if every row stands alone."""
    sizes = np.bincount(group)
    if sizes.max() == 1:
        return None
    several = np.flatnonzero(sizes > 1)
    slots = np.zeros((len(several), sizes.max()), dtype=np.int64)
    present = np.zeros_like(slots, dtype=np.bool_)
    for line, number in enumerate(several):
        members = np.flatnonzero(group == number)
        slots[line, : len(members)] = members
        present[line, : len(members)] = True
    single = np.setdiff1d(np.arange(n_rows), slots[present])
    tensors = (torch.from_numpy(array) for array in (slots, present, single))
    return Groups(*tensors).to(device)


def _paths(levels: tuple[float, ...]) -> list[int]:
    """Positions of PATH_LEVELS among the network's levels; all levels if some are absent."""
    if set(PATH_LEVELS) <= set(levels):
        return [levels.index(level) for level in PATH_LEVELS]
    return list(range(len(levels)))


def _mass(levels: Sequence[float]) -> torch.Tensor:
    """The probability each quantile stands for: half-way to its neighbours, summing to 1.

    In single precision as in Chronos2Pipeline: a tail sample weighs 1e-3, so that the rounding of
    the running sum is seen in the merged quantiles.
    """
    edges = torch.tensor([0.0, *levels, 1.0])
    mass = (edges[2:] - edges[:-2]) / 2
    return mass / mass.sum()
