"""What a CA counts is taken before it is asked, given back where nothing came of it, and put right by the CA's 429.

A permit for a new order is taken in the transaction that writes the order's intent down, so a process that dies in
between wastes one at the most. It is given back where the order cannot have reached the CA, and not when it fails
otherwise: the CA has counted the request. The one for a certificate under a registered domain is, as long as no CSR was
sent: no certificate can have come of it.

What a budget does not allow raises ``BudgetSpent``, the transaction leaves nothing, and the row of work comes back at
a time of its own. Each CA has its own buckets: one that is empty delays no other CA's order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from operator import attrgetter

from dualcert.errors import CaBusy, CaError, ChallengeFailed
from dualcert.lifecycle.permits import BudgetSpent
from dualcert.lifecycle.suffixes import public_suffixes
from dualcert.lifecycle.world import CaBinding, World
from dualcert.model.order import Order, OrderStep
from dualcert.model.pair import Pair
from dualcert.model.work import BUDGET, Later, WorkRow
from dualcert.policy import budget, urgency
from dualcert.policy.budget import KNOWN_FOR, Allowance, Decision, Kind, Limit, Subject, decide
from dualcert.store import Transaction, budgets, certificates, pairs, renewal_info

_ORDERS, _NEW_ORDERS = Subject(Kind.ORDERS), Subject(Kind.NEW_ORDERS)
_REVOCATIONS, _REQUESTS = Subject(Kind.REVOCATIONS), Subject(Kind.REQUESTS)
_MARGIN = timedelta(milliseconds=5)
"""The process's clock and the database's may differ by what the latter rounds off."""

_OF_ORDERS = (Kind.ORDERS, Kind.SET, Kind.FAILED, Kind.NEW_ORDERS, Kind.DOMAIN)


def allowance(world: World, tx: Transaction, ca: str) -> Allowance:
    """How many orders of those that a CA counts may leave its queue."""
    binding = world.cas.get(ca)
    limit = None if binding is None else binding.limits.get(Kind.NEW_ORDERS)
    standings, now = budgets.look(tx, ca, [Kind.ORDERS, Kind.NEW_ORDERS], [""])
    return budget.allowance(limit, standings.get(_NEW_ORDERS), standings.get(_ORDERS), now)


# --- an order ----------------------------------------------------------------------------------------------


def before_order(world: World, row: WorkRow, pair: Pair, ca: CaBinding) -> None:
    """What is cheaper asked before a key is made: is there room at all, for a row that may have to wait."""
    if ca.permits is not None:
        ca.permits.ready()
    if Kind.DOMAIN in ca.limits:
        public_suffixes()  # takes a while to read, which no transaction should last
    if row.waiting_for == BUDGET or (row.needed_by is not None and ca.limits):
        with world.store.read() as tx:
            if not budgets.is_in_window(tx, pair.id, ca.name):
                _Question(tx, row, pair, ca, None).demand()


def take_order(
    tx: Transaction, row: WorkRow, pair: Pair, ca: CaBinding, replaces: str | None = None
) -> tuple[tuple[Subject, Limit], ...]:
    """Take what the CA counts of a new order, and tell what that is. Raises ``BudgetSpent``; the transaction is not to
    be committed then.

    ``replaces``: the ARI identifier that the order will name (RFC 9773 section 5).
    """
    question = _Question(tx, row, pair, ca, replaces)
    question.demand()
    if row.waiting_for == BUDGET:
        budgets.waits_no_more(tx, row)
    for subject, limit in question.counted:
        if not budgets.take(tx, ca.name, subject, limit, leave=question.leave(limit)):
            # Another process was faster, between our look and now.
            _Question(tx, row, pair, ca, replaces).demand(hindmost=subject)
    budgets.tidy(tx, ca.name, (subject for subject, _ in question.counted))
    return tuple(question.counted)


class _Question:
    """May this order be placed now, and what does the CA count of it?"""

    def __init__(
        self, tx: Transaction, row: WorkRow, pair: Pair, ca: CaBinding, replaces: str | None
    ) -> None:
        self._ca = ca
        self._needed_by = row.needed_by
        names = budget.candidates(pair.names)
        of_set = Subject(Kind.SET, pair.names_digest.hex())
        self._standings, self.now = budgets.look(tx, ca.name, _OF_ORDERS, ["", of_set.of, *names])
        asked = [_ORDERS, of_set, *(Subject(Kind.FAILED, one) for one in budget.bare(pair.names))]
        self.counted: list[tuple[Subject, Limit]] = []
        if self._may_count() and not is_renewal(tx, pair, ca, replaces):
            # Others take theirs in the same order, so that no two wait for each other.
            counted = [*(Subject(Kind.DOMAIN, one) for one in sorted(_domains(pair, ca))), _NEW_ORDERS]
            self.counted = [(one, ca.limits[one.kind]) for one in counted if one.kind in ca.limits]
            asked += [*counted, *(Subject(Kind.DOMAIN, one) for one in names)]
        self._asked = tuple(dict.fromkeys(asked))

    def _may_count(self) -> bool:
        """Whether it matters at all that the set is new to the CA."""
        kinds = {Kind.NEW_ORDERS, Kind.DOMAIN}
        return bool(kinds & self._ca.limits.keys()) or any(one.kind in kinds for one in self._standings)

    def _decision(self) -> Decision:
        return budget.stricter(*map(self._decide, self._asked))

    def _decide(self, subject: Subject) -> Decision:
        limit = self._ca.limits.get(subject.kind)
        leave = 0 if limit is None or subject.kind is Kind.FAILED else self.leave(limit)
        return decide(subject, limit, self._standings.get(subject), self.now, leave=leave)

    def leave(self, limit: Limit) -> int:
        """What may wait leaves something to what is needed soon, or to whom a person has asked for."""
        may_wait = self._needed_by is not None and not urgency.is_urgent(self._needed_by, self.now)
        return limit.reserve if may_wait else 0

    def demand(self, hindmost: Subject | None = None) -> None:
        """Raise ``BudgetSpent`` unless the order may be placed, and in any case where a bucket proved empty."""
        decision = self._decision()
        if hindmost is None and decision.allowed:
            return
        if decision.at is None and hindmost is not None:
            limit = self._ca.limits[hindmost.kind]
            decision = budget.used_up(hindmost, limit, self.now + limit.interval)
        if decision.at is not None:
            raise BudgetSpent(self._ca.name, decision, decision.at - self.now)


def is_renewal(tx: Transaction, pair: Pair, ca: CaBinding, replaces: str | None = None) -> bool:
    """Whether the CA counts the order neither as a new one nor against its registered domains."""
    if replaces is not None and budgets.is_in_window(tx, pair.id, ca.name, replaces):
        return True
    return budgets.is_known_set(tx, ca.name, pair.names_digest, tx.now - KNOWN_FOR)


def _domains(pair: Pair, ca: CaBinding) -> set[str]:
    if Kind.DOMAIN not in ca.limits:
        return set()
    return {registered_domain(name) for name in pair.names}


def registered_domain(name: str) -> str:
    """What a registrar sells, by the public suffix list, private suffixes included; a suffix stands for itself."""
    bare = name.removeprefix("*.")
    return public_suffixes().privatesuffix(bare) or bare


def after_failure(
    tx: Transaction, world: World, pair: Pair, ca: str, order: Order | None, error: CaError
) -> None:
    """An order has come to nothing, ``error`` says why: count what the CA counts, give back what it does not."""
    _give_back(tx, world, pair, ca, order, error)
    failed = world.ca(ca).limits.get(Kind.FAILED)
    if failed is not None and isinstance(error, ChallengeFailed) and error.name is not None:
        name = Subject(Kind.FAILED, error.name.removeprefix("*."))
        budgets.charge(tx, ca, name, failed)
        budgets.tidy(tx, ca, [name])


def _give_back(
    tx: Transaction, world: World, pair: Pair, ca: str, order: Order | None, error: CaError
) -> None:
    if order is None or order.step is OrderStep.FINALIZING:
        return
    known, domain = world.placing.get((pair.id, ca)), world.ca(ca).limits.get(Kind.DOMAIN)
    if known is not None and known.order.id == order.id and known.answer is None:
        # It has not left. What a CA has said by when to come back has put its buckets right already.
        _return(tx, ca, order, () if waits_for(error) else known.counted)
    elif domain is not None and not is_renewal(tx, pair, world.ca(ca), renewal_info.replaces(tx, order.id)):
        under = sorted({registered_domain(name) for name in order.names})
        _return(tx, ca, order, [(Subject(Kind.DOMAIN, one), domain) for one in under])


def _return(tx: Transaction, ca: str, order: Order, taken: Iterable[tuple[Subject, Limit]]) -> None:
    for subject, limit in taken:
        # A permit that is older may have been replaced already: the bucket may have been full since.
        if tx.now - order.created_at < limit.interval:
            budgets.give_back(tx, ca, subject, limit)


# --- a revocation ------------------------------------------------------------------------------------------


def take_revocation(world: World, row: WorkRow) -> datetime:
    """Take a permit to revoke one certificate; when that was. Raises ``BudgetSpent``."""
    ca = world.ca(row.ca)
    if ca.permits is not None:
        ca.permits.ready()
    limit = ca.limits.get(Kind.REVOCATIONS)
    with world.store.read() if limit is None else world.store.write() as tx:
        standings, now = budgets.look(tx, ca.name, [Kind.REVOCATIONS], [""])
        said = decide(_REVOCATIONS, limit, standings.get(_REVOCATIONS), now)
        if said.at is None and limit is not None and not budgets.take(tx, ca.name, _REVOCATIONS, limit):
            said = budget.used_up(_REVOCATIONS, limit, now + limit.interval)
    if said.at is not None:
        raise BudgetSpent(ca.name, said, said.at - now)
    return tx.now


def return_revocation(world: World, row: WorkRow, taken: datetime) -> None:
    """The request for which a permit was taken then has not left."""
    limit = world.ca(row.ca).limits.get(Kind.REVOCATIONS)
    if limit is not None:
        with world.store.write() as tx:
            if tx.now - taken < limit.interval:
                budgets.give_back(tx, row.ca, _REVOCATIONS, limit)


# --- what the CA says --------------------------------------------------------------------------------------


def obey(world: World, row: WorkRow, pair: Pair | None, error: CaError, *, placed: bool = True) -> None:
    """Remember a CA's Retry-After for all who would ask the same; ``error`` is told what of it is granted.

    ``placed``: what was refused is not the order itself but something of one that the CA has taken.
    """
    if not error.retry_after:
        return
    if not isinstance(error, CaBusy):
        error.retry_after = granted(world, row, error.retry_after)
        return
    ca = world.ca(row.ca)
    with world.store.write() as tx:
        error.retry_after = budget.granted(error.retry_after, _life_left(tx, row))
        # Others hold theirs in the same order, so that no two wait for each other.
        subjects = sorted(_concerned(tx, pair, ca, error, placed=placed), key=attrgetter("of"))
        for subject in subjects:
            debt = budget.debt(ca.limits.get(subject.kind))
            budgets.hold(tx, ca.name, subject, error.retry_after, debt, error.reason)
        budgets.tidy(tx, ca.name, subjects)


def granted(world: World, row: WorkRow, wished: timedelta) -> timedelta:
    """What is obeyed of a CA's Retry-After that concerns this row alone."""
    with world.store.read() as tx:
        return budget.granted(wished, _life_left(tx, row))


