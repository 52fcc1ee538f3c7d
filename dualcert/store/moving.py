"""A lineage's place is taken by another one, of another CA."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, bindparam, delete, func, insert, select, update

from dualcert.model.pair import Lineage, PairState
from dualcert.model.work import WorkKind
from dualcert.store.pairs import as_seen, seen_values
from dualcert.store.statements import prepared
from dualcert.store.tables import lineage, pair, pair_state, work
from dualcert.store.transaction import Transaction


def replace_lineage(tx: Transaction, seen: PairState, old: Lineage, ca: str, domain: str) -> int | None:
    """Retire a lineage and open one of another CA in its role; the certificate in that role stays until one comes.

    The new one's number. None where the pair is not as ``seen`` any more: nothing is to be committed then.
    """
    made = insert(lineage).values(pair_id=seen.pair_id, ca=ca, domain=domain, opened_at=tx.at)
    number = int(tx.execute(made.returning(lineage.c.id)).scalar_one())
    tx.execute(update(lineage).where(lineage.c.id == old.id).values(retired_at=tx.at))
    column = pair_state.c.primary_lineage if old.id == seen.primary_lineage else pair_state.c.backup_lineage
    moved = update(pair_state).where(*as_seen(), column == old.id).values({column.name: number})
    return number if tx.execute(moved, seen_values(seen)).rowcount == 1 else None


def end_steps(tx: Transaction, pair_id: int, ca: str) -> None:
    """What was to be ordered at a CA is not ordered there any more."""
    kinds = [WorkKind.ORDER.value, WorkKind.REFILL.value]
    tx.execute(delete(work).where(work.c.pair_id == pair_id, work.c.ca == ca, work.c.kind.in_(kinds)))


@prepared
def _with_ca() -> Select[Any]:
    return (
        select(lineage.c.id, lineage.c.pair_id)
        .where(
            lineage.c.id > bindparam("after"),
            lineage.c.ca == bindparam("of_ca"),
            lineage.c.retired_at.is_(None),
        )
        .order_by(lineage.c.id)
        .limit(bindparam("limit"))
    )


def with_ca(tx: Transaction, ca: str, after: int, limit: int) -> list[tuple[int, int]]:
    """Open lineages of a CA behind a number, and their pairs."""
    rows = tx.execute(_with_ca(), {"after": after, "of_ca": ca, "limit": limit})
    return [(row.id, row.pair_id) for row in rows]


def ever_had(tx: Transaction, ca: str) -> bool:
    """Whether any pair has a lineage of a CA, or had one. Goes through all of them where there is none."""
    return tx.execute(select(lineage.c.id).where(lineage.c.ca == ca).limit(1)).first() is not None


# --- picking some ----------------------------------------------------------------------------------------


def last_number(tx: Transaction) -> int:
    """The highest number of a pair; 0 where there is none."""
    return int(tx.execute(select(func.coalesce(func.max(pair.c.id), 0))).scalar_one())


@prepared
def _next_number() -> Select[Any]:
    return select(pair.c.id).where(pair.c.id > bindparam("after")).order_by(pair.c.id).limit(1)


def next_number(tx: Transaction, after: int) -> int | None:
    """The number of the next pair behind a number."""
    found: int | None = tx.execute(_next_number(), {"after": after}).scalar()
    return found
