"""A step that has looked, and found that nothing has gone on."""

from __future__ import annotations

from datetime import datetime, timedelta

from dualcert.lifecycle import budgeting
from dualcert.lifecycle.world import World
from dualcert.model.work import Later, WorkRow
from dualcert.policy import backoff

_LONG = timedelta(minutes=10)


def look_again(
    world: World,
    row: WorkRow,
    reason: str,
    wished: timedelta | None = None,
    *,
    since: datetime | None = None,
) -> Later:
    """Nothing has gone on: come back as the other side ``wished``, or ever more slowly.

    ``since`` when it has been under way, for what may take days: taken up again after long, it is not looked at as what
    has begun just now.
    """
    if wished is not None and wished > _LONG:
        wished = budgeting.granted(world, row, wished)
    now = world.clock.now()
    lasted = now - since if since is not None else timedelta(0)
    looks = row.looks if row.continued or lasted < _LONG else backoff.QUICK_LOOKS + 1
    return Later(backoff.next_look(now, looks, wished, lasted), reason, looks=looks + 1)
