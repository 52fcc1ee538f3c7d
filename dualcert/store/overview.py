"""What a line about a pair needs, and what its full view needs, for many pairs in a few statements.

The statements stand in ``ahead``. Rows come as the driver gives them, with the columns that the classes here name:
times in microseconds, flags as 0 and 1 or as truth values. A long list is made of little else than these rows, so they
are not made anew.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from dualcert.store.statements import written
from dualcert.store.transaction import Transaction

if TYPE_CHECKING:
    from dualcert.model.work import WorkRow


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
    return _lines(tx, "page", {"after": after, "limit": limit}, ca, until)


def of_pairs(
    tx: Transaction, ids: Collection[int], *, ca: str | None = None, until: int | None = None
) -> list[Line]:
    """The lines of some pairs, in the order of their names; chosen among them as by ``page``."""
    return sorted(_lines(tx, "of_pairs", {"ids": ids}, ca, until), key=lambda line: line.name) if ids else []


def _lines(
    tx: Transaction, statement: str, values: dict[str, Any], ca: str | None, until: int | None
) -> list[Line]:
    values["at"] = tx.at
    values |= {name: value for name, value in (("ca", ca), ("until", until)) if value is not None}
    form = written(statement, of_ca=ca is not None, expiring=until is not None)
    return cast("list[Line]", tx.execute(form, values).all())


# --- which pairs -----------------------------------------------------------------------------------------


def under(tx: Transaction, suffix: str, after: str) -> list[int]:
    """The pairs with a name at or under a reversed suffix (``com.example``), in the order of the pairs' names.

    From the pair after ``after``. By a range of the index on reversed names: as much work as there are such names.
    """
    # The first character behind the dot that parts labels.
    values = {"suffix": suffix, "below": f"{suffix}.", "beyond": f"{suffix}/", "after": after}
    return [row.id for row in tx.execute(written("under"), values)]


# --- what a full view adds -------------------------------------------------------------------------------


def sides(tx: Transaction, ids: Collection[int]) -> list[Side]:
    """Both open lineages of each pair."""
    return cast("list[Side]", tx.execute(written("sides"), {"ids": ids}).all())


def names(tx: Transaction, ids: Collection[int]) -> list[tuple[int, str]]:
    """(pair, reversed name), each pair's names in their order."""
    return [(number, name) for number, name in tx.execute(written("names"), {"ids": ids}).all()]


def seen(tx: Transaction, ids: Collection[int]) -> list[Seen]:
    """Every target of the pairs, each pair's in the order of their names."""
    return cast("list[Seen]", tx.execute(written("seen"), {"ids": ids}).all())


def steps(tx: Transaction, ids: Collection[int]) -> list[WorkRow]:
    """The steps under way of the pairs, in the order in which they came up."""
    found = tx.execute(written("steps"), {"ids": ids}).all()
    if not found:
        return []
    from dualcert.store.workrows import rows_of

    return rows_of(found)
