"""Durations as people write them."""

import math

import pytest

from flux_cli.storage.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 90s ", 90.0),
        ("10m", 600.0),
        ("1H", 3600.0),
        ("1h30m", 5400.0),
        ("0.5d", 43200.0),
        ("inf", math.inf),
    ],
)
def test_seconds_of_a_duration(text: str, seconds: float) -> None:
    """A unit follows each number; without one it is in seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "-1s", "5x", "m", "1h 30m x", "nan", "10 minutes", "1m30", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="takes seconds, or a duration like 90s, 10m or 1h"):
        parse_duration(text)
