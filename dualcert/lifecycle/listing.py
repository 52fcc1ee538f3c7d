"""A line for each pair of the inventory: the same words as a pair's full view, from one narrow statement a page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from dualcert.clock import from_microseconds, to_microseconds
from dualcert.lifecycle import views
from dualcert.lifecycle.world import World
from dualcert.policy.protection import ProtectionFacts, protection
from dualcert.store import Transaction, overview, pairs
from dualcert.store.overview import Line

_PAGE = 1000


class Listed(NamedTuple):
    """``expires``: until when the serving certificate is valid; None where nothing serves."""

    pair: str
    protection: str
    primary: str
    primary_state: str
    backup: str
    backup_state: str
    expires: datetime | None


def listed(world: World, limit: int | None = None, after: str = "") -> Iterator[Listed]:
    """Every pair in the order of names, read page by page; each page is one consistent look."""
    left = limit
    while left is None or left > 0:
        with world.store.read() as tx:
            lines = overview.page(tx, after, _PAGE if left is None else min(_PAGE, left))
            found = _listed(tx, lines)
        yield from found
        if not lines:
            return
        after = lines[-1].name
        left = None if left is None else left - len(lines)


def _listed(tx: Transaction, lines: list[Line]) -> list[Listed]:
    at = to_microseconds(tx.now)
    # Where a certificate is missing, it is told how far its order is: that takes the full view.
    open_ids = [one.id for one in lines if one.serving_until is None or one.standby_until is None]
    full = {view["pair"]: view for view in views.assemble(tx, pairs.by_ids(tx, open_ids))} if open_ids else {}
    return [_from_view(full[one.name]) if one.name in full else _from_line(one, at) for one in lines]


def _from_line(line: Line, at: int) -> Listed:
    serving_until, standby_until = line.serving_until or 0, line.standby_until or 0
    expired = serving_until <= at
    word = protection(
        ProtectionFacts(
            issued=True,
            serving=True,
            serving_bad="it must not serve" if line.serving_bad or expired else None,
            standby_usable=bool(line.usable),
            served_everywhere=bool(line.served),
        )
    )
    return Listed(
        line.name,
        word.value,
        line.primary,
        "revoked" if line.serving_bad else "expired" if expired else "serving",
        line.backup,
        "revoked" if line.standby_bad else "expired" if standby_until <= at else "ready",
        from_microseconds(serving_until),
    )


def _from_view(view: views.View) -> Listed:
    primary, backup = view["primary"], view["backup"]
    expires = primary["certificate"]["not_after"] if primary["certificate"] else None
    return Listed(
        view["pair"],
        view["protection"],
        primary["ca"],
        primary["state"],
        backup["ca"],
        backup["state"],
        expires,
    )
