"""One order at one CA, step by step; every irreversible step is written down before it is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dualcert.errors import (
    CaError,
    CaRejected,
    ChallengeFailed,
    DnsError,
    DnsUnreachable,
    DualcertError,
    ResourceGone,
    StoreError,
)
from dualcert.lifecycle import accounts, budgeting, keymaking, replacing, storing, validation, weakkeys
from dualcert.lifecycle.looking import look_again
from dualcert.lifecycle.world import CaBinding, Placing, World
from dualcert.model.events import EventKind
from dualcert.model.order import ChallengeRecord, Order, OrderStep
from dualcert.model.pair import Lineage, Pair
from dualcert.model.work import DAY, FROZEN, Done, Failed, Later, Outcome, Waiting, WorkRow
from dualcert.policy import backoff, pairing
from dualcert.policy.backoff import Failure
from dualcert.policy.pairing import CaIdentity
from dualcert.policy.recovery import Recovery, is_overdue, passing, recover
from dualcert.ports.ca import CertificateAuthority, OrderSnapshot
from dualcert.store import Transaction, events, orders, pairs, standings, work
from dualcert.store import accounts as stored_accounts

_GONE_AT_MOST = 3
"""How often an order that vanished at the CA is replaced at once before backing off."""

_CLOSED_LOOK = timedelta(hours=1)
"""A CA that is opened again wakes those who wait; this is for what has come in between."""

_OLD = timedelta(hours=1)
"""After this time an order may have expired: failures of any kind while it lived do not count against the next one."""

_YOUNG = timedelta(minutes=10)

_FIRST, _EVERY = 4, 10
"""At which looks a CSR is sent again to who stays ready: the first ones, then every tenth."""


@dataclass(frozen=True)
class _UnderWay:
    """An order that is placed, or finalized, and its pair. Nobody but who holds its row moves it: not read again."""

    pair: Pair
    order: Order


def advance(world: World, row: WorkRow) -> Outcome:
    """Take one step of the order of a pair at a CA."""
    began = world.clock.now()
    if isinstance(row.known, _UnderWay):
        return _go_on(world, row, row.known, began)
    with world.store.read() as tx:
        pair = pairs.by_id(tx, row.pair_id)
        order = orders.open_order(tx, row.pair_id, row.ca)
        records = validation.records_of(tx, order)
        closed = standings.get(tx, row.ca).closed if _is_to_leave(world, row, order) else None
    if pair is None:
        return _drop(world, row)
    if closed is not None:
        return _kept_back(closed, began)
    try:
        return _recovering(world, row, pair, began, lambda: _step(world, row, pair, order, records))
    except _Closed as found:
        return _kept_back(found.reason, began)


class _Closed(StoreError):
    """The CA was closed while a key was made for it: nothing of the unit of work is kept."""


def _kept_back(closed: str, began: datetime) -> Outcome:
    return Later(began + _CLOSED_LOOK, f"no order goes there: {closed}", waiting_for=FROZEN)


def _known(world: World, row: WorkRow, order: Order | None) -> Placing | None:
    """What this process knows of an order without a URL."""
    known = world.placing.get((row.pair_id, row.ca))
    return known if known and order and known.order.spki == order.spki else None


def _is_to_leave(world: World, row: WorkRow, order: Order | None) -> bool:
    if order is not None and order.step is not OrderStep.PLACING:
        return False
    known = _known(world, row, order)
    return known is None or known.answer is None


def _go_on(world: World, row: WorkRow, known: _UnderWay, began: datetime) -> Outcome:
    records = []
    if known.order.step is OrderStep.PLACED:
        with world.store.glance() as tx:
            records = validation.records_of(tx, known.order)
    return _recovering(
        world, row, known.pair, began, lambda: _step(world, row, known.pair, known.order, records)
    )


def _recovering(
    world: World, row: WorkRow, pair: Pair, began: datetime, step: Callable[[], Outcome]
) -> Outcome:
    try:
        return step()
    except CaError as error:
        return _recovered(world, row, pair, error, began)
    except DnsError as error:
        return _later(world, row, error, began, passing=isinstance(error, DnsUnreachable))


def _drop(world: World, row: WorkRow) -> Outcome:
    with world.store.write() as tx:
        work.finish(tx, row)
    return Done()


def _step(
    world: World, row: WorkRow, pair: Pair, order: Order | None, records: list[ChallengeRecord]
) -> Outcome:
    ca = world.ca(row.ca)
    client = accounts.authority(world, ca)
    if order is None or order.step is OrderStep.PLACING:
        return _place(world, row, pair, ca, client, lost=order)
    if order.step is OrderStep.PLACED:
        if not row.continued:
            return _knowing(pair, order, validation.prepare(world, row, pair, order, client, records))
        outcome = validation.advance(world, row, order, client, records)
        if outcome is None:
            return _finalize(world, row, pair, order, client)
        return _knowing(pair, order, outcome)
    return _collect(world, row, pair, order, client)


def _knowing(pair: Pair, order: Order, outcome: Outcome) -> Outcome:
    """What came of a step that has left the order as it is."""
    if isinstance(outcome, Later | Waiting):
        return replace(outcome, known=_UnderWay(pair, order))
    return outcome


def _place(
    world: World, row: WorkRow, pair: Pair, ca: CaBinding, client: CertificateAuthority, lost: Order | None
) -> Outcome:
    """newOrder. An order found without its URL may exist at the CA, but its key is spent: it is given up.

    Not where we know that it never left, nor where the answer came to us: only the database was away then.
    """
    known = _known(world, row, lost)
    if known is None:
        budgeting.before_order(world, row, pair, ca)
        known = _intend(world, row, pair, ca, lost)
    order, answer = known.order, known.answer
    if answer is None:
        del world.placing[pair.id, ca.name]
        answer = replacing.place(world, row, client, known)
        world.placing[pair.id, ca.name] = replace(known, answer=answer)
    with world.store.write() as tx:
        work.hold(tx, row)
        orders.placed(tx, order.id, answer.url, answer.finalize, answer.authorizations)
        events.record(tx, EventKind.PLACED, answer.url, pair=pair.id, ca=ca.name)
    del world.placing[pair.id, ca.name]
    order = replace(
        order,
        step=OrderStep.PLACED,
        url=answer.url,
        finalize=answer.finalize,
        authorizations=answer.authorizations,
    )
    if answer.status == "ready":
        return _finalize(world, row, pair, order, client)
    return _knowing(pair, order, validation.prepare(world, row, pair, order, client, []))


def _intend(world: World, row: WorkRow, pair: Pair, ca: CaBinding, lost: Order | None) -> Placing:
    """Make the attempt's key and CSR, and write the order down before it leaves, with what it replaces."""
    key = weakkeys.sound(world, lambda: keymaking.make(pair.key_type, pair.names), ca=ca.name, pair=pair.id)
    wrapped = keymaking.wrap(world, ca.domain, key)
    with world.store.write() as tx:
        work.hold(tx, row)
        closed = standings.get(tx, ca.name).closed
        if closed is not None:
            raise _Closed(closed)
        if lost is not None:
            why = "no answer to newOrder was recorded"
            orders.set_step(tx, lost.id, OrderStep.ABANDONED, why)
            events.record(tx, EventKind.ABANDONED, why, pair=pair.id, ca=ca.name)
        lineage = _independent_lineage(world, tx, pair.id, ca)
        issuance = orders.last_issuance(tx, pair.id) or 0
        order = orders.begin(tx, lineage, issuance, pair.names, key.csr, wrapped)
        replaces = replacing.name_predecessor(tx, order)
        counted = budgeting.take_order(tx, row, pair, ca, replaces)
        cause = f"a new key of type {pair.key_type.value}"
        events.record(tx, EventKind.ORDERING, cause, pair=pair.id, ca=ca.name)
        # Before the commit: where the answer to that is lost, the order may be written down and has not left.
        known = world.placing[pair.id, ca.name] = Placing(order, replaces, counted=counted)
    return known


