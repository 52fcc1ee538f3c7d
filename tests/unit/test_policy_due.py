from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.policy.due import (
    PROOF_LASTS,
    Due,
    Life,
    Suggestion,
    Window,
    ask_after_failure,
    by_life,
    first_ask,
    next_ask,
    renewal,
    suggestion,
    usable_until,
)

BIRTH = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LIFE = 90 * DAY
END = BIRTH + LIFE


def living(length: timedelta, birth: datetime = BIRTH) -> Life:
    """A life that begins as it is stored."""
    return Life(birth, birth + length, birth)


lives = st.timedeltas(timedelta(hours=1), timedelta(days=400))
moments = st.timedeltas(timedelta(0), timedelta(days=7000)).map(lambda passed: BIRTH + passed)
draws = st.floats(0, 1, exclude_max=True)


# --- by its life -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "after"),
    [
        (timedelta(days=90), timedelta(days=60)),
        (timedelta(days=10), timedelta(days=20) / 3),
        (timedelta(days=10) - timedelta(microseconds=2), timedelta(days=5) - timedelta(microseconds=1)),
        (timedelta(days=6), timedelta(days=3)),
        (timedelta(hours=1), timedelta(minutes=30)),
    ],
)
def test_renewal_is_at_two_thirds_of_a_life_and_half_way_below_ten_days(
    life: timedelta, after: timedelta
) -> None:
    assert by_life(living(life), 0.0) == BIRTH + after


@pytest.mark.parametrize(
    ("life", "most"),
    [(200 * DAY, DAY), (90 * DAY, DAY), (47 * DAY, 47 * DAY / 50), (HOUR, timedelta(seconds=72))],
)
def test_chance_takes_off_a_fiftieth_of_the_life_at_most_and_never_more_than_a_day(
    life: timedelta, most: timedelta
) -> None:
    at = [by_life(living(life), draw) for draw in (0.0, 0.5, 1.0)]
    assert at[0] - at[1] == most / 2
    assert at[0] - at[2] == most


@given(birth=moments, life=lives, draw=draws)
def test_renewal_leaves_a_third_of_a_life_and_is_not_before_a_third_of_it(
    birth: datetime, life: timedelta, draw: float
) -> None:
    at = by_life(living(life, birth), draw)
    assert birth + life / 3 < at <= birth + life * 2 / 3


@given(birth=moments, life=lives, one=draws, other=draws)
def test_two_that_came_together_are_due_within_the_time_in_which_one_joins_the_other(
    birth: datetime, life: timedelta, one: float, other: float
) -> None:
    apart = abs(by_life(living(life, birth), one) - by_life(living(life, birth), other))
    assert apart < min(life / 10, 3 * DAY)


def test_one_that_arrives_late_in_its_life_is_kept_for_a_tenth_of_what_is_left() -> None:
    late = Life(BIRTH, END, BIRTH + 70 * DAY)
    assert by_life(late, 0.5) == BIRTH + 72 * DAY
    past = suggestion(window(59 * DAY, 61 * DAY), None, 0.5)
    assert renewal(late, by_life(late, 0.5), past).at == BIRTH + 72 * DAY


def test_one_whose_life_begins_after_it_was_stored_is_young_from_its_beginning() -> None:
    assert Life(BIRTH, END, BIRTH - DAY).young_until == BIRTH + 9 * DAY


# --- by what its CA suggests -----------------------------------------------------------------------------


def window(start: timedelta, end: timedelta, explanation: str | None = None) -> Window:
    return Window(BIRTH + start, BIRTH + end, explanation)


@given(life=lives, draw=draws)
def test_a_time_is_drawn_inside_the_window(life: timedelta, draw: float) -> None:
    one = Window(BIRTH, BIRTH + life)
    assert one.start <= suggestion(one, None, draw).at <= one.end


def test_a_window_whose_bounds_stand_keeps_the_time_that_was_drawn() -> None:
    first = suggestion(window(59 * DAY, 61 * DAY), None, 0.25)
    explained = window(59 * DAY, 61 * DAY, "https://ca.test/why")
    assert suggestion(explained, first, 0.75) == Suggestion(explained, BIRTH + 59.5 * DAY)


@pytest.mark.parametrize("moved", [window(59 * DAY, 62 * DAY), window(58 * DAY, 61 * DAY)])
def test_a_window_of_which_a_bound_has_moved_is_drawn_from_again(moved: Window) -> None:
    first = suggestion(window(59 * DAY, 61 * DAY), None, 0.25)
    assert suggestion(moved, first, 0.5).at == moved.start + (moved.end - moved.start) / 2


LIFE_AT = by_life(living(LIFE), 0.0)


def test_the_life_decides_where_the_ca_says_nothing_or_something_later() -> None:
    later = suggestion(window(70 * DAY, 71 * DAY), None, 0.0)
    alone = Due(LIFE_AT, "two thirds of its life have passed")
    assert renewal(living(LIFE), LIFE_AT, None) == renewal(living(LIFE), LIFE_AT, later) == alone


