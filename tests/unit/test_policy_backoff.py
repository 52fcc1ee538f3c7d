from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.policy.backoff import AT_A_TARGET, IN_MEMORY, Failure, after_failure, next_day, next_look

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)

attempts = st.integers(0, 10_000)
draws = st.floats(0, 1, exclude_max=True)


def failure(
    number: int, *, began: datetime = NOW, since: datetime | None = None, draw: float = 0.5
) -> Failure:
    return Failure(began, number, since, draw)


# --- looking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("looks", "milliseconds"),
    [(0, 0), (1, 5), (2, 10), (3, 20), (8, 640), (9, 1000), (10, 1000), (128, 1000), (129, 10_000)],
)
def test_looks_come_at_once_then_after_5_ms_doubling_to_a_second_and_at_last_every_ten(
    looks: int, milliseconds: int
) -> None:
    assert next_look(NOW, looks) == NOW + timedelta(milliseconds=milliseconds)


@given(looks=st.integers(0, 10_000))
def test_looks_never_come_faster_with_time(looks: int) -> None:
    assert NOW <= next_look(NOW, looks) <= next_look(NOW, looks + 1)


def test_two_minutes_of_looks_are_waited_for_in_memory_and_later_ones_are_not() -> None:
    waited = sum((next_look(NOW, looks) - NOW for looks in range(129)), timedelta(0))
    assert timedelta(seconds=110) < waited < timedelta(seconds=130)
    assert next_look(NOW, 128) - NOW < IN_MEMORY <= next_look(NOW, 129) - NOW


@pytest.mark.parametrize(
    ("lasted", "pause"),
    [
        (timedelta(minutes=2), timedelta(seconds=10)),
        (timedelta(hours=1), timedelta(minutes=3)),
        (timedelta(days=3), timedelta(minutes=10)),
    ],
)
def test_what_lasts_for_hours_is_looked_at_more_seldom(lasted: timedelta, pause: timedelta) -> None:
    assert next_look(NOW, 129, None, lasted) == NOW + pause
    assert next_look(NOW, 128, None, lasted) == next_look(NOW, 128)
    assert next_look(NOW, 129, timedelta(seconds=7), lasted) == NOW + timedelta(seconds=7)


@pytest.mark.parametrize("looks", [0, 5, 1000])
def test_the_other_sides_wish_goes_before_our_own_rhythm(looks: int) -> None:
    assert next_look(NOW, looks, timedelta(seconds=7)) == NOW + timedelta(seconds=7)


@pytest.mark.parametrize("looks", [0, 5, 1000])
@pytest.mark.parametrize("seconds", [0, -7])
def test_who_always_wishes_us_back_at_once_is_looked_at_in_our_own_rhythm(looks: int, seconds: int) -> None:
    assert next_look(NOW, looks, timedelta(seconds=seconds)) == next_look(NOW, looks)


# --- after a failure -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "minutes"), [(0, 5), (1, 10), (2, 20), (7, 640), (8, 1280), (9, 1440), (500, 1440)]
)
def test_five_minutes_double_to_a_day(number: int, minutes: int) -> None:
    assert after_failure(NOW, failure(number), passing=False) == NOW + minutes * MINUTE


@pytest.mark.parametrize(("number", "minutes"), [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (500, 60)])
def test_where_a_target_fails_they_double_to_an_hour(number: int, minutes: int) -> None:
    at = after_failure(NOW, failure(number), passing=False, most=AT_A_TARGET)
    assert at == NOW + minutes * MINUTE


@pytest.mark.parametrize(("draw", "share"), [(0.0, 0.9), (0.25, 0.95), (0.5, 1.0), (0.75, 1.05)])
@pytest.mark.parametrize(("number", "minutes"), [(1, 10), (7, 640), (9, 1440), (500, 1440)])
def test_the_draw_takes_off_or_adds_up_to_a_tenth(
    number: int, minutes: int, draw: float, share: float
) -> None:
    at = after_failure(NOW, failure(number, draw=draw), passing=False)
    assert at == NOW + minutes * MINUTE * share


@pytest.mark.parametrize(("draw", "share"), [(0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.75, 1.05)])
def test_the_first_pause_is_never_shorter_than_a_command_waits(draw: float, share: float) -> None:
    for first, passing in ((0, False), (3, True)):
        at = after_failure(NOW, failure(first, draw=draw), passing=passing)
        assert at == NOW + 5 * MINUTE * share


@given(number=attempts, draw=draws, passing=st.booleans())
def test_no_pause_is_longer_than_a_day_and_a_tenth_and_none_is_negative(
    number: int, draw: float, passing: bool
) -> None:
    pause = after_failure(NOW, failure(number, draw=draw), passing=passing) - NOW
    assert timedelta(0) < pause <= DAY * 1.1


@given(number=attempts, draw=draws, passing=st.booleans())
def test_a_pause_never_gets_shorter_with_more_failures(number: int, draw: float, passing: bool) -> None:
    one, more = (
        after_failure(NOW, failure(tries, draw=draw), passing=passing) for tries in (number, number + 1)
    )
    assert one <= more


@pytest.mark.parametrize(("number", "seconds"), [(0, 0.5), (1, 1.0), (2, 1.5), (3, 300), (4, 600)])
def test_what_may_pass_by_itself_is_tried_three_times_within_seconds(number: int, seconds: float) -> None:
    assert after_failure(NOW, failure(number), passing=True) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize("quickly", [failure(0, began=NOW - timedelta(seconds=9.999))])
def test_a_short_trouble_is_tried_again_at_once(quickly: Failure) -> None:
    assert after_failure(NOW, quickly, passing=True) - NOW < IN_MEMORY


@pytest.mark.parametrize(
    "hanging",
    [
        failure(0, began=NOW - timedelta(seconds=10)),
        failure(1, began=NOW - timedelta(seconds=30)),
        failure(1, since=NOW - timedelta(seconds=10)),
    ],
)
def test_what_has_hung_for_ten_seconds_is_left_alone_for_minutes(hanging: Failure) -> None:
    assert after_failure(NOW, hanging, passing=True) == NOW + 5 * MINUTE


@pytest.mark.parametrize("passing", [True, False])
def test_a_wish_is_obeyed_up_to_a_day(passing: bool) -> None:
    for wish, granted in ((MINUTE, MINUTE), (DAY, DAY), (timedelta(days=300), DAY)):
        assert after_failure(NOW, failure(4), passing=passing, wished=wish) == NOW + granted


@pytest.mark.parametrize(("number", "seconds"), [(0, 0.5), (1, 1), (3, 4), (9, 256), (500, 256)])
def test_who_keeps_asking_us_back_at_once_is_asked_ever_more_slowly(number: int, seconds: float) -> None:
    for wish in (timedelta(0), timedelta(seconds=-5), timedelta(seconds=0.25)):
        assert after_failure(NOW, failure(number), passing=False, wished=wish) == NOW + timedelta(
            seconds=seconds
        )


@pytest.mark.parametrize(("age", "granted"), [(29.999, timedelta(seconds=2)), (30, 5 * MINUTE)])
def test_after_half_a_minute_of_trouble_a_wish_of_seconds_becomes_five_minutes(
    age: float, granted: timedelta
) -> None:
    old = failure(1, since=NOW - timedelta(seconds=age))
    assert after_failure(NOW, old, passing=False, wished=timedelta(seconds=2)) == NOW + granted


def test_an_unfit_certificate_is_not_ordered_again_before_a_day() -> None:
    assert next_day(NOW) == NOW + DAY
