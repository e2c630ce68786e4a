"""The documentation works offline and says what the service does."""

import re
from html import unescape
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from app.api import events, profiles, purchase
from app.api.inputs import FIELDS as INPUT_FIELDS
from app.api.purchase_words import ANSWER as FORETOLD
from app.api.purchase_words import EXAMPLE as CUSTOMERS
from app.api.purchase_words import PurchaseRequest, PurchaseResponse
from app.api.sales import FIELDS, PARAMETERS
from app.api.words import ANSWER, EXAMPLE, SalesRequest
from tests.app.api.test_inputs import CASES
from tests.app.api.test_purchase import CASES as PURCHASE_CASES

ADDRESS = re.compile(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""")
#: What only the settings of the service, or the rest of the request, make wrong.
BY_CONTEXT = (
    *("64 used", "4 targets", "3", "at most 96", "at most 6", "passes year", "nearest", "needed"),
    *("ISO 8601", "frequency", "timestamps: true", "twice", "has ", "among", "mixes numbers"),
    '"production"',
)
#: The same of customers; and what no schema says of times and of several fields at once.
OF_CUSTOMERS = (
    *(
        "as_of",
        "ISO 8601",
        "a zone",
        "no zone",
        "is missing; send a time",
        "below zero",
        "are read",
        "twice",
    ),
    *("local time", "Europe/Berlin", "must be one of", "without effect", '"production"'),
)


def test_the_page_loads_from_this_host_alone(service: httpx.Client) -> None:
    page = service.get("/docs")
    addresses = [unescape(each) for each in ADDRESS.findall(page.text)]
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/"), address
        assert service.get(address).status_code == 200, address
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert '"validatorUrl": null' in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert "'sha256-" in policy


def test_what_is_packaged_names_no_other_host_to_load_from(service: httpx.Client) -> None:
    style = service.get("/docs/assets/swagger-ui.css").text
    assert not re.search(r"url\(['\"]?https?:", style)
    assert "@import" not in style


def test_the_schema_describes_request_and_answer(service: httpx.Client) -> None:
    schema = service.get("/openapi.json").json()
    words = schema["components"]["schemas"]
    assert set(words["SalesRequest"]["properties"]) == FIELDS
    assert set(words["SeriesRequest"]["properties"]) == INPUT_FIELDS
    assert set(words["SalesParameters"]["properties"]) == PARAMETERS
    for path in ("/predict/sales", "/invocations"):
        operation = schema["paths"][path]["post"]
        assert operation["requestBody"]["required"] is True
        assert set(operation["responses"]) >= {"200", "400", "413", "415", "422", "503", "504"}
    assert {"/models", "/models/{name}", "/healthz", "/readyz", "/ping", "/metrics"} <= set(
        schema["paths"]
    )
    assert "HTTPValidationError" not in words


def test_the_schema_describes_customers_and_profiles(service: httpx.Client) -> None:
    schema = service.get("/openapi.json").json()
    words = schema["components"]["schemas"]
    assert set(words["PurchaseRequest"]["properties"]) == purchase.FIELDS
    assert set(words["PurchaseParameters"]["properties"]) == purchase.PARAMETERS
    assert set(words["CustomerRequest"]["properties"]) == events.FIELDS
    assert set(words["EventRequest"]["properties"]) == events.EVENT_FIELDS
    assert set(words["ProfileParameters"]["properties"]) == profiles.PARAMETERS
    operation = schema["paths"]["/predict/purchase-probability"]["post"]
    assert set(operation["responses"]) >= {"200", "400", "404", "413", "415", "422", "503", "504"}
    profile = schema["paths"]["/shops/{shop}/profile"]
    assert set(profile) == {"put", "get", "delete"}
    assert set(profile["put"]["responses"]) >= {"200", "403", "413", "415", "422", "503"}
    deleted = {"204", "400", "401", "403", "404", "421", "422", "429", "500", "503"}
    assert set(profile["delete"]["responses"]) == deleted


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/models", {"200", "400", "401", "403", "421", "429", "500", "503"}),
        ("/models/{name}", {"200", "400", "401", "403", "404", "421", "429", "500", "503"}),
        ("/metrics", {"200", "400", "401", "403", "421", "429", "500", "503"}),
        ("/healthz", {"200", "421", "500", "503"}),
        ("/readyz", {"200", "421", "500", "503"}),
        ("/ping", {"200", "421", "500", "503"}),
        (
            "/shops/{shop}/profile",
            {"200", "400", "401", "403", "404", "421", "422", "429", "500", "503"},
        ),
        ("/keys", {"200", "400", "401", "403", "421", "422", "429", "500", "503"}),
    ],
)
def test_a_path_says_what_it_may_answer(
    service: httpx.Client, path: str, statuses: set[str]
) -> None:
    schema = service.get("/openapi.json").json()
    assert set(schema["paths"][path]["get"]["responses"]) == statuses


def test_an_operation_names_the_scope_that_it_needs(service: httpx.Client) -> None:
    schema = service.get("/openapi.json").json()
    assert set(schema["components"]["securitySchemes"]) == {"bearer", "header"}
    scopes = {
        (path, method): [each["bearer"] for each in operation["security"] if "bearer" in each]
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    }
    assert scopes["/predict/sales", "post"] == [["predict"]]
    assert scopes["/shops/{shop}/profile", "put"] == [["train"]]
    assert scopes["/keys", "get"] == [["admin"]]
    assert scopes["/healthz", "get"] == []


def test_what_forecasts_says_that_another_host_is_refused(service: httpx.Client) -> None:
    schema = service.get("/openapi.json").json()
    assert "421" in schema["paths"]["/predict/sales"]["post"]["responses"]


def test_every_reference_of_the_schema_leads_somewhere(service: httpx.Client) -> None:
    schema = service.get("/openapi.json")
    words = schema.json()["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', schema.text):
        assert name in words


def test_the_examples_are_true(service: httpx.Client) -> None:
    response = service.post("/predict/sales", json=EXAMPLE)
    assert response.status_code == 200, response.text
    assert list(response.json()) == list(ANSWER)
    assert list(response.json()["predictions"][0]) == list(ANSWER["predictions"][0])  # type: ignore[index,arg-type]


@pytest.mark.parametrize(
    ("sent", "parameters"),
    [case[:2] for case in CASES if not any(part in case[3] for part in BY_CONTEXT)],
)
def test_the_words_refuse_what_the_service_refuses(sent: Any, parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SalesRequest.model_validate({"inputs": [sent], "parameters": parameters})


def test_the_words_accept_what_the_service_accepts() -> None:
    SalesRequest.model_validate(EXAMPLE)
    two = {"item_id": 7, "start": "2026-08-01", "target": [[1, None], [2.5, 3]]}
    SalesRequest.model_validate({"inputs": [two], "parameters": None})


def test_the_example_of_customers_is_true(shop: httpx.Client) -> None:
    response = shop.post("/predict/purchase-probability", json=CUSTOMERS)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert list(answer) == list(FORETOLD)
    assert list(answer["predictions"][0]) == list(FORETOLD["predictions"][0])  # type: ignore[index,arg-type]
    assert list(answer["meta"]) == list(FORETOLD["meta"])  # type: ignore[arg-type]
    PurchaseResponse.model_validate(answer)


@pytest.mark.parametrize(
    ("sent", "parameters"),
    [case[:2] for case in PURCHASE_CASES if not any(part in case[3] for part in OF_CUSTOMERS)],
)
def test_the_words_of_customers_refuse_what_the_service_refuses(
    sent: Any, parameters: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        PurchaseRequest.model_validate({"inputs": [sent], "parameters": parameters})


def test_the_words_of_customers_accept_what_the_service_accepts() -> None:
    PurchaseRequest.model_validate(CUSTOMERS)
    PurchaseRequest.model_validate({"inputs": [{}], "parameters": None})
