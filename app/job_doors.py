"""Where the command line asks for jobs: a server over HTTP, or the database of the settings.

Invariant: both show a job in the words of the API.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx
import orjson

from app import diary
from app.api.job_words import read_job, shown_job
from app.datasets import Datasets
from app.db import is_local, migrate, open_database
from app.errors import InvalidInputError, Issue, NotFoundError, ShopcastError, UnavailableError
from app.jobs import Book, Wanted, directory_of
from app.metrics import Metrics
from app.settings import Settings
from app.versions import operator

TIMEOUT = httpx.Timeout(30.0, connect=5.0)

#: A job as the API shows it.
Shown = dict[str, Any]


class Door(Protocol):
    """Takes jobs in and shows how they go."""

    def ask(self, words: dict[str, Any]) -> Shown:
        """Queue a job. Raises InvalidInputError, ShopcastError."""

    def show(self, job_id: str) -> Shown: ...

    def some(self, limit: int, kind: str | None, state: str | None) -> list[Shown]:
        """The latest jobs, the latest first."""

    def cancel(self, job_id: str) -> Shown: ...

    def log(self, job_id: str) -> str: ...

    def is_manned(self) -> bool:
        """Whether a worker is there, as far as can be seen."""


class Here:
    """The database and the data directory of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if is_local(settings.database):
            migrate(settings.database)
        database = open_database(settings.database)
        self._book, self._datasets = Book(database), Datasets(database, settings, Metrics())

    def ask(self, words: dict[str, Any]) -> Shown:
        most = self._settings.max_queued_jobs
        job, _ = self._book.add(
            read_job(words),
            actor=operator(),
            most_queued=most,
            check_data=self._datasets.check_kind,
        )
        return shown_job(job)

    def show(self, job_id: str) -> Shown:
        return shown_job(self._book.get(job_id))

    def some(self, limit: int, kind: str | None, state: str | None) -> list[Shown]:
        return [shown_job(job) for job in self._book.page(Wanted(kind, state), limit=limit).jobs]

    def cancel(self, job_id: str) -> Shown:
        return shown_job(self._book.cancel(job_id))

    def log(self, job_id: str) -> str:
        job = self._book.get(job_id)
        return diary.read(directory_of(self._settings.data_dir, job.id))

    def is_manned(self) -> bool:
        return self._book.census().workers > 0


class There:
    """A running server; `client` has its address and key."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, words: dict[str, Any]) -> Shown:
        return self.json("POST", "/jobs", json=words)

    def show(self, job_id: str) -> Shown:
        return self.json("GET", f"/jobs/{job_id}")

    def some(self, limit: int, kind: str | None, state: str | None) -> list[Shown]:
        wanted = {"limit": limit, "kind": kind, "state": state}
        query = {name: value for name, value in wanted.items() if value is not None}
        jobs: list[Shown] = self.json("GET", "/jobs", params=query)["jobs"]
        return jobs

    def cancel(self, job_id: str) -> Shown:
        return self.json("POST", f"/jobs/{job_id}/cancel", json={})

    def log(self, job_id: str) -> str:
        return self.send("GET", f"/jobs/{job_id}/log").text

    def is_manned(self) -> bool:
        return True  # it would have to be asked in its metrics

    def json(self, method: str, path: str, **sent: Any) -> Shown:  # noqa: ANN401 - as httpx
        try:
            answer: Shown = orjson.loads(self.send(method, path, **sent).content)
        except orjson.JSONDecodeError as error:
            raise ShopcastError(f"{self._client.base_url} is no Shopcast server") from error
        return answer

    def send(self, method: str, path: str, **sent: Any) -> httpx.Response:  # noqa: ANN401
        try:
            response = self._client.request(method, path, **sent)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            message = f"no answer from {self._client.base_url} ({error}); is it running?"
            raise UnavailableError(message, reason="unreachable") from error
        _raise_for_problem(response)
        return response


@contextmanager
def door(settings: Settings, *, server: str | None, key: str | None) -> Iterator[Door]:
    """The server if one is named, else what the settings say."""
    if server is None:
        yield Here(settings)
        return
    with client_of(server, key=key) as client:
        yield There(client)


def client_of(server: str, *, key: str | None) -> httpx.Client:
    """What speaks to a server, and shows it a key if there is one."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server, timeout=TIMEOUT, headers=headers)


def _raise_for_problem(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        problem = orjson.loads(response.content)
        detail, errors = str(problem["detail"]), problem.get("errors", ())
        issues = tuple(Issue(tuple(e["loc"]), str(e["msg"]), str(e["type"])) for e in errors)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ShopcastError(f"the server answered {response.status_code}") from error
    if issues:
        raise InvalidInputError(issues)
    if response.status_code == 404:
        raise NotFoundError(detail)
    raise ShopcastError(f"the server answered {response.status_code}: {detail}")
