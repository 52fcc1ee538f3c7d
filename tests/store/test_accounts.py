"""Accounts as they are written down: one key at a time, and the one to come beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update

from dualcert.model.certificate import WrappedKey
from dualcert.model.work import Failed, WorkKind
from dualcert.store import Store, accounts, claims, work
from dualcert.store.accounts import StoredAccount
from dualcert.store.tables import account as account_table
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, an_order, fresh_hash


def a_key() -> WrappedKey:
    return WrappedKey(fresh_hash(), "one", "kek", fresh_hash())


@pytest.fixture
def account(store: Store) -> StoredAccount:
    with store.write() as tx:
        mine = StoredAccount("alpha", "https://ca.example/dir", a_key(), None, frozenset({"ca.example"}))
        accounts.create_or_get(tx, mine)
        accounts.set_url(tx, "alpha", "https://ca.example/account/1")
    return now(store)


def now(store: Store) -> StoredAccount:
    with store.read() as tx:
        found = accounts.get(tx, "alpha")
    assert found is not None
    return found


def test_an_account_is_read_as_it_was_written(store: Store, clock: FakeClock, account: StoredAccount) -> None:
    assert account.created_at == clock.now()
    assert (account.contact, account.deactivated_at, account.next_key) == (None, None, None)
    with store.write() as tx:
        accounts.set_contact(tx, "alpha", ("mailto:a@example.com", "mailto:b@example.com"))
    assert now(store).contact == ("mailto:a@example.com", "mailto:b@example.com")


def test_a_key_is_wanted_then_taken_and_the_old_one_is_gone(store: Store, account: StoredAccount) -> None:
    coming = a_key()
    with store.write() as tx:
        assert accounts.want_key(tx, account, coming)
        assert not accounts.want_key(tx, account, a_key()), "one at a time"
    assert (now(store).key, now(store).next_key) == (account.key, coming)
    with store.write() as tx:
        assert accounts.take_key(tx, account, coming)
        assert not accounts.take_key(tx, account, coming), "it was so before"
    assert (now(store).key, now(store).next_key) == (coming, None)


def test_a_key_that_was_wrapped_anew_meanwhile_is_taken_as_it_is_now(
    store: Store, account: StoredAccount
) -> None:
    coming = a_key()
    rewrapped = WrappedKey(coming.spki, coming.domain, "another kek", b"wrapped anew")
    with store.write() as tx:
        accounts.want_key(tx, account, coming)
        values = {"next_key_id": rewrapped.key_id, "next_wrapped": rewrapped.wrapped}
        tx.execute(update(account_table).values(**values))
        assert accounts.take_key(tx, account, coming)
    assert now(store).key == rewrapped


def test_a_key_that_was_refused_is_dropped(store: Store, account: StoredAccount) -> None:
    with store.write() as tx:
        accounts.want_key(tx, account, a_key())
        wanted = accounts.get(tx, account.ca)
        assert wanted is not None
        assert not accounts.drop_key(tx, replace(wanted, next_key=a_key()))
        assert accounts.drop_key(tx, wanted)
    assert now(store) == account


def test_an_account_that_has_ended_begins_anew_under_another_key(
    store: Store, account: StoredAccount
) -> None:
    with store.write() as tx:
        accounts.deactivate(tx, "alpha")
        accounts.want_key(tx, account, a_key())
    assert now(store).deactivated_at is not None
    fresh = a_key()
    with store.write() as tx:
        assert accounts.begin_anew(tx, account, fresh)
        assert not accounts.begin_anew(tx, account, a_key()), "somebody else has begun before"
    anew = now(store)
    assert (anew.key, anew.url, anew.deactivated_at, anew.next_key) == (fresh, None, None, None)


def test_orders_that_wait_for_a_person_at_one_ca_are_woken(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        for ca in (PRIMARY, BACKUP):
            work.schedule(tx, WorkKind.ORDER, pair.id, clock.now(), ca=ca)
        rows = claims.claim(tx, "me", kinds=[WorkKind.ORDER], limit=10)
        for row in rows:
            failed = Failed("the terms have changed")
            work.put_back(tx, row, due_at=None, reason=failed.reason, waiting_for="person", failed=True)
    with store.write() as tx:
        assert accounts.wake(tx, PRIMARY) == 1
        assert accounts.wake(tx, PRIMARY) == 0
        [due] = claims.claim(tx, "me", kinds=[WorkKind.ORDER], limit=10)
    assert due.ca == PRIMARY


def test_what_hangs_on_an_account_is_counted(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        a_pair(tx)
        assert (accounts.lineages_at(tx, PRIMARY), accounts.between_challenges(tx, PRIMARY)) == (2, 0)
        an_order(tx, pair, PRIMARY)
        assert accounts.between_challenges(tx, PRIMARY) == 0, "nothing is under way"
        work.schedule(tx, WorkKind.ORDER, pair.id, clock.now(), ca=PRIMARY)
        assert (accounts.between_challenges(tx, PRIMARY), accounts.between_challenges(tx, BACKUP)) == (1, 0)
