from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from dualcert.errors import StoreError
from dualcert.model.certificate import Standing, WrappedKey
from dualcert.model.order import OrderStep
from dualcert.store import Store, accounts, certificates, orders, revocations, tables
from dualcert.store.accounts import StoredAccount
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_full_pair, a_pair, an_order, fresh_hash

HIGH_BIT = bytes([0xF3]) + bytes(range(19))


def test_a_certificate_is_read_as_it_was_stored(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        stored = a_certificate(tx, pair, BACKUP, flaw="it is for another key")
    with store.read() as tx:
        assert certificates.get(tx, stored.id) == stored
        assert certificates.der_of(tx, stored.id) == b"DER of " + stored.sha256
        assert certificates.chain_of(tx, stored) == "chain of beta"
    assert (stored.ca, stored.flaw, stored.stored_at) == (BACKUP, "it is for another key", clock.now())


def test_the_same_certificate_again_keeps_its_number(store: Store) -> None:
    with store.write() as tx:
        stored = a_certificate(tx, a_pair(tx))
        assert certificates.insert_certificate(tx, stored, b"DER", "chain") == stored.id
        assert tx.execute(select(func.count()).select_from(tables.certificate)).scalar_one() == 1


def test_certificates_of_one_chain_share_it(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        one, two = a_certificate(tx, pair), a_certificate(tx, pair)
        assert certificates.chain_of(tx, one) == certificates.chain_of(tx, two)
        assert tx.execute(select(func.count()).select_from(tables.chain)).scalar_one() == 1


def test_a_certificate_that_is_not_there_is_an_error(store: Store) -> None:
    with store.read() as tx:
        with pytest.raises(StoreError, match="certificate 7 is not in the database"):
            certificates.get(tx, 7)
        assert certificates.standing(tx, 7) is None
        assert certificates.standing(tx, None) is None
        assert certificates.standings(tx, []) == {}


@pytest.mark.parametrize("serial", [HIGH_BIT, b"\x01", bytes(20)], ids=["20 bytes, high bit", "one", "zeros"])
def test_serials_are_bytes_and_kept_to_the_last_bit(store: Store, serial: bytes) -> None:
    with store.write() as tx:
        stored = a_certificate(tx, a_pair(tx), serial=serial)
        assert certificates.get(tx, stored.id).serial == serial


def test_two_cas_may_use_one_serial_but_no_ca_twice(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        of_both = [a_certificate(tx, pair, ca, serial=HIGH_BIT) for ca in (PRIMARY, BACKUP)]
        for one in of_both:
            assert certificates.find_serial(tx, HIGH_BIT, one.issuer_hash) == one
            assert certificates.find_serial(tx, HIGH_BIT[1:], one.issuer_hash) is None
    with pytest.raises(StoreError, match="kept already"), store.write() as tx:
        a_certificate(tx, pair, PRIMARY, serial=HIGH_BIT)


def test_a_key_has_one_certificate(store: Store) -> None:
    with store.write() as tx:
        stored = a_certificate(tx, a_pair(tx))
    other = replace(stored, sha256=fresh_hash(), serial=b"\x07")
    with pytest.raises(StoreError, match="kept already"), store.write() as tx:
        certificates.insert_certificate(tx, other, b"DER", "chain")


def test_what_is_recorded_against_a_certificate_stands_beside_it(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        good, revoked, blocked = (a_certificate(tx, pair) for _ in range(3))
        revocations.revoked(tx, revoked.id, "superseded", "a test")
        certificates.block_key(tx, blocked.spki, "leaked")
        certificates.block_key(tx, blocked.spki, "leaked again")
        assert certificates.standings(tx, [good.id, revoked.id, blocked.id]) == {
            good.id: Standing(good, revoked=False, blocked=False),
            revoked.id: Standing(revoked, revoked=True, blocked=False),
            blocked.id: Standing(blocked, revoked=False, blocked=True),
        }


def test_why_a_certificate_must_not_serve(store: Store) -> None:
    with store.write() as tx:
        held = a_certificate(tx, a_pair(tx), not_after=tx.now + timedelta(hours=1))
        now = tx.now
    standing = Standing(held, revoked=False, blocked=False)
    assert standing.bad(held.not_after - timedelta(microseconds=1)) is None
    assert standing.bad(held.not_after) == "it expired on 2026-01-01 01:00 UTC"
    assert replace(standing, revoked=True).bad(now) == "it is revoked"
    assert replace(standing, blocked=True).bad(now) == "its key is blocked"


def test_a_wrapped_key_is_kept_under_its_public_keys_hash_and_not_shown(store: Store) -> None:
    with store.write() as tx:
        order = an_order(tx, a_pair(tx), BACKUP)
        kept = certificates.wrapped(tx, order.spki)
        assert kept == WrappedKey(order.spki, "two", "kek", b"a wrapped key")
        assert certificates.wrapped(tx, b"other") is None
    assert "a wrapped key" not in repr(kept)


def test_a_proof_is_dated(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        spki, other = an_order(tx, a_pair(tx)).spki, an_order(tx, a_pair(tx)).spki
    clock.advance(60)
    with store.write() as tx:
        certificates.proved(tx, spki)
        found = {row.spki: row.proved_at for row in tx.execute(select(tables.wrapped_key))}
    assert found[spki] - found[other] == 60_000_000


def test_a_public_key_is_remembered_although_its_order_came_to_nothing(store: Store) -> None:
    with store.write() as tx:
        order = an_order(tx, a_pair(tx))
        orders.set_step(tx, order.id, OrderStep.ABANDONED, "no answer")
        known = select(tables.public_key).where(tables.public_key.c.spki == order.spki)
        row = tx.execute(known).one()
    assert (row.pair_id, row.ca, row.issuance_id) == (order.pair_id, PRIMARY, order.issuance_id)


# --- accounts --------------------------------------------------------------------------------------------


def account(key: bytes = b"a wrapped key") -> StoredAccount:
    return StoredAccount(
        ca=PRIMARY,
        directory="https://alpha/dir",
        key=WrappedKey(fresh_hash(), "one", "kek", key),
        url=None,
        caa_identities=frozenset({"alpha.example", "alpha.test"}),
    )


def test_an_account_is_written_down_before_its_ca_hears_of_it(store: Store) -> None:
    mine = account()
    with store.write() as tx:
        assert accounts.get(tx, PRIMARY) is None
        assert accounts.create_or_get(tx, mine) == mine
        accounts.set_url(tx, PRIMARY, "https://alpha/account/1")
        made = tx.now
    with store.read() as tx:
        assert accounts.get(tx, PRIMARY) == replace(mine, url="https://alpha/account/1", created_at=made)
        assert accounts.get(tx, BACKUP) is None
    assert "a wrapped key" not in repr(mine)


def test_the_first_account_of_a_ca_counts(store: Store) -> None:
    first, second = account(), account(b"another wrapped key")
    with store.write() as tx:
        accounts.create_or_get(tx, first)
        assert accounts.create_or_get(tx, second).key == first.key


def test_a_full_pair_has_two_domains(store: Store) -> None:
    with store.write() as tx:
        _, serving, standby = a_full_pair(tx)
        kept = [certificates.wrapped(tx, one.spki) for one in (serving, standby)]
    assert [one.domain for one in kept if one is not None] == ["one", "two"]
