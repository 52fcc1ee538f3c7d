"""Bringing targets to serve what should serve now, and seeing that they do.

A row names pair and target, never a certificate: what to put there is read when it is put, and read again after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dualcert.errors import ConfigurationError, DeployError, DualcertError, KeyProblem, LeaseLost, ProbeFailed
from dualcert.lifecycle import inspection, keymaking, probing, removal, switching
from dualcert.lifecycle.looking import look_again
from dualcert.lifecycle.world import TargetBinding, World
from dualcert.model import names as naming
from dualcert.model.certificate import Certificate, WrappedKey
from dualcert.model.deployment import How
from dualcert.model.events import EventKind
from dualcert.model.pair import Pair, PairState
from dualcert.model.work import Done, Later, Outcome, WorkKind, WorkRow
from dualcert.policy import backoff
from dualcert.policy.backoff import Failure
from dualcert.ports.deploy import Held, Placement, Version
from dualcert.ports.singling import single_out
from dualcert.store import Transaction, certificates, deployments, events, pairs, work

_LOOKS = 16
"""About ten seconds of looking until an endpoint that shows another certificate counts as a failure."""

_PATIENCE = 30.0
"""Seconds after which no further question is asked of a target that has failed to answer one."""


@dataclass(frozen=True)
class Wanted:
    """What a pair's targets should serve, as read in one look."""

    pair: Pair
    state: PairState
    certificate: Certificate
    leaf: str
    chain: str
    key: WrappedKey | None

    @property
    def version(self) -> Version:
        return Version(self.state.epoch, self.certificate.id)


def read_wanted(tx: Transaction, pair_id: int) -> Wanted | None:
    """What should serve now; None where nothing has been issued, or the pair is gone."""
    pair = pairs.by_id(tx, pair_id)
    if pair is None:
        return None
    state = pairs.state(tx, pair_id)
    if state.serving is None:
        return None
    serving = certificates.get(tx, state.serving)
    leaf = inspection.pem_of(certificates.der_of(tx, serving.id))
    return Wanted(
        pair, state, serving, leaf, certificates.chain_of(tx, serving), certificates.wrapped(tx, serving.spki)
    )


def deploy(world: World, rows: Sequence[WorkRow], owner: str) -> list[Outcome]:
    """Switch one target for all of the rows together; an outcome for each, in their order."""
    target = world.target(rows[0].target)
    with switching.alone(world, target, owner) as ours:
        if ours:
            return _switch(world, rows, target)
    return [look_again(world, row, f"another process is switching {target.name}") for row in rows]


def _switch(world: World, rows: Sequence[WorkRow], target: TargetBinding) -> list[Outcome]:
    began = world.clock.now()
    with world.store.read() as tx:
        wanted = {row.id: read_wanted(tx, row.pair_id) for row in rows}
    problems: dict[int, DualcertError | None] = {}
    placements: dict[int, Placement] = {}
    handed: list[tuple[WorkRow, Wanted]] = []
    for row in rows:
        want = wanted[row.id]
        if want is not None:
            try:
                placements[row.id] = _placement(world, want)
                handed.append((row, want))
            except (KeyProblem, ConfigurationError) as error:
                problems[row.id] = error
    if placements:
        _write_down(world, handed)
        problems.update(_apply(world, target, placements))
    outcomes = []
    for row in rows:
        failure = Failure(began, row.attempts, row.since, world.draw())
        outcomes.append(_concluded(world, row, wanted[row.id], problems.get(row.id), failure))
    return outcomes


def _write_down(world: World, handed: Sequence[tuple[WorkRow, Wanted]]) -> None:
    """The keys are at the target from here on, as far as anybody knows, whatever becomes of this.

    A server that does not reload has the key on its disk, and one may serve it when we are killed: who asks what leaked
    with a target, or whether a certificate can be revoked, is to hear of it.
    """
    with world.store.write() as tx:
        for row, want in sorted(handed, key=lambda one: one[1].pair.id):
            deployments.arrived(tx, want.pair.id, row.target, want.state.epoch, want.certificate.id)


def _concluded(
    world: World, row: WorkRow, want: Wanted | None, problem: DualcertError | None, failure: Failure
) -> Outcome:
    try:
        return _record(world, row, want) if problem is None else _failed(world, row, problem, failure)
    except LeaseLost:
        # This row is somebody else's by now; the others of the batch are not concerned.
        with world.store.write() as tx:
            removal.came_late(tx, row.pair_id, row.target)
        return Done()


