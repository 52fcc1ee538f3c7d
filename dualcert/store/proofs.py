"""The keys of backups whose proof has grown old, found by walking the pairs in the order of their numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, Text, Update, bindparam, exists, func, select, update

from dualcert.clock import from_microseconds
from dualcert.model.certificate import WrappedKey
from dualcert.store import batches, counters, promotion
from dualcert.store.columns import instant, micros
from dualcert.store.incident_tables import counter, incident_member
from dualcert.store.picked import listed, listing, picked
from dualcert.store.statements import prepared
from dualcert.store.tables import certificate, pair_state, wrapped_key
from dualcert.store.transaction import Transaction

_UP_TO = "backups proved up to"
_SINCE = "backups proved since"


@dataclass(frozen=True)
class Walk:
    """One walk over all pairs: how far it has come, and when it began."""

    up_to: int
    began: datetime


@dataclass(frozen=True)
class Unproved:
    """A backup that counts, or did until its proof was too old, and its wrapped key."""

    pair_id: int
    certificate: int
    ca: str
    not_before: datetime
    not_after: datetime
    key: WrappedKey


NEVER = Walk(0, from_microseconds(0))
"""Where there was no walk yet."""


# --- where the walk is -----------------------------------------------------------------------------------


def where(tx: Transaction) -> Walk:
    return Walk(counters.value(tx, _UP_TO) or 0, instant(counters.value(tx, _SINCE) or 0))


@prepared
def _go_on() -> Update:
    since = counter.alias("since")
    same = exists().where(since.c.name == _SINCE, since.c.value == bindparam("seen_began"))
    return update(counter).where(
        counter.c.name == _UP_TO, counter.c.value == bindparam("seen_up_to"), same.correlate(counter)
    )


def go_on(tx: Transaction, seen: Walk, up_to: int) -> bool:
    """The walk has come further; False where somebody else has moved it since it was ``seen``."""
    values = {"seen_up_to": seen.up_to, "seen_began": micros(seen.began), "value": up_to}
    return tx.execute(_go_on(), values).rowcount == 1


def begin(tx: Transaction, seen: Walk, at: datetime) -> bool:
    """The next walk begins, as of ``at``; False where somebody else has begun it since this one was ``seen``."""
    if seen == NEVER:
        counters.put(tx, _UP_TO, 0)
    elif not go_on(tx, seen, 0):
        return False
    counters.put(tx, _SINCE, micros(at))
    return True


@prepared
def _bound() -> Select[Any, Any]:
    query = select(pair_state.c.pair_id).where(
        pair_state.c.pair_id > bindparam("after"), pair_state.c.pair_id <= bindparam("last")
    )
    some = query.order_by(pair_state.c.pair_id).limit(bindparam("limit")).subquery()
    return select(func.max(some.c.pair_id).label("last"), func.count().label("many")).select_from(some)


def bound(tx: Transaction, after: int, last: int, limit: int) -> int:
    """Where a part of the walk ends that has so many pairs, or all until the number ``last``."""
    found = tx.execute(_bound(), {"after": after, "last": last, "limit": limit}).one()
    return int(found.last) if found.many == limit else last


# --- what it finds ---------------------------------------------------------------------------------------


FOUND = (
    pair_state.c.pair_id,
    certificate.c.id,
    certificate.c.ca,
    certificate.c.not_before,
    certificate.c.not_after,
    *wrapped_key.c,
)


@prepared
def _unproved() -> Select[Any]:
    return (
        select(*FOUND)
        .join(certificate, certificate.c.id == pair_state.c.standby)
        .join(wrapped_key, wrapped_key.c.spki == certificate.c.spki)
        .where(
            pair_state.c.pair_id > bindparam("after"),
            pair_state.c.pair_id <= bindparam("last"),
            pair_state.c.backup_ok_until.is_not(None),
            wrapped_key.c.proved_at <= bindparam("before"),
        )
        .order_by(pair_state.c.pair_id)
    )


def unproved(tx: Transaction, after: int, last: int, before: datetime) -> list[Unproved]:
    """The backups of a part of the walk whose keys were opened ``before`` then for the last time.

    Those of which something bad was found are not among them.
    """
    return read(tx.execute(_unproved(), {"after": after, "last": last, "before": micros(before)}))


@prepared
def _unproved_named() -> Select[Any]:
    member = incident_member.c
    return (
        select(*FOUND)
        .select_from(incident_member)
        .join(pair_state, pair_state.c.pair_id == member.pair_id)
        .join(certificate, certificate.c.id == pair_state.c.standby)
        .join(wrapped_key, wrapped_key.c.spki == certificate.c.spki)
        .where(
            member.incident_id == bindparam("of_incident"),
            member.certificate_id > bindparam("after"),
            member.certificate_id <= bindparam("last"),
            pair_state.c.standby == member.certificate_id,
            pair_state.c.backup_ok_until.is_not(None),
            wrapped_key.c.proved_at <= bindparam("before"),
        )
        .order_by(pair_state.c.pair_id)
    )


def unproved_named(
    tx: Transaction, incident_id: int, after: int, last: int, before: datetime
) -> list[Unproved]:
    """The same among the members of an incident; ``after`` and ``last`` bound the certificates' numbers."""
    batches.by_index(tx)
    values = {"of_incident": incident_id, "after": after, "last": last, "before": micros(before)}
    return read(tx.execute(_unproved_named(), values))


def read(rows: Iterable[Any]) -> list[Unproved]:
    """Of rows with the columns ``FOUND``."""
    return [
        Unproved(
            row.pair_id,
            row.id,
            row.ca,
            instant(row.not_before),
            instant(row.not_after),
            WrappedKey(row.spki, row.domain, row.key_id, row.wrapped),
        )
        for row in rows
    ]


# --- what comes of it ------------------------------------------------------------------------------------


def _held() -> Select[Any]:
    """The keys of those backups, held; but not the ones that somebody else is writing, who may hold others of them."""
    return (
        select(wrapped_key.c.spki)
        .join(certificate, certificate.c.spki == wrapped_key.c.spki)
        .where(listed(certificate.c.id, bindparam("certificates", type_=Text)))
        .with_for_update(of=wrapped_key, skip_locked=True)
    )


@prepared
def _prove() -> Update:
    return update(wrapped_key).where(picked(wrapped_key.c.spki, _held()))


@prepared
def _trust() -> Update:
    until = promotion.usable_until(pair_state.c.standby)
    return (
        update(pair_state)
        .where(
            listed(pair_state.c.pair_id, bindparam("pairs", type_=Text)),
            listed(pair_state.c.standby, bindparam("certificates", type_=Text)),
            pair_state.c.backup_ok_until.is_not(None),
            until.is_not(None),
        )
        .values(backup_ok_until=until)
    )


def proved(tx: Transaction, found: Collection[Unproved]) -> None:
    """Their keys were opened just now. They count from now on, as far as nothing was found against them meanwhile."""
    certificates = listing(tx, (one.certificate for one in found))
    tx.execute(_prove(), {"certificates": certificates, "proved_at": tx.at})
    of_pairs = listing(tx, (one.pair_id for one in found))
    tx.execute(_trust(), {"pairs": of_pairs, "certificates": certificates})
