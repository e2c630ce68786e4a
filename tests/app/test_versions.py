"""Versions on disk and in each database that is supported, whoever is killed or comes at a time."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import versions as module
from app.db import MIGRATIONS, AuditRow, migrate, open_database
from app.errors import ConflictError, NotFoundError, ShopcastError, UnavailableError
from app.settings import Settings
from app.versions import BASE, Manifest, Versions, digest_of
from tests.app.databases import url

__all__ = ["url"]

PATIENCE_S = 60
TRAINED = Manifest("finetune", parent=1, dataset_id="ds_1", job_id="job_1", trained_until="2026-06")


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    migrate(url)
    return Settings(database_url=url, data_dir=tmp_path / "data", keep_versions=3)


@pytest.fixture
def versions(settings: Settings) -> Iterator[Versions]:
    database = open_database(settings.database)
    yield Versions(database, settings)
    database.dispose()


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a directory that passes for a checkpoint."""

    def make(content: str) -> Path:
        directory = tmp_path / "made" / content
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        (directory / "model.safetensors").write_bytes(content.encode() * 1000)
        (directory / "pytorch_model.bin").write_bytes(b"never read, never kept")
        return directory

    return make


Made = Callable[[str], Path]


def test_what_is_registered_is_kept_with_where_it_comes_from(
    versions: Versions, made: Made, settings: Settings
) -> None:
    source = made("a")
    first = versions.register("sales", source, Manifest("shipped"))
    second = versions.register("sales", made("b"), TRAINED)
    assert (first, second) == (1, 2)
    kept = versions.get("sales", 2)
    assert (kept.manifest.parent, kept.manifest.job_id) == (1, "job_1")
    assert kept.size_bytes == 1002
    directory = versions.checkpoint_of("sales", 2).directory
    assert directory == settings.data_dir / "models" / "sales" / "2"
    assert {each.name for each in directory.iterdir()} == {
        *("config.json", "model.safetensors", "manifest.json")
    }
    said = json.loads((directory / "manifest.json").read_text())
    assert said["dataset_id"] == "ds_1"
    assert said["code_version"]
    assert versions.names() == ["sales"]
    assert [each.version for each in versions.trained_on("ds_1")] == [2]
    assert versions.get("sales", 1).digest == digest_of(source)


def test_the_same_content_keeps_its_number(versions: Versions, made: Made) -> None:
    a, b = made("a"), made("b")
    numbers = [versions.register("sales", each, TRAINED) for each in (a, b, a, b)]
    assert numbers == [1, 2, 1, 2]
    assert versions.register("purchase", a, TRAINED) == 1


def test_a_score_that_is_no_number_is_kept_as_null(versions: Versions, made: Made) -> None:
    told = Manifest("finetune", evaluation={"gain": float("nan"), "mase": 0.5})
    number = versions.register("sales", made("a"), told)
    assert versions.get("sales", number).manifest.evaluation == {"gain": None, "mase": 0.5}


