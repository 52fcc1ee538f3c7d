"""A CA in memory that takes orders, and things that happen while it is asked: for driving orders without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from dualcert.clock import Clock
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.world import DnsBinding, Lazy, World
from dualcert.model.order import Order, OrderStep
from dualcert.model.pair import Pair
from dualcert.model.work import WorkKind, WorkRow
from dualcert.ports.ca import Account, CaFacts, CertificateAuthority, OrderSnapshot, Reconsider
from dualcert.store import Store, orders, tables, work
from tests.store.building import PRIMARY, a_pair
from tests.store.worlds import Setting, a_world

_FINALIZE = "/finalize"


@dataclass
class OrderTaker:
    """A CA that finds every order ``status`` at once, and never issues.

    ``meanwhile``: by the name of a call, what happens while it is made, one each time; it may raise.
    """

    status: str = "ready"
    meanwhile: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    replaced: list[str | None] = field(default_factory=list)

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if coming := self.meanwhile.get(what):
            coming.pop(0)()

    def use(self, account: Account, reconsider: Reconsider | None = None) -> None:
        raise AssertionError("who speaks for the account is known here")

    def facts(self) -> CaFacts:
        self._called("facts")
        raise AssertionError("nobody asks for these here")

    def new_order(self, names: Sequence[str], *, replaces: str | None = None) -> OrderSnapshot:
        self.replaced.append(replaces)
        self._called("new_order")
        return _snapshot(f"https://{PRIMARY}/order/{len(self.calls)}", names, self.status)

    def order(self, url: str) -> OrderSnapshot:
        self._called("order")
        return _snapshot(url, (), "ready")

    def finalize(self, url: str, order: str, csr: bytes) -> OrderSnapshot:
        self._called("finalize")
        return replace(_snapshot(order, (), "processing"), retry_after=timedelta(minutes=1))

    def revoke(self, certificate: bytes, reason: int, *, key: bytes | None = None) -> None:
        self._called("revoke")


def _snapshot(url: str, names: Sequence[str], status: str) -> OrderSnapshot:
    return OrderSnapshot(
        url=url,
        status=status,
        identifiers=tuple(names),
        authorizations=(),
        finalize=url + _FINALIZE,
        certificate=None,
        error=None,
        expires=None,
    )


def ordering_world(store: Store, clock: Clock, taker: OrderTaker) -> World:
    """Whoever speaks to a CA speaks to ``taker``, and has an account there."""

    def meet(ca: str) -> CertificateAuthority:
        return taker  # type: ignore[return-value]

    world = a_world(store, clock, Setting(meet=meet))
    for ca in world.cas.values():
        ca.account(lambda: None)
    return replace(world, dns={"zone": DnsBinding("zone", Lazy(_nobody), Lazy(_nobody))})


def _nobody() -> Any:
    raise AssertionError("no order here has a value to publish")


def to_order(world: World, *names: str) -> Pair:
    """A pair whose order at alpha is due."""
    with world.store.write() as tx:
        pair = a_pair(tx, *names)
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
    return pair


def step(engine: Engine, row: WorkRow | None = None, kind: WorkKind = WorkKind.ORDER) -> WorkRow | None:
    """One step of a row, or of the next that is due; what is held afterwards."""
    if row is None:
        [[row]] = engine.claim([kind], 1)
    [outcome] = engine.advance([row])
    held = engine.settle(row, outcome)
    return None if held is None else held.row


def all_orders(world: World) -> list[tuple[OrderStep, bytes]]:
    """The step and the key of every order that ever was, oldest first."""
    with world.store.read() as tx:
        found = tx.execute(tables.acme_order.select().order_by(tables.acme_order.c.id))
        return [(OrderStep(one.step), bytes(one.spki)) for one in found]


def open_order(world: World, pair: Pair) -> Order:
    with world.store.read() as tx:
        found = orders.open_order(tx, pair.id, PRIMARY)
    assert found is not None
    return found
