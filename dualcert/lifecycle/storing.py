"""A certificate has arrived: it is checked, kept in any case, and takes its lineage's role if it is fit."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from dualcert.errors import CertificateUnfit, ResourceGone
from dualcert.lifecycle import chains, inspection, promotion, renewal, renewal_information, weakkeys
from dualcert.lifecycle.inspection import Arrival
from dualcert.lifecycle.watching import places
from dualcert.lifecycle.world import World
from dualcert.model import names as naming
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.order import Order, OrderStep
from dualcert.model.pair import Pair, PairState
from dualcert.model.signal import Reason
from dualcert.model.wording import typed
from dualcert.model.work import Done, Outcome, WorkKind, WorkRow
from dualcert.policy import due, pairing
from dualcert.policy.pairing import CertificateIdentity
from dualcert.ports.ca import IssuedCertificate
from dualcert.store import (
    Transaction,
    certificates,
    compromise,
    events,
    keys,
    orders,
    pairs,
    revocations,
    work,
)

_REVOKE_WITHIN = timedelta(hours=24)


def store(world: World, row: WorkRow, pair: Pair, order: Order, issued: IssuedCertificate) -> Outcome:
    """Check and keep what the CA sent. Raises ``CertificateUnfit`` after keeping what must not be used."""
    arrival = inspection.parse(chains.preferred(world, order.ca, issued))
    found, root_key = inspection.flaws(
        arrival,
        spki=order.spki,
        names=order.names,
        now=world.clock.now(),
        trust_roots=world.ca(order.ca).trust_roots,
    )
    weak = weakkeys.of_certificate(world, arrival.leaf)
    found += weakkeys.flaws(world, arrival, weak)
    with world.store.write() as tx:
        work.hold(tx, row)
        weakkeys.block(world, tx, arrival, weak, pair=pair.id, ca=order.ca)
        state = pairs.state(tx, pair.id)
        # It may have been given other names or targets since the order left.
        today = pairs.today(tx, pair)
        found += _dependence(tx, state, order, arrival, root_key)
        leaked = compromise.blocked(tx, [order.spki])
        if leaked:
            found += ("its key was blocked while it was ordered",)
        arrived = _certificate(order, arrival, root_key, tx.now, "; ".join(found) or None)
        number = certificates.insert_certificate(tx, arrived, arrival.der, arrival.chain_pem)
        weakkeys.remember(world, tx, arrived, number, weak)
        keys.ends_at(tx, order.spki, arrived.not_after)
        chains.keep(tx, number, issued, arrival)
        orders.set_step(tx, order.id, OrderStep.STORED, arrived.flaw)
        if arrived.flaw is None:
            _take_role(tx, state, today, order, arrived, number)
            renewal_information.begin(world, tx, arrived, number, arrival.leaf)
            places.begin(world, tx, arrived, number, arrival, state.certificate_of(order.lineage_id))
            work.finish_order(tx, row, primary=order.lineage_id == state.primary_lineage)
            renewal.reckon(tx, pair.id)
            _keep_up(tx, today, order, number)
            return Done()
        events.record(tx, EventKind.UNFIT, arrived.flaw, pair=pair.id, ca=order.ca, certificate=number)
        if leaked:
            _have_revoked(tx, pair, order, number)
    if leaked:
        raise ResourceGone(found[-1], problem="keyCompromise", ca=order.ca, name=pair.name)
    raise CertificateUnfit(
        f"the certificate that came must not be used: {'; '.join(found)}",
        remedy=f"It is kept; a new one is ordered after a day, or now by `dualcert renew {typed(pair.name)}`.",
        ca=order.ca,
        name=pair.name,
    )


def _have_revoked(tx: Transaction, pair: Pair, order: Order, number: int) -> None:
    by = tx.now + _REVOKE_WITHIN
    revocations.want(tx, number, pair.id, Reason.KEY_COMPROMISE, by, unverified=False)
    work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=order.ca)
    cause = Reason.KEY_COMPROMISE.value
    events.record(tx, EventKind.REVOCATION_WANTED, cause, pair=pair.id, ca=order.ca, certificate=number)


def _certificate(
    order: Order, arrival: Arrival, root_key: bytes | None, now: datetime, flaw: str | None
) -> Certificate:
    leaf = arrival.leaf
    return Certificate(
        id=0,
        pair_id=order.pair_id,
        lineage_id=order.lineage_id,
        ca=order.ca,
        serial=arrival.serial,
        issuer=leaf.issuer.rfc4514_string(),
        issuer_hash=arrival.issuer_hash,
        issuing_key=arrival.issuing_key,
        root_key=root_key,
        sha256=arrival.sha256,
        spki=arrival.spki,
        names_digest=naming.digest(order.names),
        key_type=arrival.key_type,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        chain_hash=hashlib.sha256(arrival.chain_pem.encode("ascii")).digest(),
        stored_at=now,
        flaw=flaw,
    )


def _dependence(
    tx: Transaction, state: PairState, order: Order, arrival: Arrival, root_key: bytes | None
) -> tuple[str, ...]:
    """What the arrival shares with the certificate that the pair's other lineage has now."""
    other = state.standby if order.lineage_id == state.primary_lineage else state.serving
    if other is None:
        return ()
    sibling = certificates.get(tx, other)
    return pairing.certificate_objections(
        CertificateIdentity(arrival.spki, arrival.issuing_key, root_key),
        CertificateIdentity(sibling.spki, sibling.issuing_key, sibling.root_key),
    )


def _take_role(
    tx: Transaction, state: PairState, pair: Pair, order: Order, arrived: Certificate, number: int
) -> None:
    ok_until = due.usable_until(arrived.not_before, arrived.not_after, order.created_at)
    if not pairs.put_certificate(tx, state, order.lineage_id, number, ok_until):
        raise AssertionError("a pair's state changed inside the transaction that read it")
    role = state.role_of(order.lineage_id)
    events.record(
        tx,
        EventKind.STORED,
        f"{role.value} certificate, valid until {arrived.not_after:%Y-%m-%d %H:%M} UTC",
        pair=pair.id,
        ca=order.ca,
        certificate=number,
        previous=state.certificate_of(order.lineage_id),
    )
    if order.lineage_id == state.primary_lineage:
        for target in pair.targets:
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target=target)
    elif state.serving is not None:
        work.reconsider(tx, pair.id)
    else:
        orders_under_way = work.of_pairs(tx, [pair.id], [WorkKind.ORDER])
        of_primary = next((one for one in orders_under_way if one.ca != order.ca), None)
        at = promotion.falls_back_at(pair, of_primary)
        work.schedule(tx, WorkKind.FALLBACK, pair.id, tx.now if at is None else max(at, tx.now))


def _keep_up(tx: Transaction, pair: Pair, order: Order, number: int) -> None:
    if pair.names_digest == naming.digest(order.names):
        return
    if naming.covers(order.names, pair.names):
        certificates.also_covers(tx, number, pair.names_digest)
    else:
        lineages = [one for one in pairs.lineages(tx, [pair.id]) if one.id == order.lineage_id]
        renewal.open_orders(tx, pair, lineages, "the pair was given other names meanwhile")
