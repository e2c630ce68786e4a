"""The words of customers and of shop profiles, as OpenAPI describes them.

Invariant: these accept what `app.api.events` and `app.api.purchase` read and no other names; they
describe, while those read (see docs/decisions/0003-parsing-at-the-edge.md).
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool, StrictInt, StrictStr

from app.api.words import IssueResponse, ModelUsedResponse, Number

Days = Annotated[StrictInt, Field(ge=1, le=365)]
Name = Annotated[StrictStr, Field(max_length=256)] | StrictInt
Time = Annotated[
    StrictStr,
    Field(
        min_length=8,
        examples=["2026-09-01", "2026-09-01T10:00:00", "2026-09-01T10:00:00+02:00"],
    ),
]
ByHorizon = dict[str, float]

EXAMPLE: dict[str, JsonValue] = {
    "inputs": [
        {
            "customer_id": "c-9",
            "observed_from": "2025-01-01",
            "events": [
                {"type": "purchase", "at": "2026-07-18T18:40:00", "amount": 45.5, "quantity": 1},
                {
                    "type": "view",
                    "at": "2026-09-01T10:00:00",
                    "item_id": "i7",
                    "category": "shoes",
                },
                {
                    "type": "purchase",
                    "at": "2026-09-03T09:12:00",
                    "item_id": "i7",
                    "amount": 79.0,
                    "quantity": 1,
                },
            ],
        }
    ],
    "parameters": {
        "as_of": "2026-10-01",
        "horizons_days": [7, 30, 90],
        "churn_window_days": 180,
        "timezone": "Europe/Berlin",
        "explain": False,
    },
}
ANSWER: dict[str, JsonValue] = {
    "model": {"name": "purchase", "version": 2},
    "predictions": [
        {
            "customer_id": "c-9",
            "purchase_probability": {"7": 0.08, "30": 0.27, "90": 0.52},
            "churn_probability": 0.31,
            "expected_purchases": {"7": 0.09, "30": 0.34, "90": 0.95},
            "expected_spend": {"7": 6.1, "30": 23.8, "90": 66.0},
            "cold_start": False,
        }
    ],
    "meta": {
        "context": "prior",
        "as_of": "2026-10-01T00:00:00",
        "cached": [False],
        "truncated": [False],
    },
    "warnings": [],
}


class EventRequest(BaseModel):
    """Something that a customer did."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[StrictStr, Field(max_length=64)] = Field(
        description="`view`, `favorite`, `add_to_cart`, `remove_from_cart`, `purchase`, `refund`; "
        "anything else counts as other. Purchases of one local day are one."
    )
    at: Time = Field(
        description="Before as_of; either all times of a request have an offset, or none has, "
        "unless timezone says how to read those without."
    )
    item_id: Name | None = None
    category: Name | None = None
    amount: Number | None = Field(
        default=None, description="What was paid; of a purchase not below zero."
    )
    quantity: Number | None = Field(default=None, description="Of a purchase not below zero.")


class CustomerRequest(BaseModel):
    """A customer, and what is known of them."""

    model_config = ConfigDict(extra="forbid")

    customer_id: Name | None = Field(
        default=None, description="Comes back with the prediction; no two inputs share one."
    )
    observed_from: Time | None = Field(
        default=None,
        description="When recording began. Without it nobody knows whether a customer was new "
        "when the first event was written down.",
    )
    events: list[EventRequest] | None = Field(
        default=None,
        description="In any order. The latest 4,096 are used by default, ten times as many are "
        "read and counted. A customer without any is answered as the shop's others are on average.",
    )


