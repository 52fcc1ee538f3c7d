"""What CAs have said about when a certificate should be renewed (RFC 9773), and when they are asked again.

A row for each lineage's current certificate. ``check_at`` is the clock, found by index for each CA: one that hangs
leaves its own rows behind and nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Delete,
    Insert,
    Select,
    Update,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from dualcert.model.certificate import Certificate
from dualcert.policy.due import Life, Suggestion, Window
from dualcert.store.columns import instant, micros
from dualcert.store.statements import prepared
from dualcert.store.tables import account, acme_order, certificate, lineage, pair_state, renewal_info
from dualcert.store.transaction import Transaction

_PROBES = 8
"""At how many instants one looks into what is due, where that is too much to be read."""


@dataclass(frozen=True)
class Subject:
    """A lineage's certificate to ask its CA about.

    ``life_at``: when it is renewed whatever the CA says. ``renew_at``: when its lineage is renewed as things stand.
    ``failures``: how often in a row no usable answer came.
    """

    certificate_id: int
    pair_id: int
    lineage_id: int
    ca: str
    ari_id: str
    life: Life
    life_at: datetime
    renew_at: datetime | None
    known: Suggestion | None
    failures: int


@prepared
def _remember() -> Insert:
    return insert(renewal_info).inline()


@prepared
def _forget() -> Delete:
    return delete(renewal_info).where(
        renewal_info.c.pair_id == bindparam("of_pair"),
        renewal_info.c.ca == bindparam("of_ca"),
    )


def remember(
    tx: Transaction,
    *,
    certificate_id: int,
    pair_id: int,
    ca: str,
    ari_id: str,
    life_at: datetime,
    check_at: datetime,
) -> None:
    """A lineage has a new certificate: from now on its CA is asked about this one, and about no earlier one."""
    forget(tx, pair_id, ca)
    values = {"certificate_id": certificate_id, "pair_id": pair_id, "ca": ca, "ari_id": ari_id}
    tx.execute(_remember(), {**values, "life_at": micros(life_at), "check_at": micros(check_at)})


def forget(tx: Transaction, pair_id: int, ca: str) -> None:
    """The CA is asked about no certificate of this lineage any more."""
    tx.execute(_forget(), {"of_pair": pair_id, "of_ca": ca})


@prepared
def _any_due() -> Select[Any]:
    query = select(renewal_info.c.certificate_id).where(
        renewal_info.c.ca == bindparam("ca"), renewal_info.c.check_at <= bindparam("at")
    )
    return query.limit(1)


def cas_due(tx: Transaction, cas: Iterable[str]) -> list[str]:
    """Those of the CAs that are to be asked about anything now."""
    return [ca for ca in cas if tx.execute(_any_due(), {"ca": ca, "at": tx.at}).first() is not None]


@prepared
def _due() -> Select[Any]:
    held = case(
        (lineage.c.id == pair_state.c.primary_lineage, pair_state.c.serving), else_=pair_state.c.standby
    )
    current = (lineage.c.retired_at.is_(None)) & (held == renewal_info.c.certificate_id)
    return (
        select(
            renewal_info,
            certificate.c.not_before,
            certificate.c.not_after,
            certificate.c.stored_at,
            case((current, lineage.c.id), else_=None).label("lineage_id"),
            lineage.c.renew_at.label("lineage_renew_at"),
        )
        .outerjoin(certificate, certificate.c.id == renewal_info.c.certificate_id)
        .outerjoin(lineage, lineage.c.id == certificate.c.lineage_id)
        .outerjoin(pair_state, pair_state.c.pair_id == renewal_info.c.pair_id)
        .where(
            renewal_info.c.ca == bindparam("ca"),
            renewal_info.c.check_at.between(bindparam("since"), bindparam("at")),
        )
        .order_by(renewal_info.c.check_at)
        .limit(bindparam("limit"))
    )


def due(tx: Transaction, ca: str, limit: int) -> tuple[list[Subject], list[int]]:
    """What a CA is to be asked about now, the longest overdue first; and the numbers of those certificates among them
    about which there is nothing to ask any more: expired, or no longer the one that their lineage has.

    Where there are more, some that are less overdue come besides: what waits longest may all be of one kind.
    """
    rows = tx.execute(_due(), {"ca": ca, "since": 0, "at": tx.at, "limit": limit}).all()
    if len(rows) == limit:
        known = {row.certificate_id for row in rows}
        first = rows[0].check_at
        for part in range(1, _PROBES):
            since = first + (tx.at - first) * part // _PROBES
            values = {"ca": ca, "since": since, "at": tx.at, "limit": limit // _PROBES}
            more = [row for row in tx.execute(_due(), values) if row.certificate_id not in known]
            known.update(row.certificate_id for row in more)
            rows += more
    current = [row for row in rows if row.lineage_id is not None and row.not_after > tx.at]
    stale = [row.certificate_id for row in rows if row not in current]
    return [_subject(row) for row in current], stale


def _subject(row: Any) -> Subject:
    return Subject(
        certificate_id=row.certificate_id,
        pair_id=row.pair_id,
        lineage_id=row.lineage_id,
        ca=row.ca,
        ari_id=row.ari_id,
        life=life_of(row),
        life_at=instant(row.life_at),
        renew_at=instant(row.lineage_renew_at),
        known=suggestion_of(row, row.renew_at),
        failures=row.failures,
    )


def life_of(row: Any) -> Life:
    return Life(instant(row.not_before), instant(row.not_after), instant(row.stored_at))


def suggestion_of(row: Any, drawn: int | None) -> Suggestion | None:
    """What a row of ``renewal_info`` knows of its CA's window, and the time in it."""
    if row.window_start is None or drawn is None:
        return None
    window = Window(instant(row.window_start), instant(row.window_end), row.explanation)
    return Suggestion(window, instant(drawn))


