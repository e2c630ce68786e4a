"""Whether the service lives, is ready, and how it fares.

Invariant: none of these waits for anything.
"""

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import resources_of
from app.errors import UnavailableError

router = APIRouter(tags=["operations"])


@router.get("/healthz", name="healthz", response_class=Response)
async def healthz(request: Request) -> Response:
    """200 while the process and its engine answer; a full queue or a stop asked for is alive."""
    _refuse_unless(resources_of(request).batcher.healthy, "the engine does not answer")
    return _told({"status": "alive"})


@router.get("/readyz", name="readyz", response_class=Response)
async def readyz(request: Request) -> Response:
    """200 while requests are welcome: model loaded, engine healthy, no stop asked for.

    `parts` says how engine, database and Redis stand: `up`, `down`, or `unset`. Predictions go on
    without the latter two.
    """
    resources = resources_of(request)
    _refuse_unless(resources.batcher.healthy, "the engine does not answer")
    if resources.stopping.is_set():
        raise UnavailableError("the service is stopping", reason="closing")
    return _told({"status": "ready", "parts": resources.parts})


@router.get("/ping", name="ping", response_class=Response)
async def ping(request: Request) -> Response:
    """The same as /readyz, under the name that SageMaker-style hosts ask for."""
    return await readyz(request)


@router.get("/metrics", name="metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Everything measured, in the text format of Prometheus."""
    text, media_type = resources_of(request).metrics.render()
    return Response(text, headers={"Content-Type": media_type})


def _refuse_unless(condition: bool, message: str) -> None:
    if not condition:
        raise UnavailableError(message, reason="engine_down")


def _told(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
