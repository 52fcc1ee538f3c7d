"""CAs that get no orders for a while, and CAs that are not relied on any more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from dualcert.errors import Refused, UsageProblem
from dualcert.lifecycle import moving
from dualcert.lifecycle.incidents import refills
from dualcert.lifecycle.moving import Move, Moved
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.store import events, pairs, standings
from dualcert.store.standings import CaStanding

_BATCH = 1000


def standing(world: World, ca: str) -> CaStanding:
    """Raises ``UsageProblem`` where no such CA is configured."""
    if ca not in world.cas:
        raise UsageProblem(f"no CA is called {ca}", remedy=f"There is: {', '.join(sorted(world.cas))}.")
    return recorded(world, ca)


def recorded(world: World, ca: str) -> CaStanding:
    """The same, also of a CA that is configured no more."""
    with world.store.read() as tx:
        return standings.get(tx, ca)


def freeze(world: World, ca: str) -> bool:
    """No order goes to the CA from now on. False where it was so before."""
    if standing(world, ca).frozen_at is not None:
        return False
    with world.store.write() as tx:
        standings.freeze(tx, ca)
        events.record(tx, EventKind.FROZEN, "no order goes there", ca=ca)
    return True


def thaw(world: World, ca: str) -> bool:
    """Orders and refills go to the CA again, and those that waited are due. False where none were kept back.

    Raises ``Refused`` where the CA is distrusted.
    """
    found = standing(world, ca)
    if found.distrusted_at is not None:
        raise Refused(
            found.closed or "", remedy=f"If it is to be relied on again: dualcert distrust {ca} --lift", ca=ca
        )
    if found.frozen_at is not None:
        with world.store.write() as tx:
            standings.thaw(tx, ca)
            events.record(tx, EventKind.THAWED, "orders go there again", ca=ca)
    held = refills.release(world, ca)
    _wake(world, ca)
    return held or found.frozen_at is not None


def _wake(world: World, ca: str) -> None:
    after: int | None = 0
    while after is not None:
        with world.store.write() as tx:
            after = standings.wake(tx, ca, after, _BATCH)


def distrust(world: World, ca: str, after: datetime | None) -> bool:
    """Its certificates count as backups no more; False where the same was said before."""
    found = standing(world, ca)
    if found.distrusted_at is not None and found.distrust_after == after:
        return False
    with world.store.write() as tx:
        standings.distrust(tx, ca, after)
        which = (
            "all its certificates"
            if after is None
            else f"certificates that begin after {after:%Y-%m-%d %H:%M} UTC"
        )
        events.record(tx, EventKind.DISTRUSTED, f"{which} are no backups", ca=ca)
    return True


def lift(world: World, ca: str) -> bool:
    """The CA is relied on again; pairs that have moved stay where they are. False where it was not distrusted."""
    if standing(world, ca).distrusted_at is None:
        return False
    with world.store.write() as tx:
        standings.trust(tx, ca)
        events.record(tx, EventKind.TRUSTED, "it is relied on again", ca=ca)
    if standing(world, ca).closed is None:
        _wake(world, ca)
    return True


def replace(world: World, ca: str) -> Iterator[Moved]:
    """Move every pair away from a distrusted CA, to the first spare that does not fall together with its other CA."""
    spares = [one for one in world.new_pairs.spares if one != ca and standing(world, one).closed is None]
    said = moving.ask(world, spares)
    for pair_id in moving.everyone(world, ca):
        moved = None if spares else _nowhere(world, pair_id)
        for spare in spares:
            moved = moving.move(world, pair_id, Move(ca, spare, f"{ca} is distrusted"), said)
            if moved is None or moved.problem is None:
                break
        if moved is not None:
            yield moved


def _nowhere(world: World, pair_id: int) -> Moved | None:
    with world.store.read() as tx:
        pair = pairs.by_id(tx, pair_id)
    return None if pair is None else Moved(pair_id, pair.name, "no spare is configured that gets orders")
