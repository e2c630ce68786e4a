"""The contract between the service and a network.

Invariant: what crosses this line is plain, frozen and free of torch, and the result of a task
depends on that task alone.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
CategoryArray = NDArray[np.object_]


class ModelError(Exception):
    """Anything a network, a checkpoint or the learning code refuses."""


class CheckpointError(ModelError):
    """A checkpoint that cannot be served; the message says which file or tensor, and why."""


class SetupError(ModelError):
    """What this installation or machine cannot do; the message says what would help."""


class OutOfMemoryError(ModelError):
    """The batch did not fit the device; a smaller one may."""


class NotFiniteError(ModelError):
    """The network answered with NaN or infinity for a task."""


@dataclass(frozen=True, slots=True, eq=False)
class Covariate:
    """What is known beside the target.

    past: shape (history,), numbers (NaN is missing) or, as objects, categories (None is missing).
    future: shape (prediction_length,), of the same kind, or None where only the past is known.
    """

    name: str
    past: FloatArray | CategoryArray
    future: FloatArray | CategoryArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One item's history.

    target: shape (targets, history), float64, NaN is missing; the last column is the period
    before the first forecast one. season_lengths: in periods, from the frequency; () if the
    frequency has no season, None if the frequency is unknown. censored: shape (history,), True
    where the target is only a lower bound of what is to be forecast; None if it nowhere is.
    """

    target: FloatArray
    covariates: tuple[Covariate, ...] = ()
    season_lengths: tuple[int, ...] | None = None
    non_negative: bool = False
    censored: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SeriesTask:
    """What is forecast as a whole: one series, or several that may inform one another.

    quantile_levels lie in (0, 1), in any order, without repeats.
    """

    series: tuple[Series, ...]
    prediction_length: int
    quantile_levels: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SeriesForecast:
    """The distribution of one series' future.

    quantiles: shape (targets, levels, prediction_length), levels in the order asked for.
    mean: shape (targets, prediction_length), the mean of the distribution.
    """

    quantiles: FloatArray
    mean: FloatArray


SeriesResult = tuple[SeriesForecast, ...]
"""One forecast for each series of a task, in order."""


EVENT_TYPES = ("view", "favorite", "add_to_cart", "remove_from_cart", "purchase", "refund", "other")
PURCHASE = EVENT_TYPES.index("purchase")


@dataclass(frozen=True, slots=True, eq=False)
class Customer:
    """What one customer did before a moment (`as_of`), oldest first.

    Purchases of one local day are one. days_ago: (events,) float64, above 0 and falling. types:
    (events,) int8, indices into EVENT_TYPES. amounts, quantities: (events,) float64, NaN where not
    known. items, categories: (events,) int64, stable hashes, -1 where there is none.
    The rest counts what was cut off as well: first_days_ago, first_purchase_days_ago (NaN: never),
    purchase_days, and spend, the sum of the amounts of spend_days of them. observed_days: since
    recording began, NaN where that is not known. truncated: earlier events were cut off.
    """

    days_ago: FloatArray
    types: NDArray[np.int8]
    amounts: FloatArray
    quantities: FloatArray
    items: NDArray[np.int64]
    categories: NDArray[np.int64]
    first_days_ago: float
    first_purchase_days_ago: float
    purchase_days: int
    spend: float
    spend_days: int
    observed_days: float
    truncated: bool


@dataclass(frozen=True, slots=True, eq=False)
class PurchaseTask:
    """What is asked of one customer.

    context: (statistics,) float64 of the customer's shop, None where nothing is known of it.
    year_phase: share of the year gone at as_of, in [0, 1). weekday: of as_of, Monday is 0.
    horizons_days, churn_window_days: above 0. explain_days: the horizon to explain, None for none.
    """

    customer: Customer
    context: FloatArray | None
    year_phase: float
    weekday: int
    horizons_days: tuple[float, ...]
    churn_window_days: float
    explain_days: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Signed contributions to the log-odds of a purchase within one horizon.

    base + events.sum() + the sum of traits is the log-odds answered. events: (events,). traits: of
    recency, frequency, tenure, season and the shop.
    """

    days: float
    base: float
    events: FloatArray
    traits: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class PurchaseForecast:
    """What a customer will do within each horizon; arrays are (horizons,).

    probability: of at least one purchase. churn: of none within the churn window. purchases:
    expected purchase days, never below the probability. spend: expected amount, NaN where no amount
    is known of customer and shop.
    """

    probability: FloatArray
    churn: float
    purchases: FloatArray
    spend: FloatArray
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """The cost of a task: `rows` of `length` periods each; a batch pads to its longest row."""

    rows: int
    length: int


TaskT_contra = TypeVar("TaskT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Network(Protocol, Generic[TaskT_contra, ResultT_co]):
    """What a live model version can do. All of it but `predict` is cheap and thread-safe."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of weights, config and engine settings: equal if answers are equal."""

    def lane(self, task: TaskT_contra) -> Hashable:
        """Tasks of one lane may share a batch."""

    def work(self, task: TaskT_contra) -> Work:
        """What the task costs."""

    def predict(self, tasks: Sequence[TaskT_contra]) -> Sequence[ResultT_co]:
        """Answer tasks of one lane as one batch; blocking, at times from several threads.

        Raises OutOfMemoryError if the batch does not fit, and ModelError for a task that cannot
        be answered.
        """