def test_the_ca_decides_where_it_wants_it_earlier_and_is_quoted() -> None:
    earlier = suggestion(window(20 * DAY, 30 * DAY, "https://ca.test/why"), None, 0.5)
    assert renewal(living(LIFE), LIFE_AT, earlier) == Due(
        BIRTH + 25 * DAY, "its CA suggests it: https://ca.test/why"
    )


def test_a_window_in_the_past_means_now() -> None:
    past = suggestion(window(10 * DAY, 11 * DAY), None, 0.9)
    assert renewal(living(LIFE), LIFE_AT, past).at < BIRTH + 20 * DAY


@given(life=lives, start=st.timedeltas(-30 * DAY, timedelta(0)), draw=draws)
def test_a_window_that_is_open_at_birth_waits_for_a_tenth_of_the_life(
    life: timedelta, start: timedelta, draw: float
) -> None:
    said = suggestion(Window(BIRTH + start, BIRTH + timedelta(seconds=1)), None, draw)
    assert renewal(living(life), by_life(living(life), 0.0), said).at == BIRTH + life / 10


# --- when a CA is asked ----------------------------------------------------------------------------------


@given(life=lives, draw=draws)
def test_the_first_question_is_asked_before_its_answer_counts_and_within_six_hours(
    life: timedelta, draw: float
) -> None:
    at = first_ask(BIRTH, living(life), draw)
    assert BIRTH <= at <= BIRTH + min(life / 10, 6 * HOUR)


@pytest.mark.parametrize(
    ("wished", "wait"),
    [
        (timedelta(0), timedelta(minutes=1)),
        (timedelta(seconds=59), timedelta(minutes=1)),
        (timedelta(seconds=61), timedelta(seconds=61)),
        (6 * HOUR, 6 * HOUR),
        (DAY, DAY),
        (30 * DAY, DAY),
        (None, 6 * HOUR),
    ],
)
def test_a_ca_is_asked_again_as_it_wishes_between_a_minute_and_a_day(
    wished: timedelta | None, wait: timedelta
) -> None:
    assert next_ask(BIRTH, END, wished) == BIRTH + wait


def test_a_ca_is_not_asked_about_a_certificate_that_has_ended_by_then() -> None:
    assert next_ask(END - HOUR, END, HOUR) is None
    assert next_ask(END - HOUR, END, HOUR - timedelta(seconds=1)) is not None
    assert ask_after_failure(END - HOUR, END, 10, 0.0, None) is None


def test_a_ca_that_gives_no_answer_is_asked_ever_more_rarely_and_once_a_day_at_least() -> None:
    waits = [ask_after_failure(BIRTH, END, failures, 0.5, None) for failures in (0, 1, 2, 40)]
    assert waits == [BIRTH + timedelta(minutes=5 * factor) for factor in (1, 2, 4, 288)]


@pytest.mark.parametrize(("wished", "wait"), [(timedelta(0), timedelta(minutes=1)), (9 * DAY, DAY)])
def test_the_wish_of_a_failing_ca_is_granted_between_a_minute_and_a_day(
    wished: timedelta, wait: timedelta
) -> None:
    assert ask_after_failure(BIRTH, END, 0, 0.0, wished) == BIRTH + wait


# --- how long a standby is trusted -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "margin"),
    [
        (timedelta(days=90), DAY),
        (timedelta(days=10), DAY),
        (timedelta(days=5), timedelta(hours=12)),
        (timedelta(hours=1), timedelta(minutes=6)),
    ],
)
def test_a_standby_is_trusted_until_a_day_or_a_tenth_before_its_end(
    life: timedelta, margin: timedelta
) -> None:
    end = BIRTH + life
    assert usable_until(BIRTH, end, proved_at=end) == end - margin


def test_a_standby_whose_key_was_not_opened_for_thirty_days_is_no_longer_trusted() -> None:
    assert timedelta(days=30) == PROOF_LASTS
    assert usable_until(BIRTH, BIRTH + timedelta(days=90), BIRTH + DAY) == BIRTH + timedelta(days=31)


@given(birth=moments, life=lives, proved=moments)
def test_trust_ends_before_the_certificate_and_before_its_proof(
    birth: datetime, life: timedelta, proved: datetime
) -> None:
    until = usable_until(birth, birth + life, proved)
    assert until < birth + life
    assert until <= proved + PROOF_LASTS


@given(birth=moments, life=lives, proved=moments, later=st.timedeltas(timedelta(0), timedelta(days=100)))
def test_a_newer_proof_never_shortens_trust(
    birth: datetime, life: timedelta, proved: datetime, later: timedelta
) -> None:
    end = birth + life
    assert usable_until(birth, end, proved + later) >= usable_until(birth, end, proved)
