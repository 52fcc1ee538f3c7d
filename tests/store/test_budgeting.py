"""What an order or a revocation takes, what it may do although a bucket is empty, and when what waits comes back."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from dualcert.errors import CaBusy, CaRejected, CaServerError, CaUnreachable, ChallengeFailed, StoreError
from dualcert.lifecycle import budgeting
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.permits import BudgetSpent
from dualcert.lifecycle.world import Once, World
from dualcert.model.certificate import WrappedKey
from dualcert.model.events import EventKind
from dualcert.model.order import OrderStep
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason
from dualcert.model.work import BUDGET, Later, WorkKind, WorkRow
from dualcert.policy.budget import Decision, Kind, Limit, Subject
from dualcert.store import Store, Transaction, accounts, budgets, events, revocations, tables, work
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.store.building import PRIMARY, a_certificate, a_pair, an_order, give_role
from tests.store.databaseclock import follow
from tests.store.ordering import OrderTaker, all_orders, ordering_world, step
from tests.store.renewing import gets

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


@dataclass
class Scene:
    """A world in which CA alpha counts as ``limits`` says, and time is the test's."""

    world: World
    clock: FakeClock
    taker: OrderTaker = field(default_factory=OrderTaker)

    def count(self, **limits: Limit) -> None:
        counted = {Kind[name.upper()]: limit for name, limit in limits.items()}
        alpha = replace(self.world.cas[PRIMARY], limits=counted)
        self.world = replace(self.world, cas={**self.world.cas, PRIMARY: alpha})

    def pair(self, *names: str) -> Pair:
        """A pair whose order at alpha is due."""
        with self.world.store.write() as tx:
            pair = a_pair(tx, *names)
            work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
        return pair

    def row(self, pair: Pair) -> WorkRow:
        with self.world.store.read() as tx:
            row = work.get(tx, WorkKind.ORDER, pair.id, ca=PRIMARY)
        assert row is not None
        return row

    def asked(
        self, pair: Pair, replaces: str | None = None, needed_by: datetime | None = None
    ) -> Later | None:
        """None: the order was allowed, and took what is counted; else what becomes of its row, which is so put back.

        ``needed_by``: it has come out of the queue of its CA.
        """
        row = replace(self.row(pair), needed_by=needed_by)
        try:
            with self.world.store.write() as tx:
                budgeting.take_order(tx, row, pair, self.world.ca(PRIMARY), replaces)
        except BudgetSpent as spent:
            later = budgeting.later(self.world, row, spent)
            Engine(self.world).settle(row, later)
            return later
        return None

    def pass_time(self, until: datetime) -> None:
        self.clock.advance(until - self.clock.now())


@pytest.fixture
def scene(database_url: str, clock: FakeClock) -> Iterator[Scene]:
    store = Store(database_url, clock, "tester")
    follow(store, clock)
    taker = OrderTaker()
    yield Scene(ordering_world(store, clock, taker), clock, taker)
    store.close()


# --- an order --------------------------------------------------------------------------------------------


def test_an_order_that_is_not_allowed_takes_nothing_from_any_bucket(scene: Scene) -> None:
    scene.count(new_orders=Limit(2, DAY), domain=Limit(1, DAY))
    assert scene.asked(scene.pair("a.example.com")) is None
    assert scene.asked(scene.pair("b.example.com", "b.example.org")) is not None, "example.com is used up"
    assert scene.asked(scene.pair("c.example.org")) is None, "and of the others nothing was taken"
    assert scene.asked(scene.pair("d.example.net")) is not None, "now the new orders are used up"


def test_a_set_that_the_ca_knows_is_counted_nowhere_for_120_days(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, DAY))
    assert scene.asked(scene.pair("other.example.com")) is None
    known = scene.pair("a.example.com", "b.example.com")
    assert scene.asked(known) is not None
    with scene.world.store.write() as tx:
        a_certificate(tx, known)
    assert scene.asked(known) is None
    # 119 days later too; after 121 it is a new one, and there is room for one.
    scene.clock.advance(119 * DAY)
    assert scene.asked(known) is None
    scene.clock.advance(2 * DAY)
    assert scene.asked(known) is None
    assert scene.asked(known) is not None


