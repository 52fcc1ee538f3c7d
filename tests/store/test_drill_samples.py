"""How many pairs a sample has, however their numbers lie."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from dualcert.lifecycle import drill
from dualcert.store import Store, pairs, tables
from dualcert.testing.clock import FakeClock
from tests.store.building import a_pair
from tests.store.worlds import Setting, a_world


@pytest.mark.parametrize("far", [100_000, 11])
def test_a_sample_is_as_large_as_was_said_where_numbers_have_gaps(
    store: Store, clock: FakeClock, far: int
) -> None:
    with store.write() as tx:
        made = [a_pair(tx) for _ in range(10)]
        for table in (tables.pair, tables.pair_state):
            column = table.c.id if table is tables.pair else table.c.pair_id
            changed = update(table).where(column == made[-1].id).values({column.name: far})
            assert tx.execute(changed).rowcount == 1
        assert pairs.by_id(tx, far) is not None
    world = a_world(store, clock, Setting())

    for share, wanted in ((0.5, 5), (0.01, 1), (0.91, 10)):
        drawn = [one.id for one in drill.sample(world, share)]
        assert len(drawn) == len(set(drawn)) == wanted
