"""A server that is busy, or answers nonsense, seen from the command line.

The service itself is asked in test_cli.py; here it is replies that it gives under load, or that
something in front of it gives.
"""

from collections.abc import Callable

import httpx
import numpy as np
import pandas as pd
import pytest

from app.errors import InvalidInputError, ShopcastError
from app.forecasters import Ask, Server
from app.histories import History
from models.base import Covariate

TIMES = pd.date_range("2026-01-01", periods=3)
HISTORY = History("a", TIMES, np.array([1.0, np.nan, 3.0]))
ASK = Ask(2, "D", (0.1, 0.5))
ANSWER = {
    "model": {"name": "sales", "version": 4},
    "predictions": [{"mean": [1.0, 2.0], "0.1": [0.5, 1.0], "0.5": [1.0, 2.0]}],
}


def server(reply: Callable[[httpx.Request], httpx.Response]) -> Server:
    transport = httpx.MockTransport(reply)
    return Server(httpx.AsyncClient(transport=transport, base_url="http://shop"))


async def test_the_body_is_what_the_contract_says() -> None:
    bodies: list[bytes] = []

    def reply(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200, json=ANSWER)

    price = Covariate("price", np.array([1.0, 2.0, np.nan]), np.array([1.0, 1.0]))
    sky = Covariate("sky", np.array(["sun", None, "rain"], dtype=object))
    history = History("a", TIMES, HISTORY.target, (price, sky))
    answer = await server(reply).forecast([history], ASK)
    assert httpx.Response(200, content=bodies[0]).json() == {
        "inputs": [
            {
                "item_id": "a",
                "start": "2026-01-01T00:00:00",
                "target": [1.0, None, 3.0],
                "past_covariates": {"price": [1.0, 2.0, None], "sky": ["sun", None, "rain"]},
                "future_covariates": {"price": [1.0, 1.0]},
            }
        ],
        "parameters": {
            "prediction_length": 2,
            "freq": "D",
            "quantile_levels": [0.1, 0.5],
            "model": "production",
        },
    }
    assert answer.version == 4
    assert answer.forecasts[0].quantiles.tolist() == [[0.5, 1.0], [1.0, 2.0]]
    assert answer.forecasts[0].times.tolist() == [*pd.date_range("2026-01-04", periods=2)]


async def test_a_busy_server_is_asked_again() -> None:
    replies = iter([503, 429, 200])

    def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(next(replies), json=ANSWER, headers={"Retry-After": "0"})

    assert (await server(reply).forecast([HISTORY], ASK)).version == 4


async def test_a_server_that_stays_busy_is_given_up() -> None:
    def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            503, json={"detail": "the queue is full"}, headers={"Retry-After": "0"}
        )

    with pytest.raises(ShopcastError, match="the server answered 503: the queue is full"):
        await server(reply).forecast([HISTORY], ASK)


async def test_issues_name_the_item() -> None:
    errors = [{"loc": ["inputs", 0, "target"], "msg": "too short", "type": "x"}]

    def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(422, json={"title": "Invalid input", "errors": errors})

    with pytest.raises(InvalidInputError) as caught:
        await server(reply).forecast([HISTORY], ASK)
    assert [issue.msg for issue in caught.value.issues] == [
        "the server answered 422: Invalid input",
        "inputs → a → target: too short",
    ]


@pytest.mark.parametrize("body", ["<html>no</html>", "[]"])
async def test_a_failure_that_is_no_problem_document(body: str) -> None:
    with pytest.raises(ShopcastError, match="the server answered 502: Bad Gateway"):
        await server(lambda _: httpx.Response(502, text=body)).forecast([HISTORY], ASK)


async def test_a_success_that_is_no_forecast() -> None:
    with pytest.raises(ShopcastError, match="answered something else than forecasts"):
        await server(lambda _: httpx.Response(200, text="hello")).forecast([HISTORY], ASK)


async def test_a_server_that_is_too_slow() -> None:
    def reply(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with pytest.raises(ShopcastError, match="did not answer in time"):
        await server(reply).forecast([HISTORY], ASK)
