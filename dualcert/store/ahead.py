"""What ``list`` asks of a database, and what every command asks of it first.

None of this is imported then: SQLAlchemy's texts of it are in files (see ``writing``), because to import SQLAlchemy
takes longer than to list ten thousand pairs. Each public function is a statement; its arguments, all of them flags,
choose among several. The list that a statement takes is called ``ids``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    column,
    exists,
    false,
    or_,
    select,
    table,
)

from dualcert.store.expressions import is_there
from dualcert.store.fitness import distrusted, fit, proved
from dualcert.store.statements import is_among
from dualcert.store.tables import (
    blocked_key,
    certificate,
    coverage,
    lineage,
    observation,
    pair,
    pair_name,
    pair_state,
    pair_target,
    revocation,
    revocation_request,
    work,
)

# --- the revision ----------------------------------------------------------------------------------------

_VERSION = "alembic_version"


def has_revision() -> Select[Any]:
    """Whether there is the table in which Alembic keeps it."""
    return select(is_there(_VERSION))


def revision() -> Select[Any]:
    return select(column("version_num")).select_from(table(_VERSION))


# --- lines -----------------------------------------------------------------------------------------------


def page(*, of_ca: bool, expiring: bool) -> Select[Any]:
    query = _lines(of_ca=of_ca, expiring=expiring)
    return query.where(pair.c.name > bindparam("after")).order_by(pair.c.name).limit(bindparam("limit"))


def of_pairs(*, of_ca: bool, expiring: bool) -> Select[Any]:
    query = _lines(of_ca=of_ca, expiring=expiring)
    return query.where(is_among(pair.c.id, one=False))


def _lines(*, of_ca: bool, expiring: bool) -> Select[Any]:
    primary, backup = lineage.alias("primary_lineage"), lineage.alias("backup_lineage")
    serving, standby = _Held("serving"), _Held("standby")
    query = (
        select(
            pair.c.id,
            pair.c.name,
            primary.c.ca.label("primary"),
            backup.c.ca.label("backup"),
            serving.c.not_after.label("serving_until"),
            serving.bad.label("serving_bad"),
            standby.c.not_after.label("standby_until"),
            standby.bad.label("standby_bad"),
            standby.usable(bindparam("at")).label("usable"),
            (~serving.elsewhere()).label("served"),
        )
        .select_from(pair)
        .join(pair_state, pair_state.c.pair_id == pair.c.id)
        .join(primary, primary.c.id == pair_state.c.primary_lineage)
        .join(backup, backup.c.id == pair_state.c.backup_lineage)
    )
    query = standby.join_promises(standby.join(serving.join(query)))
    if of_ca:
        query = query.where(or_(primary.c.ca == bindparam("ca"), backup.c.ca == bindparam("ca")))
    if expiring:
        until: BindParameter[int] = bindparam("until")
        query = query.where(or_(serving.c.not_after <= until, standby.c.not_after <= until))
    return query


class _Held:
    """The certificate in one of a pair's roles, with what is recorded against it.

    Joined and not asked for by EXISTS: PostgreSQL would read whole tables to have an answer for every line ready.
    """

    def __init__(self, role: str) -> None:
        self._role = role
        self._certificate = certificate.alias(role)
        self._revocation = revocation.alias(f"{role}_revocation")
        self._blocked = blocked_key.alias(f"{role}_blocked")
        self._wanted = revocation_request.alias(f"{role}_wanted")
        self._coverage = coverage.alias(f"{role}_coverage")
        self.c = self._certificate.c

    def join(self, query: Select[Any]) -> Select[Any]:
        return (
            query.outerjoin(self._certificate, self.c.id == pair_state.c[self._role])
            .outerjoin(self._revocation, self._revocation.c.certificate_id == self.c.id)
            .outerjoin(self._blocked, self._blocked.c.spki == self.c.spki)
        )

    def join_promises(self, query: Select[Any]) -> Select[Any]:
        """What ``usable`` needs besides."""
        covered = and_(
            self._coverage.c.certificate_id == self.c.id, self._coverage.c.names_digest == pair.c.names_digest
        )
        return query.outerjoin(self._wanted, self._wanted.c.certificate_id == self.c.id).outerjoin(
            self._coverage, covered
        )

    @property
    def bad(self) -> ColumnElement[bool]:
        return or_(self._revoked, self._is_blocked)

    @property
    def _revoked(self) -> ColumnElement[bool]:
        return self._revocation.c.certificate_id.is_not(None)

    @property
    def _is_blocked(self) -> ColumnElement[bool]:
        return self._blocked.c.spki.is_not(None)

    def usable(self, at: BindParameter[int]) -> ColumnElement[bool]:
        """Whether it may serve as a standby: the rule of ``fitness``, over what is joined here already."""
        conditions = fit(
            self.c.not_after,
            at,
            covers=or_(
                self.c.names_digest == pair.c.names_digest, self._coverage.c.certificate_id.is_not(None)
            ),
            revoked=self._revoked,
            wanted=self._wanted.c.certificate_id.is_not(None),
            blocked=self._is_blocked,
            named=false(),  # an open incident has taken the proof away
            distrusted=distrusted(self.c.ca, self.c.not_before),
        )
        return and_(proved(at), *conditions)

    def elsewhere(self) -> ColumnElement[bool]:
        """Whether a target of the pair was not seen with this certificate, or with a problem."""
        seen = and_(
            observation.c.pair_id == pair_target.c.pair_id, observation.c.target == pair_target.c.target
        )
        return (
            exists()
            .select_from(pair_target.outerjoin(observation, seen))
            .where(
                pair_target.c.pair_id == pair.c.id,
                or_(
                    observation.c.sha256.is_distinct_from(self.c.sha256),
                    observation.c.problem.is_not(None),
                ),
            )
            .correlate(pair, self._certificate)
        )


# --- which pairs -----------------------------------------------------------------------------------------


def under() -> Select[Any]:
    name = pair_name.c.reversed_name
    below = and_(name >= bindparam("below"), name < bindparam("beyond"))
    among = select(pair_name.c.pair_id).where(or_(name == bindparam("suffix"), below))
    return (
        select(pair.c.id).where(pair.c.id.in_(among), pair.c.name > bindparam("after")).order_by(pair.c.name)
    )


# --- what a full view adds -------------------------------------------------------------------------------


def sides() -> Select[Any]:
    is_primary = lineage.c.id == pair_state.c.primary_lineage
    current = case((is_primary, pair_state.c.serving), else_=pair_state.c.standby)
    return (
        select(
            pair_state.c.pair_id,
            pair_state.c.epoch,
            is_primary.label("is_primary"),
            lineage.c.ca,
            lineage.c.renew_at,
            certificate.c.serial,
            certificate.c.sha256,
            certificate.c.spki,
            certificate.c.not_before,
            certificate.c.not_after,
            certificate.c.key_type,
            certificate.c.issuer,
        )
        .select_from(pair_state)
        .join(lineage, lineage.c.id.in_([pair_state.c.primary_lineage, pair_state.c.backup_lineage]))
        .outerjoin(certificate, certificate.c.id == current)
        .where(is_among(pair_state.c.pair_id, one=False))
    )


def names() -> Select[Any]:
    query = select(pair_name.c.pair_id, pair_name.c.reversed_name)
    return query.where(is_among(pair_name.c.pair_id, one=False)).order_by(
        pair_name.c.pair_id, pair_name.c.position
    )


def seen() -> Select[Any]:
    same = and_(observation.c.pair_id == pair_target.c.pair_id, observation.c.target == pair_target.c.target)
    look = (observation.c.sha256, observation.c.how, observation.c.at, observation.c.problem)
    return (
        select(pair_target.c.pair_id, pair_target.c.target, *look)
        .select_from(pair_target.outerjoin(observation, same))
        .where(is_among(pair_target.c.pair_id, one=False))
        .order_by(pair_target.c.pair_id, pair_target.c.target)
    )


def steps() -> Select[Any]:
    return select(work).where(is_among(work.c.pair_id, one=False)).order_by(work.c.id)
