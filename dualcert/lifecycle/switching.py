"""One at a time changes what a target holds, in this process as in all others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dualcert.lifecycle.world import TargetBinding, World
from dualcert.store import leases


@contextmanager
def alone(world: World, target: TargetBinding, owner: str) -> Iterator[bool]:
    """Whether the target is ours while this lasts; where it is somebody else's, nothing of it is to be touched.

    Its lease keeps other processes away. Who has it takes it again, so of several threads one is let in.
    """
    if not target.switching.acquire(blocking=False):
        yield False
        return
    lease = f"target:{target.name}"
    try:
        with world.store.write() as tx:
            ours = leases.take(tx, lease, owner)
        if not ours:
            yield False
            return
        try:
            yield True
        finally:
            with world.store.write() as tx:
                leases.drop(tx, lease, owner)
    finally:
        target.switching.release()
