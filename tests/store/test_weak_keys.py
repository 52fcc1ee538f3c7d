"""Keys with a known weakness: never used where they are made, blocked where they arrive, left where they serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from dualcert.errors import ConfigurationError, KeyWeak, ResourceGone
from dualcert.evidence.weakkeys import BadKeys
from dualcert.lifecycle import inspection, keymaking, storing, weakkeys
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.watching import asking, keys
from dualcert.lifecycle.world import Lazy, World
from dualcert.model.certificate import Certificate
from dualcert.model.pair import KeyType, Pair
from dualcert.model.work import WorkKind
from dualcert.ports.ca import IssuedCertificate
from dualcert.store import Store, certificates, compromise, events, pairs, revocations, signals, work
from dualcert.testing.clock import FakeClock
from tests import weak
from tests.revocations import Signer
from tests.store.building import BACKUP, PRIMARY, a_pair
from tests.store.renewing import causes, step
from tests.store.watched import a_watching_world, issue
from tests.store.worlds import Setting, a_world, ordered, root_pem, signed
from tests.tinyca import TinyCa, certificate, named


@pytest.fixture(scope="module")
def bad() -> Callable[[], Any]:
    """Makes weak keys, each another one; prepared, for they take a while."""
    made = [weak.with_close_primes() for _ in range(4)]
    return made.pop


@pytest.fixture
def inspector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lazy[Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Lazy(BadKeys)


@pytest.fixture
def blind(store: Store, clock: FakeClock, tmp_path: Path) -> World:
    """Nobody looks at keys there."""
    setting = Setting()
    for ca in (PRIMARY, BACKUP):
        setting.trust_roots[ca] = tmp_path / f"{ca}.pem"
        setting.trust_roots[ca].write_bytes(root_pem(ca))
    return a_world(store, clock, setting)


@pytest.fixture
def world(blind: World, inspector: Lazy[Any]) -> World:
    return replace(blind, inspector=inspector)


# --- made here -------------------------------------------------------------------------------------------


def rsa_key() -> keymaking.NewKey:
    return keymaking.make(KeyType.RSA_2048, ["example.com"])


def test_a_new_key_that_is_weak_is_blocked_and_another_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
    with weak.machine_that_makes(monkeypatch, rsa, "generate_private_key", weak.with_close_primes, 1) as made:
        key = weakkeys.sound(world, rsa_key, ca=PRIMARY, pair=pair.id)
    assert key.spki == keymaking.spki_hash(made[1].public_key())
    thrown_away = keymaking.spki_hash(made[0].public_key())
    with world.store.read() as tx:
        assert compromise.blocked(tx, [thrown_away, key.spki]) == {thrown_away}
    [cause] = causes(world, pair, "key-blocked")
    assert cause.startswith("a new key is weak: fermat (badkeys ")
    assert str(made[0].private_numbers().p) not in cause


def test_two_weak_keys_in_a_row_are_an_error_and_none_is_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        weak.machine_that_makes(monkeypatch, rsa, "generate_private_key", weak.with_close_primes, 9) as made,
        pytest.raises(KeyWeak, match="two new keys in a row are weak: fermat"),
    ):
        weakkeys.sound(world, rsa_key, ca=PRIMARY)
    assert len(made) == 2


def test_where_nobody_looks_a_key_is_taken_as_it_comes(blind: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with weak.machine_that_makes(monkeypatch, rsa, "generate_private_key", weak.with_close_primes, 1) as made:
        assert weakkeys.sound(blind, rsa_key, ca=PRIMARY).spki == keymaking.spki_hash(made[0].public_key())


def test_an_accounts_key_is_looked_at_as_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with weak.machine_that_makes(monkeypatch, ec, "generate_private_key", weak.with_close_primes, 1) as made:
        key = weakkeys.account_key(world, PRIMARY)
    assert key.spki == keymaking.spki_hash(made[1].public_key())


# --- arriving --------------------------------------------------------------------------------------------


def test_a_certificate_whose_key_turns_out_weak_is_kept_as_evidence_and_another_is_ordered(
    world: World, bad: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        weak.machine_that_makes(monkeypatch, ec, "generate_private_key", bad, 1),
        world.store.write() as tx,
    ):
        # Made when nobody looked yet.
        pair = a_pair(tx)
        order = ordered(tx, world, pair, PRIMARY)
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
    [[row]] = Engine(world).claim([WorkKind.ORDER], 1)

    with pytest.raises(ResourceGone, match="blocked"):
        storing.store(
            world, row, pair, order, IssuedCertificate(signed(order.csr, PRIMARY, world.clock.now()))
        )

    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).serving is None
        assert compromise.blocked(tx, [order.spki])
        [number] = compromise.of_key(tx, order.spki)
        assert "its key is weak: fermat" in (certificates.get(tx, number).flaw or "")
        [said] = signals.against(tx, number)
        assert (said["kind"], said["evidence"]) == ("weak-key", "its key is weak: fermat")
        assert said["source"].startswith("badkeys ")
        assert revocations.wanted(tx, pair.id)


def test_a_certificate_under_a_ca_with_a_weak_key_must_not_be_used(
    world: World, bad: Callable[[], Any]
) -> None:
    key = bad()
    authority = Signer(certificate(named("weak CA"), key, None), key)
    leaf = certificate(
        named("leaf"), ec.generate_private_key(ec.SECP256R1()), authority, signing=authority.key
    )
    pem = "".join(one.public_bytes(Encoding.PEM).decode() for one in (leaf, authority.certificate))
    [flaw] = weakkeys.flaws(world, inspection.parse(pem), ())
    assert flaw.startswith("the key of its CA's certificate CN=weak CA is weak: fermat (badkeys ")


# --- in use ----------------------------------------------------------------------------------------------


@pytest.fixture
def watching(store: Store, clock: FakeClock, inspector: Lazy[Any]) -> World:
    return replace(a_watching_world(store, clock), inspector=inspector)


def held(
    world: World, tiny: TinyCa, monkeypatch: pytest.MonkeyPatch, *, weak_at: str | None
) -> tuple[Pair, Certificate, Certificate]:
    """A pair whose certificate of one CA has a weak key."""
    with world.store.write() as tx:
        pair = a_pair(tx)
        found: list[Certificate] = []
        for ca in (PRIMARY, BACKUP):
            times = 1 if ca == weak_at else 0
            with weak.machine_that_makes(
                monkeypatch, ec, "generate_private_key", weak.with_close_primes, times
            ):
                found.append(issue(tx, world, tiny, pair, ca))
    return pair, found[0], found[1]


def test_a_pair_that_serves_with_a_weak_key_is_turned_to_its_backup(
    watching: World, tiny: TinyCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, serving, standby = held(watching, tiny, monkeypatch, weak_at=PRIMARY)
    good, *_ = held(watching, tiny, monkeypatch, weak_at=None)

    looked = keys.look_at_all(watching)
    done = asking.ask_due(watching, found=looked.turnings)
    step(watching, WorkKind.SIGNAL)

    assert (looked.keys, looked.weak) == (4, 1)
    assert done.decided.turning == (pair.id,)
    with watching.store.read() as tx:
        assert pairs.state(tx, pair.id).serving == standby.id
        assert pairs.state(tx, good.id).epoch == 0
        assert compromise.blocked(tx, [serving.spki, standby.spki]) == {serving.spki}
        assert signals.against(tx, serving.id)[0]["kind"] == "weak-key"
        assert work.get(tx, WorkKind.REFILL, pair.id, ca=PRIMARY) is not None
        assert revocations.wanted(tx, pair.id) == []
    [cause] = causes(watching, pair, "promoted")
    assert "its key is weak: fermat (badkeys " in cause


def test_a_backup_with_a_weak_key_is_refilled_and_never_promoted_onto(
    watching: World, tiny: TinyCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, *_ = held(watching, tiny, monkeypatch, weak_at=BACKUP)
    looked = keys.look_at_all(watching)
    assert (looked.weak, looked.turnings) == (1, [])
    with watching.store.read() as tx:
        assert pairs.state(tx, pair.id).backup_ok_until is None
        assert work.get(tx, WorkKind.REFILL, pair.id, ca=BACKUP) is not None


def test_all_are_looked_at_once_page_by_page_and_again_the_next_time(
    watching: World, tiny: TinyCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_PAGE", 2)
    pair, *_ = held(watching, tiny, monkeypatch, weak_at=PRIMARY)
    for _ in range(2):
        held(watching, tiny, monkeypatch, weak_at=None)
    told: list[int] = []
    first = keys.look_at_all(watching, told.append)
    assert told == [2, 4, 6]
    # Whoever was interrupted before it was decided is told again; nothing is written twice.
    again = keys.look_at_all(watching)
    assert [one.pair_id for one in again.turnings] == [pair.id] == [one.pair_id for one in first.turnings]
    assert [one.fresh for one in again.turnings] == [False]
    with watching.store.read() as tx:
        assert len([one for one in events.page(tx) if one.kind == "key-blocked"]) == 1


def test_without_anybody_who_looks_it_is_a_matter_of_configuration(blind: World) -> None:
    with pytest.raises(ConfigurationError, match="badkeys is not installed"):
        keys.look_at_all(blind)


def test_check_says_whether_anybody_looks_and_by_what(
    blind: World, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    [off] = weakkeys.findings(blind)
    assert off.ok
    assert "not installed" in off.detail
    [on] = weakkeys.findings(world)
    assert on.ok
    assert "EC keys are not looked at" in on.detail
    (tmp_path / "badkeys").mkdir()
    (tmp_path / "badkeys" / "blocklist.dat").write_bytes(b"cut")
    [broken] = weakkeys.findings(replace(blind, inspector=Lazy(BadKeys)))
    assert not broken.ok
