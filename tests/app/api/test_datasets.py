"""Data sets over HTTP: uploaded, named by URI, shown, deleted; and what is refused."""

import gzip
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.db import open_database
from app.jobs import Asked, Book
from app.settings import Settings
from tests.app.test_intake import HEADER, LINES, weekly
from tests.live import running

CSV = "\n".join([HEADER, *LINES])
MOST_BYTES = 500_000
HEAD = (
    "POST /datasets HTTP/1.1\r\nHost: localhost:{port}\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    '--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the data directory and the one whose files may be named."""
    home = tmp_path_factory.mktemp("datasets")
    (home / "root" / "inner").mkdir(parents=True)
    (home / "root" / "sales.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    (home / "root" / "inner" / "orders.csv").write_text("customer,date\nc1,2026-01-01\n")
    (home / "secret.csv").write_text(CSV)
    (home / "root" / "link.csv").symlink_to(home / "secret.csv")
    (home / "root" / "out").symlink_to(home)
    os.mkfifo(home / "root" / "pipe")
    return home


@pytest.fixture(scope="module")
def settings(home: Path, tiny_checkpoint: Path) -> Settings:
    return Settings(
        series_checkpoint=tiny_checkpoint,
        data_dir=home / "data",
        datasets_root=home / "root",
        max_upload_bytes=MOST_BYTES,
        max_body_bytes=10_000,
        timeout_ms=2_000,
    )


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[httpx.Client]:
    with running(settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def upload(
    service: httpx.Client, content: str | bytes = CSV, filename: str = "sales.csv", **fields: Any
) -> httpx.Response:
    said = {name: v if isinstance(v, str) else json.dumps(v) for name, v in fields.items()}
    return service.post("/datasets", files={"file": (filename, content)}, data=said)


def left(home: Path) -> list[str]:
    """What lies half done in the directory of the data sets."""
    return [path.name for path in (home / "data" / "datasets").glob(".*")]


def message(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["detail"])


def test_a_file_is_uploaded_shown_listed_and_deleted(service: httpx.Client, home: Path) -> None:
    made = upload(service, name="Autumn", columns={"known_future": ["price"]})
    assert made.status_code == 201, made.text
    stored = made.json()
    assert made.headers["Location"] == f"/datasets/{stored['id']}"
    assert (stored["name"], stored["rows"], stored["freq"]) == ("Autumn", 180, "W-MON")
    assert stored["columns"]["known_future"] == ["price"]
    again = upload(service, gzip.compress(CSV.encode()), columns={"known_future": ["price"]})
    assert (again.status_code, again.json()) == (200, stored)
    shown = service.get(f"/datasets/{stored['id']}").json()
    assert shown == stored | {"trained": []}
    other = upload(service, "\n".join([HEADER, *weekly("x", "y")])).json()
    assert other["name"] == "sales.csv"
    listed = service.get("/datasets", params={"limit": 1}).json()
    assert [each["id"] for each in listed["datasets"]] == [other["id"]]
    more = service.get("/datasets", params={"cursor": listed["next_cursor"]}).json()
    assert stored in more["datasets"]
    gone = service.delete(f"/datasets/{stored['id']}")
    assert gone.json() == {"id": stored["id"], "deleted": True, "trained": []}
    assert "there is no data set" in message(service.get(f"/datasets/{stored['id']}"), 404)
    assert "there is no data set" in message(service.delete(f"/datasets/{stored['id']}"), 404)
    assert not (home / "data" / "datasets" / stored["id"]).exists()
    assert left(home) == []


def test_a_data_set_that_a_job_needs_stays(service: httpx.Client, settings: Settings) -> None:
    stored = upload(service, "\n".join([HEADER, *weekly("needed")])).json()
    engine = open_database(settings.database)
    book = Book(engine)
    job, _ = book.add(Asked("finetune", "sales", stored["id"], {}), actor="me", most_queued=9)
    told = message(service.delete(f"/datasets/{stored['id']}"), 409)
    assert f"is needed by the job {job.id}" in told
    book.cancel(job.id)
    assert service.delete(f"/datasets/{stored['id']}").status_code == 200
    engine.dispose()


def test_a_file_that_is_named_is_taken_in(service: httpx.Client, home: Path) -> None:
    for uri in ("sales.csv.gz", f"file://{home}/root/sales.csv.gz", f"{home}/root/sales.csv.gz"):
        made = service.post("/datasets", json={"uri": uri})
        assert made.status_code in {200, 201}, made.text
        assert made.json()["name"] == "sales.csv.gz"
    made = service.post("/datasets", json={"uri": "inner/orders.csv", "kind": "events"})
    assert made.json()["types"] == {"purchase": 1}


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("../secret.csv", "goes up by `..`"),
        ("inner/../../secret.csv", "goes up by `..`"),
        ("file:///etc/passwd", "is not under the allowed directory"),
        ("/etc/passwd", "is not under the allowed directory"),
        ("link.csv", "links are not followed"),
        ("out/secret.csv", "links are not followed"),
        ("file:%2e%2e/secret.csv", "goes up by `..`"),
        ("http://127.0.0.1/sales.csv", "names a network address"),
        ("s3://bucket/sales.csv", "names a network address"),
        ("file://elsewhere/sales.csv", "names a network address"),
        ("nothing.csv", "there is no such file"),
        ("inner", "is no file"),
        ("pipe", "is no file"),
        ("", "is no file"),
        ("a\0b", "is no path"),
    ],
)
def test_other_files_are_not_read(service: httpx.Client, uri: str, words: str) -> None:
    told = message(service.post("/datasets", json={"uri": uri}), 422)
    assert words in told
    assert "secret" not in told


def test_what_is_wrong_with_a_file_is_told_by_line(service: httpx.Client, home: Path) -> None:
    response = upload(service, CSV.replace("2026-03-", "2026-Mar-"))
    assert "15 of 180 rows cannot be read, more than 1 in 100" in message(response, 422)
    assert response.json()["errors"][1] == {
        "loc": ["line", 10],
        "msg": "line 10: column 'week' holds '2026-Mar-02', which is not a date",
        "type": "not_a_date",
    }
    assert left(home) == []


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"kind": "sales"}, 422, "kind: must be one of series, events"),
        ({"colums": "{}"}, 422, "did you mean 'columns'?"),
        ({"columns": "{item: sku}"}, 400, "`columns` of the form is not JSON"),
        ({"columns": "[1]"}, 422, "columns: must be an object"),
        ({"columns": {"target": "sold"}}, 422, "no column 'sold'"),
        ({"name": "a\nb"}, 422, "name: must be of 1 to 128 printable characters"),
        ({"freq": "fortnight"}, 422, "is no frequency"),
        ({"kind": "events", "freq": "D"}, 422, "events have no frequency"),
        ({"name": "n" * 70_000}, 413, "the field 'name' is larger than 64 KiB"),
    ],
)
def test_what_is_wrong_with_a_form_is_told(
    service: httpx.Client, fields: dict[str, Any], status: int, words: str
) -> None:
    response = upload(service, **fields)
    assert words in message(response, status) + response.text


