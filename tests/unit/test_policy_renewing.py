from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.policy.renewing import (
    Leave,
    LineageFacts,
    Opening,
    PrimaryFacts,
    Renewal,
    Stay,
    leaving,
    renewal,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
LIFE = 90 * DAY


def lineage(ca: str, due_in: timedelta | None, life: timedelta | None = LIFE) -> LineageFacts:
    renew_at = None if due_in is None else NOW + due_in
    return LineageFacts(ca, life=life, renew_at=renew_at, reason="two thirds of its life have passed")


def opened(*lineages: LineageFacts) -> set[str]:
    return {one.ca for one in renewal(lineages, NOW).openings}


# --- what is ordered -------------------------------------------------------------------------------------


def test_nothing_is_ordered_before_its_time_and_the_earlier_time_is_named() -> None:
    assert renewal([lineage("a", 9 * DAY), lineage("b", 5 * DAY)], NOW) == Renewal((), NOW + 5 * DAY)


def test_what_is_due_is_ordered_with_its_reason_and_the_other_is_come_back_to() -> None:
    found = renewal([lineage("a", timedelta(0)), lineage("b", 5 * DAY)], NOW)
    assert found == Renewal((Opening("a", "two thirds of its life have passed"),), NOW + 5 * DAY)


def test_what_is_held_is_neither_ordered_nor_does_it_join_and_it_is_come_back_to() -> None:
    held = replace(lineage("a", DAY), held=True)
    assert opened(replace(held, urgent="its certificate was given up"), lineage("b", timedelta(0))) == {"b"}
    assert renewal([held, lineage("b", 5 * DAY)], NOW) == Renewal((), NOW + DAY)


@pytest.mark.parametrize(
    ("lives", "due_in", "joins"),
    [
        ((LIFE, LIFE), 3 * DAY, True),
        ((LIFE, LIFE), 3 * DAY + timedelta(seconds=1), False),
        ((LIFE, 10 * DAY), DAY, True),
        ((LIFE, 10 * DAY), DAY + timedelta(seconds=1), False),
        ((timedelta(hours=1), LIFE), timedelta(minutes=6), True),
        ((timedelta(hours=1), LIFE), timedelta(minutes=7), False),
    ],
)
def test_a_sibling_joins_that_is_due_within_a_tenth_of_the_shorter_life_and_three_days(
    lives: tuple[timedelta, timedelta], due_in: timedelta, joins: bool
) -> None:
    one, other = lineage("a", -DAY, lives[0]), lineage("b", due_in, lives[1])
    for pair in ((one, other), (other, one)):
        assert opened(*pair) == ({"a", "b"} if joins else {"a"})


def test_what_joins_says_so() -> None:
    found = renewal([lineage("a", -DAY), lineage("b", DAY)], NOW)
    assert found.openings[1] == Opening("b", "it joins its sibling, being due on 2026-03-02")
    assert found.again is None


def test_what_is_urgent_does_not_pull_its_sibling() -> None:
    urgent = replace(lineage("a", 40 * DAY), urgent="its certificate is revoked")
    found = renewal([urgent, lineage("b", DAY)], NOW)
    assert found == Renewal((Opening("a", "its certificate is revoked"),), NOW + DAY)


def test_what_is_urgent_and_due_as_well_does_not_pull_its_sibling_either() -> None:
    urgent = replace(lineage("a", -DAY), urgent="its certificate has expired")
    assert opened(urgent, lineage("b", DAY)) == {"a"}


def test_what_is_urgent_and_what_is_due_are_ordered_together() -> None:
    urgent = replace(lineage("a", 40 * DAY), urgent="its certificate is revoked")
    assert opened(urgent, lineage("b", -DAY)) == {"a", "b"}


def test_an_order_that_is_under_way_neither_pulls_nor_is_pulled_nor_opened_twice() -> None:
    ordering = replace(lineage("a", -DAY), ordering=True)
    assert renewal([ordering, lineage("b", DAY)], NOW) == Renewal((), NOW + DAY)
    assert opened(replace(lineage("a", DAY), ordering=True), lineage("b", -DAY)) == {"b"}
    assert opened(replace(ordering, urgent="it has expired"), ordering) == set()


# --- when the primary is left ----------------------------------------------------------------------------

FACTS = PrimaryFacts("alpha", NOW - LIFE, NOW, NOW + 30 * DAY, "the CA does not answer")
QUIET = replace(FACTS, trouble=None)
SECOND = timedelta(seconds=1)


def test_a_primary_in_trouble_is_left_in_the_last_tenth_of_its_life_and_not_before() -> None:
    assert leaving(FACTS, NOW - 3 * DAY - SECOND) == Stay("there is time for its renewal", NOW - 3 * DAY)
    found = leaving(FACTS, NOW - 3 * DAY)
    assert isinstance(found, Leave)
    assert found.reason == (
        "the certificate of alpha expires on 2026-03-01 00:00 UTC and cannot be renewed: the CA does not answer"
    )


@pytest.mark.parametrize(
    ("life", "last"),
    [
        (200 * DAY, 3 * DAY),
        (30 * DAY, 3 * DAY),
        (6 * DAY, 0.6 * DAY),
        (timedelta(hours=1), timedelta(minutes=6)),
    ],
)
def test_the_last_tenth_is_three_days_at_the_most(life: timedelta, last: timedelta) -> None:
    facts = replace(FACTS, serving_from=NOW - life)
    assert isinstance(leaving(facts, NOW - last - SECOND), Stay)
    assert isinstance(leaving(facts, NOW - last), Leave)


def test_a_renewal_that_is_merely_under_way_is_given_half_of_the_last_tenth() -> None:
    assert leaving(QUIET, NOW - 3 * DAY) == Stay(
        "its renewal is under way", NOW - 3 * DAY + timedelta(hours=1)
    )
    assert isinstance(leaving(QUIET, NOW - 1.5 * DAY - SECOND), Stay)
    assert isinstance(leaving(QUIET, NOW - 1.5 * DAY), Leave)


def test_an_expired_certificate_is_left_whatever_becomes_of_its_renewal() -> None:
    found = leaving(QUIET, NOW + DAY)
    assert isinstance(found, Leave)
    assert "expired on" in found.reason


@pytest.mark.parametrize("until", [None, NOW - DAY, NOW])
def test_a_backup_that_does_not_outlive_it_is_no_way_out(until: datetime | None) -> None:
    assert leaving(replace(FACTS, standby_until=until), NOW - SECOND) == Stay("no backup outlives it", None)


def test_a_backup_that_has_expired_as_well_is_no_way_out() -> None:
    facts = replace(QUIET, standby_until=NOW + DAY)
    assert isinstance(leaving(facts, NOW + DAY - SECOND), Leave)
    assert leaving(facts, NOW + DAY) == Stay("the backup has expired, too", None)


def test_where_nothing_serves_nothing_is_left() -> None:
    facts = replace(FACTS, serving_from=None, serving_until=None)
    assert leaving(facts, NOW) == Stay("nothing serves", None)


spans = st.timedeltas(timedelta(hours=1), 400 * DAY)


@given(
    life=spans, left=st.timedeltas(-10 * DAY, 400 * DAY), longer=spans, trouble=st.sampled_from([None, "x"])
)
def test_one_comes_back_later_and_never_turns_back(
    life: timedelta, left: timedelta, longer: timedelta, trouble: str | None
) -> None:
    until = NOW + left
    facts = PrimaryFacts("a", until - life, until, until + longer, trouble)
    found = leaving(facts, NOW)
    assert (found.again is None) == (until + longer <= NOW)
    assert found.again is None or found.again > NOW
    swapped = PrimaryFacts("b", until - life, until + longer, until, trouble)
    assert isinstance(leaving(swapped, NOW), Stay)
    assert isinstance(leaving(facts, until), Leave)
