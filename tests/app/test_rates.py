"""A rate as an operator writes it."""

import pytest

from app.rates import Rate


@pytest.mark.parametrize(
    ("text", "count", "per_s"),
    [("50/s", 50, 1), ("3000/m", 3000, 60), ("1/h", 1, 3600), ("1000000/d", 1_000_000, 86_400)],
)
def test_what_is_written_is_read(text: str, count: int, per_s: int) -> None:
    assert Rate.parse(f" {text} ") == Rate(count, per_s)
    assert str(Rate(count, per_s)) == text


@pytest.mark.parametrize("text", ["", "50", "0/s", "-1/s", "1.5/s", "50/w", "50 / s", "9999999/s"])
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="such as 50/s"):
        Rate.parse(text)
