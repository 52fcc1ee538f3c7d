"""A primary whose certificate ends, and cannot be renewed, is promoted away from while its backup is good."""

from __future__ import annotations

from dualcert.errors import Refused
from dualcert.lifecycle import promotion, renewal
from dualcert.lifecycle.looking import look_again
from dualcert.lifecycle.world import World
from dualcert.model.work import Done, Later, Outcome, WorkRow
from dualcert.policy.renewing import Stay, leaving
from dualcert.store import pairs, renewals, work


def advance(world: World, row: WorkRow) -> Outcome:
    """Look whether the pair's primary is to be left, as things stand now, and leave it."""
    with world.store.read() as tx:
        pair = pairs.by_id(tx, row.pair_id)
        lineages = renewals.of_pairs(tx, [row.pair_id])[row.pair_id]
        decision = leaving(renewal.primary_facts(lineages), tx.now)
    serving = next((one.held.id for one in lineages if one.primary and one.held is not None), None)
    if pair is None or serving is None or isinstance(decision, Stay):
        with world.store.write() as tx:
            work.hold(tx, row)
            work.finish(tx, row)
            renewal.reckon(tx, row.pair_id)
        return Done()
    try:
        promotion.leave(world, pair, serving, decision.reason)
    except Refused as error:
        return Later(decision.again, str(error), failed=True)
    return look_again(world, row, "the pair has changed")
