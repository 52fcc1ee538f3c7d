"""Every pair, or those that are asked for, in the order of their names: as lines, or as full views.

Read page by page; each page is one consistent look, and what a pair is counted by is decided in that look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from dualcert.clock import rfc3339_of, to_microseconds
from dualcert.lifecycle import states
from dualcert.model import names as naming
from dualcert.store import Transaction, overview
from dualcert.store.overview import Line

if TYPE_CHECKING:
    from dualcert.lifecycle.views import View
    from dualcert.lifecycle.world import World

_PAGE = 1000
T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """Which pairs; all of what is said holds together, and what is unsaid chooses nothing.

    ``protection``: one of these words. ``ca``: the pair has an open lineage there. ``expires_within``: a certificate
    in use, serving or standing by, is over by then, or is already. ``under``: a name of the pair is this one, or lies
    below it (in stored form).
    """

    protection: frozenset[str] = frozenset()
    ca: str | None = None
    expires_within: timedelta | None = None
    under: str | None = None


ALL = Choice()


class Listed(NamedTuple):
    """``expires``: until when the serving certificate is valid (RFC 3339); None where nothing serves."""

    pair: str
    protection: str
    primary: str
    primary_state: str
    backup: str
    backup_state: str
    expires: str | None


def listed(
    world: World, limit: int | None = None, after: str = "", choice: Choice = ALL
) -> Iterator[list[Listed]]:
    """A line for each pair from the one after ``after``, at most ``limit`` of them, page by page."""
    return _chosen(world, limit, after, choice, partial(_lines, world))


def described(
    world: World, limit: int | None = None, after: str = "", choice: Choice = ALL
) -> Iterator[list[View]]:
    """The same pairs, each as ``show`` shows it."""
    from dualcert.lifecycle import views

    return _chosen(world, limit, after, choice, partial(views.assemble, world))


def _chosen(
    world: World,
    limit: int | None,
    after: str,
    choice: Choice,
    make: Callable[[Transaction, list[Line]], list[T]],
) -> Iterator[list[T]]:
    walk: _Walk = _Everywhere(after, choice) if choice.under is None else _Under(choice.under, after, choice)
    left = limit
    while left is None or left > 0:
        # Of what is chosen by a word, nobody knows how many lines it takes.
        size = _PAGE if left is None or choice.protection else min(left, _PAGE)
        with world.store.read() as tx:
            lines, over = walk.on(tx, size)
            if choice.protection:
                lines = [line for line in lines if states.words(line, tx.at).protection in choice.protection]
            found = make(tx, lines[:left])
        if found:
            yield found
        if over:
            return
        left = None if left is None else left - len(found)


# --- the ways through the inventory ----------------------------------------------------------------------


class _Walk(Protocol):
    def on(self, tx: Transaction, size: int) -> tuple[list[Line], bool]:
        """The next lines, at most ``size``, and whether these were the last."""
        ...


class _Everywhere:
    """All pairs in the order of their names."""

    def __init__(self, after: str, choice: Choice) -> None:
        self._after = after
        self._choice = choice

    def on(self, tx: Transaction, size: int) -> tuple[list[Line], bool]:
        lines = overview.page(tx, self._after, size, ca=self._choice.ca, until=_until(tx, self._choice))
        if lines:
            self._after = lines[-1].name
        return lines, len(lines) < size


class _Under:
    """The pairs of a suffix: their numbers are found once, by the index on names, and looked up page by page."""

    def __init__(self, suffix: str, after: str, choice: Choice) -> None:
        self._suffix = naming.reversed_name(suffix)
        self._after = after
        self._choice = choice
        self._ids: list[int] | None = None
        self._at = 0

    def on(self, tx: Transaction, size: int) -> tuple[list[Line], bool]:
        if self._ids is None:
            self._ids = overview.under(tx, self._suffix, self._after)
        ids = self._ids[self._at : self._at + size]
        self._at += size
        lines = overview.of_pairs(tx, ids, ca=self._choice.ca, until=_until(tx, self._choice))
        return lines, self._at >= len(self._ids)


def _until(tx: Transaction, choice: Choice) -> int | None:
    return None if choice.expires_within is None else to_microseconds(tx.now + choice.expires_within)


# --- lines -----------------------------------------------------------------------------------------------


def _lines(world: World, tx: Transaction, lines: list[Line]) -> list[Listed]:
    at = tx.at
    # Where a certificate is missing, it is told how far its order is: that stands in its work.
    lacking = [one for one in lines if one.serving_until is None or one.standby_until is None]
    missing: dict[int, tuple[str, str]] = {}
    if lacking:
        from dualcert.lifecycle import progress

        rows = progress.of_pairs(world, tx, [one.id for one in lacking])
        missing = {one.id: progress.words(one, rows[one.id]) for one in lacking}
    found = []
    for line in lines:
        number, name, primary, backup, until, *_ = line
        protection, serving, standby = states.words(line, at)
        if not serving or not standby:
            of_primary, of_backup = missing[number]
            serving, standby = serving or of_primary, standby or of_backup
        expires = None if until is None else rfc3339_of(until)
        found.append(Listed(name, protection, primary, serving, backup, standby, expires))
    return found