def _placement(world: World, want: Wanted) -> Placement:
    return Placement(
        pair=want.pair.name,
        names=want.pair.names,
        version=want.version,
        certificate=want.leaf,
        chain=want.chain,
        private_key=keymaking.unwrap(world, want.key),
        sha256=want.certificate.sha256,
    )


def _apply(
    world: World, target: TargetBinding, placements: dict[int, Placement]
) -> dict[int, DualcertError | None]:
    results = _put(world, target, list(placements.values()))
    attempted = [pair for pair, problem in results.items() if problem is None]
    held = _read_back(world, target, attempted)
    found: dict[int, DualcertError | None] = {}
    for number, placement in placements.items():
        there = held.get(placement.pair)
        problem = results.get(placement.pair)
        if isinstance(there, DeployError):
            problem = problem or there
        elif problem is None and (there is None or there.sha256 != placement.sha256):
            problem = DeployError(
                f"target {target.name} does not hold what was just put there",
                remedy="See whether something else writes to this target.",
                name=placement.pair,
            )
        found[number] = problem
    return found


def _put(
    world: World, target: TargetBinding, placements: Sequence[Placement]
) -> dict[str, DeployError | None]:
    """What came of each. Where the deployer says that nothing could be attempted, that is so. What nobody foresaw may
    be one pair's doing, and must not keep all others at the target from what they should serve."""
    by_pair = {one.pair: one for one in placements}
    until = world.clock.monotonic() + _PATIENCE
    return single_out(
        lambda some: target.deploy([by_pair[pair] for pair in some]),
        list(by_pair),
        lambda error: not error.unforeseen or world.clock.monotonic() >= until,
    )


def _read_back(
    world: World, target: TargetBinding, pairs: Sequence[str]
) -> dict[str, Held | DeployError | None]:
    """What is held for each. One that cannot be read fails alone; a target that hangs is not held for long."""
    until = world.clock.monotonic() + _PATIENCE
    return single_out(target.read_back, pairs, lambda _: world.clock.monotonic() >= until)


def _failed(world: World, row: WorkRow, problem: DualcertError, failure: Failure) -> Outcome:
    with world.store.write() as tx:
        work.hold(tx, row)
        if row.reason != str(problem):
            events.record(tx, EventKind.FAILED, problem.reason, pair=row.pair_id, target=row.target)
    return Later(_again_at(world, problem, failure), str(problem), failed=True)


def _again_at(world: World, problem: DualcertError, failure: Failure) -> datetime:
    wished, most = problem.retry_after, backoff.AT_A_TARGET
    return backoff.after_failure(world.clock.now(), failure, passing=False, wished=wished, most=most)


def _record(world: World, row: WorkRow, want: Wanted | None) -> Outcome:
    with world.store.write() as tx:
        work.hold(tx, row)
        if want is None:
            work.finish(tx, row)
            return Done()
        pair, serving = want.pair, want.certificate
        if not deployments.is_held(tx, pair.id, row.target, want.state.epoch, serving.id, serving.sha256):
            cause = "read back as written"
            events.record(
                tx, EventKind.DEPLOYED, cause, pair=pair.id, target=row.target, certificate=serving.id
            )
        deployments.observe(tx, pair.id, row.target, serving.sha256, How.STORED)
        state = pairs.state(tx, pair.id)
        if (state.epoch, state.serving) != (want.state.epoch, want.state.serving):
            return Later(tx.now, "another certificate should serve by now")
        if certificates.get(tx, serving.id).chain_hash != serving.chain_hash:
            return Later(tx.now, "another chain should be served by now")
        work.schedule(tx, WorkKind.VERIFICATION, pair.id, tx.now, target=row.target)
        work.finish(tx, row)
    return Done()


# --- verification ----------------------------------------------------------------------------------------


def verify(world: World, row: WorkRow) -> Outcome:
    """See that a target serves what it should; then the replaced key leaves it."""
    began = world.clock.now()
    target = world.target(row.target)
    with world.store.read() as tx:
        want = read_wanted(tx, row.pair_id)
        deploying = work.get(tx, WorkKind.DEPLOYMENT, row.pair_id, target=row.target) is not None
        replaced = want is not None and deployments.replaced_there(
            tx, row.pair_id, row.target, want.state.epoch, want.certificate.id
        )
    if want is None or deploying:
        # What is to be seen is not there yet; the deployment asks for a look when it is.
        return _leave_it(world, row)
    problem = _look(target, want)
    failure = Failure(began, row.attempts, row.since, world.draw())
    if problem is not None:
        return _not_seen(world, row, want, problem, failure)
    outcome = _seen(world, row, target, want, replaced=replaced)
    return outcome if outcome is not None else _purge(world, row, target, want, failure)


