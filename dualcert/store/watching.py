"""What certificates are watched by, when each place is asked next, and what it said last.

``due_at`` of a source is the only clock here, found by index; of an OCSP responder it is that of the certificate which
is to be asked about first. A source is leased while it is asked, so that of many processes one does it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Delete,
    Insert,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from dualcert.policy.watching import SourceKind
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import database_now, upsert
from dualcert.store.incident_tables import watch_source, watched
from dualcert.store.statements import prepared
from dualcert.store.tables import Number, certificate, pair_state
from dualcert.store.transaction import Transaction

_LEASE = timedelta(minutes=10) // timedelta(microseconds=1)
MATCHED_AT_ONCE = 5000
_NOBODY = (SourceKind.NONE, SourceKind.SHORT_LIVED)


@dataclass(frozen=True)
class Source:
    """A place where a CA says what it has revoked, with what it said last. ``lease``: what proves that it is ours.

    ``issuing_key`` and ``issuer_hash`` are those of who signs there, as in ``Certificate``.
    """

    id: int
    kind: SourceKind
    place: str
    issuing_key: bytes
    issuer_hash: bytes
    ca: str
    lease: int | None
    due_at: datetime | None
    asked_at: datetime | None
    good_at: datetime | None
    etag: str | None
    modified: str | None
    number: int | None
    this_update: datetime | None
    next_update: datetime | None
    digest: bytes | None
    entries: int | None
    failures: int
    problem: str | None


def source_of(row: Any) -> Source:
    return Source(
        id=row.id,
        kind=SourceKind(row.kind),
        place=row.place,
        issuing_key=row.issuing_key,
        issuer_hash=row.issuer_hash,
        ca=row.ca,
        lease=row.lease_until,
        due_at=instant(row.due_at),
        asked_at=instant(row.asked_at),
        good_at=instant(row.good_at),
        etag=row.etag,
        modified=row.modified,
        number=None if row.number is None else int.from_bytes(row.number, "big"),
        this_update=instant(row.this_update),
        next_update=instant(row.next_update),
        digest=row.digest,
        entries=row.entries,
        failures=row.failures,
        problem=row.problem,
    )


# --- what is watched by what -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A source as a certificate names it."""

    kind: SourceKind
    place: str
    issuing_key: bytes
    issuer_hash: bytes
    ca: str


@prepared
def _find_source() -> Select[Any]:
    return _the_source(select(watch_source.c.id, watch_source.c.due_at))


def _the_source(query: Select[Any]) -> Select[Any]:
    """Locked as a foreign key would: against ``hold`` and nothing else."""
    return query.where(
        watch_source.c.kind == bindparam("kind"),
        watch_source.c.place == bindparam("place"),
        watch_source.c.issuing_key == bindparam("issuing_key"),
        watch_source.c.issuer_hash == bindparam("issuer_hash"),
    ).with_for_update(read=True, key_share=True, of=watch_source)


@prepared
def _add_source() -> Insert:
    return upsert(watch_source).on_conflict_do_nothing()


@prepared
def _sooner() -> Update:
    later = or_(watch_source.c.due_at.is_(None), watch_source.c.due_at > bindparam("due"))
    return (
        update(watch_source)
        .where(watch_source.c.id == bindparam("of_source"), later)
        .values(due_at=bindparam("due"))
    )


@prepared
def _watch() -> Insert:
    return upsert(watched).on_conflict_do_nothing()


@prepared
def _watch_asked(*, asked: bool) -> Insert:
    """Where the source is there already, and asked if it is to be: it is so for all certificates of a CA but one."""
    number: BindParameter[Any] = bindparam("of_certificate", type_=Number)
    known = _the_source(select(number, watch_source.c.id))
    if asked:
        known = known.where(watch_source.c.due_at.is_not(None))
    return upsert(watched).from_select(["certificate_id", "source_id"], known).on_conflict_do_nothing()


def _watch_known(tx: Transaction, certificate_id: int, key: dict[str, Any], *, asked: bool) -> bool:
    values = {"of_certificate": certificate_id, **key}
    return tx.execute(_watch_asked(asked=asked), values).rowcount == 1


