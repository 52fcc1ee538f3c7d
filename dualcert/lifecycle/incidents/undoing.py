"""After a false alarm: back to what served before, wherever that may serve."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from dualcert.errors import Refused
from dualcert.lifecycle import proving
from dualcert.lifecycle.driver import run_until
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.incidents import opening
from dualcert.lifecycle.incidents.planning import existing
from dualcert.lifecycle.runner import Scope
from dualcert.lifecycle.world import World
from dualcert.model.incident import RowState
from dualcert.model.work import WorkKind
from dualcert.store import incident_progress, incident_report, incident_undo, incidents
from dualcert.store.incident_runs import Range

_BATCH = 2_500
_TOGETHER = 1000
_PATIENCE = timedelta(minutes=2)
_STEPS = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION)


class Undone(NamedTuple):
    """How many pairs went back now, how many stayed, and how many that went back were not seen at their targets."""

    turned: int
    stayed: int
    unseen: int


def undo(world: World, incident_id: int) -> Undone:
    """Turn back what a closed incident has promoted, and deploy it.

    Raises ``Refused`` while it is open: as long as it names a certificate, none of its pairs may go back to it.
    """
    with world.store.read() as tx:
        found = existing(tx, incident_id)
        plans = incident_report.plans_carried_out(tx, incident_id)
        half_closed = any(one.id == incident_id for one in incidents.half_closed(tx))
    if found.closed_at is None:
        raise Refused(
            f"incident {incident_id} is open: what it names must not serve again",
            remedy=f"If it was a false alarm: dualcert incident close {incident_id}",
        )
    if half_closed:
        opening.finish(world, found)
    cause = f"undo of incident {incident_id}: {found.title}"
    turn = proving.Turn(world)
    parts = [_undo_plan(turn, incident_id, plan, cause) for plan in plans]
    turn.tell()
    return Undone(*map(sum, zip(Undone(0, 0, 0), *parts, strict=True)))


def _undo_plan(turn: proving.Turn, incident_id: int, plan: int, cause: str) -> Undone:
    world = turn.world
    after, turned, stayed = 0, 0, 0
    while True:
        with world.store.read() as tx:
            up_to = incident_undo.up_to(tx, incident_id, plan, after, _BATCH)
            if up_to is None:
                break
            batch = Range(incident_id, plan, after, up_to)
            # What served was opened by no walk; and as a promotion does, this goes by when a key was opened last.
            found = incident_undo.unproved(tx, batch, tx.now - proving.WALKED)
        turn.prove_all(found)
        with world.store.write() as tx:
            went, left = incident_undo.turn_back(tx, batch)
            incident_undo.follow_up(tx, batch, cause)
        turned, stayed, after = turned + went, stayed + left, up_to
    _deploy(world, incident_id, plan)
    with world.store.read() as tx:
        return Undone(turned, stayed, incident_undo.unseen(tx, incident_id, plan))


def _deploy(world: World, incident_id: int, plan: int) -> None:
    engine, after = Engine(world), 0
    while True:
        with world.store.read() as tx:
            ids = incident_undo.undeployed(tx, incident_id, plan, after, _TOGETHER)
        if not ids:
            return
        with world.store.write() as tx:
            incident_progress.hurry(tx, Range(incident_id, plan, after, ids[-1]), RowState.UNDONE)
        run_until(engine, Scope(frozenset(ids), _STEPS), world.clock.now() + _PATIENCE)
        after = ids[-1]
