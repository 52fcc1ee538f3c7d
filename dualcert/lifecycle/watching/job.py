"""When watching happens in the daemon: beside everything else, so that no CRL that hangs holds up a renewal."""

from __future__ import annotations

import logging
from datetime import timedelta

from dualcert.lifecycle.watching import asking, braked, places
from dualcert.lifecycle.watching.rounds import Round
from dualcert.lifecycle.world import World
from dualcert.policy import brake
from dualcert.store import signals, watching

log = logging.getLogger(__name__)

IDLE = 10.0
"""Seconds after which one looks again whether anything is due."""

_OLDER_AT_ONCE = 20
_KEPT = timedelta(days=1)


def watch(world: World) -> float:
    """One round for the daemon; in how many seconds the next one."""
    more, _ = turn(world)
    return 0.0 if more else IDLE


def waves(world: World) -> float:
    """What the brake held, beside the watching: a run takes as long as its targets let it."""
    braked.run_in_waves(world)
    return IDLE


def turn(world: World, done: Round | None = None) -> tuple[bool, Round]:
    """Register what is not yet, and ask what is due: whether there is more to register, and what the asking came to.

    ``done``: as of ``ask_due``.
    """
    more = True
    for _ in range(_OLDER_AT_ONCE):
        more = places.register_older(world)
        if not more:
            break
    braked.mind_what_is_closed(world)
    with world.store.read() as tx:
        due = watching.any_due(tx)
    done = Round() if done is None else done
    if due:
        asking.ask_due(world, done=done)
        _tell(done)
        with world.store.write() as tx:
            signals.forget_promotions(tx, tx.now - max(_KEPT, brake.WITHIN))
    return more, done


def _tell(done: Round) -> None:
    """What a round came to, in the log."""
    if done.revoked:
        log.warning("CAs say of %d certificates that they are revoked", done.revoked)
    if done.failed:
        log.warning("%d of %d sources gave no answer that counts", done.failed, done.asked)
    if done.unasked:
        log.warning(
            "%d certificates were not asked about, but a sample by CA and hour of issuance", done.unasked
        )
