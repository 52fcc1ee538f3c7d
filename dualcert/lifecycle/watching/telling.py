"""What is watched, how well, and how old the last good answer is: for people, and for ``check``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dualcert.lifecycle.findings import Finding
from dualcert.lifecycle.world import World
from dualcert.policy.watching import SourceKind
from dualcert.store import renewal_info, watch_answers
from dualcert.store.watching import Source

_APART = timedelta(minutes=90)
_MANY = 10_000
_LATE = timedelta(hours=1)
_SILENT = timedelta(hours=3)
"""A source that should have been asked so long ago is blind, too: nobody runs what asks it."""


@dataclass(frozen=True)
class Standing:
    """How well a source sees. ``state``: good, blind, "not asked yet", short-lived, or "blind (no source)".

    ``certificates`` is counted up to 10,000; ``blind_ones`` are those of them that a responder has not answered for.
    """

    source: Source
    state: str
    certificates: int
    blind_ones: int
    age: timedelta | None

    @property
    def blind(self) -> bool:
        """Whether it was asked and sees nothing that counts."""
        return self.state == "blind" or self.blind_ones > 0

    def told(self) -> dict[str, Any]:
        """As data."""
        one = self.source
        return {
            "ca": one.ca,
            "kind": one.kind.value,
            "place": one.place or None,
            "state": self.state,
            "certificates": self.certificates,
            "not_answered": self.blind_ones,
            "asked_at": one.asked_at,
            "good_at": one.good_at,
            "age": self.age,
            "next_update": one.next_update,
            "entries": one.entries,
            "problem": one.problem,
        }


def standings(world: World) -> list[Standing]:
    """Every source that watches any certificate, by CA and place."""
    with world.store.read() as tx:
        found = []
        for source in watch_answers.everything(tx):
            many = watch_answers.how_many(tx, source.id, _MANY)
            if many:
                asked = source.kind is SourceKind.OCSP and source.asked_at is not None
                blind = watch_answers.blind_ones(tx, source.id, _MANY) if asked else 0
                found.append(_standing(source, many, blind, tx.now))
    return found


def _standing(source: Source, many: int, blind_ones: int, now: datetime) -> Standing:
    age = now - source.good_at if source.good_at is not None else None
    return Standing(source, _state(source, age, now), many, blind_ones, age)


def _state(source: Source, age: timedelta | None, now: datetime) -> str:
    if source.kind is SourceKind.SHORT_LIVED:
        return "short-lived"
    if source.kind is SourceKind.NONE:
        return "blind (no source)"
    if source.due_at is not None and source.due_at < now - _SILENT:
        return "blind"
    if source.problem is None and source.asked_at is None:
        return "not asked yet"
    stale = source.next_update is not None and source.next_update < now - _APART
    return "blind" if source.problem is not None or age is None or stale else "good"


def overdue(world: World) -> dict[str, int]:
    """The CAs that are to be asked about more certificates than they are asked about: how many have waited for long,
    counted up to 10,000. Those that are asked are a sample, by CA and hour of issuance."""
    with world.store.read() as tx:
        before = tx.now - _LATE
        counted = {ca: renewal_info.overdue(tx, ca, before, _MANY) for ca in world.cas}
    return {ca: number for ca, number in counted.items() if number}


def left_out(waiting: int) -> str:
    """What is said of a CA of which ``overdue`` has so many."""
    number = f"{waiting} certificates wait" if waiting != 1 else "1 certificate waits"
    return (
        f"{number} for more than an hour to be asked about (ARI); those that are asked about are a sample by hour of "
        "issuance"
    )


def findings(world: World) -> Iterator[Finding]:
    """What ``check`` says of watching."""
    seen = 0
    for one in standings(world):
        subject = f"watching ca.{one.source.ca}"
        number = f"{one.certificates} certificate{'s' if one.certificates != 1 else ''}"
        if one.source.kind is SourceKind.NONE:
            yield Finding(
                subject,
                remedy=f"Where its CRL is can be told: [ca.{one.source.ca}] crl.",
                detail=f"blind (no source): {number} would not be seen to be revoked, for they name no place to ask",
            )
        elif one.source.kind is SourceKind.SHORT_LIVED:
            yield Finding(
                subject, detail=f"short-lived: {number} of 7 days or less, which nobody needs to revoke"
            )
        elif one.blind:
            yield _blind(subject, one, number)
        else:
            seen += one.state == "good"
            if one.state == "not asked yet":
                yield Finding(
                    subject,
                    remedy="dualcert run asks by itself; dualcert watch --once does it now.",
                    detail=f"{one.source.place} was not asked yet, about {number}",
                )
    for ca, waiting in overdue(world).items():
        yield Finding(
            f"watching ca.{ca}",
            remedy=f"See what it allows: [ca.{ca}] requests; and that dualcert run is running.",
            detail=left_out(waiting),
        )
    if seen:
        yield Finding("watching", detail=f"{seen} source{'s' if seen != 1 else ''} of CAs gave a good answer")


def _blind(subject: str, one: Standing, number: str) -> Finding:
    since = (
        f"its last good answer is {ago(one.age)} old"
        if one.age is not None
        else "it never gave a good answer"
    )
    what = one.source.problem or (
        "it was not asked lately" if one.state == "blind" else "not all were answered for"
    )
    return Finding(
        subject,
        f"blind for {number}: {one.source.place}: {what}; {since}",
        "See that the place answers, and that dualcert run is running; or look now: dualcert watch --once",
    )


def ago(age: timedelta) -> str:
    """A duration in the unit that fits it."""
    seconds = max(0, int(age.total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
