"""What the brake held is carried out wave by wave, where the configuration wants no person for that."""

from __future__ import annotations

import logging

from dualcert.lifecycle import incidents
from dualcert.lifecycle.incidents import running
from dualcert.lifecycle.world import World
from dualcert.model.incident import Run
from dualcert.store import incident_runs, signals
from dualcert.store import incidents as incident_store

log = logging.getLogger(__name__)


def run_in_waves(world: World) -> None:
    """Where `[watch] brake_then` says so, carry out the plan that was made when the brake took hold, or go on with it.

    A plan that somebody made anew is theirs. What has stopped waits for a person, too, also when more was found since
    and it was planned anew: pairs that the targets did not serve are in no row of the new plan, and would not be
    counted. Until it is through the rest is that person's, at their pace. Mere warnings have an incident of their own,
    which is none of this.
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
    if a_persons or (before is not None and (before.stopped is not None or _through(before, planned.number))):
        return
    ended = running.run(world, found.id, planned.hash, running.Terms())
    if ended.stopped is not None:
        log.error("incident %d has stopped: %s", found.id, ended.stopped)


def _through(run: Run, plan: int) -> bool:
    return run.plan == plan and run.ended_at is not None
