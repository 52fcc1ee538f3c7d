"""Revocation at the CA: never before what replaces the certificate was seen, unless a person or the clock insists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter

from dualcert.errors import AlreadyRevoked, CaError, CaRejected, KeyProblem, Refused
from dualcert.lifecycle import accounts, budgeting, keymaking, renewal
from dualcert.lifecycle.permits import BudgetSpent
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason, RevocationRequest
from dualcert.model.wording import typed
from dualcert.model.work import ANOTHER_STEP, Done, Later, Outcome, Waiting, WorkKind, WorkRow
from dualcert.policy import backoff
from dualcert.policy.backoff import Failure
from dualcert.policy.recovery import passing
from dualcert.store import Transaction, certificates, deployments, events, pairs, removal, revocations, work

_OWN_ACCORD = timedelta(hours=24)


def revoke_backup(world: World, pair: Pair, reason: Reason) -> Certificate:
    """Ask for the revocation of the pair's backup certificate; returns it. Raises ``Refused`` where there is none."""
    with world.store.write() as tx:
        pairs.lock(tx, [pair.id])
        state = pairs.state(tx, pair.id)
        if state.standby is None:
            raise Refused(
                "there is no backup certificate to revoke",
                remedy=f"See what is there: dualcert show {typed(pair.name)}",
                name=pair.name,
            )
        standby = certificates.get(tx, state.standby)
        if not revocations.is_revoked(tx, standby.id):
            # From here on nothing is promoted onto it, whatever becomes of the request.
            pairs.set_backup_ok(tx, state, None)
            revocations.want(tx, standby.id, pair.id, reason, tx.now + _OWN_ACCORD, unverified=False)
            work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=standby.ca)
            work.hurry(tx, pair.id, [WorkKind.REVOCATION])
            cause = reason.value
            events.record(
                tx, EventKind.REVOCATION_WANTED, cause, pair=pair.id, ca=standby.ca, certificate=standby.id
            )
            block_if_compromised(tx, standby, reason, tx.actor)
            # Now, not when the CA has revoked it, which may take it days: it is no backup any more.
            for one in pairs.lineages(tx, [pair.id]):
                if one.id == state.backup_lineage:
                    renewal.refill_soon(tx, pair.id, one.ca, "the backup's revocation was asked for")
    return standby


def block_if_compromised(tx: Transaction, subject: Certificate, reason: Reason, actor: str) -> None:
    """A person's word is enough: the key is not used again, whenever its CA gets round to revoking."""
    if reason is Reason.KEY_COMPROMISE and certificates.block_key(
        tx, subject.spki, f"{reason.value}, wanted by {actor}"
    ):
        kind, pair_id = EventKind.KEY_BLOCKED, subject.pair_id
        events.record(
            tx, kind, reason.value, pair=pair_id, ca=subject.ca, certificate=subject.id, actor=actor
        )


def advance(world: World, row: WorkRow) -> Outcome:
    """Carry out the revocations of a pair that are wanted at one CA."""
    began = world.clock.now()
    with world.store.read() as tx:
        pair = pairs.by_id(tx, row.pair_id)
        requests = [
            (one, certificates.get(tx, one.certificate_id)) for one in revocations.wanted(tx, row.pair_id)
        ]
    mine = [(request, subject) for request, subject in requests if subject.ca == row.ca]
    # None of them waits for what another one waits for, or is refused.
    deadline = min((one.revoke_by for one, _ in mine if one.revoke_by > began), default=None)
    outcomes = [_carry_out(world, row, pair, request, subject, deadline) for request, subject in mine]
    left = [one for one in outcomes if one is not None]
    if left:
        return _least(left)
    with world.store.write() as tx:
        work.hold(tx, row)
        if any(
            certificates.get(tx, one.certificate_id).ca == row.ca
            for one in revocations.wanted(tx, row.pair_id)
        ):
            return Later(tx.now, "another revocation is wanted")
        work.finish(tx, row)
    return Done()


def _carry_out(
    world: World,
    row: WorkRow,
    pair: Pair | None,
    request: RevocationRequest,
    subject: Certificate,
    deadline: datetime | None,
) -> Later | Waiting | None:
    """One revocation; None where nothing is left of it. At the ``deadline`` one of the row's waits no longer."""
    began = world.clock.now()
    if subject.not_after <= began:
        _give_up(world, row, subject)
        return None
    waiting = _must_leave(world, request) if pair is None else _must_wait(world, pair, request, subject)
    if waiting is not None:
        return waiting
    try:
        _revoke(world, row, request, subject)
    except CaError as error:
        budgeting.obey(world, row, None, error)
        failure, now = Failure(began, row.attempts, row.since, world.draw()), world.clock.now()
        at = backoff.after_failure(now, failure, passing=passing(error), wished=error.retry_after)
        if error.retry_after is None and deadline is not None and deadline > now:
            at = min(at, deadline)
        return Later(at, str(error), failed=True, waiting_for=budgeting.waits_for(error))
    return None


