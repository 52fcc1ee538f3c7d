"""Pairs, their lineages, and the narrow row that says which certificate holds which role."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Insert,
    Integer,
    LargeBinary,
    Select,
    Update,
    bindparam,
    exists,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from dualcert.errors import UsageProblem
from dualcert.model import names as naming
from dualcert.model.pair import KeyType, Lineage, Pair, PairState
from dualcert.store import counters
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import upsert
from dualcert.store.statements import for_ids, is_among, prepared
from dualcert.store.tables import (
    certificate,
    coverage,
    former_pair,
    lineage,
    pair,
    pair_name,
    pair_state,
    pair_target,
)
from dualcert.store.transaction import Transaction

_NAMES_AT_ONCE = 1000


def create(
    tx: Transaction,
    *,
    name: str,
    names: Sequence[str],
    key_type: KeyType,
    dns: str,
    targets: Sequence[str],
    first_wait: int,
    lineages: tuple[tuple[str, str], tuple[str, str]],
) -> Pair:
    """Insert a pair with its two open lineages, (CA, isolation domain) of the primary first."""
    digest = naming.digest(names)
    values = {
        "name": name,
        "names_digest": digest,
        "key_type": key_type.value,
        "dns": dns,
        "first_wait": first_wait,
        "created_at": tx.at,
    }
    pair_id = int(tx.execute(_insert_pair(), values).scalar_one())
    _insert_names(tx, pair_id, names)
    if targets:
        tx.execute(insert(pair_target), [{"pair_id": pair_id, "target": target} for target in targets])
    opened = {"pair_id": pair_id, "opened_at": tx.at}
    primary, backup = (
        int(tx.execute(_insert_lineage(), {**opened, "ca": ca, "domain": domain}).scalar_one())
        for ca, domain in lineages
    )
    roles = {"primary_lineage": primary, "backup_lineage": backup}
    tx.execute(_insert_state(), {"pair_id": pair_id, "epoch": 0, **roles})
    counters.add(tx, counters.PAIRS, 1)
    return Pair(
        pair_id, name, tuple(names), digest, key_type, dns, tuple(sorted(targets)), first_wait, tx.now
    )


@prepared
def _insert_pair() -> ReturningInsert[Any]:
    return insert(pair).returning(pair.c.id)


@prepared
def _insert_lineage() -> ReturningInsert[Any]:
    return insert(lineage).returning(lineage.c.id)


@prepared
def _insert_state() -> Insert:
    return insert(pair_state).inline()


@prepared
def _insert_name() -> Insert:
    return insert(pair_name).inline()


def _insert_names(tx: Transaction, pair_id: int, names: Sequence[str]) -> None:
    for position, name in enumerate(names):
        values = {"pair_id": pair_id, "position": position, "reversed_name": naming.reversed_name(name)}
        tx.execute(_insert_name(), values)


def replace_names(tx: Transaction, subject: Pair, names: Sequence[str]) -> None:
    """Give a pair other names. Certificates that cover the new ones too go on counting for it."""
    digest = naming.digest(names)
    tx.execute(pair_name.delete().where(pair_name.c.pair_id == subject.id))
    _insert_names(tx, subject.id, names)
    tx.execute(update(pair).where(pair.c.id == subject.id).values(names_digest=digest))
    if naming.covers(subject.names, names):
        counted = exists().where(
            coverage.c.certificate_id == certificate.c.id, coverage.c.names_digest == subject.names_digest
        )
        held = select(certificate.c.id, literal(digest, LargeBinary)).where(
            certificate.c.pair_id == subject.id,
            or_(certificate.c.names_digest == subject.names_digest, counted),
        )
        tx.execute(
            upsert(coverage).from_select(["certificate_id", "names_digest"], held).on_conflict_do_nothing()
        )


@prepared
def _names_and_targets(*, one: bool) -> CompoundSelect[Any]:
    """Both in one statement, told apart by a position, which targets have none of."""
    names = select(pair_name.c.pair_id, pair_name.c.position, pair_name.c.reversed_name.label("text"))
    targets = select(pair_target.c.pair_id, literal(None, Integer), pair_target.c.target)
    return names.where(is_among(pair_name.c.pair_id, one=one)).union_all(
        targets.where(is_among(pair_target.c.pair_id, one=one))
    )


def _assemble(tx: Transaction, rows: Sequence[Any]) -> list[Pair]:
    names: dict[int, list[tuple[int, str]]] = {}
    targets: dict[int, list[str]] = {}
    if rows:
        for one in tx.execute(*for_ids(_names_and_targets, [row.id for row in rows])):
            if one.position is None:
                targets.setdefault(one.pair_id, []).append(one.text)
            else:
                names.setdefault(one.pair_id, []).append((one.position, naming.reversed_name(one.text)))
    return [
        Pair(
            id=row.id,
            name=row.name,
            names=tuple(name for _, name in sorted(names.get(row.id, ()))),
            names_digest=row.names_digest,
            key_type=KeyType(row.key_type),
            dns=row.dns,
            targets=tuple(sorted(targets.get(row.id, ()))),
            first_wait=row.first_wait,
            created_at=instant(row.created_at),
        )
        for row in rows
    ]


def today(tx: Transaction, known: Pair) -> Pair:
    """The same pair with the names and targets that it has now; as it was known where it is gone."""
    found = tx.execute(*for_ids(_names_and_targets, [known.id])).all()
    names = sorted((one.position, one.text) for one in found if one.position is not None)
    if not names:
        return known
    plain = tuple(naming.reversed_name(text) for _, text in names)
    digest = known.names_digest if plain == known.names else naming.digest(plain)
    targets = tuple(sorted(one.text for one in found if one.position is None))
    return replace(known, names=plain, names_digest=digest, targets=targets)


@prepared
def _by_ids(*, one: bool) -> Select[Any]:
    return select(pair).where(is_among(pair.c.id, one=one))


def by_ids(tx: Transaction, ids: Collection[int]) -> list[Pair]:
    return _assemble(tx, tx.execute(*for_ids(_by_ids, ids)).all())


def by_id(tx: Transaction, pair_id: int) -> Pair | None:
    return next(iter(by_ids(tx, [pair_id])), None)


@prepared
def _by_name() -> Select[Any]:
    return select(pair).where(pair.c.name == bindparam("name"))


@prepared
def _by_digest() -> Select[Any]:
    return select(pair).where(pair.c.names_digest == bindparam("digest"))


def by_name(tx: Transaction, name: str) -> Pair | None:
    return next(iter(_assemble(tx, tx.execute(_by_name(), {"name": name}).all())), None)


def by_digest(tx: Transaction, digest: bytes) -> Pair | None:
    return next(iter(_assemble(tx, tx.execute(_by_digest(), {"digest": digest}).all())), None)


def covering(tx: Transaction, name: str) -> list[Pair]:
    """The pairs whose names cover ``name``, by their own names' order."""
    wanted = [naming.reversed_name(candidate) for candidate in naming.covering(name)]
    ids = select(pair_name.c.pair_id).where(pair_name.c.reversed_name.in_(wanted))
    return _assemble(tx, tx.execute(select(pair).where(pair.c.id.in_(ids)).order_by(pair.c.name)).all())


