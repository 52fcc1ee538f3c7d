"""Which rows a plan has, what a run makes of those that have changed since, and at which pace it goes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import select

from dualcert.errors import Refused
from dualcert.lifecycle.incidents import newest_plan, open_incident, plan, planning, running
from dualcert.lifecycle.incidents.running import Progress, Terms
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.incident import Incident
from dualcert.model.pair import Pair
from dualcert.model.work import HELD, WorkKind
from dualcert.store import Store, incident_plans, pairs, tables, work
from dualcert.store import promotion as promotion_sql
from dualcert.store.incident_tables import plan_row
from dualcert.testing.clock import FakeClock
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_full_pair, a_pair, give_role
from tests.store.worlds import Setting, a_world, issued

ALL_AT_ONCE = Terms("100%", max_failures="100%")


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def world(store: Store, clock: FakeClock, setting: Setting) -> World:
    return a_world(store, clock, setting)


@pytest.fixture
def undeployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that only promotes, because the pairs have no real keys."""
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)


def opened(world: World, named: Sequence[Certificate], ca: str | None = None) -> Incident:
    deadline = world.clock.now() + timedelta(hours=24)
    return open_incident(world, "a test", "a test", deadline, ca, [one.id for one in named])


def actions(world: World, incident: Incident) -> dict[int, str]:
    """Of the pairs that a plan has rows for."""
    with world.store.read() as tx:
        of = plan_row.c
        rows = tx.execute(select(of.pair_id, of.action).where(of.incident_id == incident.id))
        return {row.pair_id: row.action for row in rows}


def refills(world: World) -> dict[tuple[int, str], str | None]:
    """What the refills wait for, by pair and CA."""
    with world.store.read() as tx:
        of = tables.work.c
        query = select(of.pair_id, of.ca, of.waiting_for).where(of.kind == WorkKind.REFILL.value)
        return {(row.pair_id, row.ca): row.waiting_for for row in tx.execute(query)}


def failed_over(world: World, pair: Pair) -> None:
    with world.store.write() as tx:
        pairs.set_backup_ok(tx, pairs.state(tx, pair.id), tx.now + timedelta(days=20))
        assert promotion_sql.swap(tx, pairs.state(tx, pair.id))


# --- which rows a plan has -------------------------------------------------------------------------------


def test_a_pair_both_of_whose_certificates_are_named_leaves_what_serves(world: World) -> None:
    """Whichever of them is met first: the backup is the older one here."""
    with world.store.write() as tx:
        pair, first, second = a_full_pair(tx)
    failed_over(world, pair)
    incident = opened(world, [first, second])

    counts = plan(world, incident.id).counts

    assert actions(world, incident) == {pair.id: "order"}
    assert (counts.serving, counts.standby) == (1, 1)


def test_a_pair_that_serves_nothing_yet_has_nothing_to_leave(world: World) -> None:
    with world.store.write() as tx:
        full, _, standby = a_full_pair(tx)
        pair = a_pair(tx)
        early = give_role(tx, pair, a_certificate(tx, pair, BACKUP))
        assert pairs.state(tx, pair.id).serving is None
    incident = opened(world, [standby, early])

    counts = plan(world, incident.id).counts

    assert actions(world, incident) == {full.id: "refill"}
    assert (counts.serving, counts.standby) == (0, 1)


def test_a_plan_is_void_from_the_moment_in_which_another_one_is_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.store.write() as tx:
        pair, serving, _ = a_full_pair(tx)
    incident = opened(world, [serving])
    old = plan(world, incident.id)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(incident_plans, "add", die)
        with pytest.raises(KeyboardInterrupt):
            plan(world, incident.id)

    with world.store.read() as tx:
        now = planning.existing(tx, incident.id)
        assert newest_plan(tx, now) is None
        assert (now.plan_hash, now.planned_at) == (None, None)
    with pytest.raises(Refused, match="has no plan that is complete"):
        running.run(world, incident.id, old.hash, ALL_AT_ONCE)
    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).epoch == 0


# --- what has changed since ------------------------------------------------------------------------------


