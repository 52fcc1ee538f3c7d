"""What a leak concerns: found by index, from a public key, a target or an isolation domain."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Select, bindparam, exists, func, or_, select

from dualcert.model.certificate import Certificate
from dualcert.model.events import Event, EventKind
from dualcert.model.order import OrderStep
from dualcert.model.signal import Reason
from dualcert.store import certificates, events
from dualcert.store.columns import instant, micros
from dualcert.store.incident_tables import incident_member
from dualcert.store.statements import for_ids, is_among, is_one_of, prepared
from dualcert.store.tables import (
    account,
    acme_order,
    blocked_key,
    certificate,
    deployment,
    event,
    former_pair,
    pair,
    pair_state,
    public_key,
    revocation,
    revocation_request,
    wrapped_key,
)
from dualcert.store.transaction import Transaction

_AT_ONCE = 500
_UNSENT = (OrderStep.PLACING.value, OrderStep.PLACED.value)


@dataclass(frozen=True)
class Held:
    """A certificate that a leak concerns, in the light of its pair. ``role`` is None for one that has none any more.

    ``pair`` is the name of a pair that may have been ended since: then ``ended``.
    """

    certificate: Certificate
    pair: str
    ended: bool
    role: str | None
    revoked: bool
    blocked: bool


@dataclass(frozen=True)
class Attempt:
    """An order under way whose key is concerned."""

    order_id: int
    pair_id: int
    ca: str
    spki: bytes
    sent: bool


def of_key(tx: Transaction, spki: bytes) -> list[int]:
    """The numbers of certificates with this key that have not ended."""
    query = select(certificate.c.id).where(certificate.c.spki == spki, certificate.c.not_after > tx.at)
    return [row.id for row in tx.execute(query)]


def at_target(
    tx: Transaction, target: str, since: datetime | None, until: datetime | None = None
) -> list[int]:
    """Those whose keys were at a target, now or at any time since an instant; of all times where that is None. What
    came there after ``until`` is not among them."""
    query = (
        select(certificate.c.id)
        .join(deployment, deployment.c.certificate_id == certificate.c.id)
        .where(deployment.c.target == target, certificate.c.not_after > tx.at)
        .distinct()
        .order_by(certificate.c.id)
    )
    if since is not None:
        query = query.where(or_(deployment.c.left_at.is_(None), deployment.c.left_at >= micros(since)))
    if until is not None:
        query = query.where(deployment.c.arrived_at <= micros(until))
    return [row.id for row in tx.execute(query)]


def in_domain(tx: Transaction, domain: str, before: datetime) -> list[int]:
    """Those whose keys were made before an instant, and lie in an isolation domain."""
    query = (
        select(certificate.c.id)
        .join(wrapped_key, wrapped_key.c.spki == certificate.c.spki)
        .join(public_key, public_key.c.spki == certificate.c.spki)
        .where(
            wrapped_key.c.domain == domain,
            public_key.c.created_at <= micros(before),
            certificate.c.not_after > tx.at,
        )
        .order_by(certificate.c.id)
    )
    return [row.id for row in tx.execute(query)]


@prepared
def _held(*, one: bool) -> Select[Any]:
    return (
        select(
            certificate.c.id,
            func.coalesce(pair.c.name, former_pair.c.name).label("name"),
            pair.c.id.is_(None).label("ended"),
            pair_state.c.serving,
            pair_state.c.standby,
        )
        .outerjoin(pair, pair.c.id == certificate.c.pair_id)
        .outerjoin(pair_state, pair_state.c.pair_id == certificate.c.pair_id)
        .outerjoin(former_pair, former_pair.c.pair_id == certificate.c.pair_id)
        .where(is_among(certificate.c.id, one=one))
        .order_by(certificate.c.id)
    )


def held(tx: Transaction, ids: Collection[int]) -> list[Held]:
    """Certificates with their pairs and what stands against them, in the order of their numbers."""
    standings = certificates.standings(tx, ids)
    found = []
    for row in tx.execute(*for_ids(_held, ids)) if ids else ():
        role = "primary" if row.serving == row.id else "backup" if row.standby == row.id else None
        one = standings[row.id]
        name = row.name or f"pair {one.certificate.pair_id}"
        found.append(Held(one.certificate, name, bool(row.ended), role, one.revoked, one.blocked))
    return found


@prepared
def _attempts(*, one: bool) -> Select[Any]:
    return (
        select(acme_order.c.id, acme_order.c.pair_id, acme_order.c.ca, acme_order.c.spki, acme_order.c.step)
        .join(public_key, public_key.c.pair_id == acme_order.c.pair_id)
        .where(
            public_key.c.spki == acme_order.c.spki,
            public_key.c.ca == acme_order.c.ca,  # what the index on orders goes on by
            is_among(public_key.c.spki, one=one),
            is_one_of(acme_order.c.step, [*_UNSENT, OrderStep.FINALIZING.value]),
        )
    )


def attempts_with(tx: Transaction, spki: bytes) -> list[Attempt]:
    """Orders under way for a certificate with this key."""
    return _found(tx, [spki])


def attempts_in(tx: Transaction, domain: str, before: datetime) -> list[Attempt]:
    """Orders under way under keys of an isolation domain that were made before an instant."""
    made = {"of_domain": domain, "before": micros(before)}
    keys = iter([row.spki for row in tx.execute(_without_certificate(), made)])
    found: list[Attempt] = []
    while some := list(islice(keys, _AT_ONCE)):
        found += _found(tx, some)
    return found


@prepared
def _without_certificate() -> Select[Any]:
    """Few of a domain's keys: those of attempts that are under way, or that came to nothing."""
    has_one = exists().where(certificate.c.spki == wrapped_key.c.spki)
    return (
        select(wrapped_key.c.spki)
        .join(public_key, public_key.c.spki == wrapped_key.c.spki)
        .where(
            wrapped_key.c.domain == bindparam("of_domain"),
            public_key.c.created_at <= bindparam("before"),
            ~has_one,
        )
        .order_by(wrapped_key.c.spki)
    )


