"""`shopcast keys` as a person at a terminal sees it."""

import csv
from io import StringIO
from pathlib import Path

import pytest

from app.settings import Settings
from tests.app.test_cli import Terminal
from tests.live import running


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal({"SHOPCAST_DATA_DIR": str(tmp_path / "var")})


def listed(terminal: Terminal) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(terminal.run("keys", "list")[0])))


def test_a_key_is_made_listed_and_revoked(terminal: Terminal) -> None:
    out, err = terminal.run(
        *("keys", "create", "--name", "till", "--scope", "predict,train"),
        *("--rate", "50/s", "--expires", "90d", "--shops", "a,b"),
    )
    key = out.strip()
    assert key.startswith("sc_")
    assert "\n" not in key
    assert key not in err
    [line] = listed(terminal)
    assert line["id"] in key
    assert (line["name"], line["scopes"], line["shops"]) == ("till", "predict,train", "a,b")
    assert (line["rate"], line["state"], line["last used"]) == ("50/s", "active", "")
    assert key[16:] not in str(line)
    terminal.run("keys", "revoke", line["id"])
    assert listed(terminal)[0]["state"] == "revoked"
    _, err = terminal.run("keys", "revoke", line["id"], code=2)
    assert "there is no key" in err


def test_a_key_is_shown_to_a_server(
    terminal: Terminal, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    key = terminal.run("keys", "create", "--scope", "predict")[0].strip()
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path / "var")
    with running(settings) as url:
        _, err = terminal.run("models", "--server", url, code=1)
        assert "SHOPCAST_KEY or --key shows one" in err
        assert '"sales"' in terminal.run("models", "--server", url, "--key", key)[0]
        by_environment = Terminal({"SHOPCAST_KEY": key})
        assert '"sales"' in by_environment.run("models", "--server", url)[0]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--scope", "root", "scopes: must be one or several of predict, train, admin"),
        ("--rate", "5", "rate: must be a number by a unit"),
        ("--expires", "soon", "expires: must be a time such as 90d"),
        ("--shops", "a b", "shops: each must be of 1 to 64"),
    ],
)
def test_an_option_that_makes_no_sense_is_told(
    terminal: Terminal, option: str, value: str, words: str
) -> None:
    _, err = terminal.run("keys", "create", option, value, code=2)
    assert words in err
    assert listed(terminal) == []
