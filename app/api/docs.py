"""/docs and /openapi.json: the contract for people and for generators.

Invariant: the page loads nothing from another host, and runs no script but the packaged one and
the one whose hash its Content-Security-Policy names.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from app.api.access import need_of
from app.api.datasets import DatasetRequest
from app.api.job_words import REQUESTS, ScheduleRequest
from app.api.keys import KeyRequest
from app.api.purchase_words import ProfileRequest, PurchaseRequest, PurchaseResponse
from app.api.words import (
    InventoryRequest,
    InventoryResponse,
    ProblemResponse,
    SalesRequest,
    SalesResponse,
)

ASSETS = "/docs/assets"
REFERENCE = "#/components/schemas/{model}"
JSON = "application/json"
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Operation:
    """A route that predicts. request, response: names of their words."""

    summary: str
    request: str
    response: str
    description: str


SALES = ("Forecast sales", "SalesRequest", "SalesResponse")
PREDICTING = {
    "/predict/sales": Operation(
        *SALES,
        description="Quantiles and mean of what comes next, for each history. Each input is "
        "answered alone, as it would be in any company, unless cross_learning is asked for.",
    ),
    "/invocations": Operation(
        *SALES, description="The same as /predict/sales, for SageMaker-style hosts."
    ),
    "/predict/inventory": Operation(
        *("Plan inventory", "InventoryRequest", "InventoryResponse"),
        description="When the shelf is empty, and what to order, on sample paths of the sales "
        "forecast. Within a period the order of events is: receipts, demand, review, order.",
    ),
    "/predict/purchase-probability": Operation(
        *("Foretell purchases", "PurchaseRequest", "PurchaseResponse"),
        description="Whether and on how many days each customer will buy within some days, for "
        "how much, and whether they are gone. The answer depends on the shop's population as much "
        "as on the customer: store its profile and name it by `shop`, or send 200 customers and "
        "more at once, who then make the context of one another.",
    ),
}
WORDS = (
    *(SalesRequest, SalesResponse, InventoryRequest, InventoryResponse),
    *(PurchaseRequest, PurchaseResponse, ProfileRequest),
    *(*REQUESTS, ScheduleRequest, KeyRequest, DatasetRequest),
    ProblemResponse,
)
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
PROBES = frozenset({"/healthz", "/readyz", "/ping"})
MAY_CONFLICT = frozenset({"/jobs/{id}/cancel", "/jobs/{id}/result", "/datasets/{id}"})
PROBLEMS = {
    400: "The body is not JSON, not UTF-8, or its compression is broken.",
    401: "A key is needed, or the one that is shown opens nothing (any more).",
    403: "The key lacks the scope or is bound to other shops, or a page of another site asks.",
    404: "There is no such model, version or profile.",
    409: "That does not go with how things stand; the detail says how they do.",
    413: "The body is larger than the limit, before or after decompression.",
    415: "The body is not application/json, or compressed in an unknown way.",
    421: "The Host header names a host that the service does not answer for.",
    422: "The input cannot be answered; `errors` names each place.",
    429: "The key has made more requests than it may; `Retry-After` says when to try again.",
    500: "The model could not answer, or the service failed; the log has the request id.",
    503: "The service cannot answer now; `Retry-After` says when to try again.",
    504: "The deadline passed.",
    507: "There is no room on the disk to keep the file; nothing of it was kept.",
}
DESCRIPTION = """
Forecasts for shops, from pretrained Transformers.

Times are ISO 8601. A time without a zone is taken as given and comes back without one; with an
offset (`Z`, `+02:00`) it is continued in that offset, since ISO 8601 cannot name a zone: send local
time without a zone where summer time matters. A date stays a date as long as periods are whole
days. `freq` is a pandas frequency alias (`D`, `W-MON`, `MS`, `ME`, `QS`, `YS`, `B`, `h`, `15min`,
`2W`, …), deprecated spellings (`M`, `Q`, `Y`, `H`, `T`, …) included. `start` is the time of the
first value of `target` and has to be a period of `freq`: it is refused, naming the nearest ones,
rather than moved. A bare `W` counts weeks from the start, whatever its weekday.

`null` is a missing value. `NaN`, infinity and numbers beyond float32 are refused, and so are
unknown fields; an optional field that is `null` counts as not given. Of a name that an object has
twice the last value counts. Errors are `application/problem+json` (RFC 9457); up to 20 mistakes of
a request are named at once. Every answer carries `X-Request-ID` (the caller's own, if it is of 1 to
128 letters, digits and `._:+/=-`) and `Server-Timing`. Bodies may be compressed with gzip or zstd.
`X-Request-Timeout-Ms` asks for a shorter deadline than the service's own.