def _found(tx: Transaction, spkis: Collection[bytes]) -> list[Attempt]:
    return [
        Attempt(row.id, row.pair_id, row.ca, row.spki, row.step not in _UNSENT)
        for row in tx.execute(*for_ids(_attempts, spkis))
    ]


# --- accounts --------------------------------------------------------------------------------------------


def accounts_with(tx: Transaction, spki: bytes) -> list[str]:
    """The CAs whose account has this key, or is being given it."""
    query = select(account.c.ca).where(or_(account.c.spki == spki, account.c.next_spki == spki))
    return [row.ca for row in tx.execute(query.order_by(account.c.ca))]


def accounts_in(tx: Transaction, domain: str) -> list[str]:
    """The CAs whose account's key lies in an isolation domain."""
    return [row.ca for row in tx.execute(select(account.c.ca).where(account.c.domain == domain))]


# --- what an incident names ------------------------------------------------------------------------------


@prepared
def _not_condemned() -> Select[Any]:
    serves = exists().where(
        pair_state.c.pair_id == incident_member.c.pair_id,
        pair_state.c.serving == incident_member.c.certificate_id,
    )
    revoked = or_(
        exists().where(revocation.c.certificate_id == certificate.c.id),
        exists().where(
            revocation_request.c.certificate_id == certificate.c.id,
            revocation_request.c.reason == Reason.KEY_COMPROMISE.value,
        ),
    )
    return (
        select(certificate.c.id)
        .join(incident_member, incident_member.c.certificate_id == certificate.c.id)
        .where(
            incident_member.c.incident_id == bindparam("of_incident"),
            incident_member.c.certificate_id > bindparam("after"),
            certificate.c.not_after > bindparam("now"),
            ~serves,
            or_(~exists().where(blocked_key.c.spki == certificate.c.spki), ~revoked),
        )
        .order_by(incident_member.c.certificate_id)
        .limit(bindparam("limit"))
    )


def not_condemned(tx: Transaction, incident_id: int, after: int, limit: int) -> list[int]:
    """The first members of an incident above a number that do not serve, and whose key is not blocked or whose
    revocation for that was not asked for; in the order of their numbers."""
    values = {"of_incident": incident_id, "after": after, "now": tx.at, "limit": limit}
    return [row.id for row in tx.execute(_not_condemned(), values)]


# --- what was said before --------------------------------------------------------------------------------


@prepared
def _blocked(*, one: bool) -> Select[Any]:
    return select(blocked_key.c.spki).where(is_among(blocked_key.c.spki, one=one))


def blocked(tx: Transaction, spkis: Collection[bytes]) -> set[bytes]:
    """Which of the keys are blocked."""
    return {bytes(row.spki) for row in tx.execute(*for_ids(_blocked, spkis))}


def made_at(tx: Transaction, spki: bytes) -> datetime | None:
    """When an attempt of ours with this key began; None where the key was never ours."""
    return instant(tx.execute(select(public_key.c.created_at).where(public_key.c.spki == spki)).scalar())


@prepared
def _last(*, of_pair: bool) -> Select[Any]:
    subject = event.c.pair_id == bindparam("of_pair") if of_pair else event.c.pair_id.is_(None)
    return (
        select(event.c.id)
        .where(subject, event.c.kind == bindparam("kind"), event.c.cause == bindparam("cause"))
        .order_by(event.c.id.desc())
        .limit(1)
    )


def last_told(tx: Transaction, cause: str, pair_id: int | None = None) -> Event | None:
    """When it was last said of a pair, or of none, that something is compromised, in these words."""
    values = {"kind": EventKind.COMPROMISED.value, "cause": cause}
    of_pair = {} if pair_id is None else {"of_pair": pair_id}
    number = tx.execute(_last(of_pair=bool(of_pair)), {**values, **of_pair}).scalar()
    return None if number is None else next(iter(events.page(tx, after=number - 1, limit=1)))
