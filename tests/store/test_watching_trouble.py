"""Watching in a bad hour: sources that lie or say nothing, and processes that meet or die between two steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from dualcert.lifecycle.watching import asking, telling
from dualcert.lifecycle.world import World
from dualcert.store import Store
from dualcert.testing.clock import FakeClock
from tests.revocations import Publisher, crl, publishing
from tests.store.building import a_pair
from tests.store.watched import a_watching_world, issue
from tests.tinyca import TinyCa

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as server:
        yield server


@pytest.fixture(scope="module")
def tiny() -> TinyCa:
    return TinyCa.make()


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_watching_world(store, clock)


# --- what a source says ----------------------------------------------------------------------------------


def test_what_stands_around_a_good_list_may_be_anything(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    whole = crl(tiny.intermediate, now=world.clock.now())
    with world.store.write() as tx:
        place = publisher.put("/crl", whole, ETag='"a\0b"', Last_Modified="\x1b[2J")
        issue(tx, world, tiny, a_pair(tx), crl=[place])

    assert asking.ask_due(world).failed == 0
    assert [one.state for one in telling.standings(world)] == ["good"]


def test_a_responder_that_says_nothing_stays_blind_however_often_one_looks(
    world: World, publisher: Publisher, tiny: TinyCa, clock: FakeClock
) -> None:
    """Its certificate is due a little later than itself, as chance has it: asked about nothing, it has said nothing."""
    draws = iter(range(10_000))
    world = replace(world, draw=lambda: float(next(draws) % 2))
    with world.store.write() as tx:
        issue(tx, world, tiny, a_pair(tx), ocsp=[f"{publisher.url}/nobody"])

    for _ in range(60):
        asking.ask_due(world)
        (standing,) = telling.standings(world)
        assert (standing.state, standing.age) == ("blind", None)
        clock.advance(MINUTE / 6)