def test_an_order_that_replaces_inside_the_window_is_counted_nowhere(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, DAY))
    pair = scene.pair("a.example.com")
    assert scene.asked(pair) is None
    with scene.world.store.write() as tx:
        window = {"window_start": tx.at - 1, "window_end": tx.at + 10_000_000}
        row = {"certificate_id": 1, "pair_id": pair.id, "ca": PRIMARY, "ari_id": "a.b", "life_at": tx.at}
        tx.execute(insert(tables.renewal_info), {**row, **window})
    assert scene.asked(pair) is not None
    budgeting.before_order(scene.world, scene.row(pair), pair, scene.world.ca(PRIMARY))
    assert scene.asked(pair, replaces="a.b") is None
    scene.clock.advance(60)
    assert scene.asked(pair, replaces="a.b") is not None


def test_what_waited_and_is_allowed_is_waiting_no_more(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, HOUR))
    assert scene.asked(scene.pair("a.example.com")) is None
    waiting = scene.pair("b.example.com")
    later = scene.asked(waiting)
    assert later is not None
    assert scene.row(waiting).waiting_for == BUDGET
    scene.pass_time(later.at)
    assert scene.asked(waiting) is None, "at the time that it was told"
    assert scene.row(waiting).waiting_for is None


def test_before_a_key_is_made_again_it_is_asked_whether_there_is_room(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, HOUR))
    scene.asked(scene.pair("a.example.com"))
    waiting = scene.pair("b.example.com")
    scene.asked(waiting)
    with pytest.raises(BudgetSpent):
        budgeting.before_order(scene.world, scene.row(waiting), waiting, scene.world.ca(PRIMARY))


def test_registered_domains_go_by_the_public_suffix_list_with_its_private_part() -> None:
    for name, domain in (
        ("www.shop.example.com", "example.com"),
        ("*.example.com", "example.com"),
        ("www.example.co.uk", "example.co.uk"),
        ("me.github.io", "me.github.io"),
        ("github.io", "github.io"),
    ):
        assert budgeting.registered_domain(name) == domain


@pytest.mark.parametrize("written", ["taken", "charged", "held"])
def test_buckets_that_are_full_again_go_when_another_of_their_kind_is_written(
    scene: Scene, written: str
) -> None:
    scene.count(domain=Limit(50, 7 * DAY), failed=Limit(5, HOUR))
    kind = Kind.DOMAIN if written == "taken" else Kind.FAILED
    pair = scene.pair("a.example")
    with scene.world.store.write() as tx:
        full = {"ca": PRIMARY, "kind": kind.value, "subject": "z.example", "full_at": 1}
        tx.execute(insert(tables.budget), full)
    if written == "taken":
        assert scene.asked(pair) is None
    elif written == "charged":
        with scene.world.store.write() as tx:
            error = ChallengeFailed("no", name="a.example", ca=PRIMARY)
            budgeting.after_failure(tx, scene.world, pair, PRIMARY, None, error)
    else:
        said = busy("too many failed authorizations for a.example", HOUR)
        budgeting.obey(scene.world, scene.row(pair), pair, said, placed=False)
    with scene.world.store.read() as tx:
        assert [one.subject for one in tx.execute(select(tables.budget))] == ["a.example"]


# --- two at once -----------------------------------------------------------------------------------------


