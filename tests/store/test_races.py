"""What one writer at a time hides: on PostgreSQL, what was read may have changed before something is written by it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dualcert.errors import LeaseLost, Refused, StoreUnavailable, UsageProblem
from dualcert.lifecycle import (
    deployment,
    inventory,
    promotion,
    removal,
    renewal,
    revocation,
    storing,
    validation,
)
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.inventory import Changes, PairRequest
from dualcert.lifecycle.promotion import Turn, Wish
from dualcert.lifecycle.watching import turning
from dualcert.lifecycle.world import World
from dualcert.model.certificate import WrappedKey
from dualcert.model.events import EventKind
from dualcert.model.order import RecordState
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason
from dualcert.model.work import Done, Later, WorkKind, WorkRow
from dualcert.ports.ca import IssuedCertificate
from dualcert.store import (
    Transaction,
    accounts,
    certificates,
    challenges,
    claims,
    events,
    leases,
    orders,
    pairs,
    queue,
    revocations,
    tables,
    work,
)
from dualcert.store.accounts import StoredAccount
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.store.building import BACKUP, PRIMARY, a_pair, an_order, fresh_hash, give_role
from tests.store.overhearing import overheard
from tests.store.racing import Arena
from tests.store.worlds import Setting, issued, ordered, signed

ALL = tuple(WorkKind)
NAMES = ("example.com", "www.example.com")


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def arena(
    server: Postgres, on_postgres: str, clock: FakeClock, setting: Setting, tmp_path: Path
) -> Iterator[Arena]:
    made = Arena(server, on_postgres, clock, setting, tmp_path)
    yield made
    made.close()


@pytest.fixture
def world(arena: Arena) -> World:
    """For arranging, and for looking afterwards."""
    return arena.second


def served(world: World) -> Pair:
    """A pair with two real certificates, whose keys open."""
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        give_role(tx, pair, issued(tx, world, pair, BACKUP))
    return pair


def claimed(world: World, pair: Pair, kind: WorkKind, *, ca: str = "", target: str = "") -> WorkRow:
    with world.store.write() as tx:
        work.schedule(tx, kind, pair.id, tx.now, ca=ca, target=target)
    [[row]] = Engine(world).claim([kind], 1, [pair.id])
    return row


def told(world: World, kind: EventKind) -> list[str]:
    with world.store.read() as tx:
        return [one.cause for one in events.page(tx) if one.kind == kind.value]


def rows(world: World, pair: Pair) -> set[tuple[WorkKind, str, str]]:
    with world.store.read() as tx:
        return {(row.kind, row.ca, row.target) for row in work.of_pairs(tx, [pair.id])}


def numbers_of(world: World, table: Any) -> int:
    with world.store.read() as tx:
        return len(tx.execute(table.select()).all())


# --- which pairs there are -------------------------------------------------------------------------------


def test_two_that_make_the_same_pair_make_it_once(arena: Arena, world: World) -> None:
    request = PairRequest(NAMES)
    one, other = arena.race(lambda w: inventory.ensure(w, request), lambda w: inventory.ensure(w, request))
    assert one.id == other.id
    assert len(told(world, EventKind.CREATED)) == 1
    assert len(told(world, EventKind.ORDER_DUE)) == 2
    assert numbers_of(world, tables.issuance) == 1


def test_of_two_that_make_pairs_for_one_set_of_names_the_second_is_told(arena: Arena, world: World) -> None:
    one, other = arena.race(
        lambda w: inventory.ensure(w, PairRequest(NAMES, name="first")),
        lambda w: inventory.ensure(w, PairRequest(NAMES, name="second")),
    )
    assert one.name == "first"
    assert isinstance(other, UsageProblem)
    assert "first has exactly these names already" in other.reason


def test_a_pair_that_is_given_names_while_another_pair_takes_them_is_told(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        a_pair(tx, "old.example.com", name="renamed")
    wanted = PairRequest(NAMES, name="renamed", replace_names=True)
    one, other = arena.race(
        lambda w: inventory.ensure(w, PairRequest(NAMES, name="first")),
        lambda w: inventory.ensure(w, wanted),
    )
    assert one.name == "first"
    assert isinstance(other, UsageProblem)


def test_a_pair_that_is_made_while_its_predecessor_ends_knows_of_it(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
    _, other = arena.race(
        lambda w: removal.remove(w, pair, None), lambda w: inventory.ensure(w, PairRequest(NAMES))
    )
    assert isinstance(other, Refused)
    assert "has not left web yet" in other.reason


def test_orders_that_two_open_at_once_are_of_one_issuance(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
    arena.race(lambda w: inventory.renew(w, pair, force=True), lambda w: inventory.renew(w, pair, force=True))
    assert numbers_of(world, tables.issuance) == 1
    assert len(told(world, EventKind.ORDER_DUE)) == 2


def test_orders_of_a_pair_that_is_issued_and_renewed_at_once_are_of_one_issuance(
    arena: Arena, world: World
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
    arena.race(
        lambda w: inventory.renew(w, pair, force=True), lambda w: inventory.ensure(w, PairRequest(NAMES))
    )
    assert numbers_of(world, tables.issuance) == 1
    assert len(told(world, EventKind.ORDER_DUE)) == 2


def test_of_two_that_move_a_pair_the_second_sees_where_it_is(arena: Arena, world: World) -> None:
    pair = served(world)
    one, other = arena.race(
        lambda w: inventory.change(w, pair, Changes(targets=("mail",))),
        lambda w: inventory.change(w, pair, Changes(targets=("web", "mail"))),
    )
    assert one == ["targets mail instead of web"]
    assert other == ["targets mail, web instead of mail"]
    assert {(WorkKind.DEPLOYMENT, "", "web"), (WorkKind.DEPLOYMENT, "", "mail")} < rows(world, pair)


def test_a_pair_that_ends_while_a_certificate_arrives_is_known_to_have_had_it(
    arena: Arena, world: World
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
        order = ordered(tx, world, pair, PRIMARY)
    row = claimed(world, pair, WorkKind.ORDER, ca=PRIMARY)
    issue = IssuedCertificate(signed(order.csr, PRIMARY, world.clock.now()))
    outcome, former = arena.race(
        lambda w: storing.store(w, row, pair, order, issue),
        lambda w: removal.remove(w, pair, Reason.SUPERSEDED),
    )
    assert outcome == Done()
    assert len(former.certificates) == 1
    assert len(told(world, EventKind.REVOCATION_WANTED)) == 1


def test_a_refill_and_a_person_open_one_order(arena: Arena, world: World) -> None:
    pair = served(world)
    row = claimed(world, pair, WorkKind.REFILL, ca=BACKUP)
    arena.race(lambda w: renewal.refill(w, row), lambda w: inventory.renew(w, pair, force=True))
    assert len(told(world, EventKind.ORDER_DUE)) == 2
    assert numbers_of(world, tables.acme_order) == 2, "those of the certificates that are there"


def test_pairs_that_are_due_are_looked_at_by_one_process_only(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
        pairs.set_next_action(tx, pair.id, tx.now)
    assert arena.race(renewal.open_due, renewal.open_due) == (1, 0)
    assert not arena.was_blocked
    assert len(told(world, EventKind.ORDER_DUE)) == 2


# --- who serves ------------------------------------------------------------------------------------------


def test_nothing_is_promoted_onto_a_certificate_whose_revocation_is_being_asked_for(
    arena: Arena, world: World
) -> None:
    pair = served(world)
    _, turn = arena.race(
        lambda w: revocation.revoke_backup(w, pair, Reason.KEY_COMPROMISE),
        lambda w: promotion.failover(w, pair, Wish()),
    )
    assert isinstance(turn, Refused), turn
    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).epoch == 0


def test_what_is_to_be_revoked_is_the_backup_after_a_failover_that_came_between(
    arena: Arena, world: World
) -> None:
    pair = served(world)
    turn, revoked = arena.race(
        lambda w: promotion.failover(w, pair, Wish()),
        lambda w: revocation.revoke_backup(w, pair, Reason.SUPERSEDED),
    )
    assert isinstance(turn, Turn)
    assert revoked == turn.from_certificate


def test_nothing_is_promoted_back_onto_what_is_being_revoked_afterwards(arena: Arena, world: World) -> None:
    pair = served(world)
    promotion.failover(world, pair, Wish())
    _, turn = arena.race(
        lambda w: promotion.failover(w, pair, Wish(to=BACKUP, revoke=True)),
        lambda w: promotion.failover(w, pair, Wish(to=PRIMARY)),
    )
    assert isinstance(turn, Refused), turn
    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).epoch == 1


def test_two_failovers_at_once_are_one(arena: Arena, world: World) -> None:
    pair = served(world)
    turns = arena.race(
        lambda w: promotion.failover(w, pair, Wish()), lambda w: promotion.failover(w, pair, Wish())
    )
    assert all(isinstance(turn, Turn) and turn.epoch == 1 and turn.to_ca == BACKUP for turn in turns), turns
    assert len(told(world, EventKind.PROMOTED)) == 1


def test_a_failover_that_is_taken_up_condemns_nothing_that_serves_again_by_then(
    arena: Arena, world: World
) -> None:
    pair = served(world)
    first = promotion.failover(world, pair, Wish())
    assert first.from_certificate is not None
    wish = Wish(to=BACKUP, revoke=True, reason=Reason.KEY_COMPROMISE)

    back, turn = arena.race(
        lambda w: promotion.failover(w, pair, Wish(to=PRIMARY)), lambda w: promotion.failover(w, pair, wish)
    )

    assert arena.was_blocked
    assert (back.to_ca, turn.to_ca, turn.taken_up) == (PRIMARY, BACKUP, False)
    with world.store.read() as tx:
        serving = pairs.state(tx, pair.id).serving
        [wanted] = revocations.wanted(tx, pair.id)
    assert serving == turn.to_certificate.id
    assert wanted.certificate_id == first.from_certificate.id


def test_what_was_wrong_with_a_backup_that_is_replaced_during_a_failover_does_not_refuse_it(
    arena: Arena, world: World
) -> None:
    pair = served(world)

    def replace(w: World) -> int:
        with w.store.write() as tx:
            pairs.lock(tx, [pair.id])
            old = pairs.state(tx, pair.id).standby
            assert old is not None
            assert revocations.revoked(tx, old, "superseded", "a test")
            new = issued(tx, w, pair, BACKUP)
            give_role(tx, pair, new)
            return new.id

    new, turn = arena.race(replace, lambda w: promotion.failover(w, pair, Wish()))
    assert arena.was_blocked
    assert isinstance(turn, Turn), turn
    assert turn.to_certificate is not None
    assert turn.to_certificate.id == new


def test_a_certificate_that_arrives_during_a_failover_takes_the_role_its_lineage_has_then(
    arena: Arena, world: World
) -> None:
    pair = served(world)
    with world.store.write() as tx:
        order = ordered(tx, world, pair, PRIMARY)
    row = claimed(world, pair, WorkKind.ORDER, ca=PRIMARY)
    issue = IssuedCertificate(signed(order.csr, PRIMARY, world.clock.now()))
    with world.store.read() as tx:
        backup = pairs.state(tx, pair.id).standby
    _, outcome = arena.race(
        lambda w: promotion.failover(w, pair, Wish()), lambda w: storing.store(w, row, pair, order, issue)
    )
    assert outcome == Done()
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
    assert state.serving == backup
    assert state.standby is not None
    assert (WorkKind.DEPLOYMENT, "", "web") in rows(world, pair)


def test_a_failover_during_an_arrival_sees_what_has_arrived(arena: Arena, world: World) -> None:
    pair = served(world)
    with world.store.write() as tx:
        order = ordered(tx, world, pair, BACKUP)
    row = claimed(world, pair, WorkKind.ORDER, ca=BACKUP)
    issue = IssuedCertificate(signed(order.csr, BACKUP, world.clock.now()))
    outcome, turn = arena.race(
        lambda w: storing.store(w, row, pair, order, issue), lambda w: promotion.failover(w, pair, Wish())
    )
    assert outcome == Done()
    assert isinstance(turn, Turn)
    with world.store.read() as tx:
        serving = pairs.state(tx, pair.id).serving
    assert turn.to_certificate is not None
    assert turn.to_certificate.id == serving
    assert turn.to_certificate.spki == order.spki


def test_a_first_backup_that_arrives_while_the_primary_is_given_up_serves(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
        order = ordered(tx, world, pair, BACKUP)
    row = claimed(world, pair, WorkKind.ORDER, ca=BACKUP)
    given_up = claimed(world, pair, WorkKind.FALLBACK)
    issue = IssuedCertificate(signed(order.csr, BACKUP, world.clock.now()))
    outcomes = arena.race(
        lambda w: storing.store(w, row, pair, order, issue), lambda w: promotion.fall_back(w, given_up)
    )
    assert outcomes == (Done(), Done())
    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).serving is not None
    assert (WorkKind.FALLBACK, "", "") not in rows(world, pair)


# --- targets ---------------------------------------------------------------------------------------------


def test_a_deployment_that_ends_while_a_pair_is_failed_over_is_due_again(arena: Arena, world: World) -> None:
    pair = served(world)
    row = claimed(world, pair, WorkKind.DEPLOYMENT, target="web")

    def deploy(w: World) -> Any:
        return deployment.deploy(w, [row], row.owner or "")

    # Its first unit of work takes the target's lease, the next one writes down what goes there, the third ends the row.
    [outcome], turn = arena.race(deploy, lambda w: promotion.failover(w, pair, Wish()), nth=3)
    assert isinstance(turn, Turn)
    assert outcome == Done()
    with world.store.read() as tx:
        left = work.get(tx, WorkKind.DEPLOYMENT, pair.id, target="web")
    assert left is not None
    assert left.owner is None


def test_a_deployment_that_ends_after_a_failover_goes_on_with_what_serves_now(
    arena: Arena, world: World
) -> None:
    pair = served(world)
    row = claimed(world, pair, WorkKind.DEPLOYMENT, target="web")
    _, outcomes = arena.race(
        lambda w: promotion.failover(w, pair, Wish()),
        lambda w: deployment.deploy(w, [row], row.owner or ""),
    )
    [outcome] = outcomes
    assert isinstance(outcome, Later)
    assert "another certificate" in outcome.reason


def test_a_look_that_is_asked_for_while_one_is_given_up_is_not_lost(arena: Arena, world: World) -> None:
    """Given up, because the deployment is not through; asked for, because it is now."""
    pair = served(world)
    looking = claimed(world, pair, WorkKind.VERIFICATION, target="web")
    deploying = claimed(world, pair, WorkKind.DEPLOYMENT, target="web")
    _, outcome = arena.race(
        lambda w: deployment.deploy(w, [deploying], deploying.owner or ""),
        lambda w: deployment.verify(w, looking),
        nth=3,
    )
    assert isinstance(outcome, Later), outcome
    assert (WorkKind.VERIFICATION, "", "web") in rows(world, pair)


def test_a_look_that_is_asked_for_while_one_sees_what_served_before_is_not_lost(
    world: World, setting: Setting
) -> None:
    pair = served(world)

    def go_over() -> None:
        promotion.failover(world, pair, Wish(to=BACKUP))
        deploying = claimed(world, pair, WorkKind.DEPLOYMENT, target="web")
        assert deployment.deploy(world, [deploying], deploying.owner or "") == [Done()]

    go_over()
    promotion.failover(world, pair, Wish(to=PRIMARY))
    deploying = claimed(world, pair, WorkKind.DEPLOYMENT, target="web")
    assert deployment.deploy(world, [deploying], deploying.owner or "") == [Done()]
    looking = claimed(world, pair, WorkKind.VERIFICATION, target="web")
    target = setting.targets["web"]

    def meanwhile() -> None:
        """When it has seen what it looked for, and takes the replaced key away."""
        target.before_step = lambda: None
        target.lock.release()
        go_over()
        target.lock.acquire()

    target.before_step = meanwhile
    outcome = deployment.verify(world, looking)
    assert isinstance(outcome, Later), outcome
    assert (WorkKind.VERIFICATION, "", "web") in rows(world, pair)


# --- signals ---------------------------------------------------------------------------------------------


def test_a_signal_that_comes_while_an_earlier_one_is_found_to_be_over_is_not_lost(
    arena: Arena, world: World
) -> None:
    pair = served(world)
    row = claimed(world, pair, WorkKind.SIGNAL)

    def accuse(w: World) -> None:
        with w.store.write() as tx:
            serving = pairs.state(tx, pair.id).serving
            assert serving is not None
            certificates.block_key(tx, certificates.get(tx, serving).spki, "a test")
            work.schedule(tx, WorkKind.SIGNAL, pair.id, tx.now)

    _, outcome = arena.race(accuse, lambda w: turning.advance(w, row))
    assert isinstance(outcome, Later), outcome
    assert (WorkKind.SIGNAL, "", "") in rows(world, pair)


# --- values ----------------------------------------------------------------------------------------------


def test_of_two_orders_that_tell_their_values_at_once_the_second_publishes_both(
    arena: Arena, world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
        made = {ca: an_order(tx, pair, ca) for ca in (PRIMARY, BACKUP)}
        for order in made.values():
            orders.placed(tx, order.id, "url", "finalize", ["authorization"])
    held = {ca: claimed(world, pair, WorkKind.ORDER, ca=ca) for ca in made}

    def tell(w: World, ca: str) -> None:
        words = ("zone", "record", "identifier", "authorization", "challenge")
        with w.store.write() as tx:
            work.hold(tx, held[ca])
            challenges.remember(tx, made[ca], "zone", [{**dict.fromkeys(words, "a.example"), "value": ca}])
            validation.schedule_publication(tx, pair.id)

    arena.race(lambda w: tell(w, PRIMARY), lambda w: tell(w, BACKUP))
    with world.store.read() as tx:
        publication = work.get(tx, WorkKind.PUBLICATION, pair.id)
    assert publication is not None
    assert publication.due_at == clock.now(), "not when the time for gathering is over"


def test_of_two_orders_that_end_at_once_the_second_withdraws_both(
    arena: Arena, world: World, clock: FakeClock
) -> None:
    words = ("zone", "record", "identifier", "authorization", "challenge")
    with world.store.write() as tx:
        pair = a_pair(tx, *NAMES)
        made = {ca: an_order(tx, pair, ca) for ca in (PRIMARY, BACKUP)}
        for ca, order in made.items():
            challenges.remember(tx, order, "zone", [{**dict.fromkeys(words, "a.example"), "value": ca}])
    held = {ca: claimed(world, pair, WorkKind.ORDER, ca=ca) for ca in made}

    def end(w: World, ca: str) -> None:
        with w.store.write() as tx:
            work.hold(tx, held[ca])
            validation.spend(tx, made[ca])

    arena.race(lambda w: end(w, PRIMARY), lambda w: end(w, BACKUP))
    with world.store.read() as tx:
        withdrawal = work.get(tx, WorkKind.WITHDRAWAL, pair.id)
        assert len(challenges.records(tx, pair_id=pair.id, states=[RecordState.SPENT])) == 2
    assert withdrawal is not None
    assert withdrawal.due_at == clock.now()


# --- accounts --------------------------------------------------------------------------------------------


def an_account() -> StoredAccount:
    key = WrappedKey(fresh_hash(), "one", "kek", b"wrapped")
    return StoredAccount(PRIMARY, "https://alpha/dir", key, None, frozenset())


def write(act: Any) -> Any:
    """As a process that does just this in a unit of work."""

    def process(world: World) -> Any:
        with world.store.write() as tx:
            return act(tx)

    return process


def test_of_two_that_make_an_account_the_first_ones_key_counts(arena: Arena, world: World) -> None:
    mine, theirs = an_account(), an_account()
    one, other = arena.race(
        write(lambda tx: accounts.create_or_get(tx, mine)),
        write(lambda tx: accounts.create_or_get(tx, theirs)),
    )
    assert one.key == other.key == mine.key


def test_of_two_that_want_another_key_for_an_account_one_writes_it_down(arena: Arena, world: World) -> None:
    stored = an_account()
    write(lambda tx: accounts.create_or_get(tx, stored))(world)
    keys = [WrappedKey(fresh_hash(), "one", "kek", b"wrapped") for _ in range(2)]
    done = arena.race(
        write(lambda tx: accounts.want_key(tx, stored, keys[0])),
        write(lambda tx: accounts.want_key(tx, stored, keys[1])),
    )
    assert done == (True, False)
    with world.store.read() as tx:
        kept = accounts.get(tx, PRIMARY)
    assert kept is not None
    assert kept.next_key == keys[0]


# --- the work queue --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [WorkKind.REFILL, WorkKind.ORDER])
def test_two_that_claim_at_once_get_rows_apart_and_neither_waits(
    arena: Arena, world: World, kind: WorkKind
) -> None:
    with world.store.write() as tx:
        for _ in range(10):
            work.schedule(tx, kind, a_pair(tx).id, tx.now, ca=PRIMARY)
        queue.line_up(tx)

    def claim(owner: str, limit: int) -> Any:
        return write(lambda tx: {row.id for row in claims.claim(tx, owner, kinds=ALL, limit=limit)})

    one, other = arena.race(claim("one", 4), claim("other", 10))
    assert not arena.was_blocked
    assert (len(one), len(other)) == (4, 6)
    assert one.isdisjoint(other)


def test_a_claim_waits_for_nobody_who_writes_and_takes_the_rest(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        one, other = a_pair(tx), a_pair(tx)
        for pair in (one, other):
            work.schedule(tx, WorkKind.REFILL, pair.id, tx.now, ca=PRIMARY)

    def take(tx: Transaction) -> list[WorkRow]:
        return claims.claim(tx, "me", kinds=ALL, limit=9)

    _, taken = arena.race(
        write(lambda tx: work.schedule(tx, WorkKind.REFILL, one.id, tx.now, ca=PRIMARY)), write(take)
    )
    assert not arena.was_blocked
    assert [row.pair_id for row in taken] == [other.id]


def test_whose_lease_was_not_there_yet_when_one_began_to_look_keeps_what_he_took(world: World) -> None:
    """A statement sees a row that it locks as it is, and who lives as it was when it began."""
    with world.store.write() as tx:
        theirs, dead, free = (a_pair(tx) for _ in range(3))
        work.schedule(tx, WorkKind.PUBLICATION, free.id, tx.now)
    claimed(world, theirs, WorkKind.PUBLICATION)
    with world.store.write() as tx:
        work.schedule(tx, WorkKind.PUBLICATION, dead.id, tx.now)
        claims.claim(tx, "dead", kinds=ALL, limit=1, pairs=[dead.id])
        leases.release_owner(tx, "dead")
        locked = tx.execute(tables.work.select().order_by(tables.work.c.id).with_for_update()).all()
        assert {row.pair_id for row in claims._still_free(tx, locked)} == {dead.id, free.id}


def test_a_step_that_is_made_due_while_its_row_is_being_finished_is_due(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
    row = claimed(world, pair, WorkKind.PUBLICATION)

    def finish(tx: Transaction) -> None:
        work.hold(tx, row)
        work.finish(tx, row)

    arena.race(write(finish), write(lambda tx: work.schedule(tx, WorkKind.PUBLICATION, pair.id, tx.now)))
    with world.store.read() as tx:
        left = work.get(tx, WorkKind.PUBLICATION, pair.id)
    assert left is not None
    assert left.owner is None


def test_a_step_that_is_made_due_while_its_row_is_put_back_is_due(
    arena: Arena, world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
    row = claimed(world, pair, WorkKind.PUBLICATION)
    later = clock.now() + timedelta(hours=1)
    arena.race(
        write(lambda tx: work.put_back(tx, row, due_at=later, reason="a test")),
        write(lambda tx: work.schedule(tx, WorkKind.PUBLICATION, pair.id, tx.now)),
    )
    with world.store.read() as tx:
        left = work.get(tx, WorkKind.PUBLICATION, pair.id)
    assert left is not None
    assert left.due_at == clock.now()


def test_who_comes_back_late_writes_nothing_although_he_read_in_time(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
    row = claimed(world, pair, WorkKind.PUBLICATION)

    def take_over(tx: Transaction) -> None:
        leases.release_owner(tx, row.owner or "")
        claims.claim(tx, "another", kinds=ALL, limit=1)

    _, late = arena.race(write(take_over), write(lambda tx: work.hold(tx, row)))
    assert isinstance(late, LeaseLost)


def test_leases_are_prolonged_without_waiting_for_a_step_that_writes(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        pair, another = a_pair(tx), a_pair(tx)
    row, free = claimed(world, pair, WorkKind.ORDER), claimed(world, another, WorkKind.ORDER)
    owner = row.owner or ""
    with world.store.write() as tx:
        for one in (row, free):
            tx.execute(tables.work.update().where(tables.work.c.id == one.id).values(owner=owner))
        assert leases.take(tx, "target:web", owner)
        assert leases.take(tx, "target:mail", owner)
        tx.execute(tables.lease.update().values(until=1))

    def deploy(tx: Transaction) -> None:
        work.hold(tx, row)
        assert leases.take(tx, "target:web", owner)

    arena.race(write(deploy), write(lambda tx: leases.renew(tx, owner)))
    assert not arena.was_blocked
    with world.store.read() as tx:
        assert leases.living(tx) == {owner}
        ends = {one.name: one.until for one in tx.execute(tables.lease.select())}
    assert ends["target:mail"] > 1


def test_what_a_dead_process_held_is_taken_without_waiting_for_who_writes(arena: Arena, world: World) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
    row = claimed(world, pair, WorkKind.ORDER)
    arena.race(
        write(lambda tx: work.schedule(tx, WorkKind.ORDER, pair.id, tx.now)),
        write(lambda tx: leases.release_owner(tx, row.owner or "")),
    )
    assert not arena.was_blocked


# --- two that wait for each other ------------------------------------------------------------------------


def test_of_two_that_wait_for_each_other_one_is_told_to_take_its_step_again(
    world: World, arena: Arena
) -> None:
    with world.store.write() as tx:
        one, other = a_pair(tx), a_pair(tx)
    met = threading.Barrier(2)
    results: list[Any] = []

    def lock(w: World, first: Pair, second: Pair) -> None:
        try:
            with w.store.write() as tx:
                pairs.lock(tx, [first.id])
                met.wait(10)
                pairs.lock(tx, [second.id])
            results.append("done")
        except StoreUnavailable as error:
            results.append(error)

    threads = [
        threading.Thread(target=lock, args=(arena.first, one, other)),
        threading.Thread(target=lock, args=(arena.second, other, one)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    [victim] = [one for one in results if one != "done"]
    assert "deadlock detected" in victim.reason
    assert "done" in results


def test_several_pairs_are_locked_in_the_order_of_their_numbers(world: World) -> None:
    with world.store.write() as tx:
        ids = [a_pair(tx).id for _ in range(5)]
        with overheard(tx) as said:
            pairs.lock(tx, list(reversed(ids)))
    assert " ".join(said[0].split()).endswith("ORDER BY pair_state.pair_id FOR UPDATE")


def test_who_stands_still_inside_a_unit_of_work_keeps_the_others_waiting_for_seconds_only(
    world: World, arena: Arena
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
    stands, gone_on = threading.Event(), threading.Event()
    result: list[Any] = []

    def stand_still(tx: Transaction) -> None:
        pairs.lock(tx, [pair.id])
        tx.connection.exec_driver_sql("SET idle_in_transaction_session_timeout = '200ms'")  # 10 s otherwise
        stands.set()
        assert gone_on.wait(20)
        events.last(tx)

    def process() -> None:
        try:
            write(stand_still)(arena.first)
        except StoreUnavailable as error:
            result.append(error)

    thread = threading.Thread(target=process)
    thread.start()
    assert stands.wait(20)
    with world.store.write() as tx:
        setting = tx.connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one()
        pairs.lock(tx, [pair.id])
    gone_on.set()
    thread.join(20)
    assert setting == "10s"
    assert "idle-in-transaction" in result[0].reason