def _independent_lineage(world: World, tx: Transaction, pair_id: int, ca: CaBinding) -> Lineage:
    """The lineage that an order fills. Raises ``CaRejected`` where its CA falls together with the other lineage's."""
    _check_independence(world, tx, pair_id, ca)
    return next(one for one in pairs.lineages(tx, [pair_id]) if one.ca == ca.name)


def _check_independence(world: World, tx: Transaction, pair_id: int, ca: CaBinding) -> None:
    accounts_by_ca = stored_accounts.of_pair(tx, pair_id)
    mine = accounts_by_ca.pop(ca.name, None)
    if mine is None:
        return
    for theirs in accounts_by_ca.values():
        _compare(ca, mine, theirs, world.cas.get(theirs.ca))


def _compare(
    ca: CaBinding,
    mine: stored_accounts.StoredAccount,
    theirs: stored_accounts.StoredAccount,
    other: CaBinding | None,
) -> None:
    found = pairing.ca_objections(
        CaIdentity(ca.name, ca.directory, ca.operator, mine.caa_identities, ca.domain),
        CaIdentity(
            theirs.ca,
            theirs.directory,
            other.operator if other else None,
            theirs.caa_identities,
            theirs.key.domain,
        ),
    )
    if found:
        raise CaRejected(
            "; ".join(found),
            problem="userActionRequired",
            remedy="A pair needs two CAs that do not fall together: configure another one.",
            ca=ca.name,
        )


