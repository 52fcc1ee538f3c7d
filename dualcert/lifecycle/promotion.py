"""Promotion: the backup takes over. No CA is asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from dualcert.errors import ConfigurationError, KeyProblem, Refused, StoreError, UsageProblem
from dualcert.lifecycle import keymaking, objecting, proving, revocation
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate, WrappedKey
from dualcert.model.events import Event, EventKind
from dualcert.model.pair import Lineage, Pair, PairState
from dualcert.model.signal import Reason
from dualcert.model.wording import typed
from dualcert.model.work import DAY, Done, Later, Outcome, WorkKind, WorkRow
from dualcert.store import (
    Transaction,
    certificates,
    deployments,
    events,
    incidents,
    pairs,
    promotion,
    revocations,
    work,
)

_RECENT = timedelta(hours=1)
_RACES = 100
_REVOKE_WITHIN = timedelta(hours=24)
"""After this a revocation no longer waits for verification: what the Baseline Requirements give for a leaked key."""

AFTERMATH = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION, WorkKind.REVOCATION)


@dataclass(frozen=True)
class Wish:
    """What a failover is asked for; by a person, unless there is another ``cause``.

    ``revoke_within``: after that the revocation waits for nothing that was not seen. Unsaid: a day from when it was
    asked for first.
    """

    to: str | None = None
    reason: Reason = Reason.SUPERSEDED
    revoke: bool = False
    revoke_unverified: bool = False
    revoke_within: timedelta | None = None
    dry_run: bool = False
    cause: str | None = None
    actor: str | None = None


@dataclass(frozen=True)
class Turn:
    """A failover as it stands: from which certificate to which, in which epoch, and whether this call promoted.

    ``changed`` is False where the wished CA served already and nothing was left to do. ``taken_up``: an earlier
    failover is gone on with, and nothing is promoted.
    """

    pair: Pair
    epoch: int
    from_ca: str
    from_certificate: Certificate | None
    to_ca: str
    to_certificate: Certificate | None
    changed: bool
    taken_up: bool = False


@dataclass(frozen=True)
class _Seen:
    """A pair at one moment. ``key``: the standby's, as it is kept. ``before``: None where it was not asked for."""

    state: PairState
    primary: Lineage
    backup: Lineage
    serving: Certificate | None
    standby: Certificate | None
    key: WrappedKey | None
    before: _Before | None


@dataclass(frozen=True)
class _Before:
    """The last promotion, and whether something that it has caused is unfinished.

    ``stands``: what it has brought into service may go on serving, and it is not long ago: who says the same again
    means that promotion.
    """

    last: Event | None
    unfinished: bool
    stands: bool


def failover(world: World, pair: Pair, wish: Wish) -> Turn:
    """Move the pair off the CA that serves now, or take up what an earlier failover has left.

    Returns with everything that follows written as due work. Raises ``Refused`` where the backup must not serve or
    the pair was failed over a moment ago, ``UsageProblem`` where ``wish.to`` names no CA of the pair.
    """
    away_from: str | None = None
    asked = wish.to is None
    for _ in range(_RACES):
        seen = _look(world, pair, before=asked)
        if wish.to is not None and wish.to not in {seen.primary.ca, seen.backup.ca}:
            raise UsageProblem(
                f"CA {wish.to} does not stand behind this pair",
                remedy=f"Its CAs are {seen.primary.ca} and {seen.backup.ca}.",
                name=pair.name,
            )
        away_from = away_from or seen.primary.ca
        before, to = seen.before, wish.to
        met = seen.primary.ca != away_from if to is None else seen.primary.ca == to
        if met and before is None:
            asked = True
            continue
        last = before.last if wish.to is None and before is not None and before.stands else None
        if before is not None and (met or (last is not None and before.unfinished)):
            turn = _take_up(world, pair, seen, before, wish)
        else:
            if last is not None:
                _refuse_soon_again(pair, seen, last, world, wish)
            turn = _promote(world, pair, seen, wish)
        if turn is not None:
            return turn
    raise StoreError(
        "the pair kept changing while it was to be failed over", remedy="Try again.", name=pair.name
    )


def leave(
    world: World, pair: Pair, serving: int, cause: str, actor: str | None = None, *, dry_run: bool = False
) -> Turn | None:
    """Promote the backup because the certificate that serves, number ``serving``, is to be left.

    ``actor`` signs the event where it is not this process's own. None where another one serves by now, or the pair has
    changed while it was looked at. Raises ``Refused`` where the backup must not serve.
    """
    seen = _look(world, pair, before=False)
    wish = Wish(cause=cause, actor=actor, dry_run=dry_run)
    return _promote(world, pair, seen, wish) if seen.state.serving == serving else None


def _look(world: World, pair: Pair, *, before: bool) -> _Seen:
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        lineages = {one.id: one for one in pairs.lineages(tx, [pair.id])}
        serving, standby = certificates.both(tx, state.serving, state.standby)
        key = None if standby is None else certificates.wrapped(tx, standby.spki)
        found = _before(tx, pair, state) if before else None
    return _Seen(
        state, lineages[state.primary_lineage], lineages[state.backup_lineage], serving, standby, key, found
    )


