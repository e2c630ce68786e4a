"""PUT, GET and DELETE /shops/{shop}/profile: what is known of a shop's population.

Invariant: of the events that are sent, statistics are kept and nothing else.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from app.api.access import check_shop
from app.api.bodies import parse
from app.api.deps import body_of, deadline_of, resources_of
from app.api.events import Ask, CustomerInput, read_customers
from app.api.exchange import Exchange, exchange_of
from app.api.issues import Issues, Place, shown
from app.api.purchase import FIELDS, MOST_NAMES, Parameters
from app.api.purchase_words import ProfileResponse
from app.api.questions import Reader
from app.errors import InvalidInputError, Issue
from app.moments import Clock, Moment
from app.profiles import Profile
from app.resources import Resources
from app.settings import Settings
from app.shops import SHOP, SHOP_WORDS
from models.base import FloatArray
from models.customers import context_of

PARAMETERS = frozenset({"as_of", "timezone"})
FEWEST = 50  # customers with events; below, chance says more than the shop
ENOUGH = 200
PATH = "/shops/{shop}/profile"

Shop = Annotated[
    str,
    Path(
        description=f"Name of the shop; {SHOP_WORDS}.",
        examples=["main"],
        json_schema_extra={"pattern": f"^{SHOP.pattern}$"},  # checked here, in the service's words
    ),
]


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """What a body says of a shop."""

    as_of: Moment
    customers: int
    events: int
    context: FloatArray
    inputs: tuple[CustomerInput, ...] = ()
    warnings: tuple[Issue, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """A body that names a data set. as_of: None for the hour after its latest event."""

    dataset_id: str
    clock: Clock
    as_of: Moment | None

    @property
    def inputs(self) -> tuple[CustomerInput, ...]:
        return ()


def profiles() -> APIRouter:
    """The routes of one application."""
    router = APIRouter(tags=["shops"])
    reader = Reader(_read, lasts=lambda _: False, in_thread_from_bytes=0)

    @router.put(
        PATH, name="put_profile", response_model=ProfileResponse, openapi_extra=_described_body()
    )
    async def put_profile(request: Request, shop: Shop) -> Response:
        """Make the profile of a shop in place of the one it had: from its customers' events, or
        from a data set of events by `dataset_id`.
        """
        exchange = exchange_of(request.scope)
        name, deadline_s = _name(shop, exchange), deadline_of(exchange)
        body = await body_of(exchange, request.receive, deadline_s)
        told = await reader.question(body, exchange, deadline_s)
        if isinstance(told, _Named):
            told = await asyncio.to_thread(_from_dataset, told, exchange.resources)
        stored = await resources_of(request).profiles.put(_profile(name, told))
        return _json(_shown(stored) | {"warnings": _warnings(told)})

    @router.get(PATH, name="profile", response_model=ProfileResponse)
    async def show_profile(request: Request, shop: Shop) -> Response:
        """What is known of the profile of a shop."""
        name = _name(shop, exchange_of(request.scope))
        return _json(_shown(await resources_of(request).profiles.get(name)))

    @router.delete(PATH, name="delete_profile", status_code=204)
    async def delete_profile(request: Request, shop: Shop) -> Response:
        """Forget the profile of a shop; a later one goes on with its version."""
        name = _name(shop, exchange_of(request.scope))
        await resources_of(request).profiles.delete(name)
        return Response(status_code=204)

    return router


def _described_body() -> dict[str, Any]:
    """What is read beside the path, as OpenAPI says it."""
    words = {"$ref": "#/components/schemas/ProfileRequest"}
    content = {"application/json": {"schema": words}}
    return {"requestBody": {"required": True, "content": content}}


def _name(shop: str, exchange: Exchange) -> str:
    """The name of a shop that the caller may ask about."""
    if not SHOP.fullmatch(shop):
        raise InvalidInputError((Issue(("path", "shop"), f"shop: {SHOP_WORDS}", "shop"),))
    check_shop(exchange, shop)
    return shop


def _read(body: bytes, limits: Settings) -> _Told | _Named:
    """What a body says. Raises MalformedError, InvalidInputError."""
    issues = Issues()
    fields = issues.fields(
        parse(body, most_names=MOST_NAMES), Place((), ""), FIELDS | {"dataset_id"}
    )
    if fields is None:
        issues.settle()
        raise AssertionError("settled")
    parameters = Parameters(fields.get("parameters"), PARAMETERS, limits, issues)
    clock = parameters.clock()
    if fields.get("dataset_id") is not None:
        return _named(fields, clock, parameters.as_of(clock), issues)
    ask = Ask(clock, parameters.as_of(clock), limits.max_customers, record=True)
    crowd = read_customers(fields.get("inputs"), ask, limits, issues=issues)
    issues.settle()
    assert crowd is not None  # noqa: S101 - settled
    known = [each.customer for each in crowd.inputs if not each.cold_start]
    if len(known) < FEWEST:
        msg = (
            f"has {len(known):,} customers with events; a profile needs at least {FEWEST}: their "
            "share that buys again would say little of the shop"
        )
        issues.add(Place(("inputs",), "inputs"), msg, "too_few_customers")
        issues.settle()
    return _Told(
        crowd.as_of, len(known), crowd.events, context_of(known), crowd.inputs, crowd.warnings
    )


def _named(fields: dict[str, object], clock: Clock, as_of: Moment | None, issues: Issues) -> _Named:
    raw, place = fields["dataset_id"], Place(("dataset_id",), "dataset_id")
    if fields.get("inputs") is not None:
        issues.add(place, "send either that or inputs", "both_given")
    if not isinstance(raw, str):
        issues.add(place, f"must be the id of a data set, not {shown(raw)}", "dataset_id")
    if as_of is not None and as_of.zoned and clock.zone is None:
        at = Place(("parameters", "as_of"), "parameters.as_of")
        issues.add(at, "has a zone, a data set has local times; say parameters.timezone", "zone")
    issues.settle()
    return _Named(str(raw), clock, as_of)


def _from_dataset(named: _Named, resources: Resources) -> _Told:
    """Of no more customers than a profile is made from. Raises as Datasets.population."""
    most = resources.settings.max_customers
    people, as_of = resources.datasets.population(
        named.dataset_id, named.as_of, most_customers=most
    )
    if len(people) < FEWEST:
        msg = (
            f"dataset_id: has {len(people):,} customers with events before {as_of.written()}; a "
            f"profile needs at least {FEWEST}"
        )
        raise InvalidInputError((Issue(("dataset_id",), msg, "too_few_customers"),))
    known = named.clock.moment(as_of.local.isoformat())
    return _Told(known, len(people), int(people.starts[-1]), context_of(people))


def _profile(shop: str, told: _Told) -> Profile:
    return Profile(
        shop=shop,
        version=0,  # the database numbers it
        context=told.context,
        data_until=told.as_of,
        customers=told.customers,
        events=told.events,
        updated_at=datetime.now(UTC),
    )


def _warnings(told: _Told) -> list[dict[str, Any]]:
    issues = list(told.warnings)
    if told.customers < ENOUGH:
        msg = f"inputs: a profile of {told.customers} customers is rough; {ENOUGH} are better"
        issues.append(Issue(("inputs",), msg, "few_customers"))
    return [{"loc": each.loc, "msg": each.msg, "type": each.type} for each in issues]


def _shown(profile: Profile) -> dict[str, Any]:
    return {
        "shop": profile.shop,
        "version": profile.version,
        "data_until": profile.data_until.kept(),
        "customers": profile.customers,
        "events": profile.events,
        "updated_at": profile.updated_at,
    }


def _json(body: dict[str, Any]) -> Response:
    return Response(
        orjson.dumps(body, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z),
        media_type="application/json",
    )
