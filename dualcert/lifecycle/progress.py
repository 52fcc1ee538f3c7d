"""How far a lineage's next certificate is, and what keeps a target from serving: told from the steps under way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dualcert.model.work import BUDGET, DAY, FROZEN, HELD, PERSON, WorkKind, WorkRow
from dualcert.store import Transaction, overview
from dualcert.store.overview import Line

if TYPE_CHECKING:
    from dualcert.lifecycle.world import World

IDLE: dict[str, Any] = {"state": "idle", "since": None, "tries": 0, "error": None, "next_try": None}
_WITHOUT_CERTIFICATE = {"idle": "empty", "failing": "failed"}


def of_pairs(world: World, tx: Transaction, ids: Collection[int]) -> dict[int, list[WorkRow]]:
    """The steps under way of some pairs; a pair without any has an empty list."""
    found: dict[int, list[WorkRow]] = defaultdict(list)
    rows = overview.steps(tx, ids)
    waiting = _lined_up(world, tx, [row for row in rows if row.needed_by is not None])
    for row in rows:
        found[row.pair_id].append(waiting.get(row.id, row))
    return found


def _lined_up(world: World, tx: Transaction, rows: list[WorkRow]) -> dict[int, WorkRow]:
    if not rows:
        return {}
    from dualcert.lifecycle import budgeting
    from dualcert.store import overtaken

    return overtaken.as_they_wait(tx, rows, partial(budgeting.allowance, world, tx))


def renewal(ca: str, rows: Sequence[WorkRow]) -> dict[str, Any]:
    """How the order at a CA goes; troubles of the pair's DNS are its troubles too."""
    order = next((row for row in rows if row.kind is WorkKind.ORDER and row.ca == ca), None)
    if order is None:
        return _refill(next((row for row in rows if row.kind is WorkKind.REFILL and row.ca == ca), None))
    dns = next((row for row in rows if row.kind is WorkKind.PUBLICATION and row.reason), None)
    held = order.waiting_for in {BUDGET, FROZEN} and order.owner is None
    trouble = dns if dns is not None and not order.attempts and not held else order
    if held or order.due_at is None or order.waiting_for in {PERSON, DAY}:
        state = "waiting"
    elif trouble.attempts:
        state = "failing"
    else:
        state = "ordering"
    return {
        "state": state,
        "since": trouble.since,
        "tries": trouble.attempts,
        "error": trouble.reason if _stuck(trouble) else None,
        "next_try": trouble.due_at if trouble.attempts or held else None,
    }


def _refill(row: WorkRow | None) -> dict[str, Any]:
    if row is None:
        return IDLE
    if row.waiting_for == HELD:
        # It may be looked at before, but comes at no time by itself.
        return {**IDLE, "state": "waiting", "error": row.reason}
    return {**IDLE, "state": "waiting", "next_try": row.due_at}


def without_certificate(renewal_state: str) -> str:
    """The state of a lineage that has no certificate."""
    return _WITHOUT_CERTIFICATE.get(renewal_state, renewal_state)


def words(line: Line, rows: Sequence[WorkRow]) -> tuple[str, str]:
    """The states of a pair's primary and backup, should they have no certificate."""
    primary, backup = (without_certificate(renewal(ca, rows)["state"]) for ca in (line.primary, line.backup))
    return primary, backup


def _stuck(row: WorkRow) -> bool:
    """Whether its reason is to be told: it failed, or the last command's time was up while it waited."""
    return row.reason is not None and (row.attempts > 0 or row.owner is None)


def failing_at(target: str, rows: Sequence[WorkRow]) -> WorkRow | None:
    """The step towards serving at a target that does not get on; a deployment's words come before a look's."""
    steps = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION)
    failing = [row for row in rows if row.target == target and row.kind in steps and _stuck(row)]
    return min(failing, key=lambda row: steps.index(row.kind), default=None)
