"""The words of the sales road, as OpenAPI describes them.

Invariant: these accept what `app.api.inputs` reads and no other names; they describe, while
`app.api.inputs` reads, since for large bodies of numbers that is many times as fast (see
docs/decisions/0003-parsing-at-the-edge.md).
"""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

Number = Annotated[
    StrictInt | StrictFloat, Field(ge=-3.4028234663852886e38, le=3.4028234663852886e38)
]
Values = Annotated[list[Number | None], Field(min_length=1)]
Column = list[Number | None] | list[StrictStr | None] | list[StrictBool | None]
Level = Annotated[StrictFloat, Field(gt=0, lt=1)]

EXAMPLE: dict[str, JsonValue] = {
    "inputs": [
        {
            "item_id": "sku-1",
            "start": "2026-08-01",
            "target": [12, 9, None, 14, 11, 15, 21, 13, 8, 10, 14, 12, 17, 22],
            "past_covariates": {
                "price": [9.9, 9.9, 9.9, 7.9, 9.9, 9.9, 9.9, 9.9, 9.9, 9.9, 7.9, 9.9, 9.9, 9.9],
                "weather": [*["sun"] * 7, *["rain"] * 7],
            },
            "future_covariates": {"price": [7.9, 9.9]},
        }
    ],
    "parameters": {
        "prediction_length": 2,
        "freq": "D",
        "quantile_levels": [0.1, 0.5, 0.9],
        "model": "production",
    },
}
ANSWER: dict[str, JsonValue] = {
    "model": {"name": "sales", "version": 3},
    "predictions": [
        {
            "item_id": "sku-1",
            "start": "2026-08-15",
            "mean": [13.1, 10.2],
            "0.1": [8.0, 6.1],
            "0.5": [12.7, 9.9],
            "0.9": [19.0, 15.2],
        }
    ],
    "meta": {"cached": [False]},
    "warnings": [],
}


class SeriesRequest(BaseModel):
    """One item: its history, and what is known beside it."""

    model_config = ConfigDict(extra="forbid")

    item_id: Annotated[StrictStr, Field(max_length=256)] | StrictInt | None = Field(
        default=None, description="Comes back with the prediction; no two inputs share one."
    )
    start: StrictStr | None = Field(
        default=None,
        description="Time of target[0], a period of `freq`: a date, or date and time, with an "
        "offset from UTC or without a zone.",
        examples=["2026-08-01", "2026-08-01T06:00:00", "2026-08-01T06:00:00+02:00"],
    )
    target: Values | Annotated[list[Values], Field(min_length=1)] = Field(
        description="What was sold in each period, the oldest first; null where it is missing. "
        "Several lists of one length are several targets of one item. The latest 8,192 periods "
        "are used by default, ten times as many are read."
    )
    past_covariates: dict[str, Column] | None = Field(
        default=None,
        description="What is known of each period of the history: numbers, or categories as "
        "texts or booleans. As long as target; null where it is missing.",
    )
    future_covariates: dict[str, Column] | None = Field(
        default=None,
        description="The same of each period to be forecast, for some or all of "
        "past_covariates: prediction_length values; null where it is unknown.",
    )
    out_of_stock: list[StrictBool] | None = Field(
        default=None,
        description="True for periods whose sales are only a lower bound of demand, since there "
        "was nothing left to sell. They count as what was expected before, given that demand was "
        "at least that; as missing where too little is known before.",
    )