def _concerned(
    tx: Transaction, pair: Pair | None, ca: CaBinding, error: CaError, *, placed: bool
) -> Sequence[Subject]:
    if pair is None:
        return (_REVOCATIONS,)
    if placed:
        # Something else than an order was too much: one of the requests. Without a budget for these nobody asks.
        return (_REQUESTS,) if ca.permits is not None else ()
    return budget.concerned(error.reason, pair.names, counted=not is_renewal(tx, pair, ca))


def _life_left(tx: Transaction, row: WorkRow) -> timedelta | None:
    """Of the certificate that the row's lineage has now."""
    lineage = pairs.lineage_at(tx, row.pair_id, row.ca)
    number = None if lineage is None else pairs.state(tx, row.pair_id).certificate_of(lineage.id)
    return None if number is None else certificates.get(tx, number).not_after - tx.now


# --- waiting -----------------------------------------------------------------------------------------------


def waits_for(error: Exception) -> str | None:
    """What a row waits for after a failure: a CA that named a time has not failed."""
    return BUDGET if isinstance(error, CaBusy) and error.retry_after else None


def later(world: World, row: WorkRow, spent: BudgetSpent) -> Later:
    """When the row comes back, and why not sooner.

    A new order comes back with the next permit: in the queue of its CA the most urgent has it. Of what else is counted
    each that waits has a time of its own, as far apart as permits. Who comes too late for his, because somebody came in
    between, does not begin at the end again.
    """
    said, wait = spent.decision, spent.retry_after or timedelta(0)
    if said.subject is not None and said.limit is not None:
        with world.store.write() as tx:
            budgets.correct(tx, spent.ca or "", said.subject, said.limit)
            end = wait
            if said.subject != _NEW_ORDERS:
                end = budgets.queue(tx, spent.ca or "", said.subject, said.limit, wait)
        wait = wait + (end - wait) * world.draw() if row.waiting_for == BUDGET else end
    at = world.clock.now() + min(wait, budget.MOST) + _MARGIN
    return Later(at, f"{spent}; it goes on at {at:%Y-%m-%d %H:%M:%S} UTC", waiting_for=BUDGET)
