"""What shops forecast with today, to be compared with: AutoETS, AutoTheta, LightGBM.

Invariant: a baseline is handed what the network is handed and gets the settings that its authors
recommend; what it cannot take (gaps, many seasons) is mended in the way a careful user would, and
said here. The libraries are imported when a baseline is made, not before.
"""

import importlib
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from models.backtest import NAIVE, Batch, Forecaster, Method, Window, filled, seasonal_naive
from models.base import Covariate, FloatArray, ModelError
from models.metrics import naive_error
from models.seasonal import season_lengths

#: AutoETS tries no season longer than this, as R's ets.
LONGEST_ETS_SEASON = 24
#: Windows of one horizon before the origin from which LightGBM's intervals are taken.
CALIBRATION = 2
SEED = 20261125
TREES: dict[str, Any] = {
    "n_estimators": 300,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_child_samples": 20,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.8,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


class MissingLibraryError(ModelError):
    """A baseline needs a library that is not installed; the message says which extra has it."""


#: Date parts that LightGBM looks at, by the unit of the frequency; other units have the month.
PARTS = {
    **dict.fromkeys(("h", "min", "s"), ("hour", "dayofweek", "month")),
    **dict.fromkeys(("D", "B", "C"), ("dayofweek", "day", "month")),
    "W": ("week", "month"),
}


def methods() -> dict[str, Callable[[], Method]]:
    """What makes each baseline, by its name on a command line."""
    return {
        "naive": lambda: Method(NAIVE, seasonal_naive),
        "autoets": lambda: Method("AutoETS", statistical("AutoETS")),
        "autotheta": lambda: Method("AutoTheta", statistical("AutoTheta")),
        "lightgbm": lambda: Method("LightGBM", lightgbm(), pooled=True),
    }


def statistical(name: str) -> Forecaster:
    """AutoETS or AutoTheta of statsforecast, series by series. Raises MissingLibraryError."""
    quantiles = local(name)

    def forecast(batch: Batch) -> list[FloatArray]:
        plan = batch.plan
        return [
            quantiles(filled(window.history), plan.horizon, plan.season, plan.levels)
            for window in batch.windows
        ]

    return forecast


#: From history, horizon, season and levels to (levels, horizon).
Local = Callable[[FloatArray, int, int, Sequence[float]], FloatArray]


def local(name: str) -> Local:
    """AutoETS or AutoTheta of statsforecast on one history without gaps."""
    automatic = getattr(_library("statsforecast.models"), name)

    def quantiles(
        history: FloatArray, horizon: int, season: int, levels: Sequence[float]
    ) -> FloatArray:
        too_long = name == "AutoETS" and season > LONGEST_ETS_SEASON
        model = automatic(season_length=1 if too_long else season)
        widths = sorted({_width(level) for level in levels if level != 0.5})
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            made = model.forecast(history, horizon, level=widths)
        rows = np.stack([_at(made, level) for level in levels])
        # a fit that failed says nothing: the last value, as a careful user would fall back to
        return np.where(np.isfinite(rows), rows, history[-1])

    return quantiles


def _width(level: float) -> float:
    """The central interval, in percent, that a level bounds."""
    return round(abs(1 - 2 * level) * 100, 6)


def _at(made: dict[str, FloatArray], level: float) -> FloatArray:
    if level == 0.5:
        return made["mean"]
    width = _width(level)
    text = next(key for key in made if key.startswith("lo-") and float(key[3:]) == width)
    return made[text if level < 0.5 else text.replace("lo-", "hi-")]


# --- LightGBM


def lightgbm(*, covariates: bool = True, threads: int = 1) -> Forecaster:
    """One LightGBM for all series, trained on what lies before the origin. Pooled.

    Recursive, on lags, rolling means, date parts and covariates, over targets divided by each
    series' mean size; past covariates enter as they were one horizon before. Its intervals are
    split conformal: the errors of the last CALIBRATION windows before the origin, made by a model
    trained before each, in units of each series' naive error and pooled over series, their
    quantiles by thirds of the horizon (Stankeviciute, Alaa and van der Schaar, 2021, NeurIPS,
    pooled as in the M5 uncertainty competition). The median of those errors moves the point.
    """
    forest = _Forest(
        _library("mlforecast"),
        _library("mlforecast.lag_transforms"),
        _library("lightgbm"),
        covariates=covariates,
        threads=threads,
    )

    def forecast(batch: Batch) -> list[FloatArray]:
        points = forest.points(batch)
        residuals = _residuals(batch, forest)
        scales = [naive_error(window.history, batch.plan.season) for window in batch.windows]
        offsets = _offsets(residuals, batch)  # (levels, horizon)
        pairs = zip(points, scales, strict=True)
        return [point + scale * offsets for point, scale in pairs]

    return forecast


def _residuals(batch: Batch, forest: "_Forest") -> FloatArray:
    """(windows, horizon) errors before the origin, in naive errors, NaN where nothing is known."""
    found = [np.full((0, batch.plan.horizon), np.nan)]
    for back in range(1, CALIBRATION + 1):
        earlier = _earlier(batch, back)
        if not earlier.windows:
            continue
        points = forest.points(earlier)
        pasts = {window.item: window for window in batch.windows}
        for window, point in zip(earlier.windows, points, strict=True):
            start = len(window.history)
            truth = pasts[window.item].history[start : start + batch.plan.horizon]
            scale = naive_error(window.history, batch.plan.season)
            found.append(((truth - point) / scale)[None])
    return np.concatenate(found)


def _earlier(batch: Batch, back: int) -> Batch:
    """The batch as it stood some horizons before, of the windows that are long enough."""
    horizon = batch.plan.horizon
    windows = []
    for window in batch.windows:
        cut = len(window.history) - back * horizon
        if cut < max(horizon, batch.plan.season + 2):
            continue
        history = window.history[:cut]
        if not naive_error(history, batch.plan.season) > 0:
            continue
        ahead = slice(cut, cut + horizon)
        covariates = tuple(_as_of(each, cut, ahead) for each in window.covariates)
        windows.append(
            Window(window.item, window.times[:cut], history, window.times[ahead], covariates)
        )
    return Batch(batch.plan, tuple(windows))


def _as_of(covariate: Covariate, cut: int, ahead: slice) -> Covariate:
    future = None if covariate.future is None else covariate.past[ahead]
    return Covariate(covariate.name, covariate.past[:cut], future)


def _offsets(residuals: FloatArray, batch: Batch) -> FloatArray:
    """(levels, horizon) quantiles of the residuals by thirds of the horizon; zero without any."""
    horizon, levels = batch.plan.horizon, batch.plan.levels
    answer = np.zeros((len(levels), horizon))
    for steps in np.array_split(np.arange(horizon), min(3, horizon)):
        part = residuals[:, steps]
        part = part[~np.isnan(part)]
        if len(part):
            answer[:, steps] = np.quantile(part, levels)[:, None]
    return answer


class _Forest:
    """Trains on a batch and forecasts it."""

    def __init__(
        self,
        mlforecast: ModuleType,
        transforms: ModuleType,
        lightgbm: ModuleType,
        *,
        covariates: bool,
        threads: int,
    ) -> None:
        self._mlforecast, self._transforms, self._lightgbm = mlforecast, transforms, lightgbm
        self._covariates, self._threads = covariates, threads

    def points(self, batch: Batch) -> list[FloatArray]:
        """(horizon,) for each window."""
        frames = [
            self._frames(number, window, batch) for number, window in enumerate(batch.windows)
        ]
        past = _coded(pd.concat([before for before, _ in frames], ignore_index=True))
        ahead = _coded(pd.concat([after for _, after in frames], ignore_index=True), like=past)
        sizes = [_size(window.history) for window in batch.windows]
        forecaster = self._forecaster(batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forecaster.fit(past, static_features=[], dropna=False, validate_data=False)
            made = forecaster.predict(batch.plan.horizon, X_df=ahead)
        values = made.sort_values(["unique_id", "ds"])["point"].to_numpy(dtype=np.float64)
        rows = values.reshape(len(sizes), batch.plan.horizon)
        return [row * size for row, size in zip(rows, sizes, strict=True)]

    def _forecaster(self, batch: Batch) -> Any:  # noqa: ANN401 - a library without types
        lags, means = _lags(batch.plan.freq)
        longest = max(len(window.history) for window in batch.windows)
        rolling = [
            self._transforms.RollingMean(window_size=size, min_samples=1) for size in sorted(means)
        ]
        model = self._lightgbm.LGBMRegressor(
            objective="l1", random_state=SEED, n_jobs=self._threads, **TREES
        )
        return self._mlforecast.MLForecast(
            models={"point": model},
            freq=1,
            lags=sorted(lag for lag in lags if lag < longest),
            lag_transforms={1: rolling},
        )

    def _frames(
        self, number: int, window: Window, batch: Batch
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """What is known of a window's past and of its future; periods are counted."""
        count, horizon = len(window.history), batch.plan.horizon
        times = pd.DatetimeIndex(window.times.append(window.ahead))
        columns: dict[str, Any] = {"unique_id": number, "ds": np.arange(count + horizon)}
        columns |= {part: _part(times, part) for part in _parts(batch.plan.freq)}
        if self._covariates:
            columns |= {f"x_{one.name}": _along(one, horizon) for one in window.covariates}
        frame = pd.DataFrame(columns)
        target = filled(window.history) / _size(window.history)
        return frame[:count].assign(y=target), frame[count:]


def _lags(freq: str) -> tuple[set[int], set[int]]:
    """Lags, and lengths of rolling means, from the seasons of the frequency."""
    seasons = season_lengths(freq) or ()
    short = [length for length in seasons if length <= LONGEST_ETS_SEASON]
    cycles = {count * length for length in short[:1] for count in range(1, 5)}
    means = {4, 4 * short[0], short[0]} if short else {4, 13}
    return {*range(1, 8), *cycles, *seasons}, means


def _parts(freq: str) -> tuple[str, ...]:
    unit = freq.lstrip("0123456789").partition("-")[0]
    return PARTS.get(unit, ("month",))


def _part(times: pd.DatetimeIndex, part: str) -> Any:  # noqa: ANN401 - an index or an array
    return times.isocalendar().week.to_numpy() if part == "week" else getattr(times, part)


def _along(covariate: Covariate, horizon: int) -> Any:  # noqa: ANN401 - numbers or categories
    """The covariate over past and future; a past one as it was a horizon ago."""
    if covariate.future is not None:
        return np.concatenate([covariate.past, covariate.future])
    missing = None if covariate.past.dtype == object else np.nan
    return np.concatenate([np.full(horizon, missing), covariate.past])


def _coded(frame: pd.DataFrame, like: pd.DataFrame | None = None) -> pd.DataFrame:
    """Categories as pandas has them, those of another frame if one is given."""
    coded = {}
    for name in frame.columns[[frame[name].dtype.kind == "O" for name in frame]]:
        values = frame[name] if like is None else like[name].cat.categories
        coded[str(name)] = pd.Categorical(frame[name], sorted(values.dropna().unique()))
    return frame.assign(**coded)


def _size(history: FloatArray) -> float:
    """What a target is divided by: its mean absolute value, 1 where that is 0."""
    return float(np.nanmean(np.abs(history))) or 1.0


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        raise MissingLibraryError(
            f"this baseline needs {root}: pip install 'shopcast[backtest]'"
        ) from error
