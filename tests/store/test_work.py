from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from dualcert.clock import SystemClock, to_microseconds
from dualcert.errors import LeaseLost
from dualcert.model.work import BUDGET, DAY, HELD, PERSON, WorkKind, WorkRow
from dualcert.store import Store, Transaction, claims, leases, tables, work
from dualcert.store.expressions import database_now
from dualcert.testing.clock import FakeClock

ORDER, DEPLOYMENT, REVOCATION = WorkKind.ORDER, WorkKind.DEPLOYMENT, WorkKind.REVOCATION
ALL = tuple(WorkKind)
MINUTE = timedelta(minutes=1)


def claim(tx: Transaction, owner: str = "me", limit: int = 10) -> list[WorkRow]:
    return claims.claim(tx, owner, kinds=ALL, limit=limit)


def claimed(store: Store, kind: WorkKind = ORDER, owner: str = "me", *, pair: int = 1) -> WorkRow:
    """A row of a pair that ``owner`` holds."""
    with store.write() as tx:
        work.schedule(tx, kind, pair, tx.now, ca="alpha")
        [row] = claim(tx, owner)
    return row


def row_now(store: Store, kind: WorkKind = ORDER) -> WorkRow | None:
    with store.read() as tx:
        return work.get(tx, kind, 1, ca="alpha")


def lapse(tx: Transaction, microseconds: int = 0) -> None:
    """Let every lease end so long before (or after) the database's present."""
    tx.execute(update(tables.lease).values(until=database_now + microseconds))


# --- scheduling ------------------------------------------------------------------------------------------


