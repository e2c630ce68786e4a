"""The words of the sales road, as OpenAPI describes them.

Invariant: these accept what `app.api.inputs` reads and no other names; they describe, while
`app.api.inputs` reads, since for large bodies of numbers that is many times as fast (see
docs/decisions/0003-parsing-at-the-edge.md).
"""

from typing import Annotated

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
        "was nothing left to sell; they count as missing.",
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
