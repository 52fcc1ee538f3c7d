"""What happened, told with the names of the pairs it happened to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from dualcert.errors import UsageProblem
from dualcert.lifecycle import inventory, removal
from dualcert.lifecycle.world import World
from dualcert.store import events, pairs

_PAGE = 1000


def pair_names(world: World, ids: Collection[int]) -> dict[int, str]:
    with world.store.read() as tx:
        return pairs.names_of(tx, ids)


def of_name(world: World, name: str) -> list[int]:
    """The pairs whose history a name's is: the one that has it now, and those that had it before.

    Without any, the pair that covers the name. Raises ``UsageProblem`` where there is none either.
    """
    before = removal.find(world, name)
    try:
        pair = inventory.resolve(world, name)
    except UsageProblem:
        if not before:
            raise
        return [one.pair_id for one in before]
    if not before:
        before = removal.find(world, pair.name)
    elif before[0].name != pair.name:
        return [one.pair_id for one in before]
    return [*(one.pair_id for one in before), pair.id]


def tell(world: World, ids: Collection[int] | None) -> Iterator[dict[str, Any]]:
    """The events of some pairs, or of all, oldest first, in the shape that scripts rely on (``events --json``)."""
    after = 0
    while True:
        with world.store.read() as tx:
            found = events.page(tx, pairs=ids, after=after, limit=_PAGE)
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
