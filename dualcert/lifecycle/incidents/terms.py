"""How a run is asked for, how far it is, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Terms:
    """How a plan is carried out. ``rate``: pairs a second; ``refill``: what is emptied is ordered anew at once."""

    waves: str = "1%,10%,100%"
    max_failures: str = "1%"
    max_drift: str = "2%"
    rate: int | None = None
    refill: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a run is, for whoever watches: of ``total`` pairs to be promoted."""

    wave: int
    waves: int
    total: int
    turned: int
    seen: int
    deadline: datetime


@dataclass(frozen=True)
class Ended:
    """``done``: False where a run that was through already was asked for again. ``stopped``: why it is not through.

    ``refills``: the CAs at which refills were held, and are due. ``overtaken``: somebody closed or planned the incident
    meanwhile, so that the same again is refused.
    """

    done: bool
    stopped: str | None
    refills: tuple[str, ...] = ()
    overtaken: bool = False
