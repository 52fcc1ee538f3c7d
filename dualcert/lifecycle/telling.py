"""The log's line for every event that this process commits."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from dualcert.errors import StoreUnavailable
from dualcert.model.events import Event, EventKind
from dualcert.store import Store, pairs

log = logging.getLogger(__name__)

_TROUBLE = frozenset({EventKind.FAILED, EventKind.UNFIT, EventKind.PROOF_FAILED, EventKind.ABANDONED})
_STEPS = frozenset(
    {
        EventKind.ORDERING,
        EventKind.PUBLISHED,
        EventKind.ANSWERED,
        EventKind.VALIDATED,
        EventKind.WITHDRAWN,
        EventKind.KEY_DESTROYED,
    }
)
"""Of an order that goes well, what only a reader of every detail wants to know."""

_NAMES = 1000


class PairNames:
    """Names of pairs by number, the latest thousand remembered. Safe for several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._known: OrderedDict[int, str] = OrderedDict()

    def __call__(self, number: int) -> str | None:
        """None for what concerns no pair; the number itself where the name cannot be had."""
        if not number:
            return None
        with self._lock:
            name = self._known.get(number)
        if name is None:
            try:
                with self._store.read() as tx:
                    name = pairs.names_of(tx, [number]).get(number)
            except StoreUnavailable:
                name = None
            if name is None:
                return str(number)
            with self._lock:
                self._known[number] = name
                while len(self._known) > _NAMES:
                    self._known.popitem(last=False)
        return name


class EventLog:
    """Tells events as log records; trouble as a warning, the small steps of an order only to who wants them all."""

    def __init__(self, names: PairNames) -> None:
        self._names = names

    @staticmethod
    def wanted() -> bool:
        return log.isEnabledFor(logging.INFO)

    def __call__(self, committed: Sequence[Event]) -> None:
        for event in committed:
            level = logging.INFO
            if event.kind in _TROUBLE:
                level = logging.WARNING
            elif event.kind in _STEPS:
                level = logging.DEBUG
            if log.isEnabledFor(level):
                about = {"pair": self._names(event.pair_id or 0), "ca": event.ca, "target": event.target}
                log.log(level, "%s: %s", event.kind, event.cause, extra=about)
