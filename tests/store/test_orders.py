from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dualcert.errors import LeaseLost, StoreError
from dualcert.lifecycle import validation
from dualcert.model.certificate import WrappedKey
from dualcert.model.order import Order, OrderStep, RecordState
from dualcert.model.work import WorkKind
from dualcert.store import Store, Transaction, certificates, challenges, claims, orders, tables, work
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, an_order, lineage_of

ALL = tuple(RecordState)


def value(text: str, record: str = "_acme-challenge.example.com") -> dict[str, str]:
    return {
        "zone": "example.com",
        "record": record,
        "value": text,
        "identifier": "example.com",
        "authorization": f"https://ca/authorization/{text}",
        "challenge": f"https://ca/challenge/{text}",
    }


def states(tx: Transaction, order: Order) -> dict[str, RecordState]:
    return {one.value: one.state for one in challenges.records(tx, order_id=order.id)}


# --- orders ----------------------------------------------------------------------------------------------


def test_an_order_is_written_down_with_its_key_before_it_leaves(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.com", "*.example.com")
        begun = an_order(tx, pair, BACKUP)
    assert begun.step is OrderStep.PLACING
    assert begun.names == ("example.com", "*.example.com")
    assert (begun.url, begun.finalize, begun.authorizations) == (None, None, ())
    with store.read() as tx:
        assert orders.open_order(tx, pair.id, BACKUP) == begun
        assert orders.open_order(tx, pair.id, PRIMARY) is None
        assert certificates.wrapped(tx, begun.spki) == WrappedKey(begun.spki, "two", "kek", b"a wrapped key")
        assert orders.last_issuance(tx, pair.id) == begun.issuance_id


def test_a_key_is_never_used_for_a_second_order(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        first = an_order(tx, pair)
    key = WrappedKey(first.spki, "one", "kek", b"wrapped again")
    with pytest.raises(StoreError, match="(?i)unique"), store.write() as tx:
        orders.begin(tx, lineage_of(tx, pair, PRIMARY), first.issuance_id, pair.names, b"a CSR", key)


def test_a_placed_order_keeps_what_the_ca_answered(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        begun = an_order(tx, pair)
        orders.placed(
            tx, begun.id, "https://ca/order", "https://ca/finalize", ["https://ca/1", "https://ca/2"]
        )
        found = orders.open_order(tx, pair.id, PRIMARY)
    assert found is not None
    assert (found.step, found.url, found.finalize) == (
        OrderStep.PLACED,
        "https://ca/order",
        "https://ca/finalize",
    )
    assert found.authorizations == ("https://ca/1", "https://ca/2")


@pytest.mark.parametrize("ended", [OrderStep.ABANDONED, OrderStep.STORED])
def test_an_order_that_has_ended_goes_no_further(store: Store, ended: OrderStep) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        one = an_order(tx, pair)
        orders.set_step(tx, one.id, ended, "a test")
    with pytest.raises(LeaseLost, match="has ended"), store.write() as tx:
        orders.placed(tx, one.id, "https://ca/order", "https://ca/finalize", [])
    with pytest.raises(LeaseLost, match="has ended"), store.write() as tx:
        orders.finalizing(tx, one.id)
    with store.read() as tx:
        row = tx.execute(tables.acme_order.select()).one()
    assert (row.step, row.error, row.url) == (ended.value, "a test", None)


@pytest.mark.parametrize(
    ("step", "is_open"),
    [(OrderStep.FINALIZING, True), (OrderStep.STORED, False), (OrderStep.ABANDONED, False)],
)
def test_an_order_that_has_ended_is_not_under_way(store: Store, step: OrderStep, is_open: bool) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        orders.set_step(tx, an_order(tx, pair).id, step)
        assert (orders.open_order(tx, pair.id, PRIMARY) is not None) is is_open


def test_the_newest_order_is_the_one_under_way(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        an_order(tx, pair)
        newer = an_order(tx, pair)
        assert orders.open_order(tx, pair.id, PRIMARY) == newer
        assert orders.last_issuance(tx, pair.id) == newer.issuance_id


def test_a_pair_without_an_issuance_has_none(store: Store) -> None:
    with store.write() as tx:
        assert orders.last_issuance(tx, a_pair(tx).id) is None


def test_an_order_is_unanswered_until_its_values_are_known_or_not_needed(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        for ca in (PRIMARY, BACKUP):
            work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=ca)
        assert orders.unanswered(tx, pair.id) == 2
        begun = an_order(tx, pair, PRIMARY)
        assert orders.unanswered(tx, pair.id) == 2
        orders.placed(tx, begun.id, "https://ca/order", "https://ca/finalize", [])
        assert orders.unanswered(tx, pair.id) == 2, "placed, but its values are still to be fetched"
        challenges.remember(tx, begun, "corp", [value("one")])
        assert orders.unanswered(tx, pair.id) == 1
        orders.set_step(tx, begun.id, OrderStep.FINALIZING)
        assert orders.unanswered(tx, pair.id) == 1


def test_an_order_that_is_left_alone_for_later_is_not_waited_for(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
        [row] = claims.claim(tx, "me", kinds=[WorkKind.ORDER], limit=1)
        later = tx.now + timedelta(minutes=5)
        work.put_back(tx, row, due_at=later, reason="429", keep_lease=True)
        assert orders.unanswered(tx, pair.id) == 1
        work.put_back(tx, row, due_at=later, reason="429")
        assert orders.unanswered(tx, pair.id) == 0


# --- challenge records -----------------------------------------------------------------------------------


def test_values_are_remembered_with_all_that_withdrawing_them_needs(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        order = an_order(tx, pair)
        challenges.remember(tx, order, "corp", [value("one"), value("two")])
    with store.read() as tx:
        one, two = challenges.records(tx, pair_id=pair.id)
    assert (one.value, two.value) == ("one", "two")
    assert (one.dns, one.zone, one.record) == ("corp", "example.com", "_acme-challenge.example.com")
    assert (one.order_id, one.pair_id, one.ca) == (order.id, pair.id, PRIMARY)
    assert (one.authorization, one.challenge) == ("https://ca/authorization/one", "https://ca/challenge/one")
    assert (one.state, one.since) == (RecordState.REMEMBERED, clock.now())


def test_a_value_that_an_earlier_order_left_belongs_to_the_later_one(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        earlier = an_order(tx, pair)
        challenges.remember(tx, earlier, "corp", [value("same"), value("other")])
        challenges.spend(tx, earlier.id)
    clock.advance(60)
    with store.write() as tx:
        later = an_order(tx, pair)
        challenges.remember(tx, later, "corp", [value("same")])
        [taken] = challenges.records(tx, order_id=later.id)
        assert (taken.state, taken.since) == (RecordState.REMEMBERED, clock.now())
        assert states(tx, earlier) == {"other": RecordState.SPENT}
        assert challenges.spend(tx, earlier.id) == 1
        assert states(tx, later) == {"same": RecordState.REMEMBERED}


def test_equal_values_at_two_names_are_two_records(store: Store) -> None:
    with store.write() as tx:
        order = an_order(tx, a_pair(tx))
        challenges.remember(tx, order, "corp", [value("v", "a.example.com"), value("v", "b.example.com")])
        assert len(challenges.records(tx, order_id=order.id)) == 2


def test_records_are_chosen_by_pair_order_and_state(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        alpha, beta = an_order(tx, pair, PRIMARY), an_order(tx, pair, BACKUP)
        other = an_order(tx, a_pair(tx))
        for order, text in ((alpha, "1"), (beta, "2"), (other, "3")):
            challenges.remember(tx, order, "corp", [value(text)])
        [first] = challenges.records(tx, order_id=alpha.id)
        assert challenges.set_state(tx, [first.id], RecordState.PUBLISHED) == 1
        assert [one.value for one in challenges.records(tx, pair_id=pair.id)] == ["1", "2"]
        assert [one.value for one in challenges.records(tx, order_id=beta.id)] == ["2"]
        published = challenges.records(tx, pair_id=pair.id, states=[RecordState.PUBLISHED])
        assert [one.value for one in published] == ["1"]


def test_a_record_moves_on_only_from_where_it_may(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        order = an_order(tx, a_pair(tx))
        challenges.remember(tx, order, "corp", [value("a"), value("b")])
        a, b = challenges.records(tx, order_id=order.id)
        challenges.set_state(tx, [a.id], RecordState.SPENT)
        moved = challenges.set_state(
            tx, [a.id, b.id], RecordState.PUBLISHED, only=(RecordState.REMEMBERED, RecordState.ADDED)
        )
        assert moved == 1
        assert states(tx, order) == {"a": RecordState.SPENT, "b": RecordState.PUBLISHED}


def test_what_stands_in_the_zone_is_counted_per_name_for_all_pairs(store: Store) -> None:
    with store.write() as tx:
        mine, theirs = an_order(tx, a_pair(tx)), an_order(tx, a_pair(tx))
        challenges.remember(tx, mine, "corp", [value(state.value) for state in ALL])
        challenges.remember(tx, theirs, "corp", [value("theirs"), value("elsewhere", "b.example.com")])
        for record in challenges.records(tx):
            challenges.set_state(
                tx,
                [record.id],
                RecordState(record.value) if record.order_id == mine.id else RecordState.ADDED,
            )
        asked = ["_acme-challenge.example.com", "b.example.com", "c.example.com"]
        assert challenges.values_at(tx, asked) == {"_acme-challenge.example.com": 5, "b.example.com": 1}


def test_spent_values_are_not_needed_and_only_they_are_forgotten(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        alpha, beta = an_order(tx, pair, PRIMARY), an_order(tx, pair, BACKUP)
        challenges.remember(tx, alpha, "corp", [value("1"), value("2")])
        challenges.remember(tx, beta, "corp", [value("3")])
        assert challenges.needed(tx, pair.id) == 3
        assert challenges.spend(tx, alpha.id) == 2
        assert challenges.needed(tx, pair.id) == 1
        challenges.forget(tx, challenges.records(tx, pair_id=pair.id))
        assert [one.value for one in challenges.records(tx, pair_id=pair.id)] == ["3"]


def test_what_came_out_late_is_remembered_anew_unless_an_order_needs_it(
    store: Store, clock: FakeClock
) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        over, under_way = an_order(tx, pair), an_order(tx, pair)
        challenges.remember(tx, over, "corp", [value("late"), value("taken over")])
        late = challenges.records(tx, order_id=over.id)
        challenges.spend(tx, over.id)
        challenges.forget(tx, challenges.records(tx, order_id=over.id))
        challenges.remember(tx, under_way, "corp", [value("taken over")])
        assert challenges.spend_again(tx, late) == 1
        assert states(tx, under_way) == {"taken over": RecordState.REMEMBERED}
        [again] = challenges.records(tx, order_id=over.id)
        assert replace(again, id=late[0].id) == replace(late[0], state=RecordState.SPENT)
    clock.advance(1)
    with store.write() as tx:
        assert challenges.spend_again(tx, late) == 1
        [again] = challenges.records(tx, order_id=over.id)
        assert (again.value, again.since) == ("late", clock.now())
        assert challenges.spend_again(tx, []) == 0


def test_a_value_that_was_spent_again_while_it_was_withdrawn_is_not_forgotten(
    store: Store, clock: FakeClock
) -> None:
    with store.write() as tx:
        order = an_order(tx, a_pair(tx))
        challenges.remember(tx, order, "corp", [value("a"), value("b")])
        challenges.spend(tx, order.id)
        withdrawn = challenges.records(tx, order_id=order.id)
    clock.advance(1)
    with store.write() as tx:
        assert challenges.spend_again(tx, [one for one in withdrawn if one.value == "a"]) == 1
        challenges.forget(tx, withdrawn)
        assert states(tx, order) == {"a": RecordState.SPENT}
        challenges.forget(tx, [])
        assert states(tx, order) == {"a": RecordState.SPENT}


def test_nothing_goes_out_any_more_for_orders_that_need_no_values(store: Store) -> None:
    """DNS refused them, and is tried again the next day; until then they may be given up, or authorized without."""
    with store.write() as tx:
        pair = a_pair(tx)
        both = [an_order(tx, pair, ca) for ca in (PRIMARY, BACKUP)]
        for order in both:
            challenges.remember(tx, order, "zone", [value(order.ca)])
        validation.schedule_publication(tx, pair.id)
        [row] = work.of_pairs(tx, [pair.id], [WorkKind.PUBLICATION])
        work.put_back(tx, row, due_at=tx.now + timedelta(days=1), reason="refused", failed=True)

        validation.spend(tx, both[0])
        assert work.of_pairs(tx, [pair.id], [WorkKind.PUBLICATION]) != [], "the other order's are to go out"
        validation.spend(tx, both[1])

        assert [one.kind for one in work.of_pairs(tx, [pair.id])] == [WorkKind.WITHDRAWAL]
