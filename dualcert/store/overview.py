"""What a line about a pair needs, and what its full view needs, for many pairs in a few statements.

Rows come as the driver gives them, with the columns that the classes here name: times in microseconds, flags as 0 and 1
or as truth values. A long list is made of little else than these rows, so they are not made anew.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, cast

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, case, exists, false, or_, select

from dualcert.store.fitness import distrusted, fit, proved
from dualcert.store.statements import for_ids, is_among, prepared
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
)
from dualcert.store.transaction import Transaction


class Line(NamedTuple):
    """A pair and its two certificates; what there is none of is None.

    ``..._bad``: revoked, or its key blocked. ``usable``: the standby may serve. ``served``: every target was last
    seen with the serving certificate, and nothing is wrong there.
    """

    id: int
    name: str
    primary: str
    backup: str
    serving_until: int | None
    serving_bad: bool
    standby_until: int | None
    standby_bad: bool
    usable: bool
    served: bool


class Side(NamedTuple):
    """An open lineage of a pair, and its certificate; where ``not_after`` is None there is none, and nothing of it."""

    pair_id: int
    epoch: int
    is_primary: bool
    ca: str
    renew_at: int | None
    serial: bytes
    sha256: bytes
    spki: bytes
    not_before: int
    not_after: int | None
    key_type: str
    issuer: str


class Seen(NamedTuple):
    """A target of a pair, and what it was last seen to serve; ``how`` is None where nobody has looked yet."""

    pair_id: int
    target: str
    sha256: bytes | None
    how: str | None
    at: int | None
    problem: str | None


def page(
    tx: Transaction, after: str, limit: int, *, ca: str | None = None, until: int | None = None
) -> list[Line]:
    """Lines in the order of the pairs' names, from the one after ``after``.

    ``ca``: only pairs with an open lineage there. ``until``: only pairs with a certificate in use whose notAfter is
    not later; an index on notAfter would lead through every certificate that was ever replaced.
    """
    values: dict[str, Any] = {"at": tx.at, "after": after, "limit": limit}
    chosen = {name: value for name, value in (("ca", ca), ("until", until)) if value is not None}
    rows = tx.execute(_page(of_ca=ca is not None, expiring=until is not None), {**values, **chosen})
    return cast("list[Line]", rows.all())


def of_pairs(
    tx: Transaction, ids: Collection[int], *, ca: str | None = None, until: int | None = None
) -> list[Line]:
    """The lines of some pairs, in the order of their names; chosen among them as by ``page``."""
    if not ids:
        return []

    def build(*, one: bool) -> Any:
        return _of_pairs(one=one, of_ca=ca is not None, expiring=until is not None)

    statement, values = for_ids(build, ids)
    chosen = {name: value for name, value in (("ca", ca), ("until", until)) if value is not None}
    lines = cast("list[Line]", tx.execute(statement, {**values, "at": tx.at, **chosen}).all())
    return sorted(lines, key=lambda line: line.name)


@prepared
def _page(*, of_ca: bool, expiring: bool) -> Select[Any]:
    query = _lines(of_ca=of_ca, expiring=expiring)
    return query.where(pair.c.name > bindparam("after")).order_by(pair.c.name).limit(bindparam("limit"))


@prepared
def _of_pairs(*, one: bool, of_ca: bool, expiring: bool) -> Select[Any]:
    query = _lines(of_ca=of_ca, expiring=expiring)
    return query.where(is_among(pair.c.id, one=one))


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


def under(tx: Transaction, suffix: str, after: str) -> list[int]:
    """The pairs with a name at or under a reversed suffix (``com.example``), in the order of the pairs' names.

    From the pair after ``after``. By a range of the index on reversed names: as much work as there are such names.
    """
    # The first character behind the dot that parts labels.
    values = {"suffix": suffix, "below": f"{suffix}.", "beyond": f"{suffix}/", "after": after}
    return [row.id for row in tx.execute(_under(), values)]


@prepared
def _under() -> Select[Any]:
    name = pair_name.c.reversed_name
    below = and_(name >= bindparam("below"), name < bindparam("beyond"))
    among = select(pair_name.c.pair_id).where(or_(name == bindparam("suffix"), below))
    return (
        select(pair.c.id).where(pair.c.id.in_(among), pair.c.name > bindparam("after")).order_by(pair.c.name)
    )


# --- what a full view adds -------------------------------------------------------------------------------


def sides(tx: Transaction, ids: Collection[int]) -> list[Side]:
    """Both open lineages of each pair."""
    return cast("list[Side]", tx.execute(*for_ids(_sides, ids)).all())


@prepared
def _sides(*, one: bool) -> Select[Any]:
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
        .where(is_among(pair_state.c.pair_id, one=one))
    )


def names(tx: Transaction, ids: Collection[int]) -> list[tuple[int, str]]:
    """(pair, reversed name), each pair's names in their order."""
    return [(number, name) for number, name in tx.execute(*for_ids(_names, ids)).all()]


@prepared
def _names(*, one: bool) -> Select[Any]:
    query = select(pair_name.c.pair_id, pair_name.c.reversed_name)
    return query.where(is_among(pair_name.c.pair_id, one=one)).order_by(
        pair_name.c.pair_id, pair_name.c.position
    )


def seen(tx: Transaction, ids: Collection[int]) -> list[Seen]:
    """Every target of the pairs, each pair's in the order of their names."""
    return cast("list[Seen]", tx.execute(*for_ids(_seen, ids)).all())


@prepared
def _seen(*, one: bool) -> Select[Any]:
    same = and_(observation.c.pair_id == pair_target.c.pair_id, observation.c.target == pair_target.c.target)
    look = (observation.c.sha256, observation.c.how, observation.c.at, observation.c.problem)
    return (
        select(pair_target.c.pair_id, pair_target.c.target, *look)
        .select_from(pair_target.outerjoin(observation, same))
        .where(is_among(pair_target.c.pair_id, one=one))
        .order_by(pair_target.c.pair_id, pair_target.c.target)
    )