def test_orders_whose_domains_overlap_do_not_wait_for_each_other_in_a_circle(
    server: Postgres, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that is full again and may go is the next one of the other order."""
    scene.count(domain=Limit(50, 7 * DAY))
    rows = {
        one: scene.pair(*names)
        for one, names in (("first", ("a.example", "d.example")), ("second", ("d.example", "z.example")))
    }
    full = {"ca": PRIMARY, "kind": Kind.DOMAIN.value, "subject": "z.example", "full_at": 1}
    with scene.world.store.write() as tx:
        tx.execute(insert(tables.budget), full)
    taken = {one: threading.Event() for one in rows}
    take = budgets.take

    def and_meet(*arguments: Any, **named: Any) -> bool:
        done = take(*arguments, **named)
        taken[threading.current_thread().name].set()
        assert all(one.wait(20) for one in taken.values())
        return done

    monkeypatch.setattr(budgets, "take", and_meet)
    came: dict[str, Later | StoreError | None] = {}

    def order(one: str) -> None:
        try:
            came[one] = scene.asked(rows[one])
        except StoreError as error:
            came[one] = error

    first, second = (threading.Thread(target=order, args=(one,), name=one) for one in rows)
    first.start()
    assert taken["first"].wait(20)
    second.start()
    for thread in (first, second):
        thread.join()

    assert came == {"first": None, "second": None}


def test_names_that_a_ca_speaks_of_are_held_in_one_order_by_all(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two would wait for each other."""
    hold, held = budgets.hold, []

    def and_tell(tx: Transaction, ca: str, subject: Subject, *arguments: Any) -> None:
        held.append(subject.of)
        hold(tx, ca, subject, *arguments)

    monkeypatch.setattr(budgets, "hold", and_tell)
    error = busy("too many failed authorizations for a.example.com, b.example.com", HOUR)
    for names in (("a.example.com", "b.example.com"), ("b.example.com", "a.example.com", "c.example.com")):
        pair = scene.pair(*names)
        budgeting.obey(scene.world, scene.row(pair), pair, error, placed=False)
    assert held == ["a.example.com", "b.example.com"] * 2


# --- waiting ---------------------------------------------------------------------------------------------


def test_new_orders_that_wait_come_back_with_the_next_permit_to_stand_in_their_queue(scene: Scene) -> None:
    scene.count(new_orders=Limit(2, HOUR))
    outcomes = [scene.asked(scene.pair(f"n{number}.example.com")) for number in range(7)]
    assert outcomes[:2] == [None, None]
    waits = [(one.at - scene.clock.now()) / HOUR for one in outcomes if one is not None]
    assert waits == pytest.approx([0.5] * 5, abs=0.001)


def test_what_else_waits_comes_back_one_by_one_and_each_gets_its_permit(scene: Scene) -> None:
    scene.count(domain=Limit(2, HOUR))
    pairs = [scene.pair(f"n{number}.example.com") for number in range(7)]
    outcomes = [scene.asked(pair) for pair in pairs]
    assert outcomes[:2] == [None, None]
    waits = [(one.at - scene.clock.now()) / HOUR for one in outcomes if one is not None]
    assert waits == pytest.approx([0.5, 1, 1.5, 2, 2.5], abs=0.001)
    for pair, outcome in list(zip(pairs, outcomes, strict=True))[2:]:
        assert outcome is not None
        scene.pass_time(outcome.at)
        assert scene.asked(pair) is None


def test_the_last_tenth_is_for_what_is_needed_soon_or_asked_for_by_its_name(scene: Scene) -> None:
    scene.count(new_orders=Limit(10, 10 * HOUR))
    for number in range(9):
        assert scene.asked(scene.pair(f"n{number}.example.com")) is None
    now = scene.clock.now()

    later = scene.asked(scene.pair("late.example.com"), needed_by=now + 4 * DAY)

    assert later is not None
    assert later.at - now == pytest.approx(HOUR, abs=SECOND), "when there are two again"
    assert scene.asked(scene.pair("soon.example.com"), needed_by=now + 2 * DAY) is None
    scene.clock.advance(HOUR + SECOND)
    assert scene.asked(scene.pair("late2.example.com"), needed_by=now + 4 * DAY) is not None
    assert scene.asked(scene.pair("asked.example.com")) is None


def test_who_is_overtaken_does_not_begin_at_the_end_again(scene: Scene) -> None:
    scene.count(domain=Limit(2, HOUR))
    pairs = [scene.pair(f"n{number}.example.com") for number in range(9)]
    outcomes = [scene.asked(pair) for pair in pairs]
    first = outcomes[2]
    assert first is not None
    scene.pass_time(first.at)
    assert scene.asked(scene.pair("new.example.com")) is None

    overtaken = scene.asked(pairs[2])

    assert overtaken is not None
    assert overtaken.at - scene.clock.now() < HOUR, "the lot that these worlds draw is the best one"


def test_a_wait_is_told_once_and_a_short_one_not_at_all(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, HOUR))
    scene.asked(scene.pair("a.example.com"))
    pair = scene.pair("b.example.com")
    for _ in range(3):
        scene.asked(pair)
    assert told(scene, pair) == 1
    scene.count(new_orders=Limit(1, SECOND))
    with scene.world.store.write() as tx:
        tx.execute(update(tables.budget).values(full_at=tx.at + 1_000_000))
    other = scene.pair("c.example.com")
    assert scene.asked(other) is not None
    assert told(scene, other) == 0


def told(scene: Scene, pair: Pair) -> int:
    with scene.world.store.read() as tx:
        return sum(one.kind == EventKind.WAITING for one in events.page(tx, pairs=[pair.id]))


