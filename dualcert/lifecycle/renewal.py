"""What is due for a new certificate, and the orders that this opens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.order import OF_A_REFILL, OF_WHAT_WAS_GIVEN_UP
from dualcert.model.pair import Lineage, Pair
from dualcert.model.work import DAY, FROZEN, HELD, NO_PAIR, PERSON, Done, Later, Outcome, WorkKind, WorkRow
from dualcert.policy import due, renewing
from dualcert.policy.renewing import Leave, LineageFacts, Opening, PrimaryFacts
from dualcert.store import (
    Transaction,
    events,
    incident_progress,
    orders,
    pairs,
    promotion,
    renewal_info,
    renewals,
    work,
)
from dualcert.store.renewals import HeldCertificate, Renewable

_KEEPS_FAILING = 2
_LONGEST_REASON = 200
_HELD_LOOK = timedelta(hours=1)
"""When a refill that is held is looked at again, should nobody let it go before."""


def open_orders(tx: Transaction, pair: Pair, lineages: Collection[Lineage], cause: str) -> list[Lineage]:
    """Open one issuance for those of the lineages whose order is not under way; returns them."""
    fresh = [one for one in lineages if work.get(tx, WorkKind.ORDER, pair.id, ca=one.ca) is None]
    if fresh:
        _open(tx, pair.id, [Opening(one.ca, cause) for one in fresh])
    # Also where all are under way: after a promotion, it is another certificate that may have to be left in time.
    reckon(tx, pair.id)
    return fresh


def _open(tx: Transaction, pair_id: int, openings: Sequence[Opening]) -> None:
    orders.open_issuance(tx, pair_id, "; ".join(dict.fromkeys(one.reason for one in openings)))
    for one in openings:
        work.schedule(tx, WorkKind.ORDER, pair_id, tx.now, ca=one.ca)
        events.record(tx, EventKind.ORDER_DUE, one.reason, pair=pair_id, ca=one.ca)


# --- what a pair's lineages want -------------------------------------------------------------------------


def due_lineages(tx: Transaction, pair: Pair) -> list[Lineage]:
    """The lineages to be ordered now: past their time, without a certificate that may be used, told to refill, or due
    so soon that they join the other."""
    # Whoever asks by name asks for what is held, too, and for another backup where this one is known not to serve.
    facts = [replace(_facts(one, tx.now), held=False) for one in renewals.of_pairs(tx, [pair.id])[pair.id]]
    state = pairs.state(tx, pair.id)
    if state.standby is not None and promotion.given_up(tx, pair.id):
        why = OF_WHAT_WAS_GIVEN_UP
        of_backup = next(one.ca for one in pairs.lineages(tx, [pair.id]) if one.id == state.backup_lineage)
        facts = [replace(one, urgent=one.urgent or why) if one.ca == of_backup else one for one in facts]
    wanted = {opening.ca for opening in renewing.renewal(facts, tx.now).openings}
    return [one for one in pairs.lineages(tx, [pair.id]) if one.ca in wanted]


def consider(tx: Transaction, ids: Collection[int]) -> None:
    """Open what is due of some pairs now, and set their clocks to what comes next: after this none of them is due."""
    for pair_id, lineages in renewals.of_pairs(tx, ids).items():
        decision = renewing.renewal([_facts(one, tx.now) for one in lineages], tx.now)
        if decision.openings:
            _open(tx, pair_id, decision.openings)
        _set_clock(tx, pair_id, lineages, decision.again)


def reckon(tx: Transaction, pair_id: int) -> None:
    """Set the pair's renewal clock: to the earliest lineage whose order is not under way already, or to when a primary
    that cannot be renewed is to be left. Orders that are under way get their place by what the pair has now."""
    work.reorder(tx, pair_id)
    lineages = renewals.of_pairs(tx, [pair_id])[pair_id]
    _set_clock(tx, pair_id, lineages, renewing.next_renewal(_facts(one, tx.now) for one in lineages))


def _set_clock(
    tx: Transaction, pair_id: int, lineages: Sequence[Renewable], renewal_at: datetime | None
) -> None:
    decision = renewing.leaving(primary_facts(lineages), tx.now)
    if isinstance(decision, Leave):
        work.schedule(tx, WorkKind.PROMOTION, pair_id, tx.now)
    times = [at for at in (renewal_at, decision.again) if at is not None]
    pairs.set_next_action(tx, pair_id, min(times, default=None))


def _facts(one: Renewable, now: datetime) -> LineageFacts:
    held, renew_at = one.held, one.renew_at
    # What serves must not end for the sake of an incident.
    waits = one.refill_held and not one.primary
    if waits and renew_at is not None:
        renew_at = max(renew_at, now + _HELD_LOOK)
    return LineageFacts(
        ca=one.ca,
        urgent=_urgent(one, now),
        ordering=one.order is not None,
        held=waits,
        life=held.life.length if held is not None else None,
        renew_at=renew_at,
        reason=_reason(held) if held is not None else "",
    )


def _urgent(one: Renewable, now: datetime) -> str | None:
    held = one.held
    if held is None:
        return "there is no certificate"
    if held.revoked or held.blocked:
        return "its certificate is revoked" if held.revoked else "its key is blocked"
    if held.life.not_after <= now:
        return "its certificate has expired"
    if not held.covers:
        return "its certificate does not cover the pair's names"
    return OF_WHAT_WAS_GIVEN_UP if one.refill else None


def _reason(held: HeldCertificate) -> str:
    if held.life_at is None:
        return "its time has come"
    return due.renewal(held.life, held.life_at, held.suggested).reason


def primary_facts(lineages: Sequence[Renewable]) -> PrimaryFacts:
    """What decides whether the primary is to be left."""
    primary = next((one for one in lineages if one.primary), None)
    backup = next((one for one in lineages if not one.primary), None)
    serving = primary.held if primary is not None else None
    return PrimaryFacts(
        ca=primary.ca if primary is not None else "",
        serving_from=serving.life.not_before if serving is not None else None,
        serving_until=serving.life.not_after if serving is not None else None,
        standby_until=backup.held.life.not_after if backup is not None and backup.held is not None else None,
        trouble=_trouble(primary) if primary is not None else None,
    )


def _trouble(primary: Renewable) -> str | None:
    """Why the primary's next certificate does not come, in one line; one failure alone is no trouble yet."""
    if primary.order is None:
        return None
    for step in (primary.order, primary.publication):
        if step is None:
            continue
        for_long = step.due_at is None or step.waiting_for in {PERSON, DAY, FROZEN}
        if for_long or step.attempts >= _KEEPS_FAILING:
            return (step.reason or f"it failed {step.attempts} times").splitlines()[0][:_LONGEST_REASON]
    return None


