"""Heads of the history are signed, on both databases and by several at once."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import delete, func, insert, select, text, update

from dualcert.clock import to_microseconds
from dualcert.errors import KeyUnreadable, StoreError, StoreUnavailable
from dualcert.lifecycle import sealing, signing
from dualcert.lifecycle.incidents import open_incident, telling
from dualcert.lifecycle.sealing import Head
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.seal import BEGINNING, digest
from dualcert.store import Store, certificates, events, seals, signed_heads
from dualcert.store import incident_tables as t
from dualcert.store.tables import event, wrapped_key
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.store.building import PRIMARY, a_pair
from tests.store.worlds import Setting, a_world, issued


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    with store.write() as tx:
        events.record(tx, EventKind.CREATED, "something has happened")
    return a_world(store, clock, Setting())


def publics(*worlds: World) -> list[signing.PublicKey]:
    return signing.public_keys("".join(map(signing.public_key, worlds)).encode())


def signed(world: World, times: int = 1) -> list[dict[str, Any]]:
    """So many heads, one after another, each of a seal of its own."""
    found = []
    for _ in range(times):
        with world.store.write() as tx:
            events.record(tx, EventKind.CREATED, "something more has happened")
        line = signing.head(world)
        assert line is not None
        found.append(line)
    return found


def only(world: World, domain: str) -> World:
    """The same database, where no other domain is configured."""
    return replace(world, protectors={domain: world.protectors[domain]})


def elsewhere(world: World) -> World:
    """Where the domain that its key lies in is configured no more."""
    return only(world, "two")


def rewritten(store: Store) -> None:
    """What somebody does who has the database and no KEK: an event is changed, and all seals computed anew."""
    with store.write() as tx:
        tx.execute(update(event).where(event.c.id == 1).values(actor="nobody"))
    with store.read() as tx:
        chain = seals.page(tx, 0)
    previous = BEGINNING
    for one in chain:
        rows = seals.rows(store, one.first_id - 1, one.last_id)
        at = to_microseconds(one.at)
        made = digest(one.no, one.first_id, one.last_id, one.count, previous, at, rows)
        with store.write() as tx:
            tx.execute(update(t.seal).where(t.seal.c.no == one.no).values(previous=previous, digest=made))
        previous = made


def said(world: World) -> str:
    broken = signing.verify(world).verdict.broken
    assert broken is not None
    return broken


def test_nothing_is_signed_where_nothing_has_happened(store: Store, clock: FakeClock) -> None:
    assert signing.head(a_world(store, clock, Setting())) is None


def test_a_head_is_signed_once_and_known_by_the_public_key(world: World, clock: FakeClock) -> None:
    line = signing.head(world)
    clock.advance(3600)
    assert line == signing.head(world)
    assert line is not None
    kept = [(Head(line["no"], bytes.fromhex(line["digest"]), 1), line)]
    checked = signing.verify(world, kept, publics(world))
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
    broken = signing.verify(world, kept, publics(world)).verdict.broken
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


# --- signatures of before ----------------------------------------------------------------------------------


def test_the_next_head_vouches_for_no_history_that_was_rewritten(world: World) -> None:
    signed(world, 3)
    rewritten(world.store)
    assert sealing.verify(world).broken is None
    assert said(world).startswith("seal 1, which was signed at ")
    with world.store.write() as tx:
        events.record(tx, EventKind.CREATED, "an hour later")
    with pytest.raises(StoreError, match="seal 3 is not the one that was signed") as refused:
        signing.head(world)
    assert refused.value.remedy
    with world.store.read() as tx:
        assert tx.execute(select(func.max(t.signed_head.c.no))).scalar_one() == 3
    assert "is another one now" in said(world)


def test_a_head_is_not_signed_where_seals_that_were_signed_are_gone(world: World) -> None:
    signed(world, 3)
    with world.store.write() as tx:
        tx.execute(delete(t.seal).where(t.seal.c.no > 1))
    assert said(world).startswith("seal 2, which was signed at ")
    assert said(world).endswith(", is not in the database")
    with pytest.raises(StoreError, match="seal 3 is not the one that was signed"):
        signing.head(world)


@pytest.mark.parametrize("at_once", [1, 2, 1000])
@pytest.mark.parametrize("no", [1, 2, 4])
def test_each_signature_is_compared(
    world: World, monkeypatch: pytest.MonkeyPatch, at_once: int, no: int
) -> None:
    monkeypatch.setattr(signing, "_PAGE", at_once)
    last = signed(world, 5)[-1]
    checked = signing.verify(world)
    assert (checked.verdict.broken, checked.unchecked) == (None, None)
    assert checked.signed is not None
    assert checked.signed[0] == last["no"] == 5
    with world.store.write() as tx:
        tx.execute(update(t.signed_head).where(t.signed_head.c.no == no).values(signature=b"0"))
    assert said(world).startswith(f"seal {no}, which was signed at ")


def test_a_key_that_has_signed_does_not_vanish(world: World) -> None:
    [before] = signed(world)
    other = elsewhere(world)
    signed(other)
    assert signing.verify(world).verdict.broken is None
    with world.store.write() as tx:
        tx.execute(delete(wrapped_key).where(wrapped_key.c.spki == bytes.fromhex(before["key"])))
    for one in (world, other):
        assert said(one).endswith(": the key that has signed it is not in the database")
        assert said(one).startswith("seal 1, ")


def test_older_signatures_whose_key_does_not_open_are_counted(world: World) -> None:
    signed(world, 3)
    other = elsewhere(world)
    # Of the newest somebody has to know whether it is the same.
    assert said(other).startswith("seal 3, which was signed at ")
    assert "whether it is the same is not known, for " in said(other)
    signed(other)
    checked = signing.verify(other)
    assert (checked.verdict.broken, checked.signed and checked.signed[0]) == (None, 4)
    assert checked.unchecked is not None
    assert (checked.unchecked[0], "[keys.one]" in checked.unchecked[1]) == (3, True), checked.unchecked
    assert signing.verify(world).unchecked is None


def test_a_key_whose_row_names_no_domain_is_not_known_and_followed_by_another(world: World) -> None:
    signed(world)
    with world.store.write() as tx:
        tx.execute(update(wrapped_key).values(domain="gone"))
    assert "whether it is the same is not known, for " in said(world)
    signed(world)
    checked = signing.verify(world)
    assert checked.verdict.broken is None
    assert checked.unchecked is not None
    assert checked.unchecked[0] == 1


# --- what SQLite takes in any column -------------------------------------------------------------------------


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("signed_head SET no = 'three' WHERE no = 3", "`no` of a signature holds no whole number"),
        ("signed_head SET at = at + 0.25 WHERE no = 3", "`at` of the signature of seal 3 holds no whole"),
        ("signed_head SET at = 1 << 62 WHERE no = 3", "`at` of the signature of seal 3 is no time"),
        ("signed_head SET spki = 5 WHERE no = 3", "`spki` of the signature of seal 3 holds no bytes"),
        ("signed_head SET signature = 1 << 62 WHERE no = 3", "`signature` of the signature of seal 3 holds"),
        ("signed_head SET signature = CAST(x'ff' AS TEXT) WHERE no = 3", "`signature` of the signature of"),
        ("wrapped_key SET wrapped = 1 << 62", "`wrapped` of a key that heads are signed with holds no bytes"),
        (
            "wrapped_key SET wrapped = 'wrapped'",
            "`wrapped` of a key that heads are signed with holds no bytes",
        ),
        ("wrapped_key SET key_id = x'00'", "`key_id` of a key that heads are signed with holds no text"),
    ],
)
def test_a_row_that_holds_what_none_does_is_told_as_one(world: World, change: str, says: str) -> None:
    signed(world, 3)
    with world.store.write() as tx:
        assert tx.execute(text(f"UPDATE {change}")).rowcount == 1
        events.record(tx, EventKind.CREATED, "something more has happened")
    assert says in said(world)
    assert "signed" in said(world)
    with pytest.raises(StoreError, match=re.escape(says)) as refused:
        signing.head(world)
    assert not isinstance(refused.value, StoreUnavailable)
    assert refused.value.remedy


@pytest.mark.usefixtures("database")
def test_an_older_key_that_is_none_any_more_holds_up_no_head(world: World) -> None:
    signed(world)
    with world.store.write() as tx:
        tx.execute(text("UPDATE wrapped_key SET wrapped = 5"))
    other = elsewhere(world)
    signed(other, 2)
    assert signing.verify(other).unchecked == (
        1,
        "`wrapped` of a key that heads are signed with holds no bytes",
    )


# --- keys that were kept elsewhere ---------------------------------------------------------------------------


def test_lines_of_before_and_after_a_change_of_the_key_are_known_by_one_file(world: World) -> None:
    one, two = only(world, "one"), only(world, "two")
    lines = [*signed(one), *signed(two)]
    kept = [
        (Head(line["no"], bytes.fromhex(line["digest"]), number), line)
        for number, line in enumerate(lines, start=1)
    ]
    checked = signing.verify(world, kept, publics(one, two))
    assert (checked.verdict.broken, checked.by_signature) == (None, 2)
    old, new = publics(one), publics(two)
    for by, line, number in ((old, lines[1], 2), (new, lines[0], 1)):
        broken = signing.verify(world, kept, by).verdict.broken
        assert broken == (
            f"line {number} (seal {line['no']}) is not signed with that key; it names the key {line['key']}"
        )
    kept[0][1]["key"] = "\x1b[2J"
    broken = signing.verify(world, kept, [*old, *new]).verdict.broken
    assert broken == "line 1 (seal 1) is signed with none of the 2 keys; it names no key"


def test_a_file_of_keys_holds_nothing_else(world: World) -> None:
    mine = signing.public_key(world)
    other = rsa.generate_private_key(65537, 2048).public_key()
    stranger = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    cut = mine[: len(mine) // 2]
    for wrong in ("", "no key\n", mine + stranger, mine + cut, mine.replace("PUBLIC", "PRIVATE")):
        with pytest.raises(ValueError):  # noqa: PT011 - what it says is the library's own
            signing.public_keys(wrong.encode())
    # Whoever appends by hand may leave a remark, or lose the end of a line.
    assert len(signing.public_keys(f"until May:\n{mine.rstrip()}{mine}".encode())) == 2


# --- reports -----------------------------------------------------------------------------------------------


@pytest.fixture
def reported(world: World) -> int:
    until = world.clock.now() + timedelta(days=1)
    return open_incident(world, "a test", "a test", until, None, ()).id


def test_a_report_is_written_without_a_head_where_none_can_be_signed(world: World, reported: int) -> None:
    shown = telling.summary(world, reported)
    assert shown["sealed"]["what"] == "head of a dualcert history"
    assert shown["unsealed"] is None
    rewritten(world.store)
    shown = telling.summary(world, reported)
    assert shown["sealed"] is None
    assert "is not the one that was signed" in shown["unsealed"]
    shown = telling.summary(replace(world, protectors={}), reported)
    assert (shown["sealed"], shown["id"]) == (None, reported)
    assert "no KEK" in shown["unsealed"]


def test_a_report_says_that_its_head_is_older_where_there_was_no_gap_to_seal(
    server: Postgres, world: World, reported: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_PATIENCE", 0.1)
    before = telling.summary(world, reported)["sealed"]
    with world.store.write() as late:
        events.record(late, EventKind.CREATED, "late")
        shown = telling.summary(world, reported)
    assert shown["sealed"] == before
    assert "what happened last could not be sealed" in shown["unsealed"]
    shown = telling.summary(world, reported)
    assert (shown["sealed"]["no"], shown["unsealed"]) == (before["no"] + 1, None)
