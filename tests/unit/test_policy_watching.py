"""How much may turn by itself, when places are asked, and which certificates stand for others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dualcert.policy import watching
from dualcert.policy.brake import Go, Hold, Numbers, decide
from dualcert.policy.watching import SourceKind

NOW = datetime(2026, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("made", "wanted", "pairs", "goes"),
    [
        (0, 8, 8, True),
        (0, 10, 10, True),
        (0, 11, 30, False),
        (10, 1, 30, False),
        (0, 25, 500, True),
        (0, 26, 500, False),
        (20, 6, 500, False),
        (0, 100, 1_000_000, True),
        (0, 101, 1_000_000, False),
        (100, 1, 1_000_000, False),
    ],
)
def test_the_brake_counts_what_has_turned_and_what_is_to(
    made: int, wanted: int, pairs: int, goes: bool
) -> None:
    assert isinstance(decide(Numbers(made, wanted, pairs), NOW), Go) is goes


def test_once_it_has_taken_hold_nothing_turns_for_an_hour() -> None:
    assert isinstance(decide(Numbers(0, 1, 1000, NOW - HOUR / 2), NOW), Hold)
    assert isinstance(decide(Numbers(0, 1, 1000, NOW - HOUR), NOW), Go)
    # The clocks of two machines differ by a little; what lies a day ahead was told by one that was wrong.
    assert isinstance(decide(Numbers(0, 1, 1000, NOW + HOUR / 60), NOW), Hold)
    assert isinstance(decide(Numbers(0, 1, 1000, NOW + 24 * HOUR), NOW), Go)


def test_a_certificate_of_seven_days_is_short_lived() -> None:
    assert watching.unwatched(NOW, NOW + timedelta(days=7)) is SourceKind.SHORT_LIVED
    assert watching.unwatched(NOW, NOW + timedelta(days=7, seconds=1)) is SourceKind.NONE


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
@example(0, 0.5)
def test_a_source_that_fails_is_asked_again_within_a_minute_to_an_hour(failures: int, draw: float) -> None:
    wait = watching.after_failure(NOW, failures, draw) - NOW
    assert timedelta(minutes=1) <= wait <= HOUR


@given(st.timedeltas(timedelta(), timedelta(days=30)), st.floats(0, 1, exclude_max=True))
def test_a_responder_is_asked_again_within_an_hour_to_a_day(lasts: timedelta, draw: float) -> None:
    wait = watching.next_ocsp(NOW, NOW, NOW + lasts, draw) - NOW
    assert HOUR * 0.9 <= wait <= timedelta(days=1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers())), st.integers(0, 20))
def test_a_sample_has_something_of_every_group_before_a_second_of_any(
    subjects: list[tuple[str, int]], limit: int
) -> None:
    chosen = watching.sampled(subjects, lambda one: one[0], limit)
    assert len(chosen) == min(limit, len(subjects))
    groups = {one[0] for one in subjects}
    first = {one[0] for one in chosen[: len(groups)]}
    assert len(first) == min(len(groups), len(chosen))
