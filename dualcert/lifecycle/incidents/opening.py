"""Opening an incident: every certificate that is meant becomes a member, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from threading import Lock
from typing import NamedTuple

from dualcert.errors import Refused
from dualcert.lifecycle import condemning, proving
from dualcert.lifecycle.incidents import refills
from dualcert.lifecycle.incidents.abreast import abreast
from dualcert.lifecycle.incidents.pace import Pace
from dualcert.lifecycle.incidents.planning import Members, batches_of, existing, not_closed, opened
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.incident import Incident
from dualcert.store import (
    Transaction,
    events,
    following,
    incident_members,
    incident_plans,
    incidents,
    promotion,
)

log = logging.getLogger(__name__)

_BATCH = 5_000
"""How many are named in one unit of work, at most."""

_RANGE = 20_000
"""How many certificates are looked through in one unit of work, at most, where all of a CA's are meant."""


_OTHERS_END = 5.0
"""Seconds after which a unit of work that goes on is taken for one that hangs; the longest lasts a third of one."""

_LOOK = 0.01

_AT_IT = timedelta(minutes=1)
"""How long after an incident was closed whoever did that is left to finish it."""

_OPENING = timedelta(seconds=30)
"""How long keys are opened at once: those of RSA take a thirtieth of a second each, and more."""


class Entry(NamedTuple):
    """A line of a file. Exactly one of the others is given: what it says, or why it cannot be read.

    ``issuer_hash`` goes with a serial whose issuer the file tells.
    """

    line: int
    serial: bytes | None = None
    key: bytes | None = None
    name: str | None = None
    problem: str | None = None
    issuer_hash: bytes | None = None


@dataclass(frozen=True)
class Selection:
    """What an incident is about.

    ``entries``: serials, public keys or names, of one kind; without any, all that the rest says. ``ca``, ``issuer``
    (its name, its common name, or the SHA-256 of its key or name) and the time of issuance (notBefore, both ends
    included) narrow it. ``described``: in words, for people.
    """

    described: str
    entries: Iterable[Entry] | None = None
    ca: str | None = None
    issuer: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class _Tally:
    """Two units of work may count at once."""

    def __init__(self) -> None:
        self.unknown = self.unreadable = 0
        self._turn = Lock()

    def add(self, unknown: int, unreadable: int) -> None:
        with self._turn:
            self.unknown += unknown
            self.unreadable += unreadable


def open_incident(
    world: World,
    title: str,
    cause: str,
    deadline: datetime,
    ca: str | None = None,
    certificates: Iterable[int] | Selection = (),
    begun: Callable[[Transaction, int], None] | None = None,
) -> Incident:
    """Name certificates, by their numbers or by what a ``Selection`` says; from now on none of them is a backup.

    ``ca`` is whose incident it is, where that is known. ``begun`` is told its number as soon as it has one. A process
    that dies meanwhile leaves an incident that nobody can plan, only close; what it has named so far stays named until
    then. Raises ``Refused`` where somebody closes it meanwhile: what is named after that would stay without trust.
    """
    by_numbers = "certificates by their numbers"
    described = certificates.described if isinstance(certificates, Selection) else by_numbers
    with world.store.write() as tx:
        number = incidents.create(tx, title=title, cause=cause, selector=described, ca=ca, deadline=deadline)
        if begun is not None:
            begun(tx, number)
    tally = _Tally()
    if isinstance(certificates, Selection):
        _select(world, number, certificates, tally)
    else:
        _add_numbers(world, number, certificates)
    # Nobody else adds to one that is being opened; to count millions would make a long unit of work.
    with world.store.glance() as tx:
        members = incidents.count_members(tx, number)
    with _naming(world, number) as tx:
        incidents.drop_strays(tx, number)
        incidents.loaded(tx, number, members=members, unknown=tally.unknown, unreadable=tally.unreadable)
        found = existing(tx, number)
        events.record(
            tx, EventKind.INCIDENT_OPENED, f"incident {number}, {found.members} certificates: {title}", ca=ca
        )
    return found


def add_to_incident(world: World, incident_id: int, certificates: Iterable[int]) -> Incident:
    """Name more certificates, by their numbers, in an incident that is open. Its plan is void where any was new."""
    with world.store.read() as tx:
        opened(tx, incident_id)
    _add_numbers(world, incident_id, certificates, incidents.more_members)
    with world.store.read() as tx:
        return existing(tx, incident_id)


@contextmanager
def _naming(world: World, number: int, *, lock: bool = False) -> Iterator[Transaction]:
    """A unit of work that names something in an incident, which nobody closes meanwhile; ``lock``: nor plans it."""
    with world.store.write() as tx:
        incidents.not_to_end(tx, number)
        not_closed(tx, number, lock=lock)
        yield tx


def _add_numbers(
    world: World,
    number: int,
    certificates: Iterable[int],
    tell: Callable[[Transaction, int, int], None] | None = None,
) -> None:
    """``tell``: of each unit, how many were not named before."""
    rest, pace = iter(certificates), Pace(world, _BATCH)
    while batch := list(islice(rest, pace.size)):
        with pace.unit(), _naming(world, number, lock=True) as tx:
            new = incident_members.add_certificates(tx, number, batch)
            if new and tell is not None:
                tell(tx, number, new)
    if _outwait(world):
        _mistrust(world, number)


