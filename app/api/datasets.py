"""/datasets: what a shop uploads of its past.

Invariant: a file goes to disk as it arrives, and what is not taken in whole leaves nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import Watch, actor_of, resources_of, words_of
from app.api.exchange import Exchange, exchange_of
from app.api.issues import Issues, Place
from app.api.uploads import is_form, read_form
from app.datasets import LONGEST_NAME, MOST_LISTED, Dataset
from app.errors import InvalidInputError, Issue, MalformedError
from app.intake import Order
from app.mappings import KINDS, Kind
from app.uris import opened

FIELDS = frozenset({"name", "kind", "columns", "freq"})
PATH = "/datasets"

DatasetId = Annotated[str, PathParameter(alias="id", examples=["ds_0123456789abcdef"])]


class DatasetRequest(BaseModel):
    """A data set of a file that the service can read."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"uri": "sales/2026.csv.gz"}]}
    )

    uri: str = Field(description="A file under SHOPCAST_DATASETS_ROOT, by its path from there.")
    name: str | None = Field(
        None, max_length=LONGEST_NAME, description="By which people know it; else the file's."
    )
    kind: Kind = "series"
    columns: dict[str, Any] | None = Field(
        None,
        description="Which column is what; guessed where left out. Of series: `item_id` (a name or "
        "several), `timestamp`, `target`, `known_future`, `past_only`, `segment` (names); of "
        "events: `customer_id`, `at`, `type`, `amount`, `quantity`, `item_id`, `category`, "
        "`segment` (names); of both `date_format`, as in %d/%m/%Y.",
    )
    freq: str | None = Field(None, description="Of series, a pandas alias; guessed if left out.")


class Found(BaseModel):
    """Something to be known of a file."""

    loc: list[str | int]
    msg: str
    type: str


class DatasetResponse(BaseModel):
    """A data set."""

    id: str
    name: str
    kind: Kind
    digest: str = Field(description="Of its rows, in whatever order and form they were sent.")
    rows: int
    series: int = Field(description="Series, or customers.")
    bytes: int = Field(description="On disk.")
    created_at: datetime
    freq: str | None
    start: str | None = Field(description="The earliest time.")
    end: str | None = Field(description="The latest time.")
    gaps: int | None = Field(description="Periods without a row within series.")
    duplicates: int | None = Field(
        description="Rows of a time that an item had already; the last in the file counts."
    )
    unsorted: int = Field(description="Rows that came after a later one.")
    columns: dict[str, Any] = Field(description="What each column was taken for.")
    errors: list[Found] = Field(description="The first rows that were left out, by line.")
    error_rows: int = Field(description="Rows left out; more than 1 in 100 are refused.")
    warnings: list[Found]
    notes: list[str] = Field(description="What was guessed.")
    types: dict[str, int] | None = Field(description="Of events, how many of each type.")


class TrainedVersion(BaseModel):
    """A model version."""

    name: str
    version: int


class ShownDatasetResponse(DatasetResponse):
    """A data set, and what came of it."""

    trained: list[TrainedVersion] = Field(description="Versions that were trained on it.")


class DatasetsResponse(BaseModel):
    """Some data sets, the latest first."""

    datasets: list[DatasetResponse]
    next_cursor: str | None = Field(description="Where the list goes on; null at its end.")


