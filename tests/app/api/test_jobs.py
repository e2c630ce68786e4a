"""Jobs and schedules as clients see them; the worker is played by the tests, through its book."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.db import open_database
from app.diary import Diary
from app.jobs import Book, CurvePoint, Progress, directory_of
from app.settings import Settings
from tests.app.databases import know_dataset
from tests.live import running

JOB = {"kind": "finetune", "model": "sales", "dataset_id": f"ds_{'0' * 16}", "method": "lora"}
ME = "here:1:me"


class Place:
    """A service, and the book that it shares with a worker."""

    def __init__(self, client: httpx.Client, settings: Settings) -> None:
        self.client, self.directory, self.url = client, settings.data_dir, settings.database
        self.book = Book(open_database(settings.database))

    def ask(self, **words: Any) -> dict[str, Any]:
        response = self.client.post("/jobs", json=JOB | words)
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job

    def refused(self, **words: Any) -> str:
        response = self.client.post("/jobs", json=JOB | words)
        assert response.status_code == 422, response.text
        return str(response.json()["detail"])


@pytest.fixture(scope="module")
def place(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("jobs")
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=directory, max_queued_jobs=20)
    with running(settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        know_dataset(settings.database, str(JOB["dataset_id"]))
        yield Place(client, settings)


def test_a_job_is_queued_shown_and_listed(place: Place) -> None:
    response = place.client.post("/jobs", json=JOB | {"steps": 50})
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["Location"] == f"/jobs/{job['id']}"
    assert (job["state"], job["progress"], job["created_by"]) == ("queued", 0.0, "anonymous")
    assert job["request"]["steps"] == 50
    assert place.client.get(f"/jobs/{job['id']}").json() == job
    later = place.ask(promote="never")
    listed = place.client.get("/jobs", params={"limit": 1}).json()
    assert [each["id"] for each in listed["jobs"]] == [later["id"]]
    after = place.client.get("/jobs", params={"limit": 1, "cursor": listed["next_cursor"]}).json()
    assert [each["id"] for each in after["jobs"]] == [job["id"]]
    found = place.client.get("/jobs", params={"kind": "finetune", "state": "failed"}).json()
    assert found == {"jobs": [], "next_cursor": None}
    assert place.client.get("/jobs/job_nowhere").status_code == 404
    assert place.client.get("/jobs", params={"cursor": "job_nowhere"}).status_code == 422
    assert place.client.get("/jobs", params={"state": "asleep"}).status_code == 422


def test_what_cannot_be_done_is_told(place: Place) -> None:
    assert "kind: must be one of finetune" in place.refused(kind="dream")
    assert "dataset_id" in place.refused(dataset_id="../../etc")
    assert "prediction_length" in place.refused(prediction_length=0)
    assert "time_budget_s" in place.refused(time_budget_s=0)
    assert "promote" in place.refused(promote="yes")
    assert "no such field" in place.refused(kind="evaluate", trials=3)
    assert "'colour' is no setting" in place.refused(colour="red")
    assert "attention takes no keys" in place.refused(method="prefix")
    assert "rate must be above 0" in place.refused(learning_rate=0)
    assert "steps must be a whole number" in place.refused(steps="many")
    assert "horizons_days: is of purchase" in place.refused(horizons_days=[30])
    assert place.client.post("/jobs", json=[]).status_code == 422
    assert place.client.post("/jobs", content=b"{").status_code == 415


def test_what_cannot_be_done_for_purchases_is_told(place: Place) -> None:
    def refused(**words: Any) -> str:
        return place.refused(**{"model": "purchase", "method": "lora", **words})

    assert "is of series, not of events" in refused()
    assert "prefix is not possible for this network" in refused(method="prefix")
    assert "method must be one of lora, full, head, adalora, ia3, not" in refused(method="vera")
    assert "augment must be one of shorten, amounts" in refused(augment=["gaps"])
    assert "'space' is no setting" in refused(space="values")
    assert "prediction_length: is of sales; say `horizons_days`" in refused(prediction_length=7)
    assert "horizons_days" in refused(horizons_days=[0])
    assert "teacher" in refused(kind="distill")
    assert "teaching must lie in [0, 1]" in refused(kind="distill", teacher=1, teaching=2)
    assert "replay must lie in [0, 1)" in refused(replay=1)


def test_a_key_makes_one_job_of_two_requests(place: Place) -> None:
    header = {"Idempotency-Key": "monday"}
    first, again = (place.client.post("/jobs", json=JOB, headers=header) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    other = place.client.post("/jobs", json=JOB | {"promote": "never"}, headers=header)
    assert other.status_code == 422
    assert "new key" in other.json()["detail"]
    bad = place.client.post("/jobs", json=JOB, headers={"Idempotency-Key": "x" * 200})
    assert bad.status_code == 422


def test_a_job_is_followed_as_it_goes(place: Place) -> None:
    job = place.ask()
    place.book.take(job["id"], ME)

    def work() -> None:
        time.sleep(0.7)
        curve = [CurvePoint(10, 0.5, 0.4)]
        place.book.report(job["id"], ME, Progress("fit", 0.5, 3.0, curve))
        time.sleep(0.7)
        place.book.end(job["id"], ME, "failed", error="too few series")

    thread = threading.Thread(target=work)
    thread.start()
    with place.client.stream("GET", f"/jobs/{job['id']}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        seen = [json.loads(line[6:]) for line in response.iter_lines() if line[:5] == "data:"]
    thread.join()
    assert [each["state"] for each in seen] == ["running", "running", "failed"]
    assert (seen[1]["step"], seen[1]["progress"], seen[1]["eta_s"]) == ("fit", 0.5, 3.0)
    assert seen[1]["loss"] == [{"step": 10, "training": 0.5, "validation": 0.4}]
    assert seen[2]["error"] == "too few series"


def test_a_waiting_job_is_cancelled_at_once_and_an_ended_one_not(place: Place) -> None:
    job = place.ask()
    cancelled = place.client.post(f"/jobs/{job['id']}/cancel", json={})
    assert cancelled.json()["state"] == "cancelled"
    assert place.client.post(f"/jobs/{job['id']}/cancel", json={}).status_code == 200
    ended = place.ask()
    place.book.take(ended["id"], ME)
    place.book.end(ended["id"], ME, "failed", error="too few series")
    refused = place.client.post(f"/jobs/{ended['id']}/cancel", json={})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:shopcast:problem:conflict")


def test_what_a_job_made_is_to_be_had(place: Place) -> None:
    job = place.ask()
    path = f"/jobs/{job['id']}"
    assert place.client.get(f"{path}/result").status_code == 409
    place.book.take(job["id"], ME)
    files = directory_of(place.directory, job["id"])
    Diary(files).write("fit begins")
    (files / "scores.json").write_text("{}")
    place.book.found(job["id"], ME, {"write": {"file": "scores.json"}})
    place.book.end(job["id"], ME, "succeeded")
    assert place.client.get(path).json()["result"] == f"{path}/result"
    assert place.client.get(f"{path}/result").text == "{}"
    assert "fit begins" in place.client.get(f"{path}/log").text


def test_a_schedule_is_stored_changed_and_forgotten(place: Place) -> None:
    body = {"cron": "30 2 * * 1", "timezone": "Europe/Berlin", "job": JOB}
    stored = place.client.put("/schedules/weekly", json=body)
    assert stored.status_code == 201, stored.text
    assert stored.json()["next_at"].endswith("30:00Z")
    assert stored.json()["job"]["method"] == "lora"
    assert place.client.put("/schedules/weekly", json=body | {"enabled": False}).status_code == 200
    assert place.client.get("/schedules/weekly").json()["enabled"] is False
    assert len(place.client.get("/schedules").json()["schedules"]) == 1
    for wrong, place_of in (
        ({"cron": "every monday"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"timezone": "Mars/Phobos"}, "timezone"),
        ({"job": JOB | {"promote": "yes"}}, "job.promote"),
    ):
        refused = place.client.put("/schedules/weekly", json=body | wrong)
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith(place_of)
    assert place.client.delete("/schedules/weekly").status_code == 204
    assert place.client.delete("/schedules/weekly").status_code == 404


def test_a_repeat_brings_the_job_back_although_its_dataset_is_gone(place: Place) -> None:
    body = JOB | {"kind": "evaluate", "dataset_id": f"ds_{'2' * 16}"}
    body.pop("method")
    know_dataset(place.url, str(body["dataset_id"]))
    header = {"Idempotency-Key": "gone"}
    first = place.client.post("/jobs", json=body, headers=header)
    assert first.status_code == 202, first.text
    place.client.post(f"/jobs/{first.json()['id']}/cancel")
    assert place.client.delete(f"/datasets/{body['dataset_id']}").status_code == 200
    assert place.client.post("/jobs", json=body).status_code == 404
    again = place.client.post("/jobs", json=body, headers=header)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


def test_more_jobs_than_may_wait_are_refused(place: Place) -> None:
    for _ in range(20):
        response = place.client.post("/jobs", json=JOB)
        if response.status_code != 202:
            break
    assert (response.status_code, response.headers["Retry-After"]) == (503, "60")


def test_a_dataset_that_does_not_fit_is_told_at_once(place: Place) -> None:
    absent = place.client.post("/jobs", json=JOB | {"dataset_id": f"ds_{'1' * 16}"})
    assert absent.status_code == 404
    assert "there is no data set" in absent.json()["detail"]
    body = {"kind": "predict", "model": "purchase", "dataset_id": JOB["dataset_id"]}
    other = place.client.post("/jobs", json=body)
    assert other.status_code == 422
    assert "is of series, not of events" in other.json()["detail"]
