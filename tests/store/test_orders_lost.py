"""Orders that a CA loses, or never brings to their end; and one that needs no values of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from dualcert.errors import ResourceGone
from dualcert.lifecycle import validation
from dualcert.model.order import OrderStep
from dualcert.model.work import Later, WorkKind
from dualcert.ports.ca import IssuedCertificate, OrderSnapshot
from dualcert.store import Store, challenges, orders, work
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, an_order
from tests.store.ordering import OrderTaker, all_orders, ordering_world, to_order
from tests.store.renewing import step
from tests.store.test_orders import value

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def gone() -> None:
    raise ResourceGone("no such order", problem="malformed", ca=PRIMARY)


def test_a_ca_that_loses_each_order_at_once_is_given_some_at_once_and_then_left_alone(
    store: Store, clock: FakeClock
) -> None:
    world = ordering_world(store, clock, OrderTaker(meanwhile={"finalize": [gone] * 5}))
    to_order(world)

    tried = [step(world, WorkKind.ORDER) for _ in range(4)]

    waits = [one.at - clock.now() for [one] in tried if isinstance(one, Later)]
    assert waits[:3] == [timedelta()] * 3
    assert len(waits) == 4
    assert waits[3] >= 5 * MINUTE
    assert [at for at, _ in all_orders(world)] == [OrderStep.ABANDONED] * 4
    assert len({key for _, key in all_orders(world)}) == 4


@dataclass
class _Forgetful(OrderTaker):
    """It says of each order that its certificate is there, and has none."""

    def order(self, url: str) -> OrderSnapshot:
        return replace(super().order(url), status="valid", certificate=f"{url}/certificate")

    def certificate(self, url: str) -> IssuedCertificate:
        self._called("certificate")
        raise ResourceGone("no such certificate", problem="malformed", ca=PRIMARY)


def test_an_order_whose_certificate_never_comes_is_given_up_in_the_end(
    store: Store, clock: FakeClock
) -> None:
    taker = _Forgetful()
    world = ordering_world(store, clock, taker)
    to_order(world)
    step(world, WorkKind.ORDER)
    clock.advance(MINUTE)

    [looking] = step(world, WorkKind.ORDER)

    assert isinstance(looking, Later)
    assert not looking.failed
    assert [at for at, _ in all_orders(world)] == [OrderStep.FINALIZING]
    clock.advance(2 * DAY)
    [over] = step(world, WorkKind.ORDER)
    assert isinstance(over, Later)
    assert over.failed
    assert taker.calls == ["new_order", "finalize", "order", "certificate", "order", "certificate"]
    assert [at for at, _ in all_orders(world)] == [OrderStep.ABANDONED]


def test_values_wait_no_longer_for_an_order_that_turns_out_to_need_none(
    store: Store, clock: FakeClock
) -> None:
    def tell() -> None:
        """The other order's values become known while this one is placed."""
        with store.write() as tx:
            challenges.remember(tx, order, "zone", [value("a value")])
            validation.schedule_publication(tx, pair.id)

    world = ordering_world(store, clock, OrderTaker(meanwhile={"new_order": [tell]}))
    with store.write() as tx:
        pair = a_pair(tx)
        order = an_order(tx, pair, BACKUP)
        orders.placed(tx, order.id, "https://beta/order/1", "https://beta/finalize/1", ())
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)

    step(world, WorkKind.ORDER)

    with store.read() as tx:
        publishing = work.get(tx, WorkKind.PUBLICATION, pair.id)
    assert publishing is not None
    assert publishing.due_at == clock.now()