@pytest.mark.usefixtures("undeployed")
def test_a_backup_is_ordered_anew_only_where_the_pair_is_as_it_was_planned(world: World) -> None:
    with world.store.write() as tx:
        held = [a_full_pair(tx) for _ in range(4)]
        for pair, _, _ in held[:2]:
            pairs.set_backup_ok(tx, pairs.state(tx, pair.id), None)
    # Of two what serves is named, and there is no backup for them; of two it is the backup that is.
    incident = opened(world, [*(one for _, one, _ in held[:2]), *(one for _, _, one in held[2:])])
    made = plan(world, incident.id)
    assert list(actions(world, incident).values()) == ["order", "order", "refill", "refill"]
    failed_over(world, held[1][0])
    with world.store.write() as tx:
        give_role(tx, held[3][0], a_certificate(tx, held[3][0], BACKUP))

    running.run(world, incident.id, made.hash, ALL_AT_ONCE)

    assert refills(world) == {(held[0][0].id, BACKUP): None, (held[2][0].id, BACKUP): None}


# --- where refills are held ------------------------------------------------------------------------------


@pytest.mark.usefixtures("undeployed")
def test_the_only_ca_that_is_left_holds_refills_and_of_several_none_does(world: World) -> None:
    """Where nobody said whose incident it is. A CA of which only backups are named is not left."""
    with world.store.write() as tx:
        at_alpha, beside, at_beta = (a_full_pair(tx) for _ in range(3))
    failed_over(world, beside[0])
    one = opened(world, [at_alpha[1], beside[1], at_beta[2]])

    running.run(world, one.id, plan(world, one.id).hash, ALL_AT_ONCE)

    assert refills(world) == {
        (at_alpha[0].id, PRIMARY): HELD,
        (beside[0].id, PRIMARY): HELD,
        (at_beta[0].id, BACKUP): None,
    }
    with world.store.write() as tx:
        two_cas = [a_full_pair(tx), a_full_pair(tx)]
    failed_over(world, two_cas[1][0])
    with world.store.write() as tx:
        for pair, _, _ in two_cas:
            pairs.set_backup_ok(tx, pairs.state(tx, pair.id), tx.now + timedelta(days=20))
    several = opened(world, [two_cas[0][1], two_cas[1][2]])
    running.run(world, several.id, plan(world, several.id).hash, ALL_AT_ONCE)
    fresh = {key: word for key, word in refills(world).items() if key[0] >= two_cas[0][0].id}
    assert fresh == {(two_cas[0][0].id, PRIMARY): None, (two_cas[1][0].id, BACKUP): None}


# --- pace and stopping -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("undeployed")
def test_a_rate_is_so_many_pairs_a_second_and_no_more_at_once(world: World, clock: FakeClock) -> None:
    with world.store.write() as tx:
        masses.fill(tx, 40)
    incident = masses.an_incident(world, 1, 40)
    made = plan(world, incident.id)
    before, turned = sum(clock.slept), list[int]()

    def tell(progress: Progress) -> None:
        turned.append(progress.turned)

    running.run(world, incident.id, made.hash, Terms("100%", max_failures="100%", rate=10), tell)

    assert turned == [10, 20, 30, 40]
    assert sum(clock.slept) - before == pytest.approx(4.0)


def test_a_run_that_stops_because_much_has_moved_brings_what_it_promoted_to_its_targets(
    world: World, setting: Setting
) -> None:
    held = list[tuple[Pair, Certificate, Certificate]]()
    with world.store.write() as tx:
        for _ in range(12):
            pair = a_pair(tx)
            serving, standby = (give_role(tx, pair, issued(tx, world, pair, ca)) for ca in (PRIMARY, BACKUP))
            held.append((pair, serving, standby))
    incident = opened(world, [one for _, one, _ in held])
    made = plan(world, incident.id)
    for pair, _, _ in held[:4]:
        failed_over(world, pair)

    ended = running.run(world, incident.id, made.hash, ALL_AT_ONCE)

    assert ended.stopped is not None
    assert "4 of 12 rows were skipped" in ended.stopped
    target = setting.targets["web"]
    for pair, _, standby in held[4:]:
        served = target.serving(pair.name)
        assert served is not None
        assert served.sha256 == standby.sha256
    with world.store.read() as tx:
        verifying = work.of_pairs(tx, [pair.id for pair, _, _ in held[4:]], [WorkKind.VERIFICATION])
    assert verifying == []
