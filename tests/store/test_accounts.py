"""Accounts as they are written down: one key at a time, and the one to come beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update

from dualcert.errors import CaRejected, Refused
from dualcert.lab.polling import wait_for
from dualcert.lifecycle import accountkeys, keymaking
from dualcert.lifecycle.world import World
from dualcert.model.certificate import WrappedKey
from dualcert.model.work import Failed, WorkKind
from dualcert.ports.ca import Account, AccountSnapshot
from dualcert.store import Store, accounts, claims, leases, work
from dualcert.store.accounts import StoredAccount
from dualcert.store.tables import account as account_table
from dualcert.store.tables import lease
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, an_order, fresh_hash
from tests.store.databaseclock import follow
from tests.store.worlds import Setting, a_world


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


# --- a CA that takes its time over another key ------------------------------------------------------------


@dataclass
class SlowCa:
    """``meanwhile``: what happens while it is asked, by the name of the call; it may raise."""

    meanwhile: dict[str, Callable[[], None]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def _called(self, what: str) -> None:
        self.calls.append(what)
        self.meanwhile.get(what, lambda: None)()

    def find_account(self, key: bytes) -> str | None:
        self._called("find_account")
        return None

    def change_key(self, account: Account, key: bytes) -> None:
        self._called("change_key")

    def account(self, account: Account) -> AccountSnapshot:
        self._called("account")
        return AccountSnapshot(account.url, "valid", ())


@dataclass
class Rolling:
    world: World
    ca: SlowCa

    def roll(self) -> StoredAccount:
        client: Any = self.ca
        return accountkeys.roll(self.world, self.world.ca(PRIMARY), client, now=True)

    def leader(self) -> tuple[str, int]:
        with self.world.store.read() as tx:
            row = tx.execute(lease.select().where(lease.c.name == f"account:{PRIMARY}")).one()
        return row.owner, row.until

    def is_led_beyond(self, until: int) -> bool:
        return self.leader()[1] > until

    def another_takes_over(self) -> None:
        """As after a minute in which this process stood still."""
        with self.world.store.write() as tx:
            leases.drop(tx, f"account:{PRIMARY}", self.leader()[0])
            assert leases.take(tx, f"account:{PRIMARY}", "another")

    def stored(self) -> StoredAccount:
        return now(self.world.store)


@pytest.fixture
def rolling(database_url: str, clock: FakeClock) -> Iterator[Rolling]:
    opened = Store(database_url, clock, "tester")
    follow(opened, clock)
    world = a_world(opened, clock, Setting())
    key = keymaking.wrap(world, "one", keymaking.account_key(), "account")
    url = f"https://{PRIMARY}/account/1"
    with opened.write() as tx:
        accounts.create_or_get(tx, StoredAccount(PRIMARY, f"https://{PRIMARY}/dir", key, url, frozenset()))
    # Who renews leases has begun to, by this clock.
    begun = threading.Event()
    world.leases.keep("a test", begun.set, clock)
    while not begun.wait(0.05):
        clock.advance(20)
    world.leases.leave("a test")
    yield Rolling(world, SlowCa())
    world.leases.close()
    opened.close()


@pytest.mark.parametrize("call", ["change_key", "account"])
def test_a_key_is_changed_by_one_however_long_the_ca_takes(
    rolling: Rolling, clock: FakeClock, call: str
) -> None:
    def take_long() -> None:
        for _ in range(3):
            _, until = rolling.leader()
            clock.advance(30)
            assert wait_for(partial(rolling.is_led_beyond, until), 20)
        with pytest.raises(Refused, match="another process"):
            Rolling(rolling.world, SlowCa()).roll()

    rolling.ca.meanwhile[call] = take_long
    before = rolling.stored()

    after = rolling.roll()

    assert after.key != before.key
    assert after.next_key is None


def test_who_has_lost_the_lead_drops_no_key(rolling: Rolling) -> None:
    """Whoever has it now may have sent the same change, and the CA taken it."""

    def refuse() -> None:
        rolling.another_takes_over()
        raise CaRejected("not this one", problem="badPublicKey", ca=PRIMARY)

    rolling.ca.meanwhile["change_key"] = refuse

    with pytest.raises(CaRejected, match="not this one"):
        rolling.roll()

    assert rolling.stored().next_key is not None
    assert rolling.leader()[0] == "another"


def test_who_has_lost_the_lead_asks_for_no_change(rolling: Rolling) -> None:
    coming = keymaking.wrap(rolling.world, "one", keymaking.account_key(), "account")
    with rolling.world.store.write() as tx:
        assert accounts.want_key(tx, rolling.stored(), coming)
    rolling.ca.meanwhile["find_account"] = rolling.another_takes_over

    with pytest.raises(Refused, match="another process"):
        rolling.roll()

    assert rolling.ca.calls == ["find_account"]
    assert rolling.stored().next_key == coming
