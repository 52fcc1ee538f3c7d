"""Outside evidence about certificates, and the promotions that it has caused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, Insert, Select, bindparam, delete, exists, func, insert, or_, select

from dualcert.model.events import EventKind
from dualcert.model.signal import SignalKind, Suspect, Turning
from dualcert.model.work import WorkKind
from dualcert.store import counters, incidents
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import automatic_promotion, signal
from dualcert.store.statements import for_ids, is_among, prepared
from dualcert.store.tables import blocked_key, certificate, event, pair_state, revocation, work
from dualcert.store.transaction import Transaction

_BATCH = 500


@prepared
def _insert() -> Insert:
    return upsert(signal).on_conflict_do_nothing()


@prepared
def _number() -> Select[Any]:
    return select(signal.c.id).where(
        signal.c.certificate_id == bindparam("certificate_id"),
        signal.c.source == bindparam("source"),
        signal.c.kind == bindparam("kind"),
        signal.c.evidence == bindparam("evidence"),
    )


def remember(tx: Transaction, suspect: Suspect, kind: SignalKind, source: str) -> tuple[int, bool]:
    """Keep a signal; its number, and whether it is news."""
    key = {
        "certificate_id": suspect.certificate_id,
        "source": source,
        "kind": kind.value,
        "evidence": suspect.evidence,
    }
    rest = {
        "pair_id": suspect.pair_id,
        "at": tx.at,
        "reason": suspect.reason,
        "since": micros(suspect.since),
        "url": suspect.url,
    }
    fresh = tx.execute(_insert(), {**key, **rest}).rowcount == 1
    return int(tx.execute(_number(), key).scalar_one()), fresh


@prepared
def _against() -> Select[Any]:
    query = select(signal).where(signal.c.certificate_id == bindparam("certificate_id"))
    return query.order_by(signal.c.id.desc())


def against(tx: Transaction, certificate_id: int) -> list[dict[str, Any]]:
    """What was said against a certificate, the newest first."""
    return [
        {
            "kind": row.kind,
            "source": row.source,
            "at": instant(row.at),
            "since": instant(row.since),
            "reason": row.reason,
            "evidence": row.evidence,
            "url": row.url,
        }
        for row in tx.execute(_against(), {"certificate_id": certificate_id})
    ]


# --- promotions that nobody ordered ----------------------------------------------------------------------


@prepared
def _undecided(*, one: bool) -> Select[Any]:
    decided = exists().where(work.c.pair_id == pair_state.c.pair_id, work.c.kind == WorkKind.SIGNAL.value)
    but: list[BindParameter[int]] = [bindparam("brakes"), bindparam("of_warnings")]
    named = incidents.named(pair_state.c.serving, but=but)
    return select(pair_state.c.pair_id, pair_state.c.serving).where(
        is_among(pair_state.c.pair_id, one=one), ~decided, ~named
    )


def undecided(tx: Transaction, turnings: Sequence[Turning], *, early: bool = False) -> list[Turning]:
    """Those whose certificate serves still, that are not to turn already, and that no open incident names; the brake's
    own name nothing for certain before they have their plan: whoever was at one may have died.

    ``early``: because of mere warnings. What is said for certain does not wait with the warnings that a person has yet
    to look at.
    """
    found: list[Turning] = []
    by_pair = {one.pair_id: one for one in turnings}
    ids = sorted(by_pair)
    number, plan = brake_incident(tx) or (0, 0)
    warned, plan_of_warned = brake_incident(tx, early=True) or (0, 0)
    but = {"brakes": 0 if plan else number, "of_warnings": 0 if early and plan_of_warned else warned}
    for begin in range(0, len(ids), _BATCH):
        statement, which = for_ids(_undecided, ids[begin : begin + _BATCH])
        for row in tx.execute(statement, {**which, **but}):
            one = by_pair[row.pair_id]
            if one.certificate_id == row.serving:
                found.append(one)
    return found


@prepared
def _asked(*, one: bool) -> Select[Any]:
    return select(event.c.certificate_id).where(
        is_among(event.c.pair_id, one=one), event.c.kind == EventKind.PROMOTION_WANTED.value
    )


def not_asked(tx: Transaction, wanted: Sequence[Turning]) -> list[Turning]:
    """Those about which nobody was asked yet, or that have news."""
    asked: set[int] = set()
    for begin in range(0, len(wanted), _BATCH):
        ids = [one.pair_id for one in wanted[begin : begin + _BATCH]]
        asked |= {row.certificate_id for row in tx.execute(*for_ids(_asked, ids))}
    return [one for one in wanted if one.fresh or one.certificate_id not in asked]


@prepared
def _made() -> Select[Any]:
    return (
        select(func.count())
        .select_from(automatic_promotion)
        .where(automatic_promotion.c.at > bindparam("after"))
    )


def made_since(tx: Transaction, after: datetime) -> int:
    return int(tx.execute(_made(), {"after": micros(after)}).scalar_one())


@prepared
def _promoting() -> Insert:
    return insert(automatic_promotion).inline()


def promoting(tx: Transaction, turning: Turning) -> None:
    """Count a promotion that is about to be made by itself."""
    tx.execute(_promoting(), {"pair_id": turning.pair_id, "at": tx.at, "signal_id": turning.signal_id})


def forget_promotions(tx: Transaction, before: datetime) -> None:
    """What the brake does not count any more."""
    tx.execute(delete(automatic_promotion).where(automatic_promotion.c.at < micros(before)))


@prepared
def _accused(*, early: bool) -> Select[Any]:
    against = [
        exists().where(revocation.c.certificate_id == certificate.c.id),
        exists().where(blocked_key.c.spki == certificate.c.spki),
    ]
    if early:
        warning = signal.alias("warning")
        is_one = warning.c.kind == SignalKind.WARNING.value
        against.append(exists().where(warning.c.certificate_id == certificate.c.id, is_one))
    return (
        select(certificate.c.id, signal.c.reason, signal.c.source, signal.c.evidence)
        .join(pair_state, pair_state.c.serving == certificate.c.id)
        .outerjoin(signal, signal.c.certificate_id == certificate.c.id)
        .where(pair_state.c.pair_id == bindparam("pair_id"), or_(*against))
        .order_by(signal.c.id.desc())
        .limit(1)
    )


def accusation(tx: Transaction, pair_id: int, *, early: bool) -> tuple[int, str] | None:
    """The certificate that a pair serves and must not, and the newest word against it; None where all is well.

    ``early``: a warning is enough.
    """
    row = tx.execute(_accused(early=early), {"pair_id": pair_id}).first()
    if row is None:
        return None
    said = "its key is blocked" if row.source is None else f"{row.reason}, {row.evidence} ({row.source})"
    return int(row.id), said


# --- the brake -------------------------------------------------------------------------------------------

_HELD = "brake"
_REST = "brake-rest"
_OPENED_WITHIN = timedelta(minutes=10)


def _counters(*, early: bool) -> tuple[str, str]:
    """Under which names an incident and its plan are remembered; one that names mere warnings is kept apart."""
    return ("warned-incident", "warned-plan") if early else ("brake-incident", "brake-plan")


def numbers(tx: Transaction, within: timedelta) -> tuple[int, int, datetime | None]:
    """Promotions that were made by themselves of late, pairs there are, and when the brake took hold last."""
    there_are = counters.value(tx, counters.PAIRS) or 0
    return made_since(tx, tx.now - within), there_are, instant(counters.value(tx, _HELD))


def hold(tx: Transaction) -> None:
    """The brake takes hold now; an incident of before is none of it, unless it was not brought to its end."""
    counters.put(tx, _HELD, tx.at)
    for early in (False, True):
        incident, plan = _counters(early=early)
        if counters.value(tx, plan):
            counters.put(tx, incident, 0)


def brake_incident(tx: Transaction, *, early: bool = False) -> tuple[int, int] | None:
    """The incident that was opened when the brake took hold last, and the number of the plan that was made with it: 0
    while that is under way. ``early``: the one of mere warnings, which no plan is carried out of without a person."""
    incident, made = _counters(early=early)
    number, plan = counters.value(tx, incident), counters.value(tx, made)
    return (number, plan or 0) if number else None


def rest_is_due(tx: Transaction, every: timedelta) -> bool:
    """Whether it is so long since somebody has looked at what the brake's incident has left; who asks does it now."""
    before = counters.value(tx, _REST)
    if before is not None and before <= tx.at < before + every // timedelta(microseconds=1):
        return False
    counters.put(tx, _REST, tx.at)
    return True


def being_opened(tx: Transaction, number: int) -> bool:
    """Whether somebody is opening the incident, unless he must have died."""
    found = incidents.get(tx, number)
    return found is not None and found.loading and found.opened_at > tx.now - _OPENED_WITHIN


def remember_incident(tx: Transaction, number: int, plan: int = 0, *, early: bool = False) -> None:
    for name, value in zip(_counters(early=early), (number, plan), strict=True):
        counters.put(tx, name, value)
