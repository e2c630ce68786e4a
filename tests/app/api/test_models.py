"""Which models answer."""

import httpx


def test_a_model_shows_its_versions_and_limits(service: httpx.Client) -> None:
    model = service.get("/models/sales").json()
    assert model["name"] == "sales"
    assert model["aliases"] == {"production": 1}
    (version,) = model["versions"]
    assert version["version"] == 1
    assert version["created_at"].endswith("Z")
    assert version["network"]["context_length"] == 256
    assert version["network"]["runtime"] in {"torch", "onnx"}
    assert model["limits"]["inputs"] == 8


def test_the_list_shows_them_all(shop: httpx.Client) -> None:
    listed = shop.get("/models").json()
    models = [shop.get(f"/models/{name}").json() for name in ("sales", "purchase")]
    assert listed == {"models": models, "next_cursor": None}


def test_a_model_of_customers_shows_its_own_limits(shop: httpx.Client) -> None:
    model = shop.get("/models/purchase").json()
    assert model["versions"][-1]["network"]["architecture"] == "Poisson"
    assert model["limits"]["horizon_days"] == 365
    assert model["limits"]["events"] == 20


def test_an_unknown_model_is_not_found(service: httpx.Client) -> None:
    response = service.get("/models/weather")
    assert response.status_code == 404
    assert "there is no model 'weather'" in response.json()["detail"]
