"""`shopcast finetune` and `shopcast jobs` as a person at a terminal sees them."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from app.db import migrate
from app.settings import Settings
from tests.app.databases import know_dataset
from tests.app.test_cli import Terminal
from tests.app.test_worker import COMMAND
from tests.live import running

DATASET = f"ds_{'0' * 16}"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    settings = Settings(data_dir=tmp_path / "var")
    migrate(settings.database)
    know_dataset(settings.database, DATASET)
    return Terminal({"SHOPCAST_DATA_DIR": str(tmp_path / "var")})


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[None]:
    own = {"SHOPCAST_DATA_DIR": str(tmp_path / "var"), "SHOPCAST_JOB_NICE": "0"}
    command = [sys.executable, "-c", COMMAND]
    process = subprocess.Popen(command, env=os.environ | own)  # noqa: S603 - our own
    yield
    process.kill()
    process.wait()


def listed(terminal: Terminal, *where: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(terminal.run("jobs", "list", *where)[0])))


def ask(terminal: Terminal, *more: str) -> str:
    out, _ = terminal.run("finetune", "sales", "--dataset", DATASET, *more)
    return out.strip()


def test_a_job_is_asked_for_listed_shown_and_cancelled(terminal: Terminal) -> None:
    job = ask(terminal, "--method", "full", "--steps", "50", "--set", "learning-rate=1e-4")
    [line] = listed(terminal)
    assert (line["id"], line["kind"], line["state"]) == (job, "finetune", "queued")
    shown = json.loads(terminal.run("jobs", "show", job)[0])
    assert (shown["request"]["method"], shown["request"]["learning_rate"]) == ("full", 1e-4)
    assert terminal.run("jobs", "cancel", job)[0] == "cancelled\n"
    assert terminal.run("jobs", "logs", job)[0] == ""
    assert listed(terminal)[0]["state"] == "cancelled"
    _, err = terminal.run("jobs", "show", "job_0", code=2)
    assert "there is no job 'job_0'" in err


def test_what_cannot_be_asked_is_told(terminal: Terminal) -> None:
    dataset = ("finetune", "sales", "--dataset", DATASET)
    _, err = terminal.run(*dataset, "--set", "colour=red", code=2)
    assert "'colour' is no setting; there are method, rank" in err
    _, err = terminal.run(*dataset, "--set", "colour", code=2)
    assert "must be NAME=VALUE" in err
    _, err = terminal.run("finetune", "sales", "--dataset", "mine", code=2)
    assert "dataset_id" in err


@pytest.mark.usefixtures("worker")
def test_a_job_is_looked_on_until_its_end(terminal: Terminal) -> None:
    job = ask(terminal)
    _, err = terminal.run("jobs", "watch", job, code=1)  # the road of this worker wants `most`
    assert "something went wrong in the step read" in err
    out, _ = terminal.run("jobs", "logs", job, "--follow")
    assert "read begins" in out


def test_a_server_is_asked_like_the_database(
    terminal: Terminal, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path / "there")
    with running(settings) as url:
        know_dataset(settings.database, DATASET)
        job = ask(terminal, "--server", url)
        assert [line["id"] for line in listed(terminal, "--server", url)] == [job]
        assert terminal.run("jobs", "cancel", job, "--server", url)[0] == "cancelled\n"
        _, err = terminal.run("jobs", "cancel", "job_0", "--server", url, code=2)
        assert "there is no job" in err
    assert listed(terminal) == []
    _, err = terminal.run("jobs", "list", "--server", "http://127.0.0.1:9", code=1)
    assert "no answer from http://127.0.0.1:9" in err