def watch(tx: Transaction, certificate_id: int, places: Collection[Place]) -> None:
    """A certificate is watched by these from now on; places that are asked are due at once where they are new."""
    for one in places:
        key: dict[str, Any] = {"kind": one.kind.value, "place": one.place}
        key |= {"issuing_key": one.issuing_key, "issuer_hash": one.issuer_hash}
        asked = one.kind not in _NOBODY
        due = tx.at if asked else None
        if one.kind is not SourceKind.OCSP and _watch_known(tx, certificate_id, key, asked=asked):
            continue
        found = tx.execute(_find_source(), key).first()
        if found is None:
            tx.execute(_add_source(), {**key, "ca": one.ca, "due_at": due})
            found = tx.execute(_find_source(), key).one()
        elif asked and (one.kind is SourceKind.OCSP or found.due_at is None):
            tx.execute(_sooner(), {"of_source": found.id, "due": due})
        own = due if one.kind is SourceKind.OCSP else None
        tx.execute(_watch(), {"certificate_id": certificate_id, "source_id": found.id, "due_at": own})


@prepared
def _unwatch() -> Delete:
    return delete(watched).where(watched.c.certificate_id == bindparam("of_certificate"))


def unwatch(tx: Transaction, certificate_id: int) -> None:
    """It is neither served nor stood by with any more: nobody is asked about it."""
    tx.execute(_unwatch(), {"of_certificate": certificate_id})


def is_current(at: ColumnElement[int]) -> ColumnElement[bool]:
    held = exists().where(
        pair_state.c.pair_id == certificate.c.pair_id,
        or_(pair_state.c.serving == certificate.c.id, pair_state.c.standby == certificate.c.id),
    )
    return and_(certificate.c.not_after > at, held)


# --- asking ----------------------------------------------------------------------------------------------


def _free() -> ColumnElement[bool]:
    return or_(watch_source.c.lease_until.is_(None), watch_source.c.lease_until <= database_now)


@prepared
def _any_due() -> Select[Any]:
    return select(watch_source.c.id).where(watch_source.c.due_at <= bindparam("at"), _free()).limit(1)


def any_due(tx: Transaction) -> bool:
    return tx.execute(_any_due(), {"at": tx.at}).first() is not None


@prepared
def _claim(*, all_of_them: bool) -> ReturningUpdate[Any]:
    if all_of_them:
        due = and_(watch_source.c.due_at.is_not(None), watch_source.c.id > bindparam("after"))
        order = watch_source.c.id
    else:
        due = watch_source.c.due_at <= bindparam("at")
        order = watch_source.c.due_at
    first = (
        select(watch_source.c.id)
        .where(due, _free())
        .order_by(order)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
        .scalar_subquery()
    )
    return (
        update(watch_source)
        .where(watch_source.c.id == first)
        .values(lease_until=database_now + _LEASE, asked_at=bindparam("at"))
        .returning(watch_source)
    )


def claim(tx: Transaction, after: int | None = None) -> Source | None:
    """Lease the source that is due first; with ``after``, the one that follows that number, due or not."""
    values: dict[str, Any] = {"at": tx.at}
    if after is not None:
        values["after"] = after
    row = tx.execute(_claim(all_of_them=after is not None), values).first()
    return None if row is None else source_of(row)


@prepared
def _hold() -> Select[Any]:
    return select(watch_source.c.id).where(watch_source.c.id == bindparam("of_source")).with_for_update()


def hold(tx: Transaction, source: Source) -> None:
    """Nothing begins to be watched by it before this unit of work ends, and what has begun is seen from here on.

    Taken before any row of what it watches is written: who stores a certificate takes both, in either order.
    """
    if tx.others_write:
        tx.execute(_hold(), {"of_source": source.id})


@prepared
def _settle() -> Update:
    return update(watch_source).where(
        watch_source.c.id == bindparam("of_source"), watch_source.c.lease_until == bindparam("of_lease")
    )


def settle(tx: Transaction, source: Source, due_at: datetime | None, **values: Any) -> bool:
    """Write down what an asking came to, and let go of the source. False where the lease was lost meanwhile."""
    number = values.get("number")
    if number is not None:
        values["number"] = number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")
    told = {name: micros(value) if isinstance(value, datetime) else value for name, value in values.items()}
    held = {"of_source": source.id, "of_lease": source.lease}
    rest = {"due_at": micros(due_at), "lease_until": None}
    return tx.execute(_settle(), {**held, **rest, **told}).rowcount == 1


