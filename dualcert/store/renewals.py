"""What a renewal is decided by, for one pair or for many, in one statement."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, bindparam, case, func, or_, select

from dualcert.model.work import HELD, WorkKind
from dualcert.policy.due import Life, Suggestion
from dualcert.store.columns import instant
from dualcert.store.picked import there_is
from dualcert.store.renewal_info import life_of, suggestion_of
from dualcert.store.statements import for_ids, is_among, prepared
from dualcert.store.tables import (
    blocked_key,
    certificate,
    coverage,
    lineage,
    pair,
    pair_state,
    renewal_info,
    revocation,
    work,
)
from dualcert.store.transaction import Transaction


@dataclass(frozen=True)
class Step:
    """A row of work as far as it tells how a renewal goes. ``due_at`` is None while a person must act."""

    due_at: datetime | None
    attempts: int
    waiting_for: str | None
    reason: str | None


@dataclass(frozen=True)
class HeldCertificate:
    """A lineage's certificate, what is held against it, and when it wants its successor."""

    id: int
    life: Life
    revoked: bool
    blocked: bool
    covers: bool
    life_at: datetime | None
    suggested: Suggestion | None


@dataclass(frozen=True)
class Renewable:
    """An open lineage, its certificate, and the steps towards the next one; ``publication`` is the pair's.

    ``refill``: it is to be filled anew, which is ``refill_held`` for the sake of an incident.
    """

    pair_id: int
    lineage_id: int
    ca: str
    primary: bool
    renew_at: datetime | None
    held: HeldCertificate | None
    refill: bool
    refill_held: bool
    order: Step | None
    publication: Step | None


@prepared
def _due() -> Select[Any]:
    clock = pair_state.c.next_action_at
    query = select(pair_state.c.pair_id).where(clock <= bindparam("at"))
    return query.order_by(clock).limit(bindparam("limit")).with_for_update(skip_locked=True)


def due(tx: Transaction, limit: int) -> list[int]:
    """Pairs whose renewal clock has run out, the longest overdue first, which nobody else is looking at."""
    return [row.pair_id for row in tx.execute(_due(), {"at": tx.at, "limit": limit})]


@prepared
def _any_due() -> Select[Any]:
    return select(pair_state.c.pair_id).where(pair_state.c.next_action_at <= bindparam("at")).limit(1)


def any_due(tx: Transaction) -> bool:
    """Whether any pair's renewal clock has run out."""
    return tx.execute(_any_due(), {"at": tx.at}).first() is not None


@prepared
def _of_pairs(*, one: bool) -> Select[Any]:
    order, publication = work.alias("its_order"), work.alias("publication")
    primary = lineage.c.id == pair_state.c.primary_lineage
    held = case((primary, pair_state.c.serving), else_=pair_state.c.standby)
    revoked = there_is(revocation.c.certificate_id == certificate.c.id, beside=(certificate,))
    blocked = there_is(blocked_key.c.spki == certificate.c.spki, beside=(certificate,))
    counted = there_is(
        coverage.c.certificate_id == certificate.c.id,
        coverage.c.names_digest == pair.c.names_digest,
        beside=(certificate, pair),
    )
    refills = select(func.coalesce(work.c.waiting_for, "")).where(
        _is_step(work, WorkKind.REFILL), work.c.ca == lineage.c.ca
    )
    return (
        select(
            lineage.c.pair_id,
            lineage.c.id.label("lineage_id"),
            lineage.c.ca,
            primary.label("is_primary"),
            lineage.c.renew_at,
            certificate.c.id.label("certificate_id"),
            certificate.c.not_before,
            certificate.c.not_after,
            certificate.c.stored_at,
            revoked.label("revoked"),
            blocked.label("blocked"),
            or_(certificate.c.names_digest == pair.c.names_digest, counted).label("covers"),
            renewal_info.c.life_at,
            renewal_info.c.renew_at.label("suggested_at"),
            renewal_info.c.window_start,
            renewal_info.c.window_end,
            renewal_info.c.explanation,
            refills.limit(1).correlate(lineage).scalar_subquery().label("refill"),
            *_columns(order, "order"),
            *_columns(publication, "publication"),
        )
        .select_from(lineage)
        .join(pair, pair.c.id == lineage.c.pair_id)
        .join(pair_state, pair_state.c.pair_id == lineage.c.pair_id)
        .outerjoin(certificate, certificate.c.id == held)
        .outerjoin(renewal_info, renewal_info.c.certificate_id == certificate.c.id)
        .outerjoin(order, and_(_is_step(order, WorkKind.ORDER), order.c.ca == lineage.c.ca))
        .outerjoin(publication, and_(_is_step(publication, WorkKind.PUBLICATION), publication.c.ca == ""))
        .where(is_among(lineage.c.pair_id, one=one), lineage.c.retired_at.is_(None))
        .order_by(lineage.c.pair_id, lineage.c.id)
    )


def _is_step(row: Any, kind: WorkKind) -> Any:
    return and_(row.c.pair_id == lineage.c.pair_id, row.c.kind == kind.value, row.c.target == "")


def _columns(row: Any, name: str) -> list[Any]:
    columns = (row.c.id, row.c.due_at, row.c.attempts, row.c.waiting_for, row.c.reason)
    return [column.label(f"{name}_{column.name}") for column in columns]


def of_pairs(tx: Transaction, ids: Collection[int]) -> dict[int, list[Renewable]]:
    """The open lineages of some pairs, as they stand."""
    found: dict[int, list[Renewable]] = {number: [] for number in ids}
    for row in tx.execute(*for_ids(_of_pairs, ids)):
        found[row.pair_id].append(_renewable(row))
    return found


def _renewable(row: Any) -> Renewable:
    return Renewable(
        pair_id=row.pair_id,
        lineage_id=row.lineage_id,
        ca=row.ca,
        primary=bool(row.is_primary),
        renew_at=instant(row.renew_at),
        held=None if row.certificate_id is None else _held(row),
        refill=row.refill is not None,
        refill_held=row.refill == HELD,
        order=None
        if row.order_id is None
        else Step(instant(row.order_due_at), row.order_attempts, row.order_waiting_for, row.order_reason),
        publication=None
        if row.publication_id is None
        else Step(
            instant(row.publication_due_at),
            row.publication_attempts,
            row.publication_waiting_for,
            row.publication_reason,
        ),
    )


def _held(row: Any) -> HeldCertificate:
    return HeldCertificate(
        id=row.certificate_id,
        life=life_of(row),
        revoked=bool(row.revoked),
        blocked=bool(row.blocked),
        covers=bool(row.covers),
        life_at=instant(row.life_at),
        suggested=suggestion_of(row, row.suggested_at),
    )
