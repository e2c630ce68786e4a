"""Keys in each database that is supported."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from app.auth import SCOPES, Audit, Keys, digest_of, is_key, life_of
from app.db import AuditRow, migrate, open_database
from app.errors import InvalidInputError, NotFoundError, UnavailableError
from tests.app.databases import url

__all__ = ["url"]


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    migrate(url)
    engine = open_database(url)
    yield engine
    engine.dispose()


def audited(engine: Engine) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What the audit says, in order."""
    with Session(engine) as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.number))
        return [(row.actor, row.action, row.subject, row.facts) for row in rows]


def test_a_key_is_shown_once_and_kept_as_a_digest(engine: Engine) -> None:
    keys = Keys(engine)
    assert not keys.any()
    made, key = keys.create("till", ["train", "predict"], actor="cli", shops=["b", "a"], rate="5/s")
    assert is_key(key.encode())
    assert made.id in key
    assert keys.any()
    kept = keys.credentials()[made.id]
    assert kept.digest == digest_of(key.encode())
    assert kept.caller.scopes == {"predict", "train"}
    assert kept.caller.shops == frozenset({"a", "b"})
    assert str(kept.caller.rate) == "5/s"
    with engine.connect() as connection:
        stored = str(connection.execute(text("SELECT * FROM api_keys")).one())
    assert key[-43:] not in stored


def test_no_two_keys_are_alike(engine: Engine) -> None:
    keys = Keys(engine)
    texts = {keys.create("", ["predict"], actor="cli")[1] for _ in range(20)}
    assert len(texts) == 20
    assert len({each[-43:] for each in texts}) == 20


def test_keys_are_listed_page_by_page_in_the_order_they_were_made(engine: Engine) -> None:
    keys = Keys(engine)
    made = [keys.create(f"{n}", ["predict"], actor="cli")[0] for n in range(5)]
    first = keys.page(3)
    assert [each.name for each in first + keys.page(3, first[-1].number)] == list("01234")
    assert first[0] == made[0]


def test_a_revoked_key_stays_and_is_not_revoked_twice(engine: Engine) -> None:
    keys = Keys(engine)
    made, _ = keys.create("", ["predict"], actor="cli")
    keys.revoke(made.id, actor="boss")
    assert keys.any()
    assert keys.credentials()[made.id].revoked
    assert keys.page(9)[0].state(datetime.now(UTC)) == "revoked"
    for again in (made.id, "0" * 12, "'; DROP TABLE api_keys"):
        with pytest.raises(NotFoundError, match="not revoked yet"):
            keys.revoke(again, actor="boss")


def test_a_key_may_have_an_end(engine: Engine) -> None:
    keys = Keys(engine)
    made, _ = keys.create("", ["predict"], actor="cli", life=life_of("12h"))
    now = datetime.now(UTC)
    assert made.state(now) == "active"
    assert made.state(now + timedelta(hours=11.9)) == "active"
    assert made.state(now + timedelta(hours=12)) == "expired"


def test_who_made_and_who_revoked_is_audited(engine: Engine) -> None:
    keys = Keys(engine)
    made, key = keys.create("till", ["predict"], actor="cli:ann", rate="5/s")
    keys.revoke(made.id, actor="ab12")
    Audit(engine).record("ab12", "model.promote", "sales", version=3)
    facts = {"name": "till", "scopes": ["predict"], "shops": None, "rate": "5/s"}
    assert audited(engine) == [
        ("cli:ann", "key.create", made.id, facts),
        ("ab12", "key.revoke", made.id, {}),
        ("ab12", "model.promote", "sales", {"version": 3}),
    ]
    assert key not in str(audited(engine))


def test_when_a_key_was_used_is_noted(engine: Engine) -> None:
    keys = Keys(engine)
    made, _ = keys.create("", ["predict"], actor="cli")
    other, _ = keys.create("", ["predict"], actor="cli")
    at = datetime.now(UTC)
    keys.note_use({made.id}, at)
    assert {each.id: each.last_used_at for each in keys.page(9)} == {made.id: at, other.id: None}


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"scopes": []}, "scopes: must be one or several of predict, train, admin"),
        ({"scopes": ["root"]}, "not 'root'"),
        ({"name": "x" * 65}, "name: must be at most 64"),
        ({"name": "a\nb"}, "printable"),
        ({"shops": []}, "leave it out to allow all"),
        ({"shops": ["../x"]}, "shops: each must be of 1 to 64 letters"),
        ({"rate": "5"}, "rate: must be a number by a unit of time"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(
    engine: Engine, wish: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"name": "", "scopes": SCOPES, "actor": "cli"} | wish
    with pytest.raises(InvalidInputError, match=words):
        Keys(engine).create(given.pop("name"), given.pop("scopes"), **given)
    assert not Keys(engine).any()


@pytest.mark.parametrize("text", ["", "90", "0d", "90 d", "1y", "3651d", "-1d", "1.5d"])
def test_a_life_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="expires: must be a time such as 90d"):
        life_of(text)


def test_a_database_that_was_not_migrated_is_told(url: str) -> None:
    engine = open_database(url)
    with pytest.raises(UnavailableError, match="shopcast migrate"):
        Keys(engine).any()
    engine.dispose()
