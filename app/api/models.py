"""/models: which models answer, by which version, and how that is changed.

Invariant: a version shows its network where this process has it loaded, and only there.
"""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.bodies import is_empty
from app.api.deps import actor_of, resources_of, words_of
from app.api.exchange import exchange_of
from app.api.purchase import LONGEST_DAYS
from app.registry import PURCHASE, LiveVersion, Registry
from app.resources import Resources
from app.settings import Settings
from app.versions import Version

router = APIRouter(tags=["models"])

Name = Annotated[str, Path(examples=["sales"])]
Number = Annotated[int, Path(ge=1, le=999_999_999)]


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
    """A version of a model: where it comes from and, if it is loaded here, what it is."""

    version: int
    created_at: datetime = Field(description="When its content was first seen.")
    source: str = Field(
        description="How it came to be: shipped, settings, finetune, quantize and the like; memory "
        "if it is not kept at all."
    )
    size_bytes: int
    parent: int | None = Field(description="The version that it was made from.")
    dataset_id: str | None = Field(description="What it was trained on.")
    job_id: str | None = Field(description="The job that made it.")
    trained_until: str | None = Field(description="It has seen nothing later.")
    evaluation: dict[str, Any] = Field(description="The scores that it was accepted by.")
    code_version: str | None = Field(description="The release of the service that made it.")
    loaded: bool = Field(description="Whether it is in the memory of the process that answers.")
    loaded_at: datetime | None
    load_s: float | None = Field(description="Seconds to load, verify and warm up.")
    fingerprint: str | None = Field(description="Equal if answers are equal.")
    network: SeriesNetworkResponse | NetworkResponse | None


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
    serving: int = Field(
        description="The version that the process that answers has as production; it becomes what "
        "the alias says as soon as that is loaded."
    )
    versions: list[VersionResponse]
    limits: SeriesLimitsResponse | PurchaseLimitsResponse


class ExpectedRequest(BaseModel):
    """What production has to be for it to be changed; nothing, if that does not matter."""

    model_config = ConfigDict(extra="forbid")

    expected: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        default=None, description="The version that production has to be now; else 409."
    )


class AliasResponse(BaseModel):
    """What an alias stands for."""

    name: str = Field(description="The model.")
    alias: str
    version: int
    previous: int | None = Field(description="What a rollback would bring back.")
    changed_at: datetime
    changed_by: str


class ModelsResponse(BaseModel):
    """All models."""

    models: list[ModelResponse]
    next_cursor: str | None = Field(description="Where the list goes on; null at its end.")


#: A body may be left out.
BODY = {
    "requestBody": {
        "content": {"application/json": {"schema": ExpectedRequest.model_json_schema()}},
    }
}


@router.get("/models", name="models", response_model=ModelsResponse)
async def list_models(request: Request) -> Response:
    """All models that answer here."""
    resources = resources_of(request)
    models = [await _model(resources, name) for name in resources.registry.names()]
    return _json({"models": models, "next_cursor": None})


@router.get("/models/{name}", name="model", response_model=ModelResponse)
async def show_model(request: Request, name: Name) -> Response:
    """One model: its aliases, and the versions there are."""
    return _json(await _model(resources_of(request), name))


@router.post(
    "/models/{name}/versions/{version}/promote",
    name="promote",
    response_model=AliasResponse,
    openapi_extra=BODY,
)
async def promote(request: Request, name: Name, version: Number) -> Response:
    """Make a version production.

    The process that answers loads it first, and refuses what cannot be loaded with 409; then it
    answers by it at once, and others do within five seconds, or as soon as it is loaded there.
    Of two who promote at a time the second is told by 409 who was first.
    """
    expected = await _expected(request)
    registry, actor = resources_of(request).registry, actor_of(exchange_of(request.scope))
    moved = await registry.promote(name, version, actor=actor, expected=expected)
    return _json(asdict(moved))


@router.post(
    "/models/{name}/rollback",
    name="rollback",
    response_model=AliasResponse,
    openapi_extra=BODY,
)
async def rollback(request: Request, name: Name) -> Response:
    """Bring back the production before this one; a second time undoes the first."""
    expected = await _expected(request)
    registry, actor = resources_of(request).registry, actor_of(exchange_of(request.scope))
    return _json(asdict(await registry.rollback(name, actor=actor, expected=expected)))


@router.delete("/models/{name}/versions/{version}", name="delete_version", status_code=204)
async def delete_version(request: Request, name: Name, version: Number) -> Response:
    """Delete a version that no alias names. Its number never comes again."""
    actor = actor_of(exchange_of(request.scope))
    await resources_of(request).registry.delete(name, version, actor=actor)
    return Response(status_code=204)


async def _expected(request: Request) -> int | None:
    """What the body, if there is one, says that production has to be."""
    exchange = exchange_of(request.scope)
    if is_empty(exchange.headers):
        return None
    return (await words_of(exchange, request.receive, ExpectedRequest)).expected


async def _model(resources: Resources, name: str) -> dict[str, Any]:
    registry: Registry = resources.registry
    kept, loaded = await registry.kept(name), registry.loaded(name)
    numbers = {each.version for each in kept}
    versions = [_kept(each, loaded.get(each.version)) for each in kept]
    versions += [_unkept(live) for live in loaded.values() if live.version not in numbers]
    return {
        "name": name,
        "aliases": registry.aliases(name),
        "serving": registry.serving(name).version,
        "versions": versions,
        "limits": _limits(resources.settings, name),
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


def _kept(kept: Version, live: LiveVersion | None) -> dict[str, Any]:
    origin = kept.manifest
    return {
        "version": kept.version,
        "created_at": kept.created_at,
        "source": origin.source,
        "size_bytes": kept.size_bytes,
        "parent": origin.parent,
        "dataset_id": origin.dataset_id,
        "job_id": origin.job_id,
        "trained_until": origin.trained_until,
        "evaluation": origin.evaluation,
        "code_version": origin.code_version,
        **_loaded(live),
    }


def _unkept(live: LiveVersion) -> dict[str, Any]:
    """A version that is in memory alone."""
    nothing = ("parent", "dataset_id", "job_id", "trained_until", "code_version")
    return {
        "version": live.version,
        "created_at": live.created_at,
        "source": "memory",
        "size_bytes": 0,
        "evaluation": {},
        **dict.fromkeys(nothing),
        **_loaded(live),
    }


def _loaded(live: LiveVersion | None) -> dict[str, Any]:
    """What there is to say of a version in memory."""
    if live is None:
        nothing = ("loaded_at", "load_s", "fingerprint", "network")
        return {"loaded": False, **dict.fromkeys(nothing)}
    return {
        "loaded": True,
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
