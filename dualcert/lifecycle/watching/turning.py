"""Promotions that nobody ordered: because of a signal, as far as the rules and the brake allow it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dualcert.errors import Refused
from dualcert.lifecycle import incidents, promotion, renewal
from dualcert.lifecycle.looking import look_again
from dualcert.lifecycle.watching.suspicion import ACTOR
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.incident import Incident
from dualcert.model.signal import Turning
from dualcert.model.wording import typed
from dualcert.model.work import Done, Later, Outcome, WorkKind, WorkRow
from dualcert.policy import backoff, brake
from dualcert.policy.backoff import Failure
from dualcert.policy.brake import Hold, Numbers
from dualcert.store import Transaction, events, pairs, signals, work

log = logging.getLogger(__name__)

DEADLINE = timedelta(hours=24)
"""What the Baseline Requirements leave for the worst (4.9.1.1): an incident that is opened here has so long."""


@dataclass(frozen=True)
class Decided:
    """What becomes of pairs whose serving certificate has a signal against it.

    ``turning``: pairs that are moved to their backup now. ``asked``: those that wait for a person, because the
    configuration says so. ``held``: how many the brake holds, in which ``incident``, why, and how one goes on.
    ``postponed``: nothing was decided, for another process is opening that incident, or planning it.
    """

    turning: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()
    held: int = 0
    why: str | None = None
    incident: int | None = None
    command: str | None = None
    postponed: bool = False

    def __add__(self, after: Decided) -> Decided:
        """What was decided first, and what after it; of an incident that was planned twice the last plan's command."""
        last = after if after.held else self
        return Decided(
            turning=self.turning + after.turning,
            asked=tuple(dict.fromkeys(self.asked + after.asked)),
            held=self.held + after.held,
            why=last.why,
            incident=last.incident,
            command=last.command,
            postponed=self.postponed or after.postponed,
        )


def decide(world: World, turnings: Sequence[Turning], *, early: bool = False) -> Decided:
    """Decide for all that were found together, before the first of them turns; no other process decides meanwhile.

    ``early``: because of mere warnings. What the brake holds of these waits for a person in any case, and so has an
    incident of its own.
    """
    if not turnings:
        return Decided()
    rules = world.watch
    with world.store.write() as tx:
        tx.alone("brake")
        wanted = signals.undecided(tx, turnings, early=early)
        if not wanted or rules.promote == "never":
            return Decided()
        if rules.promote == "ask":
            return _ask(tx, wanted)
        made, there_are, held_at = signals.numbers(tx, brake.WITHIN)
        decision = brake.decide(Numbers(made, len(wanted), there_are, held_at), tx.now)
        if isinstance(decision, Hold):
            if held_at is None or held_at <= tx.now - brake.WITHIN:
                signals.hold(tx)
            standing = signals.brake_incident(tx, early=early)
            if standing is not None and signals.being_opened(tx, standing[0]):
                why = f"{decision.reason}; another process is opening the incident"
                return Decided(held=len(wanted), why=why, incident=standing[0], postponed=True)
            if standing is not None:
                signals.remember_incident(tx, standing[0], early=early)  # its plan is void from here on
        else:
            for one in wanted:
                signals.promoting(tx, one)
                work.schedule(tx, WorkKind.SIGNAL, one.pair_id, tx.now)
            return Decided(turning=tuple(one.pair_id for one in wanted))
    return _held(world, wanted, decision, standing[0] if standing is not None else None, early=early)


def _ask(tx: Transaction, wanted: Sequence[Turning]) -> Decided:
    fresh = signals.not_asked(tx, wanted)
    names = pairs.names_of(tx, {one.pair_id for one in fresh})
    for one in fresh:
        name, number = names[one.pair_id], one.certificate_id
        cause = f'what serves is not to be trusted; as promote = "ask": dualcert failover {typed(name)}'
        events.record(
            tx, EventKind.PROMOTION_WANTED, cause, pair=one.pair_id, certificate=number, actor=ACTOR
        )
        log.warning("%s: %s", name, cause)
    return Decided(asked=tuple(one.pair_id for one in wanted))


