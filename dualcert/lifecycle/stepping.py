"""Steps taken in a pool's thread, most of them one after another as long as the next one is due at once."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from datetime import timedelta

from dualcert.errors import StoreUnavailable, told
from dualcert.lifecycle.engine import Engine, Held
from dualcert.model.work import Later, Outcome, WorkKind, WorkRow

log = logging.getLogger(__name__)

STORE_AGAIN = timedelta(seconds=1)
"""When what met no database is tried again."""

_NOT_WRITTEN_AGAIN = timedelta(minutes=1)

_TAKE_TURNS = frozenset({WorkKind.RENEWAL_INFORMATION})
"""Whose next step waits behind what its pool has to do besides: questions about a million certificates must not keep a
CA's only thread from its orders and revocations until all are asked."""


@dataclass(frozen=True)
class Ended:
    """What came of one or more steps. ``moved`` is False where a row was only found to wait still: two that wait must
    not wake each other for ever. ``away``: the database could not be used. ``error`` ends the run."""

    rows: list[WorkRow]
    held: list[Held | None]
    moved: bool
    away: StoreUnavailable | None = None
    error: BaseException | None = None


class Stepper:
    """What nobody foresaw in a step is logged at the level ``mishaps``, and its row backs off; others go on.

    ``ending``: set from outside, nothing further is begun. ``over``: nobody waits for what comes of a step any more.
    """

    def __init__(self, engine: Engine, *, mishaps: int) -> None:
        self._engine = engine
        self._clock = engine.world.clock
        self._mishaps = mishaps
        self.ending = False
        self.over = threading.Event()

    def __call__(self, rows: list[WorkRow]) -> Ended:
        """Several rows are deployments of one target."""
        moved = False
        if self.over.is_set():
            return Ended(rows, [], moved)  # given back before a thread was free for it
        try:
            while True:
                outcomes = self._engine.advance(rows)
                held = [self._settled(row, one) for row, one in zip(rows, outcomes, strict=True)]
                only = held[0] if len(held) == 1 else None
                goes_on = not self.ending and rows[0].kind not in _TAKE_TURNS
                at_once = isinstance(outcomes[0], Later) and not outcomes[0].failed and goes_on
                if only is None or not at_once or only.waiting or only.wake_at > self._clock.now():
                    return Ended(rows, held, moved or only is None or not only.waiting)
                rows, moved = [only.row], True
        except StoreUnavailable as error:
            # Whatever was not written is done again; where somebody has done it meanwhile, the fence tells.
            return Ended(rows, [self._afresh(row, error) for row in rows], moved, away=error)
        except KeyboardInterrupt as error:
            return Ended(rows, [], moved, error=error)  # carried to the thread that waits, which raises it
        except BaseException as error:  # noqa: BLE001 - whatever it is, an exit too, it is this step's alone
            return self._mishap(rows, error)

    def _settled(self, row: WorkRow, outcome: Outcome) -> Held | None:
        """What a step has said is written down as soon as the database answers. The step is not taken again for that:
        an order that has failed would not back off."""
        while True:
            try:
                return self._engine.settle(row, outcome)
            except StoreUnavailable:
                if self.over.wait(STORE_AGAIN.total_seconds()):
                    raise

    def _afresh(self, row: WorkRow, error: StoreUnavailable) -> Held:
        """Taken up as one that another process has left: how far it has come is not known."""
        again = self._clock.now() + STORE_AGAIN
        return Held(replace(row, continued=False, looks=0, known=None), again, error.reason)

    def _mishap(self, rows: list[WorkRow], error: BaseException) -> Ended:
        """What nobody foresaw: the step backs off, and all others go on."""
        try:
            return Ended(rows, [self._engine.broken(row, error, self._mishaps) for row in rows], moved=True)
        except StoreUnavailable as away:
            return Ended(rows, [self._afresh(row, away) for row in rows], moved=False, away=away)
        except Exception:
            # Not even that can be written down: it stays in memory, and is told again and again.
            log.exception("%s: what has gone wrong cannot be written down", rows[0].kind.value)
            again = self._clock.now() + _NOT_WRITTEN_AGAIN
            return Ended(rows, [Held(row, again, told(error)) for row in rows], moved=False)
