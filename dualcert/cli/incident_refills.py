"""``dualcert incident run --refill now``: what is let go, and where nothing is ordered all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dualcert.cli.context import Context
from dualcert.cli.output import note, print_json, say

if TYPE_CHECKING:
    from dualcert.lifecycle.world import World


def release(context: Context, incident_id: int) -> None:
    """Without a plan: refills that are held for an incident are due, and nothing else is done."""
    from dualcert.lifecycle.incidents import refills, telling

    world = context.application.world
    telling.status(world, incident_id)
    cas = refills.release_for(world, incident_id)
    shown = telling.status(world, incident_id)
    print_json(shown) if context.json else say(f"refills are due at {', '.join(cas) or 'no CA'}")
    tell_closed(world, cas)


def tell_closed(world: World, cas: Sequence[str]) -> None:
    """Those of the CAs that get no orders, and what ends that."""
    from dualcert.lifecycle import closing

    for ca in cas:
        standing = closing.recorded(world, ca)
        if standing.closed is not None:
            note(f"{standing.closed}, and nothing is ordered there until: dualcert {standing.reopening}")