def _finalize(world: World, row: WorkRow, pair: Pair, order: Order, client: CertificateAuthority) -> Outcome:
    """Every authorization is valid: send the CSR, and take the certificate where the CA is as quick as that."""
    with world.store.write() as tx:
        work.hold(tx, row)
        # Asked again: when this order was placed, the other CA may not have told yet who it is.
        _check_independence(world, tx, order.pair_id, world.ca(order.ca))
        orders.finalizing(tx, order.id)
        if not validation.spend(tx, order):
            # The pair's other order may have waited for values that this one turned out not to need.
            validation.schedule_publication(tx, order.pair_id)
        events.record(tx, EventKind.VALIDATED, "every name is authorized", pair=order.pair_id, ca=order.ca)
    snapshot = _send(order, client)
    if snapshot.status == "processing" and snapshot.retry_after is None:
        snapshot = client.order(snapshot.url)
    # What was looked at before is over: this is looked at as often from the beginning.
    return _received(
        world, replace(row, looks=0), pair, replace(order, step=OrderStep.FINALIZING), client, snapshot
    )


def _send(order: Order, client: CertificateAuthority) -> OrderSnapshot:
    if order.url is None or order.finalize is None:
        raise AssertionError("an order was validated before it was placed")
    return client.finalize(order.finalize, order.url, order.csr)


def _collect(world: World, row: WorkRow, pair: Pair, order: Order, client: CertificateAuthority) -> Outcome:
    """Look at an order that was, or may have been, finalized; fetch its certificate when there is one."""
    snapshot = client.order(order.url or "")
    asked_at = _finalized_at(world, order)
    since: datetime | None = asked_at
    if snapshot.status == "ready" and (row.looks < _FIRST or row.looks % _EVERY == 0):
        # Lost before it arrived, or refused by a copy that lagged behind. Who takes it and stays ready is not sent it
        # at each look.
        validation.refuse_overdue(order, snapshot, asked_at, world.clock.now())
        snapshot = _send(order, client)
        since = asked_at if snapshot.status == "ready" else None
    return _received(world, row, pair, order, client, snapshot, since)


def _finalized_at(world: World, order: Order) -> datetime:
    """Read only where it matters: an order that is young is not left alone, or given up, either way."""
    if world.clock.now() - order.created_at < _YOUNG:
        return order.created_at
    with world.store.glance() as tx:
        return validation.asked_at(tx, order)


