from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.model import names as naming
from dualcert.policy.budget import (
    MOST,
    NOW,
    Decision,
    Kind,
    Limit,
    Standing,
    Subject,
    allowance,
    concerned,
    debt,
    decide,
    granted,
    stricter,
    taken,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
NEW = Subject(Kind.NEW_ORDERS)
LETS_ENCRYPT = Limit(300, 3 * HOUR)

limits = st.builds(Limit, st.integers(1, 400), st.timedeltas(timedelta(microseconds=1), timedelta(days=30)))
pauses = st.lists(st.timedeltas(timedelta(0), timedelta(days=10)), max_size=40)


def empty(limit: Limit, now: datetime = START) -> Standing:
    return Standing(now + limit.depth)


# --- the bucket ------------------------------------------------------------------------------------------


def test_a_bucket_nothing_is_known_of_is_full() -> None:
    standing, allowed = None, 0
    while decide(NEW, LETS_ENCRYPT, standing, START).allowed:
        standing = taken(LETS_ENCRYPT, standing, START)
        allowed += 1
    assert allowed == 300


def test_an_empty_bucket_gets_one_permit_back_at_a_time_and_says_when() -> None:
    said = decide(NEW, LETS_ENCRYPT, empty(LETS_ENCRYPT), START)
    assert said.at == START + 36 * SECOND
    assert said.reason == "new sets of names (300/3h) are used up"
    standing = empty(LETS_ENCRYPT)
    assert decide(NEW, LETS_ENCRYPT, standing, said.at).allowed
    assert (
        decide(NEW, LETS_ENCRYPT, taken(LETS_ENCRYPT, standing, said.at), said.at).at == said.at + 36 * SECOND
    )


@given(limit=limits, pauses=pauses)
def test_in_no_span_of_time_more_is_allowed_than_the_bucket_holds_and_what_it_gets_back(
    limit: Limit, pauses: list[timedelta]
) -> None:
    now, standing, times = START, None, []
    for pause in pauses:
        now += pause
        for _ in range(3):
            if decide(NEW, limit, standing, now).allowed:
                standing = taken(limit, standing, now)
                times.append(now)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= limit.count + (times[last] - begin) // limit.interval


@given(limit=limits, pauses=pauses)
def test_whoever_comes_at_the_time_that_was_told_gets_a_permit_and_not_a_microsecond_before(
    limit: Limit, pauses: list[timedelta]
) -> None:
    now, standing = START, None
    for pause in pauses:
        now += pause
        said = decide(NEW, limit, standing, now)
        if said.at is not None:
            assert not decide(NEW, limit, standing, said.at - timedelta(microseconds=1)).allowed
            assert decide(NEW, limit, standing, said.at).allowed
            now = said.at
        standing = taken(limit, standing, now)


@given(limit=limits)
def test_permits_are_never_back_sooner_than_the_ca_gives_them(limit: Limit) -> None:
    assert limit.interval * limit.count >= limit.per
    assert limit.interval > timedelta(0)


def test_some_are_left_for_what_is_needed_soon() -> None:
    almost = Standing(START + LETS_ENCRYPT.depth - 30 * LETS_ENCRYPT.interval)
    assert decide(NEW, LETS_ENCRYPT, almost, START).allowed
    waiting = decide(NEW, LETS_ENCRYPT, almost, START, leave=LETS_ENCRYPT.reserve)
    assert waiting.at == START + 36 * SECOND
    assert Limit(9, HOUR).reserve == 0, "of few, none is set aside"


@pytest.mark.parametrize(
    ("left", "soon", "later", "go"),
    [
        (300, 0, 5, 5),
        (32, 0, 5, 2),
        (32, 1, 5, 2),
        (32, 4, 5, 4),
        (30, 0, 5, 0),
        (30, 3, 5, 3),
        (2, 4, 5, 2),
        (0, 4, 5, 0),
    ],
)
def test_what_is_needed_soon_leaves_the_queue_while_there_are_permits_and_the_rest_leaves_a_tenth(
    left: int, soon: int, later: int, go: int
) -> None:
    standing = Standing(START + LETS_ENCRYPT.depth - left * LETS_ENCRYPT.interval)
    waiting = [START + 2 * DAY] * soon + [START + 4 * DAY] * later
    said = allowance(LETS_ENCRYPT, standing, None, START)
    assert said.admitted(waiting, START) == go
    for needed_by, least in ((START + 2 * DAY, 1), (START + 4 * DAY, 31)):
        expected = max(0, least - left) * LETS_ENCRYPT.interval
        assert (said.decision(needed_by, START).at or START) == START + expected


def test_a_ca_that_counts_nothing_lets_all_go_until_it_says_otherwise() -> None:
    many = [START] * 1000
    assert allowance(None, None, None, START).admitted(many, START) == 1000
    said = Standing(START, START + HOUR, "too many")
    for held in ({"counted": said, "all_orders": None}, {"counted": None, "all_orders": said}):
        for limit in (None, LETS_ENCRYPT):
            now = allowance(limit, **held, now=START)
            assert now.admitted(many, START) == 0
            assert now.decision(START, START).at == START + HOUR
            assert now.decision(START, START).reason == "too many"
        assert allowance(None, **held, now=START + HOUR).admitted(many, START + HOUR) == 1000


@given(limit=limits, back=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_clock_that_was_put_back_makes_a_bucket_empty_at_the_most(limit: Limit, back: timedelta) -> None:
    said = decide(NEW, limit, Standing(START + back), START)
    assert said.at is None or said.at <= START + limit.interval


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (LETS_ENCRYPT, "300/3h"),
        (Limit(50, 7 * DAY), "50/7d"),
        (Limit(5, HOUR), "5/h"),
        (Limit(8, SECOND), "8/s"),
        (Limit(1, 90 * SECOND), "1/90s"),
        (Limit(1, 10 * 60 * SECOND), "1/10m"),
    ],
)
def test_a_limit_reads_as_it_is_configured(limit: Limit, text: str) -> None:
    assert str(limit) == text