def test_even_a_short_wait_goes_back_to_the_table_so_that_its_step_begins_anew(scene: Scene) -> None:
    pair = scene.pair("a.example.com")
    later = Later(scene.clock.now() + timedelta(milliseconds=100), "a moment", waiting_for=BUDGET)
    assert Engine(scene.world).settle(scene.row(pair), later) is None
    assert scene.row(pair).waiting_for == BUDGET


def test_a_limit_that_was_raised_counts_at_once(scene: Scene) -> None:
    scene.count(new_orders=Limit(1, 7 * DAY))
    scene.asked(scene.pair("a.example.com"))
    scene.count(new_orders=Limit(10, HOUR))
    later = scene.asked(scene.pair("b.example.com"))
    assert later is not None
    scene.clock.advance(HOUR)
    assert scene.asked(scene.pair("c.example.com")) is None


# --- what has not left -----------------------------------------------------------------------------------


def spent(scene: Scene) -> Callable[[], None]:
    """No request may go out to the CA for a second."""

    def refuse() -> None:
        at = scene.clock.now() + SECOND
        raise BudgetSpent(PRIMARY, Decision(at, "requests (2/s) are used up"), SECOND)

    return refuse


def left(scene: Scene, kind: Kind, limit: Limit, of: str = "") -> int:
    """How many permits a bucket has."""
    subject = Subject(kind, of)
    with scene.world.store.read() as tx:
        found, now = budgets.look(tx, PRIMARY, [kind], [of])
    missing = max(found[subject].full_at - now, timedelta(0)) if subject in found else timedelta(0)
    return limit.count - math.ceil(missing / limit.interval)


def known(tx: Transaction) -> None:
    """Alpha has an account of ours."""
    key = WrappedKey(b"account", "one", "kek", b"wrapped")
    url = f"https://{PRIMARY}/dir"
    accounts.create_or_get(tx, accounts.StoredAccount(PRIMARY, url, key, f"{url}/1", frozenset()))


def order_until_finalized(scene: Scene) -> None:
    engine = Engine(scene.world)
    while "finalize" not in scene.taker.calls:
        step(engine)
        scene.clock.advance(2)


def test_an_order_that_no_request_was_left_for_keeps_its_key_and_its_permit(scene: Scene) -> None:
    scene.count(new_orders=Limit(10, 10 * DAY))
    pair = scene.pair("a.example.com")
    scene.taker.meanwhile["new_order"] = [spent(scene), spent(scene)]

    order_until_finalized(scene)

    assert scene.taker.calls.count("new_order") == 3
    assert [one for one, _ in all_orders(scene.world)] == [OrderStep.FINALIZING]
    assert left(scene, Kind.NEW_ORDERS, Limit(10, 10 * DAY)) == 9
    with scene.world.store.read() as tx:
        kinds = [one.kind for one in events.page(tx, pairs=[pair.id])]
    assert EventKind.ABANDONED not in kinds
    assert kinds.count(EventKind.ORDERING) == 1


def test_the_predecessor_that_a_ca_did_not_like_is_not_named_again_after_waiting(scene: Scene) -> None:
    pair = scene.pair("a.example.com")
    with scene.world.store.write() as tx:
        known(tx)
        old = gets(tx, pair, PRIMARY)

    def dislike() -> None:
        raise CaRejected("it was replaced already", problem="alreadyReplaced", ca=PRIMARY)

    scene.taker.meanwhile["new_order"] = [dislike, spent(scene)]

    order_until_finalized(scene)

    assert scene.taker.replaced == [f"{PRIMARY}.{old.id}", None, None]
    assert [one for one, _ in all_orders(scene.world)][1:] == [OrderStep.FINALIZING]


@pytest.mark.parametrize(("sent", "taken"), [(False, 0), (True, 1)])
def test_an_order_costs_a_permit_unless_it_cannot_have_reached_its_ca(
    scene: Scene, sent: bool, taken: int
) -> None:
    new_orders, domain = Limit(10, 10 * DAY), Limit(5, 5 * DAY)
    scene.count(new_orders=new_orders, domain=domain)
    scene.pair("a.example.com")
    scene.taker.meanwhile["new_order"] = [unreachable(sent)]

    step(Engine(scene.world))

    assert [one for one, _ in all_orders(scene.world)] == [OrderStep.ABANDONED]
    assert left(scene, Kind.NEW_ORDERS, new_orders) == 10 - taken
    assert left(scene, Kind.DOMAIN, domain, "example.com") == 5, "no CSR was sent in either case"
    assert scene.world.placing == {}


