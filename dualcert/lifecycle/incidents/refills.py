"""Refills at a CA in trouble wait for a person: it has enough to do, and may not be trusted any more."""

from __future__ import annotations

from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.store import Transaction, events, incident_progress, incidents


def letting_go(ca: str, incident_id: int | None) -> str:
    """What is typed so that what is held at a CA is ordered; ``incident_id``: for which it is held there."""
    return (
        f"dualcert thaw {ca}" if incident_id is None else f"dualcert incident run {incident_id} --refill now"
    )


def letting_go_of(world: World, ca: str) -> str:
    """The same, as it is held now."""
    with world.store.read() as tx:
        return letting_go(ca, incident_progress.refills_held_for(tx, ca))


def held_at(tx: Transaction, ca: str) -> str:
    """Of a refill that is held at a CA: for which incident, and what is typed so that it is ordered."""
    number = incident_progress.refills_held_for(tx, ca)
    whose = "" if number is None else f" for incident {number}"
    return f"held at {ca}{whose}: {letting_go(ca, number)}"


def release(world: World, ca: str) -> bool:
    """Nothing is held at the CA any more: what was emptied there is due for its order now. Whether anything was."""
    # Whoever is killed before the end leaves the CA as one at which refills are held, and is known by that.
    _release(world, ca)
    with world.store.write() as tx:
        number = incident_progress.last_holder(tx, ca)
        if number is not None:
            incident_progress.pass_on(tx, ca, number, None)
            cause = f"incident {number}: refills at {ca} are due"
            events.record(tx, EventKind.INCIDENT_RUN, cause, ca=ca)
    _release(world, ca)  # what was held meanwhile
    return number is not None


def _release(world: World, ca: str) -> None:
    after: int | None = 0
    while after is not None:
        with world.store.write() as tx:
            after = incident_progress.release_refills(tx, ca, after)


def release_for(world: World, incident_id: int) -> list[str]:
    """The same at every CA where refills are held for an incident; which those were."""
    with world.store.read() as tx:
        cas = incident_progress.cas_held_for(tx, incident_id)
    for ca in cas:
        release(world, ca)
    return cas


def hand_over(world: World, incident_id: int) -> None:
    """What is held for an incident that is about to end is held for another open one, where there is one at that CA:
    between its end and what follows from that nothing is ordered there."""
    with world.store.read() as tx:
        cas = incident_progress.last_to_hold(tx, incident_id)
    for ca in cas:
        _passed_on(world, ca, incident_id)


def end(world: World, incident_id: int) -> list[str]:
    """The incident holds nothing any more: the same at each CA where no other open one does; there that one goes on
    holding. Where it was the last one to hold."""
    with world.store.read() as tx:
        cas = incident_progress.last_to_hold(tx, incident_id)
    for ca in cas:
        if not _passed_on(world, ca, incident_id):
            release(world, ca)
    return cas


def _passed_on(world: World, ca: str, ended: int) -> bool:
    while True:
        with world.store.read() as tx:
            other = incident_progress.others_holding(tx, ca, ended)
        if other is None:
            return False
        with world.store.write() as tx:
            # Whoever closes that one as well comes before this, or finds what it holds.
            found = incidents.get(tx, other, lock=True)
            if found is not None and found.closed_at is None:
                incident_progress.pass_on(tx, ca, ended, other)
                return True
