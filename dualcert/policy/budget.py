"""What a CA counts, as buckets that fill up again, and whether something may go out now.

A bucket of ``300/3h`` holds 300 permits and gets one back every 36 seconds. All that is kept of it is the instant at
which it will be full again (the generic cell rate algorithm), so that one number answers every question, and taking
is one comparison and one sum. ``store/budgets.py`` says the same in SQL; a test demands that both agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dualcert.model import names as naming
from dualcert.policy import urgency

MOST = timedelta(days=1)
"""The longest that anything waits before it is looked at again, whatever a CA or a queue says."""

KNOWN_FOR = timedelta(days=120)
"""How long a set of names stays known to a CA that has issued for it: such an order counts as a renewal."""

_RESERVE = 10
_MICROSECOND = timedelta(microseconds=1)
_UNITS = ((timedelta(days=1), "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "m"))


class Kind(StrEnum):
    """What is counted, each per CA. ``ORDERS`` and ``SET`` are never counted here: only a CA's word holds them."""

    ORDERS = "orders"
    NEW_ORDERS = "new-orders"
    DOMAIN = "certificates-per-domain"
    SET = "set-of-names"
    FAILED = "failed-authorizations"
    REVOCATIONS = "revocations"
    REQUESTS = "requests"


@dataclass(frozen=True)
class Subject:
    """One bucket of a CA: of a registered domain, of a name, of a set of names, or, unsaid, of the account."""

    kind: Kind
    of: str = ""


