"""Keys made, listed and revoked over HTTP."""

from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from tests.live import running

FILE_KEY = "0123456789abcdef" * 4


def test_a_life_of_keys(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "admin-key"
    file.write_text(FILE_KEY)
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path, admin_key_file=file)
    with running(settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        boss = {"Authorization": f"Bearer {FILE_KEY}"}
        assert client.get("/keys").status_code == 401
        wish = {"name": "till", "scopes": ["predict"], "rate": "50/s", "expires": "90d"}
        response = client.post("/keys", json=wish, headers=boss)
        assert response.status_code == 201, response.text
        made = response.json()
        till = {"X-API-Key": made.pop("key")}
        assert made["state"] == "active"
        assert (made["name"], made["scopes"], made["rate"]) == ("till", ["predict"], "50/s")
        assert client.get("/models", headers=till).status_code == 200
        assert client.get("/keys", headers=till).status_code == 403
        client.post("/keys", json={"scopes": ["train"], "shops": ["main"]}, headers=boss)

        first = client.get("/keys?limit=1", headers=boss).json()
        assert first["keys"] == [made]
        rest = client.get(f"/keys?cursor={first['next_cursor']}", headers=boss).json()
        assert [each["shops"] for each in rest["keys"]] == [["main"]]
        assert rest["next_cursor"] is None

        assert client.delete(f"/keys/{made['id']}", headers=boss).status_code == 204
        assert client.get("/models", headers=till).status_code == 401
        assert client.delete(f"/keys/{made['id']}", headers=boss).status_code == 404


@pytest.mark.parametrize(
    ("wish", "where"),
    [
        ({}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"scopes": ["predict"], "expire": "90d"}, "expire"),
        ({"scopes": ["predict"], "expires": "soon"}, "expires"),
        ({"scopes": ["predict"], "rate": "fast"}, "rate"),
        ({"scopes": ["predict"], "shops": ["a b"]}, "shops"),
        ([], ""),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(
    service: httpx.Client, wish: object, where: str
) -> None:
    response = service.post("/keys", json=wish)
    assert response.status_code == 422
    assert response.json()["errors"][0]["msg"].startswith(where)


def test_a_body_that_is_no_small_one_is_refused(service: httpx.Client) -> None:
    assert service.post("/keys", json={"name": "x" * 199_000}).status_code == 422
    response = service.post("/keys", content=b"{", headers={"Content-Type": "application/json"})
    assert response.status_code == 400