def page(tx: Transaction, *, after: str = "", limit: int = 500) -> list[Pair]:
    """Pairs in the order of their names, from the one after ``after``."""
    query = select(pair).where(pair.c.name > after).order_by(pair.c.name).limit(limit)
    return _assemble(tx, tx.execute(query).all())


def names_of(tx: Transaction, ids: Collection[int]) -> dict[int, str]:
    """Of pairs that were ended, too."""
    found: dict[int, str] = {}
    rest = iter(ids)
    while some := list(islice(rest, _NAMES_AT_ONCE)):
        now = select(pair.c.id, pair.c.name).where(pair.c.id.in_(some))
        before = select(former_pair.c.pair_id, former_pair.c.name).where(former_pair.c.pair_id.in_(some))
        found |= {row.id: row.name for row in tx.execute(now.union_all(before))}
    return found


def removed(tx: Transaction, ids: Collection[int]) -> set[int]:
    """Those of the pairs that were ended."""
    found: set[int] = set()
    rest = iter(ids)
    while some := list(islice(rest, _NAMES_AT_ONCE)):
        query = select(former_pair.c.pair_id).where(former_pair.c.pair_id.in_(some))
        found.update(tx.execute(query).scalars())
    return found


def _lineage(row: Any) -> Lineage:
    return Lineage(
        id=row.id,
        pair_id=row.pair_id,
        ca=row.ca,
        domain=row.domain,
        opened_at=instant(row.opened_at),
        retired_at=instant(row.retired_at),
        renew_at=instant(row.renew_at),
    )


@prepared
def _lineages(*, one: bool) -> Select[Any]:
    query = select(lineage).where(is_among(lineage.c.pair_id, one=one), lineage.c.retired_at.is_(None))
    return query.order_by(lineage.c.id)


def lineages(tx: Transaction, ids: Collection[int]) -> list[Lineage]:
    """The open lineages of some pairs."""
    return [_lineage(row) for row in tx.execute(*for_ids(_lineages, ids))]


