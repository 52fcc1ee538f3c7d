"""Whether a certificate may serve, as SQL: the rule itself, and those parts of it that are always come by in one way.

``promotion`` asks it of a standby, ``overview`` of every line that it reads, who joins what it needs by itself.
"""

from __future__ import annotations

from sqlalchemy import BindParameter, ColumnElement, and_, exists, literal_column, or_, select

from dualcert.store.tables import ca_standing, pair_state

_such = ca_standing.alias("distrusted_ca")


def fit(
    not_after: ColumnElement[int],
    at: int | BindParameter[int],
    *,
    covers: ColumnElement[bool],
    revoked: ColumnElement[bool],
    wanted: ColumnElement[bool],
    blocked: ColumnElement[bool],
    named: ColumnElement[bool],
    distrusted: ColumnElement[bool],
) -> tuple[ColumnElement[bool], ...]:
    """What must be so of a certificate that is to serve: the rule itself, however its facts are come by.

    ``wanted``: its revocation was asked for. ``named``: by an open incident, and what serves is no worse.
    """
    return not_after > at, covers, ~revoked, ~wanted, ~blocked, ~named, ~distrusted


def proved(at: int | BindParameter[int]) -> ColumnElement[bool]:
    """Whether the standby's key was opened lately, and nothing was found against it since."""
    return pair_state.c.backup_ok_until > at


def distrusted(ca: ColumnElement[str], not_before: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a certificate of this CA, which began then, is not to be relied on."""
    after = ca_standing.c.distrust_after
    # Which CAs these are is found once in a statement, and not for each certificate of others; by index, because
    # PostgreSQL before 18 chooses badly beside a walk that it was told not to take.
    such = select(_such.c.ca).where(_such.c.ca > literal_column("''"), _such.c.distrusted_at.is_not(None))
    since = exists().where(ca_standing.c.ca == ca, or_(after.is_(None), not_before > after))
    return and_(ca.in_(such), since.correlate_except(ca_standing))