class PurchaseParameters(BaseModel):
    """What is asked of all customers."""

    model_config = ConfigDict(extra="forbid")

    as_of: Time | None = Field(
        default=None,
        description="The moment that is predicted from; by default now, rounded up to the hour, "
        "in timezone or else in UTC.",
    )
    horizons_days: (
        Annotated[
            list[Days], Field(min_length=1, max_length=100, json_schema_extra={"uniqueItems": True})
        ]
        | None
    ) = Field(default=[7, 30, 90], description="Days after as_of, in any order, each once.")
    churn_window_days: Days | None = Field(
        default=180,
        description="A customer who does not buy within so many days after as_of is gone.",
    )
    timezone: Annotated[StrictStr, Field(max_length=64)] | None = Field(
        default=None,
        description="Zone of times without an offset, and of the local days of all times. Without "
        "it a time counts for the day that it is written with.",
        examples=["Europe/Berlin"],
    )
    shop: Annotated[StrictStr, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = Field(
        default=None,
        description="A shop whose profile is stored. Without one, 200 customers and more (50 of "
        "them with events) make a context of their own, and fewer are answered without any.",
    )
    explain: StrictBool | None = Field(
        default=False,
        description="Say what moved the log-odds of a purchase; takes many times as long.",
    )
    explain_days: Days | None = Field(
        default=None,
        description="Which of horizons_days to explain; by default the longest.",
    )
    model: StrictStr | StrictInt | None = Field(
        default="production", description="An alias, or the number of a version."
    )


class PurchaseRequest(BaseModel):
    """Customers, and what is asked of them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    inputs: Annotated[list[CustomerRequest], Field(min_length=1)] = Field(
        description="One entry a customer; at most 1,024 by default."
    )
    parameters: PurchaseParameters | None = None


class EventExplanation(BaseModel):
    """How an event moved the log-odds."""

    type: str
    at: str
    contribution: float


class PurchaseExplanation(BaseModel):
    """What moved the log-odds: base, traits and events add up to log_odds."""

    horizon_days: int
    log_odds: float = Field(description="Of a purchase within horizon_days.")
    base: float
    traits: dict[str, float] = Field(description="Of recency, frequency, tenure, season, shop.")
    events: list[EventExplanation] = Field(
        description="Oldest first; purchases of one local day are one."
    )


class PurchasePrediction(BaseModel):
    """What a customer will do within each horizon; keys are the horizons as texts."""

    customer_id: str | int | None = Field(
        default=None, description="As it was sent; absent without."
    )
    purchase_probability: ByHorizon = Field(description="Never decreases in the horizon.")
    churn_probability: float = Field(description="Of no purchase within the churn window.")
    expected_purchases: ByHorizon = Field(
        description="Days with a purchase; never below the probability."
    )
    expected_spend: dict[str, float | None] = Field(
        description="In the unit of the amounts; null where no amount is known."
    )
    cold_start: bool = Field(description="Whether there was no event to go by.")
    explanation: PurchaseExplanation | None = Field(default=None, description="If asked for.")


class ProfileUsed(BaseModel):
    """The profile that a request was answered with."""

    shop: str
    version: int


class PurchaseMeta(BaseModel):
    """Side facts of an answer."""

    context: Literal["profile", "request", "prior"] = Field(
        description="Where what is known of the shop came from."
    )
    profile: ProfileUsed | None = Field(default=None, description="With context profile.")
    as_of: str
    cached: list[bool] = Field(description="Of each input: whether its forecast was known.")
    truncated: list[bool] = Field(description="Of each input: whether earlier events were cut.")


class PurchaseResponse(BaseModel):
    """Predictions in the order of the inputs."""

    model_config = ConfigDict(json_schema_extra={"examples": [ANSWER]})

    model: ModelUsedResponse
    predictions: list[PurchasePrediction]
    meta: PurchaseMeta
    warnings: list[IssueResponse]


class ProfileParameters(BaseModel):
    """How the events of a profile are read."""

    model_config = ConfigDict(extra="forbid")

    as_of: Time | None = Field(
        default=None,
        description="Until when events are complete; by default the first whole hour after the "
        "latest. Predictions from an earlier moment are refused.",
    )
    timezone: Annotated[StrictStr, Field(max_length=64)] | None = Field(
        default=None, description="As in predictions."
    )


class ProfileRequest(BaseModel):
    """The customers of a shop; of what they did statistics are kept, and no event."""

    model_config = ConfigDict(extra="forbid")

    inputs: Annotated[list[CustomerRequest], Field(min_length=50)] | None = Field(
        None, description="All customers, or a fair sample of them; at most 50,000 by default."
    )
    dataset_id: str | None = Field(None, description="A data set of events in place of inputs.")
    parameters: ProfileParameters | None = None


class ProfileResponse(BaseModel):
    """A stored profile."""

    shop: str = Field(examples=["main"])
    version: int = Field(description="Rises with every change, also beyond a deletion.")
    data_until: str = Field(description="No event is later.", examples=["2026-10-01T00:00:00"])
    customers: int = Field(description="Those with events.")
    events: int
    updated_at: datetime
    warnings: list[IssueResponse] | None = Field(default=None, description="When it is stored.")
