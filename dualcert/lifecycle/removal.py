"""Ending a pair, and taking one from a target: nothing of it stays there, what it was stays known.

A row names pair and target. Whether the pair should be there is read when the row is taken, and read again after: a
target that was given back to its pair meanwhile gets it back.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from dualcert.errors import DeployError, InvalidName, Refused, UsageProblem
from dualcert.lifecycle import switching
from dualcert.lifecycle.looking import look_again
from dualcert.lifecycle.revocation import block_if_compromised
from dualcert.lifecycle.world import TargetBinding, World
from dualcert.model import names as naming
from dualcert.model.events import EventKind
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason
from dualcert.model.wording import typed
from dualcert.model.work import Done, Outcome, WorkKind, WorkRow
from dualcert.store import Transaction, certificates, events, pairs, revocations, work
from dualcert.store import removal as ended
from dualcert.store.removal import Former

STEPS = (WorkKind.REMOVAL, WorkKind.WITHDRAWAL, WorkKind.REVOCATION)
"""What ``remove`` drives."""

_AT_A_TARGET = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION)
_REVOKE_BY = timedelta(hours=24)


def find(world: World, text: str) -> list[Former]:
    """The pairs that had this name once, the last one first."""
    with world.store.read() as tx:
        return next((found for name in forms(text) if (found := ended.formers(tx, name))), [])


def forms(text: str) -> tuple[str, ...]:
    """What a pair may be called by what was typed: just that, or the DNS name in its stored form."""
    try:
        return text, naming.normalise(text)
    except InvalidName:
        return (text,)


def is_called(pair: Pair, text: str) -> bool:
    """Whether what was typed is the pair's own name, and not one that it covers."""
    return pair.name in forms(text)


def remove(world: World, pair: Pair, reason: Reason | None) -> Former:
    """End a pair; with a reason its certificates are to be revoked when they have left every target.

    Everything that this leads to is due from here on, and goes on whoever does it.
    """
    with world.store.write() as tx:
        pairs.reserve(tx, pair.name, pair.names_digest)
        pairs.lock(tx, [pair.id])
        current = pairs.by_id(tx, pair.id)
        if current is None:
            raise UsageProblem("somebody else has removed the pair meanwhile", name=pair.name)
        former = ended.end(tx, current, pairs.state(tx, pair.id))
        for target in current.targets:
            work.schedule(tx, WorkKind.REMOVAL, pair.id, tx.now, target=target)
        if ended.values_left(tx, pair.id):
            work.schedule(tx, WorkKind.WITHDRAWAL, pair.id, tx.now)
        events.record(tx, EventKind.REMOVED, f"it covered {', '.join(current.names)}", pair=pair.id)
        if reason is not None:
            _want_revocation(tx, former, reason)
    return former


def go_on(world: World, former: Former, reason: Reason | None) -> None:
    """Hurry what is left of an earlier removal; its certificates may be wanted revoked now."""
    with world.store.write() as tx:
        if reason is not None:
            _want_revocation(tx, former, reason)
        work.hurry(tx, former.pair_id, STEPS)


def _want_revocation(tx: Transaction, former: Former, reason: Reason) -> None:
    for number in former.certificates:
        subject = certificates.get(tx, number)
        if revocations.is_revoked(tx, number) or subject.not_after <= tx.now:
            continue
        revocations.want(tx, number, former.pair_id, reason, tx.now + _REVOKE_BY, unverified=False)
        work.schedule(tx, WorkKind.REVOCATION, former.pair_id, tx.now, ca=subject.ca)
        what, pair_id = EventKind.REVOCATION_WANTED, former.pair_id
        events.record(tx, what, reason.value, pair=pair_id, ca=subject.ca, certificate=number)
        block_if_compromised(tx, subject, reason, tx.actor)


def refuse_unfinished(tx: Transaction, name: str) -> Former | None:
    """The last pair of this name, if there was one. Raises ``Refused`` while it is still being taken from a target."""
    former = next(iter(ended.formers(tx, name)), None)
    places = ended.leaving(tx, former.pair_id) if former is not None else []
    if places:
        raise Refused(
            f"the pair of this name that was removed has not left {', '.join(places)} yet",
            remedy=f"Finish that first: dualcert remove {typed(name)}",
            name=name,
        )
    return former


# --- targets ---------------------------------------------------------------------------------------------


def take_from(tx: Transaction, pair_id: int, target: str) -> None:
    """The pair has no business at the target any more."""
    ended.end_steps(tx, pair_id, target, _AT_A_TARGET)
    work.schedule(tx, WorkKind.REMOVAL, pair_id, tx.now, target=target)