def unreachable(sent: bool) -> Callable[[], None]:
    def fail() -> None:
        error = CaUnreachable("nobody there", ca=PRIMARY)
        error.sent = sent
        raise error

    return fail


def test_an_order_that_an_earlier_process_may_have_sent_is_not_counted_as_one_that_has_not_left(
    scene: Scene,
) -> None:
    """What cannot be reached now is the CA's account; nobody knows of the order."""
    limit = Limit(10, 10 * DAY)
    scene.count(new_orders=limit)
    pair = scene.pair("a.example.com")
    assert scene.asked(pair) is None
    with scene.world.store.write() as tx:
        an_order(tx, pair)
    alpha = replace(scene.world.ca(PRIMARY), account=Once())
    scene.world = replace(scene.world, cas={**scene.world.cas, PRIMARY: alpha})
    scene.taker.meanwhile["facts"] = [unreachable(False)]

    step(Engine(scene.world))

    assert scene.taker.calls == ["facts"]
    assert [one for one, _ in all_orders(scene.world)] == [OrderStep.ABANDONED]
    assert left(scene, Kind.NEW_ORDERS, limit) == 9


@pytest.mark.parametrize("sent", [False, True])
def test_what_was_not_counted_is_not_given_back(scene: Scene, sent: bool) -> None:
    new_orders, domain = Limit(10, 10 * DAY), Limit(5, 5 * DAY)
    scene.count(new_orders=new_orders, domain=domain)
    assert scene.asked(scene.pair("b.example.com")) is None
    with scene.world.store.write() as tx:
        pair = a_pair(tx, "a.example.com")
        known(tx)
        gets(tx, pair, PRIMARY)
        in_window = {"window_start": tx.at - 1, "window_end": tx.at + 10_000_000}
        tx.execute(update(tables.renewal_info).values(**in_window))
        tx.execute(update(tables.certificate).values(names_digest=b"other names, then"))
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
    with scene.world.store.write() as tx:
        tx.execute(delete(tables.work).where(tables.work.c.pair_id != pair.id))
    scene.taker.meanwhile["new_order"] = [unreachable(sent)]

    step(Engine(scene.world))

    assert len(scene.taker.replaced) == 1
    assert scene.taker.replaced[0] is not None
    assert left(scene, Kind.NEW_ORDERS, new_orders) == 9
    assert left(scene, Kind.DOMAIN, domain, "example.com") == 4


@pytest.mark.parametrize("away", [False, True])
def test_a_revocation_that_has_not_left_keeps_its_permit(scene: Scene, away: bool) -> None:
    limit = Limit(10, 10 * DAY)
    scene.count(revocations=limit)
    with scene.world.store.write() as tx:
        pair = a_pair(tx, "a.example.com")
        subject = a_certificate(tx, pair)
        revocations.want(tx, subject.id, pair.id, Reason.SUPERSEDED, tx.now, unverified=True)
        work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=PRIMARY)
    scene.taker.meanwhile["revoke"] = [unreachable(False) if away else spent(scene)] * 2
    engine = Engine(scene.world)

    held = None
    for _ in range(3):
        held = step(engine, held, WorkKind.REVOCATION)
        scene.clock.advance(2)

    assert scene.taker.calls == ["revoke"] * 3
    assert left(scene, Kind.REVOCATIONS, limit) == 9


# --- failures and a CA's word ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "after", "back"),
    [
        (OrderStep.PLACED, SECOND, True),
        (OrderStep.FINALIZING, SECOND, False),
        (OrderStep.PLACED, 2 * HOUR, False),
    ],
)
def test_a_certificate_that_cannot_have_been_issued_was_not_used_up(
    scene: Scene, step: OrderStep, after: timedelta, back: bool
) -> None:
    """After so long that the bucket may have been full since, it would be too many to give one back."""
    scene.count(domain=Limit(24, DAY))
    pair = scene.pair("a.example.com")
    assert scene.asked(pair) is None
    with scene.world.store.write() as tx:
        order = replace(an_order(tx, pair), step=step)
        before = full_at(scene)
    scene.clock.advance(after)
    with scene.world.store.write() as tx:
        error = ChallengeFailed("no", name="a.example.com", ca=PRIMARY)
        budgeting.after_failure(tx, scene.world, pair, PRIMARY, order, error)
    assert (full_at(scene) < before) is back


