"""From rows of the table ``work`` to what the lifecycle handles."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from operator import itemgetter
from typing import Any

from dualcert.clock import from_microseconds
from dualcert.model.work import WorkKind, WorkRow


class Queue(IntEnum):
    """Where a row of work stands, and by what it is found. An order that has come due stands in the queue of its CA."""

    NONE = 0
    """By its time."""

    ORDERS = 1
    """An order, by its time: then it goes into one of the two below."""

    UNCOUNTED = 2
    """Its CA does not count it, or has done so: by when it is needed."""

    COUNTED = 3
    """Its CA counts it as a new one: by when it is needed, as far as there are permits."""


_ORDERS = int(Queue.ORDERS)
_KINDS = {kind.value: kind for kind in WorkKind}
_columns_of = itemgetter(slice(14))


def rows_of(found: Iterable[Any], taken_by: str | None = None) -> list[WorkRow]:
    """Of what begins with all columns of the table. ``taken_by``: who takes the rows, which are as they were before."""
    claims = 0 if taken_by is None else 1
    rows = []
    for (
        number,
        kind,
        pair,
        ca,
        target,
        due,
        owner,
        fence,
        attempts,
        since,
        reason,
        waits,
        queue,
        needed,
    ) in map(_columns_of, found):
        row = object.__new__(WorkRow)
        # Of a claim of a thousand rows, half the time would go into setting the fields of frozen objects one by one.
        fields = {
            "id": number,
            "kind": _KINDS[kind],
            "pair_id": pair,
            "ca": ca,
            "target": target,
            "due_at": None if due is None else from_microseconds(due),
            "fence": fence + claims,
            "attempts": attempts,
            "since": None if since is None else from_microseconds(since),
            "reason": reason,
            "waiting_for": waits,
            "owner": taken_by or owner,
            "needed_by": None if needed is None or queue <= _ORDERS else from_microseconds(needed),
        }
        object.__setattr__(row, "__dict__", fields)
        rows.append(row)
    return rows
