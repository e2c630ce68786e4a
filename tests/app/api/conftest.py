"""A real service over real sockets, on the tiny checkpoint, shared by the tests of the edge."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from app.settings import Settings
from tests.app.networks import Rates
from tests.live import running


class Ask(Protocol):
    """Sends inputs and parameters to a route that predicts."""

    def __call__(self, *inputs: Any, **parameters: Any) -> httpx.Response: ...


@pytest.fixture(scope="session")
def service(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    settings = Settings(
        series_checkpoint=tiny_checkpoint,
        data_dir=tmp_path_factory.mktemp("service"),
        max_body_bytes=200_000,
        max_history=64,
        max_inputs=8,
        max_prediction_length=96,
        max_covariates=3,
        max_targets=4,
        max_group_rows=6,
    )
    with running(settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def ask(service: httpx.Client) -> Ask:
    def post(*inputs: Any, **parameters: Any) -> httpx.Response:
        body: dict[str, Any] = {"inputs": list(inputs)}
        if parameters:
            body["parameters"] = parameters
        return service.post("/predict/sales", json=body)

    return post


@pytest.fixture(scope="session")
def shop(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that foretells purchases by the rates of customers."""
    settings = Settings(
        series_checkpoint=tiny_checkpoint,
        data_dir=tmp_path_factory.mktemp("shop"),
        max_events=20,
        max_inputs=400,
        max_customers=300,
    )
    with (
        running(settings, {"purchase": Rates()}) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def foretell(shop: httpx.Client) -> Ask:
    def post(*inputs: Any, **parameters: Any) -> httpx.Response:
        body: dict[str, Any] = {"inputs": list(inputs)}
        if parameters:
            body["parameters"] = parameters
        return shop.post("/predict/purchase-probability", json=body)

    return post
