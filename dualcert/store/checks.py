"""What a look at the whole needs to know: samples, and what is late. Nothing here goes through an inventory but
``combinations``, which is asked for by a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, func, insert, not_, or_, select

from dualcert.model import names as naming
from dualcert.model.certificate import WrappedKey
from dualcert.model.order import RecordState
from dualcert.model.work import HELD, WorkKind
from dualcert.store import leases
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import database_now
from dualcert.store.incident_tables import signing_key
from dualcert.store.picked import there_is
from dualcert.store.statements import prepared
from dualcert.store.tables import (
    certificate,
    challenge_record,
    daemon,
    lineage,
    pair,
    pair_name,
    pair_state,
    pair_target,
    wrapped_key,
)
from dualcert.store.tables import work as work_table
from dualcert.store.transaction import Transaction
from dualcert.store.workrows import Queue

_LEASE = "check"


def try_writing(tx: Transaction, owner: str) -> None:
    """Write something for good that is nothing afterwards."""
    leases.take(tx, _LEASE, owner)
    leases.drop(tx, _LEASE, owner)


def database_clock(tx: Transaction) -> datetime:
    return instant(int(tx.execute(select(database_now)).scalar_one()))


# --- keys ------------------------------------------------------------------------------------------------


def sample_keys(tx: Transaction, domain: str, each: int) -> list[WrappedKey]:
    """Some certificates' wrapped keys of a domain, at most ``each`` for every KEK that any of them is wrapped under."""
    found: list[WrappedKey] = []
    key_id = ""
    while True:
        # From one KEK's id to the next by the index: a domain has millions of keys and two KEKs.
        following = select(func.min(wrapped_key.c.key_id)).where(
            wrapped_key.c.domain == domain, wrapped_key.c.key_id > key_id
        )
        key_id = tx.execute(following).scalar_one()
        if key_id is None:
            return found
        query = select(wrapped_key).where(
            wrapped_key.c.domain == domain,
            wrapped_key.c.key_id == key_id,
            ~there_is(signing_key.c.spki == wrapped_key.c.spki, beside=(wrapped_key,)),
        )
        found += [
            WrappedKey(row.spki, row.domain, row.key_id, row.wrapped) for row in tx.execute(query.limit(each))
        ]


# --- pairs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampled:
    """A pair, and the fingerprint of the certificate that should be served; None where nothing is issued yet."""

    id: int
    name: str
    names: tuple[str, ...]
    sha256: bytes | None


def sample_of_dns(tx: Transaction, dns: str, limit: int) -> list[Sampled]:
    """Some pairs that are validated through this DNS."""
    return _sampled(tx, select(pair.c.id).where(pair.c.dns == dns).order_by(pair.c.id.desc()).limit(limit))


def sample_at(tx: Transaction, target: str, limit: int) -> list[Sampled]:
    """Some pairs that are served from this target."""
    return _sampled(tx, select(pair_target.c.pair_id).where(pair_target.c.target == target).limit(limit))


def _sampled(tx: Transaction, chosen: Select[Any]) -> list[Sampled]:
    ids = list(tx.execute(chosen).scalars())
    names: dict[int, list[str]] = {}
    of_names = select(pair_name.c.pair_id, pair_name.c.reversed_name).where(pair_name.c.pair_id.in_(ids))
    for row in tx.execute(of_names.order_by(pair_name.c.pair_id, pair_name.c.position)):
        names.setdefault(row.pair_id, []).append(naming.reversed_name(row.reversed_name))
    query = (
        select(pair.c.id, pair.c.name, certificate.c.sha256)
        .select_from(pair)
        .join(pair_state, pair_state.c.pair_id == pair.c.id)
        .outerjoin(certificate, certificate.c.id == pair_state.c.serving)
        .where(pair.c.id.in_(ids))
    )
    found = [Sampled(row.id, row.name, tuple(names.get(row.id, ())), row.sha256) for row in tx.execute(query)]
    return sorted(found, key=lambda one: one.name)