def _before(tx: Transaction, pair: Pair, state: PairState) -> _Before:
    last = events.last_promotion(tx, pair.id)
    if last is None:
        return _Before(None, unfinished=False, stands=False)
    verified = deployments.verified_in(tx, pair.id, state.epoch)
    seen_nowhere = any(target not in verified for target in pair.targets)
    unfinished = seen_nowhere or bool(revocations.wanted(tx, pair.id))
    return _Before(last, unfinished, tx.now - last.at < _REVOKE_WITHIN and not _must_go(tx, state.serving))


def _must_go(tx: Transaction, serving: int | None) -> bool:
    """Whether what serves is to be left, however short a time it has served."""
    standing = certificates.standing(tx, serving)
    if standing is None:
        return True
    return standing.bad(tx.now) is not None or incidents.naming(tx, standing.certificate.id) is not None


def _refuse_soon_again(pair: Pair, seen: _Seen, last: Event, world: World, wish: Wish) -> None:
    if world.clock.now() - last.at < _RECENT:
        ways = [f"To go back: dualcert failover {typed(pair.name)} --to {seen.backup.ca}"]
        if wish.revoke and _may_be_revoked(world, last.previous) is not None:
            # The backup is another one by now, and none of its CA's sins are its own.
            ways.append(
                f"To revoke what served: dualcert failover {typed(pair.name)} --to {seen.primary.ca} --revoke"
            )
        raise Refused(
            f"failed over to {seen.primary.ca} on {last.at:%Y-%m-%d at %H:%M:%S} UTC by {last.actor}, and finished",
            remedy="\n  ".join(ways),
            name=pair.name,
        )


def _may_be_revoked(world: World, number: int | None) -> Certificate | None:
    """The certificate, where it is to be believed still."""
    if number is None:
        return None
    with world.store.read() as tx:
        subject = certificates.get(tx, number)
        alive = subject.not_after > tx.now and not revocations.is_revoked(tx, number)
    return subject if alive else None


def _take_up(world: World, pair: Pair, seen: _Seen, before: _Before, wish: Wish) -> Turn | None:
    """The goal is met already: finish what is unfinished, add the revocation if it is asked for only now.

    None where the pair has changed since it was looked at: what served then may serve again.
    """
    previous = before.last.previous if before.last else None
    with world.store.read() as tx:
        old = None if previous is None else certificates.get(tx, previous)
    alive = _may_be_revoked(world, previous) is not None
    changed = before.unfinished or (wish.revoke and alive)
    if changed and not wish.dry_run:
        with world.store.write() as tx:
            pairs.lock(tx, [pair.id])
            if _has_changed(tx, seen):
                return None
            if wish.revoke and old is not None and alive and not revocations.is_revoked(tx, old.id):
                _want_revocation(tx, pair, old, wish)
            work.hurry(tx, pair.id, AFTERMATH)
    from_ca = old.ca if old else seen.backup.ca
    return Turn(pair, seen.state.epoch, from_ca, old, seen.primary.ca, seen.serving, changed, taken_up=True)


def _promote(world: World, pair: Pair, seen: _Seen, wish: Wish) -> Turn | None:
    """One attempt; None where the pair has changed since it was looked at.

    The statement that promotes says whether the backup may serve. Why it may not is asked for when it has said so.
    """
    error = None if seen.standby is None else _unreadable(world, seen.key)
    if error is None and not wish.dry_run and _turned(world, pair, seen, wish):
        return _turn(pair, seen, changed=True)
    with world.store.read() as tx:
        if _has_changed(tx, seen):
            return None
        against = objecting.speaking_against(tx, pair, seen.state)
        ways = objecting.ways(tx, pair, seen.state, seen.backup.ca, error, dry_run=wish.dry_run)
    if error is not None:
        if not wish.dry_run:
            _proof_failed(world, pair, seen, error)
        against = (*against, proving.told(error))
    if against:
        raise Refused(
            f"not failed over to {seen.backup.ca}: {'; '.join(against)}",
            remedy=f"Nothing was changed at what serves. {ways}",
            name=pair.name,
            ca=seen.backup.ca,
        )
    return _turn(pair, seen, changed=False) if wish.dry_run else None


def _has_changed(tx: Transaction, seen: _Seen) -> bool:
    return pairs.seen_values(pairs.state(tx, seen.state.pair_id)) != pairs.seen_values(seen.state)


def _turn(pair: Pair, seen: _Seen, *, changed: bool) -> Turn:
    """The backup serves where it is ``changed``; else it would."""
    epoch = seen.state.epoch + changed
    return Turn(pair, epoch, seen.primary.ca, seen.serving, seen.backup.ca, seen.standby, changed)


