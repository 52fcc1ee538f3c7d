"""What is asked all the time is found by index, however many pairs there are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from dualcert.model.deployment import How
from dualcert.model.events import EventKind
from dualcert.model.order import ChallengeRecord, OrderStep, RecordState
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason
from dualcert.model.work import WorkKind, WorkRow
from dualcert.store import (
    Store,
    Transaction,
    accounts,
    certificates,
    challenges,
    claims,
    compromise,
    deployments,
    events,
    leases,
    moving,
    orders,
    pairs,
    promotion,
    renewal_info,
    renewals,
    revocations,
    seals,
    standings,
    work,
)
from tests.store.building import PRIMARY, a_certificate, a_full_pair, an_order
from tests.store.overhearing import indexes, overheard, scans, sorts

pytestmark = pytest.mark.plans

ALL = tuple(WorkKind)


def a_record(tx: Transaction, pair: Pair) -> ChallengeRecord:
    """A value as an order of the pair would have left it."""
    order = an_order(tx, pair)
    words = ("zone", "record", "value", "identifier", "authorization", "challenge")
    challenges.remember(tx, order, "corp", [dict.fromkeys(words, "_acme-challenge.example.com")])
    [found] = challenges.records(tx, order_id=order.id)
    return found


Act = Callable[[Transaction, Pair, WorkRow], object]

ACTS: dict[str, Act] = {
    "claim": lambda tx, pair, row: claims.claim(tx, "me", kinds=ALL, limit=64),
    "claim of a pair": lambda tx, pair, row: claims.claim(tx, "me", kinds=ALL, limit=64, pairs=[pair.id]),
    "claim but not at a CA": lambda tx, pair, row: claims.claim(
        tx, "me", kinds=ALL, limit=9, but_not_at=[PRIMARY]
    ),
    "claim but not to a target": lambda tx, pair, row: claims.claim(
        tx, "me", kinds=ALL, limit=9, but_not_to=["web"]
    ),
    "claim companions": lambda tx, pair, row: claims.claim_companions(tx, "me", "web", 100),
    "next due": lambda tx, pair, row: claims.due_before(
        tx, tx.now + timedelta(minutes=5), ALL, None, but_not_of="me"
    ),
    "next due of a pair": lambda tx, pair, row: claims.due_before(
        tx, tx.now, ALL, [pair.id], but_not_of="me"
    ),
    "schedule": lambda tx, pair, row: work.schedule(tx, WorkKind.REFILL, pair.id, tx.now, ca=PRIMARY),
    "hold": lambda tx, pair, row: work.hold(tx, row),
    "put back": lambda tx, pair, row: work.put_back(tx, row, due_at=tx.now, reason=None),
    "release": lambda tx, pair, row: work.release(tx, [row]),
    "finish": lambda tx, pair, row: work.finish(tx, row),
    "cancel": lambda tx, pair, row: work.cancel(tx, WorkKind.FALLBACK, pair.id),
    "wake": lambda tx, pair, row: work.wake(tx, WorkKind.ORDER, pair.id),
    "hurry": lambda tx, pair, row: work.hurry(tx, pair.id, ALL),
    "release a dead owner": lambda tx, pair, row: leases.release_owner(tx, "dead"),
    "work of a pair": lambda tx, pair, row: work.of_pairs(tx, [pair.id], ALL),
    "work of a subject": lambda tx, pair, row: work.get(tx, WorkKind.ORDER, pair.id, ca=PRIMARY),
    "held by another": lambda tx, pair, row: work.held_by_another(tx, WorkKind.WITHDRAWAL, pair.id),
    "take a lease": lambda tx, pair, row: leases.take(tx, "target:web", "me"),
    "due renewals": lambda tx, pair, row: renewals.due(tx, 200),
    "any due renewal": lambda tx, pair, row: renewals.any_due(tx),
    "lock pairs": lambda tx, pair, row: pairs.lock(tx, [pair.id, 7]),
    "renewal of a pair": lambda tx, pair, row: renewals.of_pairs(tx, [pair.id]),
    "renewal of pairs": lambda tx, pair, row: renewals.of_pairs(tx, [pair.id, 7]),
    "CAs to ask": lambda tx, pair, row: renewal_info.cas_due(tx, [PRIMARY, "beta"]),
    "renewals to ask about": lambda tx, pair, row: renewal_info.due(tx, PRIMARY, 25),
    "forget renewal information": lambda tx, pair, row: renewal_info.forget(tx, pair.id, PRIMARY),
    "stop asking": lambda tx, pair, row: renewal_info.stop_asking(tx, 1),
    "predecessor": lambda tx, pair, row: renewal_info.replaceable(tx, 1),
    "name a predecessor": lambda tx, pair, row: renewal_info.set_replaces(tx, 1, "a.b"),
    "pairs covering": lambda tx, pair, row: pairs.covering(tx, "www.example.com"),
    "page of pairs": lambda tx, pair, row: pairs.page(tx, after="a"),
    "first page of pairs": lambda tx, pair, row: pairs.page(tx),
    "pair by name": lambda tx, pair, row: pairs.by_name(tx, "example.com"),
    "pair by names": lambda tx, pair, row: pairs.by_digest(tx, pair.names_digest),
    "pair by number": lambda tx, pair, row: pairs.by_id(tx, pair.id),
    "pair's lineages": lambda tx, pair, row: pairs.lineages(tx, [pair.id]),
    "pair's state": lambda tx, pair, row: pairs.state(tx, pair.id),
    "other names": lambda tx, pair, row: pairs.replace_names(tx, pair, [pair.names[0]]),
    "proof": lambda tx, pair, row: pairs.set_backup_ok(tx, pairs.state(tx, pair.id), tx.now),
    "renewal clock": lambda tx, pair, row: pairs.set_next_action(tx, pair.id, tx.now),
    "promotion": lambda tx, pair, row: promotion.swap(tx, pairs.state(tx, pair.id)),
    "usable": lambda tx, pair, row: promotion.usable(tx, [pair.id]),
    "standings": lambda tx, pair, row: certificates.standings(tx, [1, 2]),
    "new certificate": lambda tx, pair, row: a_certificate(tx, pair),
    "wrapped key": lambda tx, pair, row: certificates.wrapped(tx, b"spki"),
    "open order": lambda tx, pair, row: orders.open_order(tx, pair.id, PRIMARY),
    "last issuance": lambda tx, pair, row: orders.last_issuance(tx, pair.id),
    "unanswered orders": lambda tx, pair, row: orders.unanswered(tx, pair.id),
    "order's step": lambda tx, pair, row: orders.set_step(tx, 1, OrderStep.STORED),
    "order's records": lambda tx, pair, row: challenges.records(tx, order_id=1),
    "pair's records": lambda tx, pair, row: challenges.records(tx, pair_id=1, states=[RecordState.ADDED]),
    "values at a name": lambda tx, pair, row: challenges.values_at(tx, ["_acme-challenge.example.com"]),
    "waiting for a name": lambda tx, pair, row: challenges.waiting_at(tx, ["_acme-challenge.example.com"]),
    "spend": lambda tx, pair, row: challenges.spend(tx, an_order(tx, pair).id),
    "spend again": lambda tx, pair, row: challenges.spend_again(tx, [a_record(tx, pair)]),
    "forget": lambda tx, pair, row: challenges.forget(tx, [a_record(tx, pair)]),
    "remembered coverage": lambda tx, pair, row: certificates.also_covers(tx, 1, pair.names_digest),
    "block a key": lambda tx, pair, row: certificates.block_key(tx, b"spki", "a test"),
    "needed": lambda tx, pair, row: challenges.needed(tx, pair.id),
    "account": lambda tx, pair, row: accounts.get(tx, PRIMARY),
    "arrival": lambda tx, pair, row: deployments.arrived(tx, pair.id, "web", 0, 1),
    "verified": lambda tx, pair, row: deployments.verified(tx, pair.id, "web", 0, 1, How.WIRE),
    "verified in an epoch": lambda tx, pair, row: deployments.verified_in(tx, pair.id, 0),
    "others at a target": lambda tx, pair, row: deployments.replaced_there(tx, pair.id, "web", 1, 1),
    "others have left": lambda tx, pair, row: deployments.replaced_left(tx, pair.id, "web", 1, 1),
    "held": lambda tx, pair, row: deployments.is_held(tx, pair.id, "web", 1, 1, b""),
    "observe": lambda tx, pair, row: deployments.observe(tx, pair.id, "web", b"", How.WIRE),
    "observations": lambda tx, pair, row: deployments.observations(tx, [pair.id]),
    "want a revocation": lambda tx, pair, row: revocations.want(
        tx, 1, pair.id, Reason.SUPERSEDED, tx.now, unverified=False
    ),
    "wanted revocations": lambda tx, pair, row: revocations.wanted(tx, pair.id),
    "revoked": lambda tx, pair, row: revocations.revoked(tx, 1, "superseded", "a test"),
    "event": lambda tx, pair, row: events.record(tx, EventKind.STORED, "a test", pair=pair.id),
    "page of events": lambda tx, pair, row: events.page(tx, after=7),
    "page of a pair's events": lambda tx, pair, row: events.page(tx, pairs=[pair.id], after=7),
    "last event": lambda tx, pair, row: events.last(tx),
    "last promotion": lambda tx, pair, row: events.last_promotion(tx, pair.id),
    "last validation": lambda tx, pair, row: events.last_validation(tx, pair.id, PRIMARY),
    "a leaked key": lambda tx, pair, row: compromise.of_key(tx, b"spki"),
    "keys of a target": lambda tx, pair, row: compromise.at_target(tx, "web", None),
    "keys of a target since": lambda tx, pair, row: compromise.at_target(tx, "web", tx.now, tx.now),
    "keys of a domain": lambda tx, pair, row: compromise.in_domain(tx, "one", tx.now),
    "what a leak concerns": lambda tx, pair, row: compromise.held(tx, [1, 2]),
    "orders under a key": lambda tx, pair, row: compromise.attempts_with(tx, b"spki"),
    "orders under a domain's keys": lambda tx, pair, row: compromise.attempts_in(tx, "one", tx.now),
    "orders under some keys": lambda tx, pair, row: compromise._found(tx, [b"one", b"two"]),
    "an earlier leak": lambda tx, pair, row: compromise.last_told(tx, "isolation domain one"),
    "an earlier leak of a pair": lambda tx, pair, row: compromise.last_told(tx, "its key", pair.id),
    "a CA's standing": lambda tx, pair, row: standings.get(tx, PRIMARY),
    "last seal": lambda tx, pair, row: seals.last(tx),
    "page of seals": lambda tx, pair, row: seals.page(tx, 7),
    "another lineage": lambda tx, pair, row: moving.replace_lineage(
        tx, pairs.state(tx, pair.id), pairs.lineages(tx, [pair.id])[0], "gamma", "one"
    ),
    "end steps at a CA": lambda tx, pair, row: moving.end_steps(tx, pair.id, PRIMARY),
}


def is_lock(statement: str) -> bool:
    """A lock that has a name needs no plan."""
    return "pg_advisory" in statement


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_no_statement_goes_through_a_whole_table(store: Store, act: Act) -> None:
    with store.write() as tx:
        pair, _, _ = a_full_pair(tx, "example.com", "www.example.com")
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
        [row] = claims.claim(tx, "me", kinds=ALL, limit=1)
    with store.write() as tx:
        with overheard(tx) as said:
            act(tx, pair, row)
        assert said or act is ACTS["lock pairs"]  # which SQLite has no need of
        found = {statement: scans(tx, statement) for statement in said if not is_lock(statement)}
    assert {statement: lines for statement, lines in found.items() if lines} == {}


def test_the_plan_shows_a_scan_where_there_is_one(store: Store) -> None:
    with store.read() as tx:
        assert scans(tx, "SELECT * FROM pair WHERE dns = 'corp'")
        assert scans(tx, "SELECT name FROM pair ORDER BY name")


_IN_ORDER = {"claim", "claim but not to a target", "due pairs", "due renewals", "renewals to ask about"}


@pytest.mark.parametrize(
    ("act", "index"),
    [
        ("claim", "ix_work_due"),
        ("claim", "ix_work_turn"),
        ("next due", "ix_work_due"),
        ("next due", "ix_work_turn"),
        ("claim of a pair", "ux_work_subject"),
        ("claim but not to a target", "ix_work_due"),
        ("claim companions", "ix_work_target"),
        ("due renewals", "ix_pair_state_next_action_at"),
        ("CAs to ask", "ix_renewal_info_ca_check_at"),
        ("renewals to ask about", "ix_renewal_info_ca_check_at"),
        ("pairs covering", "ix_pair_name_reversed_name"),
        ("page of a pair's events", "ix_event_pair_id_id"),
        ("last promotion", "ix_event_pair_id_id"),
        ("a leaked key", "ix_certificate_spki"),
        ("keys of a target", "ix_deployment_target_arrived_at"),
        ("keys of a domain", "ix_wrapped_key_domain_key_id"),
        ("an earlier leak", "ix_event_pair_id_id"),
        ("an earlier leak of a pair", "ix_event_pair_id_id"),
    ],
)
def test_the_index_made_for_it_is_used(store: Store, act: str, index: str) -> None:
    with store.write() as tx:
        pair, _, _ = a_full_pair(tx, "example.com")
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
        [row] = claims.claim(tx, "me", kinds=ALL, limit=1)
        with overheard(tx) as said:
            ACTS[act](tx, pair, row)
        said = [statement for statement in said if not is_lock(statement)]
        found = (indexes(tx, statement, sorting=act not in _IN_ORDER) for statement in said)
        assert index in set[str]().union(*found)
        assert not any(sorts(tx, statement) for statement in said if act in _IN_ORDER)
