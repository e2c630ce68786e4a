"""POST /predict/inventory: what planners rely on."""

from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from app.api.inventory import FIELDS, INPUT_FIELDS, PARAMETERS
from app.api.words import STOCK_ANSWER, STOCK_EXAMPLE, InventoryRequest

SOLD = np.random.default_rng(0).poisson(6, 42).tolist()
ITEM = {"item_id": "a", "target": SOLD, "on_hand": 20, "lead_time": {"periods": 2}}
KEYS = list(STOCK_ANSWER["predictions"][0])  # type: ignore[index,arg-type]


class Plan:
    """Sends inputs and parameters to /predict/inventory."""

    def __init__(self, service: httpx.Client) -> None:
        self._service = service

    def __call__(self, *inputs: Any, **parameters: Any) -> httpx.Response:
        body = {"inputs": list(inputs), "parameters": parameters}
        return self._service.post("/predict/inventory", json=body)

    def only(self, sent: Any, **parameters: Any) -> dict[str, Any]:
        response = self(sent, **parameters)
        assert response.status_code == 200, response.text
        (prediction,) = response.json()["predictions"]
        return dict(prediction)

    def mistakes(self, *inputs: Any, **parameters: Any) -> list[str]:
        response = self(*inputs, **parameters)
        assert response.status_code == 422, response.text
        return [each["msg"] for each in response.json()["errors"]]


@pytest.fixture(scope="module")
def plan(service: httpx.Client) -> Plan:
    return Plan(service)


def item(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (ITEM | changes).items() if value is not ...}


# --- answers


def test_the_example_is_answered_as_the_page_says(service: httpx.Client) -> None:
    response = service.post("/predict/inventory", json=STOCK_EXAMPLE)
    assert response.status_code == 200, response.text
    assert list(response.json()) == list(STOCK_ANSWER)
    (prediction,) = response.json()["predictions"]
    assert list(prediction) == KEYS
    assert prediction["first_likely_stockout"] is None or "2026-08-" in str(
        prediction["first_likely_stockout"]
    )
    assert response.headers["Server-Timing"].startswith("validate;dur=")


def test_the_numbers_of_an_answer_agree(plan: Plan) -> None:
    got = plan.only(item(), prediction_length=6)
    assert got["protection_interval"] == 3
    assert got["order_up_to"] == got["reorder_point"] == got["demand"]["0.95"]
    assert got["safety_stock"] == pytest.approx(got["reorder_point"] - got["demand"]["mean"])
    assert 0 <= got["order_quantity"] <= max(got["order_up_to"] - 20, 0)
    assert got["expected_service"] >= 0.95
    assert len(got["stockout_probability"]) == len(got["on_hand"]["0.5"]) == 6
    assert got["on_hand"]["0.1"] <= got["on_hand"]["0.5"] <= got["on_hand"]["0.9"]
    assert got["expected_cost"] is None
    assert "start" not in got


def test_backorders_are_ordered_up_to_the_level(plan: Plan) -> None:
    got = plan.only(item(unmet_demand="backorder", on_hand=-4, on_order=[]))
    assert got["order_quantity"] == got["order_up_to"] + 4
    assert got["days_of_cover"] == 0


def test_whole_histories_get_whole_quantities_and_broken_ones_do_not(plan: Plan) -> None:
    got = plan.only(item())
    assert all(type(got[key]) is int for key in ("reorder_point", "order_up_to", "order_quantity"))
    broken = plan.only(item(target=[each + 0.5 for each in SOLD]))
    assert not float(broken["reorder_point"]).is_integer()


def test_an_answer_is_the_same_alone_in_company_and_again(plan: Plan) -> None:
    other = item(item_id="b", target=SOLD[::-1], lead_time={"mean": 3, "std": 1})
    alone, again = plan.only(item(), prediction_length=4), plan.only(item(), prediction_length=4)
    together = plan(other, item(), prediction_length=4).json()["predictions"][1]
    assert alone == again == together


def test_a_seed_chooses_the_paths(plan: Plan) -> None:
    first, second = (plan.only(item(), seed=seed)["demand"]["std"] for seed in (1, 2))
    assert first != second
    assert plan.only(item(), seed=1)["demand"]["std"] == first


