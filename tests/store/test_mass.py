"""Mass promotion on both databases: thousands of pairs, and what else may happen to them meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from dualcert.errors import Refused
from dualcert.lifecycle.incidents import close, open_incident, plan, running, telling, zones
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.incident import Incident
from dualcert.model.work import WorkKind
from dualcert.store import (
    Store,
    Transaction,
    incident_members,
    incident_plans,
    incident_progress,
    incident_runs,
    incidents,
    pairs,
    revocations,
    tables,
)
from dualcert.store.incident_runs import Range
from dualcert.testing.clock import FakeClock
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY, a_full_pair
from tests.store.overhearing import indexes, looked_up, overheard, read_in_index, scans
from tests.store.worlds import Setting, a_world

MANY = 1200
ALL_AT_ONCE = Terms(waves="100%", max_failures="100%", max_drift="100%")


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    """Many whole pairs; nothing is deployed, because they have no real keys."""
    with store.write() as tx:
        masses.fill(tx, MANY)
    return a_world(store, clock, Setting())


@pytest.fixture
def undeployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that only promotes: what brings certificates to targets is tested with real ones."""
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)


def an_incident(world: World, count: int = MANY, *, ca: str = PRIMARY) -> Incident:
    return masses.an_incident(world, 1, count, ca)


def promote(tx: Transaction, batch: Range) -> tuple[int, int]:
    found = incident_runs.promote(tx, batch)
    incident_runs.follow_up(tx, batch, "a test", refills_held=None)
    return found


def test_statements_grow_with_batches_and_not_with_pairs(world: World, store: Store) -> None:
    incident = an_incident(world)
    made = plan(world, incident.id)
    said: list[int] = []
    for after, up_to in ((0, 10), (10, 1010)):
        with store.write() as tx, overheard(tx) as statements:
            promoted, skipped = promote(tx, Range(incident.id, made.number, after, up_to))
        assert (promoted, skipped) == (up_to - after, 0)
        said.append(len(statements))
        assert len([one for one in statements if "SAVEPOINT" not in one]) <= 9
    assert said[0] == said[1]


def test_naming_and_planning_take_as_many_statements_for_ten_as_for_thousands(
    world: World, store: Store
) -> None:
    said: list[int] = []
    for count in (10, 1000):
        with store.write() as tx:
            number = incidents.create(
                tx, title="a test", cause="a test", selector="", ca=None, deadline=tx.now + timedelta(days=1)
            )
        with store.write() as tx, overheard(tx) as statements:
            serials = [(n, masses.serial(2 * n - 1)) for n in range(1, count + 1)]
            assert incident_members.add_serials(tx, number, serials, ca=PRIMARY) == (count, 0)
            incident_members.mistrust(tx, number, 0, 10**9)
            incident_plans.add(tx, number, 1, 0, 10**9)
        said.append(len([one for one in statements if "INTO incoming" not in one]))
    assert said[0] == said[1]


@pytest.mark.plans
@pytest.mark.usefixtures("server")
def test_serials_are_matched_without_a_look_at_their_certificates(world: World, store: Store) -> None:
    with store.engine.connect() as connection:
        connection.execute(text("VACUUM ANALYZE certificate"))
    with store.write() as tx:
        number = incidents.create(
            tx, title="a test", cause="a test", selector="", ca=None, deadline=tx.now + timedelta(days=1)
        )
        with overheard(tx) as statements:
            serials = [(n, masses.serial(2 * n - 1)) for n in range(1, 100)]
            assert incident_members.add_serials(tx, number, serials, ca=PRIMARY) == (99, 0)
        [matching] = [one for one in statements if "INTO matched" in one]
        assert read_in_index(tx, matching) == {"ux_certificate_serial_issuer"}
        # What is there of pairs is asked afterwards, in the order in which it lies.
        assert not any("pair_state" in one for one in statements)


