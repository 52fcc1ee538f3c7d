"""Lots: the batches of a plan that are promoted next, two at a time where the database lets several write."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dualcert.errors import StoreUnavailable
from dualcert.lifecycle.incidents.abreast import beside, lets_several_write
from dualcert.lifecycle.incidents.pace import Pace
from dualcert.lifecycle.incidents.planning import Plan, the_plan
from dualcert.lifecycle.world import World
from dualcert.store import Transaction, incident_runs
from dualcert.store.incident_runs import Range

log = logging.getLogger(__name__)

_BATCH = 2_500
"""How many are promoted in one unit of work, at most: whoever wants one of these pairs meanwhile waits for it."""


@dataclass(frozen=True)
class Lot:
    """``rows``: how many of its pairs are to be promoted."""

    batch: Range
    rows: int


@dataclass(frozen=True)
class Turned:
    """What came of one or more lots: where they end, their rows, how many were promoted, and how many skipped."""

    up_to: int
    rows: int
    promoted: int
    skipped: int

    def __add__(self, after: Turned) -> Turned:
        rows, promoted = self.rows + after.rows, self.promoted + after.promoted
        return Turned(after.up_to, rows, promoted, self.skipped + after.skipped)


class Lots:
    """Of one plan."""

    def __init__(self, world: World, plan: Plan, cause: str) -> None:
        self._world = world
        self._plan = plan
        self._cause = cause
        self._pace = Pace(world, _BATCH)

    @contextmanager
    def unit(self) -> Iterator[Transaction]:
        """The unit of work for ``turn``: what it takes tells how large the next lots are."""
        with self._pace.unit(), self._world.store.write() as tx:
            yield tx

    def turn(self, tx: Transaction, after: int, most: int, held: str | None, *, rate: int | None) -> Turned:
        """Promote the next pairs behind a pair's number, at most so many; ``rate``: and at most that.

        The unit is to keep everybody else from this run as long as it lasts. A second lot, of other pairs, has a unit
        of its own, which ends before that: where only this one is done, whoever goes on finds its rows done. ``held``:
        why refills are.
        """
        first = self._next(tx, after, min(most, rate or most))
        several = lets_several_write(self._world) and not rate and first.rows < most
        second = self._next(tx, first.batch.up_to, most - first.rows) if several and first.rows else None
        if second is None or not second.rows:
            return self._carry_out(tx, first, held)
        with beside(lambda: self._alone(second, held)) as other:
            turned = self._carry_out(tx, first, held)
            try:
                turned += other.result()
            except StoreUnavailable as error:
                number = self._plan.incident.id
                log.warning("incident %d: a batch has its turn again: %s", number, error.reason)
        return turned

    def _next(self, tx: Transaction, after: int, most: int) -> Lot:
        number, plan = self._plan.incident.id, self._plan.number
        up_to, rows = incident_runs.bound(tx, number, plan, after, min(self._pace.size, most))
        return Lot(Range(number, plan, after, up_to), rows)

    def _carry_out(self, tx: Transaction, lot: Lot, held: str | None) -> Turned:
        promoted, skipped = incident_runs.promote(tx, lot.batch)
        incident_runs.follow_up(tx, lot.batch, self._cause, refills_held=held)
        return Turned(lot.batch.up_to, lot.rows, promoted, skipped)

    def _alone(self, lot: Lot, held: str | None) -> Turned:
        with self._world.store.write() as tx:
            turned = self._carry_out(tx, lot, held)
            # Where the unit that keeps others away has lost its connection, they may have come in.
            the_plan(tx, self._plan.incident.id, self._plan.hash)
        return turned