def _turned(world: World, pair: Pair, seen: _Seen, wish: Wish) -> bool:
    """Promote by the one predicate, the standby's key having been opened a moment ago."""
    if seen.standby is None:
        return False
    with world.store.write() as tx:
        # First: what is held against the standby is read when nobody can add to it any more.
        pairs.lock(tx, [pair.id])
        if not promotion.swap(tx, seen.state, opened=True):
            return False
        certificates.proved(tx, seen.standby.spki)
        cause = wish.cause or f"failover by hand ({wish.reason.value})"
        aftermath(tx, pair, seen.primary, seen.backup, seen.serving, seen.standby, cause, wish.actor)
        if wish.revoke and seen.serving is not None:
            _want_revocation(tx, pair, seen.serving, wish)
    return True


def _unreadable(world: World, key: WrappedKey | None) -> KeyProblem | ConfigurationError | None:
    """Why a private key cannot be used; None where it opens."""
    try:
        keymaking.unwrap(world, key)
    except (KeyProblem, ConfigurationError) as error:
        return error
    return None


def _proof_failed(world: World, pair: Pair, seen: _Seen, error: KeyProblem | ConfigurationError) -> None:
    """The backup counts no more. Where it is not the KEK that is missing, another one is due."""
    with world.store.write() as tx:
        pairs.lock(tx, [pair.id])
        refill = not isinstance(error, ConfigurationError)
        proving.given_up(tx, seen.state, seen.backup.ca, proving.told(error), refill=refill)


def aftermath(
    tx: Transaction,
    pair: Pair,
    old_lineage: Lineage,
    new_lineage: Lineage,
    old: Certificate | None,
    new: Certificate | None,
    cause: str,
    actor: str | None = None,
) -> None:
    """What a promotion causes, due in the same transaction: the event, deployments, and a refill of what served.

    Where nothing served, the wait for the primary's first certificate is over. For after ``swap``, when nobody changes
    the pair before this unit ends.
    """
    events.record(
        tx,
        EventKind.PROMOTED,
        cause,
        pair=pair.id,
        ca=new_lineage.ca,
        certificate=new.id if new else None,
        previous=old.id if old else None,
        actor=actor,
    )
    # It may have got or lost one since it was looked at.
    for target in pairs.today(tx, pair).targets:
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target=target)
    work.reconsider(tx, pair.id)
    if old is None:
        work.cancel(tx, WorkKind.FALLBACK, pair.id)
    else:
        work.schedule(tx, WorkKind.REFILL, pair.id, tx.now, ca=old_lineage.ca)
        events.record(
            tx, EventKind.REFILL_SCHEDULED, "it served until a promotion", pair=pair.id, ca=old_lineage.ca
        )


def _want_revocation(tx: Transaction, pair: Pair, old: Certificate, wish: Wish) -> None:
    revoke_by = tx.now + (_REVOKE_WITHIN if wish.revoke_within is None else wish.revoke_within)
    if wish.revoke_within is None:
        asked = [one.revoke_by for one in revocations.wanted(tx, pair.id) if one.certificate_id == old.id]
        revoke_by = min([revoke_by, *asked])
    revocations.want(tx, old.id, pair.id, wish.reason, revoke_by, unverified=wish.revoke_unverified)
    work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=old.ca)
    events.record(
        tx, EventKind.REVOCATION_WANTED, wish.reason.value, pair=pair.id, ca=old.ca, certificate=old.id
    )
    revocation.block_if_compromised(tx, old, wish.reason, tx.actor)


# --- the first certificate -------------------------------------------------------------------------------


def falls_back_at(pair: Pair, order: WorkRow | None) -> datetime | None:
    """Until when a first backup waits for the primary with this ``order``; None where that will not come by itself."""
    if order is None or order.due_at is None or order.waiting_for == DAY:
        return None
    return pair.created_at + timedelta(seconds=pair.first_wait)


def fall_back(world: World, row: WorkRow) -> Outcome:
    """A first issuance whose backup is there and whose primary is not: after a while the backup serves instead."""
    with world.store.write() as tx:
        # First: the backup may be arriving just now, and who stores it counts on this row.
        work.hold(tx, row)
        pair = pairs.by_id(tx, row.pair_id)
        state = None if pair is None else pairs.state(tx, row.pair_id)
        if pair is None or state is None or state.serving is not None or state.standby is None:
            work.finish(tx, row)
            return Done()
        lineages = {one.id: one for one in pairs.lineages(tx, [row.pair_id])}
        primary, backup = lineages[state.primary_lineage], lineages[state.backup_lineage]
        order = work.get(tx, WorkKind.ORDER, row.pair_id, ca=primary.ca)
        at = falls_back_at(pair, order)
        if at is not None and at > tx.now:
            return Later(at, f"the primary at {primary.ca} is given until then")
        if not promotion.swap(tx, state):
            return Later(tx.now + timedelta(minutes=5), "the backup may not serve either", failed=True)
        new = certificates.get(tx, state.standby)
        why = "its order needs a person or a day" if at is None else "first_wait has passed"
        aftermath(tx, pair, primary, backup, None, new, f"no certificate from {primary.ca}: {why}")
    return Done()