@pytest.mark.plans
def test_every_statement_of_a_batch_goes_by_an_index(world: World, store: Store) -> None:
    incident = an_incident(world, 50)
    made = plan(world, incident.id)
    with store.write() as tx:
        with overheard(tx) as statements:
            promote(tx, Range(incident.id, made.number, 0, 50))
        asked = [one for one in statements if "SAVEPOINT" not in one]
        assert [found for one in asked for found in scans(tx, one) if "plan_row" not in found] == []


@pytest.mark.usefixtures("undeployed")
def test_every_pair_turns_once_with_its_event_its_deployment_and_its_refill(
    world: World, store: Store
) -> None:
    incident = an_incident(world)
    made = plan(world, incident.id)
    assert made.counts.usable == MANY
    with store.read() as tx:
        clocks = tx.execute(select(tables.pair_state.c.pair_id, tables.pair_state.c.next_action_at)).all()

    assert running.run(world, incident.id, made.hash, replace(ALL_AT_ONCE, refill=True)).stopped is None

    with store.read() as tx:
        assert set(tx.execute(select(tables.pair_state.c.epoch)).scalars()) == {1}
        after = tx.execute(select(tables.pair_state.c.pair_id, tables.pair_state.c.next_action_at)).all()
        assert sorted(map(tuple, after)) == sorted(map(tuple, clocks))
        kinds = Counter(tx.execute(select(tables.work.c.kind)).scalars())
        assert kinds == {WorkKind.DEPLOYMENT.value: MANY, WorkKind.REFILL.value: MANY}
        promoted = tables.event.c.kind == EventKind.PROMOTED.value
        turned = Counter(tx.execute(select(tables.event.c.pair_id).where(promoted)).scalars())
        assert (len(turned), set(turned.values())) == (MANY, {1})
        one = pairs.state(tx, 7)
        assert (one.serving, one.standby, one.primary_lineage, one.backup_lineage) == (14, 13, 14, 13)
        assert one.backup_ok_until is None


@pytest.mark.usefixtures("undeployed")
def test_a_run_again_writes_nothing(world: World, store: Store) -> None:
    incident = an_incident(world, 100)
    made = plan(world, incident.id)
    running.run(world, incident.id, made.hash, ALL_AT_ONCE)
    with store.write() as tx:
        tx.execute(update(tables.pair_state).where(tables.pair_state.c.pair_id == 5).values(epoch=9))

    ended = running.run(world, incident.id, made.hash, ALL_AT_ONCE)

    assert ended.stopped is None
    with store.read() as tx:
        assert pairs.state(tx, 5).epoch == 9
        assert pairs.state(tx, 6).epoch == 1


@pytest.mark.usefixtures("undeployed")
def test_what_is_against_a_backup_is_found_when_its_turn_comes(world: World, store: Store) -> None:
    incident = an_incident(world, 40)
    made = plan(world, incident.id)
    with store.write() as tx:
        revocations.revoked(tx, 2 * 3, "superseded", "a test")
        tx.execute(update(tables.pair_state).where(tables.pair_state.c.pair_id == 4).values(serving=2 * 4))
        tx.execute(update(tables.pair_state).where(tables.pair_state.c.pair_id == 7).values(epoch=3))
        tx.execute(tables.pair_state.delete().where(tables.pair_state.c.pair_id == 5))
        assert pairs.set_backup_ok(tx, pairs.state(tx, 6), None)

    running.run(world, incident.id, made.hash, ALL_AT_ONCE)

    shown = telling.status(world, incident.id)
    assert (shown["promoted"], shown["skipped"]) == (35, 5)
    told = {one["pair"]: one["reason"] for one in shown["stuck"] if one["state"] == "skipped"}
    assert told == {
        "pair-000003.example.test": "revoked",
        "pair-000005.example.test": "the pair is gone",
        "pair-000006.example.test": "its key was not opened lately, or did not open",
        "pair-000007.example.test": "the pair has changed since it was planned",
    }


