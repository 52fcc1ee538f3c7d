"""What OCSP responders are asked about, certificate by certificate, and how well every source sees."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Delete, Select, Update, bindparam, case, delete, func, or_, select, update

from dualcert.policy.watching import SourceKind
from dualcert.store.columns import instant, micros
from dualcert.store.incident_tables import watch_source, watched
from dualcert.store.statements import is_one_of, prepared
from dualcert.store.tables import certificate
from dualcert.store.transaction import Transaction
from dualcert.store.watching import MATCH, Match, Place, Source, is_current, match_of, source_of


@dataclass(frozen=True)
class Question:
    """A certificate that a responder is to be asked about. ``hour``: that of its issuance."""

    match: Match
    hour: int
    failures: int
    current: bool


@prepared
def _questions() -> Select[Any]:
    hour = certificate.c.not_before / 3_600_000_000
    return (
        select(
            *MATCH,
            hour.label("hour"),
            watched.c.failures,
            case((is_current(bindparam("at")), 1), else_=0).label("current"),
        )
        .join(certificate, certificate.c.id == watched.c.certificate_id)
        .where(watched.c.source_id == bindparam("source_id"), watched.c.due_at <= bindparam("until"))
        .order_by(watched.c.due_at)
        .limit(bindparam("limit"))
    )


def questions(tx: Transaction, source: Source, until: datetime, limit: int) -> list[Question]:
    """What is to be asked of a responder by then, the longest overdue first."""
    values = {"source_id": source.id, "until": micros(until), "limit": limit, "at": tx.at}
    return [
        Question(match_of(row), int(row.hour), row.failures, bool(row.current))
        for row in tx.execute(_questions(), values)
    ]


@prepared
def _answered() -> Update:
    return update(watched).where(
        watched.c.certificate_id == bindparam("of_certificate"), watched.c.source_id == bindparam("of_source")
    )


def answered(
    tx: Transaction, source: Source, question: Question, due_at: datetime, problem: str | None
) -> None:
    """What a responder said of one certificate: nothing that counts, where there is a problem."""
    values: dict[str, Any] = {"due_at": micros(due_at), "problem": problem}
    values |= {"failures": question.failures + 1} if problem else {"failures": 0, "good_at": tx.at}
    tx.execute(_answered(), {"of_certificate": question.match.id, "of_source": source.id, **values})


@prepared
def _next_due() -> Select[Any]:
    return select(func.min(watched.c.due_at)).where(watched.c.source_id == bindparam("source_id"))


def next_due(tx: Transaction, source: Source) -> datetime | None:
    found: int | None = tx.execute(_next_due(), {"source_id": source.id}).scalar()
    return instant(found)


@prepared
def _read_anew() -> Update:
    lists = is_one_of(watch_source.c.kind, [SourceKind.CRL.value, SourceKind.CRL_OF_CAS.value])
    return (
        update(watch_source)
        .where(lists, watch_source.c.due_at.is_not(None))
        .values(etag=None, modified=None, digest=None, due_at=bindparam("at"), lease_until=None)
    )


def read_anew(tx: Transaction) -> None:
    """Every list is due now, and tells all that it says though it is the same as before.

    Whoever is asking one loses it: he compares with what it said before.
    """
    tx.execute(_read_anew(), {"at": tx.at})


@prepared
def _named_by() -> Select[Any]:
    query = select(watch_source.c.id, watch_source.c.kind, watch_source.c.place)
    joined = query.join(watched, watched.c.source_id == watch_source.c.id)
    return joined.where(watched.c.certificate_id == bindparam("of_certificate"))


@prepared
def _leave() -> Delete:
    return delete(watched).where(
        watched.c.certificate_id == bindparam("of_certificate"), watched.c.source_id == bindparam("of_source")
    )


def only_by(tx: Transaction, certificate_id: int, places: Collection[Place]) -> None:
    """Other places than these are none of the certificate's any more: one that was configured may have been wrong."""
    known = {(one.kind.value, one.place) for one in places}
    for row in tx.execute(_named_by(), {"of_certificate": certificate_id}).all():
        if (row.kind, row.place) not in known:
            tx.execute(_leave(), {"of_certificate": certificate_id, "of_source": row.id})


# --- telling ---------------------------------------------------------------------------------------------


def everything(tx: Transaction) -> list[Source]:
    """All sources, by CA and place."""
    order = (watch_source.c.ca, watch_source.c.kind, watch_source.c.place)
    return [source_of(row) for row in tx.execute(select(watch_source).order_by(*order))]


def how_many(tx: Transaction, source_id: int, limit: int) -> int:
    """How many certificates a source watches, counted up to a limit."""
    some = select(watched.c.certificate_id).where(watched.c.source_id == source_id).limit(limit).subquery()
    return int(tx.execute(select(func.count()).select_from(some)).scalar_one())


def blind_ones(tx: Transaction, source_id: int, limit: int) -> int:
    """About how many of them a responder has given no answer that counts, up to a limit."""
    some = select(watched.c.certificate_id).where(
        watched.c.source_id == source_id, or_(watched.c.failures > 0, watched.c.good_at.is_(None))
    )
    return int(tx.execute(select(func.count()).select_from(some.limit(limit).subquery())).scalar_one())


def watched_by(tx: Transaction, certificate_id: int) -> list[Source]:
    query = select(watch_source).join(watched, watched.c.source_id == watch_source.c.id)
    return [source_of(row) for row in tx.execute(query.where(watched.c.certificate_id == certificate_id))]
