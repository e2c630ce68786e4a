"""GET /models: which models answer, and by which version.

Invariant: what is shown is what is loaded in this process.
"""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import resources_of
from app.api.purchase import LONGEST_DAYS
from app.registry import PURCHASE, LiveVersion, Registry
from app.resources import Resources
from app.settings import Settings

router = APIRouter(tags=["models"])


class DependenceResponse(BaseModel):
    """Correlation of the errors of periods s and t of one forecast: strength·persistence^|s-t|."""

    strength: float
    persistence: float


class NetworkResponse(BaseModel):
    """The network of a version, as it runs here; its own sort has more to say."""

    model_config = ConfigDict(extra="allow")

    checkpoint: str = Field(description="Name of the checkpoint's directory.")
    architecture: str
    parameters: int = Field(description="Number of weights.")
    device: str
    dtype: str
    runtime: str = Field(description="What computes it: torch or onnx.")


class SeriesNetworkResponse(NetworkResponse):
    """The network of a model that forecasts series."""

    context_length: int = Field(description="Periods of a history that the network looks at.")
    horizon: int = Field(description="Periods answered in one pass; longer horizons are unrolled.")
    quantile_levels: list[float] = Field(description="Levels computed; others are interpolated.")
    seasonal_adjustment: bool
    covariate_effects: bool = Field(description="Whether effects of known covariates are removed.")
    guided: bool = Field(description="Whether the network is told what smoothing expects.")
    dependence: DependenceResponse


class VersionResponse(BaseModel):
    """A version of a model."""

    version: int
    created_at: datetime = Field(description="When its content was first seen.")
    loaded_at: datetime
    load_s: float = Field(description="Seconds to load, verify and warm up.")
    fingerprint: str = Field(description="Equal if answers are equal.")
    network: SeriesNetworkResponse | NetworkResponse


class LimitsResponse(BaseModel):
    """What a request may hold at most."""

    inputs: int
    body_bytes: int


class SeriesLimitsResponse(LimitsResponse):
    """What a request for series may hold at most."""

    history: int = Field(description="Periods kept of a history; ten times as many are read.")
    prediction_length: int
    covariates: int
    targets: int


class PurchaseLimitsResponse(LimitsResponse):
    """What a request for customers may hold at most."""

    events: int = Field(description="Events kept of a customer; ten times as many are read.")
    horizon_days: int
    profile_customers: int = Field(description="Customers that a shop's profile is made from.")


class ModelResponse(BaseModel):
    """A model, by what it is called in answers."""

    name: str = Field(examples=["sales"])
    aliases: dict[str, int] = Field(examples=[{"production": 3}])
    versions: list[VersionResponse]
    limits: SeriesLimitsResponse | PurchaseLimitsResponse


class ModelsResponse(BaseModel):
    """All models."""

    models: list[ModelResponse]
    next_cursor: str | None = Field(description="Where the list goes on; null at its end.")


@router.get("/models", name="models", response_model=ModelsResponse)
async def list_models(request: Request) -> Response:
    """All models that answer here."""
    resources = resources_of(request)
    models = [_model(resources, name) for name in resources.registry.names()]
    return _json({"models": models, "next_cursor": None})


@router.get("/models/{name}", name="model", response_model=ModelResponse)
async def show_model(request: Request, name: Annotated[str, Path(examples=["sales"])]) -> Response:
    """One model: its aliases, and the versions loaded in this process."""
    return _json(_model(resources_of(request), name))


def _model(resources: Resources, name: str) -> dict[str, Any]:
    registry: Registry = resources.registry
    versions = registry.versions(name)
    settings = resources.settings
    return {
        "name": name,
        "aliases": registry.aliases(name),
        "versions": [_version(live) for live in versions],
        "limits": _limits(settings, name),
    }


def _limits(settings: Settings, name: str) -> dict[str, int]:
    every = {"inputs": settings.max_inputs, "body_bytes": settings.max_body_bytes}
    if name == PURCHASE:
        return every | {
            "events": settings.max_events,
            "horizon_days": LONGEST_DAYS,
            "profile_customers": settings.max_customers,
        }
    return every | {
        "history": settings.max_history,
        "prediction_length": settings.max_prediction_length,
        "covariates": settings.max_covariates,
        "targets": settings.max_targets,
    }


def _version(live: LiveVersion) -> dict[str, Any]:
    return {
        "version": live.version,
        "created_at": live.created_at,
        "loaded_at": live.loaded_at,
        "load_s": round(live.load_s, 3),
        "fingerprint": live.fingerprint,
        "network": asdict(live.description),
    }


def _json(body: dict[str, Any]) -> Response:
    return Response(
        orjson.dumps(body, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z),
        media_type="application/json",
    )
