"""Takes due rows of work and moves them on, one step at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from dualcert.clock import rfc3339
from dualcert.errors import (
    CaUnreachable,
    ConfigurationError,
    DnsUnreachable,
    DualcertError,
    LeaseLost,
    StoreUnavailable,
    told,
)
from dualcert.lifecycle import (
    budgeting,
    deployment,
    leaving,
    ordering,
    promotion,
    publishing,
    removal,
    renewal,
    renewal_information,
    revocation,
    subject,
)
from dualcert.lifecycle.leasekeeper import STEP, ahead
from dualcert.lifecycle.owner import is_dead, new_owner
from dualcert.lifecycle.permits import BudgetSpent
from dualcert.lifecycle.plugged import WHERE
from dualcert.lifecycle.subject import Subject
from dualcert.lifecycle.telling import PairNames
from dualcert.lifecycle.watching import turning
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.work import (
    ANOTHER_STEP,
    BUDGET,
    DAY,
    PERSON,
    Done,
    Failed,
    Later,
    Outcome,
    Waiting,
    WorkKind,
    WorkRow,
)
from dualcert.policy import backoff
from dualcert.policy.backoff import IN_MEMORY, Failure
from dualcert.store import Transaction, claims, events, leases, pairs, work

log = logging.getLogger(__name__)

ALL_KINDS = tuple(WorkKind)
_COMPANIONS = 100
_GIVEN_BACK_AT_ONCE = 500
_WAITING_LOOK = timedelta(seconds=1)
_RECHECK = timedelta(minutes=5)
"""When a row that waits for another is looked at again although nobody woke it."""

_STEPS: Mapping[WorkKind, Callable[[World, WorkRow], Outcome]] = {
    WorkKind.ORDER: ordering.advance,
    WorkKind.PUBLICATION: publishing.publish,
    WorkKind.WITHDRAWAL: publishing.withdraw,
    WorkKind.VERIFICATION: deployment.verify,
    WorkKind.REVOCATION: revocation.advance,
    WorkKind.REFILL: renewal.refill,
    WorkKind.FALLBACK: promotion.fall_back,
    WorkKind.REMOVAL: removal.advance,
    WorkKind.PROMOTION: leaving.advance,
    WorkKind.SIGNAL: turning.advance,
    WorkKind.RENEWAL_INFORMATION: renewal_information.ask,
}


_OTHERS_NOTICE = 2.0
"""Seconds in which others have noticed as well that the clock was put, and have prolonged their leases."""


def _longest_pause(row: WorkRow, error: DualcertError) -> timedelta:
    if isinstance(error, ConfigurationError):
        return backoff.BY_CONFIGURATION
    at_a_target = row.kind in {WorkKind.DEPLOYMENT, WorkKind.VERIFICATION}
    return backoff.AT_A_TARGET if at_a_target else backoff.MOST


@dataclass(frozen=True)
class Held:
    """A row that this process holds between two steps. ``waiting``: another row must move first, and nothing is lost
    by letting go of this one meanwhile; ``wake_at`` is then only when to look whether it has, and ``until`` then it
    waits no longer, whoever holds it."""

    row: WorkRow
    wake_at: datetime
    reason: str
    waiting: bool = False
    until: datetime | None = None


class Engine:
    """One holder of leases. Safe to use from several threads, each with rows of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.owner = str(new_owner())
        self.names = PairNames(world.store)
        self._at_work = False
        self._renewing = threading.Lock()
        self._ahead = ahead(world.clock)
        # Whether the clock was put the moment before cannot be seen.
        wary = _OTHERS_NOTICE if world.store.goes_by_our_clock else 0.0
        self._wary_until = world.clock.monotonic() + wary

    def claim(
        self,
        kinds: Collection[WorkKind],
        limit: int,
        pairs: Collection[int] | None = None,
        but_not_at: Collection[str] = (),
        but_not_to: Collection[str] = (),
        *,
        expected: bool = False,
    ) -> list[list[WorkRow]]:
        """Due rows, held by this engine from now on; the deployments of one target come together.

        Rows of the CAs in ``but_not_at`` and deployments to the targets in ``but_not_to`` are left. ``expected``: there
        is something, as far as is known.
        """
        batches: list[list[WorkRow]] = []
        by_target: dict[str, list[WorkRow]] = {}
        # Most looks find nothing, and many processes that follow one look often: none of them holds up a writer.
        if not expected and not self._claimable(kinds, pairs, but_not_at, but_not_to):
            return batches
        self._at_work = True
        with self.world.store.write() as tx:
            for row in claims.claim(
                tx,
                self.owner,
                kinds=kinds,
                limit=limit,
                pairs=pairs,
                but_not_at=but_not_at,
                but_not_to=but_not_to,
                allowed=partial(budgeting.allowance, self.world, tx),
                may_take_over=self._may_take_over,
            ):
                if row.kind is WorkKind.DEPLOYMENT:
                    by_target.setdefault(row.target, []).append(row)
                else:
                    batches.append([row])
            for target, rows in by_target.items():
                batches.append([*rows, *self._companions(tx, target)])
        return batches

    def _companions(self, tx: Transaction, target: str) -> list[WorkRow]:
        return claims.claim_companions(tx, self.owner, target, _COMPANIONS, self._may_take_over)

    def _may_take_over(self, owner: str) -> bool:
        """Whether he has what he held for a minute no more; who is known to be dead has nothing."""
        return self._clock_is_believed() or is_dead(owner)

    def _clock_is_believed(self) -> bool:
        """Not right after it was put: on SQLite leases go by this machine's clock, and all seem to have ended."""
        monotonic, now_ahead = self.world.clock.monotonic(), ahead(self.world.clock)
        if abs(now_ahead - self._ahead) > STEP:
            self._ahead, self._wary_until = now_ahead, monotonic + _OTHERS_NOTICE
        return monotonic >= self._wary_until

    def _claimable(
        self,
        kinds: Collection[WorkKind],
        pairs: Collection[int] | None,
        but_not_at: Collection[str],
        but_not_to: Collection[str],
    ) -> bool:
        # Of some pairs, that is one statement.
        store = self.world.store
        with store.read() if pairs is None else store.glance() as tx:
            allowed = partial(budgeting.allowance, self.world, tx)
            return claims.claimable(
                tx,
                self.owner,
                kinds=kinds,
                pairs=pairs,
                but_not_at=but_not_at,
                but_not_to=but_not_to,
                allowed=allowed,
            )

    def advance(self, rows: Sequence[WorkRow]) -> list[Outcome]:
        """Take one step of each row; several rows are deployments of one target. A lost row counts as done.

        Raises ``StoreUnavailable``, and what nobody foresaw: nothing that the step has not written is lost.
        """
        began = self.world.clock.now()
        token = subject.current.set(self._subject(*rows))
        try:
            if rows[0].kind is WorkKind.DEPLOYMENT:
                return deployment.deploy(self.world, rows, self.owner)
            return [_STEPS[rows[0].kind](self.world, rows[0])]
        except LeaseLost:
            return [Done() for _ in rows]
        except StoreUnavailable:
            raise
        except BudgetSpent as spent:
            return [budgeting.later(self.world, row, spent) for row in rows]
        except DualcertError as error:
            return [self._failed(row, error, began) for row in rows]
        finally:
            subject.current.reset(token)

    def _subject(self, row: WorkRow, *others: WorkRow) -> Subject:
        """Of several, what they have in common: the target."""
        if others:
            return Subject(None, None, row.target, None)
        return Subject(partial(self.names, row.pair_id), row.ca or None, row.target or None, row.id)

    def broken(self, row: WorkRow, error: BaseException, level: int = logging.ERROR) -> Held | None:
        """A step was ended by what nobody foresaw: it is told, and tried again after a pause."""
        now = self.world.clock.now()
        about = self._subject(row).told()
        log.log(level, "%s: internal error", row.kind.value, exc_info=error, extra=about)
        failure = Failure(now, row.attempts, row.since, self.world.draw())
        at = backoff.after_failure(now, failure, passing=False)
        return self.settle(row, Later(at, f"internal error: {told(error)}\n  {WHERE}", failed=True))

    def _failed(self, row: WorkRow, error: DualcertError, began: datetime) -> Later:
        passing = isinstance(error, DnsUnreachable | CaUnreachable)
        failure = Failure(began, row.attempts, row.since, self.world.draw())
        now, wished, most = self.world.clock.now(), error.retry_after, _longest_pause(row, error)
        at = backoff.after_failure(now, failure, passing=passing, wished=wished, most=most)
        return Later(at, str(error), failed=True)

    def settle(self, row: WorkRow, outcome: Outcome) -> Held | None:
        """Write down what a step said, and let go of the row unless it is waited for in memory."""
        now = self.world.clock.now()
        self._log(row, outcome)
        match outcome:
            case Done():
                return None
            case Waiting(_, reason):
                again = replace(row, continued=True, looks=0, known=outcome.known)
                return Held(again, now + _WAITING_LOOK, reason, waiting=True, until=outcome.until)
            case Later() if (
                not outcome.failed and outcome.waiting_for is None and outcome.at - now < IN_MEMORY
            ):
                again = replace(row, continued=True, looks=outcome.looks, known=outcome.known)
                return Held(again, outcome.at, outcome.reason)
            case Later() | Failed():
                return self._put_back(row, outcome, now)

    def _log(self, row: WorkRow, outcome: Outcome) -> None:
        trouble = isinstance(outcome, Failed) or (isinstance(outcome, Later) and outcome.failed)
        level = logging.INFO if trouble else logging.DEBUG
        if not log.isEnabledFor(level):
            return
        said = "done" if isinstance(outcome, Done) else outcome.reason
        if isinstance(outcome, Later) and outcome.failed:
            said = f"again at {rfc3339(outcome.at.replace(microsecond=0))}: {said}"
        log.log(level, "%s: %s", row.kind.value, said, extra=self._subject(row).told())

    def _put_back(self, row: WorkRow, outcome: Later | Failed, now: datetime) -> Held | None:
        later = outcome if isinstance(outcome, Later) else None
        short = later is not None and later.at - now < IN_MEMORY and later.waiting_for is None
        with self.world.store.write() as tx:
            pairs.lock(tx, [row.pair_id])
            work.put_back(
                tx,
                row,
                due_at=later.at if later else None,
                reason=outcome.reason,
                waiting_for=later.waiting_for if later else PERSON,
                failed=later is None or later.failed,
                keep_lease=short,
            )
            self._tell_of_waiting(tx, row, later, now)
            self._give_way(tx, row, later)
        if later is None or not short:
            return None
        again = replace(
            row,
            due_at=later.at,
            attempts=row.attempts + 1,
            since=row.since or now,
            continued=False,
            looks=0,
            known=None,
            reason=later.reason,
        )
        return Held(again, later.at, later.reason)

    def _tell_of_waiting(self, tx: Transaction, row: WorkRow, later: Later | None, now: datetime) -> None:
        """That a CA's budget keeps a step waiting is an event once, not at each look."""
        if later is None or later.waiting_for != BUDGET or row.waiting_for == BUDGET:
            return
        if later.at - now >= IN_MEMORY:
            events.record(tx, EventKind.WAITING, later.reason, pair=row.pair_id, ca=row.ca)

    def _give_way(self, tx: Transaction, row: WorkRow, later: Later | None) -> None:
        """An order that failed for good lets a first backup serve without further waiting."""
        if row.kind is WorkKind.ORDER and (later is None or later.waiting_for == DAY):
            work.schedule(tx, WorkKind.FALLBACK, row.pair_id, tx.now)

    def release(self, held: Collection[Held]) -> None:
        """Give rows back that are still held; whoever comes next goes on where this process stopped."""
        now = self.world.clock.now()
        rows = list(held)
        # PostgreSQL takes no statement of more than 65,535 parameters.
        for start in range(0, len(rows), _GIVEN_BACK_AT_ONCE):
            some = rows[start : start + _GIVEN_BACK_AT_ONCE]
            with self.world.store.write() as tx:
                pairs.lock(tx, {one.row.pair_id for one in some})
                work.release(
                    tx,
                    [
                        replace(one.row, reason=one.reason or one.row.reason)
                        for one in some
                        if not one.waiting
                    ],
                )
                for one in some:
                    if one.waiting:
                        at = min(now + _RECHECK, one.until or now + _RECHECK)
                        work.put_back(tx, one.row, due_at=at, reason=one.reason, waiting_for=ANOTHER_STEP)

    def release_all_but(self, known: Collection[int]) -> None:
        """Give back what this engine claimed without hearing of it: its own lease would keep everybody away for good.

        ``known``: the numbers of the rows that it does hold.
        """
        with self.world.store.read() as tx:
            unknown = [row for row in claims.of_owner(tx, self.owner) if row.id not in known]
        if unknown:
            with self.world.store.write() as tx:
                pairs.lock(tx, {row.pair_id for row in unknown})
                work.release(tx, unknown)

    def renew_leases(self) -> None:
        """What this engine holds is its own for another minute. Raises ``StoreUnavailable``."""
        with self._renewing, self.world.store.write() as tx:
            leases.renew(tx, self.owner, at_work=self._at_work)

    def end(self) -> None:
        """It holds nothing any more, and claims nothing."""
        if self._at_work:
            # A renewal that is under way would bring the lease back.
            with self._renewing, self.world.store.write() as tx:
                self._at_work = False
                leases.end(tx, self.owner)

    def take_from_the_dead(self) -> None:
        """What a process of this machine held when it died is free at once."""
        with self.world.store.glance() as tx:
            known = leases.known(tx)
        # A database in a file is this machine's alone, and tells its time.
        alone = self.world.store.goes_by_our_clock
        gone = [
            owner
            for owner, holder in known.items()
            if owner != self.owner and is_dead(owner, None if alone else holder.silent_for)
        ]
        if gone or any(holder.ended for holder in known.values()):
            with self.world.store.write() as tx:
                for owner in gone:
                    leases.release_owner(tx, owner)
                leases.forget_ended(tx)