@prepared
def _update() -> Update:
    return update(renewal_info).where(renewal_info.c.certificate_id == bindparam("of_certificate"))


def answered(tx: Transaction, subject: Subject, said: Suggestion, check_at: datetime | None) -> bool:
    """The CA has named a window, and a time in it is drawn. False where the certificate was replaced meanwhile."""
    changed = tx.execute(
        _update(),
        {
            "of_certificate": subject.certificate_id,
            "window_start": micros(said.window.start),
            "window_end": micros(said.window.end),
            "explanation": said.window.explanation,
            "renew_at": micros(said.at),
            "asked_at": tx.at,
            "check_at": micros(check_at),
            "failures": 0,
            "problem": None,
        },
    )
    return changed.rowcount == 1


def failed(tx: Transaction, subject: Subject, problem: str, check_at: datetime | None) -> None:
    """No usable answer came; what the CA said before stands."""
    tx.execute(
        _update(),
        {
            "of_certificate": subject.certificate_id,
            "asked_at": tx.at,
            "check_at": micros(check_at),
            "failures": subject.failures + 1,
            "problem": problem,
        },
    )


def ask_again(tx: Transaction, certificate_id: int, check_at: datetime | None) -> None:
    """When the CA is asked about this certificate again, whatever it said."""
    tx.execute(_update(), {"of_certificate": certificate_id, "check_at": micros(check_at)})


def stop_asking(tx: Transaction, certificate_id: int) -> None:
    """The CA is not asked about this certificate again."""
    ask_again(tx, certificate_id, None)


@prepared
def _hurry() -> Update:
    issued = select(certificate.c.id).where(
        certificate.c.id == renewal_info.c.certificate_id,
        certificate.c.not_before.between(bindparam("issued_from"), bindparam("issued_to")),
    )
    return (
        update(renewal_info)
        .where(
            renewal_info.c.certificate_id.between(bindparam("first"), bindparam("last")),
            renewal_info.c.ca == bindparam("of_ca"),
            renewal_info.c.check_at > bindparam("at"),
            renewal_info.c.certificate_id != bindparam("but"),
            or_(renewal_info.c.asked_at.is_(None), renewal_info.c.asked_at < bindparam("not_since")),
            issued.exists(),
        )
        .values(check_at=bindparam("at"))
    )


def hurry_siblings(
    tx: Transaction, subject: Certificate, beside: int, issued_from: datetime, issued_to: datetime
) -> int:
    """Have a CA asked at once about what it issued between two instants, of the certificates whose numbers are near;
    how many those are. One that was asked about within the last hour is left alone."""
    values = {
        "first": subject.id - beside,
        "last": subject.id + beside,
        "but": subject.id,
        "of_ca": subject.ca,
        "issued_from": micros(issued_from),
        "issued_to": micros(issued_to),
        "not_since": tx.at - 3_600_000_000,
        "at": tx.at,
    }
    return tx.execute(_hurry(), values).rowcount


@prepared
def _overdue() -> Select[Any]:
    late = select(renewal_info.c.certificate_id).where(
        renewal_info.c.ca == bindparam("ca"), renewal_info.c.check_at < bindparam("before")
    )
    return select(func.count()).select_from(late.limit(bindparam("limit")).subquery())


def overdue(tx: Transaction, ca: str, before: datetime, limit: int) -> int:
    """About how many certificates a CA should have been asked before an instant, counted up to a limit."""
    values = {"ca": ca, "before": micros(before), "limit": limit}
    return int(tx.execute(_overdue(), values).scalar_one())


# --- what an order replaces ------------------------------------------------------------------------------


@prepared
def _replaceable() -> Select[Any]:
    held = case(
        (lineage.c.id == pair_state.c.primary_lineage, pair_state.c.serving), else_=pair_state.c.standby
    )
    return (
        select(renewal_info.c.ari_id, acme_order.c.names)
        .select_from(lineage)
        .join(pair_state, pair_state.c.pair_id == lineage.c.pair_id)
        .join(certificate, certificate.c.id == held)
        .join(renewal_info, renewal_info.c.certificate_id == certificate.c.id)
        .join(account, account.c.ca == certificate.c.ca)
        .join(
            acme_order,
            (acme_order.c.pair_id == certificate.c.pair_id)
            & (acme_order.c.ca == certificate.c.ca)
            & (acme_order.c.spki == certificate.c.spki),
        )
        .where(
            lineage.c.id == bindparam("lineage_id"),
            certificate.c.ca == lineage.c.ca,
            account.c.created_at <= acme_order.c.created_at,
        )
    )


def replaceable(tx: Transaction, lineage_id: int) -> tuple[str, frozenset[str]] | None:
    """The identifier of the certificate that a lineage has, and the names it was ordered for.

    None where it has none, where it tells no identifier, or where another account than the present one ordered it.
    """
    row = tx.execute(_replaceable(), {"lineage_id": lineage_id}).first()
    return (row.ari_id, frozenset(row.names.split("\n"))) if row else None


@prepared
def _replaces() -> Update:
    return update(acme_order).where(acme_order.c.id == bindparam("order_id"))


def set_replaces(tx: Transaction, order_id: int, ari_id: str | None) -> None:
    """Write down which certificate an order names as the one that it replaces."""
    tx.execute(_replaces(), {"order_id": order_id, "replaces": ari_id})


def replaces(tx: Transaction, order_id: int) -> str | None:
    """The identifier of the certificate that an order names so."""
    found: str | None = tx.execute(select(acme_order.c.replaces).where(acme_order.c.id == order_id)).scalar()
    return found
