"""A dataclass of settings as the options of a command."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.errors import ConfigurationError
from app.options import command_of, settings_of


@dataclass(frozen=True)
class Run:
    """What decides a run."""

    out: Path
    steps: int = 10
    rate: float | None = None
    mixed: bool = True


def test_every_field_is_an_option() -> None:
    seen: list[Run] = []
    command = command_of(Run, seen.append)
    words = ["--out", "here", "--steps", "3", "--rate", "0.5", "--no-mixed"]
    assert CliRunner().invoke(command, words).exit_code == 0
    assert CliRunner().invoke(command, ["--out", "here"]).exit_code == 0
    assert seen == [Run(Path("here"), 3, 0.5, mixed=False), Run(Path("here"))]


def test_a_field_without_default_is_required_and_help_tells_what_it_is() -> None:
    command = command_of(Run, repr)
    assert CliRunner().invoke(command, []).exit_code == 2
    assert "What decides a run." in CliRunner().invoke(command, ["--help"]).output


def test_all_settings_that_are_wrong_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPCAST_CACHE_TTL_S", "-1")
    monkeypatch.setenv("SHOPCAST_DEVICE", "tpu")
    with pytest.raises(ConfigurationError) as told:
        settings_of(port=70_000)
    message = str(told.value)
    assert all(each in message for each in ("SHOPCAST_CACHE_TTL_S", "SHOPCAST_DEVICE", "--port"))
