"""A pair as it is shown: facts of many pairs gathered in a few statements, judged, and put into the shape and the
words that scripts rely on (``show --json``): instants as RFC 3339, serials and fingerprints as hex."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dualcert.clock import rfc3339, rfc3339_of
from dualcert.errors import UsageProblem
from dualcert.lifecycle import progress, states
from dualcert.lifecycle.world import World
from dualcert.model import names as naming
from dualcert.model.pair import Pair
from dualcert.model.wording import typed
from dualcert.model.work import WorkRow
from dualcert.store import Transaction, overview
from dualcert.store.overview import Line, Seen, Side

View = dict[str, Any]


def describe(world: World, pair: Pair) -> View:
    """One pair as it is now. Raises ``UsageProblem`` where it was removed meanwhile."""
    with world.store.read() as tx:
        found = assemble(world, tx, overview.of_pairs(tx, [pair.id]))
    if not found:
        raise UsageProblem(
            "the pair is not there any more",
            remedy=f"See: dualcert events {typed(pair.name)}",
            name=pair.name,
        )
    return found[0]


def assemble(world: World, tx: Transaction, lines: Sequence[Line]) -> list[View]:
    """Pairs as they are at the instant of a look, in their order."""
    if not lines:
        return []
    ids = [line.id for line in lines]
    names: dict[int, list[str]] = defaultdict(list)
    for number, name in overview.names(tx, ids):
        names[number].append(naming.reversed_name(name))
    sides: dict[int, dict[bool, Side]] = defaultdict(dict)
    for side in overview.sides(tx, ids):
        sides[side.pair_id][bool(side.is_primary)] = side
    seen: dict[int, list[Seen]] = defaultdict(list)
    for one in overview.seen(tx, ids):
        seen[one.pair_id].append(one)
    rows = progress.of_pairs(world, tx, ids)
    at = tx.at
    return [
        _view(line, at, names[line.id], sides[line.id], seen[line.id], rows.get(line.id, ()))
        for line in lines
    ]


def _view(
    line: Line, at: int, names: list[str], sides: dict[bool, Side], seen: list[Seen], rows: Sequence[WorkRow]
) -> View:
    protection, serving, standby = states.words(line, at)
    return {
        "pair": line.name,
        "names": names,
        "protection": protection,
        "epoch": sides[True].epoch,
        "primary": _lineage(sides[True], serving, rows),
        "backup": _lineage(sides[False], standby, rows),
        "targets": [_target(one, rows) for one in seen],
    }


def _lineage(side: Side, state: str, rows: Sequence[WorkRow]) -> View:
    """``state`` is its certificate's, empty where there is none."""
    renewal = _renewal(side.ca, rows) if rows else progress.IDLE
    return {
        "ca": side.ca,
        "state": state or progress.without_certificate(renewal["state"]),
        "renew_at": None if side.renew_at is None else rfc3339_of(side.renew_at),
        "renewal": renewal,
        "certificate": _certificate(side),
    }


def _renewal(ca: str, rows: Sequence[WorkRow]) -> View:
    found = progress.renewal(ca, rows)
    return {**found, "since": _text(found["since"]), "next_try": _text(found["next_try"])}


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)


def _certificate(side: Side) -> View | None:
    if side.not_after is None:
        return None
    return {
        "serial": side.serial.hex(),
        "sha256": side.sha256.hex(),
        "spki_sha256": side.spki.hex(),
        "not_before": rfc3339_of(side.not_before),
        "not_after": rfc3339_of(side.not_after),
        "key_type": side.key_type,
        "issuer": side.issuer,
    }


def _target(seen: Seen, rows: Sequence[WorkRow]) -> View:
    failing = progress.failing_at(seen.target, rows) if rows else None
    return {
        "target": seen.target,
        "observed_sha256": None if seen.sha256 is None else seen.sha256.hex(),
        "observed": seen.how,
        "at": None if seen.at is None else rfc3339_of(seen.at),
        "problem": failing.reason if failing else seen.problem,
        "next_try": _text(failing.due_at) if failing else None,
    }


def whole(view: View) -> bool:
    """Both certificates are there and the serving one is served everywhere."""
    return bool(view["protection"] == "protected")


def served(view: View) -> bool:
    """One certificate is there and in service."""
    return view["primary"]["state"] == "serving" and all(
        target["observed_sha256"] == view["primary"]["certificate"]["sha256"] and target["problem"] is None
        for target in view["targets"]
    )