class SalesParameters(BaseModel):
    """What is asked of all inputs."""

    model_config = ConfigDict(extra="forbid")

    prediction_length: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=1, description="Periods to forecast; at most 1,024 by default."
    )
    quantile_levels: (
        Annotated[
            list[Level],
            Field(min_length=1, max_length=100, json_schema_extra={"uniqueItems": True}),
        ]
        | None
    ) = Field(
        default=[0.1, 0.5, 0.9],
        description="In any order, each once. Those between the network's own are interpolated.",
    )
    freq: StrictStr | None = Field(
        default=None,
        description="Length of a period as a pandas frequency alias; needed with start, and "
        "worth giving without: it says which seasons to look for.",
        examples=["D", "W-MON", "MS", "h", "15min"],
    )
    model: StrictStr | StrictInt | None = Field(
        default="production", description="An alias, or the number of a version."
    )
    non_negative: StrictBool | None = Field(
        default=None,
        description="Clip forecasts at zero; by default where the history has no negative value.",
    )
    cross_learning: StrictBool | None = Field(
        default=False,
        description="Let the inputs of this request inform one another; the answer to each then "
        "depends on all of them.",
    )
    timestamps: StrictBool | None = Field(
        default=False, description="Add the time of each period to predictions; needs start."
    )
    batch_size: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="Without effect; accepted for compatibility."
    )


class SalesRequest(BaseModel):
    """Histories, and what is asked of them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    inputs: Annotated[list[SeriesRequest], Field(min_length=1)] = Field(
        description="One entry an item; at most 1,024 by default."
    )
    parameters: SalesParameters | None = None


class ModelUsedResponse(BaseModel):
    """The version that made all predictions of an answer."""

    name: str
    version: int


class PredictionResponse(BaseModel):
    """One item's future. There is one more key for each quantile level, shaped like mean."""

    model_config = ConfigDict(
        json_schema_extra={
            "additionalProperties": {
                "description": "A quantile, under its level as a text such as 0.9.",
                "anyOf": [
                    {"type": "array", "items": {"type": "number"}},
                    {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                ],
            }
        }
    )

    item_id: str | int | None = Field(default=None, description="As it was sent; absent without.")
    start: str | None = Field(
        default=None, description="Time of the first forecast period, written like the start sent."
    )
    timestamps: list[str] | list[list[str]] | None = Field(
        default=None, description="Time of each forecast period, if asked for."
    )
    mean: list[float] | list[list[float]] = Field(
        description="Mean of the distribution (not its median) in each period; a list for each "
        "target if target had two dimensions."
    )


class MetaResponse(BaseModel):
    """Side facts of an answer."""

    cached: list[bool] = Field(description="Of each input: whether its forecast was known.")


class IssueResponse(BaseModel):
    """One thing to know, and where."""

    loc: list[str | int] = Field(examples=[["inputs", 3, "target", 7]])
    msg: str = Field(examples=["inputs[3] (item_id 'sku-1').target[7]: 'x' is not a number"])
    type: str = Field(examples=["number_type"])


class SalesResponse(BaseModel):
    """Predictions in the order of the inputs."""

    model_config = ConfigDict(json_schema_extra={"examples": [ANSWER]})

    model: ModelUsedResponse
    predictions: list[PredictionResponse]
    meta: MetaResponse
    warnings: list[IssueResponse]


class ProblemResponse(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["urn:shopcast:problem:invalid-input"])
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[IssueResponse] | None = Field(default=None, description="Of an input: each place.")


# --- POST /predict/inventory

NotNegative = Annotated[StrictInt | StrictFloat, Field(ge=0, le=3.4028234663852886e38)]
Positive = Annotated[StrictInt | StrictFloat, Field(gt=0, le=3.4028234663852886e38)]

STOCK_EXAMPLE: dict[str, JsonValue] = {
    "inputs": [
        {
            "item_id": "sku-1",
            "start": "2026-08-01",
            "target": [8, 7, 5, 9, 6, 12, 11, 7, 8, 4, 9, 7, 13, 10, 6, 8, 7, 8, 5, 11, 12],
            "on_hand": 31,
            "on_order": [{"quantity": 20, "arrives_on": "2026-08-24"}],
            "lead_time": {"periods": 5},
            "holding_cost": 0.02,
            "stockout_cost": 4.5,
        }
    ],
    "parameters": {"prediction_length": 3, "freq": "D", "service_level": 0.95},
}
STOCK_ANSWER: dict[str, JsonValue] = {
    "model": {"name": "sales", "version": 3},
    "predictions": [
        {
            "item_id": "sku-1",
            "start": "2026-08-22",
            "reorder_point": 71,
            "order_up_to": 71,
            "safety_stock": 19.4,
            "order_quantity": 14,
            "expected_service": 0.952,
            "expected_cost": 0.61,
            "newsvendor": {"order_quantity": 21, "expected_cost": 0.55, "service_level": 0.987},
            "cost_curve": {
                "order_quantity": [0, 7, 14, 21],
                "expected_cost": [6.1, 2.2, 0.61, 0.55],
            },
            "protection_interval": 6,
            "demand": {"mean": 51.6, "std": 11.2, "0.5": 51, "0.9": 66, "0.95": 71},
            "days_of_cover": 3.6,
            "stockout_probability": [0.0, 0.01, 0.02],
            "first_likely_stockout": None,
            "on_hand": {
                "mean": [22.4, 14.1, 26.0],
                "0.1": [18, 8, 18],
                "0.5": [22, 14, 26],
                "0.9": [27, 20, 34],
            },
            "cold_start": False,
        }
    ],
    "meta": {"cached": [False]},
    "warnings": [],
}


class LotRequest(BaseModel):
    """Units on hand that expire together."""

    model_config = ConfigDict(extra="forbid")

    quantity: NotNegative
    expires_in: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="Periods in which they can still be sold; by default shelf_life."
    )