Once an API key exists, every caller needs one, as `Authorization: Bearer KEY` or `X-API-Key: KEY`;
`security` of an operation names the scope that the key must have. A key may have a rate; then
`RateLimit-Policy` says how many requests (`q`) in how many seconds (`w`), and `RateLimit` how many
are left (`r`) and after how many seconds all are there again, or for who was refused one is (`t`).

What GET reads, HEAD asks for without its body; another method than those of a path is answered 405,
with the path's own in `Allow`.
"""


def docs_of(app: FastAPI) -> APIRouter:
    """The routes of the page; its assets are mounted on the application."""
    router = APIRouter(include_in_schema=False)
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs_assets")

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return _page(app.title, root=request.scope.get("root_path", ""))

    @router.get("/openapi.json", response_model=None)
    async def openapi() -> dict[str, Any]:
        return app.openapi()

    return router


def describe(app: FastAPI) -> None:
    """Let the application describe what its routes read and answer themselves."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _page(title: str, *, root: str) -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=title,
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # it would ask another host
    )
    inline = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in inline)
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
    )
    return page


def _sha256(script: bytes) -> str:
    return base64.b64encode(hashlib.sha256(script).digest()).decode()


def _described(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
    )
    _, words = models_json_schema(
        [(each, "validation") for each in WORDS],
        ref_template=REFERENCE,
    )
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(words["$defs"])
    schemas["JobRequest"] = {
        "oneOf": [{"$ref": REFERENCE.format(model=each.__name__)} for each in REQUESTS],
        "discriminator": {"propertyName": "kind"},
    }
    for name in ("HTTPValidationError", "ValidationError"):  # the framework's, never answered
        schemas.pop(name, None)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            operation["responses"].update(_problems(_answered(path, method)))
    schema["paths"] = {path: {"post": _predicting(path)} for path in PREDICTING} | schema["paths"]
    schema["components"]["securitySchemes"] = SECURITY
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            operation["security"] = _security(path, method)
    return schema


def _answered(path: str, method: str) -> list[int]:
    """What a path that does not predict may answer beside 200."""
    if method == "put":
        named = path.startswith("/shops/")  # a data set, which may not be there
        return [status for status in PROBLEMS if status != 404 or named]
    named, probes = "{" in path, path in PROBES
    stored = path.startswith(("/shops/", "/jobs", "/schedules", "/keys", "/datasets"))
    if path in {"/jobs", "/keys", "/datasets"} and method == "post":
        absent = [404] if path == "/jobs" else []  # its data set
        return [400, 401, 403, *absent, 413, 415, 421, 422, 429, 500, 503, 504]
    moved = path.startswith("/models/") and method != "get"
    written = [409] if moved or path in MAY_CONFLICT else []
    return [
        *([] if probes else [400, 401, 403]),
        *([404, *written] if named else []),
        *([413, 415] if moved and method == "post" else []),
        421,
        *([422] if stored or moved else []),
        *([] if probes else [429]),
        500,
        503,  # of the keys' database as well
    ]


def _security(path: str, method: str) -> list[dict[str, list[str]]]:
    """How a caller shows that they may: by a key with a scope, where keys exist, or not at all."""
    need = need_of(method.upper(), path)
    scopes: list[str] = [] if need in {"open", "any"} else [need]
    return [] if need == "open" else [{"bearer": scopes}, {"header": scopes}]


def _predicting(path: str) -> dict[str, Any]:
    """The operation of a route that predicts."""
    operation = PREDICTING[path]
    answer = {
        "description": "One prediction for each input, in order.",
        "content": _content(JSON, operation.response),
    }
    return {
        "tags": ["predictions"],
        "summary": operation.summary,
        "description": operation.description,
        "operationId": path.strip("/").replace("/", "_").replace("-", "_"),
        "requestBody": {"required": True, "content": _content(JSON, operation.request)},
        "responses": {"200": answer, **_problems(PROBLEMS)},
    }


def _problems(statuses: Iterable[int]) -> dict[str, Any]:
    content = _content(PROBLEM, "ProblemResponse")
    return {
        str(status): {"description": PROBLEMS[status], "content": content} for status in statuses
    }


def _content(media_type: str, name: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": REFERENCE.format(model=name)}}}
