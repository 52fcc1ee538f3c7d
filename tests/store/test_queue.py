"""One queue for each CA, by when a pair would stop serving a good certificate: who goes first, and who may go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, select, text

from dualcert.lifecycle import budgeting, renewal
from dualcert.lifecycle.driver import Scope, run_until
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.listing import listed
from dualcert.lifecycle.views import describe
from dualcert.model.events import EventKind
from dualcert.model.order import OrderStep
from dualcert.model.pair import Pair
from dualcert.model.work import BUDGET, WorkKind, WorkRow
from dualcert.policy.budget import Allowance, Decision, Kind, Limit
from dualcert.policy.urgency import Need, needed_by
from dualcert.store import (
    Store,
    Transaction,
    claims,
    events,
    incident_tables,
    leases,
    orders,
    pairs,
    queue,
    standings,
    tables,
    work,
)
from dualcert.store.workrows import Queue, rows_of
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_pair, an_order, give_role
from tests.store.databaseclock import follow
from tests.store.overhearing import overheard, scans, sorts
from tests.store.test_budgeting import Scene
from tests.store.worlds import Setting, a_world

ORDER = WorkKind.ORDER
ALL = tuple(WorkKind)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def due(tx: Transaction, pair: Pair, ca: str = BACKUP) -> None:
    work.schedule(tx, ORDER, pair.id, tx.now, ca=ca)


def serving(tx: Transaction, until: timedelta, ca: str = PRIMARY) -> Pair:
    """A pair that serves a certificate with so much life left, and has no backup."""
    pair = a_pair(tx, cas=(ca, BACKUP if ca == PRIMARY else PRIMARY))
    give_role(tx, pair, a_certificate(tx, pair, ca, not_after=tx.now + until))
    return pair


def taken(store: Store, limit: int = 9, **how: Any) -> list[int]:
    with store.write() as tx:
        return [row.pair_id for row in claims.claim(tx, "me", kinds=ALL, limit=limit, **how)]


def place(store: Store, pair: Pair, ca: str = BACKUP) -> tuple[Queue, datetime | None]:
    with store.read() as tx:
        mine = (tables.work.c.kind == ORDER.value, tables.work.c.pair_id == pair.id, tables.work.c.ca == ca)
        row = tx.execute(select(tables.work).where(*mine)).one()
    return Queue(row.queue), rows_of([row])[0].needed_by


def never(_ca: str) -> Allowance:
    later = Decision(FakeClock().now() + 400 * DAY, "used up")
    return Allowance(0, 0, later, later)


# --- the place -------------------------------------------------------------------------------------------

Strike = Callable[[Transaction, Pair, int], Any]


def revoked(tx: Transaction, pair: Pair, number: int) -> datetime:
    row = {"certificate_id": number, "at": tx.at, "reason": "superseded", "source": "crl"}
    tx.execute(insert(tables.revocation), row)
    return tx.now


def blocked(tx: Transaction, pair: Pair, number: int) -> datetime:
    spki = select(tables.certificate.c.spki).where(tables.certificate.c.id == number).scalar_subquery()
    tx.execute(insert(tables.blocked_key).values(spki=spki, at=tx.at, cause="a test"))
    return tx.now


def to_be_revoked(tx: Transaction, pair: Pair, number: int) -> datetime:
    row = {"reason": "keyCompromise", "requested_at": tx.at, "unverified": False, "actor": "me"}
    by = tx.now + DAY
    row |= {
        "certificate_id": number,
        "pair_id": pair.id,
        "revoke_by": tx.at + DAY // timedelta(microseconds=1),
    }
    tx.execute(insert(tables.revocation_request), row)
    return by


def named(tx: Transaction, pair: Pair, number: int, *, closed: bool = False) -> datetime | None:
    for days in (5, 2):
        row = {"title": "t", "cause": "c", "selector": "s", "opened_at": tx.at, "opened_by": "me"}
        deadline = tx.at + days * DAY // timedelta(microseconds=1)
        made = insert(incident_tables.incident).values(
            **row, deadline=deadline, closed_at=tx.at if closed else None
        )
        key = tx.connection.execute(made).inserted_primary_key
        assert key is not None
        tx.execute(
            insert(incident_tables.incident_member),
            {"certificate_id": number, "incident_id": key[0], "pair_id": pair.id},
        )
    return None if closed else tx.now + 2 * DAY


STRIKES: dict[str, Strike] = {
    "nothing": lambda tx, pair, number: None,
    "revoked": revoked,
    "blocked": blocked,
    "to be revoked": to_be_revoked,
    "named by two incidents": named,
    "named by closed incidents": partial(named, closed=True),
}


@pytest.mark.parametrize("backup", [False, True], ids=["alone", "with a backup"])
@pytest.mark.parametrize("strike", STRIKES.values(), ids=STRIKES.keys())
def test_the_statement_gives_the_place_that_the_policy_does(
    store: Store, strike: Strike, backup: bool
) -> None:
    with store.write() as tx:
        pair = serving(tx, 20 * DAY)
        usable = None
        if backup:
            give_role(tx, pair, held := a_certificate(tx, pair, BACKUP))
            usable = held.not_after
        state = tx.execute(select(tables.pair_state)).one()
        struck = strike(tx, pair, state.serving)
        due(tx, pair)
        [row] = claims.claim(tx, "me", kinds=ALL, limit=9)
        assert row.needed_by == needed_by(Need(tx.now, tx.now + 20 * DAY, struck, usable))


def test_a_backup_of_a_ca_that_is_distrusted_gives_no_pair_time(store: Store) -> None:
    with store.write() as tx:
        pair = serving(tx, 20 * DAY)
        give_role(tx, pair, a_certificate(tx, pair, BACKUP))
        struck = revoked(tx, pair, pairs.state(tx, pair.id).serving or 0)
        standings.distrust(tx, BACKUP, None)
        due(tx, pair)
    with store.write() as tx:
        queue.line_up(tx)

    assert place(store, pair)[1] == struck


def test_a_pair_that_serves_nothing_yet_has_its_place_three_days_from_its_making(
    store: Store, clock: FakeClock
) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
    made = clock.now()
    clock.advance(HOUR)
    with store.write() as tx:
        due(tx, pair)
        [row] = claims.claim(tx, "me", kinds=ALL, limit=9)
    assert row.needed_by == needed_by(Need(made, None)) == made + 3 * DAY


def test_the_most_urgent_goes_first_whoever_came_first(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        long_lived, middling, expiring, struck = (serving(tx, days * DAY) for days in (80, 40, 5, 90))
        new = a_pair(tx)
        revoked(
            tx,
            struck,
            tx.execute(
                select(tables.certificate.c.id).where(tables.certificate.c.pair_id == struck.id)
            ).scalar_one(),
        )
    for pair in (long_lived, middling, new, expiring, struck):
        with store.write() as tx:
            due(tx, pair)
        clock.advance(MINUTE)
    order = [taken(store, 1) for _ in range(5)]
    assert order == [[one.id] for one in (struck, new, expiring, middling, long_lived)]


def test_each_ca_has_a_queue_of_its_own(store: Store) -> None:
    with store.write() as tx:
        pairs = [serving(tx, days * DAY) for days in (9, 8, 7)]
        for pair in pairs:
            due(tx, pair, PRIMARY)
            due(tx, pair, BACKUP)
    assert taken(store, 1) == [pairs[2].id, pairs[2].id]
    assert taken(store, 1, but_not_at=[PRIMARY]) == [pairs[1].id]


def test_what_backs_off_stands_in_no_queue_and_comes_back_to_the_place_that_it_has_then(
    store: Store, clock: FakeClock
) -> None:
    with store.write() as tx:
        urgent, other = serving(tx, 4 * DAY), serving(tx, 9 * DAY)
        due(tx, urgent)
        due(tx, other)
        [row] = claims.claim(tx, "me", kinds=ALL, limit=1)
        work.put_back(tx, row, due_at=tx.now + HOUR, reason="refused", failed=True)
    assert place(store, urgent) == (Queue.ORDERS, None)
    assert taken(store) == [other.id]
    clock.advance(HOUR)
    with store.write() as tx:
        give_role(tx, urgent, a_certificate(tx, urgent, not_after=tx.now + 50 * DAY))
    assert taken(store) == [urgent.id]
    assert place(store, urgent)[1] == clock.now() + 50 * DAY


def test_a_certificate_that_is_no_good_any_more_puts_an_order_forward(store: Store, clock: FakeClock) -> None:
    world = a_world(store, clock, Setting())
    with store.write() as tx:
        first, struck = serving(tx, 4 * DAY), serving(tx, 80 * DAY)
        for pair in (first, struck):
            due(tx, pair)
        assert claims.claim(tx, "me", kinds=ALL, limit=9, allowed=never) == []
        revoked(
            tx,
            struck,
            tx.execute(
                select(tables.pair_state.c.serving).where(tables.pair_state.c.pair_id == struck.id)
            ).scalar_one(),
        )
        work.schedule(tx, WorkKind.REFILL, struck.id, tx.now, ca=BACKUP)
    assert place(store, struck) == (Queue.COUNTED, clock.now() + 80 * DAY)
    [[row]] = Engine(world).claim([WorkKind.REFILL], 1)
    renewal.refill(world, row)
    assert taken(store, 1) == [struck.id]


def test_a_new_certificate_puts_the_pairs_other_order_back(store: Store) -> None:
    with store.write() as tx:
        urgent, other = serving(tx, 4 * DAY), serving(tx, 9 * DAY)
        for pair in (urgent, other):
            due(tx, pair)
        claims.claim(tx, "me", kinds=ALL, limit=9, allowed=never)
        give_role(tx, urgent, a_certificate(tx, urgent, not_after=tx.now + 80 * DAY))
        renewal.reckon(tx, urgent.id)
    assert taken(store, 1) == [other.id]


def test_an_order_whose_pair_is_gone_is_taken(store: Store) -> None:
    with store.write() as tx:
        work.schedule(tx, ORDER, 4711, tx.now, ca=BACKUP)
    assert taken(store) == [4711]


# --- who is counted --------------------------------------------------------------------------------------


def known(tx: Transaction, pair: Pair) -> None:
    a_certificate(tx, pair, BACKUP)


def placed(tx: Transaction, pair: Pair) -> None:
    orders.placed(tx, an_order(tx, pair, BACKUP).id, "url", "finalize", ())


def finalizing(tx: Transaction, pair: Pair) -> None:
    orders.set_step(tx, an_order(tx, pair, BACKUP).id, OrderStep.FINALIZING)


def being_placed(tx: Transaction, pair: Pair) -> None:
    an_order(tx, pair, BACKUP)


def in_window(tx: Transaction, pair: Pair) -> None:
    row = {"certificate_id": 1, "pair_id": pair.id, "ca": BACKUP, "ari_id": "a.b", "life_at": tx.at}
    tx.execute(insert(tables.renewal_info), {**row, "window_start": tx.at, "window_end": tx.at + 1})


def elsewhere(tx: Transaction, pair: Pair) -> None:
    a_certificate(tx, pair, PRIMARY)


@pytest.mark.parametrize(
    ("arrange", "queue"),
    [
        (known, Queue.UNCOUNTED),
        (placed, Queue.UNCOUNTED),
        (finalizing, Queue.UNCOUNTED),
        (in_window, Queue.UNCOUNTED),
        (being_placed, Queue.COUNTED),
        (elsewhere, Queue.COUNTED),
    ],
)
def test_what_the_ca_does_not_count_waits_for_no_permit(
    store: Store, arrange: Callable[[Transaction, Pair], None], queue: Queue
) -> None:
    with store.write() as tx:
        pair = serving(tx, 80 * DAY)
        arrange(tx, pair)
        due(tx, pair)
        rows = claims.claim(tx, "me", kinds=ALL, limit=9, allowed=never)
    assert place(store, pair)[0] is queue
    assert bool(rows) is (queue is Queue.UNCOUNTED)


# --- permits ---------------------------------------------------------------------------------------------


@pytest.fixture
def scene(database_url: str, clock: FakeClock) -> Iterator[Scene]:
    store = Store(database_url, clock, "tester")
    follow(store, clock)
    yield Scene(a_world(store, clock, Setting()), clock)
    store.close()


def lined_up(scene: Scene, *days: int) -> list[Pair]:
    """Pairs that serve a certificate of beta for so many days more, with orders due at alpha, which is to count."""
    with scene.world.store.write() as tx:
        made = [serving(tx, number * DAY, BACKUP) for number in days]
        for pair in made:
            due(tx, pair, PRIMARY)
    return made


def claimed(scene: Scene) -> list[WorkRow]:
    return [row for batch in Engine(scene.world).claim(ALL, 16) for row in batch]


def ordered(scene: Scene) -> list[int]:
    """What a daemon takes at once, and places."""
    rows = claimed(scene)
    for row in rows:
        with scene.world.store.write() as tx:
            [pair] = [one for one in PAIRS if one.id == row.pair_id]
            budgeting.take_order(tx, row, pair, scene.world.ca(PRIMARY))
            work.finish(tx, row)
    return [row.pair_id for row in rows]


PAIRS: list[Pair] = []


@pytest.fixture(autouse=True)
def _no_pairs() -> Iterator[None]:
    yield
    PAIRS.clear()


def test_of_a_budget_that_is_nearly_spent_the_most_urgent_have_the_rest_and_each_permit_that_comes_back(
    scene: Scene,
) -> None:
    scene.count(new_orders=Limit(2, 2 * HOUR))
    PAIRS.extend(lined_up(scene, 80, 40, 60, 10, 20))
    by_need = [PAIRS[number].id for number in (3, 4, 1, 2, 0)]
    assert ordered(scene) == by_need[:2]
    assert ordered(scene) == []
    PAIRS.extend(late := lined_up(scene, 5))
    assert ordered(scene) == []
    scene.clock.advance(HOUR + SECOND)
    assert ordered(scene) == [late[0].id], "who came last"
    for expected in by_need[2:]:
        assert ordered(scene) == []
        scene.clock.advance(HOUR)
        assert ordered(scene) == [expected]


def test_a_spent_budget_is_not_asked_for_once_for_each_that_waits(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, HOUR))
    PAIRS.extend(lined_up(scene, *range(10, 40)))
    assert len(ordered(scene)) == 1
    fences = select(tables.work.c.fence)
    with scene.world.store.read() as tx:
        assert {row.fence for row in tx.execute(fences)} == {0}
        engine = Engine(scene.world)
        allowed = partial(budgeting.allowance, scene.world, tx)
        assert not claims.claimable(tx, engine.owner, kinds=ALL, allowed=allowed)
        found = claims.due_before(tx, tx.now + DAY, ALL, None, but_not_of=engine.owner, allowed=allowed)
        assert found is not None
        assert abs(found - tx.now - HOUR) < timedelta(seconds=1), "when the next permit is there"
        assert claims.due_before(tx, tx.now + MINUTE, ALL, None, but_not_of="", allowed=allowed) is None


def test_the_last_tenth_is_for_what_would_serve_no_good_certificate_within_three_days(scene: Scene) -> None:
    scene.count(new_orders=Limit(10, 10 * HOUR))
    PAIRS.extend(lined_up(scene, *range(10, 25)))
    assert len(ordered(scene)) == 9
    assert ordered(scene) == []
    PAIRS.extend(soon := lined_up(scene, 2))
    assert ordered(scene) == [soon[0].id]
    scene.clock.advance(HOUR)
    assert ordered(scene) == []
    scene.clock.advance(HOUR)
    assert len(ordered(scene)) == 1


def test_renewals_pass_by_those_who_wait_for_a_permit(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, DAY))
    PAIRS.extend(lined_up(scene, 5, 6))
    assert len(ordered(scene)) == 1
    with scene.world.store.write() as tx:
        renewed = serving(tx, 30 * DAY)
        due(tx, renewed, PRIMARY)
    assert [row.pair_id for row in claimed(scene)] == [renewed.id]


def test_who_waits_in_the_queue_is_told_so_once(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, HOUR))
    PAIRS.extend(lined_up(scene, 5))
    assert ordered(scene)
    [pair] = lined_up(scene, 6)
    for _ in range(2):
        with scene.world.store.write() as tx:
            work.reorder(tx, pair.id)
        assert claimed(scene) == []
    row = scene.row(pair)
    assert row.waiting_for == BUDGET
    assert row.due_at is not None
    assert abs(row.due_at - scene.clock.now() - HOUR) < timedelta(seconds=1)
    assert "CA alpha: new sets of names (1/h) are used up; it goes on at" in (row.reason or "")
    with scene.world.store.read() as tx:
        told = [one for one in events.page(tx, pairs=[pair.id]) if one.kind == EventKind.WAITING]
    assert len(told) == 1


def test_who_stands_behind_others_waits_too(scene: Scene) -> None:
    """Both have come at once, while there was a permit for one."""
    scene.count(new_orders=Limit(1, HOUR))
    [first, second] = PAIRS[:] = lined_up(scene, 5, 6)
    assert scene.row(second).waiting_for is None
    assert ordered(scene) == [first.id]
    row = scene.row(second)
    assert row.waiting_for == BUDGET
    assert row.due_at is not None
    assert abs(row.due_at - scene.clock.now() - HOUR) < SECOND
    assert "new sets of names (1/h) are used up" in (row.reason or "")


def test_who_was_overtaken_by_those_that_were_asked_for_by_name_is_shown_to_wait(scene: Scene) -> None:
    scene.count(new_orders=Limit(3, 3 * HOUR))
    [pair] = PAIRS[:] = lined_up(scene, 50)
    with scene.world.store.write() as tx:
        queue.line_up(tx, partial(budgeting.allowance, scene.world, tx))
    assert shown(scene, pair) == ("ordering", None), "there is a permit for it"
    for _ in range(3):
        assert scene.asked(scene.pair()) is None

    said = shown(scene, pair)

    assert scene.row(pair).waiting_for is None, "nobody has written that down"
    assert said[0] == "waiting"
    assert "CA alpha: new sets of names (3/3h) are used up; it goes on at" in (said[1] or "")
    [line] = [one for page in listed(scene.world) for one in page if one.pair == pair.name]
    assert line.primary_state == "serving"
    assert line.backup_state == "waiting"
    scene.clock.advance(HOUR + SECOND)
    assert shown(scene, pair) == ("ordering", None)


def shown(scene: Scene, pair: Pair) -> tuple[str, str | None]:
    lineage = describe(scene.world, pair)["backup"]
    assert lineage["ca"] == PRIMARY
    return lineage["renewal"]["state"], lineage["renewal"]["error"]


def test_whoever_is_asked_for_by_name_goes_at_once(scene: Scene) -> None:
    scene.count(new_orders=Limit(10, 10 * HOUR))
    PAIRS.extend(lined_up(scene, *range(10, 30)))
    assert len(ordered(scene)) == 9
    last = PAIRS[-1]
    engine = Engine(scene.world)
    with scene.world.store.write() as tx:
        work.hurry(tx, last.id, [ORDER])
    [[row]] = engine.claim(ALL, 16, [last.id])
    assert (row.pair_id, row.needed_by) == (last.id, None)
    with scene.world.store.write() as tx:
        budgeting.take_order(tx, row, last, scene.world.ca(PRIMARY))


def test_a_cas_word_about_new_orders_holds_its_queue_and_no_other(scene: Scene) -> None:
    [pair] = lined_up(scene, 5)
    with scene.world.store.write() as tx:
        held = {"ca": PRIMARY, "kind": Kind.NEW_ORDERS.value, "subject": "", "reason": "too many"}
        until = tx.at + HOUR // timedelta(microseconds=1)
        tx.execute(insert(tables.budget), {**held, "full_at": until, "held_until": until})
        other = serving(tx, 50 * DAY)
        due(tx, other, BACKUP)
    assert [row.pair_id for row in claimed(scene)] == [other.id]
    scene.clock.advance(HOUR + MINUTE)
    assert pair.id in {row.pair_id for row in claimed(scene)}


def test_a_command_ends_where_the_next_permit_comes_after_its_time(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, HOUR))
    with scene.world.store.write() as tx:
        tx.execute(
            insert(tables.budget),
            {
                "ca": PRIMARY,
                "kind": Kind.NEW_ORDERS.value,
                "subject": "",
                "full_at": tx.at + HOUR // timedelta(microseconds=1),
            },
        )
    [pair] = lined_up(scene, 5)
    run_until(Engine(scene.world), Scope(), scene.clock.now() + 5 * MINUTE)
    assert scene.row(pair).fence == 0


def test_what_others_hold_of_a_queue_is_followed(store: Store) -> None:
    with store.write() as tx:
        due(tx, serving(tx, 5 * DAY))
        due(tx, serving(tx, 6 * DAY))
        claims.claim(tx, "other", kinds=ALL, limit=1)

        def next_one(**how: Any) -> datetime | None:
            return claims.due_before(tx, tx.now, ALL, None, but_not_of="me", allowed=never, **how)

        assert next_one() == tx.now
        assert next_one(free=True) is None
        leases.release_owner(tx, "other")
        assert next_one() is None


def test_to_find_that_nobody_may_go_takes_as_long_however_many_wait(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, HOUR))
    PAIRS.extend(lined_up(scene, 10))
    assert ordered(scene)
    counts = []
    for number in (3, 60):
        lined_up(scene, *range(20, 20 + number))
        assert claimed(scene) == []
        with scene.world.store.read() as tx, overheard(tx) as said:
            allowed = partial(budgeting.allowance, scene.world, tx)
            assert not claims.claimable(tx, "me", kinds=ALL, allowed=allowed)
        with scene.world.store.write() as tx:
            assert not [found for one in said if "FROM budget" not in one for found in scans(tx, one)]
        counts.append(len(said))
    assert counts[0] == counts[1]


# --- a long queue ----------------------------------------------------------------------------------------

ROWS = 20_000


@pytest.fixture
def crowded(fresh_postgres: str) -> Iterator[Store]:
    """Twenty thousand in the queues of two CAs, and as many that back off, which are needed the soonest."""
    store = Store(fresh_postgres, FakeClock(), "tester")
    with store.write() as tx:
        for queue, needed in ((Queue.COUNTED, 1_000_000), (Queue.UNCOUNTED, 1_000_000), (Queue.ORDERS, 0)):
            due_at = "NULL" if queue is Queue.ORDERS else ":at - number"
            tx.connection.execute(
                text(
                    "INSERT INTO work (kind, pair_id, ca, target, due_at, queue, needed_by)"
                    f" SELECT 'order', number, CASE number % 2 WHEN 0 THEN 'alpha' ELSE 'beta' END, :target, {due_at},"
                    " :queue, :needed - number FROM generate_series(1, :last) number"
                ),
                {"at": tx.at, "last": ROWS, "queue": int(queue), "needed": needed, "target": queue.name},
            )
    yield store
    store.close()


@pytest.mark.parametrize("known", [False, True], ids=["statistics are missing", "statistics are there"])
def test_the_most_urgent_are_found_without_looking_at_the_others(crowded: Store, known: bool) -> None:
    with crowded.write() as tx:
        if known:
            tx.connection.execute(text("ANALYZE work"))
        with overheard(tx) as said:
            rows = claims.claim(tx, "me", kinds=ALL, limit=16)
        looks = [one for one in said if one.startswith(("WITH found", "SELECT work"))]
        assert len(looks) == 5, "all else, and two queues of each CA"
        assert not [one for one in looks if sorts(tx, one)]
        assert not [found for one in looks for found in scans(tx, one)]
    assert len(rows) == 32
    assert {row.pair_id for row in rows} == set(range(ROWS - 15, ROWS + 1))
