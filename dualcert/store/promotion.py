"""Promotion as SQL: one predicate says whether a standby may serve, for one pair as for a million.

``policy.promotion.objections`` puts the same rule into words; a property test demands that both agree.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    Update,
    and_,
    bindparam,
    case,
    exists,
    or_,
    select,
    update,
)

from dualcert.model.pair import PairState
from dualcert.policy.due import PROOF_LASTS
from dualcert.store.pairs import as_seen, seen_values
from dualcert.store.statements import for_ids, is_among, prepared
from dualcert.store.tables import (
    blocked_key,
    certificate,
    coverage,
    pair,
    pair_state,
    revocation,
    revocation_request,
    wrapped_key,
)
from dualcert.store.transaction import Transaction

_DAY = timedelta(days=1) // timedelta(microseconds=1)
_PROOF = PROOF_LASTS // timedelta(microseconds=1)


def fit(
    not_after: ColumnElement[int],
    at: int | BindParameter[int],
    *,
    covers: ColumnElement[bool],
    revoked: ColumnElement[bool],
    wanted: ColumnElement[bool],
    blocked: ColumnElement[bool],
) -> tuple[ColumnElement[bool], ...]:
    """What must be so of a certificate that is to serve: the rule itself, however its facts are come by.

    ``wanted``: its revocation was asked for.
    """
    return not_after > at, covers, ~revoked, ~wanted, ~blocked


def proved(at: int | BindParameter[int]) -> ColumnElement[bool]:
    """Whether the standby's key was opened lately, and nothing was found against it since."""
    return pair_state.c.backup_ok_until > at


def standby_usable(at: int | BindParameter[int], *, opened: bool = False) -> ColumnElement[bool]:
    """Whether the standby of a ``pair_state`` row may serve at an instant (microseconds).

    ``opened`` says that its key was opened a moment ago, which is better than any remembered proof.
    """
    # Two levels down: left to itself, SQLAlchemy would join pair_state anew and compare with any pair's names.
    names_digest = (
        select(pair.c.names_digest)
        .where(pair.c.id == pair_state.c.pair_id)
        .correlate(pair_state)
        .scalar_subquery()
    )
    covers = or_(
        certificate.c.names_digest == names_digest,
        exists().where(
            coverage.c.certificate_id == certificate.c.id, coverage.c.names_digest == names_digest
        ),
    )
    conditions = fit(
        certificate.c.not_after,
        at,
        covers=covers,
        revoked=exists().where(revocation.c.certificate_id == certificate.c.id),
        wanted=exists().where(revocation_request.c.certificate_id == certificate.c.id),
        blocked=exists().where(blocked_key.c.spki == certificate.c.spki),
    )
    found = exists().where(certificate.c.id == pair_state.c.standby, *conditions).correlate(pair_state)
    return found if opened else and_(proved(at), found)


def _serving_usable_until() -> ColumnElement[int]:
    """Until when the certificate that serves now may stand by afterwards; NULL where something is held against it.

    The twin of ``policy.due.usable_until``.
    """
    life = certificate.c.not_after - certificate.c.not_before
    margin = case((life // 10 < _DAY, life // 10), else_=_DAY)
    end = certificate.c.not_after - margin
    proof = wrapped_key.c.proved_at + _PROOF
    return (
        select(case((end < proof, end), else_=proof))
        .select_from(certificate)
        .join(wrapped_key, wrapped_key.c.spki == certificate.c.spki)
        .where(
            certificate.c.id == pair_state.c.serving,
            ~exists().where(revocation.c.certificate_id == certificate.c.id),
            ~exists().where(revocation_request.c.certificate_id == certificate.c.id),
            ~exists().where(revocation_request.c.certificate_id == certificate.c.id),
            ~exists().where(blocked_key.c.spki == certificate.c.spki),
        )
        .correlate(pair_state)
        .scalar_subquery()
    )


@prepared
def _usable(*, one: bool) -> Select[Any]:
    among = is_among(pair_state.c.pair_id, one=one)
    return select(pair_state.c.pair_id).where(among, standby_usable(bindparam("at")))


def usable(tx: Transaction, pairs: Collection[int]) -> set[int]:
    """Those of the pairs whose standby may serve now."""
    statement, values = for_ids(_usable, pairs)
    return {row.pair_id for row in tx.execute(statement, {**values, "at": tx.at})}


@prepared
def _swap(*, opened: bool) -> Update:
    return (
        update(pair_state)
        .where(*as_seen(), standby_usable(bindparam("at"), opened=opened))
        .values(
            epoch=pair_state.c.epoch + 1,
            serving=pair_state.c.standby,
            standby=pair_state.c.serving,
            primary_lineage=pair_state.c.backup_lineage,
            backup_lineage=pair_state.c.primary_lineage,
            backup_ok_until=_serving_usable_until(),
        )
    )


def swap(tx: Transaction, seen: PairState, *, opened: bool = False) -> bool:
    """Exchange the two roles if the row is as ``seen`` and the standby may serve; the epoch grows by one.

    ``next_action_at`` is not written, so that the update touches no index. False where nothing was changed.
    """
    return tx.execute(_swap(opened=opened), {**seen_values(seen), "at": tx.at}).rowcount == 1
