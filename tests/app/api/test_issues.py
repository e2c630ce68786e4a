"""What is told of a mistake is short, however long what was sent."""

import pytest

from app.api.issues import Issues, Place
from app.errors import InvalidInputError

LONG = "x" * 5_000_000


def test_an_unknown_name_is_told_in_short() -> None:
    issues = Issues()
    issues.fields({LONG: 1, "a " + LONG: 2}, Place((), ""), {"inputs", "parameters"})
    with pytest.raises(InvalidInputError) as caught:
        issues.settle()
    for issue in caught.value.issues:
        assert issue.type == "unknown_field"
        assert len(str(issue.loc)) < 80
        assert len(issue.msg) < 200


def test_a_place_is_told_in_short() -> None:
    place = Place(("inputs", 0), "inputs[0]").at("past_covariates", LONG, 3)
    assert place.loc == ("inputs", 0, "past_covariates", "x" * 64, 3)
    assert place.words == f"inputs[0].past_covariates.{'x' * 64}[3]"


def test_a_near_name_is_still_found() -> None:
    issues = Issues()
    issues.fields({"input": []}, Place((), ""), {"inputs", "parameters"})
    with pytest.raises(InvalidInputError, match="did you mean 'inputs'"):
        issues.settle()
