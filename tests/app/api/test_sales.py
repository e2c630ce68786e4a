"""POST /predict/sales: what callers rely on."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.db import migrate
from app.main import create_app
from app.settings import Settings
from tests.app.api.conftest import Ask

WEEKS = [12, 9, 11, 14, 11, 15, 21, 13, 8, 10, 14, 12, 17, 22]
DAILY = {"item_id": "sku-1", "start": "2026-08-01", "target": WEEKS}


def columns_of(answer: dict[str, Any]) -> dict[str, list[Any]]:
    """A data frame as clients of hosted endpoints build it: each key of a prediction a column."""
    columns: dict[str, list[Any]] = {}
    for prediction in answer["predictions"]:
        steps = len(prediction["mean"])
        for key, values in prediction.items():
            column = [values] * steps if key in {"item_id", "start"} else values
            assert len(column) == steps
            columns.setdefault(key, []).extend(column)
    return columns


def only(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (prediction,) = response.json()["predictions"]
    return dict(prediction)


def test_inputs_alone_are_answered_with_one_step_and_three_quantiles(ask: Ask) -> None:
    answer = ask({"target": WEEKS}).json()
    assert list(answer) == ["model", "predictions", "meta", "warnings"]
    assert answer["model"] == {"name": "sales", "version": 1}
    (prediction,) = answer["predictions"]
    assert list(prediction) == ["mean", "0.1", "0.5", "0.9"]
    assert [len(values) for values in prediction.values()] == [1, 1, 1, 1]


def test_several_items_with_start_and_freq_come_back_in_order(ask: Ask) -> None:
    items = [
        {"item_id": "a", "start": "2024-01-01T01:00:00", "target": WEEKS},
        {"item_id": "b", "start": "2024-02-02T03:00:00", "target": [5.4, 3.0, 3.0, 2.0, 1.5, -1]},
    ]
    answer = ask(
        *items,
        prediction_length=5,
        freq="1h",
        quantile_levels=[0.05, 0.5, 0.95],
        batch_size=100,
        cross_learning=False,
    ).json()
    predictions = answer["predictions"]
    assert [each["item_id"] for each in predictions] == ["a", "b"]
    assert [each["start"] for each in predictions] == ["2024-01-01T15:00:00", "2024-02-02T09:00:00"]
    assert min(predictions[0]["0.05"]) >= 0
    frame = columns_of(answer)
    assert {len(column) for column in frame.values()} == {10}
    assert set(frame) == {"item_id", "start", "mean", "0.05", "0.5", "0.95"}


def test_covariates_may_be_numbers_texts_and_booleans(ask: Ask) -> None:
    item = {
        **DAILY,
        "past_covariates": {
            "price": [9.9, None, *[9.9] * 12],
            "weather": ["sun", None, *["rain"] * 12],
            "promo": [False, True, *[None] * 12],
        },
        "future_covariates": {
            "price": [7.9, 9.9],
            "weather": ["sun", "snow"],
            "promo": [True, False],
        },
    }
    prediction = only(ask(item, prediction_length=2, freq="D"))
    plain = only(ask(DAILY, prediction_length=2, freq="D"))
    assert prediction["start"] == "2026-08-15"
    assert prediction["mean"] != plain["mean"]


def test_a_covariate_of_the_past_alone_needs_no_future(ask: Ask) -> None:
    item = {**DAILY, "past_covariates": {"visitors": list(range(14))}, "future_covariates": {}}
    assert only(ask(item, prediction_length=2, freq="D"))["mean"]


def test_a_target_of_two_dimensions_nests_the_answer(ask: Ask) -> None:
    item = {"target": [WEEKS, [None, *WEEKS[:-1]]], "item_id": 7, "start": "2026-08-01"}
    prediction = only(ask(item, prediction_length=3, freq="D", timestamps=True))
    assert prediction["item_id"] == 7
    for key in ("mean", "0.1", "0.5", "0.9", "timestamps"):
        assert [len(row) for row in prediction[key]] == [3, 3], key


def test_one_target_in_two_dimensions_nests_as_well(ask: Ask) -> None:
    prediction = only(ask({"target": [WEEKS]}, prediction_length=3))
    flat = only(ask({"target": WEEKS}, prediction_length=3))
    assert prediction["mean"] == [flat["mean"]]


def test_cross_learning_answers_each_input_with_the_others_in_view(ask: Ask) -> None:
    items = [{"item_id": name, "target": WEEKS[shift:]} for shift, name in enumerate("abc")]
    alone = ask(*items, prediction_length=3).json()
    group = ask(*items, prediction_length=3, cross_learning=True, batch_size=16)
    first, again = group.json(), ask(*items, prediction_length=3, cross_learning=True).json()
    assert first["meta"] == {"cached": [False] * 3}
    assert again["meta"] == {"cached": [True] * 3}
    assert [each["item_id"] for each in first["predictions"]] == ["a", "b", "c"]
    assert first["predictions"] != alone["predictions"]
    assert again["predictions"] == first["predictions"]


def test_levels_come_in_the_order_asked_under_their_text(ask: Ask) -> None:
    levels = [0.9, 0.5, 0.10, 0.025, 0.001]
    prediction = only(ask({"target": WEEKS}, prediction_length=4, quantile_levels=levels))
    assert list(prediction)[1:] == ["0.9", "0.5", "0.1", "0.025", "0.001"]
    for high, low in pairwise(list(prediction)[1:]):
        assert all(a >= b for a, b in zip(prediction[high], prediction[low], strict=True))


def test_what_is_null_counts_as_not_given(ask: Ask) -> None:
    empty = dict.fromkeys(
        ("item_id", "start", "past_covariates", "future_covariates", "out_of_stock")
    )
    parameters = dict.fromkeys(
        (
            *("prediction_length", "quantile_levels", "freq", "model", "batch_size"),
            *("non_negative", "cross_learning", "timestamps"),
        )
    )
    prediction = only(ask({"target": WEEKS, **empty}, **parameters))
    assert list(prediction) == ["mean", "0.1", "0.5", "0.9"]


def test_a_known_series_comes_from_the_cache_and_another_does_not(ask: Ask) -> None:
    known = {"target": [3, 1, 4, 1, 5, 9, 2, 6]}
    first = ask(known, prediction_length=2)
    both = ask({"target": [2, 7, 1, 8, 2, 8]}, known, prediction_length=2)
    assert first.json()["meta"]["cached"] == [False]
    assert both.json()["meta"]["cached"] == [False, True]
    assert both.json()["predictions"][1] == first.json()["predictions"][0]


def test_a_body_that_comes_again_is_answered_the_same(service: httpx.Client) -> None:
    body = b'{"inputs": [{"item_id": "again", "target": [8, 1, 2, 8, 1, 2]}]}'
    post = {"content": body, "headers": {"Content-Type": "application/json"}}
    answers = [service.post("/predict/sales", **post).json() for _ in range(3)]  # type: ignore[arg-type]
    assert [each["meta"]["cached"] for each in answers] == [[False], [True], [True]]
    assert answers[0]["predictions"] == answers[1]["predictions"] == answers[2]["predictions"]


def test_out_of_stock_periods_count_as_missing_where_little_is_known_before(ask: Ask) -> None:
    flags = [number == 3 for number in range(14)]
    told = only(ask({"target": WEEKS, "out_of_stock": flags}, prediction_length=2))
    missing = only(ask({"target": [*WEEKS[:3], None, *WEEKS[4:]]}, prediction_length=2))
    assert told == missing


def test_out_of_stock_periods_are_a_lower_bound_of_demand(ask: Ask) -> None:
    flags = [number in {11, 12} for number in range(14)]

    def told(sold: int | None, flags: list[bool] | None) -> Any:
        target = [*WEEKS[:11], sold, sold, WEEKS[13]]
        return only(ask({"target": target, "out_of_stock": flags}, prediction_length=2))["mean"]

    assert told(40, flags) != told(None, None)
    assert told(40, flags) != told(3, flags)
    assert told(None, flags) == told(None, None)


def test_forecasts_of_sales_are_not_negative_unless_asked_for(ask: Ask) -> None:
    item = {"target": [0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 1]}
    levels = [0.001, 0.5]
    clipped = only(ask(item, prediction_length=8, quantile_levels=levels))
    free = only(ask(item, prediction_length=8, quantile_levels=levels, non_negative=False))
    assert min(clipped["0.001"]) == 0
    assert min(free["0.001"]) < 0
    returns = {"target": [*item["target"], -1]}
    low = only(ask(returns, prediction_length=8, quantile_levels=levels))
    assert min(low["0.001"]) < 0
    forced = only(ask(returns, prediction_length=8, quantile_levels=levels, non_negative=True))
    assert min(forced["0.001"]) == 0


def test_a_negative_value_counts_also_where_it_is_cut_off(ask: Ask) -> None:
    cut = only(ask({"target": [-1, *[0] * 64]}, quantile_levels=[0.001]))
    assert min(cut["0.001"]) < 0


def test_a_long_history_is_cut_with_a_warning(ask: Ask) -> None:
    target = [float(number % 7) for number in range(100)]
    item = {"item_id": "long", "start": "2026-01-01", "target": target}
    covariate = {"past_covariates": {"price": target}, "future_covariates": {"price": [1, 2]}}
    response = ask({**item, **covariate}, prediction_length=2, freq="D")
    assert only(response)["start"] == "2026-04-11"  # counted from the start that was sent
    (warning,) = response.json()["warnings"]
    assert warning["loc"] == ["inputs", 0, "target"]
    assert warning["type"] == "history_cut"
    assert "(item_id 'long')" in warning["msg"]
    assert "64" in warning["msg"]
    cut = {"past_covariates": {"price": target[-64:]}, "future_covariates": {"price": [1, 2]}}
    same = only(ask({"target": target[-64:], **cut}, prediction_length=2, freq="D"))
    assert same["mean"] == only(response)["mean"]


def test_a_history_without_values_is_answered_with_a_warning(ask: Ask) -> None:
    response = ask({"target": [None, None]}, prediction_length=2)
    assert len(only(response)["mean"]) == 2
    (warning,) = response.json()["warnings"]
    assert warning["type"] == "no_history"


def test_values_are_written_with_the_digits_they_have(ask: Ask) -> None:
    text = ask({"target": [0.1] * 20}, prediction_length=2).text
    digits = [part for part in text.replace("]", ",").split(",") if "." in part]
    assert max(len(part.split(".")[-1]) for part in digits) <= 9


@pytest.mark.parametrize("model", ["production", "1", 1])
def test_the_version_may_be_named(ask: Ask, model: str | int) -> None:
    response = ask({"target": WEEKS}, model=model)
    assert response.json()["model"] == {"name": "sales", "version": 1}


@pytest.mark.parametrize("model", ["7", 7, "staging", "../production"])
def test_an_unknown_version_is_not_found(ask: Ask, model: str | int) -> None:
    response = ask({"target": WEEKS}, model=model)
    assert response.status_code == 404
    assert "production" in response.json()["detail"]


def test_invocations_answers_the_same(service: httpx.Client) -> None:
    body = {"inputs": [DAILY], "parameters": {"prediction_length": 2, "freq": "D"}}
    there = service.post("/invocations", json=body).json()
    here = service.post("/predict/sales", json=body).json()
    assert there["predictions"] == here["predictions"]


def test_every_answer_says_where_its_time_went(ask: Ask) -> None:
    timing = ask({"target": WEEKS}).headers["Server-Timing"]
    names = [part.split(";")[0] for part in timing.split(", ")]
    assert names == ["validate", "cache", "queue", "compute", "serialize"]


def test_a_horizon_beyond_one_pass_is_unrolled(ask: Ask) -> None:
    assert len(only(ask({"target": WEEKS}, prediction_length=96))["mean"]) == 96


@pytest.mark.parametrize(
    ("start", "freq", "first", "second"),
    [
        ("2026-08-01", "D", "2026-08-15", "2026-08-16"),
        ("2026-08-03", "W-MON", "2026-11-09", "2026-11-16"),
        ("2026-01-31", "M", "2027-03-31", "2027-04-30"),
        ("2026-08-01T00:00:00Z", "h", "2026-08-01T14:00:00Z", "2026-08-01T15:00:00Z"),
        ("2026-08-01", "h", "2026-08-01T14:00:00", "2026-08-01T15:00:00"),
    ],
)
def test_timestamps_are_written_like_the_start(
    ask: Ask, start: str, freq: str, first: str, second: str
) -> None:
    item = {"start": start, "target": WEEKS}
    prediction = only(ask(item, prediction_length=2, freq=freq, timestamps=True))
    assert list(prediction) == ["start", "timestamps", "mean", "0.1", "0.5", "0.9"]
    assert prediction["start"] == first
    assert prediction["timestamps"] == [first, second]


async def test_what_can_never_wait_is_refused_for_good(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """By what the network counts: a horizon beyond one pass is many paths."""
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path, queue_points=500)
    migrate(settings.database)
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        short, far = [
            await client.post(
                "/predict/sales",
                json={"inputs": [{"target": WEEKS}], "parameters": {"prediction_length": steps}},
            )
            for steps in (64, 96)
        ]
    assert short.status_code == 200
    assert far.status_code == 422
    (issue,) = far.json()["errors"]
    assert (issue["loc"], issue["type"]) == (["inputs"], "too_many_points")
    assert "send fewer inputs or a shorter horizon" in issue["msg"]
