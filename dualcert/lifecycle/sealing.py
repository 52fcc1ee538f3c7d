"""Sealing the history: once an event is sealed, nobody changes or removes it unnoticed.

Events are written unsealed, so that no writer waits for another. A sealer follows behind. Its chain of seals can be
computed anew by whoever holds the database; what convicts a forger is a head that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dualcert.clock import to_microseconds
from dualcert.errors import StoreError, StoreUnavailable
from dualcert.lifecycle.world import World
from dualcert.model.seal import BEGINNING, Seal, digest
from dualcert.store import events, seals

MOST = 50_000
"""How many events one seal covers at most."""

NO_GAP = "others write to it all the time"

_IDLE = 60.0
_PATIENCE = 10.0
_PAUSE = 0.05
_PAGE = 1000


@dataclass(frozen=True)
class Head:
    """A seal as it was kept elsewhere. ``line``: where it was read."""

    no: int
    digest: bytes
    line: int = 0


@dataclass(frozen=True)
class Verdict:
    """What verifying came to: how far the seals are right, how many events are not sealed, and the first thing wrong.

    ``broken``: why, in words; None where all is as it was sealed. ``compared``: heads from elsewhere that were found.
    """

    head: Seal | None
    newer: int
    compared: int
    broken: str | None


def seal(world: World) -> float:
    """Seal what is decided, once, for the daemon; in how many seconds again."""
    with readable(), world.store.read() as tx:
        previous = seals.last(tx)
        if events.last(tx) <= (previous.last_id if previous else 0):
            return _IDLE  # most of the time; no writer is held up for it
    decided = seals.decided(world.store)
    if decided is None:
        return 0.0
    made = _seal_next(world, decided)
    return 0.0 if made is not None and made.count == MOST else _IDLE


def seal_everything(world: World) -> Seal | None:
    """Seal all that has happened until now; the last seal then, None where nothing ever happened.

    Raises ``StoreUnavailable`` where writers leave no moment's gap for a long time, ``StoreError`` where something
    that is no event or no seal is in the way.
    """
    last, everything = seal_what_can_be(world)
    if not everything:
        raise StoreUnavailable(
            f"the history could not be sealed: {NO_GAP}",
            remedy="Try again when less is going on; nothing waits for it.",
        )
    return last


def seal_what_can_be(world: World) -> tuple[Seal | None, bool]:
    """The same, without complaint: whether that was all, or writers have left no gap, and the seal is an older one."""
    decided = _decided(world)
    while decided is not None and _seal_next(world, decided) is not None:
        pass
    with readable(), world.store.read() as tx:
        return seals.last(tx), decided is not None


def _decided(world: World) -> int | None:
    until = world.clock.monotonic() + _PATIENCE
    while (found := seals.decided(world.store)) is None and world.clock.monotonic() <= until:
        world.clock.sleep(_PAUSE)
    return found


@contextmanager
def readable() -> Iterator[None]:
    """What somebody has written there that is no event, no seal and no signature is told as what it is."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the history can be neither sealed nor signed: {error}",
            remedy="Nothing here writes such a thing: keep a copy of the database, find out who did, and compare with "
            "heads from elsewhere (dualcert events --verify --against). It goes on once that row is as it was.",
        ) from error


def _seal_next(world: World, decided: int) -> Seal | None:
    """One more seal over what is decided; None where there is nothing to seal.

    Where another sealer was faster, the next one is tried.
    """
    while True:
        with readable(), world.store.read() as tx:
            previous = seals.last(tx)
            after = previous.last_id if previous else 0
            count, last = seals.bounds(tx, after, decided, MOST)
            at = tx.now
        if last is None:
            return None
        no, before = (previous.no + 1, previous.digest) if previous else (1, BEGINNING)
        rows = seals.rows(world.store, after, last)
        with readable():
            hashed = digest(no, after + 1, last, count, before, to_microseconds(at), rows)
        made = Seal(
            no=no,
            first_id=after + 1,
            last_id=last,
            count=count,
            previous=before,
            digest=hashed,
            at=at,
        )
        with world.store.write() as tx:
            if seals.add(tx, made):
                return made


# --- verifying --------------------------------------------------------------------------------------------


def verify(world: World, kept: Iterable[Head] = ()) -> Verdict:
    """Compute every seal anew, and look for heads that were kept elsewhere. Ends at the first thing that is wrong."""
    wanted: dict[int, Head] = {}
    for head in kept:
        if wanted.setdefault(head.no, head).digest != head.digest:
            return Verdict(
                None, 0, 0, f"line {head.line} and line {wanted[head.no].line} differ about seal {head.no}"
            )
    with world.store.read() as tx:
        slipped_in = seals.slipped_in(tx)
    if slipped_in is not None:
        return Verdict(
            None, 0, 0, f"event {slipped_in} stands before the first number, where no seal covers it"
        )
    previous: Seal | None = None
    compared = 0
    size = _PAGE
    while True:
        no = previous.no if previous else 0
        try:
            with world.store.read() as tx:
                found = seals.page(tx, no, size)
        except ValueError as error:
            if size == 1:
                return Verdict(previous, 0, compared, f"the seal after seal {no} cannot be read: {error}")
            size = 1  # those before it may be right
            continue
        for one in found:
            broken = _broken(world, one, previous) or _other(one, wanted.get(one.no))
            if broken is not None:
                return Verdict(previous, 0, compared, broken)
            compared += one.no in wanted
            previous = one
        if len(found) < size:
            break
    return _conclusion(world, previous, wanted, compared)


def _conclusion(world: World, last: Seal | None, wanted: dict[int, Head], compared: int) -> Verdict:
    with world.store.read() as tx:
        newer = seals.newer(tx, last.last_id if last else 0)
    missing = min((no for no in wanted if last is None or no > last.no), default=None)
    if missing is not None:
        return Verdict(
            last, newer, compared, f"seal {missing} was kept elsewhere, and is not in the database"
        )
    return Verdict(last, newer, compared, None)


def _broken(world: World, one: Seal, previous: Seal | None) -> str | None:
    no, first, before = (
        (previous.no + 1, previous.last_id + 1, previous.digest) if previous else (1, 1, BEGINNING)
    )
    if one.no != no:
        return f"seal {no} is missing; the next one is seal {one.no}"
    where = f"seal {one.no}, events {one.first_id} to {one.last_id}"
    if one.first_id != first or one.last_id < first:
        return f"{where}: it should begin with event {first}"
    if one.previous != before:
        return f"{where}: it does not stand on the seal before it"
    count = 0

    def counted(lots: Iterable[list[Any]]) -> Iterable[list[Any]]:
        nonlocal count
        for rows in lots:
            count += len(rows)
            yield rows

    try:
        made = digest(
            one.no,
            one.first_id,
            one.last_id,
            one.count,
            one.previous,
            to_microseconds(one.at),
            counted(seals.rows(world.store, first - 1, one.last_id)),
        )
    except TypeError as error:
        return f"{where}: there is something that is no event ({error})"
    if count != one.count:
        return f"{where}: {one.count} events were sealed, and there are {count}"
    return None if made == one.digest else f"{where}: what was sealed reads otherwise now"


def _other(one: Seal, kept: Head | None) -> str | None:
    if kept is None or kept.digest == one.digest:
        return None
    return (
        f"seal {one.no}, events {one.first_id} to {one.last_id}: the digest kept elsewhere (line {kept.line}) is "
        f"{kept.digest.hex()}, the one here {one.digest.hex()}"
    )
