"""Customers in, probabilities out: what a client of /predict/purchase-probability sees."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests.app.api.conftest import Ask
from tests.app.networks import Rates
from tests.live import running

AS_OF = "2026-10-01"
PATH = "/predict/purchase-probability"


def bought(at: str, amount: float | None = 10.0, **more: Any) -> dict[str, Any]:
    return {"type": "purchase", "at": at, "amount": amount, **more}


def customer(*events: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"events": list(events), **fields}


REGULAR = customer(bought("2026-06-23"), bought("2026-08-12"), customer_id="c-9")  # 100 days ago


def only(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (prediction,) = response.json()["predictions"]
    return dict(prediction)


def crowd(count: int) -> list[dict[str, Any]]:
    first = datetime(2026, 1, 1)  # noqa: DTZ001 - local time
    days = [
        [first + timedelta(days=n % 90 + 60 * k) for k in range(1 + n % 4)] for n in range(count)
    ]
    return [
        customer(*(bought(day.isoformat(), 5.0 + n % 7) for day in each), customer_id=f"c-{n}")
        for n, each in enumerate(days)
    ]


def test_a_customer_is_foretold_for_each_horizon(foretell: Ask) -> None:
    response = foretell(REGULAR, as_of=AS_OF, horizons_days=[7, 30, 90], churn_window_days=100)
    prediction = only(response)
    assert list(prediction) == [
        *("customer_id", "purchase_probability", "churn_probability"),
        *("expected_purchases", "expected_spend", "cold_start"),
    ]
    assert prediction["customer_id"] == "c-9"
    assert prediction["expected_purchases"] == pytest.approx({"7": 0.14, "30": 0.6, "90": 1.8})
    assert prediction["purchase_probability"]["30"] == pytest.approx(1 - math.exp(-0.6))
    assert prediction["expected_spend"] == pytest.approx({"7": 1.4, "30": 6.0, "90": 18.0})
    assert prediction["churn_probability"] == pytest.approx(math.exp(-2))
    assert prediction["cold_start"] is False
    answer = response.json()
    assert answer["model"]["name"] == "purchase"
    assert answer["meta"]["context"] == "prior"
    assert answer["meta"]["as_of"] == "2026-10-01T00:00:00"
    assert answer["meta"]["truncated"] == [False]
    assert answer["warnings"] == []
    names = [part.split(";")[0] for part in response.headers["Server-Timing"].split(", ")]
    assert names == ["validate", "cache", "queue", "compute", "serialize"]


def test_defaults(foretell: Ask) -> None:
    before = datetime.now(UTC).replace(tzinfo=None)
    response = foretell(REGULAR)
    assert list(only(response)["purchase_probability"]) == ["7", "30", "90"]
    as_of = datetime.fromisoformat(response.json()["meta"]["as_of"])
    assert timedelta() <= as_of - before <= timedelta(hours=1, minutes=1)
    assert (as_of.minute, as_of.second) == (0, 0)


def test_horizons_come_in_the_order_asked_for(foretell: Ask) -> None:
    prediction = only(foretell(REGULAR, as_of=AS_OF, horizons_days=[90, 7, 365]))
    for name in ("purchase_probability", "expected_purchases", "expected_spend"):
        assert list(prediction[name]) == ["90", "7", "365"]


def test_the_second_time_it_is_known(foretell: Ask) -> None:
    def cached(**parameters: Any) -> bool:
        one = customer(bought("2026-05-05", 77.0))
        return bool(foretell(one, **parameters).json()["meta"]["cached"][0])

    assert not cached(as_of=AS_OF)
    assert cached(as_of=AS_OF)
    assert cached(as_of="2026-10-01T00:00:00")
    assert not cached(as_of="2026-10-02")
    assert not cached(as_of=AS_OF, horizons_days=[7, 30])
    assert not cached(as_of=AS_OF, churn_window_days=90)


def test_purchases_of_one_local_day_are_one(foretell: Ask) -> None:
    basket = customer(*[bought("2026-08-12T09:00:00", 4.0) for _ in range(5)], bought("2026-06-23"))
    assert only(foretell(basket, as_of=AS_OF)) == only(
        foretell(customer(bought("2026-06-23"), bought("2026-08-12", 20.0)), as_of=AS_OF)
    )


def test_a_zone_says_which_purchases_share_a_day(foretell: Ask) -> None:
    late = customer(bought("2026-08-12T22:30:00Z"), bought("2026-08-13T10:00:00Z"))

    def purchases(**more: Any) -> float:
        prediction = only(foretell(late, as_of="2026-10-01T00:00:00Z", horizons_days=[365], **more))
        return float(prediction["expected_purchases"]["365"])

    assert purchases() == pytest.approx(2 * purchases(timezone="Europe/Berlin"), rel=0.01)


def test_times_are_read_alike_with_and_without_a_zone(foretell: Ask) -> None:
    plain = foretell(REGULAR, as_of=AS_OF, timezone="Europe/Berlin")
    zoned = customer(bought("2026-06-22T22:00:00Z"), bought("2026-08-12T00:00:00"))
    there = foretell(zoned, as_of="2026-09-30T22:00:00Z", timezone="Europe/Berlin")
    assert only(there)["expected_purchases"] == only(plain)["expected_purchases"]
    assert plain.json()["meta"]["as_of"] == "2026-10-01T00:00:00"
    assert there.json()["meta"]["as_of"] == "2026-10-01T00:00:00+02:00"


def test_an_event_may_be_later_by_the_clock_if_it_was_not(foretell: Ask) -> None:
    """In the night the clocks go back; and in a place whose clock is ahead."""
    one = customer(bought("2026-10-25T02:30:00+02:00"))
    assert foretell(one, as_of="2026-10-25T02:15:00+01:00").status_code == 200
    berlin = foretell(one, as_of="2026-10-25T01:15:00Z", timezone="Europe/Berlin")
    assert berlin.status_code == 200
    ahead = customer(bought("2026-10-25T23:00:00+09:00"))
    assert foretell(ahead, as_of="2026-10-25T15:00:00Z").status_code == 200


def test_a_customer_without_events_gets_the_populations_answer(foretell: Ask) -> None:
    for nobody in (customer(), {}, {"events": None, "observed_from": "2026-01-01"}):
        prediction = only(foretell(nobody, as_of=AS_OF))
        assert prediction["cold_start"] is True
        assert prediction["expected_purchases"]["30"] == pytest.approx(0.3)
        assert prediction["expected_spend"] == {"7": None, "30": None, "90": None}


def test_of_too_many_events_the_latest_are_kept(foretell: Ask) -> None:
    first = datetime(2026, 1, 1)  # noqa: DTZ001 - local time
    days = [(first + timedelta(days=n)).isoformat() for n in range(100)]
    response = foretell(customer(*map(bought, days), customer_id="much"), as_of=AS_OF)
    assert response.json()["meta"]["truncated"] == [True]
    (warning,) = response.json()["warnings"]
    assert (warning["loc"], warning["type"]) == (["inputs", 0, "events"], "truncated")
    assert "(customer_id 'much').events: has 100 events; the latest 20 were used" in warning["msg"]
    rate = 100 / 273  # counted before the cut
    assert only(response)["expected_purchases"]["30"] == pytest.approx(30 * rate)


def test_a_misspelt_type_counts_as_other_with_a_warning(foretell: Ask) -> None:
    events = [{"type": name, "at": "2026-08-01"} for name in ("Purchase", "newsletter", "order")]
    response = foretell(customer(*events), as_of=AS_OF)
    told = [(warning["loc"][-2], warning["msg"]) for warning in response.json()["warnings"]]
    assert [place for place, _ in told] == [0, 2]
    assert all("did you mean 'purchase'?" in msg for _, msg in told)


def test_what_moved_the_result_adds_up(foretell: Ask) -> None:
    asked = {"as_of": AS_OF, "horizons_days": [30, 90], "explain": True}
    for more, days in (({}, 90), ({"explain_days": 30}, 30)):
        prediction = only(foretell(REGULAR, **asked, **more))
        why = prediction["explanation"]
        assert why["horizon_days"] == days
        assert [event["at"] for event in why["events"]] == [
            "2026-06-23T00:00:00",
            "2026-08-12T00:00:00",
        ]
        assert {event["type"] for event in why["events"]} == {"purchase"}
        parts = [event["contribution"] for event in why["events"]] + list(why["traits"].values())
        probability = prediction["purchase_probability"][str(days)]
        assert why["base"] + sum(parts) == pytest.approx(why["log_odds"])
        assert why["log_odds"] == pytest.approx(math.log(probability / (1 - probability)), abs=1e-5)


def test_enough_customers_make_a_context_of_their_own(foretell: Ask) -> None:
    asked = {"as_of": AS_OF, "horizons_days": [30]}
    nobody = customer(customer_id="nobody")
    small, large = foretell(*crowd(198), nobody, **asked), foretell(*crowd(199), nobody, **asked)
    contexts = [response.json()["meta"]["context"] for response in (small, large)]
    assert contexts == ["prior", "request"]
    known = [
        response.json()["predictions"][-1]["expected_purchases"] for response in (small, large)
    ]
    assert known[0] != known[1]
    silent = foretell(*[customer() for _ in range(200)], **asked)
    assert silent.json()["meta"]["context"] == "prior"


def test_compressed_bodies_and_versions(shop: httpx.Client, foretell: Ask) -> None:
    version = foretell(REGULAR, as_of=AS_OF).json()["model"]["version"]
    assert foretell(REGULAR, as_of=AS_OF, model=version).status_code == 200
    assert foretell(REGULAR, as_of=AS_OF, model="77").status_code == 404
    assert shop.get("/models/purchase").json()["limits"]["events"] == 20


FIRST = ["inputs", 0]
EVENT = [*FIRST, "events", 0]
NOW = {"as_of": AS_OF}
CASES: list[tuple[Any, dict[str, Any], list[Any], str]] = [
    # --- times
    (customer(bought("2026-10-01")), NOW, [*EVENT, "at"], "not before as_of, 2026-10-01T00:00:00"),
    (customer(bought("2199-01-01")), {}, [*EVENT, "at"], "is it local time? then say"),
    (customer(bought("yesterday")), NOW, [*EVENT, "at"], "must be a time in ISO 8601"),
    (customer(bought("0001-01-01")), NOW, [*EVENT, "at"], "must be a time in ISO 8601"),
    (customer(bought("2026-02-30")), NOW, [*EVENT, "at"], "must be a time in ISO 8601"),
    (customer({"type": "view"}), NOW, [*EVENT, "at"], "is missing; send a time"),
    (customer(bought(1790000000)), NOW, [*EVENT, "at"], "not 1790000000"),  # type: ignore[arg-type]
    (
        customer(bought("2026-09-01"), bought("2026-09-02T00:00:00Z")),
        NOW,
        [*FIRST, "events", 1, "at"],
        "has a zone, the first event has none; write all times alike, or say by",
    ),
    (
        customer(bought("2026-09-01T00:00:00Z")),
        NOW,
        ["parameters", "as_of"],
        "has no zone, the events have one",
    ),
    (
        customer(bought("2026-09-01")),
        {"as_of": "2026-10-01T00:00Z"},
        ["parameters", "as_of"],
        "has a zone, the events have none",
    ),
    (customer(observed_from="soon"), NOW, [*FIRST, "observed_from"], "must be a time"),
    (customer(observed_from="2026-10-02"), NOW, [*FIRST, "observed_from"], "is after as_of"),
    (
        customer(bought("2026-09-01"), observed_from="2026-01-01T00:00Z"),
        NOW,
        [*FIRST, "observed_from"],
        "has a zone and as_of has none",
    ),
    # --- values
    (customer(bought("2026-09-01", -5.0)), NOW, [*EVENT, "amount"], "-5 is below zero; what comes"),
    (
        customer(bought("2026-09-01", quantity=-1)),
        NOW,
        [*EVENT, "quantity"],
        "-1 is below zero; what comes back",
    ),
    (customer(bought("2026-09-01", 1e39)), NOW, [*EVENT, "amount"], "beyond the range of float32"),
    (customer(bought("2026-09-01", "5")), NOW, [*EVENT, "amount"], "'5' is not a number"),  # type: ignore[arg-type]
    (customer(bought("2026-09-01", True)), NOW, [*EVENT, "amount"], "true is not a number"),
    (customer(bought("2026-09-01", item_id=["a"])), NOW, [*EVENT, "item_id"], "must be a text"),
    (customer(bought("2026-09-01", category="c" * 257)), NOW, [*EVENT, "category"], "at most 256"),
    (customer({"at": "2026-09-01"}), NOW, [*EVENT, "type"], "is missing; send"),
    (customer({"type": 4, "at": "2026-09-01"}), NOW, [*EVENT, "type"], "must be a short text"),
    # --- names
    (customer(bought("2026-09-01", price=5)), NOW, [*EVENT, "price"], "there is no such field"),
    (customer(bought("2026-09-01", ammount=5)), NOW, [*EVENT, "ammount"], "mean 'amount'?"),
    (customer(event=[]), NOW, [*FIRST, "event"], "did you mean 'events'?"),
    ({"events": [5]}, NOW, EVENT, "must be an object, not 5"),
    ({"events": {}}, NOW, [*FIRST, "events"], "must be a list of events, not an object"),
    ("c-9", NOW, FIRST, "must be an object"),
    (customer(customer_id=1.5), NOW, [*FIRST, "customer_id"], "must be a text"),
    (
        customer(*[bought("2026-09-01")] * 201),
        NOW,
        [*FIRST, "events"],
        "at most 200 are read and 20",
    ),
    # --- parameters
    (REGULAR, {"as_of": "x"}, ["parameters", "as_of"], "must be a time in ISO 8601"),
    (REGULAR, {"as_of": 5}, ["parameters", "as_of"], "must be a time in ISO 8601"),
    (REGULAR, {"horizons_days": [0]}, ["parameters", "horizons_days", 0], "must be at least 1"),
    (REGULAR, {"horizons_days": [366]}, ["parameters", "horizons_days", 0], "must be at most 365"),
    (REGULAR, {"horizons_days": [7.5]}, ["parameters", "horizons_days", 0], "a whole number"),
    (REGULAR, {"horizons_days": [7, 7]}, ["parameters", "horizons_days", 1], "7 comes twice"),
    (REGULAR, {"horizons_days": []}, ["parameters", "horizons_days"], "a list of 1 to 100"),
    (REGULAR, {"horizons_days": 30}, ["parameters", "horizons_days"], "a list of 1 to 100"),
    (REGULAR, {"churn_window_days": 0}, ["parameters", "churn_window_days"], "at least 1"),
    (REGULAR, {"churn_window_days": 400}, ["parameters", "churn_window_days"], "at most 365"),
    (REGULAR, {"timezone": "Mars"}, ["parameters", "timezone"], 'such as "Europe/Berlin"'),
    (REGULAR, {"timezone": 2}, ["parameters", "timezone"], 'such as "Europe/Berlin"'),
    (REGULAR, {"shop": "../x"}, ["parameters", "shop"], "1 to 64 letters"),
    (REGULAR, {"shop": ""}, ["parameters", "shop"], "1 to 64 letters"),
    (REGULAR, {"explain": 1}, ["parameters", "explain"], "must be true or false"),
    (
        REGULAR,
        {"explain": True, "explain_days": 8},
        ["parameters", "explain_days"],
        "must be one of horizons_days (7, 30, 90)",
    ),
    (REGULAR, {"explain_days": 7}, ["parameters", "explain_days"], "is without effect"),
    (REGULAR, {"model": ""}, ["parameters", "model"], 'must be "production"'),
    (REGULAR, {"horizon_days": [7]}, ["parameters", "horizon_days"], "mean 'horizons_days'?"),
]


@pytest.mark.parametrize(("sent", "parameters", "loc", "words"), CASES)
def test_what_cannot_be_answered_names_its_place(
    foretell: Ask, sent: Any, parameters: dict[str, Any], loc: list[Any], words: str
) -> None:
    response = foretell(sent, **parameters)
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    (issue,) = response.json()["errors"]
    assert issue["loc"] == loc
    assert words in issue["msg"]


def test_several_mistakes_are_told_at_once_by_index_and_id(foretell: Ask) -> None:
    wrong = customer(bought("soon", -1.0), bought("2026-09-01", "x"), customer_id="c-7")  # type: ignore[arg-type]
    response = foretell(REGULAR, wrong, customer(customer_id="c-9"), horizons_days=[0])
    told = {tuple(issue["loc"]) for issue in response.json()["errors"]}
    assert told == {
        ("parameters", "horizons_days", 0),
        ("inputs", 2, "customer_id"),
        ("inputs", 1, "events", 0, "at"),
        ("inputs", 1, "events", 1, "amount"),
    }
    assert "inputs[1] (customer_id 'c-7').events[0].at: " in response.text


def test_a_number_that_is_none_is_refused_with_its_place(shop: httpx.Client) -> None:
    body = '{"inputs": [{"events": [{"type": "purchase", "at": "2026-09-01", "amount": NaN}]}]}'
    response = shop.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == [*EVENT, "amount"]


def test_an_unknown_shop_is_not_found(foretell: Ask) -> None:
    response = foretell(REGULAR, as_of=AS_OF, shop="nowhere")
    assert response.status_code == 404
    assert "PUT /shops/nowhere/profile" in response.json()["detail"]


@pytest.fixture
def roomy(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    settings = Settings(series_checkpoint=tiny_checkpoint, data_dir=tmp_path)
    with (
        running(settings, {"purchase": Rates()}) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def test_many_events_are_read_and_too_many_of_one_are_refused(roomy: httpx.Client) -> None:
    event = {"type": "view", "at": "2026-08-01T10:00:00", "item_id": "i", "amount": 1.0}
    many = [{"customer_id": f"c-{n}", "events": [event] * 200} for n in range(300)]
    response = roomy.post(PATH, json={"inputs": many, "parameters": {"as_of": AS_OF}})
    assert response.status_code == 200, response.text
    assert len(response.json()["predictions"]) == 300
    flood = {"inputs": [customer(*[bought("2026-09-01")] * 100_000)]}
    refused = roomy.post(PATH, json=flood)
    assert refused.status_code == 422
    assert "at most 40,960 are read and 4,096 used" in refused.json()["detail"]


def test_the_events_network_answers_over_http(
    tiny_checkpoint: Path, tiny_events_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Settings(
        series_checkpoint=tiny_checkpoint,
        purchase_checkpoint=tiny_events_checkpoint,
        data_dir=tmp_path,
    )
    asked = {"as_of": AS_OF, "horizons_days": [1, 7, 30, 90, 365]}
    with running(settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        body = {"inputs": [*crowd(210), customer(customer_id="nobody")], "parameters": asked}
        answer = client.post(PATH, json=body).json()
        assert answer["meta"]["context"] == "request"
        for prediction in answer["predictions"]:
            probabilities = list(prediction["purchase_probability"].values())
            assert probabilities == sorted(probabilities)
            expected = prediction["expected_purchases"].values()
            pairs = zip(probabilities, expected, strict=True)
            assert all(0 <= low <= high for low, high in pairs)
        explained = {"inputs": [REGULAR], "parameters": {**asked, "explain": True}}
        prediction = client.post(PATH, json=explained).json()["predictions"][0]
        why, probability = prediction["explanation"], prediction["purchase_probability"]["365"]
        parts = [event["contribution"] for event in why["events"]] + list(why["traits"].values())
        assert why["base"] + sum(parts) == pytest.approx(why["log_odds"], abs=1e-9)
        wanted = math.log(probability / (1 - probability))
        assert why["log_odds"] == pytest.approx(wanted, abs=1e-2)