def full_at(scene: Scene) -> int:
    with scene.world.store.read() as tx:
        return int(tx.execute(select(tables.budget.c.full_at)).scalar_one())


def test_a_wildcards_failure_counts_for_the_name_below_it(scene: Scene) -> None:
    scene.count(failed=Limit(1, HOUR))
    pair = scene.pair("*.example.com")
    with scene.world.store.write() as tx:
        error = ChallengeFailed("no", name="*.example.com", ca=PRIMARY)
        budgeting.after_failure(tx, scene.world, pair, PRIMARY, None, error)
    assert scene.asked(scene.pair("example.com")) is not None
    assert scene.asked(scene.pair("www.example.com")) is None


def test_a_wish_is_remembered_with_its_words_and_counts_for_others_from_then_on(scene: Scene) -> None:
    pair, error = scene.pair("a.example.com"), busy("too many new orders", 30 * DAY)
    budgeting.obey(scene.world, scene.row(pair), pair, error, placed=False)
    assert error.retry_after == DAY
    later = scene.asked(scene.pair("b.example.com"))
    assert later is not None
    assert later.at - scene.clock.now() == pytest.approx(DAY, abs=SECOND)
    assert "too many new orders" in later.reason


def test_no_wish_lasts_longer_than_half_of_what_the_certificate_has_to_live(scene: Scene) -> None:
    pair, error = scene.pair("a.example.com"), busy("too many new orders", DAY)
    with scene.world.store.write() as tx:
        give_role(tx, pair, a_certificate(tx, pair, not_after=tx.now + 10 * HOUR))
    budgeting.obey(scene.world, scene.row(pair), pair, error, placed=False)
    assert error.retry_after == 5 * HOUR


def test_nor_does_one_of_a_ca_that_is_in_trouble(scene: Scene) -> None:
    pair, error = scene.pair("a.example.com"), CaServerError("down", ca=PRIMARY, retry_after=DAY)
    with scene.world.store.write() as tx:
        give_role(tx, pair, a_certificate(tx, pair, not_after=tx.now + 10 * HOUR))
    budgeting.obey(scene.world, scene.row(pair), pair, error, placed=True)
    assert error.retry_after == 5 * HOUR
    assert scene.asked(scene.pair("b.example.com")) is None


def busy(words: str, wish: timedelta | None) -> CaBusy:
    return CaBusy(words, ca=PRIMARY, retry_after=wish)


@pytest.mark.parametrize(("placed", "wish"), [(True, HOUR), (False, None), (False, timedelta(0))])
def test_what_concerns_one_order_or_names_no_time_keeps_no_other_waiting(
    scene: Scene, placed: bool, wish: timedelta | None
) -> None:
    pair = scene.pair("a.example.com")
    budgeting.obey(scene.world, scene.row(pair), pair, busy("too many", wish), placed=placed)
    assert scene.asked(scene.pair("b.example.com")) is None


def test_a_domain_that_a_ca_has_named_waits_without_a_budget_of_ours(scene: Scene) -> None:
    pair = scene.pair("www.example.com")
    error = busy('too many certificates (50) already issued for "example.com"', HOUR)
    budgeting.obey(scene.world, scene.row(pair), pair, error, placed=False)
    assert scene.asked(scene.pair("shop.example.com")) is not None
    assert scene.asked(scene.pair("www.example.org")) is None


def test_one_cas_word_is_not_the_others(scene: Scene) -> None:
    pair = scene.pair("a.example.com")
    budgeting.obey(scene.world, scene.row(pair), pair, busy("too many", HOUR), placed=False)
    with scene.world.store.write() as tx:
        budgeting.take_order(tx, scene.row(pair), pair, scene.world.ca("beta"))


def test_revocations_are_taken_one_by_one_and_wait_for_their_cas_word(scene: Scene) -> None:
    row = scene.row(scene.pair("a.example.com"))
    budgeting.take_revocation(scene.world, row)
    scene.count(revocations=Limit(1, HOUR))
    budgeting.take_revocation(scene.world, row)
    with pytest.raises(BudgetSpent, match=r"revocations \(1/h\) are used up"):
        budgeting.take_revocation(scene.world, row)
    scene.count()
    budgeting.obey(scene.world, row, None, busy("not so many", HOUR))
    with pytest.raises(BudgetSpent, match="not so many"):
        budgeting.take_revocation(scene.world, row)