def _select(world: World, number: int, selection: Selection, tally: _Tally) -> None:
    if selection.entries is None:
        _add_issued(world, number, selection)
        _outwait(world)
        _mistrust(world, number)
        return
    rest, pace = iter(selection.entries), Pace(world, _BATCH)

    def batches() -> Iterator[list[Entry]]:
        while batch := list(islice(rest, pace.size)):
            yield batch

    def add(batch: list[Entry]) -> None:
        with pace.unit():
            tally.add(*_add_entries(world, number, selection, batch))

    abreast(world, batches(), add)
    _outwait(world)
    _mistrust(world, number)


def _outwait(world: World) -> bool:
    """Whoever exchanged roles while the last certificates were named may not have seen that, and what he makes a backup
    cannot be seen before he has ended. Whether there was anybody."""
    until = world.clock.monotonic() + _OTHERS_END
    with world.store.read() as tx:
        found = left = following.writers(tx, "pair_state")
    while left and world.clock.monotonic() < until:
        world.clock.sleep(_LOOK)
        with world.store.read() as tx:
            left &= following.writers(tx, "pair_state")
    return bool(found)


def _mistrust(world: World, number: int) -> None:
    """All that is named is no backup any more: until then it is only never promoted onto."""
    pace = Pace(world, _BATCH)

    def mistrust(batch: Members) -> None:
        with pace.unit(), _naming(world, number) as tx:
            incident_members.mistrust(tx, number, batch.after, batch.up_to)

    abreast(world, batches_of(world, number, pace), mistrust)


def _add_entries(world: World, number: int, selection: Selection, batch: list[Entry]) -> tuple[int, int]:
    """How many are none of ours, and how many lines could not be read."""
    keys = [(one.line, one.key) for one in batch if one.key is not None]
    names = [(one.line, one.name) for one in batch if one.name is not None]
    bad = [(one.line, one.problem) for one in batch if one.problem is not None]
    serials: dict[bytes | None, list[tuple[int, bytes]]] = {}
    for one in batch:
        if one.serial is not None:
            serials.setdefault(one.issuer_hash, []).append((one.line, one.serial))
    unknown = 0
    with _naming(world, number) as tx:
        for issuer_hash, some in serials.items():
            unknown += incident_members.add_serials(
                tx, number, some, issuer_hash=issuer_hash, ca=selection.ca, issuer=selection.issuer
            )[1]
        if keys:
            unknown += incident_members.add_keys(tx, number, keys)[1]
        if names:
            unknown += incident_members.add_names(tx, number, names, ca=selection.ca)[1]
        incidents.add_unreadable(tx, number, bad)
    return unknown, len(bad)


def _add_issued(world: World, number: int, selection: Selection) -> None:
    with world.store.read() as tx:
        last = incident_members.last_certificate(tx)
    after, pace = 0, Pace(world, _RANGE)
    while after < last:
        up_to = min(after + pace.size, last)
        with pace.unit(), _naming(world, number) as tx:
            incident_members.add_issued(
                tx,
                number,
                after,
                up_to,
                ca=selection.ca,
                issuer=selection.issuer,
                since=selection.since,
                until=selection.until,
            )
        after = up_to


# --- the end ---------------------------------------------------------------------------------------------


def close(world: World, incident_id: int) -> Incident:
    """It names nothing any more, and backups that it named count again where nothing else is against them. Refills that
    were held for it, and for no other open one, are due. What had leaked keys and has left service never counts again:
    it is blocked and revoked.

    Said again it finishes what was cut off, as ``finish_closes`` does by itself; raises ``Refused`` where nothing was.
    """
    with world.store.read() as tx:
        found = existing(tx, incident_id)
    leaked = condemning.of_leak(found)
    if leaked:
        # While it is named nothing is promoted onto it; what leaves service meanwhile comes below.
        condemning.block_left(world, found)
    refills.hand_over(world, incident_id)
    with world.store.write() as tx:
        found = existing(tx, incident_id)
        closed = incidents.close(tx, incident_id)
        if closed:
            events.record(
                tx, EventKind.INCIDENT_CLOSED, f"incident {incident_id}: {found.title}", ca=found.ca
            )
    if not (finish(world, found) or closed):
        raise Refused(f"incident {incident_id} is closed already", remedy="See: dualcert incident list")
    with world.store.read() as tx:
        return existing(tx, incident_id)


def finish(world: World, found: Incident) -> bool:
    """What follows from an incident's end; whether any of that was left to do. Two at once do each other no harm.

    Where opening keys takes too long, whoever does what is due goes on with that.
    """
    condemned = condemning.block_left(world, found) if condemning.of_leak(found) else 0
    trusted = _trust_again(world, found.id)
    released = refills.end(world, found.id)
    if not proving.prove_named(world, found.id, world.clock.now() + _OPENING):
        return True
    with world.store.write() as tx:
        owed = incidents.ended(tx, found.id)
    return bool(condemned or trusted or released or owed)


def finish_closes(world: World) -> float:
    """Finish what somebody has closed and then did not come back to, for the daemon; in how many seconds again."""
    left = _left_alone(world)
    for found in left:
        log.info("incident %d was closed, and not to its end: this goes on now", found.id)
        finish(world, found)
    return 0.0 if left and _left_alone(world) else _AT_IT.total_seconds()


def _left_alone(world: World) -> list[Incident]:
    now = world.clock.now()
    with world.store.read() as tx:
        found = incidents.half_closed(tx)
    # A clock that was ahead must not put it off.
    return [one for one in found if one.closed_at and not timedelta(0) <= now - one.closed_at < _AT_IT]


def _trust_again(world: World, incident_id: int) -> int:
    after = trusted = 0
    while True:
        with world.store.write() as tx:
            up_to = incident_plans.members_up_to(tx, incident_id, after)
            if up_to is None:
                return trusted
            trusted += promotion.trust_again(tx, incident_id, after, up_to)
        after = up_to
