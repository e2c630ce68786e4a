"""Every refusal names its place and the way out."""

from typing import Any

import httpx
import pytest

from tests.app.api.conftest import Ask

GOOD = [1, 2, 3, 4]
FIRST = ["inputs", 0]


def item(**fields: Any) -> dict[str, Any]:
    return {"target": GOOD, **fields}


def covariates(past: Any, future: Any = None) -> dict[str, Any]:
    named = {"past_covariates": {"price": past}}
    return item(**named) if future is None else item(**named, future_covariates={"price": future})


CASES: list[tuple[Any, dict[str, Any], list[Any], str]] = [
    # --- target
    (item(target=[1, "2", 3]), {}, [*FIRST, "target", 1], "'2' is not a number; send null"),
    (item(target=[1, True]), {}, [*FIRST, "target", 1], "true is not a number"),
    (item(target=[1, [2]]), {}, [*FIRST, "target", 1], "a list is not a number"),
    (item(target=[1, {}]), {}, [*FIRST, "target", 1], "an object is not a number"),
    (item(target=[1, 3.5e38]), {}, [*FIRST, "target", 1], "beyond the range of float32"),
    (item(target=[1, -1e300]), {}, [*FIRST, "target", 1], "beyond the range of float32"),
    (item(target=[1, 10**18 * 10**21]), {}, [*FIRST, "target", 1], "beyond the range of float32"),
    (item(target=[]), {}, [*FIRST, "target"], "an empty list; send the history"),
    (item(target=None), {}, [*FIRST, "target"], "null; send the history"),
    (item(target="1,2"), {}, [*FIRST, "target"], "'1,2'; send the history"),
    (item(target=5), {}, [*FIRST, "target"], "5; send the history"),
    ({}, {}, [*FIRST, "target"], "is missing; send the history"),
    (item(target=[[1, 2], [1]]), {}, [*FIRST, "target", 1], "has 1 values, target[0] has 2; pad"),
    (item(target=[[1, 2], [1, "x"]]), {}, [*FIRST, "target", 1, 1], "'x' is not a number"),
    (item(target=[[1, 2], 3]), {}, [*FIRST, "target", 1], "must be a list of numbers, not 3"),
    (item(target=[[1], []]), {}, [*FIRST, "target", 1], "not an empty list"),
    (item(target=[[1]] * 5), {}, [*FIRST, "target"], "send at most 4 targets"),
    (item(target=[0] * 641), {}, [*FIRST, "target"], "at most 640 are read and 64 used"),
    # --- covariates
    (covariates([1, 2, 3]), {}, [*FIRST, "past_covariates", "price"], "has 3 values, target has 4"),
    (covariates([1] * 5), {}, [*FIRST, "past_covariates", "price"], "has 5 values, target has 4"),
    (covariates(GOOD, [1, 2]), {}, [*FIRST, "future_covariates", "price"], "has 2 values"),
    (covariates(GOOD, []), {}, [*FIRST, "future_covariates", "price"], "has 0 values"),
    (
        covariates(GOOD, None) | {"future_covariates": {"promo": [1]}},
        {},
        [*FIRST, "future_covariates", "promo"],
        "is not among past_covariates; send its past",
    ),
    (
        item(future_covariates={"promo": [1]}),
        {},
        [*FIRST, "future_covariates", "promo"],
        "is not among past_covariates",
    ),
    (covariates([1, 2, "3", 4]), {}, [*FIRST, "past_covariates", "price"], "mixes numbers, texts"),
    (covariates([1, 2, True, 4]), {}, [*FIRST, "past_covariates", "price"], "mixes numbers"),
    (covariates(["a", "b", True, None]), {}, [*FIRST, "past_covariates", "price"], "mixes"),
    (covariates(GOOD, ["7"]), {}, [*FIRST, "past_covariates", "price"], "mixes numbers"),
    (covariates(GOOD, [True]), {}, [*FIRST, "past_covariates", "price"], "mixes numbers"),
    (covariates([1, 2, [3], 4]), {}, [*FIRST, "past_covariates", "price", 2], "neither number nor"),
    (covariates([1, 2, 4e38, 4]), {}, [*FIRST, "past_covariates", "price", 2], "beyond the range"),
    (covariates(GOOD, [4e38]), {}, [*FIRST, "future_covariates", "price", 0], "beyond the range"),
    (covariates("sun"), {}, [*FIRST, "past_covariates", "price"], "must be a list"),
    (item(past_covariates=[GOOD]), {}, [*FIRST, "past_covariates"], "must be an object of lists"),
    (
        item(past_covariates=dict.fromkeys("abcd", GOOD)),
        {},
        [*FIRST, "past_covariates"],
        "has 4 covariates; send at most 3",
    ),
    # --- out of stock
    (item(out_of_stock=[True]), {}, [*FIRST, "out_of_stock"], "has 1 values, target has 4"),
    (item(out_of_stock=[0, 1, 0, 0]), {}, [*FIRST, "out_of_stock", 0], "0 is not true or false"),
    (item(out_of_stock="yes"), {}, [*FIRST, "out_of_stock"], "must be a list of true and false"),
    # --- names
    (item(item_id=["a"]), {}, [*FIRST, "item_id"], "must be a text"),
    (item(item_id=True), {}, [*FIRST, "item_id"], "must be a text"),
    (item(item_id="x" * 257), {}, [*FIRST, "item_id"], "at most 256 characters"),
    (item(targets=[1]), {}, [*FIRST, "targets"], "no such field; did you mean 'target'?"),
    ("text", {}, FIRST, "must be an object, not 'text'"),
    (None, {}, FIRST, "must be an object, not null"),
    (GOOD, {}, FIRST, "must be an object, not a list"),
    # --- time
    (item(start="2026-08-01"), {}, ["parameters", "freq"], "is missing; it is needed with start"),
    (item(start="01.08.2026"), {"freq": "D"}, [*FIRST, "start"], "no time in ISO 8601"),
    (item(start="2026-02-30"), {"freq": "D"}, [*FIRST, "start"], "no time in ISO 8601"),
    (item(start=20260801), {"freq": "D"}, [*FIRST, "start"], "must be a time in ISO 8601"),
    (
        item(start="2026-08-05"),
        {"freq": "W-MON"},
        [*FIRST, "start"],
        "the nearest are 2026-08-03 and 2026-08-10; for weeks that begin there use 'W-WED'",
    ),
    (
        item(start="2026-08-15"),
        {"freq": "MS"},
        [*FIRST, "start"],
        "the nearest are 2026-08-01 and 2026-09-01",
    ),
    (item(start="9999-12-28"), {"freq": "D"}, [*FIRST, "start"], "passes year 9999"),
    (item(start="9999-12-28"), {"freq": "99999999D"}, [*FIRST, "start"], "passes year 9999"),
    (item(), {"freq": "D", "timestamps": True}, [*FIRST, "start"], "is missing; timestamps: true"),
    (item(), {"freq": "daily"}, ["parameters", "freq"], "'daily' is no frequency; use D, W-MON"),
    (item(), {"freq": 7}, ["parameters", "freq"], "is no frequency"),
    (item(), {"freq": ""}, ["parameters", "freq"], "is no frequency"),
    (item(), {"freq": "0D"}, ["parameters", "freq"], "is no frequency"),
    (item(), {"freq": "-1D"}, ["parameters", "freq"], "is no frequency"),
    # --- parameters
    (item(), {"prediction_length": 0}, ["parameters", "prediction_length"], "at least 1, not 0"),
    (item(), {"prediction_length": -1}, ["parameters", "prediction_length"], "at least 1"),
    (item(), {"prediction_length": 97}, ["parameters", "prediction_length"], "at most 96, not 97"),
    (item(), {"prediction_length": 2.0}, ["parameters", "prediction_length"], "a whole number"),
    (item(), {"prediction_length": "2"}, ["parameters", "prediction_length"], "a whole number"),
    (item(), {"prediction_length": True}, ["parameters", "prediction_length"], "not true"),
    (item(), {"quantile_levels": [0]}, ["parameters", "quantile_levels", 0], "between 0 and 1"),
    (item(), {"quantile_levels": [0.0]}, ["parameters", "quantile_levels", 0], "between 0 and 1"),
    (item(), {"quantile_levels": [0.5, 1]}, ["parameters", "quantile_levels", 1], "neither"),
    (item(), {"quantile_levels": [1.5]}, ["parameters", "quantile_levels", 0], "not 1.5"),
    (item(), {"quantile_levels": ["0.5"]}, ["parameters", "quantile_levels", 0], "not '0.5'"),
    (item(), {"quantile_levels": [None]}, ["parameters", "quantile_levels", 0], "not null"),
    (item(), {"quantile_levels": [0.5, 0.1, 0.50]}, ["parameters", "quantile_levels", 2], "twice"),
    (item(), {"quantile_levels": []}, ["parameters", "quantile_levels"], "a list of 1 to 100"),
    (item(), {"quantile_levels": 0.5}, ["parameters", "quantile_levels"], "a list of 1 to 100"),
    (
        item(),
        {"quantile_levels": [i / 102 for i in range(1, 102)]},
        ["parameters", "quantile_levels"],
        "a list of 1 to 100",
    ),
    (
        item(),
        {"prediction_lenght": 2},
        ["parameters", "prediction_lenght"],
        "did you mean 'prediction_length'?",
    ),
    (item(), {"scenarios": {}}, ["parameters", "scenarios"], "there is no such field; known are"),
    (item(), {"cross_learning": 1}, ["parameters", "cross_learning"], "must be true or false"),
    (item(), {"non_negative": "no"}, ["parameters", "non_negative"], "must be true or false"),
    (item(), {"timestamps": 0}, ["parameters", "timestamps"], "must be true or false"),
    (item(), {"batch_size": 0}, ["parameters", "batch_size"], "at least 1"),
    (item(), {"model": 1.5}, ["parameters", "model"], '"production" or a version number'),
    (item(), {"model": ""}, ["parameters", "model"], '"production" or a version number'),
    (
        item(target=[GOOD] * 4, past_covariates=dict.fromkeys("abc", GOOD)),
        {"cross_learning": True},
        ["inputs"],
        "at most 6 can: send fewer",
    ),
]