def combinations(tx: Transaction) -> set[frozenset[str]]:
    """Which CAs stand behind one pair together."""
    one, other = lineage.alias(), lineage.alias()
    query = (
        select(one.c.ca, other.c.ca)
        .select_from(pair_state)
        .join(one, one.c.id == pair_state.c.primary_lineage)
        .join(other, other.c.id == pair_state.c.backup_lineage)
        .distinct()
    )
    return {frozenset(row) for row in tx.execute(query)}


# --- a value that is there for a moment ------------------------------------------------------------------


def remember_trial(tx: Transaction, pair_id: int, *, dns: str, zone: str, record: str, value: str) -> int:
    """Remember a TXT value, to be withdrawn from the beginning; its number."""
    row = {
        "order_id": 0,
        "pair_id": pair_id,
        "ca": "",
        "dns": dns,
        "zone": zone,
        "record": record,
        "value": value,
        "identifier": record,
        "authorization": "",
        "challenge": "",
        "state": RecordState.SPENT.value,
        "since": tx.at,
    }
    return int(tx.execute(insert(challenge_record).returning(challenge_record.c.id), row).scalar_one())


def forget_trial(tx: Transaction, number: int) -> None:
    tx.execute(challenge_record.delete().where(challenge_record.c.id == number))


# --- what is late ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Late:
    """A step of work; ``due_at`` is None while a person must act."""

    kind: WorkKind
    pair_id: int
    ca: str
    target: str
    due_at: datetime | None
    reason: str | None


def _late(row: Any) -> Late:
    return Late(WorkKind(row.kind), row.pair_id, row.ca, row.target, instant(row.due_at), row.reason)


@prepared
def _overdue() -> Select[Any]:
    return (
        select(work_table)
        .where(
            work_table.c.queue == bindparam("in_queue"),
            work_table.c.due_at <= bindparam("before"),
            not_(leases.is_held),
        )
        .order_by(work_table.c.due_at)
        .limit(bindparam("limit"))
    )


def overdue(tx: Transaction, before: datetime, limit: int) -> list[Late]:
    """Steps that were due before an instant and that nobody holds, the longest overdue first.

    Orders that wait for a permit in the queue of their CA are not late.
    """
    values = {"before": micros(before), "limit": limit}
    rows = [
        row for one in _WAIT_FOR_NOTHING for row in tx.execute(_overdue(), {**values, "in_queue": int(one)})
    ]
    return [_late(row) for row in sorted(rows, key=lambda row: row.due_at)[:limit]]


_WAIT_FOR_NOTHING = (Queue.NONE, Queue.ORDERS, Queue.UNCOUNTED)


def stuck(tx: Transaction, limit: int) -> list[Late]:
    """Steps that wait for a person. Refills that an incident holds are not among them: they wait for its end."""
    by_time = or_(work_table.c.queue == int(Queue.NONE), work_table.c.queue == int(Queue.ORDERS))
    not_held = work_table.c.waiting_for.is_distinct_from(HELD)
    query = select(work_table).where(by_time, work_table.c.due_at.is_(None), not_held).limit(limit)
    return [_late(row) for row in tx.execute(query)]


def renewals_overdue(tx: Transaction, before: datetime, limit: int) -> list[int]:
    """Pairs whose renewal clock ran out before an instant, and of which no order was opened since."""
    clock = pair_state.c.next_action_at
    query = select(pair_state.c.pair_id).where(clock <= micros(before)).order_by(clock).limit(limit)
    return [row.pair_id for row in tx.execute(query)]


@dataclass(frozen=True)
class Daemon:
    owner: str
    version: str
    started_at: datetime
    seen_at: datetime


def daemons(tx: Transaction) -> list[Daemon]:
    """Every daemon that has said that it runs, the one seen last first."""
    query = select(daemon).order_by(daemon.c.seen_at.desc())
    return [
        Daemon(row.owner, row.version, instant(row.started_at), instant(row.seen_at))
        for row in tx.execute(query)
    ]