class OrderRequest(BaseModel):
    """Units on order. in_periods or arrives_on, one of them."""

    model_config = ConfigDict(extra="forbid")

    quantity: NotNegative
    in_periods: Annotated[StrictInt, Field(ge=0)] | None = Field(
        default=None,
        description="Periods until it is received, counted like a lead time: 0 serves demand of "
        "the first forecast period, 1 of the second.",
    )
    arrives_on: StrictStr | None = Field(
        default=None,
        description="The same as a time: it is received before the demand of the period that the "
        "time lies in. Needs start and freq.",
    )


class LeadTimeRequest(BaseModel):
    """Periods from an order to its receipt: fixed, or gamma by mean and std, or as sampled.

    Times between two periods are rounded to the nearer; orders do not overtake one another.
    """

    model_config = ConfigDict(extra="forbid")

    periods: Annotated[StrictInt, Field(ge=0)] | None = None
    mean: NotNegative | None = None
    std: NotNegative | None = None
    samples: Annotated[list[NotNegative], Field(min_length=1, max_length=10_000)] | None = None


class StockRequest(SeriesRequest):
    """One item: its history as for sales, and its stock."""

    target: list[Number | None] | None = Field(  # type: ignore[assignment]
        default=None,
        description="What was sold in each period, the oldest first. May be left out for an item "
        "without a history if there is a population.",
    )
    on_hand: Number | Annotated[list[LotRequest], Field(max_length=256)] = Field(
        description="Units in stock, or lots. A number counts as fresh where there is a "
        "shelf_life. Below zero it is what customers are owed, with unmet_demand backorder."
    )
    on_order: Annotated[list[OrderRequest], Field(max_length=256)] | None = None
    lead_time: LeadTimeRequest = Field(
        description="An order placed now with lead time L serves demand from period L + 1 on."
    )
    review_period: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=1, description="Periods between two occasions to order (R)."
    )
    unmet_demand: Literal["lost", "backorder"] | None = Field(
        default="lost", description="What becomes of demand that finds no stock."
    )
    unit_cost: NotNegative | None = Field(default=None, description="Of a unit that expires.")
    holding_cost: Positive | None = Field(default=None, description="A unit and period.")
    stockout_cost: Positive | None = Field(default=None, description="A unit short.")
    order_cost: NotNegative | None = Field(
        default=None, description="An order; with holding_cost it makes orders larger and rarer."
    )
    min_order_quantity: NotNegative | None = None
    order_multiple: Positive | None = None
    shelf_life: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="Periods in which a unit can be sold once it is received."
    )


