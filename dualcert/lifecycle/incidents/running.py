"""Carrying a plan out, wave by wave: promoted in the database, deployed, seen, and only then the next one.

Where it has come to stands in the database, written with each batch: whoever says the same again goes on there. Two
processes at one run take turns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

from dualcert.errors import Refused, StoreError
from dualcert.lifecycle.condemning import of_leak
from dualcert.lifecycle.driver import run_until
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.incidents import refills
from dualcert.lifecycle.incidents.pace import Pace
from dualcert.lifecycle.incidents.planning import Plan, newest_plan, opened
from dualcert.lifecycle.incidents.terms import Ended, Progress, Terms
from dualcert.lifecycle.runner import Scope
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.incident import Action, Run
from dualcert.model.work import WorkKind
from dualcert.policy import waves as policy
from dualcert.policy.waves import Tally
from dualcert.store import (
    Transaction,
    events,
    incident_plans,
    incident_progress,
    incident_report,
    incident_runs,
)
from dualcert.store.incident_runs import Range

__all__ = ["Ended", "Overtaken", "Progress", "Terms", "run"]

log = logging.getLogger(__name__)

_BATCH = 2_500
"""How many are promoted in one unit of work, at most: whoever wants one of these pairs meanwhile waits for it."""

_MARKED = 5_000
_TOGETHER = 1000
"""How many pairs are driven at once from their promotion to the look at what is served."""

_ALL = 2**62
"""No pair has a higher number."""

_PATIENCE = timedelta(minutes=2)
"""How long those are given; a step that has failed comes back only after that."""

_STEPS = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION)


def run(
    world: World, incident_id: int, digest: str, terms: Terms, tell: Callable[[Progress], None] | None = None
) -> Ended:
    """Carry out the incident's newest plan, or go on with it.

    Raises ``Refused`` where ``digest`` is not that plan's, or is not any more before anything was done; ``ValueError``
    where the terms cannot be read.
    """
    shares = policy.waves(terms.waves)
    limits = policy.share(terms.max_failures), policy.share(terms.max_drift)
    with world.store.read() as tx:
        plan = _the_plan(tx, incident_id, digest)
        ca = None if terms.refill else _ca_in_trouble(tx, plan)
    with world.store.write() as tx:
        plan = _the_plan(tx, incident_id, digest, lock=True)
        before = incident_runs.get(tx, incident_id, lock=True)
        through = before is not None and before.plan == plan.number and before.ended_at is not None
        if not through:
            # Who goes on with a run holds nothing anew: a person may have let the refills go meanwhile.
            first = before is None or before.plan != plan.number
            _begin(tx, plan, terms, ca if first else None)
    one = _Run(world, plan, terms, shares, limits, ca, tell)
    released = tuple(refills.release_for(world, incident_id)) if terms.refill else ()
    one.see_earlier_plans()
    one.hurry()
    if through:
        return Ended(one.see_the_rest(), None, released)
    try:
        one.order_backups()
        return Ended(True, one.carry_out(), released)
    except Overtaken as over:
        if not one.acted:
            raise
        return Ended(True, over.reason, released, overtaken=True)


def _the_plan(tx: Transaction, incident_id: int, digest: str, *, lock: bool = False) -> Plan:
    """The newest plan. ``lock``: it stays so. Raises ``Refused`` where ``digest`` is not its hash."""
    incident = opened(tx, incident_id, lock=lock)
    plan = newest_plan(tx, incident)
    if plan is None:
        raise Refused(
            f"incident {incident_id} has no plan that is complete",
            remedy=f"Make one: dualcert incident plan {incident_id}",
        )
    if digest.lower() != plan.hash:
        raise Refused(
            f"{digest[:16]} is not the hash of the newest plan of incident {incident_id}",
            remedy=f"Look at the plan again, then run it: dualcert incident plan {incident_id}",
        )
    return plan


def _ca_in_trouble(tx: Transaction, plan: Plan) -> str | None:
    """Whose incident it is: said when it was opened, or the only CA that is left by it. Refills are held there.

    Where keys have leaked, no CA is in trouble.
    """
    if of_leak(plan.incident):
        return None
    if plan.incident.ca is not None:
        return plan.incident.ca
    by_ca = incident_plans.grouped(tx, plan.incident.id, plan.number, "ca")
    left = [ca for ca, actions in by_ca.items() if actions.keys() - {Action.REFILL.value}]
    return left[0] if len(left) == 1 else None


def _begin(tx: Transaction, plan: Plan, terms: Terms, ca: str | None) -> None:
    incident_runs.begin(
        tx,
        plan.incident.id,
        plan.number,
        waves=terms.waves,
        max_failures=terms.max_failures,
        max_drift=terms.max_drift,
        rate=terms.rate,
    )
    if ca is not None:
        incident_progress.hold_refills(tx, ca, plan.incident.id)
    held = f"; refills at {ca} are held" if ca is not None else ""
    _record(tx, plan, f"plan {plan.hash[:16]} is carried out, waves {terms.waves}{held}")


def _record(tx: Transaction, plan: Plan, what: str) -> None:
    events.record(tx, EventKind.INCIDENT_RUN, f"incident {plan.incident.id}: {what}", ca=plan.incident.ca)


class Overtaken(Refused):
    """The incident was closed, or planned anew, while a run of it was under way."""


class _Run:
    def __init__(
        self,
        world: World,
        plan: Plan,
        terms: Terms,
        shares: tuple[Fraction, ...],
        limits: tuple[Fraction, Fraction],
        ca: str | None,
        tell: Callable[[Progress], None] | None,
    ) -> None:
        self._world = world
        self._id = plan.incident.id
        self._plan = plan
        self._terms = terms
        self._ends = policy.ends(shares, plan.counts.usable)
        self._max_failures, self._max_drift = limits
        self._tell = tell
        self._engine = Engine(world)
        self._pace = Pace(world, _BATCH)
        self._cause = f"incident {self._id}: {plan.incident.title}"
        self._tally = Tally(0, 0, 0)
        self._up_to = 0
        self._ca_in_trouble = ca
        self.acted = False
        """Whether anything that this run has done stands in the database: whoever is refused now was not before."""

    # --- promoting -----------------------------------------------------------------------------------------

    def carry_out(self) -> str | None:
        """All waves. Why it stopped before the last one was over; None where it is through."""
        for wave, end in enumerate(self._ends):
            stopped = self._wave(wave, end)
            if stopped is not None:
                with self._world.store.write() as tx:
                    incident_runs.set_end(tx, self._id, self._plan.number, stopped=stopped)
                    _record(tx, self._plan, f"stopped: {stopped}")
                return stopped
        with self._world.store.write() as tx:
            incident_runs.set_end(tx, self._id, self._plan.number, stopped=None)
            _record(tx, self._plan, "every row has had its turn")
        return None

    def _wave(self, wave: int, end: int) -> str | None:
        self._tally = self._counted()
        while True:
            stopped = policy.drifting(self._tally, self._max_drift)
            if stopped is not None:
                self._see(wave)
                return f"{stopped}; make a new plan: dualcert incident plan {self._id}"
            if self._tally.turned >= end:
                break
            self._promote(wave, end - self._tally.turned)
            self._say(wave)
        self._see(wave)
        return policy.failing(self._counted(), self._max_failures)

    def _promote(self, wave: int, most: int) -> None:
        """One batch. What others have turned meanwhile is behind ``up_to_pair`` already."""
        began = self._world.clock.monotonic()
        limit = min(self._pace.size, most, self._terms.rate or most)
        with self._pace.unit(), self._world.store.write() as tx:
            run = self._ours(tx)
            alone = run.up_to_pair == self._up_to
            up_to, many = incident_runs.bound(tx, self._id, self._plan.number, run.up_to_pair, limit)
            if not many and alone:
                raise StoreError(
                    f"rows of the plan of incident {self._id} are missing",
                    remedy=f"Make a new plan: dualcert incident plan {self._id}",
                )
            batch = Range(self._id, self._plan.number, run.up_to_pair, up_to)
            held = None if self._held_at(tx) is None else incident_progress.held_for(self._id)
            promoted, skipped = incident_runs.promote(tx, batch)
            incident_runs.follow_up(tx, batch, self._cause, refills_held=held)
            incident_runs.set_wave(tx, self._id, wave, up_to)
        self.acted = True
        before = self._tally
        if alone:
            self._up_to = up_to
            fresh = Tally(many, skipped, promoted)
        else:
            # What was counted before is not counted again: two who take turns would count all rows at each batch.
            fresh = self._counted(after=self._up_to)
        self._tally = Tally(
            before.turned + fresh.turned, before.skipped + fresh.skipped, before.unseen + fresh.unseen
        )
        if self._terms.rate:
            spent = self._world.clock.monotonic() - began
            self._world.clock.sleep(max(0.0, many / self._terms.rate - spent))

    def _ours(self, tx: Transaction) -> Run:
        """The run as it stands, held. Raises ``Overtaken`` where the incident was closed or planned anew meanwhile."""
        try:
            incident = opened(tx, self._id, lock=True)
        except Refused as refused:
            raise Overtaken(refused.reason, remedy=refused.remedy) from None
        if incident.plan != self._plan.number:
            raise Overtaken(
                f"somebody has planned incident {self._id} anew meanwhile",
                remedy=f"Look at the plan again, then run it: dualcert incident plan {self._id}",
            )
        if newest_plan(tx, incident) is None:
            raise Overtaken(
                f"somebody has added certificates to incident {self._id} meanwhile",
                remedy=f"Make a new plan: dualcert incident plan {self._id}",
            )
        run = incident_runs.get(tx, self._id, lock=True)
        if run is None or run.plan != self._plan.number:
            raise Overtaken(
                f"another plan of incident {self._id} is carried out by now",
                remedy=f"See: dualcert incident status {self._id}",
            )
        return run

    def _held_at(self, tx: Transaction) -> str | None:
        """The CA at which refills are held still: whoever lets them go meanwhile looks for none that come later."""
        ca = self._ca_in_trouble
        held = ca is not None and incident_progress.refills_held_for(tx, ca, lock=True) is not None
        return ca if held else None

    def _so_far(self, tx: Transaction) -> Range:
        run = incident_runs.get(tx, self._id)
        return Range(self._id, self._plan.number, 0, run.up_to_pair if run is not None else 0)

    def _counted(self, after: int = 0) -> Tally:
        """As the database has it, of the pairs with numbers above ``after``; between two counts it is reckoned on.

        What others have seen of earlier ones meanwhile is known at the next count of all: each wave begins and ends
        with one.
        """
        with self._world.store.read() as tx:
            batch = self._so_far(tx)._replace(after=after)
            self._up_to = batch.up_to
            return Tally(
                turned=incident_runs.turned(tx, batch),
                skipped=incident_progress.skipped(tx, batch),
                unseen=incident_progress.unseen(tx, batch),
            )

    # --- deploying and looking -----------------------------------------------------------------------------

    def _see(self, wave: int) -> None:
        """Everything promoted so far is deployed and looked at, as far as that succeeds."""
        with self._world.store.read() as tx:
            batch = self._so_far(tx)
        self._see_all(batch, wave)

    def see_earlier_plans(self) -> None:
        """What earlier plans have promoted and nobody has seen: it is in no row of this plan that is to be promoted."""
        with self._world.store.read() as tx:
            plans = incident_report.plans_carried_out(tx, self._id)
        for number in plans:
            if number < self._plan.number:
                batch = Range(self._id, number, 0, _ALL)
                self._hurry(batch)
                self._see_all(batch, 0)

    def _see_all(self, batch: Range, wave: int) -> None:
        while True:
            with self._world.store.read() as tx:
                ids = incident_progress.unobserved(tx, batch, _TOGETHER)
            if not ids:
                return
            scope = Scope(frozenset(ids), _STEPS)
            run_until(self._engine, scope, self._world.clock.now() + _PATIENCE)
            with self._world.store.write() as tx:
                seen = incident_progress.observe(tx, batch._replace(up_to=ids[-1]))
            self._tally = replace(self._tally, unseen=max(0, self._tally.unseen - seen))
            batch = batch._replace(after=ids[-1])
            self._say(wave)

    def hurry(self) -> None:
        """What an earlier run has promoted and not brought to its targets is tried again at once."""
        with self._world.store.read() as tx:
            batch = self._so_far(tx)
        self._hurry(batch)

    def _hurry(self, batch: Range) -> None:
        while True:
            # A unit of work that looked through millions for these would keep others waiting.
            with self._world.store.glance() as tx:
                ids = incident_progress.unobserved(tx, batch, _MARKED)
            if not ids:
                return
            with self._world.store.write() as tx:
                incident_progress.hurry(tx, batch._replace(up_to=ids[-1]))
            batch = batch._replace(after=ids[-1])

    def see_the_rest(self) -> bool:
        """Of a run that is through: what was promoted and not seen. Whether there was anything."""
        with self._world.store.read() as tx:
            left = incident_progress.unseen(tx, self._so_far(tx))
        if left:
            self._see(len(self._ends) - 1)
        return bool(left)

    def order_backups(self) -> None:
        """Pairs whose backup is not to be used, or is named itself, get another one: ordered before anything that can
        wait, and where the CA is the one in trouble, when somebody says so."""
        after = 0
        while True:
            # A unit that looked through a plan of millions without any would keep others waiting.
            with self._world.store.glance() as tx:
                up_to = incident_progress.refills_up_to(tx, self._id, self._plan.number, after, _MARKED)
            if up_to is None:
                return
            with self._world.store.write() as tx:
                self._ours(tx)
                batch = Range(self._id, self._plan.number, after, up_to)
                incident_progress.order_backups(tx, batch, self._cause, self._held_at(tx))
            self.acted = True
            after = up_to

    def _say(self, wave: int) -> None:
        if self._tell is None:
            return
        tally = self._tally
        seen = tally.turned - tally.skipped - tally.unseen
        waves, total, deadline = len(self._ends), self._plan.counts.usable, self._plan.incident.deadline
        self._tell(Progress(wave + 1, waves, total, tally.turned, seen, deadline))
