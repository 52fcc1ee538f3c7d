"""A domain's keys come under a new KEK: all of them, beside others at work, and wherever it was cut off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from dualcert.errors import ConfigurationError, KeyUnreadable, LeaseLost, Refused, UsageProblem
from dualcert.lifecycle import keymaking, rewrapping
from dualcert.lifecycle.owner import new_owner
from dualcert.lifecycle.rewrapping import Rotation, Wish
from dualcert.lifecycle.world import Lazy, World
from dualcert.model.certificate import WrappedKey
from dualcert.model.pair import KeyType
from dualcert.plugins.keys.file import FileKeyOptions, FileKeyProtector
from dualcert.ports.keys import KeyContext, KeyProtector
from dualcert.store import Store, accounts, certificates, events, keys, leases, orders
from dualcert.store.accounts import StoredAccount
from dualcert.store.tables import account, lease, wrapped_key
from dualcert.testing.clock import FakeClock
from tests.store.building import PRIMARY, a_pair, lineage_of
from tests.store.worlds import DOMAINS, Setting, a_world, ordered

KEYS = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for domain in DOMAINS.values():
        FileKeyProtector.create(tmp_path / "keks" / f"{domain}.kek")
    return tmp_path / "keks"


@pytest.fixture
def start(store: Store, clock: FakeClock, folder: Path) -> Callable[[], World]:
    """A process over the same database and KEKs."""

    def protector(domain: str) -> Lazy[KeyProtector]:
        return Lazy(lambda: FileKeyProtector(domain, FileKeyOptions(path=folder / f"{domain}.kek")))

    def begin() -> World:
        world = a_world(store, clock, Setting())
        return replace(world, protectors={name: protector(name) for name in DOMAINS.values()})

    return begin


@pytest.fixture
def world(start: Callable[[], World]) -> World:
    return start()


@pytest.fixture
def spkis(world: World) -> list[bytes]:
    """Real keys of domain ``one``, one of domain ``two``, and an account that is changing its key."""
    with world.store.write() as tx:
        made = [ordered(tx, world, a_pair(tx), PRIMARY).spki for _ in range(KEYS)]
        ordered(tx, world, a_pair(tx), "beta")
    key, following = (keymaking.wrap(world, "one", keymaking.account_key(), "account") for _ in range(2))
    with world.store.write() as tx:
        mine = StoredAccount(PRIMARY, "https://alpha/dir", key, None, frozenset())
        accounts.create_or_get(tx, mine)
        coming = {
            "next_spki": following.spki,
            "next_key_id": following.key_id,
            "next_wrapped": following.wrapped,
        }
        tx.execute(update(account).values(**coming))
    return made


def rotate(world: World, **wish: bool) -> Rotation:
    return rewrapping.rotate(world, "one", Wish(**wish), lambda done, total: None)


def kek(world: World, domain: str = "one") -> str:
    return world.protector(domain).key_id


def held(world: World, spki: bytes) -> WrappedKey:
    with world.store.read() as tx:
        found = certificates.wrapped(tx, spki)
    assert found is not None
    return found


def demand_all_open(world: World, spkis: list[bytes]) -> None:
    for spki in spkis:
        assert b"PRIVATE KEY" in keymaking.unwrap(world, held(world, spki))
    with world.store.read() as tx:
        row = tx.execute(select(account)).one()
    for pre in ("", "next_"):
        key = WrappedKey(
            *(getattr(row, name) for name in (f"{pre}spki", "domain", f"{pre}key_id", f"{pre}wrapped"))
        )
        assert keymaking.rewrap(world, key, "account").spki == key.spki


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def told(world: World) -> list[tuple[str, str]]:
    with world.store.read() as tx:
        return [(one.kind, one.cause) for one in events.page(tx) if one.kind.startswith("ke")]


# --- the whole of it --------------------------------------------------------------------------------------


def test_all_keys_of_the_domain_come_under_the_new_kek_and_the_old_one_goes(
    world: World, start: Callable[[], World], spkis: list[bytes], folder: Path
) -> None:
    before, other = kek(world), kek(world, "two")
    bytes_before = {held(world, spki).wrapped for spki in spkis}

    done = rotate(world)

    assert done == Rotation("one", kek(world), True, KEYS + 2, 0, (), (before,), ())
    assert files(folder) == {"one.kek", "two.kek"}
    assert {held(world, spki).key_id for spki in spkis} == {done.kek}
    assert not {held(world, spki).wrapped for spki in spkis} & bytes_before
    demand_all_open(start(), spkis)
    with world.store.read() as tx:
        assert keys.keks(tx, "one") == [done.kek]
        assert keys.keks(tx, "two") == [other]


def test_it_says_in_events_what_it_has_done(world: World, spkis: list[bytes]) -> None:
    before = kek(world)
    now = rotate(world).kek
    assert told(world) == [
        ("kek-replaced", f"domain one: KEK {now} in the place of {before}"),
        ("keys-rewrapped", f"domain one: 1 account key at alpha, from KEK {before} to {now}"),
        ("keys-rewrapped", f"domain one: 1 account key at alpha, from KEK {before} to {now}"),
        ("keys-rewrapped", f"domain one: {KEYS} certificate keys, from KEK {before} to {now}"),
        ("kek-dropped", f"domain one: KEK {before}"),
    ]


def test_it_goes_in_batches_and_says_how_far_it_is(
    world: World, spkis: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrapping, "_BATCH", 2)
    seen: list[tuple[int, int]] = []
    rewrapping.rotate(world, "one", Wish(), lambda done, total: seen.append((done, total)))
    assert seen == [(4, 7), (6, 7), (7, 7)]


def test_a_domain_without_keys_gets_a_new_kek_too(world: World) -> None:
    before = kek(world, "two")
    done = rewrapping.rotate(world, "two", Wish(), lambda done, total: None)
    assert (done.rewrapped, done.dropped) == (0, (before,))


def test_a_domain_that_does_not_exist_is_named_beside_those_that_do(world: World) -> None:
    with pytest.raises(UsageProblem, match="'three'") as caught:
        rewrapping.rotate(world, "three", Wish(), lambda done, total: None)
    assert "one, two" in str(caught.value.remedy)


def test_a_protector_that_cannot_is_refused(store: Store, clock: FakeClock) -> None:
    with pytest.raises(ConfigurationError, match="does not replace its KEK"):
        rotate(a_world(store, clock, Setting()))


# --- what is left is found again --------------------------------------------------------------------------


def test_one_that_was_cut_off_is_gone_on_with_and_makes_no_second_kek(
    world: World, start: Callable[[], World], spkis: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kek(world)
    monkeypatch.setattr(rewrapping, "_BATCH", 2)

    class Killed(BaseException):
        pass

    def die(done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        rewrapping.rotate(world, "one", Wish(), die)
    now = kek(world)
    assert sorted(held(world, spki).key_id for spki in spkis) == sorted([now] * 2 + [before] * 3)

    later = start()
    done = rotate(later)

    assert done == Rotation("one", now, False, 3, 0, (), (before,), ())
    demand_all_open(start(), spkis)


def test_the_old_kek_is_kept_for_other_machines_until_it_is_asked_for(
    world: World, spkis: list[bytes], folder: Path
) -> None:
    before = kek(world)
    first = rotate(world, keep_old=True)
    assert [one.kek for one in first.kept] == [before]
    assert files(folder) == {"one.kek", "two.kek", f"one.kek.{before}"}
    again = rotate(world, keep_old=True)
    assert (again.made, again.kek, again.rewrapped) == (False, first.kek, 0)

    last = rotate(world)

    assert (last.made, last.kek, last.dropped) == (False, first.kek, (before,))
    assert files(folder) == {"one.kek", "two.kek"}


def test_what_is_only_to_be_finished_makes_no_new_kek(world: World, spkis: list[bytes]) -> None:
    before = kek(world)
    nothing = rotate(world, finish=True)
    assert (nothing.made, nothing.kek, nothing.rewrapped, nothing.dropped) == (False, before, 0, ())
    first = rotate(world, keep_old=True)

    last = rotate(world, finish=True)

    assert (last.made, last.kek, last.dropped) == (False, first.kek, (before,))


def test_one_that_is_prepared_is_taken_by_the_rotation(world: World, spkis: list[bytes]) -> None:
    before = kek(world)
    first = rotate(world, prepare=True)
    assert (first.kek, first.made, first.rewrapped, first.kept) == (before, False, 0, ())
    assert rotate(world, prepare=True).prepared == first.prepared

    done = rotate(world)

    assert (done.kek, done.made, done.dropped) == (first.prepared, True, (before,))


def test_where_another_machines_kek_has_not_come_to_no_third_one_is_made(
    world: World, spkis: list[bytes], folder: Path
) -> None:
    elsewhere = folder.with_name("elsewhere")
    shutil.copytree(folder, elsewhere)
    there = FileKeyProtector("one", FileKeyOptions(path=elsewhere / "one.kek"))
    before = there.key_id
    now = rotate(world).kek
    far = replace(world, protectors={**world.protectors, "one": Lazy(lambda: there)})

    with pytest.raises(Refused, match=now) as caught:
        rotate(far)

    assert "Bring it from the machine that has it" in (caught.value.remedy or "")
    assert (there.key_id, there.older_keks()) == (before, ())


def test_what_another_machine_has_wrapped_meanwhile_is_wrapped_anew_before_the_old_kek_goes(
    world: World, spkis: list[bytes], folder: Path, clock: FakeClock
) -> None:
    """One that has the old KEK still, in a copy of its own."""
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(0o700)
    (elsewhere / "one.kek").touch(0o600)
    (elsewhere / "one.kek").write_bytes((folder / "one.kek").read_bytes())
    there = FileKeyProtector("one", FileKeyOptions(path=elsewhere / "one.kek"))
    rotate(world, keep_old=True)
    with world.store.write() as tx:
        far = replace(world, protectors={**world.protectors, "one": Lazy(lambda: there)})
        late = ordered(tx, far, a_pair(tx), PRIMARY).spki
    assert held(world, late).key_id == there.key_id

    done = rotate(world)

    assert (done.rewrapped, done.dropped) == (1, (there.key_id,))
    demand_all_open(world, [*spkis, late])


# --- what does not open -----------------------------------------------------------------------------------


def spoil(world: World, spki: bytes, **values: Any) -> None:
    with world.store.write() as tx:
        tx.execute(update(wrapped_key).where(wrapped_key.c.spki == spki).values(**values))


def test_a_key_that_does_not_open_is_named_and_keeps_its_kek(
    world: World, spkis: list[bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrapping, "_BATCH", 1)
    before = kek(world)
    spoil(world, spkis[0], wrapped=held(world, spkis[1]).wrapped)

    done = rotate(world)

    assert (done.rewrapped, done.failed, done.dropped) == (KEYS + 1, 1, ())
    [problem] = done.problems
    assert (problem.ca, problem.key) == (PRIMARY, spkis[0].hex())
    assert problem.pair is not None
    assert "does not open" in problem.reason
    assert [one.kek for one in done.kept] == [before]
    assert "do not open" in done.kept[0].reason
    assert f"one.kek.{before}" in files(folder)
    demand_all_open(world, spkis[1:])


def test_with_one_that_does_not_open_a_kek_that_leaks_can_still_be_replaced(
    world: World, spkis: list[bytes]
) -> None:
    spoil(world, spkis[0], wrapped=b"spoilt")
    first = rotate(world)
    assert not rotate(world).made, "it goes on"

    again = rotate(world, new=True)

    assert again.made
    assert again.dropped == (first.kek,)
    assert again.rewrapped == KEYS + 1
    demand_all_open(world, spkis[1:])


def test_a_key_under_a_kek_that_is_lost_is_named_and_keeps_nothing(
    world: World, spkis: list[bytes], folder: Path
) -> None:
    FileKeyProtector.create(lost := folder / "lost")
    protector = FileKeyProtector("one", FileKeyOptions(path=lost))
    wrapped = protector.wrap(b"x", KeyContext("one", spkis[0].hex()))
    spoil(world, spkis[0], wrapped=wrapped, key_id=protector.key_id)
    before, named = kek(world), protector.key_id
    lost.unlink()
    with pytest.raises(Refused, match=named):
        rotate(world)
    assert kek(world) == before

    done = rotate(world, new=True)

    assert (done.failed, done.dropped, done.kept) == (1, (before,), ())
    assert named in done.problems[0].reason


def test_many_that_do_not_open_are_not_all_tried(
    world: World, spkis: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrapping, "_HOPELESS", 2)
    monkeypatch.setattr(rewrapping, "_BATCH", 3)
    for spki in spkis:
        spoil(world, spki, wrapped=b"spoilt")
    done = rotate(world)
    assert done.failed == KEYS
    assert 3 <= len(done.problems) < KEYS


# --- beside others ----------------------------------------------------------------------------------------


def test_a_process_that_wrapped_before_and_stores_after_the_rotation_loses_nothing(
    world: World, start: Callable[[], World], spkis: list[bytes]
) -> None:
    other = start()
    made = keymaking.make(KeyType.EC_P256, ["late.example.com"])
    wrapped = keymaking.wrap(other, "one", made)
    before = wrapped.key_id

    done = rotate(world)

    assert [(one.kek, "not stored it yet" in one.reason) for one in done.kept] == [(before, True)]
    with other.store.write() as tx:
        pair = a_pair(tx, "late.example.com")
        issuance = orders.open_issuance(tx, pair.id, "a test")
        orders.begin(tx, lineage_of(tx, pair, PRIMARY), issuance, pair.names, made.csr, wrapped)
    del wrapped

    finished = rotate(world)

    assert (finished.made, finished.rewrapped, finished.dropped) == (False, 1, (before,))
    demand_all_open(start(), [*spkis, made.spki])


def test_what_is_stored_while_the_old_kek_is_about_to_go_is_wrapped_anew_first(
    world: World, start: Callable[[], World], spkis: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look for keys under the old KEK, and its end."""
    other = start()
    late: list[bytes] = []
    made = keymaking.make(KeyType.EC_P256, ["late.example.com"])
    in_flight = [keymaking.wrap(other, "one", made)]
    before = in_flight[0].key_id
    sleep = world.clock.sleep

    def meanwhile(seconds: float) -> None:
        if in_flight:
            with other.store.write() as tx:
                pair = a_pair(tx, "late.example.com")
                issuance = orders.open_issuance(tx, pair.id, "a test")
                wrapped = in_flight.pop()
                orders.begin(tx, lineage_of(tx, pair, PRIMARY), issuance, pair.names, made.csr, wrapped)
                late.append(wrapped.spki)
        sleep(seconds)

    monkeypatch.setattr(world.clock, "sleep", meanwhile)

    done = rotate(world)

    assert late
    assert (done.rewrapped, done.dropped, done.kept) == (KEYS + 3, (before,), ())
    demand_all_open(start(), [*spkis, *late])