def test_an_arrival_is_told_by_its_day_or_by_periods(plan: Plan) -> None:
    dated = item(start="2026-08-01", on_order=[{"quantity": 9, "arrives_on": "2026-09-14"}])
    counted = item(start="2026-08-01", on_order=[{"quantity": 9, "in_periods": 2}])
    first = plan.only(dated, freq="D", prediction_length=5)
    assert first["start"] == "2026-09-12"
    assert first == plan.only(counted, freq="D", prediction_length=5)


def test_an_arrival_within_a_week_counts_for_that_week(plan: Plan) -> None:
    week = item(start="2026-01-05", on_order=[{"quantity": 9, "arrives_on": "2026-11-05"}])
    counted = item(start="2026-01-05", on_order=[{"quantity": 9, "in_periods": 1}])
    got = plan.only(week, freq="W-MON", prediction_length=5)
    assert got == plan.only(counted, freq="W-MON", prediction_length=5)
    assert got["days_of_cover"] == pytest.approx(
        7 * plan.only(item(), prediction_length=5)["days_of_cover"], rel=0.5
    )


def test_a_lead_time_beyond_one_pass_of_the_network_is_planned(plan: Plan) -> None:
    got = plan.only(item(lead_time={"periods": 80}, review_period=10))
    assert got["protection_interval"] == 90
    assert got["reorder_point"] > 0


def test_costs_bring_the_newsvendor_and_a_curve(plan: Plan) -> None:
    got = plan.only(item(holding_cost=0.5, stockout_cost=4, on_hand=0))
    best, curve = got["newsvendor"], got["cost_curve"]
    assert best["expected_cost"] <= min(curve["expected_cost"]) + 1e-6
    assert got["expected_cost"] >= best["expected_cost"]
    assert best["service_level"] == pytest.approx(4 / 4.5, abs=0.1)


def test_an_item_without_history_is_planned_like_its_population(plan: Plan) -> None:
    new = item(target=..., on_hand=0)
    got = plan.only(new, population=[{"target": SOLD}, {"target": [2 * each for each in SOLD]}])
    known = plan.only(item(on_hand=0))
    assert got["cold_start"] is True
    assert known["cold_start"] is False
    assert got["demand"]["std"] > known["demand"]["std"]


def test_covariates_need_not_reach_over_the_protection_interval(plan: Plan) -> None:
    sent = item(
        lead_time={"periods": 5},
        past_covariates={"price": [9.9] * 42, "sky": ["sun", None] * 21},
        future_covariates={"price": [7.9, 9.9], "sky": ["sun", "rain"]},
    )
    assert plan.only(sent, prediction_length=2)["reorder_point"] >= 0


def test_a_short_shelf_life_is_answered_with_a_warning(plan: Plan) -> None:
    response = plan(item(shelf_life=1, on_hand=[{"quantity": 5, "expires_in": 1}]))
    assert response.status_code == 200
    (warning,) = response.json()["warnings"]
    assert warning["type"] == "short_shelf_life"
    assert warning["loc"] == ["inputs", 0, "shelf_life"]


def test_fill_rate_needs_less_stock_than_cycle_service(plan: Plan) -> None:
    cycle = plan.only(item(), service_level=0.95)["reorder_point"]
    assert plan.only(item(), service_level=0.95, service_type="fill_rate")["reorder_point"] < cycle


def test_the_deadline_is_kept(service: httpx.Client) -> None:
    sent = [
        item(item_id=str(n), target=[n + 1, *SOLD], lead_time={"periods": 60}) for n in range(8)
    ]
    body = {"inputs": sent, "parameters": {"prediction_length": 96}}
    headers = {"X-Request-Timeout-Ms": "20"}
    assert service.post("/predict/inventory", json=body, headers=headers).status_code == 504


