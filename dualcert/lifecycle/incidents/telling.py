"""How far an incident is, in the shapes that scripts rely on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dualcert.clock import from_microseconds
from dualcert.errors import ConfigurationError, KeyProblem, StoreError
from dualcert.lifecycle import sealing, signing
from dualcert.lifecycle.incidents import refills, zones
from dualcert.lifecycle.incidents.planning import existing, newest_plan
from dualcert.lifecycle.world import World
from dualcert.model.incident import Counts, Incident
from dualcert.store import (
    Transaction,
    incident_plans,
    incident_progress,
    incident_report,
    incident_runs,
    incident_serving,
    incident_stuck,
    incidents,
    pairs,
)
from dualcert.store.incident_serving import Served
from dualcert.store.incident_stuck import Stuck

_SHARES = (50, 90, 100)


def described(incident: Incident) -> dict[str, Any]:
    """One line of ``list``."""
    return {
        "id": incident.id,
        "title": incident.title,
        "cause": incident.cause,
        "selector": incident.selector,
        "ca": incident.ca,
        "opened_at": incident.opened_at,
        "opened_by": incident.opened_by,
        "deadline": incident.deadline,
        "closed_at": incident.closed_at,
        "members": incident.members,
        "unknown": incident.unknown,
        "unreadable": incident.unreadable,
    }


def listed(world: World) -> Iterator[dict[str, Any]]:
    """All incidents, the newest first."""
    before: int | None = None
    while True:
        with world.store.read() as tx:
            found = incidents.page(tx, before=before)
        if not found:
            return
        yield from (described(one) for one in found)
        before = found[-1].id


def planned(world: World, incident_id: int, *, groups: bool) -> dict[str, Any]:
    """The newest plan in numbers: ``plan --json``. ``groups``: by CA, target and zone besides."""
    with world.store.read() as tx:
        incident = existing(tx, incident_id)
        shown = _numbers(tx, incident)
        if groups:
            for by in ("ca", "target", "why"):
                shown[f"by_{by}"] = incident_plans.grouped(tx, incident_id, incident.plan, by)
            shown["by_zone"] = zones.grouped(tx, incident_id, incident.plan)
    return shown


def _numbers(tx: Transaction, incident: Incident) -> dict[str, Any]:
    plan = newest_plan(tx, incident)
    counts = plan.counts if plan is not None else Counts()
    return {
        "id": incident.id,
        "plan": plan.hash if plan is not None else None,
        "affected": counts.affected if plan is not None else incident.members,
        "serving": counts.serving,
        "standby": counts.standby,
        "idle": counts.idle,
        "usable": counts.usable,
        "not_usable": counts.not_usable,
        "unknown": incident.unknown,
        "unreadable": incident.unreadable,
    }


def status(world: World, incident_id: int, *, stuck: int = 20) -> dict[str, Any]:
    """Where it stands: ``status --json`` and ``run --json``."""
    with world.store.read() as tx:
        incident = existing(tx, incident_id)
        funnel = incident_report.funnel(tx, incident_id)
        run = incident_runs.get(tx, incident_id)
        served = _served(tx, incident)
        found = _stuck(tx, incident, served, stuck)
        newest = run is not None and run.plan == incident.plan
        return {
            **_numbers(tx, incident),
            "title": incident.title,
            "ca": incident.ca,
            "opened_at": incident.opened_at,
            "deadline": incident.deadline,
            "closed_at": incident.closed_at,
            "loading": incident.loading,
            "pairs": {
                "leaving": funnel.leaving,
                "concerned": funnel.concerned,
                "away": funnel.away,
                "otherwise": funnel.otherwise,
                "served": served.pairs,
                "unplanned": served.unplanned,
            },
            "promoted": funnel.promoted,
            "deployed": funnel.deployed,
            "observed": funnel.observed,
            "protected": funnel.protected,
            "skipped": incident_report.skipped(tx, incident_id, incident.plan),
            "failed": funnel.failed,
            "run": None
            if run is None or not newest
            else {
                "started_at": run.started_at,
                "ended_at": run.ended_at,
                "wave": run.wave + 1,
                "waves": run.waves,
                "stopped": run.stopped,
            },
            "refills_held_at": incident_progress.cas_held_for(tx, incident_id),
            "stuck": found,
        }


def _served(tx: Transaction, incident: Incident) -> Served:
    """Once it is closed it names nothing; without a plan that is complete, that there is none is told instead."""
    if incident.closed_at is not None:
        return Served(0, 0)
    found = incident_serving.counted(tx, incident.id, incident.plan)
    return found if incident.plan_hash is not None else Served(found.pairs, 0)


def _stuck(tx: Transaction, incident: Incident, served: Served, most: int) -> list[dict[str, Any]]:
    """Each pair once: what it is served by, though no row takes it off that, comes before what its row says."""
    ids = incident_serving.unplanned(tx, incident.id, incident.plan, most) if served.unplanned else []
    said = f"what is named serves it, and the plan does not take it off that: dualcert incident plan {incident.id}"
    rows = [Stuck(number, None, "serving", said) for number in ids]
    rows += [
        row for row in incident_stuck.stuck(tx, incident.id, incident.plan, most) if row.pair_id not in ids
    ]
    names = pairs.names_of(tx, {row.pair_id for row in rows})
    # At another CA it may be held for another incident, which lets it go.
    held = {row.held_at: refills.held_at(tx, row.held_at) for row in rows if row.held_at is not None}
    return [
        {
            "pair": names.get(row.pair_id),
            "action": row.action,
            "state": row.state,
            "reason": held.get(row.held_at or "") or _reason(incident, row),
        }
        for row in rows[:most]
    ]


def _reason(incident: Incident, row: Stuck) -> str:
    if row.problem == incident_stuck.HAS_COME and incident.closed_at is None:
        return f"{row.problem}: plan and run once more: dualcert incident plan {incident.id}"
    return row.problem or "under way"


def strays(world: World, incident_id: int, limit: int) -> list[dict[str, Any]]:
    """What it named that is none of ours, and lines that could not be read: the first of them."""
    with world.store.read() as tx:
        found = incidents.strays(tx, incident_id, limit=limit)
    return [{"line": one.line, "serial": one.serial, "problem": one.problem} for one in found]


# --- certificate by certificate ----------------------------------------------------------------------------

COLUMNS = (
    "pair",
    "ca",
    "serial",
    "role",
    "new_ca",
    "new_serial",
    "promoted_at",
    "observed_at",
    "observed",
    "revoked_at",
    "replaced_at",
    "problem",
    "undone_at",
)


def affected(world: World, incident_id: int) -> Iterator[dict[str, Any]]:
    """A line for each certificate that it names, with the keys of ``COLUMNS``; streamed."""
    with world.store.read() as tx:
        existing(tx, incident_id)
        plans = incident_report.plans_carried_out(tx, incident_id)
    after = 0
    while True:
        with world.store.read() as tx:
            up_to = incident_plans.members_up_to(tx, incident_id, after, 2000)
            if up_to is None:
                return
            rows = incident_report.affected(tx, incident_id, plans, after, up_to)
            names = pairs.names_of(tx, {row.pair_id for row in rows})
        yield from (_line(row, names.get(row.pair_id)) for row in rows)
        after = up_to


def _line(row: incident_report.Affected, name: str | None) -> dict[str, Any]:
    def at(value: int | None) -> Any:
        return None if value is None else from_microseconds(value)

    return {
        "pair": name,
        "ca": row.ca,
        "serial": row.serial,
        "role": row.role,
        "new_ca": row.new_ca,
        "new_serial": row.new_serial,
        "promoted_at": at(row.promoted_at),
        "observed_at": at(row.observed_at),
        "observed": row.how,
        "revoked_at": at(row.revoked_at),
        "replaced_at": at(row.replaced_at),
        "problem": row.problem,
        "undone_at": at(row.undone_at),
    }


def summary(world: World, incident_id: int) -> dict[str, Any]:
    """The report in numbers: how long it took from the opening until so many percent were promoted, and seen; and the
    head of the sealed history, signed."""
    shown = status(world, incident_id, stuck=100)
    with world.store.read() as tx:
        opened_at = existing(tx, incident_id).opened_at
        times = {}
        for step in ("promoted", "observed"):
            times[step] = {
                f"{share}%": None if at is None else (from_microseconds(at) - opened_at).total_seconds()
                for share in _SHARES
                for at in [incident_report.reached(tx, incident_id, step, share)]
            }
    shown["seconds_to"] = times
    shown["sealed"], shown["unsealed"] = _sealed(world)
    return shown


def _sealed(world: World) -> tuple[dict[str, Any] | None, str | None]:
    """The head, and why there is none, or what is missing in it: for want of one no report stays unwritten."""
    try:
        head, everything = signing.last_head(world)
    except (StoreError, KeyProblem, ConfigurationError) as error:
        return None, error.reason
    if everything:
        return head, None
    return head, f"what happened last could not be sealed: {sealing.NO_GAP}"
