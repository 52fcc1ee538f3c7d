"""Pairs that are changed or ended, and what is left of those that were."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from dualcert.model.order import OPEN_STEPS, OrderStep, RecordState
from dualcert.model.pair import KeyType, Pair, PairState
from dualcert.model.work import WorkKind
from dualcert.store import counters, watching
from dualcert.store.columns import instant
from dualcert.store.statements import is_one_of, prepared
from dualcert.store.tables import (
    acme_order,
    challenge_record,
    deployment,
    former_pair,
    lineage,
    observation,
    pair,
    pair_name,
    pair_state,
    pair_target,
    renewal_info,
    work,
)
from dualcert.store.transaction import Transaction

_AFTERWARDS = (WorkKind.WITHDRAWAL, WorkKind.REVOCATION, WorkKind.REMOVAL)
"""Steps that go on when their pair has been ended."""


@dataclass(frozen=True)
class Former:
    """A pair that was ended. ``serving`` and ``standby`` are the certificates that it had then."""

    pair_id: int
    name: str
    names: tuple[str, ...]
    epoch: int
    serving: int | None
    standby: int | None
    removed_at: datetime

    @property
    def certificates(self) -> tuple[int, ...]:
        return tuple(number for number in (self.serving, self.standby) if number is not None)


def _former(row: Any) -> Former:
    return Former(
        pair_id=row.pair_id,
        name=row.name,
        names=tuple(row.names.split("\n")),
        epoch=row.epoch,
        serving=row.serving,
        standby=row.standby,
        removed_at=instant(row.removed_at),
    )


@prepared
def _by_name() -> Select[Any]:
    return select(former_pair).where(former_pair.c.name == bindparam("name"))


def formers(tx: Transaction, name: str) -> list[Former]:
    """The pairs that had this name once, the last one first."""
    found = [_former(row) for row in tx.execute(_by_name(), {"name": name})]
    return sorted(found, key=lambda one: one.pair_id, reverse=True)


@prepared
def _by_id() -> Select[Any]:
    return select(former_pair).where(former_pair.c.pair_id == bindparam("pair_id"))


def former(tx: Transaction, pair_id: int) -> Former | None:
    row = tx.execute(_by_id(), {"pair_id": pair_id}).first()
    return _former(row) if row else None


# --- ending a pair ---------------------------------------------------------------------------------------


@prepared
def _remember() -> Insert:
    return insert(former_pair).inline()


def end(tx: Transaction, subject: Pair, state: PairState) -> Former:
    """The pair is no more: its name is free, nothing of it is due, its orders are given up.

    What stays is what happened, certificates and keys, and the values that are still to be withdrawn.
    """
    row = {
        "pair_id": subject.id,
        "name": subject.name,
        "names": "\n".join(subject.names),
        "epoch": state.epoch,
        "serving": state.serving,
        "standby": state.standby,
        "removed_at": tx.at,
    }
    tx.execute(_remember(), row)
    tx.execute(_retire(), {"of_pair": subject.id, "retired_at": tx.at})
    tx.execute(
        _abandon(),
        {"of_pair": subject.id, "step": OrderStep.ABANDONED.value, "error": "the pair was removed"},
    )
    tx.execute(_spend(), {"of_pair": subject.id, "state": RecordState.SPENT.value, "since": tx.at})
    tx.execute(_end_work(), {"of_pair": subject.id})
    tx.execute(_drop(pair, "id"), {"of_pair": subject.id})
    for table in (pair_name, pair_target, pair_state, observation, renewal_info):
        tx.execute(_drop(table), {"of_pair": subject.id})
    for held in (state.serving, state.standby):
        if held is not None:
            watching.unwatch(tx, held)
    counters.add(tx, counters.PAIRS, -1)
    return Former(subject.id, subject.name, subject.names, state.epoch, state.serving, state.standby, tx.now)


@prepared
def _retire() -> Update:
    return update(lineage).where(lineage.c.pair_id == bindparam("of_pair"), lineage.c.retired_at.is_(None))


@prepared
def _abandon() -> Update:
    is_open = is_one_of(acme_order.c.step, [step.value for step in OPEN_STEPS])
    return update(acme_order).where(acme_order.c.pair_id == bindparam("of_pair"), is_open)


@prepared
def _spend() -> Update:
    return update(challenge_record).where(challenge_record.c.pair_id == bindparam("of_pair"))


@prepared
def _end_work() -> Delete:
    goes_on = is_one_of(work.c.kind, [kind.value for kind in _AFTERWARDS])
    return delete(work).where(work.c.pair_id == bindparam("of_pair"), ~goes_on)


@prepared
def _drop(table: Table, column: str = "pair_id") -> Delete:
    return delete(table).where(table.c[column] == bindparam("of_pair"))


# --- targets ---------------------------------------------------------------------------------------------


@prepared
def _leave() -> Update:
    here = (deployment.c.pair_id == bindparam("of_pair"), deployment.c.target == bindparam("of_target"))
    return update(deployment).where(*here, deployment.c.left_at.is_(None))


def left(tx: Transaction, pair_id: int, target: str) -> None:
    """Nothing of the pair is at the target any more."""
    here = {"of_pair": pair_id, "of_target": target}
    tx.execute(_leave(), {**here, "left_at": tx.at})
    tx.execute(_forget(observation), here)


@prepared
def _forget(table: Table) -> Delete:
    return delete(table).where(
        table.c.pair_id == bindparam("of_pair"), table.c.target == bindparam("of_target")
    )


@prepared
def _leaving() -> Select[Any]:
    return select(work.c.target).where(
        work.c.pair_id == bindparam("pair_id"), work.c.kind == WorkKind.REMOVAL.value
    )


def leaving(tx: Transaction, pair_id: int) -> list[str]:
    """The targets that the pair is being removed from."""
    return sorted(row.target for row in tx.execute(_leaving(), {"pair_id": pair_id}))


def end_steps(tx: Transaction, pair_id: int, target: str, kinds: Collection[WorkKind]) -> None:
    """Steps of a pair at a target have no purpose any more; whoever holds one finds its lease lost."""
    for kind in kinds:
        tx.execute(_end_step(), {"of_pair": pair_id, "of_target": target, "of_kind": kind.value})


@prepared
def _end_step() -> Delete:
    return delete(work).where(
        work.c.pair_id == bindparam("of_pair"),
        work.c.kind == bindparam("of_kind"),
        work.c.target == bindparam("of_target"),
    )


# --- changing a pair -------------------------------------------------------------------------------------


def set_targets(tx: Transaction, pair_id: int, targets: Collection[str]) -> None:
    tx.execute(_drop(pair_target), {"of_pair": pair_id})
    if targets:
        tx.execute(insert(pair_target), [{"pair_id": pair_id, "target": target} for target in targets])


def set_policy(tx: Transaction, pair_id: int, *, dns: str, key_type: KeyType) -> None:
    """What the pair's next orders go by."""
    tx.execute(update(pair).where(pair.c.id == pair_id).values(dns=dns, key_type=key_type.value))


def continue_epochs(tx: Transaction, pair_id: int, epoch: int) -> None:
    """Begin a new pair's epochs behind those of one that had its name: what comes late from there is older."""
    tx.execute(update(pair_state).where(pair_state.c.pair_id == pair_id).values(epoch=epoch))


def values_left(tx: Transaction, pair_id: int) -> bool:
    """Whether TXT values of the pair are still to be withdrawn."""
    found: ColumnElement[bool] = challenge_record.c.pair_id == pair_id
    return tx.execute(select(challenge_record.c.id).where(found)).first() is not None