class InventoryParameters(BaseModel):
    """What is asked of all inputs."""

    model_config = ConfigDict(extra="forbid")

    service_level: Level | None = 0.95
    service_type: Literal["cycle", "fill_rate"] | None = Field(
        default="cycle",
        description="cycle: the probability of no stock-out in a replenishment cycle. "
        "fill_rate: the share of demand that is served from the shelf.",
    )
    prediction_length: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=1, description="Periods in which the stock is projected; at most 1,024 by default."
    )
    freq: StrictStr | None = Field(
        default=None, description="Length of a period as a pandas frequency alias."
    )
    seed: Annotated[StrictInt, Field(ge=0, le=2**63 - 1)] | None = Field(
        default=None,
        description="Of the sample paths; by default derived from each item's own series, so that "
        "an answer is the same again.",
    )
    population: Annotated[list[SeriesRequest], Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="Series of like items. An input without a history is planned as if it were "
        "one of them, nobody knows which.",
    )
    model: StrictStr | StrictInt | None = Field(
        default="production", description="An alias, or the number of a version."
    )


class InventoryRequest(BaseModel):
    """Histories with stock, and what is asked of them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [STOCK_EXAMPLE]})

    inputs: Annotated[list[StockRequest], Field(min_length=1)]
    parameters: InventoryParameters | None = None


class NewsvendorResponse(BaseModel):
    """The order of least expected cost over its cycle."""

    order_quantity: float
    expected_cost: float
    service_level: float = Field(description="Probability of no stock-out in the cycle with it.")


class CostCurveResponse(BaseModel):
    """Expected cost over the cycle, by order quantity."""

    order_quantity: list[float]
    expected_cost: list[float]


class StockPredictionResponse(BaseModel):
    """When the shelf is empty, and what to order. Quantities are whole where the history is."""

    item_id: str | int | None = Field(default=None, description="As it was sent; absent without.")
    start: str | None = Field(default=None, description="Time of the first forecast period.")
    reorder_point: float = Field(
        description="Order when the inventory position (on hand, plus on order, less owed) is "
        "below this: the smallest that reaches the service over the protection interval."
    )
    order_up_to: float = Field(
        description="The position to order up to: the reorder point, or more where an order cost "
        "makes larger orders worth while."
    )
    safety_stock: float = Field(
        description="reorder_point less the mean demand of the protection interval."
    )
    order_quantity: float = Field(
        description="What to order now: the smallest that reaches the service in the cycle that "
        "it covers, from the stock as it is. As a rule order_up_to less the position; less where "
        "sales will be lost before an order can come, more where stock expires or arrives later; "
        "then at least min_order_quantity, in multiples of order_multiple."
    )
    expected_service: float = Field(description="The service that this order should reach.")
    expected_cost: float | None = Field(
        description="Of this order over its cycle; null without holding_cost and stockout_cost."
    )
    newsvendor: NewsvendorResponse | None
    cost_curve: CostCurveResponse | None
    protection_interval: float = Field(description="Lead time (its mean) and review period.")
    demand: dict[str, float] = Field(
        description="Of the protection interval: mean, std and quantiles of the sum, at 0.5, 0.9, "
        "0.95 and service_level."
    )
    days_of_cover: float | None = Field(
        description="Days that the stock on hand lasts at the expected demand; without freq a "
        "period counts as a day; null if nothing is expected to be sold."
    )
    stockout_probability: list[float] = Field(
        description="Of each period: that its demand is not served in full if nothing more is "
        "ordered."
    )
    first_likely_stockout: str | int | None = Field(
        description="The first period by whose end a stock-out is more likely than not: its time, "
        "or without start its number from 1; null if there is none."
    )
    on_hand: dict[str, list[float]] = Field(
        description="Stock at the end of each period if nothing more is ordered: mean and "
        "quantiles 0.1, 0.5, 0.9."
    )
    cold_start: bool = Field(description="Whether the population stood in for a history.")


class InventoryResponse(BaseModel):
    """Predictions in the order of the inputs."""

    model_config = ConfigDict(json_schema_extra={"examples": [STOCK_ANSWER]})

    model: ModelUsedResponse
    predictions: list[StockPredictionResponse]
    meta: MetaResponse
    warnings: list[IssueResponse]
