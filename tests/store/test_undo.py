"""Back after a false alarm, once and once more: what has gone back stays so, and what has changed is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from dualcert.lifecycle.incidents import close, open_incident, plan, running, undoing
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.incident import Incident
from dualcert.model.pair import Pair
from dualcert.model.work import WorkKind
from dualcert.store import Store, events, pairs, work
from dualcert.store.incident_tables import plan_row
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.worlds import Setting, a_world, issued

ALL_AT_ONCE = Terms("100%", max_failures="100%")
MINUTE = timedelta(minutes=1)

Held = tuple[Pair, Certificate, Certificate]


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def world(store: Store, clock: FakeClock, setting: Setting) -> World:
    return a_world(store, clock, setting)


@pytest.fixture
def held(world: World) -> list[Held]:
    """Pairs with real certificates, whose keys open."""
    made = list[Held]()
    with world.store.write() as tx:
        for _ in range(3):
            pair = a_pair(tx)
            serving, standby = (give_role(tx, pair, issued(tx, world, pair, ca)) for ca in (PRIMARY, BACKUP))
            made.append((pair, serving, standby))
    return made


def opened(world: World, named: Sequence[Certificate]) -> Incident:
    deadline = world.clock.now() + timedelta(hours=24)
    return open_incident(world, "an alarm", "a test", deadline, None, [one.id for one in named])


def false_alarm(world: World, clock: FakeClock, held: Sequence[Held]) -> Incident:
    """All were moved to their backups, and it was for nothing."""
    incident = opened(world, [serving for _, serving, _ in held])
    running.run(world, incident.id, plan(world, incident.id).hash, ALL_AT_ONCE)
    assert serving_in(world, held) == [standby.id for _, _, standby in held]
    clock.advance(MINUTE)
    close(world, incident.id)
    return incident


def serving_in(world: World, held: Sequence[Held]) -> list[int | None]:
    with world.store.read() as tx:
        return [pairs.state(tx, pair.id).serving for pair, _, _ in held]


def kinds(world: World, pair: Pair) -> list[str]:
    with world.store.read() as tx:
        return [one.kind for one in events.page(tx, pairs=[pair.id])]


def problem_of(world: World, pair: Pair) -> str | None:
    with world.store.read() as tx:
        row = tx.execute(plan_row.select().where(plan_row.c.pair_id == pair.id)).one()
    found: str | None = row.problem
    return found


def deployments_due(world: World, held: Sequence[Held]) -> set[int]:
    with world.store.read() as tx:
        rows = work.of_pairs(tx, [pair.id for pair, _, _ in held], [WorkKind.DEPLOYMENT])
    return {row.pair_id for row in rows}


def test_a_pair_whose_backup_is_another_one_by_now_is_not_turned_back(
    world: World, clock: FakeClock, held: list[Held]
) -> None:
    """What served before was renewed meanwhile: to turn now would bring into service what nobody has looked at."""
    incident = false_alarm(world, clock, held)
    pair, _, serves = held[1]
    with world.store.write() as tx:
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))

    done = undoing.undo(world, incident.id)

    assert done == (2, 1, 0)
    assert serving_in(world, held) == [held[0][1].id, serves.id, held[2][1].id]
    assert problem_of(world, pair) == "the pair has changed since"


def test_a_second_undo_turns_what_may_turn_by_then_and_repeats_nothing(
    world: World, clock: FakeClock, held: list[Held]
) -> None:
    incident = false_alarm(world, clock, held)
    pair, bad, _ = held[2]
    another = opened(world, [bad])
    assert undoing.undo(world, incident.id) == (2, 1, 0)
    assert problem_of(world, pair) == "named by an incident"
    told = [kinds(world, one) for one, _, _ in held]
    assert [one.count("promoted") for one in told] == [2, 2, 1]
    clock.advance(MINUTE)

    assert undoing.undo(world, incident.id) == (0, 1, 0)

    assert [kinds(world, one) for one, _, _ in held] == told, "and nothing was deployed once more"
    clock.advance(MINUTE)
    close(world, another.id)
    assert undoing.undo(world, incident.id) == (1, 0, 0)
    assert kinds(world, pair).count("promoted") == 2
    assert serving_in(world, held) == [serving.id for _, serving, _ in held]
    assert problem_of(world, pair) is None


def test_deployments_of_pairs_that_stay_are_none_of_an_undos(
    world: World, clock: FakeClock, held: list[Held], setting: Setting
) -> None:
    incident = false_alarm(world, clock, held)
    pair, bad, _ = held[2]
    opened(world, [bad])
    with world.store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    setting.targets["web"].unreadable.add(pair.name)

    assert undoing.undo(world, incident.id) == (2, 1, 0)

    assert deployments_due(world, held) == {pair.id}
