"""/jobs and /schedules: what is to be done, how far it is, what came of it.

Invariant: a route writes what is asked for and reads what is there; the work is a worker's.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from app import diary
from app.api.bodies import decompress, encoding_of, parse
from app.api.deps import actor_of, body_of, deadline_of, resources_of
from app.api.exchange import exchange_of
from app.api.job_words import (
    JobResponse,
    JobsResponse,
    ScheduleRequest,
    ScheduleResponse,
    SchedulesResponse,
    issues_of,
    read_job,
    shown_job,
    shown_schedule,
)
from app.errors import (
    ConflictError,
    InvalidInputError,
    Issue,
    NotFoundError,
    UnavailableError,
)
from app.jobs import Job, Kind, State, Wanted, directory_of
from app.resources import Resources
from app.schedules import Schedules

SMALL_BYTES = 64 * 1024  # of a body that holds no data
LONGEST_KEY = 128
LONGEST_NAME = 64
LOOK_S = 0.5  # between two looks at a job that is streamed
QUIET_S = 15.0  # a proxy would take a stream that says nothing for so long for dead
MOST_STREAMS = 128
KEY_HEADER = "Idempotency-Key"

JobId = Annotated[str, PathParameter(alias="id", examples=["job_0123456789abcdef"])]
Name = Annotated[str, PathParameter(examples=["weekly"])]
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=64, description="`next_cursor` of a page.")]


class _Streams:
    """How many look on at the same time."""

    def __init__(self) -> None:
        self.open = 0


def jobs() -> APIRouter:
    """The routes of one application."""
    router = APIRouter(tags=["jobs"])
    streams = _Streams()
    _asking(router)
    _looking(router, streams)
    _scheduling(router)
    return router


def _asking(router: APIRouter) -> None:
    @router.post(
        "/jobs",
        name="create_job",
        status_code=202,
        response_model=JobResponse,
        openapi_extra=_body("JobRequest"),
    )
    async def create_job(request: Request) -> Response:
        """Ask for a job. It is queued, and done by a worker; `Location` shows how it goes.

        The same `Idempotency-Key` brings back the same job for the same request.
        """
        exchange, resources = exchange_of(request.scope), resources_of(request)
        asked = read_job(await _value(request))
        key = _key(exchange.headers.get(KEY_HEADER.lower().encode()))
        job, _ = await resources.jobs.add(
            asked,
            actor=actor_of(exchange),
            idempotency_key=key,
            check_data=resources.datasets.check_kind,
        )
        return _json(shown_job(job), status=202, headers={"Location": f"/jobs/{job.id}"})

    @router.post("/jobs/{id}/cancel", name="cancel_job", response_model=JobResponse)
    async def cancel_job(request: Request, job_id: JobId) -> Response:
        """Wish the end of a job: it stops within seconds, also in the middle of training.

        A version that was registered already stays, and is deleted like any other.
        """
        return _json(shown_job(await resources_of(request).jobs.cancel(job_id)))


def _looking(router: APIRouter, streams: _Streams) -> None:
    @router.get("/jobs", name="jobs", response_model=JobsResponse)
    async def list_jobs(
        request: Request,
        limit: Limit = 50,
        cursor: Cursor = None,
        kind: Kind | None = None,
        state: State | None = None,
    ) -> Response:
        """The jobs, the latest first."""
        page = await resources_of(request).jobs.page(
            Wanted(kind, state), limit=limit, cursor=cursor
        )
        return _json({"jobs": list(map(shown_job, page.jobs)), "next_cursor": page.next_cursor})

    @router.get("/jobs/{id}", name="job", response_model=JobResponse)
    async def show_job(request: Request, job_id: JobId) -> Response:
        """How a job stands."""
        return _json(shown_job(await resources_of(request).jobs.get(job_id)))

    @router.get("/jobs/{id}/events", name="job_events", response_class=StreamingResponse)
    async def follow_job(request: Request, job_id: JobId) -> Response:
        """The job whenever it changed, as server-sent events `job`, until it has ended."""
        resources = resources_of(request)
        job = await resources.jobs.get(job_id)
        if streams.open >= MOST_STREAMS:
            raise UnavailableError(
                "too many look on at jobs already; GET /jobs/{id} shows the same",
                reason="streams",
                retry_after_s=10.0,
            )
        return StreamingResponse(_events(resources, job, streams), media_type="text/event-stream")

    @router.get("/jobs/{id}/log", name="job_log", response_class=PlainTextResponse)
    async def show_log(request: Request, job_id: JobId) -> Response:
        """What was done, line by line."""
        resources = resources_of(request)
        job = await resources.jobs.get(job_id)
        return PlainTextResponse(await asyncio.to_thread(diary.read, _files(resources, job)))

    @router.get("/jobs/{id}/result", name="job_result", response_class=FileResponse)
    async def show_result(request: Request, job_id: JobId) -> Response:
        """The file that a job made."""
        resources = resources_of(request)
        job = await resources.jobs.get(job_id)
        return await asyncio.to_thread(_result, job, _files(resources, job))


def _scheduling(router: APIRouter) -> None:
    @router.get("/schedules", name="schedules", response_model=SchedulesResponse)
    async def list_schedules(
        request: Request, limit: Limit = 50, cursor: Cursor = None
    ) -> Response:
        """The schedules by name."""
        resources, schedules = resources_of(request), _schedules(request)
        found, goes_on = await resources.jobs.call(
            lambda: schedules.page(limit=limit, cursor=cursor)
        )
        return _json({"schedules": list(map(shown_schedule, found)), "next_cursor": goes_on})

    @router.get("/schedules/{name}", name="schedule", response_model=ScheduleResponse)
    async def show_schedule(request: Request, name: Name) -> Response:
        """One schedule."""
        schedules = _schedules(request)
        found = await resources_of(request).jobs.call(lambda: schedules.get(name))
        return _json(shown_schedule(found))

    @router.put(
        "/schedules/{name}",
        name="put_schedule",
        response_model=ScheduleResponse,
        openapi_extra=_body("ScheduleRequest"),
    )
    async def put_schedule(request: Request, name: Name) -> Response:
        """Ask for a job again and again, by the clock.

        A time that passed while no worker ran is made up for once; while the last job of a
        schedule has not ended, its times pass without another.
        """
        exchange, schedules = exchange_of(request.scope), _schedules(request)
        try:
            words = ScheduleRequest.model_validate(await _value(request))
        except ValidationError as error:
            raise InvalidInputError(issues_of(error)) from error
        asked = _inside("job", words.job)
        stored, new = await resources_of(request).jobs.call(
            lambda: schedules.put(
                _name(name),
                asked,
                cron=words.cron,
                timezone=words.timezone,
                enabled=words.enabled,
                actor=actor_of(exchange),
            )
        )
        return _json(shown_schedule(stored), status=201 if new else 200)

    @router.delete("/schedules/{name}", name="delete_schedule", status_code=204)
    async def delete_schedule(request: Request, name: Name) -> Response:
        """Ask no more; jobs that were asked for stay."""
        schedules = _schedules(request)
        await resources_of(request).jobs.call(lambda: schedules.delete(name))
        return Response(status_code=204)


async def _events(resources: Resources, job: Job, streams: _Streams) -> AsyncIterator[bytes]:
    """A job as it goes; a comment now and then where nothing happens."""
    streams.open += 1
    try:
        yield _event(job)
        told_s, revision = time.monotonic(), job.revision
        while not (job.ended or resources.stopping.is_set()):
            await asyncio.sleep(LOOK_S)
            try:
                job = await resources.jobs.get(job.id)
            except UnavailableError:
                continue  # the stream outlives a database that is down for a while
            except NotFoundError:
                return
            if job.revision != revision:
                yield _event(job)
                told_s, revision = time.monotonic(), job.revision
            elif time.monotonic() - told_s > QUIET_S:
                yield b": still here\n\n"
                told_s = time.monotonic()
    finally:
        streams.open -= 1


def _event(job: Job) -> bytes:
    return b"id: %d\nevent: job\ndata: %s\n\n" % (job.revision, _dumped(shown_job(job)))


def _result(job: Job, directory: Path) -> Response:
    """The file of a job. Raises ConflictError where there is none yet, NotFoundError for none."""
    made = job.facts.get("write", {}).get("file")
    if made is None or job.state != "succeeded":
        if not job.ended:
            raise ConflictError(f"the job {job.id} is {job.state}; its result comes with its end")
        version = job.facts.get("register", {}).get("version")
        hint = f"; what it made is version {version} of {job.model}" if version else ""
        raise NotFoundError(f"the job {job.id} has {job.state} and left no file{hint}")
    path = directory / Path(made).name
    if not path.is_file():
        raise NotFoundError(f"the file of the job {job.id} is gone")
    return FileResponse(path, filename=f"{job.id}{path.suffix}")


async def _value(request: Request) -> object:
    """The JSON value of a small body."""
    exchange = exchange_of(request.scope)
    body = await body_of(exchange, request.receive, deadline_of(exchange))
    encoding = encoding_of(exchange.headers)
    if encoding is not None:
        body = await asyncio.to_thread(decompress, body, encoding, limit=SMALL_BYTES)
    return parse(body)


def _key(raw: bytes | None) -> str | None:
    if raw is None:
        return None
    key = raw.decode("latin-1")
    if not 0 < len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        msg = f"{KEY_HEADER}: must be of 1 to {LONGEST_KEY} visible characters"
        raise InvalidInputError((Issue(("header", KEY_HEADER), msg, "idempotency_key"),))
    return key


def _inside(field: str, raw: object) -> Any:  # noqa: ANN401 - what read_job returns
    """A job inside another body, its issues by their place there."""
    try:
        return read_job(raw)
    except InvalidInputError as error:
        issues = (
            Issue((field, *each.loc), f"{field}.{each.msg}", each.type) for each in error.issues
        )
        raise InvalidInputError(tuple(issues)) from error


def _name(name: str) -> str:
    if not 0 < len(name) <= LONGEST_NAME or not name.replace("-", "").replace("_", "").isalnum():
        msg = f"name: must be of 1 to {LONGEST_NAME} letters, digits, - and _"
        raise InvalidInputError((Issue(("path", "name"), msg, "name"),))
    return name


def _schedules(request: Request) -> Schedules:
    return resources_of(request).schedules


def _files(resources: Resources, job: Job) -> Path:
    return directory_of(resources.settings.data_dir, job.id)


def _body(words: str) -> dict[str, Any]:
    """What is read beside the path, as OpenAPI says it."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{words}"}}}
    return {"requestBody": {"required": True, "content": content}}


def _json(
    body: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(_dumped(body), status, headers, media_type="application/json")


def _dumped(body: dict[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
