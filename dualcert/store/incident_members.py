"""Naming certificates in an incident, batch by batch, each a unit of work.

What is meant is put into ``matched`` first, however it is found; from there it becomes members, in the order of the
certificates' numbers. Serials, keys and names of a file come in no order: a million of them would be a million looks at
distant places of the disk. So the pairs are looked at afterwards, by ``mistrust``, in the order of the certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Insert,
    Select,
    Update,
    and_,
    bindparam,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from dualcert.model.names import covering, reversed_name
from dualcert.store import batches
from dualcert.store.batches import incoming, matched
from dualcert.store.columns import micros
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import incident_member, incident_stray
from dualcert.store.incidents import room_for_strays
from dualcert.store.statements import Prepared, prepared
from dualcert.store.tables import certificate, pair_name, pair_state
from dualcert.store.transaction import Transaction


def add_certificates(tx: Transaction, incident_id: int, ids: Iterable[int]) -> int:
    """Name certificates by their numbers, at most some 10,000 at once, and count on none of them as a backup any more;
    how many were not named before."""
    batches.clear(tx)
    batches.load(tx, ["number"], ((number,) for number in sorted(set(ids))))
    batches.by_index(tx)
    tx.execute(_match_numbers())
    found = _take_matched(tx, incident_id)
    _mistrust_matched(tx)
    return found


@prepared
def _match_numbers() -> Insert:
    found = select(certificate.c.id, certificate.c.pair_id).join_from(
        incoming, certificate, certificate.c.id == incoming.c.number
    )
    return insert(matched).from_select(["certificate_id", "pair_id"], found)


def add_serials(
    tx: Transaction,
    incident_id: int,
    serials: Sequence[tuple[int, bytes]],
    *,
    issuer_hash: bytes | None = None,
    ca: str | None = None,
    issuer: str | None = None,
) -> tuple[int, int]:
    """Name certificates by (line, serial), at most some 10,000 at once: how many are ours, and how many are not.

    A serial says nothing without who gave it: the hash of the issuer's name, the CA, or the issuer as ``issued_by``
    takes it. What is not ours is remembered with its line.
    """
    once = {serial: line for line, serial in reversed(serials)}
    batches.clear(tx)
    rows = [(line, serial, issuer_hash) for serial, line in sorted(once.items())]
    batches.load(tx, ["line", "hash", "issuer_hash"], rows)
    batches.by_index(tx)
    values = {**_issuer_values(issuer), **({} if ca is None else {"ca": ca})}
    form: dict[str, Any] = {"ca": ca is not None, "issuer": _form(issuer), "hashed": issuer_hash is not None}
    tx.execute(_match_serials(**form), values)
    _take_matched(tx, incident_id)
    known = int(tx.execute(_known_serials()).scalar_one())
    if known < len(once):
        _keep_strays(tx, incident_id, min(once.values()), _unmatched(**form), values)
    return known, len(once) - known


@prepared
def _known_serials() -> Select[Any]:
    return select(func.count(func.distinct(matched.c.line)))


def _serial_is(*, ca: bool, issuer: str | None, hashed: bool) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = [certificate.c.serial == incoming.c.hash]
    if hashed:
        conditions.append(certificate.c.issuer_hash == incoming.c.issuer_hash)
    if ca:
        conditions.append(certificate.c.ca == bindparam("ca"))
    if issuer is not None:
        conditions.append(_issued_by(issuer))
    return and_(*conditions)


@prepared
def _match_serials(*, ca: bool, issuer: str | None, hashed: bool) -> Insert:
    found = select(certificate.c.id, certificate.c.pair_id, incoming.c.line).join_from(
        incoming, certificate, _serial_is(ca=ca, issuer=issuer, hashed=hashed)
    )
    return insert(matched).from_select(["certificate_id", "pair_id", "line"], found)


@prepared
def _unmatched(*, ca: bool, issuer: str | None, hashed: bool) -> Insert:
    ours = exists().where(_serial_is(ca=ca, issuer=issuer, hashed=hashed)).correlate(incoming)
    found = (
        select(bindparam("of_incident"), incoming.c.line, incoming.c.hash)
        .where(~ours)
        .order_by(incoming.c.line)
        .limit(bindparam("most"))
    )
    statement = upsert(incident_stray).from_select(["incident_id", "line", "serial"], found)
    return statement.on_conflict_do_nothing()


def _keep_strays(
    tx: Transaction, incident_id: int, first: int, unmatched: Prepared, values: dict[str, Any]
) -> None:
    if room := room_for_strays(tx, incident_id, first):
        tx.execute(unmatched, {**values, "of_incident": incident_id, "most": room})


# An issuer is told by its whole name, by its common name, or by the SHA-256 of its key or of its name.
def _form(issuer: str | None) -> str | None:
    return None if issuer is None else "hash" if _is_hash(issuer) else "name"


def _is_hash(issuer: str) -> bool:
    word = issuer.replace(":", "")
    return len(word) == 64 and all(letter in "0123456789abcdefABCDEF" for letter in word)


def _issuer_values(issuer: str | None) -> dict[str, Any]:
    if issuer is None:
        return {}
    if _is_hash(issuer):
        return {"issuer": bytes.fromhex(issuer.replace(":", ""))}
    bare = issuer if issuer.startswith("CN=") else f"CN={issuer}"
    return {"issuer": issuer, "common": bare, "from": f"{bare},"}


def _issued_by(form: str) -> ColumnElement[bool]:
    if form == "hash":
        word: BindParameter[bytes] = bindparam("issuer")
        return or_(certificate.c.issuing_key == word, certificate.c.issuer_hash == word)
    return or_(
        certificate.c.issuer == bindparam("issuer"),
        certificate.c.issuer == bindparam("common"),
        func.substr(certificate.c.issuer, 1, func.length(bindparam("from"))) == bindparam("from"),
    )


def add_issued(
    tx: Transaction,
    incident_id: int,
    after: int,
    up_to: int,
    *,
    ca: str | None = None,
    issuer: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Name all certificates of a CA, or of an issuer, that have not expired, among those with numbers above ``after``
    up to ``up_to``; ``since`` and ``until`` bound their notBefore."""
    batches.clear(tx)
    form = _form(issuer)
    statement = _match_issued(
        ca=ca is not None, issuer=form, since=since is not None, until=until is not None
    )
    values: dict[str, Any] = {"after": after, "up_to": up_to, "at": tx.at, **_issuer_values(issuer)}
    values |= {
        name: value
        for name, value in (("ca", ca), ("since", micros(since)), ("until", micros(until)))
        if value is not None
    }
    tx.execute(statement, values)
    return _take_matched(tx, incident_id)