# --- the brake -------------------------------------------------------------------------------------------


def _held(
    world: World, wanted: Sequence[Turning], decision: Hold, number: int | None, *, early: bool
) -> Decided:
    """Nothing turns: what is wanted becomes an incident with its plan, for a person to look at."""

    def begun(tx: Transaction, fresh: int) -> None:
        signals.remember_incident(tx, fresh, early=early)

    affected = [one.certificate_id for one in wanted]
    opened = _add(world, number, affected) if number is not None else None
    if opened is None:
        opened = incidents.open_incident(
            world,
            "Warnings seen by watching" if early else "Revocations seen by watching",
            f"the brake: {decision.reason}",
            world.clock.now() + DEADLINE,
            certificates=affected,
            begun=begun,
        )
    try:
        planned = incidents.plan(world, opened.id)
    except Refused as refused:
        # It has no plan that the brake knows of, so that these are found wanting one again.
        why = f"{decision.reason}; {refused.reason}"
        return Decided(held=len(wanted), why=why, incident=opened.id, postponed=True)
    command = f"dualcert incident run {opened.id} --plan {planned.hash}"
    notice = f"{decision.reason}. Nothing more turns by itself; incident {opened.id} has its plan: {command}"
    with world.store.write() as tx:
        signals.remember_incident(tx, opened.id, planned.number, early=early)
        events.record(tx, EventKind.BRAKED, notice, actor=ACTOR)
    log.error("%s", notice)
    return Decided(held=len(wanted), why=decision.reason, incident=opened.id, command=command)


def _add(world: World, number: int, affected: Sequence[int]) -> Incident | None:
    """To the incident that stands; None where it was closed meanwhile."""
    try:
        return incidents.add_to_incident(world, number, affected)
    except Refused:
        return None


# --- one pair --------------------------------------------------------------------------------------------


def advance(world: World, row: WorkRow) -> Outcome:
    """Move a pair off the certificate that a signal is against."""
    began = world.clock.now()
    with world.store.read() as tx:
        pair = pairs.by_id(tx, row.pair_id)
        accused = signals.accusation(tx, row.pair_id, early=world.watch.early)
    if pair is None or accused is None:
        return _over(world, row)
    serving, said = accused
    try:
        promotion.leave(world, pair, serving, f"what served is not to be trusted: {said}", ACTOR)
    except Refused as error:
        with world.store.write() as tx:
            pairs.lock(tx, [row.pair_id])
            work.hold(tx, row)
            # Without a backup to turn to there is only the way of a new certificate, for either side that needs one.
            renewal.consider(tx, [row.pair_id])
        failure = Failure(began, row.attempts, row.since, world.draw())
        at = backoff.after_failure(world.clock.now(), failure, passing=False, most=backoff.AT_A_TARGET)
        return Later(at, str(error), failed=True)
    return look_again(world, row, "the pair has changed")


def _over(world: World, row: WorkRow) -> Outcome:
    with world.store.write() as tx:
        work.hold(tx, row)
        stands = pairs.by_id(tx, row.pair_id) is not None
        if stands and signals.accusation(tx, row.pair_id, early=world.watch.early) is not None:
            return Later(tx.now, "there is another word against what serves by now")
        work.finish(tx, row)
    return Done()


def outcomes(world: World, ids: Collection[int]) -> list[dict[str, Any]]:
    """What has become of pairs that were to turn."""
    with world.store.read() as tx:
        names = pairs.names_of(tx, ids)
        rows = {number: work.get(tx, WorkKind.SIGNAL, number) for number in sorted(ids)}
    return [
        {
            "pair": names.get(number),
            "promoted": row is None,
            "problem": row.reason if row is not None else None,
        }
        for number, row in rows.items()
    ]
