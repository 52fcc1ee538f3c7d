"""Under which KEK keys lie, and when they go."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from dualcert.model.certificate import WrappedKey
from dualcert.model.order import OrderStep
from dualcert.model.signal import Reason
from dualcert.store import Store, Transaction, accounts, certificates, keys, orders, revocations
from dualcert.store.accounts import StoredAccount
from dualcert.store.tables import account, public_key, wrapped_key
from dualcert.testing.clock import FakeClock
from tests.store import databaseclock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_pair, an_order, fresh_hash


@pytest.fixture
def store(store: Store, clock: FakeClock) -> Store:
    """The database goes by the clock that a test moves."""
    databaseclock.follow(store, clock)
    return store


def under(tx: Transaction, kek: str, number: int = 1, ca: str = PRIMARY) -> list[bytes]:
    """Public keys of new orders whose private keys lie under a KEK."""
    found = [an_order(tx, a_pair(tx), ca).spki for _ in range(number)]
    tx.execute(update(wrapped_key).where(wrapped_key.c.spki.in_(found)).values(key_id=kek))
    return found


def an_account(tx: Transaction, ca: str, kek: str, coming: str | None = None) -> None:
    key = WrappedKey(fresh_hash(), "one", kek, b"an account key")
    accounts.create_or_get(tx, StoredAccount(ca, f"https://{ca}/dir", key, None, frozenset()))
    if coming is not None:
        following = {"next_spki": fresh_hash(), "next_key_id": coming, "next_wrapped": b"the next one"}
        tx.execute(update(account).where(account.c.ca == ca).values(**following))


# --- under which KEK --------------------------------------------------------------------------------------


def test_the_keks_of_a_domain_are_those_of_its_certificates_and_accounts(store: Store) -> None:
    with store.write() as tx:
        under(tx, "b", 3)
        under(tx, "a", 2)
        under(tx, "other domain", ca=BACKUP)
        an_account(tx, PRIMARY, "c", coming="d")
        assert keys.keks(tx, "one") == ["a", "b", "c", "d"]
        assert keys.keks(tx, "two") == ["other domain"]
        assert keys.keks(tx, "none") == []
        assert (keys.count(tx, "one", "b"), keys.count(tx, "one", "a"), keys.count(tx, "two", "b")) == (
            3,
            2,
            0,
        )


def test_keys_under_a_kek_are_found_some_at_a_time(store: Store) -> None:
    with store.write() as tx:
        mine = under(tx, "a", 5)
        under(tx, "b", 2)
        assert len(keys.under(tx, "one", "a", 3)) == 3
        found = keys.under(tx, "one", "a", 10)
        assert {one.spki for one in found} == set(mine)
        assert {(one.domain, one.key_id, one.wrapped) for one in found} == {("one", "a", b"a wrapped key")}


def test_a_key_is_wrapped_anew_only_if_it_is_what_was_read(store: Store) -> None:
    with store.write() as tx:
        stays, moved, gone = (
            keys.under(tx, "one", kek, 1)[0] for kek in ("a", "b", "c") if under(tx, kek) is not None
        )
        tx.execute(update(wrapped_key).where(wrapped_key.c.spki == moved.spki).values(key_id="elsewhere"))
        tx.execute(wrapped_key.delete().where(wrapped_key.c.spki == gone.spki))

        fresh = [(one, replace(one, key_id="new", wrapped=b"anew")) for one in (stays, moved, gone)]
        assert keys.rewrap(tx, fresh) == 1

        assert certificates.wrapped(tx, stays.spki) == replace(stays, key_id="new", wrapped=b"anew")
        assert certificates.wrapped(tx, moved.spki) == replace(moved, key_id="elsewhere")
        assert certificates.wrapped(tx, gone.spki) is None
        assert keys.rewrap(tx, []) == 0


def test_both_keys_of_an_account_are_wrapped_anew(store: Store) -> None:
    with store.write() as tx:
        an_account(tx, PRIMARY, "a", coming="a")
        an_account(tx, BACKUP, "b")
        found = keys.accounts_under(tx, "one", "a")
        assert [(one.ca, one.next, one.key.wrapped) for one in found] == [
            (PRIMARY, False, b"an account key"),
            (PRIMARY, True, b"the next one"),
        ]
        for one in found:
            assert keys.rewrap_account(
                tx, one, replace(one.key, key_id="new", wrapped=b"anew " + one.key.wrapped)
            )
            assert not keys.rewrap_account(tx, one, replace(one.key, key_id="late")), "it is another by now"
        row = tx.execute(select(account).where(account.c.ca == PRIMARY)).one()
        assert (row.key_id, row.wrapped) == ("new", b"anew an account key")
        assert (row.next_key_id, row.next_wrapped) == ("new", b"anew the next one")


@pytest.mark.parametrize("where", ["certificate", "account", "next"])
def test_a_kek_is_named_as_long_as_anything_lies_under_it(store: Store, where: str) -> None:
    with store.write() as tx:
        keys.wait_for_writers(tx)
        an_account(tx, PRIMARY, "a" if where == "account" else "x", coming="a" if where == "next" else None)
        if where == "certificate":
            under(tx, "a")
        assert keys.is_named(tx, "one", "a")
        assert not keys.is_named(tx, "two", "a")
        assert not keys.is_named(tx, "one", "b")


def test_a_key_is_told_by_its_pair_and_ca_even_when_the_pair_is_gone(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "www.example.com")
        known = an_order(tx, pair).spki
        lost = fresh_hash()
        tx.execute(
            public_key.insert().values(spki=lost, pair_id=pair.id + 1, ca=BACKUP, issuance_id=1, created_at=1)
        )
        assert keys.whose(tx, [known, lost, b"another"]) == {
            known: ("www.example.com", PRIMARY),
            lost: (None, BACKUP),
        }


# --- when they go -----------------------------------------------------------------------------------------


def ending(tx: Transaction, at: datetime, ca: str = PRIMARY) -> bytes:
    """The public key of a certificate that ends then."""
    made = a_certificate(tx, a_pair(tx), ca, not_after=at)
    keys.ends_at(tx, made.spki, made.not_after)
    return made.spki


def test_a_key_goes_at_its_certificates_end_and_not_before(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        spki = ending(tx, tx.now + timedelta(days=1))
        without_end = a_certificate(tx, a_pair(tx)).spki
    clock.advance(timedelta(days=1) - timedelta(microseconds=1))
    with store.write() as tx:
        assert keys.destroy(tx, keys.ended(tx, 10)) == []
        assert certificates.wrapped(tx, spki) is not None
    clock.advance(timedelta(microseconds=1))
    with store.write() as tx:
        [gone] = keys.destroy(tx, keys.ended(tx, 10))
        assert (gone.spki, gone.ca, gone.not_after) == (spki, PRIMARY, tx.now)
        assert certificates.wrapped(tx, spki) is None
        assert certificates.wrapped(tx, without_end) is not None
        assert tx.execute(select(public_key).where(public_key.c.spki == spki)).first() is not None


def test_the_earliest_go_first_and_no_more_than_asked_for(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        later, earlier = (ending(tx, tx.now + timedelta(days=number)) for number in (2, 1))
    clock.advance(timedelta(days=3))
    with store.write() as tx:
        assert [one.spki for one in keys.ended(tx, 1)] == [earlier]
        assert [one.spki for one in keys.ended(tx, 10)] == [earlier, later]


def test_a_key_stays_as_long_as_a_revocation_waits_for_it(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        made = a_certificate(tx, a_pair(tx), not_after=tx.now)
        keys.ends_at(tx, made.spki, made.not_after)
        other = ending(tx, tx.now)
        found = keys.ended(tx, 10)
        assert len(found) == 2
        revocations.want(tx, made.id, made.pair_id, Reason.KEY_COMPROMISE, tx.now, unverified=False)

        assert [one.spki for one in keys.ended(tx, 10)] == [other]
        assert [one.spki for one in keys.destroy(tx, found)] == [other], "wanted after it was looked for"

        revocations.settle(tx, made.id)
        assert [one.spki for one in keys.destroy(tx, keys.ended(tx, 10))] == [made.spki]


def test_what_another_process_has_destroyed_is_not_destroyed_twice(store: Store) -> None:
    with store.write() as tx:
        ending(tx, tx.now)
        found = keys.ended(tx, 10)
        assert keys.destroy(tx, found) == found
        assert keys.destroy(tx, found) == []
        assert keys.destroy(tx, []) == []


def test_attempts_that_were_given_up_are_found_until_they_have_an_end(store: Store) -> None:
    with store.write() as tx:
        under_way, unplaced, placed = (an_order(tx, a_pair(tx)) for _ in range(3))
        orders.placed(tx, placed.id, "https://ca/order", "https://ca/finalize", ["https://ca/authorization"])
        for order in (unplaced, placed):
            orders.set_step(tx, order.id, OrderStep.ABANDONED, "a test")
        found = keys.ended_attempts(tx, 10)
        assert {(one.spki, one.placed) for one in found} == {(unplaced.spki, False), (placed.spki, True)}
        assert len(keys.ended_attempts(tx, 1)) == 1
        keys.ends_at(tx, placed.spki, tx.now)
        assert [one.spki for one in keys.ended_attempts(tx, 10)] == [unplaced.spki]
        assert under_way.spki not in {one.spki for one in found}


# --- what is left of old bytes ----------------------------------------------------------------------------


def test_what_was_wrapped_before_is_not_in_the_database_file_any_more(store: Store, database: Path) -> None:
    secret, other = b"wrapped once " * 500, b"destroyed later " * 500
    with store.write() as tx:
        [moving] = under(tx, "a")
        going = ending(tx, tx.now)
        for spki, value in ((moving, secret), (going, other)):
            tx.execute(update(wrapped_key).where(wrapped_key.c.spki == spki).values(wrapped=value))
    assert keys.empty_log(store)
    assert secret[:200] in database.read_bytes()
    assert other[:200] in database.read_bytes()

    with store.write() as tx:
        # As on systems whose SQLite does not overwrite by itself.
        tx.connection.exec_driver_sql("PRAGMA secure_delete = 0").all()
        [old] = keys.under(tx, "one", "a", 10)
        keys.rewrap(tx, [(old, replace(old, key_id="b", wrapped=b"short"))])
        keys.destroy(tx, keys.ended(tx, 10))
        assert tx.connection.exec_driver_sql("PRAGMA secure_delete").scalar_one() == 0

    assert keys.empty_log(store)
    left = database.read_bytes() + database.with_name(f"{database.name}-wal").read_bytes()
    # A page may keep up to a cell's header of what it held.
    assert b"wrapped once wrapped once" not in left
    assert b"destroyed later destroyed" not in left


def test_a_log_that_somebody_reads_is_left(store: Store, database: Path) -> None:
    with store.write() as tx:
        under(tx, "a")
    with closing(sqlite3.connect(database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM pair").fetchone()
        with store.write() as tx:
            under(tx, "b")
        assert not keys.empty_log(store)
    assert keys.empty_log(store)