def _least(left: Sequence[Later | Waiting]) -> Outcome:
    """What becomes of the row: a failure is told and backs off, but is woken by what another one waits for."""
    # The one that waits no longer the soonest.
    waiting = min(
        (one for one in left if isinstance(one, Waiting)),
        key=lambda one: (one.until is None, one.until),
        default=None,
    )
    failed = min((one for one in left if isinstance(one, Later)), key=attrgetter("at"), default=None)
    if failed is None or waiting is None:
        return failed or waiting or left[0]
    sooner = failed if waiting.until is None else replace(failed, at=min(failed.at, waiting.until))
    return failed if failed.waiting_for else replace(sooner, waiting_for=ANOTHER_STEP)


def _give_up(world: World, row: WorkRow, subject: Certificate) -> None:
    """What has expired is believed by nobody, and CAs do not revoke it any more."""
    why = "it is not revoked: it has expired"
    with world.store.write() as tx:
        work.hold(tx, row)
        revocations.settle(tx, subject.id)
        events.record(tx, EventKind.ABANDONED, why, pair=row.pair_id, ca=row.ca, certificate=subject.id)


def _must_wait(world: World, pair: Pair, request: RevocationRequest, subject: Certificate) -> Waiting | None:
    """A certificate that may still be served somewhere is not revoked yet."""
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        seen = deployments.verified_in(tx, pair.id, state.epoch, after=subject.id)
        was_deployed = deployments.was_deployed(tx, pair.id, subject.id)
    if state.serving == subject.id:
        # A leaked key that nothing could replace in time: its CA is bound to the same deadline.
        until = request.revoke_by if request.reason is Reason.KEY_COMPROMISE else None
        if until is not None and until <= world.clock.now():
            return None
        return Waiting("promotion", "the certificate serves; it is not revoked while it does", until=until)
    if request.unverified or request.revoke_by <= world.clock.now():
        return None
    missing = [target for target in pair.targets if target not in seen]
    if missing and was_deployed:
        return Waiting(
            "verification",
            f"{', '.join(missing)} was not yet seen with the new certificate{_until(request)}",
            until=request.revoke_by,
        )
    return None


def _must_leave(world: World, request: RevocationRequest) -> Waiting | None:
    """What a pair had that was removed is not revoked before it has left the targets."""
    with world.store.read() as tx:
        places = removal.leaving(tx, request.pair_id)
    if not places or request.unverified or request.revoke_by <= world.clock.now():
        return None
    return Waiting(
        "removal", f"it has not left {', '.join(places)} yet{_until(request)}", until=request.revoke_by
    )


def _until(request: RevocationRequest) -> str:
    return f"; it is revoked at {request.revoke_by:%Y-%m-%d %H:%M:%S} UTC at the latest"


def _revoke(world: World, row: WorkRow, request: RevocationRequest, subject: Certificate) -> None:
    with world.store.read() as tx:
        der = certificates.der_of(tx, subject.id)
    source = "accepted by the CA"
    key, note = _signing_key(world, request, subject)
    client = accounts.authority(world, world.ca(row.ca))
    taken = budgeting.take_revocation(world, row)
    try:
        try:
            client.revoke(der, request.reason.code, key=key)
        except AlreadyRevoked:
            raise
        except CaRejected as error:
            # RFC 8555 section 7.6 lets the certificate's key sign; a CA that does not is asked by the account.
            if key is None:
                raise
            client.revoke(der, request.reason.code)
            note = _by_account(f"the CA refused the certificate's key ({error.reason})")
    except AlreadyRevoked:
        source = "the CA says that it was revoked before"
    except (BudgetSpent, CaError) as error:
        if not error.sent:
            budgeting.return_revocation(world, row, taken)
        raise
    with world.store.write() as tx:
        work.hold(tx, row)
        _record(tx, row, request, subject, source + note)


def _signing_key(world: World, request: RevocationRequest, subject: Certificate) -> tuple[bytes | None, str]:
    """keyCompromise is signed by the compromised key itself: only then the CA blocks it for everybody."""
    if request.reason is not Reason.KEY_COMPROMISE:
        return None, ""
    with world.store.read() as tx:
        wrapped = certificates.wrapped(tx, subject.spki)
    try:
        return keymaking.unwrap(world, wrapped), ", signed by the certificate's key"
    except KeyProblem as error:
        return None, _by_account(error.reason)


def _by_account(reason: str) -> str:
    return f", signed by the account because {reason}: the CA does not block the key"


def _record(
    tx: Transaction, row: WorkRow, request: RevocationRequest, subject: Certificate, source: str
) -> None:
    pair_id = row.pair_id
    revocations.revoked(tx, subject.id, request.reason.value, source)
    revocations.settle(tx, subject.id)
    events.record(
        tx,
        EventKind.REVOKED,
        f"{request.reason.value}: {source}",
        pair=pair_id,
        ca=row.ca,
        certificate=subject.id,
        actor=request.actor,
    )
    block_if_compromised(tx, subject, request.reason, request.actor)
    state = pairs.states(tx, [pair_id]).get(pair_id)
    if state is not None and state.standby == subject.id:
        pairs.set_backup_ok(tx, state, None)
        work.schedule(tx, WorkKind.REFILL, pair_id, tx.now, ca=row.ca)


def outstanding(world: World, pair: Pair, subject: Certificate) -> str | None:
    """Why a certificate is not revoked yet; None where it is."""
    with world.store.read() as tx:
        if revocations.is_revoked(tx, subject.id):
            return None
        row = work.get(tx, WorkKind.REVOCATION, pair.id, ca=subject.ca)
    return (row.reason if row else None) or "under way"
