"""Naming certificates, planning, and what an open incident means for backups; on both databases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update

from dualcert.errors import Refused, UsageProblem
from dualcert.lifecycle.incidents import add_to_incident, close, open_incident, plan
from dualcert.lifecycle.incidents.opening import Entry, Selection
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.incident import Incident
from dualcert.model.pair import Pair
from dualcert.store import (
    Store,
    Transaction,
    certificates,
    events,
    incident_members,
    incident_plans,
    incidents,
    pairs,
    revocations,
    tables,
)
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_full_pair, a_pair, give_role
from tests.store.worlds import Setting, a_world

Full = tuple[Pair, Certificate, Certificate]


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


@pytest.fixture
def full(store: Store) -> list[Full]:
    """Four pairs with a serving and a usable standby certificate."""
    with store.write() as tx:
        return [a_full_pair(tx) for _ in range(4)]


def opened(
    world: World, entries: Iterable[Entry] | None = None, *, numbers: Iterable[int] = (), **narrowed: object
) -> Incident:
    by = Selection("a test", entries, **narrowed) if entries is not None or narrowed else numbers  # type: ignore[arg-type]
    return open_incident(world, "a test", "a test", world.clock.now() + timedelta(days=1), None, by)


def members(world: World, of: Incident, full: Iterable[Full]) -> set[tuple[int, str]]:
    """(place of the pair, role) of what it names."""
    with world.store.read() as tx:
        return {
            (place, role)
            for place, (_, serving, standby) in enumerate(full)
            for role, one in (("serving", serving), ("standby", standby))
            if incidents.naming(tx, one.id) == of.id
        }


def trusted(world: World, pair: Pair) -> bool:
    with world.store.read() as tx:
        return pairs.state(tx, pair.id).backup_ok_until is not None


# --- naming ----------------------------------------------------------------------------------------------


def test_what_is_ours_is_named_and_the_rest_is_counted_with_its_line(world: World, full: list[Full]) -> None:
    entries = [Entry(line, serial=full[line - 1][1].serial) for line in (1, 2, 3)]
    entries += [Entry(7, serial=b"none"), Entry(8, problem="no serial"), Entry(9, serial=full[0][1].serial)]

    found = opened(world, entries, ca=PRIMARY)

    assert (found.members, found.unknown, found.unreadable) == (3, 1, 1)
    assert members(world, found, full) == {(0, "serving"), (1, "serving"), (2, "serving")}
    with world.store.read() as tx:
        strays = [(one.line, one.serial, one.problem) for one in incidents.strays(tx, found.id)]
    assert strays == [(7, b"none", None), (8, None, "no serial")]


def test_a_serial_means_nothing_without_its_issuer(world: World, store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        mine = a_certificate(tx, pair, PRIMARY, serial=b"the same")
        a_certificate(tx, pair, BACKUP, serial=b"the same")

    for narrowed in ({"ca": PRIMARY}, {"issuer": PRIMARY}, {"issuer": mine.issuing_key.hex()}):
        found = opened(world, [Entry(1, serial=b"the same")], **narrowed)  # type: ignore[arg-type]
        assert (found.members, found.unknown) == (1, 0)
        with store.read() as tx:
            assert incidents.naming(tx, mine.id) is not None
            assert incidents.naming(tx, mine.id + 1) is None
    told = opened(world, [Entry(1, serial=b"the same", issuer_hash=mine.issuer_hash)])
    assert told.members == 1


def test_all_of_a_ca_or_of_an_issuer_or_of_an_hour(world: World, store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        now = tx.now
        old = a_certificate(tx, pair, PRIMARY, not_before=now - timedelta(days=9))
        new = a_certificate(tx, pair, PRIMARY)
        ended = a_certificate(tx, pair, PRIMARY, not_after=now)
        other = a_certificate(tx, pair, BACKUP)

    def found(**narrowed: object) -> set[int]:
        one = opened(world, **narrowed)  # type: ignore[arg-type]
        with store.read() as tx:
            named = {held.id for held in (old, new, ended, other) if incidents.naming(tx, held.id)}
        close(world, one.id)
        return named

    assert found(ca=PRIMARY) == {old.id, new.id}
    assert found(issuer=f"CN={BACKUP}") == found(issuer=BACKUP) == {other.id}
    since, until = now - timedelta(days=10), now - timedelta(days=8)
    assert found(ca=PRIMARY, since=since, until=until) == {old.id}
    assert found(ca=PRIMARY, since=old.not_before, until=old.not_before) == {old.id}


def test_an_issuer_s_common_name_is_no_beginning_of_another_ones(world: World, store: Store) -> None:
    with store.write() as tx:
        held = [
            a_certificate(tx, a_pair(tx, cas=cas), cas[0])
            for cas in ((PRIMARY, BACKUP), ("alphabet", BACKUP))
        ]
        more = a_certificate(tx, a_pair(tx), PRIMARY)
        whole = f"CN={PRIMARY},O=An organization,C=XX"
        tx.execute(update(tables.certificate).where(tables.certificate.c.id == more.id).values(issuer=whole))

    for issuer in (PRIMARY, f"CN={PRIMARY}"):
        one = opened(world, issuer=issuer)
        with store.read() as tx:
            assert [bool(incidents.naming(tx, each.id)) for each in (*held, more)] == [True, False, True]
        close(world, one.id)
    assert opened(world, issuer=whole).members == 1


@pytest.mark.parametrize("told", ["hex", "upper case", "colons"])
@pytest.mark.parametrize("by", ["key", "name"])
def test_an_issuer_is_known_by_the_sha_256_of_its_key_or_its_name(
    world: World, store: Store, by: str, told: str
) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        mine, other = a_certificate(tx, pair, PRIMARY), a_certificate(tx, pair, BACKUP)
    known = mine.issuing_key if by == "key" else mine.issuer_hash
    text = known.hex(":").upper() if told == "colons" else known.hex()

    one = opened(world, issuer=text.upper() if told == "upper case" else text)

    with store.read() as tx:
        assert (incidents.naming(tx, mine.id), incidents.naming(tx, other.id)) == (one.id, None)


def test_public_keys_and_names(world: World, full: list[Full]) -> None:
    key = opened(world, [Entry(1, key=full[1][2].spki), Entry(2, key=b"\0" * 32)])
    assert (key.members, key.unknown) == (1, 1)
    assert members(world, key, full) == {(1, "standby")}
    names = [Entry(1, name=full[2][0].names[0]), Entry(2, name="elsewhere.net")]
    by_name = opened(world, names)
    assert (by_name.members, by_name.unknown) == (1, 1)
    assert members(world, by_name, full) == {(2, "serving")}
    assert members(world, opened(world, names, ca=BACKUP), full) == {(2, "standby")}


@pytest.mark.parametrize("ca", [None, BACKUP])
def test_a_name_that_only_a_wildcard_serves_stands_for_that(
    world: World, store: Store, ca: str | None
) -> None:
    with store.write() as tx:
        full = [a_full_pair(tx, *names) for names in (("*.example.com", "example.com"), ("own.example.com",))]
    names = ("a.example.com", "own.example.com", "b.example.com", "b.a.example.com", "*.example.net", "com")
    role = "serving" if ca is None else "standby"

    found = opened(world, [Entry(line, name=name) for line, name in enumerate(names, 1)], ca=ca)

    assert (found.members, found.unknown) == (2, 3)
    assert members(world, found, full) == {(0, role), (1, role)}
    alone = opened(world, [Entry(1, name="own.example.com")], ca=ca)
    assert alone.members == 1


def test_an_opening_that_was_interrupted_can_only_be_closed(world: World, full: list[Full]) -> None:
    class Killed(BaseException):
        pass

    def half() -> Iterator[Entry]:
        for line in range(10_000):
            yield Entry(line, serial=full[0][1].serial if not line else b"%05d" % line)
        raise Killed

    with pytest.raises(Killed):
        opened(world, half(), ca=PRIMARY)

    with world.store.read() as tx:
        [one] = incidents.page(tx)
    assert one.loading
    assert members(world, one, full) == {(0, "serving")}
    with pytest.raises(Refused, match="interrupted"):
        plan(world, one.id)
    close(world, one.id)
    assert members(world, one, full) == set()


def test_an_opening_during_which_somebody_closes_the_incident_leaves_backups_trusted(
    world: World, full: list[Full]
) -> None:
    def closed_in_between() -> Iterator[Entry]:
        for line, (_, _, standby) in enumerate(full):
            yield Entry(line, serial=standby.serial)
        with world.store.read() as tx:
            [one] = incidents.page(tx)
        close(world, one.id)

    with pytest.raises(Refused, match="was closed"):
        opened(world, closed_in_between(), ca=BACKUP)

    assert all(trusted(world, pair) for pair, _, _ in full)
    with world.store.read() as tx:
        kinds = [one.kind for one in events.page(tx)]
    assert EventKind.INCIDENT_CLOSED in kinds
    assert EventKind.INCIDENT_OPENED not in kinds


def test_more_certificates_make_the_plan_void(world: World, full: list[Full]) -> None:
    one = opened(world, numbers=[full[0][1].id])
    plan(world, one.id)
    assert add_to_incident(world, one.id, [full[0][1].id]).plan_hash is not None
    more = add_to_incident(world, one.id, [full[1][1].id])
    assert (more.members, more.plan_hash) == (2, None)


# --- backups ---------------------------------------------------------------------------------------------


def against(tx: Transaction, what: str, held: Full) -> None:
    pair, _, standby = held
    if what == "revoked":
        revocations.revoked(tx, standby.id, "superseded", "a test")
    if what == "another incident":
        number = incidents.create(
            tx, title="another", cause="a test", selector="", ca=None, deadline=tx.now + timedelta(days=1)
        )
        incident_members.add_certificates(tx, number, [standby.id])
    if what == "its key did not open":
        events.record(tx, EventKind.PROOF_FAILED, "a test", pair=pair.id)
    if what == "something else has happened":
        events.record(tx, EventKind.WARNED, "a test", pair=pair.id)


_HARMLESS = ("nothing", "something else has happened")


@pytest.mark.parametrize("what", [*_HARMLESS, "revoked", "another incident", "its key did not open"])
def test_closing_gives_a_backup_its_trust_back_unless_something_else_is_against_it(
    world: World, full: list[Full], clock: FakeClock, what: str
) -> None:
    one = opened(world, numbers=[full[0][2].id])
    assert not trusted(world, full[0][0])
    assert trusted(world, full[1][0])
    clock.advance(1)  # since its key was opened
    with world.store.write() as tx:
        against(tx, what, full[0])

    close(world, one.id)

    assert trusted(world, full[0][0]) is (what in _HARMLESS)
    with pytest.raises(Refused, match="closed already"):
        close(world, one.id)


def test_a_backup_whose_key_has_opened_since_it_did_not_is_trusted_again(
    world: World, full: list[Full], clock: FakeClock
) -> None:
    pair, _, standby = full[0]
    clock.advance(1)  # since its key was opened
    with world.store.write() as tx:
        events.record(tx, EventKind.PROOF_FAILED, "a test", pair=pair.id)
    clock.advance(1)
    with world.store.write() as tx:
        certificates.proved(tx, standby.spki)
    one = opened(world, numbers=[standby.id])
    assert not trusted(world, pair)

    close(world, one.id)

    assert trusted(world, pair)


# --- plans -----------------------------------------------------------------------------------------------


def test_a_plan_counts_what_is_affected_and_says_why_a_backup_is_not_to_be_used(
    world: World, full: list[Full]
) -> None:
    with world.store.write() as tx:
        revocations.revoked(tx, full[1][2].id, "superseded", "a test")
        former = full[3][1]
        give_role(tx, full[3][0], a_certificate(tx, full[3][0], PRIMARY))
    # Serving with a good backup, with a bad one, both of a pair, and one that was replaced.
    numbers = [full[0][1].id, full[1][1].id, full[2][1].id, full[2][2].id, former.id]
    one = opened(world, numbers=numbers)

    made = plan(world, one.id)

    counts = made.counts
    assert (counts.affected, counts.serving, counts.standby, counts.idle) == (5, 3, 1, 1)
    assert (counts.usable, counts.not_usable) == (1, 2)
    with world.store.read() as tx:
        why = incident_plans.grouped(tx, one.id, made.number, "why")
        assert why == {"named by an incident": {"order": 1}, "revoked": {"order": 1}}
        assert incident_plans.grouped(tx, one.id, made.number, "target") == {
            "web": {"order": 2, "promote": 1}
        }
        assert [pairs.state(tx, held[0].id).epoch for held in full] == [0] * 4


def test_a_plan_counts_refills_at_the_ca_where_they_are_ordered(world: World, full: list[Full]) -> None:
    one = opened(world, numbers=[full[0][1].id, full[1][2].id, full[2][2].id])
    number = plan(world, one.id).number
    with world.store.read() as tx:
        by_ca = incident_plans.grouped(tx, one.id, number, "ca")
    assert by_ca == {PRIMARY: {"promote": 1}, BACKUP: {"refill": 2}}


def test_a_hash_stands_for_the_rows(world: World, full: list[Full]) -> None:
    one = opened(world, numbers=[held[1].id for held in full])
    first = plan(world, one.id)
    assert plan(world, one.id).hash == first.hash
    with world.store.write() as tx:
        revocations.revoked(tx, full[3][2].id, "superseded", "a test")
    third = plan(world, one.id)
    assert third.hash != first.hash
    with world.store.read() as tx:
        # What was never carried out is not kept.
        assert not list(incident_plans.lines(tx, one.id, first.number))
        rows = "".join(incident_plans.lines(tx, one.id, third.number)).splitlines()
    assert len(rows) == 4


def test_a_hash_is_that_of_a_line_for_each_pair_in_the_order_of_their_numbers(
    world: World, full: list[Full], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever version made it: what somebody has looked at may be carried out after an upgrade."""
    with world.store.write() as tx:
        gone, left, _ = a_full_pair(tx)
        tx.execute(
            update(tables.pair_state).where(tables.pair_state.c.pair_id == gone.id).values(standby=None)
        )
    one = opened(world, numbers=[left.id, full[2][2].id, full[1][1].id, full[0][1].id])
    monkeypatch.setattr(incident_plans, "BATCH", 2)

    made = plan(world, one.id)

    rows = [(held[0].id, 0, held[1].id, held[2].id) for held in full[:3]] + [(gone.id, 0, left.id, 0)]
    actions = ["promote", "promote", "refill", "order"]
    lines = [" ".join(map(str, (*row, action))) for row, action in zip(rows, actions, strict=True)]
    text = "\n".join([f"dualcert plan of incident {one.id}", *lines, ""])
    assert made.hash == hashlib.sha256(text.encode()).hexdigest()


def test_a_pair_that_went_there_and_back_is_not_the_one_that_was_planned(
    world: World, full: list[Full]
) -> None:
    one = opened(world, numbers=[full[0][1].id])
    pair = full[0][0]
    with world.store.read() as tx:
        seen = pairs.state(tx, pair.id)
    first = plan(world, one.id)
    with world.store.write() as tx:
        for _ in range(2):
            now = pairs.state(tx, pair.id)
            values = {"epoch": now.epoch + 1, "serving": now.standby, "standby": now.serving}
            tx.execute(update(tables.pair_state).where(tables.pair_state.c.pair_id == pair.id).values(values))
        now = pairs.state(tx, pair.id)
    assert (now.epoch, now.serving, now.standby) == (seen.epoch + 2, seen.serving, seen.standby)

    again = plan(world, one.id)

    assert again.counts == first.counts
    assert again.hash != first.hash


def test_an_incident_that_is_not_there_is_a_usage_problem(world: World) -> None:
    with pytest.raises(UsageProblem, match="no incident 7"):
        plan(world, 7)