@prepared
def _match_issued(*, ca: bool, issuer: str | None, since: bool, until: bool) -> Insert:
    conditions = [
        certificate.c.id > bindparam("after"),
        certificate.c.id <= bindparam("up_to"),
        certificate.c.not_after > bindparam("at"),
    ]
    if ca:
        conditions.append(certificate.c.ca == bindparam("ca"))
    if issuer is not None:
        conditions.append(_issued_by(issuer))
    if since:
        conditions.append(certificate.c.not_before >= bindparam("since"))
    if until:
        conditions.append(certificate.c.not_before <= bindparam("until"))
    found = select(certificate.c.id, certificate.c.pair_id).where(*conditions)
    return insert(matched).from_select(["certificate_id", "pair_id"], found)


def last_certificate(tx: Transaction) -> int:
    """The highest number of a certificate; 0 where there is none."""
    return int(tx.execute(select(func.coalesce(func.max(certificate.c.id), 0))).scalar_one())


def add_keys(tx: Transaction, incident_id: int, keys: Sequence[tuple[int, bytes]]) -> tuple[int, int]:
    """Name the certificates of public keys, by (line, SHA-256 of the SubjectPublicKeyInfo); as ``add_serials``."""
    once = {key: line for line, key in reversed(keys)}
    batches.clear(tx)
    batches.load(tx, ["line", "hash"], [(line, key) for key, line in sorted(once.items())])
    batches.by_index(tx)
    tx.execute(_match_keys())
    known = int(tx.execute(select(func.count()).select_from(matched)).scalar_one())
    _take_matched(tx, incident_id)
    return known, len(once) - known


@prepared
def _match_keys() -> Insert:
    found = select(certificate.c.id, certificate.c.pair_id).join_from(
        incoming, certificate, certificate.c.spki == incoming.c.hash
    )
    return insert(matched).from_select(["certificate_id", "pair_id"], found)


