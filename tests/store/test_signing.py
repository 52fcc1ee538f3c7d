"""Heads of the history are signed, on both databases and by several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from sqlalchemy import func, insert, select, update

from dualcert.errors import KeyUnreadable, StoreError
from dualcert.lifecycle import sealing, signing
from dualcert.lifecycle.sealing import Head
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.store import Store, certificates, events, signed_heads
from dualcert.store import incident_tables as t
from dualcert.store.tables import wrapped_key
from dualcert.testing.clock import FakeClock
from tests.store.building import PRIMARY, a_pair
from tests.store.worlds import Setting, a_world, issued


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    with store.write() as tx:
        events.record(tx, EventKind.CREATED, "something has happened")
    return a_world(store, clock, Setting())


def test_nothing_is_signed_where_nothing_has_happened(store: Store, clock: FakeClock) -> None:
    assert signing.head(a_world(store, clock, Setting())) is None


def test_a_head_is_signed_once_and_known_by_the_public_key(world: World, clock: FakeClock) -> None:
    line = signing.head(world)
    clock.advance(3600)
    assert line == signing.head(world)
    assert line is not None
    kept = [(Head(line["no"], bytes.fromhex(line["digest"]), 1), line)]
    checked = signing.verify(world, kept, signing.public_key(world).encode())
    assert (checked.verdict.broken, checked.verdict.compared, checked.by_signature) == (None, 1, 1)
    assert checked.signed is not None
    assert checked.signed[0] == line["no"]


def test_of_two_who_sign_for_the_first_time_one_makes_the_key(store: Store, world: World) -> None:
    together = Barrier(4)

    def sign(_: int) -> str:
        together.wait(30)
        line = signing.head(world)
        assert line is not None
        return str(line["key"])

    with ThreadPoolExecutor(4) as pool:
        keys = set(pool.map(sign, range(4)))
    assert len(keys) == 1
    with store.read() as tx:
        assert tx.execute(select(func.count()).select_from(t.signing_key)).scalar_one() == 1
        assert [one.kind for one in events.page(tx)].count("signing-key-made") == 1


def test_a_blocked_key_signs_nothing_any_more(world: World) -> None:
    before = signing.head(world)
    assert before is not None
    with world.store.write() as tx:
        assert signed_heads.keys_in(tx, "two") == []
        [mine] = signed_heads.keys_in(tx, "one")
        certificates.block_key(tx, mine, "its KEK has leaked")
    after = signing.head(world)
    assert after is not None
    assert before["key"] == mine.hex() != after["key"]
    assert signing.verify(world).verdict.broken is None


def test_a_domain_that_is_not_configured_any_more_is_signed_under_no_more(world: World) -> None:
    before = signing.head(world)
    other = replace(world, protectors={"two": world.protectors["two"]})
    after = signing.head(other)
    assert before is not None
    assert after is not None
    assert before["key"] != after["key"]


def test_a_certificates_key_does_not_open_as_one_to_sign_with(world: World) -> None:
    with world.store.write() as tx:
        other = issued(tx, world, a_pair(tx), PRIMARY)
        # Somebody who has the private key from a web server, and can write to the database.
        tx.execute(insert(t.signing_key), {"spki": other.spki, "made_at": tx.at})
    with pytest.raises(KeyUnreadable):
        signing.head(world)


@pytest.mark.parametrize("forged", [{"signature": "é"}, {"signature": 5}, {"key": "\ud800"}, {"at": None}])
def test_a_line_that_no_key_could_have_signed_is_told_by_its_number(
    world: World, forged: dict[str, object]
) -> None:
    line = signing.head(world)
    assert line is not None
    kept = [(Head(line["no"], bytes.fromhex(line["digest"]), 7), {**line, **forged})]
    broken = signing.verify(world, kept, signing.public_key(world).encode()).verdict.broken
    assert broken is not None
    assert "line 7" in broken


@pytest.mark.parametrize("what", ["signature", "seal", "key", "time"])
def test_what_was_signed_and_is_another_now_is_found(world: World, what: str) -> None:
    signing.head(world)
    with world.store.write() as tx:
        match what:
            case "signature":
                tx.execute(update(t.signed_head).values(signature=b"0"))
            case "time":
                tx.execute(update(t.signed_head).values(at=2**62))
            case "seal":
                # A history of its own, sealed as it should be.
                tx.execute(t.seal.delete())
                events.record(tx, EventKind.CREATED, "something else")
            case "key":
                tx.execute(update(wrapped_key).values(wrapped=b"0"))
    if what == "seal":
        sealing.seal_everything(world)
    broken = signing.verify(world).verdict.broken
    assert broken is not None
    assert "signed" in broken
    if what != "time":
        with pytest.raises((StoreError, KeyUnreadable)):
            signing.head(world)