# --- a CA's word -----------------------------------------------------------------------------------------


def test_what_a_ca_has_asked_to_leave_alone_is_left_alone_and_its_words_are_kept() -> None:
    held = Standing(START, START + HOUR, "too many new orders")
    for limit in (None, LETS_ENCRYPT):
        said = decide(NEW, limit, held, START)
        assert (said.at, said.reason) == (START + HOUR, "too many new orders")
        assert decide(NEW, limit, held, START + HOUR).allowed


def test_after_a_pause_one_permit_is_there_and_not_what_was_thought() -> None:
    end = START + HOUR
    standing = Standing(end + debt(LETS_ENCRYPT), end, "too many")
    assert decide(NEW, LETS_ENCRYPT, standing, end).allowed
    assert decide(NEW, LETS_ENCRYPT, taken(LETS_ENCRYPT, standing, end), end).at == end + 36 * SECOND
    assert debt(None) == timedelta(0)


@pytest.mark.parametrize(
    ("wished", "left", "given"),
    [
        (HOUR, None, HOUR),
        (30 * DAY, None, DAY),
        (HOUR, 30 * DAY, HOUR),
        (HOUR, HOUR, HOUR / 2),
        (DAY, 6 * HOUR, 3 * HOUR),
        (HOUR, -DAY, HOUR),
        (-HOUR, None, timedelta(0)),
    ],
)
def test_a_wish_is_granted_up_to_a_day_and_half_of_the_life_that_is_left(
    wished: timedelta, left: timedelta | None, given: timedelta
) -> None:
    assert granted(wished, left) == given <= MOST


@given(st.lists(st.one_of(st.none(), st.timedeltas(timedelta(0), DAY)), max_size=6))
def test_of_several_decisions_the_latest_counts(waits: list[timedelta | None]) -> None:
    decisions = [NOW if wait is None else Decision(START + wait, str(wait)) for wait in waits]
    said = stricter(*decisions)
    assert said.allowed == all(one.allowed for one in decisions)
    if not said.allowed:
        assert said.at == max(one.at for one in decisions if one.at is not None)


NAMES = ("www.example.com", "*.shop.example.com")
SET = Subject(Kind.SET, naming.digest(NAMES).hex())


@pytest.mark.parametrize(
    ("said", "subjects"),
    [
        ("too many new orders (300) from this account in the last 3h0m0s, retry after 2026-03-01", (NEW,)),
        ("too many requests", (NEW,)),
        ("Service busy; see https://ca.example.org/limits", (NEW,)),
        (
            "too many certificates (5) already issued for this exact set of identifiers in the last 168h",
            (SET,),
        ),
        (
            'too many certificates (50) already issued for "example.com" in the last 168h0m0s',
            (Subject(Kind.DOMAIN, "example.com"),),
        ),
        (
            'too many failed authorizations (5) for "www.example.com" in the last 1h0m0s',
            (Subject(Kind.FAILED, "www.example.com"),),
        ),
        (
            'too many failed authorizations (5) for "shop.example.com" in the last 1h0m0s',
            (Subject(Kind.FAILED, "shop.example.com"),),
        ),
        ("www.example.com is busy", (SET,)),
        (
            "too many certificates already issued for names of example.com: www.example.com, retry later",
            (Subject(Kind.DOMAIN, "www.example.com"),),
        ),
        ("too many certificates already issued for notexample.com and example.community", (NEW,)),
    ],
)
def test_a_refusal_holds_no_more_than_what_its_words_name(said: str, subjects: tuple[Subject, ...]) -> None:
    assert concerned(said, NAMES, counted=True) == subjects


def test_a_refusal_of_an_order_that_counts_nowhere_concerns_all_orders() -> None:
    assert concerned("too many requests", NAMES, counted=False) == (Subject(Kind.ORDERS),)
