"""What an order says of the certificate that it replaces (RFC 9773 section 5)."""

from __future__ import annotations

import logging
from dataclasses import replace

from dualcert.errors import CaError
from dualcert.lifecycle.permits import BudgetSpent
from dualcert.lifecycle.world import Placing, World
from dualcert.model.order import Order
from dualcert.model.work import WorkRow
from dualcert.policy.replacing import order_without
from dualcert.ports.ca import CertificateAuthority, OrderSnapshot
from dualcert.store import Transaction, renewal_info, work

log = logging.getLogger(__name__)


def name_predecessor(tx: Transaction, order: Order) -> str | None:
    """Write down which certificate the order replaces: the one that its lineage has, where CA and account are the same
    and a name is in common. Every attempt names it anew; one that died has replaced nothing."""
    found = renewal_info.replaceable(tx, order.lineage_id)
    if found is None or found[1].isdisjoint(order.names):
        return None
    renewal_info.set_replaces(tx, order.id, found[0])
    return found[0]


def place(world: World, row: WorkRow, client: CertificateAuthority, known: Placing) -> OrderSnapshot:
    """newOrder; where the CA does not like the predecessor, the order is placed without it at once."""
    if known.replaces is None:
        return _sent(world, client, known)
    order = known.order
    try:
        return _sent(world, client, known)
    except CaError as error:
        if not order_without(error):
            raise
        log.info("the order is placed without its predecessor: %s", error.reason, extra={"ca": order.ca})
    with world.store.write() as tx:
        work.hold(tx, row)
        renewal_info.set_replaces(tx, order.id, None)
    return _sent(world, client, replace(known, replaces=None))


def _sent(world: World, client: CertificateAuthority, known: Placing) -> OrderSnapshot:
    order = known.order
    try:
        return client.new_order(order.names, replaces=known.replaces)
    except (BudgetSpent, CaError) as error:
        if not error.sent:
            # Its key and its permits are for the next try, or given back with it.
            world.placing[order.pair_id, order.ca] = known
        raise