# --- what is due -----------------------------------------------------------------------------------------


def open_due(world: World, limit: int = 200) -> int:
    """Open the orders of pairs whose renewal clock has run out, and see to it that CAs are asked what is to be asked
    about renewals; how many pairs and CAs those were. Called until it is 0, it has opened everything.

    Where nothing is due it only looks, by index, and keeps no writer waiting.
    """
    with world.store.read() as tx:
        if not renewals.any_due(tx) and not _to_ask(world, tx):
            return 0
    with world.store.write() as tx:
        cas = _to_ask(world, tx)
        for ca in cas:
            work.schedule(tx, WorkKind.RENEWAL_INFORMATION, NO_PAIR, tx.now, ca=ca)
        ids = renewals.due(tx, limit)
        consider(tx, ids)
    return len(ids) + len(cas)


def _to_ask(world: World, tx: Transaction) -> list[str]:
    """The CAs to be asked about renewals that nobody is to ask yet; a row that stands backs off, or is at it."""
    return [
        ca
        for ca in renewal_info.cas_due(tx, world.cas)
        if work.get(tx, WorkKind.RENEWAL_INFORMATION, NO_PAIR, ca=ca) is None
    ]


def refill_soon(tx: Transaction, pair_id: int, ca: str, cause: str) -> None:
    """A lineage's certificate is not to be used any more: another one is due, unless it is already."""
    under_way = work.of_pairs(tx, [pair_id], [WorkKind.REFILL, WorkKind.ORDER])
    if not any(row.ca == ca for row in under_way):
        work.schedule(tx, WorkKind.REFILL, pair_id, tx.now, ca=ca)
        events.record(tx, EventKind.REFILL_SCHEDULED, cause, pair=pair_id, ca=ca)


def refill(world: World, row: WorkRow) -> Outcome:
    """A lineage that was emptied, or lost its trust, gets a new certificate under a new key."""
    with world.store.write() as tx:
        work.hold(tx, row)
        number = incident_progress.refills_held_for(tx, row.ca)
        if number is not None:
            return Later(tx.now + _HELD_LOOK, incident_progress.held_for(number), waiting_for=HELD)
        pair = pairs.by_id(tx, row.pair_id)
        lineage = pairs.lineage_at(tx, row.pair_id, row.ca)
        if pair is not None and lineage is not None:
            open_orders(tx, pair, [lineage], OF_A_REFILL)
        work.finish(tx, row)
    return Done()


def outstanding(world: World, limit: int = 1000) -> list[dict[str, Any]]:
    """Steps that are not finished, those that are due or failed first; at most ``limit``.

    That a CA cannot be asked about renewals is not among them: no renewal waits for that.
    """
    with world.store.read() as tx:
        rows = [one for one in work.unfinished(tx, limit) if one.kind is not WorkKind.RENEWAL_INFORMATION]
        ids = {row.pair_id for row in rows}
        names, removed = pairs.names_of(tx, ids), pairs.removed(tx, ids)
    return [
        {"pair": None, "removed": row.pair_id in removed, **_told(row, names.get(row.pair_id))}
        for row in rows
    ]


def not_asked(world: World) -> list[dict[str, Any]]:
    """The CAs that give no usable answer about renewals at the moment."""
    with world.store.read() as tx:
        rows = [
            row
            for row in work.of_pairs(tx, [NO_PAIR], [WorkKind.RENEWAL_INFORMATION])
            if row.attempts or row.owner is None
        ]
    return [_told(row, None) for row in rows]


def _told(row: WorkRow, pair: str | None) -> dict[str, Any]:
    return {
        "pair": pair,
        "step": row.kind.value,
        "ca": row.ca or None,
        "target": row.target or None,
        "due_at": row.due_at,
        "tries": row.attempts,
        "reason": row.reason,
        "waiting_for": row.waiting_for,
    }