def test_a_scheduled_step_is_due_at_its_time(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        work.schedule(tx, DEPLOYMENT, 1, tx.now + MINUTE, target="web")
        assert claim(tx) == []
    clock.advance(timedelta(seconds=60) - timedelta(microseconds=1))
    with store.write() as tx:
        assert claim(tx) == []
    clock.advance(timedelta(microseconds=1))
    with store.write() as tx:
        [row] = claim(tx)
    assert (row.kind, row.pair_id, row.ca, row.target) == (DEPLOYMENT, 1, "", "web")
    assert (row.due_at, row.fence, row.attempts, row.since, row.owner) == (clock.now(), 1, 0, None, "me")


def test_there_is_one_row_for_each_kind_pair_ca_and_target(store: Store) -> None:
    with store.write() as tx:
        for _ in range(2):
            for ca in ("alpha", "beta"):
                work.schedule(tx, ORDER, 1, tx.now, ca=ca)
            for target in ("web", "mail"):
                work.schedule(tx, DEPLOYMENT, 1, tx.now, target=target)
            work.schedule(tx, DEPLOYMENT, 2, tx.now, target="web")
        assert len(claim(tx)) == 5


def test_a_step_that_stands_becomes_due_sooner_never_later(store: Store, clock: FakeClock) -> None:
    now = clock.now()
    with store.write() as tx:
        for minutes, expected in ((5, 5), (9, 5), (2, 2), (3, 2)):
            work.schedule(tx, ORDER, 1, now + minutes * MINUTE, ca="alpha")
            found = work.get(tx, ORDER, 1, ca="alpha")
            assert found is not None
            assert found.due_at == now + expected * MINUTE


def test_scheduling_what_waits_for_a_person_makes_it_due(store: Store, clock: FakeClock) -> None:
    row = claimed(store)
    with store.write() as tx:
        work.put_back(tx, row, due_at=None, reason="no", waiting_for=PERSON, failed=True)
        assert claim(tx) == []
        work.schedule(tx, ORDER, 1, tx.now + MINUTE, ca="alpha")
    found = row_now(store)
    assert found is not None
    assert (found.due_at, found.waiting_for, found.attempts) == (clock.now() + MINUTE, None, 1)


def test_scheduling_what_somebody_holds_takes_nothing_from_him(store: Store) -> None:
    row = claimed(store)
    with store.write() as tx:
        work.schedule(tx, ORDER, 1, tx.now, ca="alpha")
        work.hold(tx, row)
        assert claim(tx, "other") == []


def test_a_number_is_never_used_twice(store: Store) -> None:
    row = claimed(store)
    with store.write() as tx:
        work.finish(tx, row)
    again = claimed(store)
    assert again.id > row.id
    with store.write() as tx, pytest.raises(LeaseLost):
        work.hold(tx, row)


# --- claiming --------------------------------------------------------------------------------------------


def test_the_longest_due_are_claimed_first_and_no_more_than_asked(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        for pair in range(1, 6):
            work.schedule(tx, ORDER, pair, tx.now - pair * MINUTE, ca="alpha")
        assert {row.pair_id for row in claim(tx, limit=2)} == {5, 4}
        assert {row.pair_id for row in claim(tx, limit=2)} == {3, 2}
        assert {row.pair_id for row in claim(tx, limit=2)} == {1}
        assert claim(tx) == []


def test_of_some_pairs_too_the_longest_due_are_claimed_first(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        for pair in range(1, 6):
            work.schedule(tx, ORDER, pair, tx.now - pair * MINUTE, ca="alpha")
        found = claims.claim(tx, "me", kinds=ALL, limit=2, pairs=range(1, 5))
        assert {row.pair_id for row in found} == {4, 3}


def test_a_claim_is_for_some_kinds_some_pairs_and_not_for_some_cas(store: Store) -> None:
    with store.write() as tx:
        for pair in (1, 2):
            for ca in ("alpha", "beta"):
                work.schedule(tx, ORDER, pair, tx.now, ca=ca)
            work.schedule(tx, REVOCATION, pair, tx.now, ca="alpha")
        found = claims.claim(tx, "me", kinds=[ORDER], limit=9, pairs=[1], but_not_at=["beta"])
        assert [(row.kind, row.pair_id, row.ca) for row in found] == [(ORDER, 1, "alpha")]
        assert claims.claim(tx, "me", kinds=ALL, limit=9, pairs=[]) == []
        assert claims.claim(tx, "me", kinds=[], limit=9) == []
        assert len(claims.claim(tx, "me", kinds=ALL, limit=9)) == 5


def test_what_is_held_is_claimed_by_nobody_not_even_its_holder(store: Store) -> None:
    claimed(store)
    with store.write() as tx:
        assert claim(tx, "other") == []
        assert claim(tx, "me") == []


def test_threads_never_share_a_row(store: Store) -> None:
    with store.write() as tx:
        for pair in range(120):
            work.schedule(tx, ORDER, pair, tx.now, ca="alpha")
    taken: list[tuple[str, int]] = []
    start = threading.Barrier(6)

    def take(owner: str) -> None:
        start.wait()
        while True:
            with store.write() as tx:
                rows = claim(tx, owner, limit=7)
            if not rows:
                return
            taken.extend((owner, row.id) for row in rows)

    threads = [threading.Thread(target=take, args=(f"owner {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 120
    assert len({number for _, number in taken}) == 120
    with store.read() as tx:
        assert {(row.owner, row.id) for row in work.of_pairs(tx, range(120))} == set(taken)


def test_the_other_due_deployments_of_a_target_are_taken_along(store: Store) -> None:
    with store.write() as tx:
        for pair in (1, 2, 3):
            work.schedule(tx, DEPLOYMENT, pair, tx.now, target="web")
        work.schedule(tx, DEPLOYMENT, 1, tx.now, target="mail")
        work.schedule(tx, DEPLOYMENT, 4, tx.now + MINUTE, target="web")
        work.schedule(tx, WorkKind.VERIFICATION, 1, tx.now, target="web")
        [first] = claims.claim(tx, "me", kinds=[DEPLOYMENT], limit=1, pairs=[2])
        companions = claims.claim_companions(tx, "me", "web", 10)
        assert {row.pair_id for row in companions} == {1, 3}
        assert {(row.kind, row.target) for row in companions} == {(DEPLOYMENT, "web")}
        assert first.pair_id == 2
        assert claims.claim_companions(tx, "me", "web", 10) == []


def test_deployments_to_a_target_that_has_enough_are_left_and_nothing_else_is(store: Store) -> None:
    with store.write() as tx:
        for target in ("web", "mail"):
            work.schedule(tx, DEPLOYMENT, 1, tx.now, target=target)
        work.schedule(tx, WorkKind.VERIFICATION, 1, tx.now, target="web")
        enough = ["web", "a 'quoted' one"]
        taken = claims.claim(tx, "me", kinds=ALL, limit=10, but_not_to=enough)
        assert {(row.kind, row.target) for row in taken} == {
            (DEPLOYMENT, "mail"),
            (WorkKind.VERIFICATION, "web"),
        }
        assert not claims.claimable(tx, "me", kinds=ALL, but_not_to=enough)
        assert claims.claimable(tx, "me", kinds=ALL)
        assert claims.claim(tx, "me", kinds=ALL, limit=10, pairs=[1], but_not_to=enough) == []


# --- leases and fences -----------------------------------------------------------------------------------


def test_a_lease_lasts_a_minute_of_the_databases_clock_whatever_ours_says(
    store: Store, clock: FakeClock
) -> None:
    claimed(store)
    clock.advance(timedelta(days=365))
    with store.read() as tx:
        lease_until = tx.execute(select(tables.lease.c.until)).scalar_one()
        now = tx.execute(select(database_now)).scalar_one()
    assert abs(now - to_microseconds(SystemClock().now())) < 5_000_000
    assert 55_000_000 < lease_until - now <= 60_000_000
    with store.write() as tx:
        assert claim(tx, "other") == []


def test_an_ended_lease_frees_the_row_and_a_running_one_does_not(store: Store) -> None:
    claimed(store)
    with store.write() as tx:
        lapse(tx, 5_000_000)
        assert claim(tx, "other") == []
        lapse(tx)
        [row] = claim(tx, "other")
    assert (row.owner, row.fence) == ("other", 2)


def test_leases_are_prolonged_for_their_owner_alone(store: Store) -> None:
    mine = claimed(store, ORDER, "me")
    theirs = claimed(store, REVOCATION, "other")
    with store.write() as tx:
        assert leases.take(tx, "target:web", "me")
        lapse(tx)
        leases.renew(tx, "me")
        assert leases.living(tx) == {"me"}
        taken = claim(tx, "third")
        assert [row.id for row in taken] == [theirs.id]
        work.hold(tx, mine)
        assert not leases.take(tx, "target:web", "third")


Late = Callable[[Transaction, WorkRow], None]

LATE: dict[str, Late] = {
    "finish": work.finish,
    "put back": lambda tx, row: work.put_back(tx, row, due_at=None, reason="late", failed=True),
    "keep": lambda tx, row: work.put_back(tx, row, due_at=tx.now, reason="late", keep_lease=True),
    "release": lambda tx, row: work.release(tx, [row]),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
def test_a_holder_that_comes_late_changes_nothing(store: Store, late: Late) -> None:
    old = claimed(store)
    with store.write() as tx:
        lapse(tx)
        [new] = claim(tx, "other")
    with store.write() as tx:
        late(tx, old)
    assert row_now(store) == new
    with store.write() as tx:
        work.hold(tx, new)
        with pytest.raises(LeaseLost, match="order of pair 1"):
            work.hold(tx, old)


def test_nobody_takes_from_himself_what_he_could_not_renew_in_time(store: Store) -> None:
    """He is at it still; a clock that was put forward, or a database that was away, makes no second holder of him."""
    mine = claimed(store)
    with store.write() as tx:
        lapse(tx)
        assert claim(tx, "me") == []
        assert not claims.claimable(tx, "me", kinds=[ORDER])
        assert claims.claimable(tx, "other", kinds=[ORDER])
        work.hold(tx, mine)


@pytest.mark.parametrize(
    ("left", "prolonged"),
    [(20, True), (40, False), (3600, True)],
    ids=["ends soon", "lasts", "clock put back"],
)
def test_a_claim_prolongs_a_lease_that_has_less_than_half_its_life_left(
    store: Store, left: int, prolonged: bool
) -> None:
    """Whoever claims often writes to nothing but the rows; each claim is for half a minute at the least."""
    claimed(store, ORDER)
    with store.write() as tx:
        lapse(tx, left * 1_000_000)
        before = tx.execute(select(tables.lease.c.until)).scalar_one()
        work.schedule(tx, REVOCATION, 1, tx.now, ca="alpha")
        assert len(claim(tx)) == 1
        after = tx.execute(select(tables.lease.c.until)).scalar_one()
        now = tx.execute(select(database_now)).scalar_one()
    assert (after != before) is prolonged
    assert 30_000_000 < after - now <= 60_000_000


def test_who_was_forgotten_and_claims_again_has_a_lease(store: Store) -> None:
    claimed(store, ORDER)
    with store.write() as tx:
        leases.release_owner(tx, "me")
    claimed(store, REVOCATION)
    with store.read() as tx:
        assert leases.living(tx) == {"me"}


def test_who_was_forgotten_and_comes_back_has_what_nobody_took(store: Store) -> None:
    mine = claimed(store, ORDER)
    taken = claimed(store, REVOCATION)
    with store.write() as tx:
        lapse(tx)
        assert {owner: one.ended for owner, one in leases.known(tx).items()} == {"me": True}
        leases.forget_ended(tx)
        assert leases.known(tx) == {}
        [theirs] = claims.claim(tx, "other", kinds=[REVOCATION], limit=9)
        leases.renew(tx, "me")
        assert claim(tx, "third") == []
        work.hold(tx, mine)
        assert theirs.id == taken.id
        with pytest.raises(LeaseLost):
            work.hold(tx, taken)


def test_only_engines_that_ended_are_forgotten(store: Store) -> None:
    claimed(store)
    with store.write() as tx:
        leases.forget_ended(tx)
        assert leases.living(tx) == {"me"}
        assert leases.take(tx, "target:web", "me")
        lapse(tx)
        leases.forget_ended(tx)
        assert leases.owners(tx) == ["me"], "what is taken by its name is given back by whoever took it"


def test_an_engine_at_its_end_leaves_nothing(store: Store) -> None:
    claimed(store)
    with store.write() as tx:
        leases.renew(tx, "another", at_work=False)
        leases.end(tx, "me")
        assert leases.owners(tx) == []


def test_a_row_that_was_let_go_is_not_ours_any_more(store: Store) -> None:
    row = claimed(store)
    with store.write() as tx:
        work.release(tx, [row])
        with pytest.raises(LeaseLost):
            work.hold(tx, row)


def test_a_step_that_lost_its_row_writes_nothing_of_its_transaction(store: Store) -> None:
    row = claimed(store)
    with store.write() as tx:
        lapse(tx)
        claim(tx, "other")

    def late_step() -> None:
        with store.write() as tx:
            work.schedule(tx, REVOCATION, 7, tx.now, ca="alpha")
            work.hold(tx, row)

    with pytest.raises(LeaseLost):
        late_step()
    with store.read() as tx:
        assert work.get(tx, REVOCATION, 7, ca="alpha") is None


def test_what_a_dead_owner_held_is_free_at_once_and_what_others_hold_is_not(store: Store) -> None:
    dead = claimed(store, ORDER, "dead")
    claimed(store, REVOCATION, "alive")
    with store.write() as tx:
        assert leases.take(tx, "target:web", "dead")
        assert leases.take(tx, "target:mail", "alive")
        assert sorted(leases.owners(tx)) == ["alive", "dead"]
        leases.release_owner(tx, "dead")
        assert leases.owners(tx) == ["alive"]
        assert [row.id for row in claim(tx, "me")] == [dead.id]
        assert leases.take(tx, "target:web", "me")
        assert not leases.take(tx, "target:mail", "me")


# --- putting back ----------------------------------------------------------------------------------------


def test_a_failure_is_counted_since_the_first_one(store: Store, clock: FakeClock) -> None:
    first = clock.now()
    row = claimed(store)
    with store.write() as tx:
        work.put_back(tx, row, due_at=tx.now + MINUTE, reason="refused", failed=True)
    clock.advance(MINUTE)
    with store.write() as tx:
        [again] = claim(tx)
        work.put_back(tx, again, due_at=tx.now + MINUTE, reason="refused again", failed=True)
    clock.advance(MINUTE)
    with store.write() as tx:
        [third] = claim(tx)
        work.put_back(tx, third, due_at=tx.now + MINUTE, reason="under way")
    found = row_now(store)
    assert found is not None
    assert (found.attempts, found.since, found.reason) == (2, first, "under way")
    assert (found.owner, found.due_at) == (None, clock.now() + MINUTE)


def test_a_row_that_is_waited_for_in_memory_keeps_its_lease(store: Store) -> None:
    row = claimed(store)
    with store.write() as tx:
        work.put_back(tx, row, due_at=tx.now, reason="in a second", failed=True, keep_lease=True)
        work.hold(tx, row)
        assert claim(tx, "other") == []


def test_a_released_row_is_due_as_before(store: Store, clock: FakeClock) -> None:
    row = claimed(store)
    with store.write() as tx:
        work.release(tx, [replace(row, reason="looking")])
        [again] = claim(tx, "other")
    assert (again.id, again.due_at, again.attempts) == (row.id, clock.now(), 0)
    assert again.reason == "looking"


@pytest.mark.parametrize("later", [5, None], ids=["in five minutes", "for a person"])
def test_what_was_made_due_while_it_was_held_is_due_when_it_is_put_back(
    store: Store, clock: FakeClock, later: int | None
) -> None:
    row = claimed(store)
    clock.advance(1)
    with store.write() as tx:
        work.schedule(tx, ORDER, 1, tx.now, ca="alpha")
    with store.write() as tx:
        at = None if later is None else tx.now + later * MINUTE
        work.put_back(tx, row, due_at=at, reason="refused", waiting_for=PERSON, failed=True)
    found = row_now(store)
    assert found is not None
    assert (found.due_at, found.waiting_for, found.attempts) == (clock.now(), None, 1)


def test_what_was_made_due_for_later_does_not_hold_up_what_comes_sooner(
    store: Store, clock: FakeClock
) -> None:
    row = claimed(store)
    with store.write() as tx:
        work.schedule(tx, ORDER, 1, tx.now + 2 * MINUTE, ca="alpha")
        work.put_back(tx, row, due_at=tx.now + MINUTE, reason="soon")
    found = row_now(store)
    assert found is not None
    assert found.due_at == clock.now() + MINUTE


def test_what_a_dead_owner_held_is_made_due_sooner_never_later(store: Store, clock: FakeClock) -> None:
    claimed(store)
    with store.write() as tx:
        leases.release_owner(tx, "me")
        work.schedule(tx, ORDER, 1, tx.now + MINUTE, ca="alpha")
    found = row_now(store)
    assert found is not None
    assert found.due_at == clock.now()


def test_a_step_without_a_purpose_is_cancelled_under_its_holders_hands(store: Store) -> None:
    row = claimed(store)
    with store.write() as tx:
        work.cancel(tx, REVOCATION, 1, ca="alpha")
        work.cancel(tx, ORDER, 2, ca="alpha")
        work.cancel(tx, ORDER, 1, ca="beta")
        work.hold(tx, row)
        work.cancel(tx, ORDER, 1, ca="alpha")
        with pytest.raises(LeaseLost):
            work.hold(tx, row)


# --- hurrying and waking ---------------------------------------------------------------------------------


def waiting(store: Store, waiting_for: str | None, minutes: int | None = 5) -> None:
    row = claimed(store)
    with store.write() as tx:
        at = None if minutes is None else tx.now + minutes * MINUTE
        work.put_back(tx, row, due_at=at, reason="why", waiting_for=waiting_for)


def due_now(store: Store) -> bool:
    with store.write() as tx:
        rows = claim(tx)
        work.release(tx, rows)
    return bool(rows)


@pytest.mark.parametrize(
    ("waiting_for", "minutes", "wakes"),
    [
        ("publication", 5, True),
        (None, 5, False),
        (PERSON, None, False),
        (DAY, 1440, False),
        (BUDGET, 5, False),
    ],
)
def test_only_what_waits_for_another_step_is_woken(
    store: Store, waiting_for: str | None, minutes: int | None, wakes: bool
) -> None:
    waiting(store, waiting_for, minutes)
    with store.write() as tx:
        work.wake(tx, REVOCATION, 1)
        work.wake(tx, ORDER, 2)
    assert not due_now(store)
    with store.write() as tx:
        work.wake(tx, ORDER, 1)
    assert due_now(store) is wakes


@pytest.mark.parametrize(
    ("waiting_for", "minutes", "spare", "hurried"),
    [
        (None, 5, (), True),
        (PERSON, None, (), True),
        (DAY, 1440, (), True),
        (DAY, 1440, (DAY,), False),
        (None, 5, (DAY,), True),
        (PERSON, None, (DAY,), True),
    ],
)
def test_a_person_ends_every_pause_but_those_that_are_spared(
    store: Store, waiting_for: str | None, minutes: int | None, spare: tuple[str, ...], hurried: bool
) -> None:
    waiting(store, waiting_for, minutes)
    with store.write() as tx:
        work.hurry(tx, 2, [ORDER])
        work.hurry(tx, 1, [REVOCATION])
    assert not due_now(store)
    with store.write() as tx:
        work.hurry(tx, 1, [ORDER], spare=spare)
    assert due_now(store) is hurried


def test_hurrying_leaves_what_is_held_and_what_is_due_already(store: Store, clock: FakeClock) -> None:
    row = claimed(store)
    clock.advance(60)
    with store.write() as tx:
        work.put_back(tx, row, due_at=tx.now + MINUTE, reason="soon", keep_lease=True)
        work.hurry(tx, 1, [ORDER])
        held = work.get(tx, ORDER, 1, ca="alpha")
        assert held is not None
        assert held.due_at == tx.now + MINUTE
        work.put_back(tx, row, due_at=tx.now - MINUTE, reason="overdue")
        work.hurry(tx, 1, [ORDER])
        free = work.get(tx, ORDER, 1, ca="alpha")
        assert free is not None
        assert free.due_at == tx.now - MINUTE


# --- looking ---------------------------------------------------------------------------------------------


def test_the_next_thing_due_is_told_unless_it_is_ones_own(store: Store, clock: FakeClock) -> None:
    now = clock.now()
    with store.write() as tx:
        work.schedule(tx, ORDER, 1, now, ca="alpha")
        claim(tx, "me")
        work.schedule(tx, ORDER, 2, now + 2 * MINUTE, ca="alpha")
        work.schedule(tx, REVOCATION, 3, now + MINUTE, ca="alpha")

        def due(minutes: float, owner: str, **only: object) -> object:
            kinds, some = only.get("kinds", ALL), only.get("pairs")
            return claims.due_before(tx, now + minutes * MINUTE, kinds, some, but_not_of=owner)  # type: ignore[arg-type]

        assert due(5, "me") == now + MINUTE
        assert due(5, "other") == now
        assert due(1, "me") == now + MINUTE
        assert due(0.9, "me") is None
        assert due(5, "me", kinds=[ORDER]) == now + 2 * MINUTE
        assert due(5, "me", pairs=[2]) == now + 2 * MINUTE
        assert due(5, "me", pairs=[1]) is None


def test_whether_another_holds_a_kind_of_a_pair(store: Store) -> None:
    claimed(store, REVOCATION, "other")
    with store.write() as tx:
        assert work.held_by_another(tx, REVOCATION, 1)
        assert not work.held_by_another(tx, ORDER, 1)
        assert not work.held_by_another(tx, REVOCATION, 2)
        lapse(tx)
        assert not work.held_by_another(tx, REVOCATION, 1)


def test_unfinished_is_what_is_due_has_failed_or_waits(store: Store, clock: FakeClock) -> None:
    failed, waits, held = claimed(store), claimed(store, REVOCATION, pair=4), claimed(store, ORDER, pair=5)
    with store.write() as tx:
        work.put_back(tx, failed, due_at=tx.now + MINUTE, reason="refused", failed=True)
        work.put_back(tx, waits, due_at=tx.now + 2 * MINUTE, reason="under way at the CA", failed=False)
        work.put_back(tx, held, due_at=None, reason="held", waiting_for=HELD, failed=False)
        work.schedule(tx, REVOCATION, 2, tx.now, ca="alpha")
        work.schedule(tx, ORDER, 3, tx.now + MINUTE, ca="alpha")
        assert [row.pair_id for row in work.unfinished(tx, 10)] == [2, 1, 4]
        assert [row.pair_id for row in work.unfinished(tx, 1)] == [2]


# --- named leases ----------------------------------------------------------------------------------------


def test_a_named_lease_has_one_owner_who_may_take_it_again(store: Store) -> None:
    with store.write() as tx:
        assert leases.take(tx, "target:web", "me")
        assert leases.take(tx, "target:web", "me")
        assert not leases.take(tx, "target:web", "other")
        assert leases.take(tx, "target:mail", "other")
        leases.drop(tx, "target:web", "other")
        assert not leases.take(tx, "target:web", "other")
        leases.drop(tx, "target:web", "me")
        assert leases.take(tx, "target:web", "other")


def test_a_named_lease_ends_by_the_databases_clock(store: Store) -> None:
    with store.write() as tx:
        assert leases.take(tx, "target:web", "me")
        lapse(tx, 5_000_000)
        assert not leases.take(tx, "target:web", "other")
        lapse(tx)
        assert leases.take(tx, "target:web", "other")
        assert not leases.take(tx, "target:web", "me")