def _received(
    world: World,
    row: WorkRow,
    pair: Pair,
    order: Order,
    client: CertificateAuthority,
    snapshot: OrderSnapshot,
    since: datetime | None = None,
) -> Outcome:
    """``since`` when the CA may have been issuing; None: it was told to just now."""
    if snapshot.status == "valid" and snapshot.certificate is not None:
        try:
            issued = client.certificate(snapshot.certificate)
        except ResourceGone as error:
            # The order has just said that it is there: a copy at the CA that lags behind. Another order would be
            # another certificate of the few that a set gets.
            if since is not None:
                validation.refuse_overdue(order, snapshot, since, world.clock.now())
            return _knowing(pair, order, look_again(world, row, str(error), since=since))
        return storing.store(world, row, pair, order, issued)
    if snapshot.status in {"pending", "processing", "ready", "valid"}:
        if since is not None:
            validation.refuse_overdue(order, snapshot, since, world.clock.now())
        # Pending says a copy at the CA that lags behind what let us finalize. Valid without saying where the
        # certificate is: RFC 8555 section 7.1.3 has it say so, some do a moment later.
        reason = "the CA is issuing the certificate"
        again = look_again(world, row, reason, snapshot.retry_after, since=since)
        return _knowing(pair, order, again)
    raise ChallengeFailed(
        f"the order became {snapshot.status}: {snapshot.error or 'the CA gave no reason'}", ca=row.ca
    )


# --- when something went wrong ---------------------------------------------------------------------------


def _recovered(world: World, row: WorkRow, pair: Pair, error: CaError, began: datetime) -> Outcome:
    with world.store.read() as tx:
        order = orders.open_order(tx, row.pair_id, row.ca)
        overdue = order is not None and _is_overdue(tx, order, began)
    placed = order is not None and order.url is not None
    budgeting.obey(world, row, pair, error, placed=placed)
    recovery = recover(error, placed=placed and not overdue)
    if recovery is not Recovery.SAME_ORDER:
        _give_up(world, row, pair, order, error)
    match recovery:
        case Recovery.PERSON:
            return Failed(str(error))
        case Recovery.NEXT_DAY:
            return Later(backoff.next_day(world.clock.now()), str(error), failed=True, waiting_for=DAY)
        case Recovery.NEW_ORDER_NOW if row.attempts < _GONE_AT_MOST or _is_old(order, began):
            return Later(world.clock.now(), str(error), failed=True)
        case _:
            return _later(world, row, error, began, passing=passing(error))


def _is_overdue(tx: Transaction, order: Order, now: datetime) -> bool:
    return is_overdue(order.created_at, now) and is_overdue(validation.asked_at(tx, order), now)


def _is_old(order: Order | None, now: datetime) -> bool:
    """Whether an order has had its time at the CA: to replace such ones at once is no loop."""
    return order is not None and now - order.created_at >= _OLD


def _give_up(world: World, row: WorkRow, pair: Pair, order: Order | None, error: CaError) -> None:
    """The attempt is over: its key is spent, its values go. An unfit certificate's order is closed already."""
    with world.store.write() as tx:
        work.hold(tx, row)
        if order is not None:
            orders.set_step(tx, order.id, OrderStep.ABANDONED, error.reason)
            validation.spend(tx, order)
        budgeting.after_failure(tx, world, pair, row.ca, order, error)
        events.record(tx, EventKind.FAILED, error.reason, pair=pair.id, ca=row.ca)
    world.placing.pop((pair.id, row.ca), None)


def _later(world: World, row: WorkRow, error: DualcertError, began: datetime, *, passing: bool) -> Outcome:
    failure = Failure(began, row.attempts, row.since, world.draw())
    at = backoff.after_failure(world.clock.now(), failure, passing=passing, wished=error.retry_after)
    return Later(at, str(error), failed=True, waiting_for=budgeting.waits_for(error))
