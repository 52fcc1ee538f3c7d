"""Whether the standby may take over. ``store.promotion`` states the same rule as one SQL predicate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

DISTRUSTED = "the backup certificate's CA is distrusted"


@dataclass(frozen=True)
class StandbyFacts:
    """What is recorded of a pair's standby. ``ok_until`` is None where its key's proof failed or was withdrawn.

    ``named``: by an open incident. ``serving_worse``: what serves is revoked, blocked or expired, or there is nothing.
    """

    revoked: bool
    blocked: bool
    not_after: datetime
    covers: bool
    ok_until: datetime | None
    revocation_wanted: bool = False
    named: bool = False
    serving_worse: bool = False
    distrusted: bool = False


def objections(facts: StandbyFacts | None, now: datetime) -> tuple[str, ...]:
    """Why the standby must not serve; empty where it may. ``facts`` is None where there is no standby."""
    if facts is None:
        return ("there is no backup certificate",)
    found = []
    if facts.revoked:
        found.append("the backup certificate is revoked")
    if facts.revocation_wanted:
        found.append("the backup certificate's revocation has been asked for")
    if facts.blocked:
        found.append("the backup's key is blocked after a compromise")
    if facts.not_after <= now:
        found.append(f"the backup certificate expired on {facts.not_after:%Y-%m-%d %H:%M} UTC")
    if facts.named and not facts.serving_worse:
        found.append("the backup certificate is named by an open incident")
    if facts.distrusted:
        found.append(DISTRUSTED)
    if not facts.covers:
        found.append("the backup certificate does not cover the pair's names")
    if not found and (facts.ok_until is None or facts.ok_until <= now):
        found.append("the backup was not proved usable: its key has not been opened lately, or did not open")
    return tuple(found)
