"""`shopcast datasets` as a person at a terminal sees it, on this machine and at a server."""

import json
from pathlib import Path

import pytest

from app.settings import Settings
from tests.app.test_cli import Terminal
from tests.live import running

ROWS = "".join(f"sku-{n},2026-01-{day:02},{day}\n" for n in range(3) for day in range(1, 29))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sales.csv"
    path.write_text("article,day,units\n" + ROWS)
    return path


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal({"SHOPCAST_DATA_DIR": str(tmp_path / "var")})


def check(terminal: Terminal, file: Path, *where: str) -> None:
    """Add, list, show and delete."""
    columns = ("--column", "target=units", "--column", "item_id=article")
    out, _ = terminal.run("datasets", "add", str(file), "--json", *columns, *where)
    added = json.loads(out[out.index("{") :])  # a server in this process tells of slow requests
    assert (added["rows"], added["series"], added["freq"]) == (84, 3, "D")
    assert added["columns"]["target"] == "units"
    out, _ = terminal.run("datasets", "list", *where)
    assert added["id"] in out
    assert "sales.csv" in out
    out, _ = terminal.run("datasets", "show", added["id"], *where)
    assert "2026-01-28" in out
    out, _ = terminal.run("datasets", "delete", added["id"], *where)
    assert "is deleted" in out
    _, err = terminal.run("datasets", "show", added["id"], *where, code=2)
    assert "there is no data set" in err


def test_on_this_machine(terminal: Terminal, file: Path) -> None:
    check(terminal, file)


def test_at_a_server(terminal: Terminal, file: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    settings = Settings(data_dir=tmp_path / "far", series_checkpoint=tiny_checkpoint, device="cpu")
    with running(settings) as address:
        check(terminal, file, "--server", address)


def test_what_is_wrong_with_a_file_is_told_by_line(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text("item_id,timestamp,target\n" + ROWS.replace(",2026-01-03,3", ",2026-01-03,x"))
    _, err = terminal.run("datasets", "add", str(path), code=2)
    assert "target" in err
    assert "line" in err


def test_a_column_has_to_say_what_it_is(terminal: Terminal, file: Path) -> None:
    _, err = terminal.run("datasets", "add", str(file), "--column", "units", code=2)
    assert "WHAT=NAME" in err
