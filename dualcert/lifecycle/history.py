"""What happened, told with the names of the pairs it happened to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from dualcert.lifecycle.world import World
from dualcert.model.pair import Pair
from dualcert.store import events, pairs

_PAGE = 1000


def pair_names(world: World, ids: Collection[int]) -> dict[int, str]:
    with world.store.read() as tx:
        return pairs.names_of(tx, ids)


def tell(world: World, pair: Pair | None) -> Iterator[dict[str, Any]]:
    """The events of a pair, or of all, oldest first, in the shape that scripts rely on (``events --json``)."""
    after = 0
    while True:
        with world.store.read() as tx:
            found = events.page(tx, pairs=None if pair is None else [pair.id], after=after, limit=_PAGE)
            names = pairs.names_of(tx, {one.pair_id for one in found if one.pair_id is not None})
        for one in found:
            yield {
                "at": one.at,
                "pair": None if one.pair_id is None else names.get(one.pair_id),
                "ca": one.ca,
                "kind": one.kind,
                "actor": one.actor,
                "cause": one.cause,
                "target": one.target,
            }
        if len(found) < _PAGE:
            return
        after = found[-1].id
