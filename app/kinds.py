"""What the road of a prediction has to know of a kind of task: its size, its key, its bytes.

Invariant: keys are equal only if versions and tasks are, and what is decoded is what was encoded,
bit for bit.
"""

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import orjson

from models.base import (
    CategoryArray,
    Customer,
    Explanation,
    FloatArray,
    PurchaseForecast,
    PurchaseTask,
    Series,
    SeriesForecast,
    SeriesResult,
    SeriesTask,
)

KEY_BYTES = 24
SERIES_FORMAT = 2
PURCHASE_FORMAT = 1
_HEAD = struct.Struct("<IIII")  # lengths of fingerprint, horizon, levels, series
_SERIES = struct.Struct("<q??I")  # seasons (-1: unknown), non-negative, censored, covariates
_COUNT = struct.Struct("<BI")  # format, number of forecasts
_SHAPE = struct.Struct("<III")  # targets, levels, steps
_ASKED = struct.Struct("<8sIIIqqddd")  # lengths of fingerprint, events, horizons, context; …
_KNOWN = struct.Struct("<ddqdqd?")  # what a customer is known by beside the events
_PURCHASE = struct.Struct("<BI?d")  # format, horizons, whether it is explained, churn
_EXPLAINED = struct.Struct("<ddII")  # days, base, events, bytes of the traits

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Kind(Generic[TaskT, ResultT]):
    """A kind of task.

    size: about how many numbers a task and its answer have. key: a name for the answer of a
    version, by its fingerprint, to a task. encode, decode: a result as the cache keeps it; decode
    raises ValueError if it is damaged.
    """

    size: Callable[[TaskT], int]
    key: Callable[[str, TaskT], bytes]
    encode: Callable[[ResultT], bytes]
    decode: Callable[[bytes], ResultT]


def _digest(frames: Iterator[bytes]) -> bytes:
    """A short name for frames: everything of variable length is preceded by its length, so that
    no two tasks read alike.
    """
    return hashlib.blake2b(b"".join(frames), digest_size=KEY_BYTES).digest()


# --- series


def _size_of_series(task: SeriesTask) -> int:
    answer = task.prediction_length * (len(task.quantile_levels) + 1) * len(task.series)
    history: int = max(one.target.shape[1] for one in task.series)
    return answer + history * sum(len(one.target) + len(one.covariates) for one in task.series)


def _key_of_series(fingerprint: str, task: SeriesTask) -> bytes:
    return _digest(_frame_task(fingerprint, task))


def _frame_task(fingerprint: str, task: SeriesTask) -> Iterator[bytes]:
    levels = task.quantile_levels
    yield _HEAD.pack(len(fingerprint), task.prediction_length, len(levels), len(task.series))
    yield fingerprint.encode("ascii")
    yield array("d", levels).tobytes()
    for one in task.series:
        yield from _frame_series(one)


def _frame_series(series: Series) -> Iterator[bytes]:
    seasons = series.season_lengths
    count = -1 if seasons is None else len(seasons)
    censored = series.censored is not None
    yield _SERIES.pack(count, series.non_negative, censored, len(series.covariates))
    yield array("q", seasons or ()).tobytes()
    yield from _frame_array(series.target)
    if series.censored is not None:  # as long as the target
        yield series.censored.tobytes()
    for covariate in series.covariates:  # their names move no answer, their order may
        yield from _frame_array(covariate.past)
        yield b"-" if covariate.future is None else b"+"
        if covariate.future is not None:
            yield from _frame_array(covariate.future)


def _frame_array(values: FloatArray | CategoryArray) -> Iterator[bytes]:
    yield values.dtype.str.encode("ascii").ljust(8)
    yield array("q", (values.ndim, *values.shape)).tobytes()
    if values.dtype != np.object_:
        yield values.tobytes()
        return
    words = [_word(value) for value in values.ravel().tolist()]
    yield array("q", map(len, words)).tobytes()
    yield from words


def _word(category: object) -> bytes:
    """A category as bytes; a quote, which begins no type's name, tells strings apart."""
    if isinstance(category, str):
        return b"'" + category.encode("utf-8", "surrogatepass")
    return f"{type(category).__qualname__}:{category!r}".encode("utf-8", "surrogatepass")


def _encode_series(result: SeriesResult) -> bytes:
    """A result as bytes: little-endian float64 behind a header of shapes."""
    parts = [_COUNT.pack(SERIES_FORMAT, len(result))]
    for forecast in result:
        parts.append(_SHAPE.pack(*forecast.quantiles.shape))
        parts.append(forecast.quantiles.astype("<f8").tobytes())
        parts.append(forecast.mean.astype("<f8").tobytes())
    return b"".join(parts)


def _decode_series(value: bytes) -> SeriesResult:
    """The result that was encoded. Raises ValueError if it is damaged."""
    try:
        version, count = _COUNT.unpack_from(value)
        if version != SERIES_FORMAT:
            raise ValueError(f"format {version} of a cached forecast is unknown")
        forecasts, start = [], _COUNT.size
        for _ in range(count):
            forecast, start = _decode_forecast(value, start)
            forecasts.append(forecast)
    except struct.error as error:
        raise ValueError("a cached forecast is cut off") from error
    if start != len(value):
        raise ValueError("a cached forecast has the wrong length")
    return tuple(forecasts)


