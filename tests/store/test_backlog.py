"""Of a long backlog as much as is wanted is claimed by going along the index of times, and not by sorting it all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from dualcert.lifecycle.owner import new_owner
from dualcert.model.work import WorkKind
from dualcert.store import Store, Transaction, claims, leases, work
from dualcert.testing.clock import FakeClock
from tests.store.overhearing import overheard

ROWS, LIMIT = 20_000, 1_000
ALL = tuple(WorkKind)


@pytest.fixture
def backlogged(fresh_postgres: str) -> Iterator[Store]:
    store = Store(fresh_postgres, FakeClock(), "tester")
    with store.write() as tx:
        tx.connection.execute(
            text(
                "INSERT INTO work (kind, pair_id, ca, due_at)"
                " SELECT :kind, number, 'alpha', :at - number FROM generate_series(0, :last) number"
            ),
            {"kind": WorkKind.REFILL.value, "at": tx.at, "last": ROWS - 1},
        )
    yield store
    store.close()


def nodes(tx: Transaction, statement: str) -> list[dict[str, Any]]:
    [[plan]] = tx.connection.execute(text(f"EXPLAIN (FORMAT JSON) {statement.replace(':', chr(92) + ':')}"))
    found, left = [], [(plan if not isinstance(plan, str) else json.loads(plan))[0]["Plan"]]
    while left:
        found.append(left.pop())
        left += found[-1].get("Plans", [])
    return found


@pytest.mark.parametrize("known", [False, True], ids=["statistics are missing", "statistics are there"])
@pytest.mark.parametrize(
    "kinds", [ALL, tuple(kind for kind in ALL if kind is not WorkKind.PUBLICATION)], ids=["all", "but one"]
)
def test_the_longest_overdue_are_found_without_looking_at_the_others(
    backlogged: Store, kinds: tuple[WorkKind, ...], known: bool
) -> None:
    with backlogged.write() as tx:
        if known:
            tx.connection.execute(text("ANALYZE work"))
        with overheard(tx) as said:
            taken = claims.claim(tx, "me", kinds=kinds, limit=LIMIT)
        used = nodes(tx, said[0])
    assert {row.pair_id for row in taken} == set(range(ROWS - LIMIT, ROWS))
    assert not [node for node in used if "Sort" in node["Node Type"]]
    assert "ix_work_due" in {node.get("Index Name") for node in used}


def test_a_table_that_is_believed_to_be_empty_is_not_gone_through_for_each_row_that_is_taken(
    backlogged: Store,
) -> None:
    """Its statistics are of before the backlog came; the next ones may be a minute away."""
    with backlogged.write() as tx:
        tx.connection.execute(text("ANALYZE work"))
        tx.connection.execute(text("UPDATE pg_class SET reltuples = 1 WHERE relname = 'work'"))
    with backlogged.write() as tx:
        work.schedule(tx, WorkKind.ORDER, ROWS, tx.now, ca="alpha")
        with overheard(tx) as said:
            claims.claim(tx, "me", kinds=ALL, limit=16)
        at_once = nodes(tx, said[0])
        into_queue, taking = (nodes(tx, one) for one in said if one.startswith("UPDATE work"))
    assert {"pk_work"} == {node["Index Name"] for node in taking if "Index Name" in node}
    for plan in (at_once, taking):
        assert not [node for node in plan if node["Node Type"] in {"Nested Loop", "Hash Join", "Merge Join"}]
    for plan in (at_once, into_queue):
        at_work = [node["Node Type"] for node in plan if node.get("Relation Name") == "work"]
        assert "Seq Scan" not in at_work
    assert {"pk_work", "ix_work_due"} <= {node.get("Index Name") for node in at_once}
    assert {"pk_work", "ix_work_due"} <= {node.get("Index Name") for node in into_queue}


def test_a_claim_changes_no_index(backlogged: Store) -> None:
    """Each row is written into the page where it stands already, although it is longer then."""
    me = str(new_owner())
    with backlogged.write() as tx:
        claims.claim(tx, me, kinds=ALL, limit=LIMIT)
        assert written(tx) == (LIMIT, LIMIT)


def written(tx: Transaction) -> tuple[int, int]:
    """How many rows of work this unit has updated, and of how many no index heard."""
    [row] = tx.connection.execute(
        text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'work'")
    )
    return row.n_tup_upd, row.n_tup_hot_upd


@pytest.mark.parametrize("limit", [1, 16, LIMIT])
def test_a_claim_is_as_many_statements_however_many_rows_it_takes(store: Store, limit: int) -> None:
    with store.write() as tx:
        for pair in range(2 * limit):
            work.schedule(tx, WorkKind.REFILL, pair, tx.now, ca="alpha")
    first, again = (statements_of_a_claim(store, limit) for _ in range(2))
    if store.dialect == "sqlite":
        assert (first, again) == (["SELECT", "INSERT", "UPDATE"], ["SELECT", "UPDATE"])
    else:
        assert (first, again) == (["WITH", "INSERT"], ["WITH"])


def statements_of_a_claim(store: Store, limit: int) -> list[str]:
    """What each begins with."""
    with store.write() as tx, overheard(tx) as said:
        assert len(claims.claim(tx, "me", kinds=[WorkKind.REFILL], limit=limit)) == limit
    return [one.split()[0] for one in said if not one.startswith("--")]


def test_where_no_order_has_come_due_it_is_asked_once_and_nothing_is_put_into_a_queue(store: Store) -> None:
    with store.write() as tx:
        work.schedule(tx, WorkKind.REFILL, 1, tx.now, ca="alpha")
        work.schedule(tx, WorkKind.ORDER, 1, tx.now + timedelta(seconds=1), ca="alpha")
    with store.write() as tx, overheard(tx) as said:
        claims.claim(tx, "me", kinds=ALL, limit=9)
    told = [one for one in said if "queue" in one and not one.startswith("--")]
    assert not [one for one in told if one.startswith("UPDATE") and "needed_by" in one]
    assert len([one for one in told if "come_due" in one]) == 1


def test_to_prolong_what_is_held_writes_to_no_row_of_work(store: Store) -> None:
    with store.write() as tx:
        for pair in range(20):
            work.schedule(tx, WorkKind.ORDER, pair, tx.now, ca="alpha")
        claims.claim(tx, "me", kinds=ALL, limit=20)
    with store.write() as tx, overheard(tx) as said:
        leases.renew(tx, "me")
        leases.release_owner(tx, "me")
    assert len(said) == 3
    assert not [one for one in said if "work" in one]


def test_a_kind_that_is_not_asked_for_is_left(backlogged: Store) -> None:
    with backlogged.write() as tx:
        assert claims.claim(tx, "me", kinds=[WorkKind.ORDER], limit=16) == []
        assert not claims.claimable(tx, "me", kinds=[WorkKind.ORDER])
        assert claims.claimable(tx, "me", kinds=[WorkKind.REFILL])
