"""DNS-01 for an order: values remembered, published with the pair's other CA's, answered, withdrawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import timedelta

from dualcert.errors import CaError, CaRejected, ChallengeFailed, LeaseLost, NotPropagated, ResourceGone
from dualcert.lifecycle.looking import look_again
from dualcert.lifecycle.world import DnsBinding, World
from dualcert.model.events import EventKind
from dualcert.model.order import ChallengeRecord, Order, OrderStep, RecordState
from dualcert.model.pair import Pair
from dualcert.model.work import Done, Later, Outcome, Waiting, WorkKind, WorkRow
from dualcert.policy import gathering
from dualcert.ports.ca import AuthorizationSnapshot, CertificateAuthority
from dualcert.ports.dns import TxtValue
from dualcert.store import Transaction, events, orders, work

_ADD_AGAIN = 30
"""After so many looks in vain a value is added again: a provider may have lost it."""

_PATIENCE = timedelta(minutes=2)
"""How long every second is looked; after that every ten."""

_GIVE_UP = timedelta(minutes=10)


# --- the order's side ------------------------------------------------------------------------------------


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
        orders.set_state(tx, over, RecordState.SPENT)
        orders.set_state(tx, answered, RecordState.ANSWERED)
        orders.remember(tx, order, pair.dns, wanted)
        if wanted or work.get(tx, WorkKind.PUBLICATION, pair.id) is None:
            left = schedule_publication(tx, pair.id)
        else:
            # What keeps them from going out has a next try of its own, which nothing new hurries.
            left = _unpublished(tx, pair.id)
        waiting = {record.order_id for record in left}
        if over:
            _schedule_withdrawal(tx, pair.id)
    return _waiting() if order.id in waiting else Later(world.clock.now(), "the values are published")


def schedule_publication(tx: Transaction, pair_id: int) -> list[ChallengeRecord]:
    """What is remembered goes out when every order that is being placed has told its values, or soon in any case.

    Returns what that is.
    """
    waiting = _unpublished(tx, pair_id)
    if waiting:
        first = min(one.since for one in waiting)
        at = gathering.publish_at(tx.now, first, orders.unanswered(tx, pair_id))
        work.schedule(tx, WorkKind.PUBLICATION, pair_id, at)
    return waiting


def _unpublished(tx: Transaction, pair_id: int) -> list[ChallengeRecord]:
    return orders.records(tx, pair_id=pair_id, states=(RecordState.REMEMBERED, RecordState.ADDED))


def records_of(tx: Transaction, order: Order | None) -> list[ChallengeRecord]:
    """The values that an order still needs: none but one that is placed and not finalized."""
    if order is None or order.step is not OrderStep.PLACED:
        return []
    return [one for one in orders.records(tx, order_id=order.id) if one.state is not RecordState.SPENT]


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
        return _look(world, row, order, client)
    return _waiting() if records else _look(world, row, order, client)


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
            client.answer(record.challenge)
            answered.append(record.id)
        outcome = _look(world, row, order, client) if look else Later(world.clock.now(), "answered")
        authorized = outcome is None
    finally:
        # What was answered stays answered, whatever befell the next one.
        if answered and not authorized:
            with world.store.write() as tx:
                work.hold(tx, row)
                orders.set_state(tx, answered, RecordState.ANSWERED, only=(RecordState.PUBLISHED,))
                cause = _counted(len(answered), "challenge")
                events.record(tx, EventKind.ANSWERED, cause, pair=row.pair_id, ca=row.ca)
    return outcome


def _look(world: World, row: WorkRow, order: Order, client: CertificateAuthority) -> Outcome | None:
    snapshot = client.order(order.url or "")
    if snapshot.status == "pending":
        return look_again(world, row, "the CA is looking at the challenges", snapshot.retry_after)
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
        return look_again(world, row, "the CA is looking at the challenges", wish)
    with world.store.write() as tx:
        work.hold(tx, row)
        orders.set_state(tx, over, RecordState.SPENT)
        work.schedule(tx, WorkKind.WITHDRAWAL, order.pair_id, tx.now)
    return _waiting()


def spend(tx: Transaction, order: Order) -> bool:
    """The order needs its values no more. False where it has told none."""
    spent = orders.spend(tx, order.id) > 0
    if spent:
        _schedule_withdrawal(tx, order.pair_id)
    return spent


def _schedule_withdrawal(tx: Transaction, pair_id: int) -> None:
    needed = orders.needed(tx, pair_id)
    work.schedule(tx, WorkKind.WITHDRAWAL, pair_id, gathering.withdraw_at(tx.now, needed))
    if not needed:
        # It may back off, because DNS refused what nobody waits for any more.
        work.cancel(tx, WorkKind.PUBLICATION, pair_id)


# --- the zone's side -------------------------------------------------------------------------------------


def publish(world: World, row: WorkRow) -> Outcome:
    """Bring every remembered value of a pair out as one change per zone, and look until every server shows it."""
    with world.store.read() as tx:
        waiting = _unpublished(tx, row.pair_id)
        known = orders.values_at(tx, {one.record for one in waiting})
        withdrawing = work.held_by_another(tx, WorkKind.WITHDRAWAL, row.pair_id)
    if withdrawing:
        # A value that one order leaves behind may be the next one's: not removed and added at once.
        return Waiting("withdrawal", "waiting until old values are withdrawn")
    added = [one for one in waiting if one.state is RecordState.ADDED]
    fresh = _fitting(world, [one for one in waiting if one not in added], known)
    # Whoever held the row before may have died before the provider took the values in; or it has lost them since.
    again = not row.continued or row.looks % _ADD_AGAIN == _ADD_AGAIN - 1
    for (dns, zone), group in _by_zone([*added, *fresh] if again else fresh).items():
        values = {TxtValue(one.record, one.value) for one in group}
        world.dns_of(dns).provider().apply(zone, values, frozenset())
    out = [*added, *fresh]
    lagging = _lagging(world, out)
    try:
        return _published(world, row, waiting, out, lagging)
    except LeaseLost:
        with world.store.write() as tx:
            _take_back(tx, row, out)
        raise


def _take_back(tx: Transaction, row: WorkRow, out: list[ChallengeRecord]) -> None:
    """We may have been held up for so long that what went out was withdrawn before: it is withdrawn once more."""
    if orders.spend_again(tx, out):
        work.schedule(tx, WorkKind.WITHDRAWAL, row.pair_id, tx.now)


def _fitting(world: World, fresh: list[ChallengeRecord], known: dict[str, int]) -> list[ChallengeRecord]:
    chosen: list[ChallengeRecord] = []
    for dns in sorted({one.dns for one in fresh}):
        group = [one for one in fresh if one.dns == dns]
        fits = gathering.fitting(
            known, [(one.id, one.record) for one in group], world.dns_of(dns).provider().capacity
        )
        chosen += [one for one in group if one.id in fits]
    return chosen


def _by_zone(records: list[ChallengeRecord]) -> dict[tuple[str, str], list[ChallengeRecord]]:
    groups: dict[tuple[str, str], list[ChallengeRecord]] = defaultdict(list)
    for record in records:
        groups[record.dns, record.zone].append(record)
    return groups


def _lagging(world: World, records: list[ChallengeRecord]) -> dict[int, str]:
    """Which records a server does not show yet, and which server that is."""
    found: dict[int, str] = {}
    for dns in sorted({one.dns for one in records}):
        group = [one for one in records if one.dns == dns]
        for sight in (
            world.dns_of(dns).zones().look({(one.zone, TxtValue(one.record, one.value)) for one in group})
        ):
            why = f"{sight.server} ({sight.problem})" if sight.problem else sight.server
            for one in group:
                if TxtValue(one.record, one.value) in sight.missing:
                    found[one.id] = why
    return found


def _published(
    world: World,
    row: WorkRow,
    known: list[ChallengeRecord],
    out: list[ChallengeRecord],
    lagging: dict[int, str],
) -> Outcome:
    seen = [one.id for one in out if one.id not in lagging]
    with world.store.write() as tx:
        work.hold(tx, row)
        # An order may have died meanwhile: what it spent stays spent.
        unspent = (RecordState.REMEMBERED, RecordState.ADDED)
        moved = orders.set_state(tx, seen, RecordState.PUBLISHED, only=unspent)
        moved += orders.set_state(tx, lagging, RecordState.ADDED, only=(RecordState.REMEMBERED,))
        if moved < len(out):
            _take_back(tx, row, out)
        left = _unpublished(tx, row.pair_id)
        if seen:
            work.wake(tx, WorkKind.ORDER, row.pair_id)
            events.record(
                tx,
                EventKind.PUBLISHED,
                f"{_counted(len(seen), 'TXT value')} on every server",
                pair=row.pair_id,
            )
        if not left:
            work.finish(tx, row)
            return Done()
    if {one.id for one in left} - {one.id for one in known}:
        return Later(world.clock.now(), "more values have come")
    if lagging:
        return _look_again(world, row, out, lagging)
    if seen:
        return Later(world.clock.now(), "what had room is out")
    return Waiting("withdrawal", "the provider has no room for more values at this name")


def _look_again(
    world: World, row: WorkRow, records: list[ChallengeRecord], lagging: dict[int, str]
) -> Outcome:
    servers = ", ".join(sorted(set(lagging.values())))
    waited = world.clock.now() - min(one.since for one in records)
    if waited > _GIVE_UP:
        raise NotPropagated(
            f"after {int(waited.total_seconds() // 60)} minutes {servers} does not show the value",
            remedy="See why this server does not follow the zone's primary.",
        )
    wish = timedelta(seconds=10) if waited > _PATIENCE else None
    return look_again(world, row, f"{servers} does not show the value yet", wish)


def withdraw(world: World, row: WorkRow) -> Outcome:
    """Remove every spent value of a pair, one change per zone."""
    with world.store.glance() as tx:
        spent = orders.records(tx, pair_id=row.pair_id, states=(RecordState.SPENT,))
    for (dns, zone), group in _by_zone(spent).items():
        world.dns_of(dns).provider().apply(
            zone, frozenset(), {TxtValue(one.record, one.value) for one in group}
        )
    with world.store.write() as tx:
        work.hold(tx, row)
        orders.forget(tx, spent)
        if spent:
            events.record(tx, EventKind.WITHDRAWN, _counted(len(spent), "TXT value"), pair=row.pair_id)
        if orders.records(tx, pair_id=row.pair_id, states=(RecordState.SPENT,)):
            return Later(world.clock.now(), "more values are to be withdrawn")
        work.wake(tx, WorkKind.PUBLICATION, row.pair_id)
        work.finish(tx, row)
    return Done()


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
