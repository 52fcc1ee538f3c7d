"""Looks that hang, and looks that break: ``check`` comes to its end, and hides neither."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update

from dualcert.errors import CaUnreachable, told
from dualcert.lifecycle import checking, checking_work, closing, views
from dualcert.lifecycle.findings import CaExpected, Finding, Scene
from dualcert.lifecycle.incidents import plan, refills, running
from dualcert.model.work import BUDGET, PERSON, Later, WorkKind
from dualcert.ports.ca import CertificateAuthority
from dualcert.store import Store, certificates, claims, pairs, revocations, troubles, work
from dualcert.store.tables import certificate
from dualcert.testing.clock import FakeClock
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY, a_full_pair, a_pair
from tests.store.renewing import step
from tests.store.worlds import Setting, a_world

EXPECTED = {name: CaExpected(None, None, None) for name in (PRIMARY, BACKUP)}


def scene(store: Store, clock: FakeClock, setting: Setting) -> Scene:
    return Scene(a_world(store, clock, setting), None, EXPECTED)


@pytest.fixture(autouse=True)
def ended(store: Store) -> Iterator[None]:
    """The looks that nobody waited for end before the database is closed."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("check-"):
            thread.join(timeout=10)


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Whoever waits for it waits until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_what_does_not_answer_in_time_is_a_problem_and_the_others_are_told(
    store: Store, clock: FakeClock, hanging: threading.Event
) -> None:
    def meet(ca: str) -> CertificateAuthority:
        if ca == PRIMARY:
            hanging.wait()
        raise CaUnreachable("nobody there", ca=ca)

    found = list(checking.run(scene(store, clock, Setting(meet=meet)), timedelta(seconds=1)))

    late = {one.subject for one in found if one.problem is not None and "within 1 s" in one.problem}
    assert late == {f"ca.{PRIMARY}", f"clock of ca.{PRIMARY}", "independence"}
    answered = {one.subject: one.problem for one in found}
    assert answered[f"ca.{BACKUP}"] == "nobody there"
    assert answered["database"] is None


