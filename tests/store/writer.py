"""A process of its own that writes: ``python -m tests.store.writer DATABASE HOW [NUMBER]``.

``many`` writes NUMBER units of work of two events each; ``endless`` does so until it is killed; ``halfway`` writes the
first of two events, says so on stdout, and stays inside its unit of work.
"""

from __future__ import annotations

import sys
from itertools import count, islice

from dualcert.clock import SystemClock
from dualcert.model.events import EventKind
from dualcert.model.work import WorkKind
from dualcert.store import Store, events, work


def main(file: str, how: str, number: int) -> None:
    store = Store(f"sqlite:///{file}", SystemClock(), f"writer {how}")
    if how == "halfway":
        with store.write() as tx:
            events.record(tx, EventKind.STORED, "the first of two", pair=1)
            print("halfway", flush=True)  # noqa: T201 - whoever started us waits for it
            sys.stdin.read()
    for done in islice(count(1), None if how == "endless" else number):
        with store.write() as tx:
            # A look before the write: a transaction that began by reading could not turn to writing.
            events.last(tx)
            events.record(tx, EventKind.STORED, "the first of two", pair=done)
            work.schedule(tx, WorkKind.ORDER, done, tx.now, ca="alpha")
            events.record(tx, EventKind.STORED, "the second of two", pair=done)
        if done == 1:
            print("begun", flush=True)  # noqa: T201
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
