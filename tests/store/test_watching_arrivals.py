"""A certificate that arrives while the places that it names are being asked, or put to sleep, is watched like any."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dualcert.lifecycle.watching import asking
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.store import watch_answers
from dualcert.store.watching import Source
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.revocations import Publisher, crl
from tests.store.building import a_pair
from tests.store.racing import Arena
from tests.store.test_watching import answers
from tests.store.watched import a_watching_world, issue
from tests.store.worlds import Setting
from tests.tinyca import TinyCa


def source_of(world: World, watched: Certificate) -> Source:
    with world.store.read() as tx:
        [source] = watch_answers.watched_by(tx, watched.id)
    return source


@pytest.fixture
def arena(server: Postgres, on_postgres: str, clock: FakeClock, tmp_path: Path) -> Iterator[Arena]:
    made = Arena(server, on_postgres, clock, Setting(), tmp_path)
    yield made
    made.close()


def test_while_its_responder_is_settled_until_it_is_asked_again(
    arena: Arena, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    asked = a_watching_world(arena.second.store, clock)
    place = publisher.put("/ocsp", b"")
    with asked.store.write() as tx:
        first = issue(tx, asked, tiny, a_pair(tx), ocsp=[place])
    answers(publisher, asked, tiny, [first])

    def arrives(world: World) -> Certificate:
        with world.store.write() as tx:
            return issue(tx, world, tiny, a_pair(tx), ocsp=[place])

    arrived, done = arena.race(arrives, lambda _: asking.ask_due(asked))

    assert arena.was_blocked
    assert done.failed == 0
    assert first.id != arrived.id
    due_at = source_of(asked, arrived).due_at
    assert due_at is not None
    assert due_at <= clock.now() + timedelta(seconds=10)


def test_while_a_list_is_left_that_nothing_named_any_more(
    arena: Arena, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    asked = a_watching_world(arena.second.store, clock)
    listed = crl(tiny.intermediate, now=clock.now())
    place, other = publisher.put("/crl", listed), publisher.put("/other", listed)
    with asked.store.write() as tx:
        pair = a_pair(tx)
        first = issue(tx, asked, tiny, pair, crl=[place])
    asking.ask_due(asked)
    with asked.store.write() as tx:
        issue(tx, asked, tiny, pair, crl=[other])  # renewed, and on another list
    asking.ask_due(asked)
    clock.advance(timedelta(hours=1))

    def arrives(world: World) -> Certificate:
        with world.store.write() as tx:
            return issue(tx, world, tiny, a_pair(tx), crl=[place])

    arrived, done = arena.race(arrives, lambda _: asking.ask_due(asked))

    assert arena.was_blocked
    assert done.failed == 0
    assert first.id != arrived.id
    source = source_of(asked, arrived)
    assert (source.asked_at, source.problem) == (clock.now(), None)
    assert source.due_at is not None
