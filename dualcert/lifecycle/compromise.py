"""A private key has leaked: whatever used it leaves service, is revoked, and its key is never used again.

First the keys that serve nowhere are blocked, so that nothing is promoted onto one of them. Then pairs whose serving
key leaked are promoted away from it; one without a usable backup goes on serving, and is ordered anew at once. Every
step finds what it has to do in the database, so the same call again goes on where another one was cut off, and changes
nothing where that one ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from dualcert.errors import CaError, ConfigurationError, DualcertError, KeyProblem, Refused, UsageProblem
from dualcert.lifecycle import accountcare, accounts, keymaking, promotion, renewal, rewrapping, validation
from dualcert.lifecycle.condemning import Verdict, because_of, block_idle, condemn
from dualcert.lifecycle.incidents import add_to_incident, open_incident
from dualcert.lifecycle.leaked import REVOKE_WITHIN, Leak, remember
from dualcert.lifecycle.reach import Extent, batches, extent, held
from dualcert.lifecycle.weakkeys import account_key
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.incident import Incident
from dualcert.model.order import OrderStep
from dualcert.model.signal import Reason
from dualcert.model.work import BUDGET, WorkKind
from dualcert.policy import brake
from dualcert.policy.brake import Hold, Numbers
from dualcert.store import (
    Transaction,
    certificates,
    compromise,
    counters,
    events,
    incidents,
    orders,
    pairs,
    revocations,
    signed_heads,
    work,
)
from dualcert.store import accounts as account_table
from dualcert.store import promotion as predicate
from dualcert.store.compromise import Attempt, Held

_RACES = 100
_ROLLS = 3
_ORDERING = (WorkKind.ORDER, WorkKind.PUBLICATION)


@dataclass
class Containment:
    """What one call has come to; ``problems`` tells what is not done, and why, a text each. ``leak`` as it was told
    by then."""

    leak: Leak
    verdict: Verdict
    extent: Extent
    promoted: int = 0
    ordered: int = 0
    rolled: list[str] = field(default_factory=list)
    incident: Incident | None = None
    held: str | None = None
    problems: list[str] = field(default_factory=list)


def may_turn(world: World, leak: Leak, reach: Extent) -> str | None:
    """Why so many pairs do not turn on one word; None where they may.

    Where the leak's incident has its plan, pairs that have no backup to turn to are not counted: a person has seen that
    they are ordered anew, and they must not keep the rest from being revoked. A backup whose key nobody has opened
    lately is counted: the plan does not promote it, but here it would be opened, and promoted.
    """
    serving = [one.certificate.pair_id for one in held(world, reach.certificates) if one.role == "primary"]
    standing = _standing(world, leak)
    wanted = len(serving)
    if standing is not None and standing.plan_hash is not None:
        wanted = 0
        for some in batches(serving):
            with world.store.read() as tx:
                wanted += len(predicate.usable(tx, some, opened=True))
    with world.store.read() as tx:
        decision = brake.decide(Numbers(0, wanted, counters.value(tx, counters.PAIRS) or 0), tx.now)
    return decision.reason if isinstance(decision, Hold) else None


def foretold(world: World, reach: Extent, one: Held) -> str:
    """What would become of a certificate, in words."""
    if one.role != "primary":
        return "nothing, it is revoked" if one.revoked else "revoked"
    with world.store.read() as tx:
        pair = pairs.by_id(tx, one.certificate.pair_id)
        state = pairs.state(tx, one.certificate.pair_id)
    if pair is None:
        return "revoked"
    if state.standby in reach.certificates:
        return "ordered anew, then revoked: the backup's key leaked too"
    try:
        turn = promotion.leave(world, pair, one.certificate.id, "", dry_run=True)
    except Refused as refused:
        return f"ordered anew, then revoked: {refused.reason}"
    return "revoked" if turn is None else f"{turn.to_ca} serves instead, then revoked"


def to_roll(world: World, leak: Leak, reach: Extent) -> list[str]:
    """The accounts whose keys would be rolled over: what got another key when this was told first keeps that."""
    return [ca for ca in reach.accounts if _account_leaked(world, ca, leak)]


def told_anew(leak: Leak) -> bool:
    """Of a domain: whether it gets a new KEK, and its accounts other keys, because of this word."""
    return leak.before is None or leak.again


# --- containing it ---------------------------------------------------------------------------------------


def contain(world: World, leak: Leak) -> Containment:
    """Do all of it that needs no waiting; what remains is due work.

    Where more pairs would turn than may on one word, their certificates are named in an incident instead. Raises
    ``UsageProblem``, ``ConfigurationError`` and ``Refused`` where nothing was done.
    """
    leak = remember(world, leak)
    if leak.domain is not None:
        problems = _replace_kek(world, leak)
        with world.store.read() as tx:
            told = compromise.last_told(tx, leak.described)
        leak = replace(leak, again=False, before=told.at if told else None)
    else:
        problems = []
    reach = extent(world, leak)
    verdict = Verdict(_said(leak), _revoke_by(world, leak))
    result = Containment(leak, verdict, reach, problems=problems)
    for attempt in reach.attempts:
        _give_up(world, attempt)
    for ca in reach.accounts:
        _roll(world, ca, leak, result)
    for some in batches(reach.certificates):
        block_idle(world, verdict, some)
    result.held = may_turn(world, leak, reach)
    if result.held is not None:
        result.incident = _incident(world, leak, verdict, reach)
        return result
    go_on(world, result)
    if leak.key is not None:
        _block_for_good(world, leak, leak.key)
    return result


def go_on(world: World, result: Containment) -> int:
    """Promote what still serves and can be left by now; how many that were. The rest is ordered anew."""
    before = result.promoted
    for one in held(world, result.extent.certificates):
        if one.role == "primary":
            _leave(world, one, result)
    return result.promoted - before


def _revoke_by(world: World, leak: Leak) -> datetime:
    """When what serves is revoked at the latest. The same command said again gives no more time than it gave first."""
    now = world.clock.now()
    by = leak.revoke_at or now + leak.revoke_within
    standing = _standing(world, leak)
    if standing is not None:
        return min(by, standing.deadline)
    if leak.revoke_at is not None or leak.before is None:
        return by
    return min(by, leak.before + max(leak.revoke_within, REVOKE_WITHIN))


def _block_for_good(world: World, leak: Leak, key: bytes) -> None:
    """Also where every certificate that had it has ended."""
    with world.store.write() as tx:
        if certificates.block_key(tx, key, _said(leak)):
            events.record(tx, EventKind.KEY_BLOCKED, _said(leak))


def _said(leak: Leak) -> str:
    return because_of(leak.described)


def _replace_kek(world: World, leak: Leak) -> list[str]:
    """A new KEK before anything new is made under it, and the moment from which keys are good again."""
    domain = leak.domain or ""
    extent(world, leak)  # refuses a domain that is none
    with world.store.read() as tx:
        told = compromise.last_told(tx, leak.described)
    anew = told is None or leak.again
    done = rewrapping.rotate(world, domain, rewrapping.Wish(new=anew, finish=not anew), lambda *_: None)
    if anew:
        with world.store.write() as tx:
            events.record(tx, EventKind.COMPROMISED, leak.described)
            for ca in compromise.accounts_in(tx, domain):
                _block_account(tx, ca, leak)
            for spki in signed_heads.keys_in(tx, domain):
                certificates.block_key(tx, spki, leak.described)
    problems = [f"domain {domain}: {one.reason}" for one in done.problems]
    return [*problems, *(f"domain {domain}: the old KEK {one.kek} stays: {one.reason}" for one in done.kept)]


def _give_up(world: World, attempt: Attempt) -> None:
    """An order under a leaked key. One that the CA may have issued for already is revoked when it arrives."""
    with world.store.write() as tx:
        pairs.lock(tx, [attempt.pair_id])
        order = orders.open_order(tx, attempt.pair_id, attempt.ca)
        if order is None or order.id != attempt.order_id:
            return
        certificates.block_key(tx, attempt.spki, Reason.KEY_COMPROMISE.value)
        if order.step is OrderStep.FINALIZING:
            return
        why = "its key leaked"
        orders.set_step(tx, order.id, OrderStep.ABANDONED, why)
        validation.spend(tx, order)
        # Whoever holds it, and may be at the CA with it now, has lost it: another row orders under another key.
        work.cancel(tx, WorkKind.ORDER, order.pair_id, ca=order.ca)
        work.schedule(tx, WorkKind.ORDER, order.pair_id, tx.now, ca=order.ca)
        events.record(tx, EventKind.ABANDONED, why, pair=order.pair_id, ca=order.ca)


# --- accounts --------------------------------------------------------------------------------------------


def _block_account(tx: Transaction, ca: str, leak: Leak) -> None:
    stored = account_table.get(tx, ca)
    keys = [] if stored is None else [stored.key, *([stored.next_key] if stored.next_key else [])]
    for key in keys:
        if leak.key in (None, key.spki) and certificates.block_key(tx, key.spki, _said(leak)):
            events.record(tx, EventKind.KEY_BLOCKED, f"the account's key: {leak.described}", ca=ca)


def _roll(world: World, name: str, leak: Leak, result: Containment) -> None:
    """Other keys for the account until it has one that is not blocked: one that was to come may have leaked, too."""
    if leak.key is not None:
        with world.store.write() as tx:
            _block_account(tx, name, leak)
    try:
        for _ in range(_ROLLS):
            if not _account_leaked(world, name):
                return
            _roll_once(world, name)
            result.rolled.append(name)
    except (CaError, ConfigurationError, KeyProblem, UsageProblem, Refused) as error:
        result.problems.append(f"the account's key at {name} still is the one that leaked: {error}")


def _account_leaked(world: World, ca: str, leak: Leak | None = None) -> bool:
    """Whether the key of a live account is blocked; of a ``leak`` that nobody has acted on, whether it would be."""
    with world.store.read() as tx:
        stored = account_table.get(tx, ca)
        if stored is None or stored.deactivated_at is not None:
            return False
        if leak is not None and (told_anew(leak) if leak.key is None else leak.key == stored.key.spki):
            return True
        return bool(compromise.blocked(tx, [stored.key.spki]))


def _roll_once(world: World, name: str) -> None:
    ca = accountcare.configured(world, name)
    with world.store.read() as tx:
        stored = account_table.get(tx, name)
    if stored is None or stored.url is not None:
        accountcare.rollover(world, ca, now=True)
        return
    # The CA has never heard of this key: another one takes its place before it does.
    accounts.check_recorded(ca, stored)
    key = keymaking.wrap(world, stored.key.domain, account_key(world, name), "account")
    with world.store.write() as tx:
        account_table.begin_anew(tx, stored, key)


# --- certificates ----------------------------------------------------------------------------------------


def _leave(world: World, one: Held, result: Containment) -> None:
    verdict, subject = result.verdict, one.certificate
    for _ in range(_RACES):
        with world.store.read() as tx:
            pair = pairs.by_id(tx, subject.pair_id)
            serves = pair is not None and pairs.state(tx, pair.id).serving == subject.id
        try:
            turned = promotion.leave(world, pair, subject.id, verdict.cause) if pair and serves else None
        except Refused:
            result.ordered += _order_anew(world, result, subject, revoked=one.revoked)
            return
        except DualcertError as error:
            result.problems.append(str(error))
            return
        if turned is not None or not serves:
            result.promoted += turned is not None
            with world.store.write() as tx:
                pairs.lock(tx, [subject.pair_id])
                condemn(tx, verdict, subject, revoked=revocations.is_revoked(tx, subject.id))
            return
    result.problems.append(f"{one.pair}: it kept changing while it was to be left")


def _order_anew(world: World, result: Containment, subject: Certificate, *, revoked: bool) -> int:
    """No backup may take over: all that is missing is ordered now, and the first that comes serves."""
    with world.store.write() as tx:
        pairs.lock(tx, [subject.pair_id])
        pair = pairs.by_id(tx, subject.pair_id)
        if pair is None or pairs.state(tx, pair.id).serving != subject.id:
            return 0
        condemn(tx, result.verdict, subject, revoked=revoked)
        opened = renewal.open_orders(tx, pair, renewal.due_lineages(tx, pair), result.leak.described)
        work.hurry(tx, pair.id, _ORDERING, spare=[BUDGET])
        # Whoever stores a backup has this looked at again, though nobody says the command any more.
        work.schedule(tx, WorkKind.SIGNAL, pair.id, tx.now)
    return bool(opened)


# --- more than may turn on one word ----------------------------------------------------------------------


def _incident(world: World, leak: Leak, verdict: Verdict, reach: Extent) -> Incident:
    """The one that is open for this leak already, or a new one."""
    standing = _standing(world, leak)
    if standing is not None:
        return add_to_incident(world, standing.id, reach.certificates)
    title = f"Leak of {leak.described}"
    return open_incident(world, title, verdict.cause, verdict.revoke_by, certificates=reach.certificates)


def _standing(world: World, leak: Leak) -> Incident | None:
    """Not one of an earlier leak of the same target or domain: its plan says nothing of what leaked now."""
    with world.store.read() as tx:
        of_this = (one for one in incidents.page(tx) if one.closed_at is None and one.cause == _said(leak))
        found = next(of_this, None)
    if found is None or leak.key is not None:
        return found
    return found if leak.before is not None and found.opened_at >= leak.before else None