def test_a_kek_that_is_replaced_just_before_it_wraps_is_not_taken_for_the_new_one(
    world: World, start: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = FileKeyProtector.wrap, [1]

    def wrap(protector: FileKeyProtector, secret: bytes, context: KeyContext) -> bytes:
        if left:
            left.pop()
            FileKeyProtector.new_kek(protector)
        return real(protector, secret, context)

    monkeypatch.setattr(FileKeyProtector, "wrap", wrap)
    made = keymaking.make(KeyType.EC_P256, ["late.example.com"])

    wrapped = keymaking.wrap(world, "one", made)

    hold: Any = wrapped.hold
    assert wrapped.key_id == hold.key_id == kek(world)
    assert keymaking.unwrap(start(), wrapped) == made.pem


def test_a_key_that_was_read_before_and_is_opened_after_the_rotation_opens(
    world: World, start: Callable[[], World], spkis: list[bytes]
) -> None:
    """By a process that has never seen the KEK that it was read under."""
    stale = held(world, spkis[0])
    rotate(world)
    assert b"PRIVATE KEY" in keymaking.unwrap(start(), stale)


def test_an_accounts_key_that_was_read_before_opens_afterwards_as_well(
    world: World, start: Callable[[], World], spkis: list[bytes]
) -> None:
    with world.store.read() as tx:
        stale = [one.key for one in keys.accounts_under(tx, "one", kek(world))]
    assert len(stale) == 2
    rotate(world)
    for key in stale:
        assert b"PRIVATE KEY" in keymaking.opened(start(), key, "account")
        with pytest.raises(KeyUnreadable):
            keymaking.opened(start(), key, "certificate")


def test_a_key_that_nobody_wrapped_anew_is_still_refused(world: World, spkis: list[bytes]) -> None:
    key = held(world, spkis[0])
    for spoilt in (replace(key, wrapped=b"spoilt"), replace(key, spki=b"nobody's")):
        with pytest.raises(KeyUnreadable):
            keymaking.unwrap(world, spoilt)


def test_two_do_not_rotate_one_domain_at_once(world: World, spkis: list[bytes]) -> None:
    before = kek(world)
    with world.store.write() as tx:
        assert leases.take(tx, "keys:one", str(new_owner()))
    with pytest.raises(Refused, match="another process"):
        rotate(world)
    assert kek(world) == before


def test_a_dead_process_stands_in_nobodys_way(world: World, spkis: list[bytes]) -> None:
    with world.store.write() as tx:
        leases.take(tx, "keys:one", str(replace(new_owner(), pid=2**22 + 1)))
    assert rotate(world).made


def test_whoever_was_overtaken_writes_nothing_any_more(
    world: World, spkis: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrapping, "_BATCH", 2)
    other = str(new_owner())

    def overtaken(done: int, total: int) -> None:
        with world.store.write() as tx:
            tx.execute(lease.update().values(until=0))
            assert leases.take(tx, "keys:one", other)

    with pytest.raises(LeaseLost, match="by now"):
        rewrapping.rotate(world, "one", Wish(), overtaken)
    assert sorted({held(world, spki).key_id for spki in spkis}) != [kek(world)]
    with world.store.write() as tx:
        assert leases.owners(tx) == [other], "the other one's lease is not dropped"