class DeletedDatasetResponse(BaseModel):
    """A data set that is no more."""

    id: str
    deleted: Literal[True]
    trained: list[TrainedVersion] = Field(
        description="Versions that were trained on it; they stay."
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A file and what is to be made of it."""

    file: Path
    name: str
    order: Order


def datasets() -> APIRouter:
    """The routes of one application."""
    router = APIRouter(tags=["datasets"])
    _writing(router)
    _reading(router)
    return router


def _writing(router: APIRouter) -> None:
    @router.post(
        PATH,
        name="create_dataset",
        status_code=201,
        response_model=DatasetResponse,
        responses={200: {"model": DatasetResponse, "description": "It was there already."}},
        openapi_extra=_described_body(),
    )
    async def create_dataset(request: Request) -> Response:
        """Upload a file, CSV or Parquet, as it is or in gzip or zstd, or name one by `uri`.

        Long form: a row an item and period, or a row an event. It is checked row by row and
        sorted. The same rows, read in the same way, are the same data set: 200 in place of 201.
        """
        exchange, resources = exchange_of(request.scope), resources_of(request)
        sets = resources.datasets
        async with sets.staging() as stage, _asked(exchange, request, stage) as asked:
            with Watch(request.receive):
                dataset, new = await sets.add(asked.file, stage, asked.order, name=asked.name)
        if new:
            actor, facts = actor_of(exchange), {"name": dataset.name, "digest": dataset.digest}
            await asyncio.to_thread(
                resources.audit.record, actor, "dataset.add", dataset.id, **facts
            )
        headers = {"Location": f"{PATH}/{dataset.id}"}
        return _json(_shown(dataset), status=201 if new else 200, headers=headers)

    @router.delete(PATH + "/{id}", name="delete_dataset", response_model=DeletedDatasetResponse)
    async def delete_dataset(request: Request, dataset_id: DatasetId) -> Response:
        """Delete a data set that no unfinished job needs. Versions trained on it stay."""
        exchange, resources = exchange_of(request.scope), resources_of(request)
        gone = await resources.datasets.delete(dataset_id)
        trained = await _trained(request, gone.id)
        actor = actor_of(exchange)
        await asyncio.to_thread(
            resources.audit.record, actor, "dataset.delete", gone.id, name=gone.name
        )
        return _json({"id": gone.id, "deleted": True, "trained": trained})


def _reading(router: APIRouter) -> None:
    @router.get(PATH, name="datasets", response_model=DatasetsResponse)
    async def list_datasets(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 50,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        """The data sets, the latest first."""
        page = await resources_of(request).datasets.page(limit, cursor)
        return _json({"datasets": list(map(_shown, page.datasets)), "next_cursor": page.cursor})

    @router.get(PATH + "/{id}", name="dataset", response_model=ShownDatasetResponse)
    async def show_dataset(request: Request, dataset_id: DatasetId) -> Response:
        """What is known of a data set."""
        dataset = await resources_of(request).datasets.get(dataset_id)
        return _json(_shown(dataset) | {"trained": await _trained(request, dataset.id)})


@asynccontextmanager
async def _asked(exchange: Exchange, request: Request, stage: Path) -> AsyncIterator[_Asked]:
    """What a request asks for, its file within reach."""
    settings = exchange.resources.settings
    if is_form(exchange.headers):
        form = await read_form(
            exchange.headers,
            request.receive,
            stage / "upload",
            limit=settings.max_upload_bytes,
            idle_s=settings.timeout_ms / 1000,
        )
        if form.file is None:
            raise _wrong("file", "is missing; send a file of CSV or Parquet")
        yield _of_form(form.fields, form.file, Path(form.filename).name)
        return
    words = await words_of(exchange, request.receive, DatasetRequest)
    with opened(words.uri, settings.datasets_root) as file:
        name = words.name or Path(words.uri).name[:LONGEST_NAME]
        yield _Asked(file, name, Order(words.kind, words.columns, words.freq))


def _of_form(fields: dict[str, str], file: Path, filename: str) -> _Asked:
    issues = Issues()
    issues.fields(fields, Place((), ""), FIELDS)
    issues.settle()
    kind = next((each for each in KINDS if each == fields.get("kind", "series")), None)
    if kind is None:
        raise _wrong("kind", f"must be one of {', '.join(KINDS)}, not {fields['kind'][:40]!r}")
    columns = fields.get("columns") or None
    try:
        said = None if columns is None else orjson.loads(columns)
    except orjson.JSONDecodeError:
        raise MalformedError("the field `columns` of the form is not JSON") from None
    name = fields.get("name") or filename[:LONGEST_NAME] or kind
    return _Asked(file, name, Order(kind, said, fields.get("freq") or None))


def _described_body() -> dict[str, Any]:
    """What is read, as OpenAPI says it."""
    text = {"type": "string"}
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "name": text,
            "kind": {"type": "string", "enum": list(KINDS), "default": "series"},
            "columns": text | {"description": "JSON, as in DatasetRequest."},
            "freq": text,
        },
        "additionalProperties": False,
    }
    words = {"$ref": "#/components/schemas/DatasetRequest"}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": words}}
    return {"requestBody": {"required": True, "content": content}}


async def _trained(request: Request, dataset_id: str) -> list[dict[str, Any]]:
    known = resources_of(request).datasets.versions_trained_on
    pairs = await asyncio.to_thread(known, dataset_id)
    return [{"name": name, "version": version} for name, version in pairs]


def _shown(dataset: Dataset) -> dict[str, Any]:
    return asdict(dataset)


def _wrong(field: str, message: str) -> InvalidInputError:
    return InvalidInputError((Issue((field,), f"{field}: {message}", field),))


def _json(
    body: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        orjson.dumps(body, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )
