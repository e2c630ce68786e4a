"""Settings from JSON are checked field by field."""

import json

import pytest

from models.base import ModelError
from models.recipe import settings_of
from models.tuning import TrainSettings


def test_fields_that_are_absent_keep_their_defaults() -> None:
    said = json.loads('{"steps": 50, "learning_rate": 1, "augment": ["crop"], "budget_s": null}')
    settings = settings_of(TrainSettings, said)
    assert settings == TrainSettings(steps=50, learning_rate=1.0, augment=("crop",), budget_s=None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"stps": 50}, "'stps' is no setting; there are method, rank, steps"),
        ({"steps": "50"}, "steps must be a whole number, not '50'"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"budget_s": "soon"}, "budget_s must be a number or null"),
        ({"augment": [1]}, "augment must be a text"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"budget_s": 0}, "budget_s must be above 0"),
        ({"learning_rate": float("nan")}, "rate must be above 0"),
        ({"method": "prefix"}, "method prefix is not possible .* use one of lora, full"),
        ({"method": "prompt"}, "method prompt is not possible"),
        ({"method": "magic"}, "method must be one of lora"),
        ({"loss": "hinge"}, "loss must be one of quantile"),
        ({"augment": ["blur"]}, "augment must be one of crop"),
    ],
)
def test_a_mistake_is_named(said: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        settings_of(TrainSettings, said)
