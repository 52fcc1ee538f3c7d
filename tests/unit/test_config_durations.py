from __future__ import annotations

from datetime import timedelta

import pytest

from dualcert.config.durations import Rate, parse_duration, parse_rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("3h", timedelta(hours=3)),
        ("1d", timedelta(days=1)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "10", "m", "10 m", "-1s", "1.5h", "0s", "10min", "1d2h", "٣h", "999999999w", "9999999d"]
)
def test_what_is_no_duration_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=f'"{text}"'):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("300/3h", Rate(300, timedelta(hours=3))),
        ("200/s", Rate(200, timedelta(seconds=1))),
        ("8 / 10s", Rate(8, timedelta(seconds=10))),
    ],
)
def test_rates(text: str, expected: Rate) -> None:
    assert parse_rate(text) == expected


@pytest.mark.parametrize("text", ["", "300", "300/", "/3h", "0/s", "300/0s", "x/s", "300/3", "-1/s"])
def test_what_is_no_rate_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match='"'):
        parse_rate(text)