@pytest.mark.parametrize(("sent", "parameters", "loc", "reason"), CASES)
def test_it_is_refused(
    ask: Ask, sent: Any, parameters: dict[str, Any], loc: list[Any], reason: str
) -> None:
    response = ask(sent, **parameters)
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    assert problem["request_id"] == response.headers["X-Request-ID"]
    first = problem["errors"][0]
    assert first["loc"] == loc, problem
    assert reason in first["msg"]
    assert first["type"]


@pytest.mark.parametrize(
    ("body", "loc", "reason"),
    [
        ([], [], "must be an object, not a list"),
        ("text", [], "must be an object, not 'text'"),
        ({}, ["inputs"], "must be a list of at least one input, not null"),
        ({"inputs": []}, ["inputs"], "not an empty list"),
        ({"inputs": {}}, ["inputs"], "not an object"),
        ({"inputs": [item()] * 9}, ["inputs"], "has 9 entries; send at most 8 a request"),
        ({"inputs": [item()], "parameter": {}}, ["parameter"], "did you mean 'parameters'?"),
        ({"inputs": [item()], "parameters": []}, ["parameters"], "must be an object, not a list"),
    ],
)
def test_the_envelope_is_refused(
    service: httpx.Client, body: Any, loc: list[Any], reason: str
) -> None:
    problem = service.post("/predict/sales", json=body).json()
    assert problem["status"] == 422
    assert problem["errors"][0]["loc"] == loc
    assert reason in problem["errors"][0]["msg"]