def _decode_forecast(value: bytes, start: int) -> tuple[SeriesForecast, int]:
    """The forecast that begins at `start`, and where it ends."""
    targets, levels, steps = _SHAPE.unpack_from(value, start)
    numbers = targets * (levels + 1) * steps
    start += _SHAPE.size
    # one copy for both arrays; the quantiles come first
    flat: FloatArray = np.frombuffer(value, "<f8", numbers, start).copy()
    middle = targets * levels * steps
    forecast = SeriesForecast(
        quantiles=flat[:middle].reshape(targets, levels, steps),
        mean=flat[middle:].reshape(targets, steps),
    )
    return forecast, start + 8 * numbers


SERIES: Kind[SeriesTask, SeriesResult] = Kind(
    _size_of_series, _key_of_series, _encode_series, _decode_series
)


# --- purchases


def _size_of_purchase(task: PurchaseTask) -> int:
    events = len(task.customer.days_ago)
    context = 0 if task.context is None else len(task.context)
    return 6 * events + context + 3 * len(task.horizons_days)


def _key_of_purchase(fingerprint: str, task: PurchaseTask) -> bytes:
    return _digest(_frame_purchase(fingerprint, task))


def _frame_purchase(fingerprint: str, task: PurchaseTask) -> Iterator[bytes]:
    explained, context = task.explain_days, task.context
    yield _ASKED.pack(
        b"purchase",
        len(fingerprint),
        len(task.customer.days_ago),
        len(task.horizons_days),
        -1 if context is None else len(context),
        task.weekday,
        task.year_phase,
        task.churn_window_days,
        -1.0 if explained is None else explained,
    )
    yield fingerprint.encode("ascii")
    yield array("d", task.horizons_days).tobytes()
    if context is not None:
        yield _packed(context)
    yield from _frame_customer(task.customer)


def _frame_customer(customer: Customer) -> Iterator[bytes]:
    yield _KNOWN.pack(
        customer.first_days_ago,
        customer.first_purchase_days_ago,
        customer.purchase_days,
        customer.spend,
        customer.spend_days,
        customer.observed_days,
        customer.truncated,
    )
    yield customer.types.astype(np.int8).tobytes()
    for values in (customer.days_ago, customer.amounts, customer.quantities):
        yield _packed(values)
    for names in (customer.items, customer.categories):
        yield names.astype("<i8").tobytes()


def _packed(values: FloatArray) -> bytes:
    return values.astype("<f8").tobytes()


def _encode_purchase(result: PurchaseForecast) -> bytes:
    """A forecast as bytes: little-endian float64 behind its header, the explanation at the end."""
    explanation = result.explanation
    parts = [
        _PURCHASE.pack(
            PURCHASE_FORMAT, len(result.probability), explanation is not None, result.churn
        ),
        *map(_packed, (result.probability, result.purchases, result.spend)),
    ]
    if explanation is not None:
        parts.extend(_encode_explanation(explanation))
    return b"".join(parts)


def _encode_explanation(explanation: Explanation) -> Iterator[bytes]:
    # the digits of a float64 are enough to read the same one
    traits = orjson.dumps(explanation.traits, option=orjson.OPT_SERIALIZE_NUMPY)
    events = explanation.events
    yield _EXPLAINED.pack(explanation.days, explanation.base, len(events), len(traits))
    yield _packed(events)
    yield traits


def _decode_purchase(value: bytes) -> PurchaseForecast:
    """The forecast that was encoded. Raises ValueError if it is damaged."""
    try:
        version, horizons, explained, churn = _PURCHASE.unpack_from(value)
        if version != PURCHASE_FORMAT:
            raise ValueError(f"format {version} of a cached forecast is unknown")
        start = _PURCHASE.size + 24 * horizons
        flat: FloatArray = np.frombuffer(value, "<f8", 3 * horizons, _PURCHASE.size).copy()
        explanation, end = _decode_explanation(value, start) if explained else (None, start)
    except struct.error as error:
        raise ValueError("a cached forecast is cut off") from error
    if end != len(value):
        raise ValueError("a cached forecast has the wrong length")
    probability, purchases, spend = flat.reshape(3, horizons)
    return PurchaseForecast(probability, churn, purchases, spend, explanation)


def _decode_explanation(value: bytes, start: int) -> tuple[Explanation, int]:
    """The explanation that begins at `start`, and where it ends."""
    days, base, events, size = _EXPLAINED.unpack_from(value, start)
    start += _EXPLAINED.size
    moved: FloatArray = np.frombuffer(value, "<f8", events, start).copy()
    end = start + 8 * events + size
    traits = orjson.loads(value[start + 8 * events : end])
    return Explanation(days, base, moved, traits), end


PURCHASE: Kind[PurchaseTask, PurchaseForecast] = Kind(
    _size_of_purchase, _key_of_purchase, _encode_purchase, _decode_purchase
)
