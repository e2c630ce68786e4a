"""The image and the composition, as far as they can be held to account without a Docker engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.programs import program

ROOT = Path(__file__).parents[2]
SHOPCAST = ("api", "worker", "migrate")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    begin = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[begin:]


def copied() -> list[str]:
    """What the image takes from the context."""
    sources = [rest.split()[:-1] for word, rest in instructions() if word == "COPY"]
    return [each for names in sources if not names[0].startswith("--") for each in names]


def test_the_image_runs_as_nobody_special_with_a_probe_and_no_compiler() -> None:
    stage = last_stage()
    words = dict(stage)
    assert words["USER"] == "10001:10001"
    assert "/healthz" in words["HEALTHCHECK"]
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert not any(re.search(r"apt-get|gcc|pip install", rest) for _, rest in stage)


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    command = [str(linter), "--no-color", str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_are_pinned() -> None:
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert all(":" in base and not base.endswith(":latest") for base in bases)
    services = composed()["services"]
    foreign = [each["image"] for name, each in services.items() if name not in SHOPCAST]
    assert all(re.search(r":v?\d+\.\d+", image) for image in foreign), foreign


def test_what_is_copied_exists_and_is_let_into_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied():
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name


def test_what_is_copied_is_enough_to_install_and_migrate(tmp_path: Path) -> None:
    context, target = tmp_path / "context", tmp_path / "target"
    context.mkdir()
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, context)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(context)], check=True)  # noqa: S603 - our own files
    assert (target / "models" / "pretrained" / "series" / "model.safetensors").exists()
    assert (target / "models" / "pretrained" / "purchase" / "model.safetensors").exists()
    environment = {"PYTHONPATH": str(target), "SHOPCAST_DATA_DIR": str(tmp_path / "data")}
    migrate = [sys.executable, "-m", "app.cli", "migrate"]
    subprocess.run(migrate, check=True, cwd=tmp_path, env=environment)  # noqa: S603 - as above
    assert (tmp_path / "data" / "shopcast.sqlite3").exists()


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What docker-compose makes of the file."""
    directory = tmp_path_factory.mktemp("compose")
    shutil.copy(ROOT / "docker-compose.yml", directory)
    done = subprocess.run(  # noqa: S603 - found above
        [program("docker-compose"), "config"],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "POSTGRES_PASSWORD": "p", "GRAFANA_PASSWORD": "g"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def composed() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def test_the_composition_is_whole(resolved: dict[str, Any]) -> None:
    services = resolved["services"]
    expected = {"api", "worker", "migrate", "redis", "postgres", "prometheus", "grafana"}
    assert set(services) == expected
    for name in SHOPCAST:
        each = services[name]
        assert each["read_only"], name
        assert each["cap_drop"] == ["ALL"], name
    limited = [name for name in services if name != "migrate"]
    assert all(services[name]["deploy"]["resources"]["limits"] for name in limited)
    probed = set(limited) - {"api", "worker"}  # the image's own, and none
    assert all(services[name]["healthcheck"]["test"] for name in probed)


def test_nothing_listens_to_other_machines(resolved: dict[str, Any]) -> None:
    ports = [port for each in resolved["services"].values() for port in each.get("ports", ())]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.findall(r"\$\{\w*(?:PASSWORD|KEY|SECRET|TOKEN)\w*:-", text)


def test_files_that_are_mounted_exist(resolved: dict[str, Any]) -> None:
    mounted = re.findall(r"\./(ops/[\w/]+):", (ROOT / "docker-compose.yml").read_text())
    assert len(mounted) == 3
    assert all((ROOT / each).is_dir() for each in mounted)
    assert json.dumps(resolved).count(":ro") == 3
