"""Promotion as SQL: one predicate says whether a standby may serve, for one pair as for a million.

``policy.promotion.objections`` puts the same rule into words; a property test demands that both agree.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from functools import partial
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
    func,
    null,
    or_,
    select,
    update,
)

from dualcert.model.events import EventKind
from dualcert.model.pair import PairState
from dualcert.policy.due import PROOF_LASTS
from dualcert.store import incidents
from dualcert.store.fitness import distrusted, fit, proved
from dualcert.store.incident_tables import incident_member
from dualcert.store.pairs import as_seen, seen_values
from dualcert.store.statements import for_ids, is_among, prepared
from dualcert.store.tables import (
    blocked_key,
    certificate,
    coverage,
    event,
    pair,
    pair_state,
    revocation,
    revocation_request,
    wrapped_key,
)
from dualcert.store.transaction import Transaction

_DAY = timedelta(days=1) // timedelta(microseconds=1)
_PROOF = PROOF_LASTS // timedelta(microseconds=1)


def serving_worse(at: int | BindParameter[int]) -> ColumnElement[bool]:
    """Whether what serves is worse than a certificate that an incident names: revoked, blocked, expired, or nothing."""
    held = certificate.alias("serving_certificate")
    bad = or_(
        held.c.not_after <= at,
        exists().where(revocation.c.certificate_id == held.c.id),
        exists().where(blocked_key.c.spki == held.c.spki),
    )
    found = exists().where(held.c.id == pair_state.c.serving, bad).correlate(pair_state)
    return or_(pair_state.c.serving.is_(None), found)


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
        named=and_(incidents.named(certificate.c.id), ~serving_worse(at)),
        distrusted=distrusted(certificate.c.ca, certificate.c.not_before),
    )
    found = exists().where(certificate.c.id == pair_state.c.standby, *conditions).correlate(pair_state)
    return found if opened else and_(proved(at), found)


def usable_until(held: ColumnElement[int]) -> ColumnElement[int]:
    """Until when a certificate of a ``pair_state`` row may stand by; NULL where something is held against it.

    The twin of ``policy.due.usable_until``. That its CA is distrusted is not among it: it is asked of the CA at every
    look, so that millions need not be written when that is taken back.
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
            certificate.c.id == held,
            ~exists().where(revocation.c.certificate_id == certificate.c.id),
            ~exists().where(revocation_request.c.certificate_id == certificate.c.id),
            ~exists().where(blocked_key.c.spki == certificate.c.spki),
            ~incidents.named(certificate.c.id),
        )
        .correlate(pair_state)
        .scalar_subquery()
    )


@prepared
def _usable(*, one: bool, opened: bool) -> Select[Any]:
    among = is_among(pair_state.c.pair_id, one=one)
    return select(pair_state.c.pair_id).where(among, standby_usable(bindparam("at"), opened=opened))


def usable(tx: Transaction, pairs: Collection[int], *, opened: bool = False) -> set[int]:
    """Those of the pairs whose standby may serve now; ``opened``: once its key has been opened for that."""
    statement, values = for_ids(partial(_usable, opened=opened), pairs)
    return {row.pair_id for row in tx.execute(statement, {**values, "at": tx.at})}


def _failed() -> Select[Any]:
    """The findings that the standby does not work, of after its key was opened for the last time."""
    return (
        select(event.c.id)
        .join(certificate, certificate.c.id == pair_state.c.standby)
        .join(wrapped_key, wrapped_key.c.spki == certificate.c.spki)
        .where(
            event.c.pair_id == pair_state.c.pair_id,
            event.c.kind == EventKind.PROOF_FAILED.value,
            event.c.at > wrapped_key.c.proved_at,
        )
        .correlate(pair_state)
    )


@prepared
def _given_up() -> Select[Any]:
    wanted = exists().where(revocation_request.c.certificate_id == pair_state.c.standby)
    failed = and_(pair_state.c.backup_ok_until.is_(None), _failed().exists())
    return select(pair_state.c.pair_id).where(
        pair_state.c.pair_id == bindparam("of_pair"), or_(wanted.correlate(pair_state), failed)
    )


def given_up(tx: Transaction, pair_id: int) -> bool:
    """Whether a pair's standby will not serve any more: its revocation was asked for, or it was found not to work."""
    return tx.execute(_given_up(), {"of_pair": pair_id}).first() is not None


def _named_before() -> ColumnElement[bool]:
    """Whether the standby is among a batch of an incident's members, and nothing is known against its key's proof."""
    return and_(
        incident_member.c.incident_id == bindparam("of_incident"),
        incident_member.c.certificate_id > bindparam("after"),
        incident_member.c.certificate_id <= bindparam("up_to"),
        pair_state.c.pair_id == incident_member.c.pair_id,
        pair_state.c.standby == incident_member.c.certificate_id,
        pair_state.c.backup_ok_until.is_(None),
        ~_failed().exists(),
    )


@prepared
def _lock_named_before() -> Select[Any]:
    rows = (
        select(pair_state.c.pair_id)
        .join_from(incident_member, pair_state, _named_before())
        .order_by(pair_state.c.pair_id)
        .with_for_update(of=pair_state)
    )
    return select(func.count()).select_from(rows.subquery())


@prepared
def _trust_again() -> Update:
    until = usable_until(pair_state.c.standby)
    return update(pair_state).where(_named_before(), until.is_not(None)).values(backup_ok_until=until)


def trust_again(tx: Transaction, incident_id: int, after: int, up_to: int) -> int:
    """Backups among a batch of a closed incident's members count as far as their last proof goes, unless something
    else is against them; how many did not before. ``after`` and ``up_to`` bound the certificates' numbers."""
    values = {"of_incident": incident_id, "after": after, "up_to": up_to}
    if tx.others_write:
        tx.execute(_lock_named_before(), values).all()
    return tx.execute(_trust_again(), values).rowcount


def exchanged() -> dict[str, ColumnElement[Any]]:
    """What a ``pair_state`` row has after its two roles were exchanged.

    ``next_action_at`` is not among it, so that the update touches no index.
    """
    return {
        "epoch": pair_state.c.epoch + 1,
        "serving": pair_state.c.standby,
        "standby": pair_state.c.serving,
        "primary_lineage": pair_state.c.backup_lineage,
        "backup_lineage": pair_state.c.primary_lineage,
        # In a mass promotion an incident names whatever served: that is known before anything else is looked up.
        "backup_ok_until": case(
            (incidents.named(pair_state.c.serving), null()), else_=usable_until(pair_state.c.serving)
        ),
    }


@prepared
def _swap(*, opened: bool) -> Update:
    conditions = (*as_seen(), standby_usable(bindparam("at"), opened=opened))
    return update(pair_state).where(*conditions).values(exchanged())


def swap(tx: Transaction, seen: PairState, *, opened: bool = False) -> bool:
    """Exchange the two roles if the row is as ``seen`` and the standby may serve; the epoch grows by one.

    ``next_action_at`` is not written, so that the update touches no index. False where nothing was changed.
    """
    return tx.execute(_swap(opened=opened), {**seen_values(seen), "at": tx.at}).rowcount == 1
