"""What a failover has come to, in the shape that scripts rely on (``failover --json``)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dualcert.clock import rfc3339
from dualcert.lifecycle.promotion import AFTERMATH, Turn
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.deployment import Observation
from dualcert.model.wording import typed
from dualcert.model.work import PERSON, WorkKind, WorkRow
from dualcert.store import Transaction, deployments, incident_progress, pairs, revocations, work


@dataclass(frozen=True)
class Result:
    """``problems``: what is not finished, and why, a text each."""

    shown: dict[str, Any]
    problems: tuple[str, ...]


def of_failover(world: World, turn: Turn, *, dry_run: bool, began: datetime) -> Result:
    with world.store.read() as tx:
        pair = pairs.by_id(tx, turn.pair.id) or turn.pair
        rows = work.of_pairs(tx, [pair.id], [*AFTERMATH, WorkKind.REFILL, WorkKind.ORDER])
        seen = {one.target: one for one in deployments.observations(tx, [pair.id])}
        verified = deployments.verified_in(tx, pair.id, turn.epoch)
        old = turn.from_certificate
        shown = {
            "pair": pair.name,
            "epoch": turn.epoch,
            "from": _side(turn.from_ca, old),
            "to": _side(turn.to_ca, turn.to_certificate),
            "targets": [
                _target(name, None if dry_run else verified.get(name), seen.get(name), began)
                for name in pair.targets
            ],
            "revoked": old is not None and revocations.is_revoked(tx, old.id),
            "refill": None if dry_run else _refill(tx, rows, turn),
            "dry_run": dry_run,
        }
    left = () if dry_run else tuple(_problem(turn, row) for row in rows if row.kind in AFTERMATH)
    return Result(shown, left)


def _side(ca: str, certificate: Certificate | None) -> dict[str, Any]:
    return {"ca": ca, "serial": certificate.serial if certificate else None}


def _target(
    name: str, verified_at: datetime | None, seen: Observation | None, began: datetime
) -> dict[str, Any]:
    if verified_at is None or seen is None:
        return {"target": name, "verified": False, "seconds": None}
    return {
        "target": name,
        "verified": seen.how.value,
        "seconds": round(max(0.0, (verified_at - began).total_seconds()), 3),
    }


def _refill(tx: Transaction, rows: list[WorkRow], turn: Turn) -> str | None:
    mine = [row for row in rows if row.ca == turn.from_ca and row.kind in {WorkKind.REFILL, WorkKind.ORDER}]
    if not mine:
        return None
    if incident_progress.refills_held_for(tx, turn.from_ca) is not None:
        return "held"
    return "failed" if any(row.attempts or row.waiting_for == PERSON for row in mine) else "scheduled"


def _problem(turn: Turn, row: WorkRow) -> str:
    name = turn.pair.name
    about = f"target {row.target}" if row.target else f"CA {row.ca}"
    text = f"{name}, {about}: {row.kind.value} is not finished: {row.reason or 'under way'}"
    if not row.attempts or row.due_at is None:
        return text
    sooner = f"dualcert failover {typed(name)} --to {turn.to_ca}"
    return f"{text}\n  Next try at {rfc3339(row.due_at)}; to try sooner: {sooner}"