def test_forms_that_are_none_are_refused(service: httpx.Client, home: Path) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=b"}

    def post(
        body: bytes, headers: dict[str, str] = form, path: str = "/datasets"
    ) -> httpx.Response:
        return service.post(path, content=body, headers=headers)

    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    assert "the form is cut off" in message(post(part + CSV.encode()), 400)
    assert "no multipart form" in message(post(b"not a form"), 400)
    assert "no boundary" in message(post(b"", {"Content-Type": "multipart/form-data"}), 400)
    twice = part + b"x\r\n" + part + b"y\r\n--b--\r\n"
    assert "the form has one `file`" in message(post(twice), 400)
    other = part.replace(b'"file"', b'"data"') + b"x\r\n--b--\r\n"
    assert "the form has one `file`" in message(post(other), 400)
    text = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--b--\r\n'
    assert "file: is missing" in message(post(text), 422)
    packed = {**form, "Content-Encoding": "gzip"}
    assert "compress the file in it" in message(post(gzip.compress(twice), packed), 415)
    assert "application/json" in message(post(twice, path="/predict/sales"), 415)
    assert "application/json" in message(post(b"x", {"Content-Type": "text/csv"}), 415)
    assert left(home) == []


def test_files_that_are_too_large_are_refused(service: httpx.Client, home: Path) -> None:
    text = "\n".join([HEADER, *weekly(*(f"item-{number:04}" for number in range(300)))])
    assert "the file has more than 500,000 bytes" in message(upload(service, text), 413)
    assert len(packed := gzip.compress(text.encode())) < MOST_BYTES
    assert "the file unpacks to more than 500,000 bytes" in message(upload(service, packed), 413)
    head = HEAD.format(port=service.base_url.port, length="9" * 12)
    with socket.create_connection(("127.0.0.1", service.base_url.port or 0)) as line:
        line.sendall(head.encode())
        assert b" 413 " in line.recv(100)
    assert left(home) == []


def test_who_leaves_half_way_leaves_nothing(service: httpx.Client, home: Path) -> None:
    head = HEAD.format(port=service.base_url.port, length=400_000)
    with socket.create_connection(("127.0.0.1", service.base_url.port or 0)) as line:
        line.sendall(head.encode() + CSV.encode())
        wait_until(lambda: bool(left(home)))
    wait_until(lambda: not left(home))
    with socket.create_connection(("127.0.0.1", service.base_url.port or 0)) as line:
        line.sendall(head.encode())  # and nothing more, though the line stays
        assert b" 504 " in line.recv(100)
    wait_until(lambda: not left(home))


def wait_until(holds: Any) -> None:
    until_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.02)