@prepared
def _watches_current() -> Select[Any]:
    return (
        select(watched.c.certificate_id)
        .join(certificate, certificate.c.id == watched.c.certificate_id)
        .where(watched.c.source_id == bindparam("source_id"), is_current(bindparam("at")))
        .limit(1)
    )


def watches_current(tx: Transaction, source: Source) -> bool:
    """Whether a source watches any certificate that serves or stands by."""
    return tx.execute(_watches_current(), {"source_id": source.id, "at": tx.at}).first() is not None


@prepared
def _drop_past() -> Delete:
    current = select(certificate.c.id).where(
        certificate.c.id == watched.c.certificate_id, is_current(bindparam("at"))
    )
    return delete(watched).where(watched.c.source_id == bindparam("of_source"), ~current.exists())


def drop_past(tx: Transaction, source: Source) -> None:
    """It watches nothing any more that neither serves nor stands by."""
    tx.execute(_drop_past(), {"of_source": source.id, "at": tx.at})


@dataclass(frozen=True)
class Match:
    """A certificate of ours that a CRL lists, or that is asked about."""

    id: int
    pair_id: int
    ca: str
    serial: bytes
    spki: bytes


def match_of(row: Any) -> Match:
    return Match(row.id, row.pair_id, row.ca, bytes(row.serial), bytes(row.spki))


MATCH = (certificate.c.id, certificate.c.pair_id, certificate.c.ca, certificate.c.serial, certificate.c.spki)


@prepared
def _matching(size: int) -> Select[Any]:
    """For so many serials, each a parameter; where ``size`` is 0, for any number of them, as hex in one text."""
    if size:
        serials: list[ColumnElement[bytes]] = [bindparam(f"s{number}") for number in range(size)]
        listed: ColumnElement[bool] = certificate.c.serial.in_(serials)
    else:
        split = func.unnest(func.string_to_array(bindparam("serials", type_=Text), ","))
        given = select(func.decode(split, "hex")).scalar_subquery()
        listed = certificate.c.serial == func.any(func.array(given))
    return select(*MATCH).where(
        listed,
        certificate.c.issuer_hash == bindparam("issuer_hash"),
        certificate.c.issuing_key == bindparam("issuing_key"),
        certificate.c.not_after > bindparam("at"),
    )


def matching(tx: Transaction, source: Source, serials: Sequence[bytes]) -> list[Match]:
    """Those certificates of the source's CA that have one of these serials, at most ``MATCHED_AT_ONCE``.

    One statement whose text is always the same, or one of two: to write it anew costs more than to carry it out.
    PostgreSQL takes one text far sooner than thousands of parameters, or an array that its driver has to write.
    """
    values: dict[str, Any] = {
        "issuer_hash": source.issuer_hash,
        "issuing_key": source.issuing_key,
        "at": tx.at,
    }
    if tx.dialect == "postgresql":
        found = tx.execute(_matching(0), {**values, "serials": ",".join(map(bytes.hex, serials))})
    else:
        size = 64 if len(serials) <= 64 else MATCHED_AT_ONCE
        padded = [*serials, *[serials[-1]] * (size - len(serials))]
        found = tx.execute(
            _matching(size), values | {f"s{number}": serial for number, serial in enumerate(padded)}
        )
    return [match_of(row) for row in found]


@prepared
def _under() -> Select[Any]:
    return (
        select(*MATCH, certificate.c.chain_hash)
        .join(watched, watched.c.certificate_id == certificate.c.id)
        .where(
            watched.c.source_id == bindparam("source_id"),
            certificate.c.id > bindparam("after"),
            certificate.c.not_after > bindparam("at"),
        )
        .order_by(certificate.c.id)
        .limit(bindparam("limit"))
    )


def under(tx: Transaction, source: Source, after: int, limit: int) -> list[tuple[Match, bytes]]:
    """The certificates that a source watches, from a number on, each with the hash of the chain it is served with."""
    rows = tx.execute(_under(), {"source_id": source.id, "after": after, "limit": limit, "at": tx.at})
    return [(match_of(row), bytes(row.chain_hash)) for row in rows]
