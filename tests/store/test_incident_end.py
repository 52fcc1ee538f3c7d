"""The end of an incident, whoever comes between its units of work, or dies there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from dualcert.errors import Refused
from dualcert.lifecycle import condemning
from dualcert.lifecycle.incidents import close, open_incident, plan, running, telling
from dualcert.lifecycle.incidents.abreast import abreast
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.incident import Incident
from dualcert.model.pair import Pair
from dualcert.model.work import WorkKind
from dualcert.store import Store, Transaction, certificates, incident_progress, pairs, revocations, work
from dualcert.store import incidents as incident_store
from dualcert.store import promotion as promotion_sql
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.store.building import PRIMARY, a_full_pair
from tests.store.racing import Arena
from tests.store.worlds import Setting, a_world

ALL_AT_ONCE = Terms("100%", max_failures="100%")
LEAK = condemning.because_of("a leak")


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


@pytest.fixture
def arena(server: Postgres, on_postgres: str, clock: FakeClock, tmp_path: Path) -> Iterator[Arena]:
    made = Arena(server, on_postgres, clock, Setting(), tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _undeployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that only promotes, because the pairs have no real keys."""
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)


def opened(world: World, named: Sequence[Certificate], cause: str = "a test") -> Incident:
    deadline = world.clock.now() + timedelta(hours=24)
    return open_incident(world, "a test", cause, deadline, None, [one.id for one in named])


def failed_over(world: World, pair: Pair) -> None:
    with world.store.write() as tx:
        assert promotion_sql.swap(tx, pairs.state(tx, pair.id))


# --- of a leak -------------------------------------------------------------------------------------------


def is_condemned(world: World, leaked: Certificate) -> bool:
    with world.store.read() as tx:
        standing = certificates.standing(tx, leaked.id)
        wanted = [one.certificate_id for one in revocations.wanted(tx, leaked.pair_id)]
        trusted = pairs.state(tx, leaked.pair_id).backup_ok_until is not None
    assert standing is not None
    found = {standing.blocked, leaked.id in wanted, not trusted}
    assert len(found) == 1
    return found.pop()


def test_a_leaked_key_that_serves_no_more_is_blocked_before_it_is_named_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or somebody could fail over onto it in between."""
    with world.store.write() as tx:
        pair, leaked, _ = a_full_pair(tx)
    incident = opened(world, [leaked], LEAK)
    failed_over(world, pair)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(incident_store, "close", die)
        with pytest.raises(KeyboardInterrupt):
            close(world, incident.id)

    assert is_condemned(world, leaked)


def test_a_leaked_key_that_leaves_service_while_its_incident_is_closed_is_blocked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.store.write() as tx:
        pair, leaked, _ = a_full_pair(tx)
    incident = opened(world, [leaked], LEAK)
    block, turned = condemning.block_left, list[bool]()

    def meanwhile(mine: World, found: Incident) -> int:
        done = block(mine, found)
        if not turned:
            turned.append(True)
            failed_over(mine, pair)
        return done

    monkeypatch.setattr(condemning, "block_left", meanwhile)
    close(world, incident.id)

    assert turned == [True]
    assert is_condemned(world, leaked)


# --- while it is opened ----------------------------------------------------------------------------------

_NAME = 2
"""Which unit of an opening's names the first certificates: before it the incident gets its number."""


def test_who_closes_an_incident_waits_for_what_is_being_named(arena: Arena) -> None:
    with arena.second.store.write() as tx:
        held = [a_full_pair(tx) for _ in range(3)]
    backups = [one for _, _, one in held]

    one, other = arena.race(lambda world: opened(world, backups), lambda world: close(world, 1), nth=_NAME)

    assert arena.was_blocked
    assert isinstance(other, Incident), other
    assert isinstance(one, Refused), one
    with arena.second.store.read() as tx:
        assert all(pairs.state(tx, pair.id).backup_ok_until for pair, _, _ in held)


# --- refills that are held by two of them ----------------------------------------------------------------


def two_that_hold(world: World) -> tuple[Incident, Incident, list[Pair]]:
    """At one CA, each for a pair of its own; the second one was the last to hold."""
    found = list[Incident]()
    with world.store.write() as tx:
        held = [a_full_pair(tx) for _ in range(2)]
    for _, serving, _ in held:
        incident = opened(world, [serving])
        running.run(world, incident.id, plan(world, incident.id).hash, ALL_AT_ONCE)
        assert telling.status(world, incident.id)["refills_held_at"] == [PRIMARY]
        found.append(incident)
    return found[0], found[1], [pair for pair, _, _ in held]


def refills(world: World, held: Sequence[Pair]) -> list[str | None]:
    with world.store.read() as tx:
        assert incident_progress.refills_held_for(tx, PRIMARY) is None
        rows = work.of_pairs(tx, [pair.id for pair in held], [WorkKind.REFILL])
    return [row.waiting_for for row in rows]


_PASS_ON = 1
"""Which unit of closing one passes on what it held: before its end."""


def test_who_closes_the_incident_that_holds_from_now_on_waits_until_it_does(arena: Arena) -> None:
    first, second, held = two_that_hold(arena.second)

    one, other = arena.race(
        lambda world: close(world, second.id), lambda world: close(world, first.id), nth=_PASS_ON
    )

    assert arena.was_blocked
    assert isinstance(one, Incident), one
    assert isinstance(other, Incident), other
    assert refills(arena.second, held) == [None, None]


def test_nothing_is_passed_on_to_an_incident_that_was_closed_since_it_was_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, held = two_that_hold(world)
    find, found = incident_progress.others_holding, list[int | None]()

    def meanwhile(tx: Transaction, ca: str, ended: int) -> int | None:
        other = find(tx, ca, ended)
        if not found:
            found.append(other)
            close(world, first.id)
        return other

    monkeypatch.setattr(incident_progress, "others_holding", meanwhile)
    close(world, second.id)

    assert found == [first.id]
    assert refills(world, held) == [None, None]


# --- two units of work at a time -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", range(4))
def test_an_error_in_any_of_the_units_is_told(world: World, bad: int) -> None:
    done = list[int]()

    def act(number: int) -> None:
        if number == bad:
            raise Refused("this one")
        done.append(number)

    with pytest.raises(Refused, match="this one"):
        abreast(world, range(4), act)
    assert set(range(bad)) <= set(done)
