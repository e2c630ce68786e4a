"""GET and POST /keys, DELETE /keys/{id}: who may use the service.

Invariant: the text of a key is in the answer that makes it, and nowhere else.
"""

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import actor_of, resources_of, words_of
from app.api.exchange import exchange_of
from app.auth import LONGEST_NAME, ApiKey, Scope, life_of

MOST_LISTED = 1000


class KeyRequest(BaseModel):
    """A key that is wished for."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"scopes": ["predict"]}]}
    )

    name: str = Field("", max_length=LONGEST_NAME, description="By which people know it.")
    scopes: list[Scope] = Field(description="What it may do.")
    shops: list[str] | None = Field(None, description="Shops it may name; all if left out.")
    rate: str | None = Field(None, description="Requests by time, as 50/s or 3000/m.")
    expires: str | None = Field(None, description="How long it is good, as 90d or 12h.")


class KeyResponse(BaseModel):
    """A key, without its text."""

    id: str
    name: str
    scopes: list[Scope]
    shops: list[str] | None
    rate: str | None
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Noted once a minute.")


class NewKeyResponse(KeyResponse):
    """A key that was just made."""

    key: str = Field(description="Its text; it is not to be had again.")


class KeysResponse(BaseModel):
    """Keys in the order they were made."""

    keys: list[KeyResponse]
    next_cursor: str | None = Field(description="Where the list goes on; null at its end.")


def keys() -> APIRouter:
    """The routes of one application."""
    router = APIRouter(prefix="/keys", tags=["keys"])

    @router.get("", name="keys", response_model=KeysResponse)
    async def list_keys(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
        cursor: Annotated[str, Query(pattern="^[0-9]{1,9}$")] = "0",
    ) -> Response:
        """Every key that was ever made, without its text."""
        store = resources_of(request).keys
        found = await asyncio.to_thread(store.page, limit + 1, int(cursor))
        goes_on = str(found[limit - 1].number) if len(found) > limit else None
        return _json({"keys": [_shown(each) for each in found[:limit]], "next_cursor": goes_on})

    @router.post(
        "",
        name="create_key",
        status_code=201,
        response_model=NewKeyResponse,
        openapi_extra=_described_body(),
    )
    async def create_key(request: Request) -> Response:
        """Make a key. Its text is shown once; here only a digest of it is kept."""
        exchange, resources = exchange_of(request.scope), resources_of(request)
        wish = await words_of(exchange, request.receive, KeyRequest)
        life = None if wish.expires is None else life_of(wish.expires)
        create = partial(resources.keys.create, wish.name, wish.scopes, actor=actor_of(exchange))
        made, text = await asyncio.to_thread(create, shops=wish.shops, rate=wish.rate, life=life)
        await resources.callers.refresh()
        return _json(_shown(made) | {"key": text}, status=201)

    @router.delete("/{id}", name="revoke_key", status_code=204)
    async def revoke_key(
        request: Request,
        id: Annotated[str, Path(description="Of the key, as the list shows it.")],  # noqa: A002 - the contract's word
    ) -> Response:
        """Revoke a key: it opens nothing any more, within five seconds everywhere."""
        resources, actor = resources_of(request), actor_of(exchange_of(request.scope))
        await asyncio.to_thread(partial(resources.keys.revoke, id, actor=actor))
        await resources.callers.refresh()
        return Response(status_code=204)

    return router


def _described_body() -> dict[str, Any]:
    words = {"$ref": "#/components/schemas/KeyRequest"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": words}}}}


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "shops": key.shops,
        "rate": key.rate,
        "state": key.state(datetime.now(UTC)),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }


def _json(body: dict[str, Any], *, status: int = 200) -> Response:
    content = orjson.dumps(body, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
    return Response(content, status, media_type="application/json")