@pytest.mark.usefixtures("undeployed")
@pytest.mark.parametrize(("moved", "turned"), [(3, MANY), (4, 12)])
def test_it_stops_above_the_limit_of_what_has_moved_and_three_are_always_let_pass(
    world: World, store: Store, moved: int, turned: int
) -> None:
    incident = an_incident(world)
    made = plan(world, incident.id)
    with store.write() as tx:
        moved_pairs = tables.pair_state.c.pair_id <= moved
        tx.execute(update(tables.pair_state).where(moved_pairs).values(epoch=3))

    ended = running.run(world, incident.id, made.hash, Terms(max_drift="2%", max_failures="100%"))

    shown = telling.status(world, incident.id)
    assert shown["promoted"] + shown["skipped"] == turned
    assert (ended.stopped is None) is (turned == MANY)
    if ended.stopped is not None:
        assert f"{moved} of {turned} rows were skipped" in ended.stopped


@pytest.mark.usefixtures("undeployed")
def test_a_run_goes_on_where_another_process_was_killed(world: World, store: Store) -> None:
    incident = an_incident(world)
    made = plan(world, incident.id)

    class Killed(BaseException):
        pass

    def kill(progress: running.Progress) -> None:
        if progress.turned >= 120:
            raise Killed

    with pytest.raises(Killed):
        running.run(world, incident.id, made.hash, Terms(max_failures="100%"), kill)
    assert telling.status(world, incident.id)["promoted"] == 120
    with store.read() as tx:
        left = incident_runs.get(tx, incident.id)
    assert left is not None
    assert (left.up_to_pair, left.ended_at) == (120, None)

    assert running.run(world, incident.id, made.hash, Terms(max_failures="100%")).stopped is None
    assert telling.status(world, incident.id)["promoted"] == MANY
    with store.read() as tx:
        assert set(tx.execute(select(tables.pair_state.c.epoch)).scalars()) == {1}


@pytest.mark.usefixtures("undeployed")
def test_a_newer_plan_or_the_end_of_the_incident_ends_a_run(world: World, store: Store) -> None:
    incident = an_incident(world, 20)
    terms = Terms(waves="10%,100%", max_failures="100%")

    def plan_anew(_progress: running.Progress) -> None:
        plan(world, incident.id)

    ended = running.run(world, incident.id, plan(world, incident.id).hash, terms, plan_anew)
    assert (ended.overtaken, ended.stopped) == (
        True,
        f"somebody has planned incident {incident.id} anew meanwhile",
    )
    new = plan(world, incident.id)

    def end(_progress: running.Progress) -> None:
        close(world, incident.id)

    ended = running.run(world, incident.id, new.hash, terms, end)
    assert ended.overtaken
    assert "was closed" in str(ended.stopped)
    with pytest.raises(Refused, match="was closed"):
        running.run(world, incident.id, new.hash, terms)


@pytest.mark.usefixtures("undeployed")
@pytest.mark.parametrize("over", [close, plan])
def test_a_run_that_is_overtaken_before_it_has_done_anything_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, over: Callable[[World, int], object]
) -> None:
    incident = an_incident(world, 20)
    made = plan(world, incident.id)
    begin = running._Run.hurry

    def overtaken(self: running._Run) -> None:
        over(world, incident.id)
        begin(self)

    monkeypatch.setattr(running._Run, "hurry", overtaken)
    with pytest.raises(Refused):
        running.run(world, incident.id, made.hash, Terms())
    assert telling.status(world, incident.id)["promoted"] == 0


def test_a_second_incident_names_the_backups_of_the_first(world: World, store: Store) -> None:
    first = an_incident(world, 30)
    made = plan(world, first.id)
    second = an_incident(world, 10, ca=BACKUP)
    with store.write() as tx:
        assert promote(tx, Range(first.id, made.number, 0, 30)) == (20, 10)
    again = plan(world, second.id)
    # Of the ten pairs both certificates are named; nothing of them may be promoted.
    assert (again.counts.serving, again.counts.standby) == (0, 10)


