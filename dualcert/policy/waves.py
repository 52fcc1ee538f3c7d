"""How a mass promotion is cut into waves, and when it stops by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil

LEAST = 3
"""A limit never means fewer than this: two of twenty are no reason to stop."""


def share(text: str) -> Fraction:
    """``1%`` or ``0.5%``, exactly. Raises ``ValueError`` where it is no percentage from 0 to 100."""
    number = text.strip().removesuffix("%").strip()
    if not text.strip().endswith("%") or not number.replace(".", "", 1).isdecimal():
        raise ValueError("write it like 1%")
    found = Fraction(number) / 100
    if found > 1:
        raise ValueError("it is more than 100%")
    return found


def waves(text: str) -> tuple[Fraction, ...]:
    """``1%,10%,100%``: how much of the plan each wave ends at. Raises ``ValueError``."""
    found = tuple(share(part) for part in text.split(","))
    if any(later <= earlier for earlier, later in pairwise(found)) or not found[0]:
        raise ValueError("each wave ends later than the one before")
    if found[-1] != 1:
        raise ValueError("the last wave ends at 100%")
    return found


def ends(shares: Sequence[Fraction], total: int) -> list[int]:
    """How many rows have had their turn when each wave is over; rounded up."""
    return [ceil(one * total) for one in shares]


def allowed(limit: Fraction, of: int) -> int:
    """How many are let pass: that share of ``of``, rounded up, and never fewer than three."""
    return max(LEAST, ceil(limit * of))


@dataclass(frozen=True)
class Tally:
    """Of the rows that have had their turn: how many were skipped, and how many were promoted and not seen."""

    turned: int
    skipped: int
    unseen: int


def drifting(tally: Tally, limit: Fraction) -> str | None:
    """Why nothing more is promoted, if so: too much has moved since the plan was made."""
    most = allowed(limit, tally.turned)
    if tally.skipped <= most:
        return None
    return f"{tally.skipped} of {tally.turned} rows were skipped, and at most {most} may be"


def failing(tally: Tally, limit: Fraction) -> str | None:
    """Why nothing more is promoted, if so: too many that were promoted are not served."""
    most = allowed(limit, tally.turned)
    if tally.unseen <= most:
        return None
    return f"{tally.unseen} of {tally.turned} promoted pairs were not seen at their targets, and at most {most} may be"
