"""Incidents: certificates that must leave service before a deadline, and the plan by which they do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Action(StrEnum):
    """What a plan has in mind for an affected pair."""

    PROMOTE = "promote"
    ORDER = "order"
    REFILL = "refill"


class RowState(StrEnum):
    """What has become of a row of a plan. ``SKIPPED``: the pair had moved, or its backup was not to be used."""

    PLANNED = "planned"
    PROMOTED = "promoted"
    OBSERVED = "observed"
    SKIPPED = "skipped"
    ORDERED = "ordered"
    UNDONE = "undone"


@dataclass(frozen=True)
class Incident:
    """``members``: certificates of ours that it names; ``unknown`` and ``unreadable`` count what else was named.

    ``loading``: its members are being written, or whoever wrote them was interrupted.
    """

    id: int
    title: str
    cause: str
    selector: str
    ca: str | None
    opened_at: datetime
    opened_by: str
    deadline: datetime
    closed_at: datetime | None
    closed_by: str | None
    members: int
    unknown: int
    unreadable: int
    plan: int
    plan_hash: bytes | None
    planned_at: datetime | None
    loading: bool


@dataclass(frozen=True)
class Stray:
    """A line that an incident named and that is none of ours: ``problem`` is None where it could be read."""

    line: int
    serial: bytes | None
    problem: str | None


@dataclass(frozen=True)
class Counts:
    """Of a plan: affected certificates that serve, stand by, or do neither any more (``idle``).

    ``usable`` and ``not_usable``: of the pairs whose serving certificate is affected, those with a backup that may
    take over, and those without.
    """

    serving: int = 0
    standby: int = 0
    idle: int = 0
    usable: int = 0
    not_usable: int = 0

    @property
    def affected(self) -> int:
        return self.serving + self.standby + self.idle


@dataclass(frozen=True)
class Run:
    """How far the carrying out of a plan has come: all rows up to a pair's number have had their turn."""

    incident_id: int
    plan: int
    waves: str
    max_failures: str
    max_drift: str
    rate: int | None
    wave: int
    up_to_pair: int
    started_at: datetime
    ended_at: datetime | None
    stopped: str | None
