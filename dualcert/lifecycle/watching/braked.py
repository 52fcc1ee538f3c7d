"""What becomes of what the brake held: it is carried out wave by wave, where the configuration wants no person for
that, and told until nothing of it serves."""

from __future__ import annotations

import logging
from datetime import timedelta

from dualcert.errors import Refused
from dualcert.lifecycle import incidents
from dualcert.lifecycle.incidents import running
from dualcert.lifecycle.incidents.planning import Plan
from dualcert.lifecycle.watching.turning import Decided
from dualcert.lifecycle.world import World
from dualcert.model.incident import Run
from dualcert.store import incident_runs, incident_serving, signals, watch_answers
from dualcert.store import incidents as incident_store

log = logging.getLogger(__name__)

_REST = timedelta(minutes=10)
"""So often it is looked whether what a run has left may turn by now: all that the incident names is gone through."""


def run_in_waves(world: World) -> None:
    """Where `[watch] brake_then` says so, carry out the plan that was made when the brake took hold, or go on with it.

    A plan that somebody made anew is theirs. What has stopped waits for a person, too, also when more was found since
    and it was planned anew: pairs that the targets did not serve are in no row of the new plan, and would not be
    counted. Until it is through the rest is that person's, at their pace. What a run that came through has left, for
    want of a backup, is planned and run once more when its backup has come. Mere warnings have an incident of their
    own, which is none of this.
    """
    if world.watch.brake_then != "waves":
        return
    with world.store.read() as tx:
        standing = signals.brake_incident(tx)
        found = incident_store.get(tx, standing[0]) if standing is not None else None
        if standing is None or found is None or found.closed_at is not None:
            return
        planned = incidents.newest_plan(tx, found)
        before = incident_runs.get(tx, found.id)
        a_persons = incident_runs.is_a_persons(tx, found.id)
    if planned is None or planned.number != standing[1]:
        return
    if a_persons or (before is not None and before.stopped is not None):
        return
    if _through(before, planned.number):
        again = _planned_again(world, found.id)
        if again is None:
            return
        planned = again
    ended = running.run(world, found.id, planned.hash, running.Terms())
    if ended.stopped is not None:
        log.error("incident %d has stopped: %s", found.id, ended.stopped)
    elif left := _left(world, found.id):
        log.error(
            "incident %d is carried out, and %d pairs serve what it names: dualcert incident status %d",
            found.id,
            left,
            found.id,
        )


def _through(run: Run | None, plan: int) -> bool:
    return run is not None and run.plan == plan and run.ended_at is not None


def _planned_again(world: World, number: int) -> Plan | None:
    """A new plan for what is left; None where nothing of it may turn, or a person is at it."""
    with world.store.write() as tx:
        if not signals.rest_is_due(tx, _REST):
            return None
    with world.store.read() as tx:
        if not incident_serving.may_turn(tx, number):
            return None
    try:
        planned = incidents.plan(world, number)
    except Refused as error:
        log.warning("incident %d is not planned anew: %s", number, error.reason)
        return None
    with world.store.write() as tx:
        signals.remember_incident(tx, number, planned.number)
    return planned


def _left(world: World, number: int) -> int:
    with world.store.read() as tx:
        return incident_serving.pairs(tx, number)


def waiting(world: World) -> Decided:
    """What the brake held before, as far as it serves still: how many pairs, and how one goes on."""
    with world.store.read() as tx:
        standing = signals.brake_incident(tx)
        found = incident_store.get(tx, standing[0]) if standing is not None else None
        if found is None or found.closed_at is not None:
            return Decided()
        left = incident_serving.pairs(tx, found.id)
        planned, run = incidents.newest_plan(tx, found), incident_runs.get(tx, found.id)
    if not left:
        return Decided()
    command = f"dualcert incident plan {found.id}"
    if planned is not None:
        command = f"dualcert incident run {found.id} --plan {planned.hash}"
        if _through(run, planned.number):
            command = f"dualcert incident status {found.id}"
    why = f"they serve what incident {found.id} names"
    return Decided(held=left, why=why, incident=found.id, command=command)


def mind_what_is_closed(world: World) -> None:
    """What a closed incident of the brake had named is nobody's any more: the lists that told it are read anew, and
    what serves still is decided again."""
    with world.store.read() as tx:
        standing = signals.brake_incident(tx)
        found = incident_store.get(tx, standing[0]) if standing is not None else None
    if found is None or found.closed_at is None:
        return
    with world.store.write() as tx:
        tx.alone("brake")
        if signals.brake_incident(tx) == standing:
            signals.remember_incident(tx, 0)
            watch_answers.read_anew(tx)