def came_late(tx: Transaction, pair_id: int, target: str) -> None:
    """Something was put to a target by a step that had lost its lease: should it not be there, it goes again."""
    if target not in _targets(tx, pair_id):
        work.schedule(tx, WorkKind.REMOVAL, pair_id, tx.now, target=target)


def _name_of(tx: Transaction, pair_id: int) -> str | None:
    """What the target knows the pair by; None where another pair has that name now, and the place is its."""
    name = pairs.names_of(tx, [pair_id]).get(pair_id)
    holder = pairs.by_name(tx, name) if name is not None else None
    return name if holder is None or holder.id == pair_id else None


def _targets(tx: Transaction, pair_id: int) -> tuple[str, ...]:
    pair = pairs.by_id(tx, pair_id)
    return pair.targets if pair is not None else ()


def _in_one_place(world: World, target: TargetBinding, others: Collection[str]) -> list[str]:
    """Those of the others that serve from the very place of this target: what is removed here is gone there."""
    place = target.place()
    if place is None:
        return []
    return [other for other in others if world.target(other).place() == place]


def advance(world: World, row: WorkRow) -> Outcome:
    """Take a pair from a target, unless it should be there."""
    with world.store.read() as tx:
        name, targets = _name_of(tx, row.pair_id), _targets(tx, row.pair_id)
    if name is None or row.target in targets:
        return _concluded(world, row, targets)
    target = world.target(row.target)
    if staying := _in_one_place(world, target, targets):
        cause = f"its files stay for {', '.join(staying)}: it is the same place"
        return _concluded(world, row, targets, cause)
    with switching.alone(world, target, row.owner or "") as ours:
        if not ours:
            return look_again(world, row, f"another process is switching {target.name}")
        target.remove(name)
        if target.read_back([name])[name] is not None:
            raise DeployError(
                f"target {target.name} still holds what was just removed there",
                remedy="See whether something else writes to this target.",
                name=name,
            )
    return _concluded(world, row, targets)


def _concluded(
    world: World, row: WorkRow, before: Collection[str], cause: str = "its files and keys are gone"
) -> Outcome:
    """``before``: the targets that the pair had when it was looked whether it should be here."""
    with world.store.write() as tx:
        work.hold(tx, row)
        now = _targets(tx, row.pair_id)
        # Given back while it was taken away, maybe; or given to another target that has the same place.
        given = [target for target in now if target == row.target or target not in before]
        if given and pairs.state(tx, row.pair_id).serving is not None:
            for target in given:
                work.schedule(tx, WorkKind.DEPLOYMENT, row.pair_id, tx.now, target=target)
        if row.target not in now:
            ended.left(tx, row.pair_id, row.target)
            events.record(tx, EventKind.LEFT_TARGET, cause, pair=row.pair_id, target=row.target)
        work.finish(tx, row)
        work.wake(tx, WorkKind.REVOCATION, row.pair_id)
    return Done()


def give_up(world: World, former: Former, target: str) -> None:
    """A target is gone for good: nobody waits for it any more. Raises ``UsageProblem`` where nobody does."""
    with world.store.write() as tx:
        if target not in ended.leaving(tx, former.pair_id):
            raise UsageProblem(f"the pair has left {target}, or never was there", name=former.name)
        ended.end_steps(tx, former.pair_id, target, [WorkKind.REMOVAL])
        cause = "given up: the target is gone, what lies there stays"
        events.record(tx, EventKind.LEFT_TARGET, cause, pair=former.pair_id, target=target)
        ended.left(tx, former.pair_id, target)
        work.wake(tx, WorkKind.REVOCATION, former.pair_id)


# --- how far it is ---------------------------------------------------------------------------------------


def state_of(world: World, former: Former) -> dict[str, Any]:
    """What has become of a pair that was removed, in the shape that scripts rely on (``remove --json``)."""
    with world.store.read() as tx:
        rows = work.of_pairs(tx, [former.pair_id], STEPS)
        held = [certificates.get(tx, number) for number in former.certificates]
        revoked = {one.id: revocations.is_revoked(tx, one.id) for one in held}
        wanted = {one.certificate_id for one in revocations.wanted(tx, former.pair_id)}
    return {
        "pair": former.name,
        "names": list(former.names),
        "removed_at": former.removed_at,
        "certificates": [
            {
                "ca": one.ca,
                "serial": one.serial,
                "not_after": one.not_after,
                "revoked": revoked[one.id],
                "revocation": "wanted" if one.id in wanted else None,
            }
            for one in held
        ],
        "unfinished": [
            {"step": row.kind.value, "ca": row.ca or None, "target": row.target or None, "reason": row.reason}
            for row in rows
        ],
    }
