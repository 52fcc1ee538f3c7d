"""Looks at what is late, at what fails over and over, and at what is served although it must not be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from dualcert.clock import rfc3339
from dualcert.lifecycle import objecting
from dualcert.lifecycle.findings import Finding
from dualcert.lifecycle.incidents import refills
from dualcert.lifecycle.world import World
from dualcert.model.wording import many, typed
from dualcert.store import checks, incident_serving, incidents, pairs, standings, troubles
from dualcert.store.checks import Late
from dualcert.store.standings import CaStanding
from dualcert.store.troubles import Failing, Held

_PROMPT = timedelta(minutes=2)
_LATE = timedelta(minutes=15)
_MANY = 1000
_NAMED = 5


def late(world: World) -> Iterator[Finding]:
    now = world.clock.now()
    with world.store.read() as tx:
        overdue = checks.overdue(tx, now - _PROMPT, _MANY)
        renewals = checks.renewals_overdue(tx, now - _LATE, _MANY)
        stuck = checks.stuck(tx, _NAMED)
        held = troubles.held(tx)
        closed = {one.ca: standings.get(tx, one.ca) for one in held}
        daemons = checks.daemons(tx)
        names = pairs.names_of(tx, {one.pair_id for one in [*overdue[:1], *stuck]} | set(renewals[:1]))
    long_due = [one for one in overdue if one.due_at is not None and one.due_at <= now - _LATE]
    for one in stuck:
        yield Finding(
            "work",
            f"{_told(one, names)} waits for a person: {one.reason or 'nobody said why'}",
            _again(one, names),
        )
    for at in held:
        yield _held(at, closed[at.ca])
    if long_due:
        since = f"{long_due[0].due_at:%Y-%m-%d %H:%M} UTC"
        yield Finding(
            "work",
            f"{_number(long_due, 'step is', 'steps are')} overdue, {_told(long_due[0], names)} since {since}",
            "See that dualcert run is running, or that dualcert renew --due is run by a timer.",
        )
    if renewals:
        yield Finding(
            "work",
            f"{_number(renewals, 'renewal is', 'renewals are')} overdue, that of "
            f"{names.get(renewals[0], renewals[0])} first",
            "See that dualcert run is running, or that dualcert renew --due is run by a timer.",
        )
    if daemons and overdue and daemons[0].seen_at <= now - _PROMPT:
        last = daemons[0]
        yield Finding(
            "daemon",
            f"none is at work: {last.owner} was seen last at {last.seen_at:%Y-%m-%d %H:%M:%S} UTC, "
            f"and {_number(overdue, 'step is', 'steps are')} overdue",
            "Start it again: dualcert run",
        )
    else:
        for living in daemons:
            yield Finding(
                "daemon", detail=f"{living.owner} was seen at {living.seen_at:%Y-%m-%d %H:%M:%S} UTC"
            )
    if not (long_due or renewals or stuck or held):
        yield Finding("work", detail="nothing is late")


def _held(found: Held, standing: CaStanding) -> Finding:
    how_many = "one backup is" if found.many == 1 else f"{found.many} backups are"
    if found.closed:
        return Finding(
            "work",
            f"{how_many} not ordered anew at {found.ca}: incident {found.incident} was closed, and not to its end",
            f"dualcert run finishes that, or: dualcert incident close {found.incident}",
        )
    by = "" if found.incident is None else f": incident {found.incident} holds that"
    let_go = refills.letting_go(found.ca, found.incident)
    if standing.closed is not None:
        # To thaw a CA lets go of what is held there as well.
        also = f", then {let_go}" if standing.distrusted_at is not None else ""
        by, let_go = f"{by}; {standing.closed}", f"dualcert {standing.reopening}{also}"
    return Finding(
        "work",
        f"{how_many} not ordered anew at {found.ca}{by}",
        f"When {found.ca} is to issue again: {let_go}",
    )


def _number(found: Sequence[object], one: str, many: str) -> str:
    if len(found) == 1:
        return f"one {one}"
    return f"{len(found)}{' or more' if len(found) >= _MANY else ''} {many}"


def _told(step: Late | Failing, names: dict[int, str]) -> str:
    at = f" at {step.ca or step.target}" if step.ca or step.target else ""
    return f"the {step.kind.value} of {names.get(step.pair_id, step.pair_id)}{at}"


def _again(step: Late, names: dict[int, str]) -> str:
    name = names.get(step.pair_id)
    return (
        f"When that is mended: dualcert renew {typed(name)}"
        if name
        else "When that is mended: dualcert renew --due"
    )


# --- what fails ------------------------------------------------------------------------------------------


def failing(world: World) -> Iterator[Finding]:
    """One finding for each CA or target at which steps of a kind fail."""
    with world.store.read() as tx:
        found = troubles.failing(tx)
        names = pairs.names_of(tx, {one.pair_id for one in found})
    for one in found:
        first = f"{_told(one, names)} has failed since {one.since:%Y-%m-%d %H:%M} UTC"
        tries = "once" if one.tries == 1 else f"{one.tries} times"
        others = f" (and {one.many - 1} more there)" if one.many > 1 else ""
        reason, _, remedy = one.reason.partition("\n")
        yield Finding("work", f"{first}, {tries}{others}: {reason}", _next_try(one, remedy, names))


def _next_try(step: Failing, remedy: str, names: dict[int, str]) -> str:
    """What the error says is to be done, and when it is tried again by itself."""
    said = " ".join(remedy.split())
    if said and not said.endswith((".", "!", "?")):
        said += "."
    at = rfc3339(step.next_try.replace(microsecond=0)) if step.next_try else "the next run"
    again = f"Next try at {at}; to try sooner: dualcert renew {typed(names.get(step.pair_id, '--due'))}"
    return f"{said} {again}" if said else again


# --- what is not configured ------------------------------------------------------------------------------


def unconfigured(world: World) -> Iterator[Finding]:
    """Tables that pairs need and that the configuration does not have: their next renewal or failover would fail."""
    with world.store.read() as tx:
        found = troubles.missing(tx, world.cas, world.dns, world.targets)
        names = pairs.names_of(tx, {one.pair_id for one in found})
    for one in found:
        name = names.get(one.pair_id, str(one.pair_id))
        others = f" and {one.many - 1} more need it" if one.many > 1 else " needs it"
        kind, _, which = one.section.partition(".")
        pair = typed(name)
        change = f"move {pair} --ca {which}=ANOTHER" if kind == "ca" else f"set {pair} --{kind} ANOTHER"
        yield Finding(
            one.section,
            f"[{one.section}] is not configured, but {name}{others}",
            f"Add [{one.section}] to the configuration, or give the pair another: dualcert pair {change}",
        )


# --- what must not be served -----------------------------------------------------------------------------


def exposed(world: World) -> Iterator[Finding]:
    """Pairs that are exposed, as ``list --protection exposed`` has them."""
    with world.store.read() as tx:
        found = troubles.exposed(tx, _MANY)
        names = pairs.names_of(tx, {one.pair_id for one in found[:1]})
        name = names.get(found[0].pair_id, str(found[0].pair_id)) if found else ""
        serving = pairs.state(tx, found[0].pair_id).serving if found else None
        way = objecting.leaving(tx, name, serving) if serving is not None else ""
    if not found:
        yield Finding("protection", detail="no pair serves what has expired, or must not be served")
        return
    first = found[0]
    how_many = _number(found, "pair is", "pairs are")
    yield Finding(
        "protection",
        f"{how_many} exposed: {name} serves a certificate of {first.ca} that has {first.why}",
        f"{way}. For all of them: dualcert list --protection exposed",
    )


def unplanned(world: World) -> Iterator[Finding]:
    """Pairs that came to be served by what an incident names after it was planned: nobody takes them off it."""
    with world.store.read() as tx:
        standing = incidents.planned_and_open(tx)
    for number, plan in standing:
        with world.store.read() as tx:
            served = incident_serving.counted(tx, number, plan)
            first = incident_serving.unplanned(tx, number, plan, 1) if served.unplanned else []
            names = pairs.names_of(tx, set(first))
        if not first:
            yield Finding(
                "incident", detail=f"the plan of incident {number} has all that is served by what it names"
            )
            continue
        which = many(served.unplanned, "pair is", "pairs are")
        yield Finding(
            "incident",
            f"{which} served by what incident {number} names, and not in its plan for that: "
            f"{names.get(first[0], first[0])} first",
            f"Plan it anew, then run that: dualcert incident plan {number}",
        )
