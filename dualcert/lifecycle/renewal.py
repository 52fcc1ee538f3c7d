"""What is due for a new certificate, and the orders that this opens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.pair import Lineage, Pair
from dualcert.model.work import Done, Outcome, WorkKind, WorkRow
from dualcert.store import Transaction, certificates, events, orders, pairs, work


def open_orders(tx: Transaction, pair: Pair, lineages: Collection[Lineage], cause: str) -> list[Lineage]:
    """Open one issuance for those of the lineages whose order is not under way; returns them."""
    fresh = [one for one in lineages if work.get(tx, WorkKind.ORDER, pair.id, ca=one.ca) is None]
    if not fresh:
        return []
    orders.open_issuance(tx, pair.id, cause)
    for one in fresh:
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=one.ca)
        events.record(tx, EventKind.ORDER_DUE, cause, pair=pair.id, ca=one.ca)
    reckon(tx, pair.id)
    return fresh


def reckon(tx: Transaction, pair_id: int) -> None:
    """Set the pair's renewal clock: the earliest lineage whose order is not under way already."""
    ordering = {row.ca for row in work.of_pairs(tx, [pair_id], [WorkKind.ORDER])}
    times = [one.renew_at for one in pairs.lineages(tx, [pair_id]) if one.renew_at and one.ca not in ordering]
    pairs.set_next_action(tx, pair_id, min(times, default=None))


def due_lineages(tx: Transaction, pair: Pair) -> list[Lineage]:
    """The lineages that want a certificate now: past their time, without one that may be used, or told to refill."""
    state = pairs.state(tx, pair.id)
    held = certificates.standings(tx, [one for one in (state.serving, state.standby) if one is not None])
    refills = {row.ca for row in work.of_pairs(tx, [pair.id], [WorkKind.REFILL])}
    found = []
    for lineage in pairs.lineages(tx, [pair.id]):
        number = state.certificate_of(lineage.id)
        standing = held.get(number) if number is not None else None
        if (
            standing is None
            or lineage.ca in refills
            or standing.bad(tx.now)
            or (lineage.renew_at is not None and lineage.renew_at <= tx.now)
            or not certificates.covers(tx, standing.certificate, pair.names_digest)
        ):
            found.append(lineage)
    return found


def open_due(world: World, limit: int = 1000) -> int:
    """Open the orders of pairs whose renewal clock has run out; how many pairs those were."""
    with world.store.write() as tx:
        ids = pairs.due(tx, limit)
        for pair in pairs.by_ids(tx, ids):
            if not open_orders(tx, pair, due_lineages(tx, pair), "renewal is due"):
                reckon(tx, pair.id)
        return len(ids)


def refill(world: World, row: WorkRow) -> Outcome:
    """A lineage that was emptied, or lost its trust, gets a new certificate under a new key."""
    with world.store.write() as tx:
        work.hold(tx, row)
        pair = pairs.by_id(tx, row.pair_id)
        lineage = pairs.lineage_at(tx, row.pair_id, row.ca)
        if pair is not None and lineage is not None:
            open_orders(
                tx, pair, [lineage], "a new certificate under a new key, after a promotion or revocation"
            )
        work.finish(tx, row)
    return Done()


def outstanding(world: World, limit: int = 1000) -> list[dict[str, Any]]:
    """Steps that are not finished, those that are due or failed first; at most ``limit``."""
    with world.store.read() as tx:
        rows = work.unfinished(tx, limit)
        names = pairs.names_of(tx, {row.pair_id for row in rows})
    return [
        {
            "pair": names.get(row.pair_id),
            "step": row.kind.value,
            "ca": row.ca or None,
            "target": row.target or None,
            "due_at": row.due_at,
            "tries": row.attempts,
            "reason": row.reason,
        }
        for row in rows
    ]
