"""More certificates to ask a CA about than it is asked about: a sample by hour of issuance, and the report says so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from dualcert.lifecycle import renewal, renewal_information
from dualcert.lifecycle.watching import telling
from dualcert.lifecycle.world import World
from dualcert.store import Store
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair
from tests.store.renewing import DAY, HOUR, MINUTE, Oracle, ask, asking_world, gets

AT_ONCE = renewal_information._BATCH


@pytest.fixture
def oracle() -> Oracle:
    """The primary's CA; it has no wish for any certificate."""
    return Oracle(None)


@pytest.fixture
def world(store: Store, clock: FakeClock, oracle: Oracle) -> World:
    return asking_world(store, clock, oracle)


def issued(world: World, ages: Sequence[timedelta], ca: str = PRIMARY, *, late: timedelta) -> set[str]:
    """Certificates of these ages about which a CA should have been asked so long ago; how they are named to it."""
    names = set()
    with world.store.write() as tx:
        for age in ages:
            pair = a_pair(tx)
            names.add(f"{ca}.{gets(tx, pair, ca, age=age, check_in=-late).id}")
            renewal.reckon(tx, pair.id)
    return names


def test_every_hour_of_issuance_is_asked_about_before_any_a_second_time(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    issued(world, [20 * DAY] * (2 * AT_ONCE), late=5 * HOUR)
    others = issued(world, [20 * DAY - number * HOUR for number in range(1, AT_ONCE)], late=3 * HOUR)
    ask(world)
    assert len(oracle.asked) == AT_ONCE
    assert others <= set(oracle.asked)


def test_a_mass_of_one_hour_that_has_waited_longest_does_not_hide_the_other_hours(
    world: World, oracle: Oracle
) -> None:
    issued(world, [20 * DAY] * (renewal_information._WINDOW + 50), late=9 * HOUR)
    others = issued(world, [30 * DAY, 40 * DAY], late=2 * HOUR)
    others |= issued(world, [50 * DAY], late=MINUTE)
    ask(world)
    assert others <= set(oracle.asked)
    assert len(set(oracle.asked)) == len(oracle.asked) == AT_ONCE


def test_none_of_them_is_forgotten_however_they_are_sampled(world: World, oracle: Oracle) -> None:
    everything = issued(world, [20 * DAY] * (renewal_information._WINDOW + 20), late=9 * HOUR)
    everything |= issued(world, [(30 + number % 3) * DAY for number in range(30)], late=HOUR)
    for _ in range(len(everything) // AT_ONCE + 1):
        ask(world)
    assert sorted(oracle.asked) == sorted(everything)


def test_each_ca_is_sampled_by_itself(world: World, oracle: Oracle) -> None:
    issued(world, [20 * DAY] * AT_ONCE, BACKUP, late=9 * HOUR)
    mine = issued(world, [20 * DAY], late=HOUR)
    ask(world)
    assert set(oracle.asked) == mine


def test_the_report_counts_by_ca_what_has_waited_for_more_than_an_hour(world: World) -> None:
    issued(world, [20 * DAY] * 3, late=2 * HOUR)
    issued(world, [20 * DAY], late=30 * MINUTE)
    issued(world, [20 * DAY], BACKUP, late=90 * MINUTE)
    assert telling.overdue(world) == {PRIMARY: 3, BACKUP: 1}
    said = {one.subject: one.detail for one in telling.findings(world) if "wait" in one.detail}
    assert said.keys() == {f"watching ca.{PRIMARY}", f"watching ca.{BACKUP}"}
    assert said[f"watching ca.{PRIMARY}"].startswith("3 certificates wait")
    assert "sample by hour of issuance" in said[f"watching ca.{PRIMARY}"]


def test_the_report_says_nothing_of_it_where_all_are_asked_about_in_time(world: World) -> None:
    issued(world, [20 * DAY], late=30 * MINUTE)
    assert telling.overdue(world) == {}
    assert [one for one in telling.findings(world) if "wait" in one.detail] == []
