"""A pair as it is shown: facts of many pairs gathered in a few statements, judged, and put into the shape that
scripts rely on (``show --json``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate, Standing
from dualcert.model.deployment import Observation
from dualcert.model.pair import Lineage, Pair, PairState, Role
from dualcert.model.work import DAY, PERSON, WorkKind, WorkRow
from dualcert.policy.protection import ProtectionFacts, protection
from dualcert.store import Transaction, certificates, deployments, pairs, promotion, work

View = dict[str, Any]


@dataclass
class _Facts:
    """What is known of some pairs at one instant."""

    now: datetime
    states: dict[int, PairState]
    lineages: dict[int, list[Lineage]]
    standings: dict[int, Standing]
    usable: set[int]
    work: dict[int, list[WorkRow]] = field(default_factory=lambda: defaultdict(list))
    observations: dict[int, list[Observation]] = field(default_factory=lambda: defaultdict(list))


def describe(world: World, pair: Pair) -> View:
    """One pair as it is now."""
    with world.store.read() as tx:
        current = pairs.by_id(tx, pair.id) or pair
        return assemble(tx, [current])[0]


def describe_all(world: World, limit: int | None = None, after: str = "", page: int = 500) -> Iterator[View]:
    """Every pair in the order of names, read page by page; each page is one consistent look."""
    left = limit
    while left is None or left > 0:
        with world.store.read() as tx:
            found = pairs.page(tx, after=after, limit=page if left is None else min(page, left))
            views = assemble(tx, found)
        yield from views
        if not found:
            return
        after = found[-1].name
        left = None if left is None else left - len(found)


def assemble(tx: Transaction, found: Sequence[Pair]) -> list[View]:
    """Pairs as they are at the instant of a look, in their order."""
    if not found:
        return []
    facts = _gather(tx, [pair.id for pair in found])
    return [_view(pair, facts) for pair in found]


def _gather(tx: Transaction, ids: list[int]) -> _Facts:
    states = pairs.states(tx, ids)
    numbers = [one for state in states.values() for one in (state.serving, state.standby) if one is not None]
    lineages: dict[int, list[Lineage]] = defaultdict(list)
    for lineage in pairs.lineages(tx, ids):
        lineages[lineage.pair_id].append(lineage)
    facts = _Facts(tx.now, states, lineages, certificates.standings(tx, numbers), promotion.usable(tx, ids))
    for row in work.of_pairs(tx, ids):
        facts.work[row.pair_id].append(row)
    for one in deployments.observations(tx, ids):
        facts.observations[one.pair_id].append(one)
    return facts


def _view(pair: Pair, facts: _Facts) -> View:
    state = facts.states[pair.id]
    by_role = {state.role_of(one.id): one for one in facts.lineages[pair.id]}
    serving = facts.standings.get(state.serving) if state.serving is not None else None
    observations = {one.target: one for one in facts.observations[pair.id]}
    return {
        "pair": pair.name,
        "names": list(pair.names),
        "protection": _protection(pair, facts, state, serving, observations).value,
        "epoch": state.epoch,
        "primary": _lineage(by_role[Role.PRIMARY], Role.PRIMARY, state, facts),
        "backup": _lineage(by_role[Role.BACKUP], Role.BACKUP, state, facts),
        "targets": [
            _target(name, observations.get(name), _failing_at(name, facts.work[pair.id]))
            for name in pair.targets
        ],
    }


def _protection(
    pair: Pair, facts: _Facts, state: PairState, serving: Standing | None, seen: dict[str, Observation]
) -> Any:
    everywhere = serving is not None and all(
        name in seen and seen[name].sha256 == serving.certificate.sha256 and seen[name].problem is None
        for name in pair.targets
    )
    return protection(
        ProtectionFacts(
            issued=state.serving is not None or state.standby is not None,
            serving=serving is not None,
            serving_bad=serving.bad(facts.now) if serving else None,
            standby_usable=pair.id in facts.usable,
            served_everywhere=everywhere,
        )
    )


def _lineage(lineage: Lineage, role: Role, state: PairState, facts: _Facts) -> View:
    number = state.certificate_of(lineage.id)
    standing = facts.standings.get(number) if number is not None else None
    rows = facts.work[lineage.pair_id]
    renewal = _renewal(lineage, rows)
    return {
        "ca": lineage.ca,
        "state": _state(standing, role, renewal["state"], facts.now),
        "renew_at": lineage.renew_at,
        "renewal": renewal,
        "certificate": None if standing is None else _certificate(standing.certificate),
    }


def _state(standing: Standing | None, role: Role, renewal: str, now: datetime) -> str:
    if standing is not None:
        if standing.revoked or standing.blocked:
            return "revoked"
        if standing.certificate.not_after <= now:
            return "expired"
        return "serving" if role is Role.PRIMARY else "ready"
    return {"idle": "empty", "failing": "failed"}.get(renewal, renewal)


def _renewal(lineage: Lineage, rows: list[WorkRow]) -> View:
    """How far the lineage's next certificate is; troubles of the pair's DNS are its troubles too."""
    order = next((row for row in rows if row.kind is WorkKind.ORDER and row.ca == lineage.ca), None)
    if order is None:
        return {"state": "idle", "since": None, "tries": 0, "error": None, "next_try": None}
    dns = next((row for row in rows if row.kind is WorkKind.PUBLICATION and row.reason), None)
    trouble = dns if dns is not None and not order.attempts else order
    if order.due_at is None or order.waiting_for in {PERSON, DAY}:
        state = "waiting"
    elif trouble.attempts:
        state = "failing"
    else:
        state = "ordering"
    return {
        "state": state,
        "since": trouble.since,
        "tries": trouble.attempts,
        "error": trouble.reason if _stuck(trouble) else None,
        "next_try": trouble.due_at if trouble.attempts else None,
    }


def _stuck(row: WorkRow) -> bool:
    """Whether its reason is to be told: it failed, or the last command's time was up while it waited."""
    return row.reason is not None and (row.attempts > 0 or row.owner is None)


def _certificate(certificate: Certificate) -> View:
    return {
        "serial": certificate.serial,
        "sha256": certificate.sha256,
        "spki_sha256": certificate.spki,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "key_type": certificate.key_type,
        "issuer": certificate.issuer,
    }


def _failing_at(target: str, rows: list[WorkRow]) -> WorkRow | None:
    """The step towards serving at a target that does not get on; a deployment's words come before a look's."""
    steps = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION)
    failing = [row for row in rows if row.target == target and row.kind in steps and _stuck(row)]
    return min(failing, key=lambda row: steps.index(row.kind), default=None)


def _target(name: str, seen: Observation | None, failing: WorkRow | None) -> View:
    problem = seen.problem if seen else None
    return {
        "target": name,
        "observed_sha256": seen.sha256 if seen else None,
        "observed": seen.how.value if seen else None,
        "at": seen.at if seen else None,
        "problem": failing.reason if failing else problem,
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