def test_a_failover_by_name_between_two_batches_is_nobodys_harm(world: World, store: Store) -> None:
    incident = an_incident(world, 20)
    made = plan(world, incident.id)
    with store.write() as tx:
        assert promote(tx, Range(incident.id, made.number, 0, 10)) == (10, 0)
    with store.write() as tx:
        from dualcert.store.promotion import swap

        assert swap(tx, pairs.state(tx, 15))
    with store.write() as tx:
        assert promote(tx, Range(incident.id, made.number, 10, 20)) == (9, 1)
    with store.read() as tx:
        assert pairs.state(tx, 15).epoch == 1


def test_a_batch_wakes_whoever_waits_in_this_process_for_something_to_be_due(
    world: World, store: Store
) -> None:
    incident = an_incident(world, 20)
    made = plan(world, incident.id)
    heard: list[set[int]] = []
    store.watchers.add(lambda tx: heard.append(tx.made_due))

    with store.write() as tx:
        promote(tx, Range(incident.id, made.number, 0, 20))
    assert heard.pop()

    with store.write() as tx:
        assert incident_progress.order_backups(tx, Range(incident.id, made.number, 0, 20), "a test") == 0
    assert heard.pop()
    with store.write() as tx:
        incident_progress.hurry(tx, Range(incident.id, made.number, 0, 20))
    assert heard.pop()


@pytest.mark.plans
def test_why_a_backup_may_not_serve_is_asked_of_that_backup_alone(world: World, store: Store) -> None:
    """And not of all that has ever expired, for each pair: certificates are never deleted."""
    if store.dialect == "postgresql":
        with store.write() as tx:
            tx.execute(text("ANALYZE"))
    incident = an_incident(world, 20)
    with store.write() as tx:
        with overheard(tx) as statements:
            incident_plans.add(tx, incident.id, 1, 0, 10**9)
        [asked] = [one for one in statements if "INTO plan_row" in one]
        assert "ix_certificate_not_after" not in indexes(tx, asked)


@pytest.mark.plans
def test_members_are_counted_by_their_numbers_whatever_was_known_of_earlier_incidents(
    world: World, store: Store
) -> None:
    plan(world, an_incident(world, MANY - 100).id)
    if store.dialect == "postgresql":
        with store.write() as tx:
            tx.execute(text("ANALYZE"))
    incident = an_incident(world)
    made = plan(world, incident.id)
    with store.write() as tx:
        with overheard(tx) as statements:
            incident_plans.count(tx, incident.id, made.number)
        [asked] = [one for one in statements if "plan_row.standby" in one]
        found = looked_up(tx, asked, "other_member")
        assert found
        assert [one for one in found if "certificate_id" not in one] == []


def test_a_plan_is_counted_by_the_registered_domains_of_the_first_names(
    store: Store, clock: FakeClock
) -> None:
    names = (
        ("www.example.com", "shop.example.org"),
        ("*.example.com",),
        ("example.com",),
        ("a.b.example.co.uk",),
        ("example.co.uk",),
        ("other.co.uk",),
        ("www.city.kawasaki.jp",),
        ("deep.under.example.kawasaki.jp",),
        ("one.github.io",),
        ("github.io",),
    )
    with store.write() as tx:
        made = [a_full_pair(tx, *some) for some in names]
    world = a_world(store, clock, Setting())
    deadline = clock.now() + timedelta(hours=24)
    incident = open_incident(world, "a test", "a test", deadline, None, [one.id for _, one, _ in made])
    number = plan(world, incident.id).number

    with store.read() as tx:
        found = zones.grouped(tx, incident.id, number)
        few = zones.grouped(tx, incident.id, number, most=2)

    assert {zone: sum(actions.values()) for zone, actions in found.items()} == {
        "example.com": 3,
        "example.co.uk": 2,
        "city.kawasaki.jp": 1,
        "github.io": 1,
        "one.github.io": 1,
        "other.co.uk": 1,
        "under.example.kawasaki.jp": 1,
    }
    assert next(iter(found)) == "example.com"
    assert sum(few["others"].values()) == 10 - sum(sum(few[zone].values()) for zone in list(few)[:-1])