def _leave_it(world: World, row: WorkRow) -> Outcome:
    with world.store.write() as tx:
        work.hold(tx, row)
        deploying = work.get(tx, WorkKind.DEPLOYMENT, row.pair_id, target=row.target)
        if deploying is None and read_wanted(tx, row.pair_id) is not None:
            return Later(tx.now, "it is deployed by now")
        work.finish(tx, row)
    return Done()


def _look(target: TargetBinding, want: Wanted) -> ProbeFailed | None:
    if not target.endpoints:
        held = target.read_back([want.pair.name])[want.pair.name]
        if held is None or held.sha256 != want.certificate.sha256:
            return ProbeFailed(f"target {target.name} holds another certificate", name=want.pair.name)
        return None
    server_name = naming.probe_name(want.pair.names)
    try:
        for host, port in target.endpoints:
            for place, seen in probing.served(host, port, server_name):
                if seen != want.certificate.sha256:
                    return ProbeFailed(
                        f"{place} serves another certificate for {server_name} ({seen.hex()[:16]}...)",
                        remedy=f"See whether the server reads the files of target {target.name}, and reloads.",
                        name=want.pair.name,
                    )
    except ProbeFailed as error:
        return error
    return None


def _not_seen(world: World, row: WorkRow, want: Wanted, problem: ProbeFailed, failure: Failure) -> Outcome:
    if row.looks <= _LOOKS:
        return look_again(world, row, problem.reason)
    with world.store.write() as tx:
        work.hold(tx, row)
        deployments.observe(tx, row.pair_id, row.target, want.certificate.sha256, How.STORED, problem.reason)
        if row.reason != str(problem):
            events.record(tx, EventKind.FAILED, problem.reason, pair=row.pair_id, target=row.target)
    return Later(_again_at(world, problem, failure), str(problem), failed=True)


def _seen(
    world: World, row: WorkRow, target: TargetBinding, want: Wanted, *, replaced: bool
) -> Outcome | None:
    """Written down before the replaced key leaves: should that fail, what waits for the look goes on all the same.

    None where that key is to leave now.
    """
    how = How.WIRE if target.endpoints else How.STORED
    serving = want.certificate
    with world.store.write() as tx:
        work.hold(tx, row)
        deployments.observe(tx, row.pair_id, row.target, serving.sha256, how)
        first = deployments.verified(tx, row.pair_id, row.target, want.state.epoch, serving.id, how)
        certificates.proved(tx, serving.spki)
        if first or not replaced:
            # Not at each try to have the replaced key leave.
            cause, held = f"seen by {how.value}", serving.id
            what = EventKind.VERIFIED
            events.record(tx, what, cause, pair=row.pair_id, target=row.target, certificate=held)
        if (overtaken := _overtaken(tx, want)) is not None:
            return overtaken
        work.wake(tx, WorkKind.REVOCATION, row.pair_id)
        if replaced:
            return None
        work.finish(tx, row)
    return Done()


def _purge(world: World, row: WorkRow, target: TargetBinding, want: Wanted, failure: Failure) -> Outcome:
    problem: DeployError | None = None
    try:
        target.purge(want.pair.name, want.version)
    except DeployError as error:
        problem = error
    with world.store.write() as tx:
        work.hold(tx, row)
        if problem is None:
            deployments.replaced_left(tx, row.pair_id, row.target, want.state.epoch, want.certificate.id)
            cause = "replaced keys have left the target"
            events.record(tx, EventKind.KEY_PURGED, cause, pair=row.pair_id, target=row.target)
        elif row.reason != str(problem):
            events.record(tx, EventKind.FAILED, problem.reason, pair=row.pair_id, target=row.target)
        if (overtaken := _overtaken(tx, want)) is not None:
            return overtaken
        if problem is None:
            work.finish(tx, row)
            return Done()
    return Later(_again_at(world, problem, failure), str(problem), failed=True)


def _overtaken(tx: Transaction, want: Wanted) -> Later | None:
    """Another look at once, where something else should serve by now: its deployment may be through, and have asked."""
    state = pairs.state(tx, want.pair.id)
    if (state.epoch, state.serving) == (want.state.epoch, want.state.serving):
        return None
    return Later(tx.now, "another certificate should serve by now")