def lineage_at(tx: Transaction, pair_id: int, ca: str) -> Lineage | None:
    return next((one for one in lineages(tx, [pair_id]) if one.ca == ca), None)


@prepared
def _lock(*, one: bool) -> Select[Any]:
    query = select(pair_state.c.pair_id).where(is_among(pair_state.c.pair_id, one=one))
    return query.order_by(pair_state.c.pair_id).with_for_update()


def lock(tx: Transaction, ids: Collection[int]) -> None:
    """No other unit of work decides anything for these pairs before this one has ended.

    Taken before anything is read that the unit goes by, and before any other row of theirs is written: who holds a
    pair may wait for its rows, who holds only rows waits for no pair.
    """
    if ids and tx.others_write:
        tx.execute(*for_ids(_lock, ids)).all()


def reserve(tx: Transaction, name: str, digest: bytes) -> None:
    """No other unit of work makes, ends or renames a pair of this name, or one with this set of names, meanwhile."""
    tx.alone(f"pair {name}", f"names {digest.hex()}")


def _state(row: Any) -> PairState:
    return PairState(
        pair_id=row.pair_id,
        epoch=row.epoch,
        serving=row.serving,
        standby=row.standby,
        primary_lineage=row.primary_lineage,
        backup_lineage=row.backup_lineage,
        backup_ok_until=instant(row.backup_ok_until),
        next_action_at=instant(row.next_action_at),
    )


@prepared
def _states(*, one: bool) -> Select[Any]:
    return select(pair_state).where(is_among(pair_state.c.pair_id, one=one))


def states(tx: Transaction, ids: Collection[int]) -> dict[int, PairState]:
    return {row.pair_id: _state(row) for row in tx.execute(*for_ids(_states, ids))}


def state(tx: Transaction, pair_id: int) -> PairState:
    """Raises ``UsageProblem`` where the pair is gone."""
    row = tx.execute(*for_ids(_states, [pair_id])).first()
    if row is None:
        raise UsageProblem("the pair was removed meanwhile", remedy="See what there is: dualcert list")
    return _state(row)


def put_certificate(
    tx: Transaction, seen: PairState, lineage_id: int, certificate_id: int, backup_ok_until: datetime
) -> bool:
    """Make a certificate that has arrived the current one of its lineage, in the role that lineage has now.

    False where the row is not as ``seen`` any more: read again and decide again.
    """
    if lineage_id == seen.primary_lineage:
        change: dict[str, Any] = {"serving": certificate_id}
    else:
        change = {"standby": certificate_id, "backup_ok_until": micros(backup_ok_until)}
    return _change(tx, seen, change)


def set_backup_ok(tx: Transaction, seen: PairState, until: datetime | None) -> bool:
    return _change(tx, seen, {"backup_ok_until": micros(until)})


def _change(tx: Transaction, seen: PairState, values: dict[str, Any]) -> bool:
    return tx.execute(_update_as_seen(), {**seen_values(seen), **values}).rowcount == 1


@prepared
def _update_as_seen() -> Update:
    return update(pair_state).where(*as_seen())


def as_seen() -> tuple[ColumnElement[bool], ...]:
    """The comparison that guards every write of a pair's state: epoch, serving and standby are as they were read.

    What they are compared with is given when the statement is carried out, by ``seen_values``.
    """
    return (
        pair_state.c.pair_id == bindparam("seen_pair"),
        pair_state.c.epoch == bindparam("seen_epoch"),
        pair_state.c.serving.is_not_distinct_from(bindparam("seen_serving")),
        pair_state.c.standby.is_not_distinct_from(bindparam("seen_standby")),
    )


def seen_values(seen: PairState) -> dict[str, Any]:
    return {
        "seen_pair": seen.pair_id,
        "seen_epoch": seen.epoch,
        "seen_serving": seen.serving,
        "seen_standby": seen.standby,
    }


@prepared
def _set_renew_at() -> Update:
    return update(lineage).where(lineage.c.id == bindparam("lineage_id"))


def set_renew_at(tx: Transaction, lineage_id: int, at: datetime | None) -> None:
    tx.execute(_set_renew_at(), {"lineage_id": lineage_id, "renew_at": micros(at)})


@prepared
def _set_next_action() -> Update:
    return update(pair_state).where(pair_state.c.pair_id == bindparam("of_pair"))


def set_next_action(tx: Transaction, pair_id: int, at: datetime | None) -> None:
    """Set the renewal clock of a pair; None where nothing is to come by itself."""
    tx.execute(_set_next_action(), {"of_pair": pair_id, "next_action_at": micros(at)})
