"""DNS-01 for an order: values remembered, answered when they are published, and spent."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from dualcert.errors import (
    CaError,
    CaRejected,
    ChallengeFailed,
    ResourceGone,
)
from dualcert.lifecycle.looking import look_again
from dualcert.lifecycle.world import DnsBinding, World
from dualcert.model.events import EventKind
from dualcert.model.order import ChallengeRecord, Order, OrderStep, RecordState
from dualcert.model.pair import Pair
from dualcert.model.wording import many
from dualcert.model.work import Later, Outcome, Waiting, WorkKind, WorkRow
from dualcert.policy import gathering
from dualcert.policy.recovery import is_overdue
from dualcert.ports.ca import AuthorizationSnapshot, CertificateAuthority, OrderSnapshot
from dualcert.store import Transaction, challenges, events, orders, work


def prepare(
    world: World,
    row: WorkRow,
    pair: Pair,
    order: Order,
    client: CertificateAuthority,
    records: Collection[ChallengeRecord],
) -> Outcome:
    """Fetch the authorizations and remember every TXT value that is still wanted; ``records`` are remembered already.

    Also the first step of an order that is taken up again: what was answered meanwhile is not answered twice.
    """
    binding = world.dns_of(pair.dns)
    known = {record.authorization: record for record in records}
    wanted, answered, over = [], [], []
    for url in order.authorizations:
        record = known.get(url)
        if record is not None and record.state is RecordState.ANSWERED:
            continue
        snapshot = client.authorization(url)
        if snapshot.status == "valid":
            over += [record.id] if record else []
        elif snapshot.status != "pending":
            raise _refused(snapshot, order)
        elif record is None:
            wanted.append(_value(binding, snapshot, order))
        elif snapshot.challenge_status != "pending":
            answered.append(record.id)
    with world.store.write() as tx:
        work.hold(tx, row)
        challenges.set_state(tx, over, RecordState.SPENT)
        challenges.set_state(tx, answered, RecordState.ANSWERED)
        challenges.remember(tx, order, pair.dns, wanted)
        if wanted or work.get(tx, WorkKind.PUBLICATION, pair.id) is None:
            left = schedule_publication(tx, pair.id)
        else:
            # What keeps them from going out has a next try of its own, which nothing new hurries.
            left = challenges.unpublished(tx, pair.id)
        waiting = {record.order_id for record in left}
        if over:
            _schedule_withdrawal(tx, pair.id)
    return _waiting() if order.id in waiting else Later(world.clock.now(), "the values are published")


def schedule_publication(tx: Transaction, pair_id: int) -> list[ChallengeRecord]:
    """What is remembered goes out when every order that is being placed has told its values, or soon in any case.

    Returns what that is.
    """
    waiting = challenges.unpublished(tx, pair_id)
    if waiting:
        first = min(one.since for one in waiting)
        at = gathering.publish_at(tx.now, first, orders.unanswered(tx, pair_id))
        work.schedule(tx, WorkKind.PUBLICATION, pair_id, at)
    return waiting


def records_of(tx: Transaction, order: Order | None) -> list[ChallengeRecord]:
    """The values that an order still needs: none but one that is placed and not finalized."""
    if order is None or order.step is not OrderStep.PLACED:
        return []
    return [one for one in challenges.records(tx, order_id=order.id) if one.state is not RecordState.SPENT]


def _waiting() -> Waiting:
    return Waiting("publication", "waiting until every authoritative server shows the values")


def _value(binding: DnsBinding, snapshot: AuthorizationSnapshot, order: Order) -> dict[str, str]:
    if snapshot.challenge is None or snapshot.value is None:
        raise CaRejected(
            f"the CA offers no dns-01 challenge for {snapshot.identifier}",
            problem="unsupportedIdentifier",
            remedy="Choose a CA that validates by DNS-01.",
            ca=order.ca,
        )
    location = binding.zones().locate(snapshot.identifier)
    return {
        "zone": location.zone,
        "record": location.record,
        "value": snapshot.value,
        "identifier": snapshot.identifier,
        "authorization": snapshot.url,
        "challenge": snapshot.challenge,
    }


def _refused(snapshot: AuthorizationSnapshot, order: Order) -> CaError:
    if snapshot.status != "invalid":
        reason = f"the authorization for {snapshot.identifier} is {snapshot.status} by now"
        return ResourceGone(reason, problem=snapshot.status, ca=order.ca)
    name = f"*.{snapshot.identifier}" if snapshot.wildcard else snapshot.identifier
    return ChallengeFailed(
        f"the authorization became {snapshot.status}: {snapshot.error or 'the CA gave no reason'}",
        remedy="See that the CA's resolvers reach the zone's servers, and that CAA and DNSSEC let it pass.",
        ca=order.ca,
        name=name,
    )


def advance(
    world: World,
    row: WorkRow,
    order: Order,
    client: CertificateAuthority,
    records: list[ChallengeRecord],
) -> Outcome | None:
    """Answer what is published and look how the CA likes it; None when every name is authorized.

    ``records``: the values that the order still needs.
    """
    published = [one for one in records if one.state is RecordState.PUBLISHED]
    if published:
        every = all(one.state in {RecordState.PUBLISHED, RecordState.ANSWERED} for one in records)
        return _answer(world, row, order, published, client, look=every)
    if any(one.state is RecordState.ANSWERED for one in records):
        if any(one.state is not RecordState.ANSWERED for one in records):
            return _make_room(world, row, order, records, client)
        return _look(world, row, order, client, _asked_at(order, records))
    return _waiting() if records else _look(world, row, order, client, order.created_at)


def _answer(
    world: World,
    row: WorkRow,
    order: Order,
    published: list[ChallengeRecord],
    client: CertificateAuthority,
    *,
    look: bool,
) -> Outcome | None:
    """Answer, and ``look`` at once: a CA that is as quick as that leaves nothing to be remembered of it."""
    answered = []
    authorized = False
    try:
        for record in published:
            _answer_once(client, record)
            answered.append(record.id)
        now = world.clock.now()
        outcome = _look(world, row, order, client, now) if look else Later(now, "answered")
        authorized = outcome is None
    finally:
        # What was answered stays answered, whatever befell the next one.
        if answered and not authorized:
            with world.store.write() as tx:
                work.hold(tx, row)
                challenges.set_state(tx, answered, RecordState.ANSWERED, only=(RecordState.PUBLISHED,))
                cause = many(len(answered), "challenge")
                events.record(tx, EventKind.ANSWERED, cause, pair=row.pair_id, ca=row.ca)
    return outcome


def _answer_once(client: CertificateAuthority, record: ChallengeRecord) -> None:
    """Whoever held the order before us may have been held up, and have answered just now: a CA takes that only once."""
    try:
        client.answer(record.challenge)
    except CaRejected:
        if client.authorization(record.authorization).challenge_status in {None, "pending"}:
            raise


def asked_at(tx: Transaction, order: Order) -> datetime:
    """When the CA was last asked for something: how long values took to get out is no delay of its."""
    if order.step is OrderStep.FINALIZING:
        validated = events.last_validation(tx, order.pair_id, order.ca)
        return max(order.created_at, validated.at) if validated is not None else order.created_at
    return _asked_at(order, records_of(tx, order))


def _asked_at(order: Order, records: Collection[ChallengeRecord]) -> datetime:
    return max((order.created_at, *(one.since for one in records)))


def refuse_overdue(order: Order, snapshot: OrderSnapshot, since: datetime, now: datetime) -> None:
    """Raises ``ResourceGone`` where the CA has let an order lie for so long that it is given up.

    ``since``: when it was last asked for something.
    """
    _refuse_overdue(order, snapshot.status, since, now, snapshot.expires)


def _refuse_overdue(
    order: Order, status: str, since: datetime, now: datetime, expires: datetime | None = None
) -> None:
    if is_overdue(since, now, expires):
        raise ResourceGone(
            f"the order is {status} since {since:%Y-%m-%d %H:%M} UTC, and is given up",
            problem=status,
            ca=order.ca,
        )


def _look(
    world: World, row: WorkRow, order: Order, client: CertificateAuthority, since: datetime
) -> Outcome | None:
    """``since`` as of ``refuse_overdue``."""
    snapshot = client.order(order.url or "")
    if snapshot.status == "pending":
        refuse_overdue(order, snapshot, since, world.clock.now())
        reason = "the CA is looking at the challenges"
        return look_again(world, row, reason, snapshot.retry_after, since=since)
    if snapshot.status in {"ready", "processing", "valid"}:
        return None
    for url in order.authorizations:
        authorization = client.authorization(url)
        if authorization.status not in {"valid", "pending"}:
            raise _refused(authorization, order)
    raise ChallengeFailed(
        f"the order became {snapshot.status}: {snapshot.error or 'no reason given'}", ca=order.ca
    )


def _make_room(
    world: World, row: WorkRow, order: Order, records: list[ChallengeRecord], client: CertificateAuthority
) -> Outcome:
    """Some values had no room beside others: those that have served their purpose make way, one by one."""
    over, wish = [], None
    for record in records:
        if record.state is not RecordState.ANSWERED:
            continue
        snapshot = client.authorization(record.authorization)
        wish = snapshot.retry_after
        if snapshot.status == "valid":
            over.append(record.id)
        elif snapshot.status != "pending":
            raise _refused(snapshot, order)
    if not over:
        since = _asked_at(order, records)
        _refuse_overdue(order, "pending", since, world.clock.now())
        return look_again(world, row, "the CA is looking at the challenges", wish, since=since)
    with world.store.write() as tx:
        work.hold(tx, row)
        challenges.set_state(tx, over, RecordState.SPENT)
        work.schedule(tx, WorkKind.WITHDRAWAL, order.pair_id, tx.now)
    return _waiting()


def spend(tx: Transaction, order: Order) -> bool:
    """The order needs its values no more. False where it has told none."""
    spent = challenges.spend(tx, order.id) > 0
    if spent:
        _schedule_withdrawal(tx, order.pair_id)
    return spent


def _schedule_withdrawal(tx: Transaction, pair_id: int) -> None:
    needed = challenges.needed(tx, pair_id)
    work.schedule(tx, WorkKind.WITHDRAWAL, pair_id, gathering.withdraw_at(tx.now, needed))
    if not needed:
        # It may back off, because DNS refused what nobody waits for any more.
        work.cancel(tx, WorkKind.PUBLICATION, pair_id)