@dataclass(frozen=True)
class Limit:
    """A bucket of ``count`` permits that fills up in ``per``."""

    count: int
    per: timedelta

    @property
    def interval(self) -> timedelta:
        """After how long a permit is back; rounded up, so that never more are handed out."""
        return -(-self.per // self.count // _MICROSECOND) * _MICROSECOND or _MICROSECOND

    @property
    def depth(self) -> timedelta:
        """How long an empty bucket takes to be full."""
        return self.interval * self.count

    @property
    def reserve(self) -> int:
        """A tenth, kept for what is needed within three days, and for what a person asks for by its name."""
        return self.count // _RESERVE

    def __str__(self) -> str:
        unit, letter = next((one for one in _UNITS if self.per % one[0] == timedelta(0)), (None, "s"))
        number = self.per // unit if unit else self.per // timedelta(seconds=1)
        return f"{self.count}/{'' if number == 1 else number}{letter}"


@dataclass(frozen=True)
class Standing:
    """What is known of a bucket: when it will be full, and until when its CA told us to leave it alone, and why."""

    full_at: datetime
    held_until: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Decision:
    """``at`` None: now. Otherwise from when on, why not sooner, and whose bucket it is that decides."""

    at: datetime | None = None
    reason: str = ""
    subject: Subject | None = None
    limit: Limit | None = None

    @property
    def allowed(self) -> bool:
        return self.at is None


NOW = Decision()


def decide(
    subject: Subject, limit: Limit | None, standing: Standing | None, now: datetime, *, leave: int = 0
) -> Decision:
    """Whether a permit of this bucket may be taken at ``now``, of which ``leave`` others have to stay.

    A bucket that nothing is known of is full; one without a limit is never empty, but may be held.
    """
    held = _held(subject, limit, standing, now)
    counted = _counted(subject, limit, standing, now, leave)
    return stricter(held, counted)


def _held(subject: Subject, limit: Limit | None, standing: Standing | None, now: datetime) -> Decision:
    if standing is None or standing.held_until is None or standing.held_until <= now:
        return NOW
    return Decision(
        standing.held_until, standing.reason or "the CA asks us to come back later", subject, limit
    )


def _counted(
    subject: Subject, limit: Limit | None, standing: Standing | None, now: datetime, leave: int
) -> Decision:
    if limit is None or standing is None:
        return NOW
    at = _full(limit, standing, now) + limit.interval * (1 + leave) - limit.depth
    return NOW if at <= now else used_up(subject, limit, at)


def used_up(subject: Subject, limit: Limit, at: datetime) -> Decision:
    """The bucket is empty until ``at``."""
    return Decision(at, f"{_words(subject)} ({limit}) are used up", subject, limit)


def _full(limit: Limit, standing: Standing, now: datetime) -> datetime:
    """No bucket is emptier than empty: the clock may have been put back, or the limit was another before."""
    empty = max(now, standing.held_until or now) + limit.depth
    return min(max(standing.full_at, now), empty)


def taken(limit: Limit, standing: Standing | None, now: datetime) -> Standing:
    """The bucket with one permit less, which ``decide`` has allowed."""
    full = now if standing is None else _full(limit, standing, now)
    return Standing(full + limit.interval, None, None)


def stricter(*decisions: Decision) -> Decision:
    """Of several, the one that allows the latest; all must allow."""
    return max(decisions, key=lambda one: (one.at is not None, one.at), default=NOW)


def _words(subject: Subject) -> str:
    about = {
        Kind.NEW_ORDERS: "new sets of names",
        Kind.DOMAIN: f"new certificates under {subject.of}",
        Kind.FAILED: f"failed authorizations of {subject.of}",
    }
    return about.get(subject.kind, subject.kind.value)


# --- orders that stand in a queue ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Allowance:
    """How many orders that a CA counts may leave its queue now; ``permits`` None: any number.

    ``urgent`` and ``others`` say when the next one may, and why not sooner; ``afterwards``, when those have gone.
    """

    permits: int | None = None
    reserve: int = 0
    urgent: Decision = NOW
    others: Decision = NOW
    afterwards: Decision = NOW

    def admitted(self, needed_by: Sequence[datetime], now: datetime) -> int:
        """Of orders in the order of their urgency, how many of the first may go."""
        if self.permits is None:
            return len(needed_by)
        urgent = sum(urgency.is_urgent(one, now) for one in needed_by)
        return min(len(needed_by), self.permits, max(urgent, self.permits - self.reserve))

    def decision(self, needed_by: datetime, now: datetime) -> Decision:
        """For the first of the queue."""
        return self.urgent if urgency.is_urgent(needed_by, now) else self.others


def allowance(
    limit: Limit | None, counted: Standing | None, all_orders: Standing | None, now: datetime
) -> Allowance:
    """What the bucket of new orders allows, and what the CA has said of new orders, and of all."""
    subject = Subject(Kind.NEW_ORDERS)
    said = decide(Subject(Kind.ORDERS), None, all_orders, now)
    reserve = 0 if limit is None else limit.reserve
    urgent = stricter(said, decide(subject, limit, counted, now))
    others = stricter(said, decide(subject, limit, counted, now, leave=reserve))
    if limit is None and urgent.allowed:
        return Allowance()
    if limit is None or not urgent.allowed:
        return Allowance(0, reserve, urgent, others, urgent)
    full = now if counted is None else _full(limit, counted, now)
    permits = (now + limit.depth - full) // limit.interval
    back = full + limit.interval * (permits + 1) - limit.depth
    return Allowance(permits, reserve, urgent, others, used_up(subject, limit, back))


# --- what a CA's refusal says ------------------------------------------------------------------------------


def granted(wished: timedelta, life_left: timedelta | None) -> timedelta:
    """How long a CA's Retry-After is obeyed: a day at the most, and half of the life that the certificate has left."""
    most = MOST if life_left is None or life_left <= timedelta(0) else min(MOST, life_left / 2)
    return max(timedelta(0), min(wished, most))


def debt(limit: Limit | None) -> timedelta:
    """How far from full a bucket is at the end of a CA's pause: one permit is there then, not what we thought."""
    return timedelta(0) if limit is None else limit.depth - limit.interval


def concerned(said: str, names: Sequence[str], *, counted: bool) -> tuple[Subject, ...]:
    """Which buckets a CA speaks of when it refuses an order for ``names`` with 429.

    RFC 8555 has one problem type for all of them (section 6.6), so its words decide: where they name something
    narrower than the account, nothing else is held. ``counted``: the order's set was new to the CA.
    """
    text = said.casefold()
    exact = (Subject(Kind.SET, naming.digest(names).hex()),)
    if "exact set" in text:
        return exact
    mentioned = [one for one in candidates(names) if _mentions(text, one)]
    failed = [one for one in mentioned if one in bare(names)] if "fail" in text else []
    if failed:
        return tuple(Subject(Kind.FAILED, one) for one in failed)
    if mentioned:
        # The longest says most: of www.example.com and example.com in one sentence, the former was refused.
        longest = max(mentioned, key=len)
        return (Subject(Kind.DOMAIN, longest),) if longest not in bare(names) or _is_domain(text) else exact
    return (Subject(Kind.NEW_ORDERS if counted else Kind.ORDERS),)


def _is_domain(text: str) -> bool:
    return "certificates" in text and "already issued" in text


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", text) is not None


def bare(names: Iterable[str]) -> tuple[str, ...]:
    """What a CA authorizes for these names: a wildcard is authorized by the name below the asterisk."""
    return tuple(dict.fromkeys(name.removeprefix("*.") for name in names))


def candidates(names: Iterable[str]) -> tuple[str, ...]:
    """The names and all domains above them that have two labels or more: one of each is its registered domain."""
    found: dict[str, None] = {}
    for name in bare(names):
        labels = name.split(".")
        found.update(dict.fromkeys(".".join(labels[start:]) for start in range(len(labels) - 1)))
    return tuple(found)
