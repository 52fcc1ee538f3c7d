"""What had a leaked key and serves nowhere: blocked, no backup any more, and to be revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.incident import Incident
from dualcert.model.signal import Reason
from dualcert.model.work import WorkKind
from dualcert.store import Transaction, certificates, compromise, events, pairs, revocations, work

_BATCH = 500


@dataclass(frozen=True)
class Verdict:
    """``cause``: as ``because_of`` says it. ``revoke_by``: when a certificate is revoked at the latest."""

    cause: str
    revoke_by: datetime


def because_of(leak: str) -> str:
    """The cause of all that follows from a leak, in words; an incident that was opened for one has it."""
    return f"{Reason.KEY_COMPROMISE.value}: {leak}"


def of_leak(incident: Incident) -> bool:
    """Whether an incident names what had leaked keys."""
    return incident.cause.startswith(because_of(""))


def block_left(world: World, incident: Incident) -> int:
    """Members of a leak's incident that do not serve any more, and are not condemned yet; how many those were."""
    verdict = Verdict(incident.cause, incident.deadline)
    after = done = 0
    while True:
        # A unit that looked through millions without finding any would keep others waiting.
        with world.store.glance() as tx:
            ids = compromise.not_condemned(tx, incident.id, after, _BATCH)
        if not ids:
            return done
        block_idle(world, verdict, ids)
        done += len(ids)
        after = ids[-1]


def block_idle(world: World, verdict: Verdict, ids: Sequence[int]) -> None:
    """Those that do not serve: revoked as soon as their CA is asked; a backup is refilled under a new key."""
    with world.store.write() as tx:
        found = compromise.held(tx, ids)
        pairs.lock(tx, {one.certificate.pair_id for one in found})
        for one in compromise.held(tx, ids):  # as it is when nobody can change it any more
            if one.role != "primary":
                condemn(tx, verdict, one.certificate, revoked=one.revoked)


def condemn(tx: Transaction, verdict: Verdict, subject: Certificate, *, revoked: bool) -> None:
    """Blocked, no backup any more, and to be revoked; what was done before is not done again."""
    pair_id, ca, cause = subject.pair_id, subject.ca, verdict.cause
    fresh = certificates.block_key(tx, subject.spki, cause)
    if fresh:
        events.record(tx, EventKind.KEY_BLOCKED, cause, pair=pair_id, ca=ca, certificate=subject.id)
    state = pairs.states(tx, [pair_id]).get(pair_id)
    if state is not None and state.standby == subject.id:
        pairs.set_backup_ok(tx, state, None)
        if fresh:
            work.schedule(tx, WorkKind.REFILL, pair_id, tx.now, ca=ca)
            events.record(tx, EventKind.REFILL_SCHEDULED, "its key leaked", pair=pair_id, ca=ca)
    wanted = {one.certificate_id: one for one in revocations.wanted(tx, pair_id)}.get(subject.id)
    by = verdict.revoke_by
    as_soon = wanted is not None and wanted.reason is Reason.KEY_COMPROMISE and wanted.revoke_by <= by
    if revoked or as_soon:
        return
    revoke_by = min(by, wanted.revoke_by) if wanted else by
    revocations.want(tx, subject.id, pair_id, Reason.KEY_COMPROMISE, revoke_by, unverified=False)
    work.schedule(tx, WorkKind.REVOCATION, pair_id, tx.now, ca=ca)
    events.record(tx, EventKind.REVOCATION_WANTED, cause, pair=pair_id, ca=ca, certificate=subject.id)
