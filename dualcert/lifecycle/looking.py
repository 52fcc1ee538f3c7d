"""A step that has looked, and found that nothing has gone on."""

from __future__ import annotations

from datetime import timedelta

from dualcert.lifecycle.world import World
from dualcert.model.work import Later, WorkRow
from dualcert.policy import backoff


def look_again(world: World, row: WorkRow, reason: str, wished: timedelta | None = None) -> Later:
    """Nothing has gone on: come back as the other side wished, or ever more slowly."""
    return Later(backoff.next_look(world.clock.now(), row.looks, wished), reason, looks=row.looks + 1)