@pytest.mark.parametrize("error", [ZeroDivisionError("nobody foresaw this"), SystemExit(0)])
def test_a_fault_of_our_own_is_told_as_such_and_hides_no_other_look(
    store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def meet(ca: str) -> CertificateAuthority:
        if ca == PRIMARY:
            raise error
        raise CaUnreachable("nobody there", ca=ca)

    caplog.set_level(logging.DEBUG, logger="dualcert")
    found = {one.subject: one for one in checking.run(scene(store, clock, Setting(meet=meet)))}

    assert found[f"ca.{PRIMARY}"].problem == f"internal error: {told(error)}"
    assert found[f"ca.{BACKUP}"].problem == "nobody there"
    assert found["database"].ok
    assert any(one.exc_info and one.exc_info[1] is error for one in caplog.records)


def test_looking_at_a_database_leaves_nothing_in_it(store: Store, clock: FakeClock) -> None:
    def meet(ca: str) -> CertificateAuthority:
        raise CaUnreachable("nobody there", ca=ca)

    found = list(checking.run(scene(store, clock, Setting(meet=meet))))

    assert Finding("database", detail=next(one.detail for one in found if one.subject == "database")) in found
    assert next(one for one in found if one.subject == "work").ok
    with store.read() as tx:
        assert work.unfinished(tx, 10) == []


# --- what goes wrong -------------------------------------------------------------------------------------


def test_steps_that_fail_are_told_by_where_they_fail_with_the_one_that_has_for_longest(
    store: Store, clock: FakeClock
) -> None:
    with store.write() as tx:
        found = [a_pair(tx) for _ in range(3)]
        for one in found:
            clock.advance(1)
            work.schedule(tx, WorkKind.ORDER, one.id, clock.now(), ca=PRIMARY)
        work.schedule(tx, WorkKind.DEPLOYMENT, found[0].id, clock.now(), target="web")
        work.schedule(tx, WorkKind.ORDER, found[0].id, clock.now(), ca=BACKUP)
    for one in reversed(found):
        clock.advance(60)
        with store.write() as tx:
            [row] = claims.claim(tx, "me", kinds=[WorkKind.ORDER], limit=9, pairs=[one.id])[:1]
            work.put_back(
                tx,
                row,
                due_at=clock.now() + timedelta(hours=1),
                reason=one.name,
                waiting_for=None,
                failed=True,
            )
    with store.read() as tx:
        told = [(one.kind, one.ca, one.many, one.reason) for one in troubles.failing(tx)]
    assert told == [(WorkKind.ORDER, PRIMARY, 3, found[2].name)]


def test_refills_that_an_incident_holds_are_one_finding_and_hide_no_step_that_waits_for_a_person(
    store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    with store.write() as tx:
        masses.fill(tx, 12)
    world = a_world(store, clock, Setting())
    incident = masses.an_incident(world, 1, 10)
    running.run(world, incident.id, plan(world, incident.id).hash, running.Terms())
    with store.write() as tx:
        work.schedule(tx, WorkKind.REFILL, 1, tx.now, ca=PRIMARY)
    assert isinstance(step(world, WorkKind.REFILL)[0], Later)  # it was looked at, and is held again
    with store.write() as tx:
        work.schedule(tx, WorkKind.ORDER, 12, tx.now, ca=BACKUP)
        order = work.get(tx, WorkKind.ORDER, 12, ca=BACKUP)
        assert order is not None
        work.put_back(tx, order, due_at=None, reason="CAA forbids it", waiting_for=PERSON, failed=True)

    found = list(checking_work.late(world))

    told = [(one.problem, one.remedy) for one in found if one.subject == "work"]
    assert told == [
        (
            "the order of pair-000012.example.test at beta waits for a person: CAA forbids it",
            "When that is mended: dualcert renew pair-000012.example.test",
        ),
        (
            f"10 backups are not ordered anew at alpha: incident {incident.id} holds that",
            f"When alpha is to issue again: dualcert incident run {incident.id} --refill now",
        ),
    ]
    for number in (1, 2):
        with store.read() as tx:
            pair = pairs.by_id(tx, number)
        assert pair is not None
        shown = views.describe(world, pair)["backup"]["renewal"]
        assert (shown["state"], shown["error"]) == ("waiting", f"held for incident {incident.id}")
        assert shown["next_try"] is None

    assert refills.release_for(world, incident.id) == [PRIMARY]
    assert len([one for one in checking_work.late(world) if one.problem is not None]) == 1


@pytest.mark.parametrize("state", ["frozen", "distrusted"])
def test_where_refills_are_held_at_a_ca_that_gets_no_orders_what_ends_that_is_told(
    store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    with store.write() as tx:
        masses.fill(tx, 2)
    world = a_world(store, clock, Setting())
    incident = masses.an_incident(world, 1, 2)
    running.run(world, incident.id, plan(world, incident.id).hash, running.Terms())
    if state == "frozen":
        closing.freeze(world, PRIMARY)
    else:
        closing.distrust(world, PRIMARY, None)

    [told] = [one for one in checking_work.late(world) if one.problem is not None]

    by = f"by {store.actor}"
    since = f"CA alpha is {state} since {clock.now():%Y-%m-%d %H:%M} UTC, {by}"
    assert told.problem == (
        f"2 backups are not ordered anew at alpha: incident {incident.id} holds that; {since}"
    )
    typed = {
        "frozen": "dualcert thaw alpha",
        "distrusted": f"dualcert distrust alpha --lift, then dualcert incident run {incident.id} --refill now",
    }
    assert told.remedy == f"When alpha is to issue again: {typed[state]}"
    # What is named is enough.
    if state == "frozen":
        closing.thaw(world, PRIMARY)
    else:
        closing.lift(world, PRIMARY)
        refills.release_for(world, incident.id)
    step(world, WorkKind.REFILL, 2)
    with store.read() as tx:
        assert all(work.get(tx, WorkKind.ORDER, number, ca=PRIMARY) for number in (1, 2))


def test_what_its_ca_does_not_allow_yet_has_not_failed(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        work.schedule(tx, WorkKind.ORDER, a_pair(tx).id, clock.now(), ca=PRIMARY)
    with store.write() as tx:
        [row] = claims.claim(tx, "me", kinds=[WorkKind.ORDER], limit=1)
        at = clock.now() + timedelta(hours=1)
        work.put_back(tx, row, due_at=at, reason="429", waiting_for=BUDGET, failed=True)
    with store.read() as tx:
        assert troubles.failing(tx) == []


@pytest.mark.parametrize("why", ["expired", "been revoked", "a key that is blocked"])
def test_what_serves_although_it_must_not_is_found_and_what_stands_by_is_not(
    store: Store, clock: FakeClock, why: str
) -> None:
    with store.write() as tx:
        pair, serving, _ = a_full_pair(tx)
        _, _, other = a_full_pair(tx)
        assert troubles.exposed(tx, 9) == []
        match why:
            case "expired":
                ended = update(certificate).values(not_after=tx.at)
                tx.execute(ended.where(certificate.c.id.in_([serving.id, other.id])))
            case "been revoked":
                for one in (serving, other):
                    revocations.revoked(tx, one.id, "superseded", "test")
            case _:
                for one in (serving, other):
                    certificates.block_key(tx, one.spki, "leaked")
        assert [(one.pair_id, one.ca, one.why) for one in troubles.exposed(tx, 9)] == [
            (pair.id, serving.ca, why)
        ]


def test_what_pairs_need_is_compared_with_what_there_is(store: Store) -> None:
    with store.write() as tx:
        first, second = a_pair(tx), a_pair(tx)
    with store.read() as tx:
        assert troubles.missing(tx, [PRIMARY, BACKUP], [first.dns], first.targets) == []
        found = troubles.missing(tx, [PRIMARY], ["another"], [])
    needed = [f"ca.{BACKUP}", f"dns.{first.dns}", *(f"target.{one}" for one in sorted(first.targets))]
    assert [(one.section, one.many, one.pair_id) for one in found] == [(one, 2, first.id) for one in needed]
    assert second.id != first.id
