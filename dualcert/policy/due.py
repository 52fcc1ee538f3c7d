"""When a certificate wants its successor, when its CA is asked about that, and how long a standby may be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from dualcert.policy import backoff
from dualcert.policy.backoff import Failure

_SHORT_LIFE = timedelta(days=10)
_MOST_MARGIN = timedelta(days=1)
PROOF_LASTS = timedelta(days=30)
"""How long an opened key counts as proof that it can be opened."""

_JITTER = 50
_MOST_JITTER = timedelta(days=1)
_YOUNG = 10
_LEAST_WAIT, _MOST_WAIT = timedelta(minutes=1), timedelta(days=1)
_USUAL_WAIT = timedelta(hours=6)


@dataclass(frozen=True)
class Life:
    """From when to when a certificate is valid, and when it was stored here."""

    not_before: datetime
    not_after: datetime
    stored_at: datetime

    @property
    def length(self) -> timedelta:
        return self.not_after - self.not_before

    @property
    def young_until(self) -> datetime:
        """The end of the first tenth of what it has to live with us, in which nothing makes us order another one.

        A CA's window may be open when a certificate is born, and one that arrives late may be past two thirds of its
        life: followed at once, that would have every successor replaced as it arrives.
        """
        born = max(self.not_before, self.stored_at)
        return born + (self.not_after - born) / _YOUNG


# --- by its life -----------------------------------------------------------------------------------------


def by_life(life: Life, draw: float) -> datetime:
    """Two thirds into the certificate's life, half way where it lives less than ten days; a little earlier by chance.

    ``draw`` is in [0, 1). It takes off up to a fiftieth of the life, at most a day: what was ordered within an hour is
    spread over a day two months later, and yet two certificates that came together stay within the time in which one
    joins the other's renewal.
    """
    rule = life.length / 2 if life.length < _SHORT_LIFE else life.length * 2 / 3
    at = life.not_before + rule - min(life.length / _JITTER, _MOST_JITTER) * draw
    return max(at, life.young_until)


# --- by what its CA suggests (RFC 9773) ------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """When a CA would like a certificate to be replaced; ``explanation`` is the URL that says why, if there is one."""

    start: datetime
    end: datetime
    explanation: str | None = None


@dataclass(frozen=True)
class Suggestion:
    """A window with the time inside it that was drawn for us."""

    window: Window
    at: datetime


@dataclass(frozen=True)
class Due:
    """When a certificate is to be replaced, and why then."""

    at: datetime
    reason: str


def suggestion(window: Window, known: Suggestion | None, draw: float) -> Suggestion:
    """A time in the window: the known one while its bounds stand, because what is drawn at every look may never come;
    a new one when they have moved."""
    if known is not None and (known.window.start, known.window.end) == (window.start, window.end):
        return Suggestion(window, known.at)
    return Suggestion(window, window.start + (window.end - window.start) * draw)


def renewal(life: Life, life_at: datetime, suggested: Suggestion | None) -> Due:
    """The earlier one of what its life demands, at ``life_at``, and what its CA does; a time in the past means now."""
    if suggested is not None:
        at = max(suggested.at, life.young_until)
        if at < life_at:
            why = f": {suggested.window.explanation}" if suggested.window.explanation else ""
            return Due(at, f"its CA suggests it{why}")
    share = "half of its life has" if life.length < _SHORT_LIFE else "two thirds of its life have"
    return Due(life_at, f"{share} passed")


def first_ask(now: datetime, life: Life, draw: float) -> datetime:
    """When a CA is first asked about a certificate: before its word counts, and spread over that time by chance."""
    return now + min(life.young_until - now, _USUAL_WAIT) * draw


def next_ask(now: datetime, not_after: datetime, wished: timedelta | None) -> datetime | None:
    """When the CA is asked again: as it wished, between a minute and a day; None where the certificate ends before."""
    wait = min(max(wished if wished is not None else _USUAL_WAIT, _LEAST_WAIT), _MOST_WAIT)
    return now + wait if now + wait < not_after else None


def ask_after_failure(
    now: datetime, not_after: datetime, failures: int, draw: float, wished: timedelta | None
) -> datetime | None:
    """When a CA is asked again that gave no usable answer, having failed ``failures`` times before."""
    at = backoff.after_failure(now, Failure(now, failures, None, draw), passing=False, wished=wished)
    at = max(at, now + _LEAST_WAIT)
    return at if at < not_after else None


# --- how long a standby is trusted -----------------------------------------------------------------------


def usable_until(not_before: datetime, not_after: datetime, proved_at: datetime) -> datetime:
    """Until when a standby may be trusted unseen: its end less a margin, or the proof's end, whichever is first."""
    margin = min(_MOST_MARGIN, (not_after - not_before) // 10)
    return min(not_after - margin, proved_at + PROOF_LASTS)