def test_many_at_once_get_a_number_each(settings: Settings, versions: Versions, made: Made) -> None:
    wide = settings.model_copy(update={"keep_versions": 20})
    directories = [made(f"{each}") for each in range(8)]
    numbers: list[int] = []

    def register(directory: Path) -> None:
        database = open_database(wide.database)
        numbers.append(Versions(database, wide).register("sales", directory, TRAINED))
        database.dispose()

    threads = [threading.Thread(target=register, args=(each,)) for each in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [each.version for each in versions.all("sales")] == list(range(1, 9))
    for each in versions.all("sales"):
        versions.checkpoint_of("sales", each.version)


def test_promoted_and_rolled_back(versions: Versions, made: Made) -> None:
    for content in "abc":
        versions.register("sales", made(content), TRAINED)
    for number in (1, 2, 3, 3):
        versions.promote("sales", number, actor="ann")
    now = versions.alias("sales")
    assert now is not None
    assert (now.version, now.previous, now.changed_by) == (3, 2, "ann")
    back = versions.rollback("sales", actor="bob")
    assert (back.version, back.previous, back.changed_by) == (2, 3, "bob")
    assert versions.rollback("sales", actor="bob").version == 3
    versions.delete("sales", 1, actor="ann")
    with Session(versions._database) as session:
        lines = session.scalars(select(AuditRow).order_by(AuditRow.number)).all()
    assert [(each.actor, each.action, each.subject) for each in lines] == [
        ("ann", "model.promote", "sales/1"),
        ("ann", "model.promote", "sales/2"),
        ("ann", "model.promote", "sales/3"),
        ("bob", "model.rollback", "sales/2"),
        ("bob", "model.rollback", "sales/3"),
        ("ann", "model.delete", "sales/1"),
    ]
    assert lines[3].facts == {"alias": "production", "previous": 3}


def test_a_candidate_that_is_promoted_is_none_any_more(versions: Versions, made: Made) -> None:
    for content in "ab":
        versions.register("sales", made(content), TRAINED)
    versions.promote("sales", 1, actor="ann")
    versions.nominate("sales", 2, actor="job_1")
    assert {each.alias: each.version for each in versions.aliases("sales")} == {
        "production": 1,
        "candidate": 2,
    }
    versions.promote("sales", 2, actor="ann")
    assert [each.alias for each in versions.aliases("sales")] == ["production"]


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told_who_did(
    settings: Settings, versions: Versions, made: Made
) -> None:
    for content in "abc":
        versions.register("sales", made(content), TRAINED)
    versions.promote("sales", 1, actor="start")
    gate, outcomes = threading.Barrier(2), {}

    def promote(number: int) -> None:
        database = open_database(settings.database)
        mine = Versions(database, settings)
        gate.wait()
        try:
            mine.promote("sales", number, actor=f"who wants {number}", expected=1)
            outcomes[number] = "won"
        except ConflictError as error:
            outcomes[number] = str(error)
        database.dispose()

    threads = [threading.Thread(target=promote, args=(number,)) for number in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = versions.alias("sales")
    assert now is not None
    loser = 5 - now.version
    assert outcomes[now.version] == "won"
    assert f"version {now.version} now: who wants {now.version} put it there" in outcomes[loser]


def test_what_is_not_there_is_told(versions: Versions, made: Made) -> None:
    with pytest.raises(NotFoundError, match="no version of 'sales' is kept"):
        versions.promote("sales", 1, actor="ann")
    with pytest.raises(NotFoundError, match="no version of 'sales' is kept"):
        versions.rollback("sales", actor="ann")
    versions.register("sales", made("a"), TRAINED)
    with pytest.raises(NotFoundError, match="version 7 of sales does not exist; there are 1"):
        versions.promote("sales", 7, actor="ann")
    with pytest.raises(ConflictError, match="no earlier production"):
        versions.rollback("sales", actor="ann")
    with pytest.raises(ConflictError, match="has no production"):
        versions.promote("sales", 1, actor="ann", expected=3)


def test_a_version_that_is_named_or_needed_is_not_deleted(versions: Versions, made: Made) -> None:
    versions.register("sales", made("a"), TRAINED)
    adapter = versions.register("sales", made("b"), Manifest("finetune", base=1))
    versions.promote("sales", adapter, actor="ann")
    with pytest.raises(ConflictError, match="is production; promote another one first"):
        versions.delete("sales", adapter, actor="ann")
    with pytest.raises(ConflictError, match="is the base of 2"):
        versions.delete("sales", 1, actor="ann")
    found = versions.checkpoint_of("sales", adapter)
    assert found.base == versions.checkpoint_of("sales", 1).directory


def test_what_is_deleted_is_gone_and_its_number_never_comes_again(
    versions: Versions, made: Made
) -> None:
    a, b = made("a"), made("b")
    for directory in (a, b):
        versions.register("sales", directory, TRAINED)
    directory = versions.checkpoint_of("sales", 2).directory
    for number in (1, 2, 1):
        versions.promote("sales", number, actor="ann")
    versions.delete("sales", 2, actor="ann")
    assert not directory.exists()
    with pytest.raises(NotFoundError, match="was deleted"):
        versions.checkpoint_of("sales", 2)
    with pytest.raises(ConflictError, match="no earlier"):
        versions.rollback("sales", actor="ann")
    assert versions.register("sales", b, TRAINED) == 3


def test_the_oldest_go_when_there_are_too_many(versions: Versions, made: Made) -> None:
    versions.register("sales", made("shipped"), Manifest("shipped"))
    for content in "abcde":
        number = versions.register("sales", made(content), TRAINED)
        if content in "ab":
            versions.promote("sales", number, actor="ann")
    # 1 was shipped, 3 is production and 2 what was before
    assert [each.version for each in versions.all("sales")] == [1, 2, 3, 4, 5, 6]
    versions.register("sales", made("f"), TRAINED)
    assert [each.version for each in versions.all("sales")] == [1, 2, 3, 5, 6, 7]


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_version_is_refused_and_can_be_mended(
    versions: Versions, made: Made, how: str
) -> None:
    a, b = made("a"), made("b")
    for directory in (a, b):
        versions.register("sales", directory, TRAINED)
    versions.promote("sales", 1, actor="ann")
    weights = versions.checkpoint_of("sales", 2).directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[77] ^= 1
    weights.unlink()
    if how != "missing":
        weights.write_bytes(content if how == "flipped" else content[:500])
    with pytest.raises(ConflictError, match=r"version 2 of sales is damaged: model\.safetensors"):
        versions.promote("sales", 2, actor="ann")
    now = versions.alias("sales")
    assert now is not None
    assert now.version == 1
    assert versions.register("sales", b, TRAINED) == 2
    assert versions.promote("sales", 2, actor="ann").version == 2


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_full_disk_leaves_nothing(settings: Settings, made: Made, tmp_path: Path) -> None:
    big, small = made("a"), made("b")
    (big / "model.safetensors").write_bytes(b"x" * 4_000_000)
    disk = tmp_path / "data"
    script = f"""
set -e
mkdir -p {disk} && mount -t tmpfs -o size=1m none {disk}
{sys.executable} -c "
from pathlib import Path
from app.db import open_database
from app.errors import UnavailableError
from app.settings import Settings
from app.versions import Manifest, Versions
settings = Settings(database_url='{settings.database}', data_dir=Path('{disk}'))
versions = Versions(open_database(settings.database), settings)
try:
    versions.register('sales', Path('{big}'), Manifest('finetune'))
except UnavailableError as error:
    print(error)
print(versions.all('sales'), list((settings.data_dir / 'models' / 'sales').iterdir()))
print(versions.register('sales', Path('{small}'), Manifest('finetune')))
"
"""
    ran = subprocess.run(  # noqa: S603 - our own interpreter
        ["/usr/bin/env", "unshare", "-m", "-r", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        pytest.skip("this machine lets nobody mount")
    assert ran.stdout.splitlines() == [
        "the version of sales cannot be stored: No space left on device",
        "[] []",
        "1",
    ], ran.stderr


def _register(settings: Settings, directory: Path) -> None:
    Versions(open_database(settings.database), settings).register("sales", directory, TRAINED)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_process_killed_while_it_registers_leaves_no_half_version(
    settings: Settings, versions: Versions, made: Made
) -> None:
    home, endless = settings.data_dir / "models" / "sales", made("a")
    os.truncate(endless / "model.safetensors", 1 << 40)  # takes no room, and minutes to copy
    context = multiprocessing.get_context("spawn")
    victim = context.Process(target=_register, args=(settings, endless))
    victim.start()
    while not list(home.glob("*/model.safetensors")):
        assert victim.is_alive()
    assert module.sweep(home) == 0, "somebody writes it"
    victim.kill()
    victim.join()
    assert [each.name[:5] for each in home.iterdir()] == [".new-"]
    assert versions.names() == []
    assert versions.register("sales", made("b"), TRAINED) == 1
    assert [each.name for each in home.iterdir()] == ["1"]


def test_a_directory_that_no_row_knows_gives_way(
    settings: Settings, versions: Versions, made: Made
) -> None:
    orphan = settings.data_dir / "models" / "sales" / "1"
    orphan.mkdir(parents=True)
    (orphan / "model.safetensors").write_bytes(b"half")
    assert versions.register("sales", made("a"), TRAINED) == 1
    assert (versions.checkpoint_of("sales", 1).directory / "config.json").exists()


def test_an_adapter_is_kept_with_its_base(versions: Versions, made: Made) -> None:
    adapter = made("a")
    (adapter / "adapter_config.json").write_text("{}")
    number = versions.register("sales", adapter, TRAINED, base=made("b"))
    found = versions.checkpoint_of("sales", number)
    assert found.base is None
    assert (found.directory / BASE / "model.safetensors").read_bytes() == b"b" * 1000
    assert versions.register("sales", found.directory, TRAINED) == number


def test_a_database_that_is_gone_is_told(settings: Settings) -> None:
    nowhere = open_database("postgresql+psycopg://127.0.0.1:1/none")
    with pytest.raises(UnavailableError, match="database does not answer"):
        Versions(nowhere, settings).names()
    with pytest.raises(ShopcastError):
        Versions(nowhere, settings).promote("sales", 1, actor="ann")


def test_numbers_of_before_versions_were_kept_never_come_again(
    url: str, made: Made, tmp_path: Path
) -> None:
    database = open_database(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    row = (
        "INSERT INTO model_versions (name, version, fingerprint, source, created_at) "
        "VALUES ('sales', 4, 'ab', 'series', '2026-01-01')"
    )
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(text(row))
    for revision in ("head", "0002", "head"):
        with database.begin() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if revision == "0002" else command.upgrade)(config, revision)
    settings = Settings(database_url=url, data_dir=tmp_path / "data")
    versions = Versions(database, settings)
    assert versions.names() == []
    assert versions.register("sales", made("a"), TRAINED) == 5
    database.dispose()