# --- mistakes

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"on_hand": -3}, 'unmet_demand "backorder"'),
    ({"on_hand": ...}, "on_hand: is missing"),
    ({"on_hand": [{"quantity": -1}]}, "on_hand[0].quantity: must be at least 0"),
    ({"on_hand": [{"quantity": 1, "expires_in": 0}]}, "expires_in: must be at least 1"),
    ({"on_order": [{"quantity": 1, "in_periods": -1}]}, "lies in the past"),
    ({"on_order": [{"quantity": 1}]}, "needs in_periods or arrives_on"),
    ({"on_order": [{"quantity": 1, "arrives_on": "2026-01-01"}]}, "needs start"),
    ({"lead_time": ...}, "lead_time: is missing"),
    ({"lead_time": {"periods": -1}}, "is negative"),
    ({"lead_time": {"periods": 1.5}}, "mean and std"),
    ({"lead_time": {"samples": []}}, "samples: is empty"),
    ({"lead_time": {"samples": [1, -1]}}, "samples[1]: must be at least 0"),
    ({"lead_time": {"std": 1}}, "std needs mean"),
    ({"lead_time": {"mean": 1}}, "mean needs std"),
    ({"lead_time": {"mean": 0, "std": 1}}, "lead_time.mean: is 0"),
    ({"lead_time": {"periods": 1, "samples": [1]}}, "must be one of"),
    ({"lead_time": {"weeks": 1, "periods": 1}}, "no such field"),
    ({"lead_time": {"periods": 96}}, "reaches 97 periods ahead"),
    ({"lead_time": {"mean": 1e30, "std": 1e30}}, "reaches far more periods ahead"),
    ({"review_period": 0}, "review_period: must be at least 1"),
    ({"order_multiple": 0}, "order_multiple: must be more than 0"),
    ({"min_order_quantity": -1}, "min_order_quantity: must be at least 0"),
    ({"shelf_life": 0}, "shelf_life: must be at least 1"),
    ({"holding_cost": 0}, "holding_cost: must be more than 0"),
    ({"unmet_demand": "ignored"}, '"lost" or "backorder"'),
    ({"target": [[1, 2], [3, 4]]}, "send each as an input of its own"),
    ({"target": []}, "parameters.population"),
    ({"target": [None, None]}, "parameters.population"),
    ({"shelf_lif": 3}, "did you mean 'shelf_life'?"),
]


@pytest.mark.parametrize(("changes", "told"), MISTAKES)
def test_a_mistake_is_told_by_its_place(plan: Plan, changes: dict[str, Any], told: str) -> None:
    (message,) = plan.mistakes(item(**changes))
    assert message.startswith("inputs[0] (item_id 'a')")
    assert told in message


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"service_level": 1}, "between 0 and 1"),
        ({"service_level": 0.0}, "between 0 and 1"),
        ({"service_type": "ready"}, '"cycle" or "fill_rate"'),
        ({"seed": -1}, "seed: must be at least 0"),
        ({"quantile_levels": [0.5]}, "no such field"),
        ({"population": [{"target": [None]}]}, "population[0].target: has no value"),
        ({"population": []}, "at least one input"),
        ({"population": [{"target": ["x"]}]}, "population[0].target[0]"),
    ],
)
def test_a_mistake_in_the_parameters_is_told(
    plan: Plan, parameters: dict[str, Any], told: str
) -> None:
    (message,) = plan.mistakes(item(), **parameters)
    assert message.startswith("parameters.")
    assert told in message


def test_several_mistakes_are_told_at_once(plan: Plan) -> None:
    told = plan.mistakes(
        item(on_hand=-1, lead_time={"std": 1}, order_multiple=0),
        item(item_id="b", on_order=[{"quantity": 1, "in_periods": -1}]),
        service_level=0.0,
    )
    assert len(told) == 5


def test_an_arrival_in_the_past_is_told(plan: Plan) -> None:
    sent = item(start="2026-08-01", on_order=[{"quantity": 1, "arrives_on": "2026-08-20"}])
    (message,) = plan.mistakes(sent, freq="D")
    assert "lies before the first forecast period" in message


# --- words


def test_the_words_know_each_field(service: httpx.Client) -> None:
    words = service.get("/openapi.json").json()["components"]["schemas"]
    assert set(words["InventoryRequest"]["properties"]) == FIELDS
    assert set(words["StockRequest"]["properties"]) == INPUT_FIELDS
    assert set(words["InventoryParameters"]["properties"]) == PARAMETERS
    assert set(words["StockPredictionResponse"]["properties"]) == set(KEYS)


def test_the_words_accept_the_example_and_refuse_mistakes() -> None:
    InventoryRequest.model_validate(STOCK_EXAMPLE)
    for changes, _ in [case for case in MISTAKES if "quantity" in str(case) and "-1" in str(case)]:
        with pytest.raises(ValidationError):
            InventoryRequest.model_validate({"inputs": [item(**changes)]})
