"""What would be done: every affected pair with what is seen of it, and a hash over all of that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dualcert.errors import Refused, UsageProblem
from dualcert.lifecycle.incidents.abreast import abreast, both
from dualcert.lifecycle.incidents.pace import Pace
from dualcert.lifecycle.world import World
from dualcert.model.incident import Counts, Incident
from dualcert.store import Transaction, incident_plans, incidents


@dataclass(frozen=True)
class Plan:
    """The newest plan of an incident. ``hash`` is what ``run`` is to be given, as hex."""

    incident: Incident
    number: int
    hash: str
    counts: Counts


def existing(tx: Transaction, incident_id: int, *, lock: bool = False) -> Incident:
    """Raises ``UsageProblem`` where there is no such incident. ``lock``: nobody plans or closes it meanwhile."""
    found = incidents.get(tx, incident_id, lock=lock)
    if found is None:
        raise UsageProblem(f"there is no incident {incident_id}", remedy="See: dualcert incident list")
    return found


def not_closed(tx: Transaction, incident_id: int, *, lock: bool = False) -> Incident:
    """One that names its certificates still. Raises ``Refused`` where it is closed."""
    found = existing(tx, incident_id, lock=lock)
    if found.closed_at is not None:
        raise Refused(
            f"incident {incident_id} was closed on {found.closed_at:%Y-%m-%d at %H:%M} UTC by {found.closed_by}",
            remedy="Open another one with the same selector.",
        )
    return found


def opened(tx: Transaction, incident_id: int, *, lock: bool = False) -> Incident:
    """One that can be worked on. Raises ``Refused`` where it is closed, or was not opened to its end."""
    found = not_closed(tx, incident_id, lock=lock)
    if found.loading:
        raise Refused(
            f"incident {incident_id} is being opened, or its opening was interrupted",
            remedy=f"If nobody is at it: dualcert incident close {incident_id}, and open it again.",
        )
    return found


def plan(world: World, incident_id: int) -> Plan:
    """Look at every affected pair and write down what is to be done. Nothing else is changed.

    Raises ``Refused`` where the incident cannot be worked on, or somebody else planned it, or added to it, meanwhile.
    """
    with world.store.write() as tx:
        opened(tx, incident_id)
        number, members = incident_plans.begin(tx, incident_id)
    pace = Pace(world, incident_plans.BATCH)

    def add(batch: Members) -> None:
        with pace.unit(), world.store.write() as tx:
            incident_plans.add(tx, incident_id, number, batch.after, batch.up_to)

    abreast(world, batches_of(world, incident_id, pace), add)
    digest, counts = both(
        world, lambda: _digest(world, incident_id, number), lambda: _count(world, incident_id, number)
    )
    with world.store.write() as tx:
        if not incident_plans.end(tx, incident_id, number, members, digest, counts):
            raise Refused(
                f"somebody else is planning incident {incident_id}, or has added certificates to it",
                remedy=f"Make a new plan: dualcert incident plan {incident_id}",
            )
        found = existing(tx, incident_id)
    _forget_older(world, incident_id, number)
    return Plan(found, number, digest.hex(), counts)


class Members(NamedTuple):
    """A batch: those with numbers above ``after`` up to ``up_to``."""

    after: int
    up_to: int


def batches_of(world: World, incident_id: int, pace: Pace) -> Iterator[Members]:
    """All members, in the order of their numbers, as many at a time as the pace says then."""
    after = 0
    while True:
        with world.store.glance() as tx:
            up_to = incident_plans.members_up_to(tx, incident_id, after, pace.size)
        if up_to is None:
            return
        yield Members(after, up_to)
        after = up_to


def _digest(world: World, incident_id: int, number: int) -> bytes:
    total = hashlib.sha256(b"dualcert plan of incident %d\n" % incident_id)
    with world.store.read() as tx:
        for lines in incident_plans.lines(tx, incident_id, number):
            total.update(lines.encode())
    return total.digest()


def _count(world: World, incident_id: int, number: int) -> Counts:
    with world.store.read() as tx:
        return incident_plans.count(tx, incident_id, number)


def _forget_older(world: World, incident_id: int, number: int) -> None:
    last: incident_plans.Row | None = incident_plans.BEGINNING
    while last is not None:
        with world.store.write() as tx:
            last = incident_plans.forget_older(tx, incident_id, number, last)


def newest_plan(tx: Transaction, incident: Incident) -> Plan | None:
    """The plan that may be carried out; None where there is none, or one is being made."""
    counts = incidents.counts(tx, incident.id)
    if incident.plan_hash is None or counts is None:
        return None
    return Plan(incident, incident.plan, incident.plan_hash.hex(), counts)