def add_names(
    tx: Transaction, incident_id: int, names: Sequence[tuple[int, str]], *, ca: str | None
) -> tuple[int, int]:
    """Name what is there for names, by (line, name): a CA's certificates of the pairs that have such a name, as far as
    they are in use; without a CA, the ones that serve. Where no pair has a name, the wildcard beside it stands for it.
    How many of the names are ours, and how many are not."""
    once = {name: line for line, name in reversed(names)}
    missing = _add_names(tx, incident_id, once, ca)
    beside: dict[str, list[str]] = {}
    for name in missing:
        for wildcard in covering(name)[1:]:
            beside.setdefault(wildcard, []).append(name)
    if beside:
        nowhere = _add_names(tx, incident_id, {one: once[some[0]] for one, some in beside.items()}, ca)
        by_wildcard = [name for one, some in beside.items() if one not in nowhere for name in some]
        missing -= set(by_wildcard)
    return len(once) - len(missing), len(missing)


def _add_names(tx: Transaction, incident_id: int, lines: Mapping[str, int], ca: str | None) -> set[str]:
    """The same of names alone, by their lines; those that no pair has are returned."""
    words = {reversed_name(name): name for name in lines}
    batches.clear(tx)
    batches.load(tx, ["line", "word"], [(lines[name], word) for word, name in sorted(words.items())])
    batches.by_index(tx)
    tx.execute(_match_names(of_ca=ca is not None), {} if ca is None else {"ca": ca})
    unknown = {words[row.word] for row in tx.execute(_unknown_names())}
    _take_matched(tx, incident_id)
    return unknown


@prepared
def _unknown_names() -> Select[Any]:
    held = exists().where(pair_name.c.reversed_name == incoming.c.word)
    return select(incoming.c.word).where(~held)


@prepared
def _match_names(*, of_ca: bool) -> Insert:
    in_use = certificate.c.id == pair_state.c.serving
    if of_ca:
        in_use = and_(
            or_(in_use, certificate.c.id == pair_state.c.standby), certificate.c.ca == bindparam("ca")
        )
    found = (
        select(certificate.c.id, certificate.c.pair_id)
        .distinct()
        .select_from(incoming)
        .join(pair_name, pair_name.c.reversed_name == incoming.c.word)
        .join(pair_state, pair_state.c.pair_id == pair_name.c.pair_id)
        .join(certificate, in_use)
    )
    return insert(matched).from_select(["certificate_id", "pair_id"], found)


# --- what is matched becomes members ---------------------------------------------------------------------


@prepared
def _members(*, alone: bool) -> Insert:
    found = (
        select(matched.c.certificate_id, bindparam("of_incident"), matched.c.pair_id)
        .where(matched.c.certificate_id.is_not(None))
        .order_by(matched.c.certificate_id)
    )
    statement = upsert(incident_member).from_select(["certificate_id", "incident_id", "pair_id"], found)
    return statement if alone else statement.on_conflict_do_nothing()


def _take_matched(tx: Transaction, incident_id: int) -> int:
    return batches.add(tx, _members, {"of_incident": incident_id})


# --- what is named is no backup --------------------------------------------------------------------------


def mistrust(tx: Transaction, incident_id: int, after: int, up_to: int) -> None:
    """No pair counts on a batch of the members as its backup any more; the bounds are certificates' numbers."""
    batches.clear(tx)
    batches.by_index(tx)
    tx.execute(_match_members(), {"of_incident": incident_id, "after": after, "up_to": up_to})
    _mistrust_matched(tx)


@prepared
def _match_members() -> Insert:
    of = incident_member.c
    found = (
        select(of.certificate_id, of.pair_id)
        .where(
            of.incident_id == bindparam("of_incident"),
            of.certificate_id > bindparam("after"),
            of.certificate_id <= bindparam("up_to"),
        )
        .order_by(of.certificate_id)
    )
    return insert(matched).from_select(["certificate_id", "pair_id"], found)


def _standing_by() -> ColumnElement[bool]:
    # As a join: looked for by two INs, each pair would be compared with all that is matched.
    return and_(
        pair_state.c.pair_id == matched.c.pair_id,
        pair_state.c.standby == matched.c.certificate_id,
        pair_state.c.backup_ok_until.is_not(None),
    )


@prepared
def _lock_standing_by() -> Select[Any]:
    rows = (
        select(pair_state.c.pair_id)
        .join_from(matched, pair_state, _standing_by())
        .order_by(pair_state.c.pair_id)
        .with_for_update(of=pair_state)
    )
    return select(func.count()).select_from(rows.subquery())


@prepared
def _not_usable() -> Update:
    return update(pair_state).where(_standing_by()).values(backup_ok_until=None)


def _mistrust_matched(tx: Transaction) -> None:
    if not tx.others_write or tx.execute(_lock_standing_by()).scalar():
        tx.execute(_not_usable())