@pytest.mark.parametrize(
    "word", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999", "1" + "0" * 400]
)
def test_numbers_that_are_none_are_named_by_their_place(service: httpx.Client, word: str) -> None:
    text = f'{{"inputs": [{{"item_id": "sku-ä", "target": [1, {word}]}}]}}'
    response = service.post(
        "/predict/sales", content=text, headers={"Content-Type": "application/json"}
    )
    (error,) = response.json()["errors"]
    assert error["loc"] == ["inputs", 0, "target", 1]
    assert error["msg"].startswith("inputs[0] (item_id 'sku-ä').target[1]: ")
    assert error["msg"].endswith("is not a number; send null for what is missing")


def test_ids_may_not_repeat(ask: Ask) -> None:
    problem = ask(item(item_id="a"), item(), item(), item(item_id="a")).json()
    (error,) = problem["errors"]
    assert error["loc"] == ["inputs", 3, "item_id"]
    assert "inputs[0] has the same item_id" in error["msg"]
    assert ask(item(item_id=1), item(item_id="1")).status_code == 422


def test_mistakes_are_told_together(ask: Ask) -> None:
    problem = ask(
        item(item_id="a", target=[1, "x"]),
        item(start="yesterday"),
        item(colour="red"),
        prediction_length=0,
    ).json()
    assert [error["loc"] for error in problem["errors"]] == [
        ["parameters", "prediction_length"],
        ["inputs", 2, "colour"],
        ["inputs", 0, "target", 1],
        ["inputs", 1, "start"],
    ]
    assert problem["detail"].endswith("(and 3 more; see errors)")


def test_no_more_than_twenty_mistakes_are_told(ask: Ask) -> None:
    problem = ask(item(target=["x"] * 600)).json()
    assert len(problem["errors"]) == 20


def test_a_value_is_shown_short(ask: Ask) -> None:
    (error,) = ask(item(target=["x" * 10_000])).json()["errors"]
    assert len(error["msg"]) < 150
