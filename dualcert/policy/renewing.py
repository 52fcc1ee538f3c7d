"""Which lineages of a pair are renewed together, and when a primary that cannot be renewed is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

_TENTH = 10
_MOST_TIME = timedelta(days=3)
_LOOKS = 20
_SHORTEST_LOOK, _LONGEST_LOOK = timedelta(minutes=1), timedelta(hours=1)


def _last_tenth(life: timedelta) -> timedelta:
    return min(life / _TENTH, _MOST_TIME)


# --- what is ordered -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LineageFacts:
    """A lineage as it stands.

    ``urgent``: why it cannot wait (nothing there that may be used, or told to refill); None where it can. ``ordering``:
    its order is under way, be it that it failed and is tried again. ``held``: nothing of it is ordered by itself, for
    the sake of an incident. ``renew_at`` and ``reason``: when its certificate is to be replaced, and why then.
    """

    ca: str
    urgent: str | None = None
    ordering: bool = False
    held: bool = False
    life: timedelta | None = None
    renew_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True)
class Opening:
    """A lineage whose order is to be opened, and why."""

    ca: str
    reason: str


@dataclass(frozen=True)
class Renewal:
    """What is to be ordered now, and when to look again; ``again`` is None where nothing comes by itself."""

    openings: tuple[Opening, ...]
    again: datetime | None


def renewal(lineages: Sequence[LineageFacts], now: datetime) -> Renewal:
    """Which of a pair's lineages are ordered now.

    Two that are due at about the same time prove their names together. What is urgent does not hurry the other; and an
    order that is under way, such as one that failed, has had its company: the other goes alone when its time comes.
    """
    wanted = [each for each in lineages if _wants(each, now) is not None]
    joining = [
        each for each in lineages if each not in wanted and any(_joins(one, each, now) for one in wanted)
    ]
    found = [Opening(each.ca, _wants(each, now) or "") for each in wanted]
    found += [
        Opening(each.ca, f"it joins its sibling, being due on {each.renew_at:%Y-%m-%d}") for each in joining
    ]
    opened = {opening.ca for opening in found}
    return Renewal(tuple(found), next_renewal(each for each in lineages if each.ca not in opened))


def next_renewal(lineages: Iterable[LineageFacts]) -> datetime | None:
    """When the first of these wants a renewal whose order is not under way already."""
    times = [each.renew_at for each in lineages if each.renew_at is not None and not each.ordering]
    return min(times, default=None)


def _wants(facts: LineageFacts, now: datetime) -> str | None:
    if facts.ordering or facts.held:
        return None
    if facts.urgent is not None:
        return facts.urgent
    return facts.reason if facts.renew_at is not None and facts.renew_at <= now else None


def _joins(due: LineageFacts, sibling: LineageFacts, now: datetime) -> bool:
    if due.urgent is not None or sibling.ordering or sibling.held:
        return False
    if sibling.renew_at is None or due.life is None or sibling.life is None:
        return False
    return sibling.renew_at - now <= _last_tenth(min(due.life, sibling.life))


# --- when the primary is left ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PrimaryFacts:
    """What serves, what would serve instead, and what is known against a successor of the first.

    ``trouble``: why no successor is to be hoped for at the moment, in words; None where nothing is known against it.
    ``standby_until`` is None where there is no standby; whether it may serve is asked when it is to.
    """

    ca: str
    serving_from: datetime | None
    serving_until: datetime | None
    standby_until: datetime | None
    trouble: str | None


@dataclass(frozen=True)
class Stay:
    """Nothing is changed; looked at again at ``again``, or never by itself."""

    reason: str
    again: datetime | None


@dataclass(frozen=True)
class Leave:
    """The backup is to be promoted, for this reason; if it may not serve, looked at again at ``again``."""

    reason: str
    again: datetime


def leaving(facts: PrimaryFacts, now: datetime) -> Stay | Leave:
    """Whether the primary is promoted away from, because its certificate ends and no other comes.

    Its renewal is given all but the last tenth of the life, at most 3 days. From there on trouble is enough; in the
    second half of that time nothing more is hoped for, trouble or not: a site must not go dark beside a certificate
    that could serve. A backup that ends first is no way out, and so a promotion is never taken back by this rule.
    """
    if facts.serving_from is None or facts.serving_until is None:
        return Stay("nothing serves", None)
    if facts.standby_until is None or facts.standby_until <= facts.serving_until:
        return Stay("no backup outlives it", None)
    if facts.standby_until <= now:
        return Stay("the backup has expired, too", None)
    last = _last_tenth(facts.serving_until - facts.serving_from)
    begins, hopeless = facts.serving_until - last, facts.serving_until - last / 2
    if now < begins:
        return Stay("there is time for its renewal", begins)
    again = now + min(max(last / _LOOKS, _SHORTEST_LOOK), _LONGEST_LOOK)
    ends = "expired" if facts.serving_until <= now else "expires"
    when = f"the certificate of {facts.ca} {ends} on {facts.serving_until:%Y-%m-%d %H:%M} UTC"
    if facts.trouble is not None:
        return Leave(f"{when} and cannot be renewed: {facts.trouble}", again)
    if now >= hopeless:
        return Leave(f"{when} and its successor has not come", again)
    return Stay("its renewal is under way", min(again, hopeless))
