"""What is written down when a CA says of a certificate of ours that it is revoked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.pair import PairState
from dualcert.model.signal import Reason, SignalKind, Suspect, Turning
from dualcert.model.work import WorkKind
from dualcert.store import Transaction, certificates, events, pairs, revocations, signals, work

ACTOR = "watch"
_BATCH = 200


def revoked(world: World, suspects: Sequence[Suspect], source: str) -> list[Turning]:
    """The CA's own signature says that they are revoked: it is kept, none of them is promoted onto from here on, and
    those that stand by are refilled. Returns those that serve; what becomes of them is decided for all together."""
    return _written(world, suspects, source, SignalKind.REVOKED, _record)


def weak(world: World, suspects: Sequence[Suspect], source: str) -> list[Turning]:
    """Their keys have a known weakness: they are blocked for ever, and the rest is as for those that are revoked. Their
    CA is not asked to revoke them: what cannot be undone is for a person."""
    return _written(world, suspects, source, SignalKind.WEAK_KEY, _block)


def _written(
    world: World,
    suspects: Sequence[Suspect],
    source: str,
    kind: SignalKind,
    record: Callable[[Transaction, Suspect, str], None],
) -> list[Turning]:
    turnings: list[Turning] = []
    for begin in range(0, len(suspects), _BATCH):
        batch = suspects[begin : begin + _BATCH]
        with world.store.write() as tx:
            ids = {one.pair_id for one in batch}
            pairs.lock(tx, ids)
            states = pairs.states(tx, ids)
            for one in batch:
                number, fresh = signals.remember(tx, one, kind, source)
                record(tx, one, source)
                state = states.get(one.pair_id)
                if state is not None and state.serving == one.certificate_id:
                    turnings.append(Turning(one.pair_id, one.certificate_id, number, fresh))
                elif state is not None and state.standby == one.certificate_id and fresh:
                    pairs.set_backup_ok(tx, state, None)
                    work.schedule(tx, WorkKind.REFILL, one.pair_id, tx.now, ca=one.ca)
    return turnings


def _record(tx: Transaction, one: Suspect, source: str) -> None:
    if revocations.revoked(tx, one.certificate_id, one.reason, source):
        _told(tx, EventKind.REVOKED, one, f"{one.reason}: {one.evidence} ({source})")
    compromised = one.reason == Reason.KEY_COMPROMISE.value
    if compromised and certificates.block_key(tx, one.spki, f"{one.reason}: {source}"):
        _told(tx, EventKind.KEY_BLOCKED, one, f"{one.reason}: {source}")


def _block(tx: Transaction, one: Suspect, source: str) -> None:
    if certificates.block_key(tx, one.spki, f"{one.evidence} ({source})"):
        revoke = f"to have it revoked: dualcert compromise --spki {one.spki.hex()}"
        _told(tx, EventKind.KEY_BLOCKED, one, f"{one.evidence} ({source}); {revoke}")


def _told(tx: Transaction, kind: EventKind, one: Suspect, cause: str) -> None:
    events.record(tx, kind, cause, pair=one.pair_id, ca=one.ca, certificate=one.certificate_id, actor=ACTOR)


def warned(world: World, suspects: Sequence[Suspect], source: str) -> list[Turning]:
    """There is reason to expect the worst, and no proof: it is kept, and said once. Returns those that serve."""
    turnings: list[Turning] = []
    for begin in range(0, len(suspects), _BATCH):
        batch = suspects[begin : begin + _BATCH]
        with world.store.write() as tx:
            states = pairs.states(tx, {one.pair_id for one in batch})
            for one in batch:
                turnings += warn(tx, one, source, states.get(one.pair_id))
    return turnings


def warn(tx: Transaction, one: Suspect, source: str, state: PairState | None) -> list[Turning]:
    """The same for one certificate, in a unit of work that goes on."""
    number, fresh = signals.remember(tx, one, SignalKind.WARNING, source)
    if fresh:
        _told(tx, EventKind.WARNED, one, f"{one.evidence} ({source})")
    serves = state is not None and state.serving == one.certificate_id
    return [Turning(one.pair_id, one.certificate_id, number, fresh)] if serves else []
