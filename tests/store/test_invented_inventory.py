"""The large inventories that the bench writes straight into the tables are as the product would have left them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import Table, delete, inspect, select

from bench import inventory as filling
from bench.databases import Inventory, prepared
from bench.inventory import Made, fill
from bench.masses import mass
from bench.rows import COLUMNS
from dualcert.clock import from_microseconds
from dualcert.lifecycle import destruction, inspection, inventory, keymaking, renewal, sealing
from dualcert.lifecycle.engine import ALL_KINDS, Engine
from dualcert.lifecycle.inventory import PairRequest
from dualcert.lifecycle.watching import places
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.policy import due
from dualcert.store import (
    certificates,
    checks,
    counters,
    incident_tables,
    pairs,
    renewals,
    tables,
    watching,
    work,
)
from tests.program import Program

PAIRS, REAL = 30, 3


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Inventory:
    return prepared(tmp_path / "project", database_url, "either", PAIRS)


@pytest.fixture
def world(
    place: Inventory, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """As few are written; with ``large`` as a million are."""
    if getattr(request, "param", "few") == "large":
        by_the_million(monkeypatch)
    with place.application() as application:
        fill(application, Made(PAIRS, real=REAL))
        yield application.world


also_large = pytest.mark.parametrize("world", ["few", "large"], indirect=True)


def by_the_million(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of seven pairs; PostgreSQL makes the others from the first eleven."""
    for name, value in (("_FEW", 0), ("_BATCH", 7), ("_COPIED", 11)):
        monkeypatch.setattr(filling, name, value)


def held(world: World) -> list[Certificate]:
    """Every certificate that has a role, the serving ones first."""
    with world.store.read() as tx:
        states = pairs.states(tx, range(1, PAIRS + 1)).values()
        numbers = [one.serving for one in states] + [one.standby for one in states]
        return [certificates.get(tx, number) for number in numbers if number is not None]


def everything(world: World) -> dict[Table, list[Any]]:
    with world.store.read() as tx:
        return {table: list(tx.connection.execute(select(table)).mappings()) for table in COLUMNS}


def der(world: World, subject: Certificate) -> bytes:
    with world.store.read() as tx:
        return certificates.der_of(tx, subject.id)


# --- what the commands say of it ---------------------------------------------------------------------------


@also_large
def test_every_pair_is_listed_as_protected_and_shown_as_deployed(world: World, place: Inventory) -> None:
    program = Program(place.config)
    lines = program.done("list", "--json").lines

    assert len(lines) == PAIRS
    assert {line["protection"] for line in lines} == {"protected"}
    for name in (lines[0]["pair"], lines[-1]["pair"]):
        shown = program.show(name)
        assert shown["names"] == [name, f"*.{name}"]
        assert (shown["primary"]["state"], shown["backup"]["state"]) == ("serving", "ready")
        [target] = shown["targets"]
        assert target["observed_sha256"] == shown["primary"]["certificate"]["sha256"]
        assert [one["kind"] for one in program.events(name)] == [
            "created",
            "stored",
            "stored",
            "deployed",
            "verified",
        ]


@pytest.mark.plans  # which rows come first: PostgreSQL puts new ones into the room of deleted ones
def test_the_first_pairs_have_keys_that_open_and_certificates_that_are_theirs(
    world: World, place: Inventory, tmp_path: Path
) -> None:
    program = Program(place.config)
    name = program.done("list", "--json").lines[0]["pair"]
    program.done("export", name, "--to", str(tmp_path / "out"), "--with-key")
    for subject in held(world):
        if subject.pair_id <= REAL:
            with world.store.read() as tx:
                keymaking.unwrap(world, certificates.wrapped(tx, subject.spki))
    # These are the ones that `check` tries.
    with world.store.read() as tx:
        for domain in ("primary", "backup"):
            for key in checks.sample_keys(tx, domain, REAL):
                keymaking.unwrap(world, key)


@also_large
def test_nothing_is_due(world: World) -> None:
    assert renewal.open_due(world) == 0
    assert destruction.destroy_ended(world) == 0
    assert Engine(world).claim(ALL_KINDS, 100) == []
    with world.store.read() as tx:
        assert work.unfinished(tx, 1) == []
        assert not watching.any_due(tx)


def test_nothing_is_left_to_register_or_to_seal(world: World) -> None:
    assert not places.register_older(world)
    verdict = sealing.verify(world)
    assert (verdict.broken, verdict.newer) == (None, 0)


@also_large
def test_every_certificate_is_watched_as_if_it_had_just_been_registered(world: World) -> None:
    before = watched(world)
    with world.store.write() as tx:
        tx.connection.execute(delete(incident_tables.watched))
        counters.put(tx, places.census_name(world), 0)
    assert not places.register_older(world)
    assert watched(world) == before
    assert len(before) == 2 * PAIRS


def watched(world: World) -> set[tuple[int, str, bytes]]:
    """Which certificates, where, and by whose key."""
    source, row = incident_tables.watch_source.c, incident_tables.watched.c
    query = select(row.certificate_id, source.place, source.issuing_key).where(source.id == row.source_id)
    with world.store.read() as tx:
        return {tuple(one) for one in tx.connection.execute(query)}


# --- what it consists of -----------------------------------------------------------------------------------


@also_large
def test_every_certificate_says_what_its_row_says(world: World) -> None:
    found = held(world)
    assert len({one.serial for one in found}) == len({one.spki for one in found}) == 2 * PAIRS
    assert {len(one.serial) for one in found} == {16, 17, 18, 19, 20}
    for subject in found:
        content = der(world, subject)
        leaf = x509.load_der_x509_certificate(content)
        with world.store.read() as tx:
            chain = certificates.chain_of(tx, subject)
            [pair] = pairs.by_ids(tx, [subject.pair_id])
        arrival = inspection.Arrival(leaf, tuple(x509.load_pem_x509_certificates(chain.encode())), chain)
        assert hashlib.sha256(content).digest() == subject.sha256
        assert arrival.serial == subject.serial
        assert arrival.names == pair.names
        assert pair.names_digest == subject.names_digest
        assert (arrival.issuer_hash, arrival.issuing_key) == (subject.issuer_hash, subject.issuing_key)
        assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (
            subject.not_before,
            subject.not_after,
        )
        assert hashlib.sha256(chain.encode()).digest() == subject.chain_hash
        assert leaf.issuer.rfc4514_string() == subject.issuer
        if subject.pair_id <= REAL:
            assert (arrival.spki, arrival.key_type) == (subject.spki, subject.key_type)
            leaf.verify_directly_issued_by(arrival.intermediates[0])


@also_large
def test_renewals_are_reckoned_by_the_rules(world: World) -> None:
    with world.store.read() as tx:
        for number, lineages in renewals.of_pairs(tx, range(1, PAIRS + 1)).items():
            state = pairs.state(tx, number)
            assert state.next_action_at == min(one.renew_at for one in lineages if one.renew_at)
            for one in lineages:
                assert one.held is not None
                assert one.held.life_at is not None
                assert one.held.suggested is not None
                assert one.held.covers
                life = one.held.life
                assert due.by_life(life, 1.0) <= one.held.life_at <= due.by_life(life, 0.0)
                window = one.held.suggested.window
                assert window.start <= one.held.suggested.at <= window.end
                assert one.renew_at == due.renewal(life, one.held.life_at, one.held.suggested).at
                assert life.stored_at < tx.now < one.renew_at


@also_large
def test_a_standby_is_trusted_as_the_last_proof_of_its_key_allows(world: World) -> None:
    keys = {bytes(row["spki"]): row for row in everything(world)[tables.wrapped_key]}
    for subject in held(world)[PAIRS:]:
        with world.store.read() as tx:
            state = pairs.state(tx, subject.pair_id)
        key = keys[subject.spki]
        proved = from_microseconds(key["proved_at"])
        assert state.backup_ok_until == due.usable_until(subject.not_before, subject.not_after, proved)
        assert from_microseconds(key["destroy_at"]) == subject.not_after


# --- how it is made ----------------------------------------------------------------------------------------


def names_and_serials(world: World) -> list[tuple[Any, ...]]:
    return [(one.pair_id, one.ca, one.serial) for one in held(world)]


def test_a_seed_draws_the_same_inventory(world: World, tmp_path: Path) -> None:
    def another(seed: int) -> list[tuple[Any, ...]]:
        place = prepared(tmp_path / str(seed), "sqlite:///dualcert.db", "SQLite", PAIRS)
        with place.application() as application:
            fill(application, Made(PAIRS, seed=seed, real=REAL))
            return names_and_serials(application.world)

    assert another(0) == names_and_serials(world)
    assert another(1) != names_and_serials(world)


def test_what_is_filled_by_the_million_is_the_same_with_all_its_indexes(
    place: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.application() as application:
        before = shape(application.world)
        by_the_million(monkeypatch)
        said: list[str] = []
        fill(application, Made(PAIRS, real=REAL), said.append)
        assert shape(application.world) == before
        assert len(held(application.world)) == 2 * PAIRS
        assert any(line.startswith("index ix_certificate_spki") for line in said)
        # The numbers go on from there.
        pair = inventory.ensure(application.world, PairRequest(("another.example.test",)))
        assert pair.id == PAIRS + 1
        with pytest.raises(ValueError, match="there are pairs"):
            fill(application, Made(PAIRS))


def test_a_lean_one_has_all_that_a_mass_promotion_looks_at(
    place: Inventory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    by_the_million(monkeypatch)
    with place.application() as application:
        world = application.world
        fill(application, Made(PAIRS, real=REAL, lean=True))
        if world.store.dialect == "postgresql":
            assert len(everything(world)[tables.leaf]) == 2 * 11
        serials = tmp_path / "serials.txt"
        serials.write_text("".join(f"{one.serial.hex()}\n" for one in held(world)[:PAIRS]))
        steps = {step["step"]: step for step in mass(world, serials)}
        assert (steps["open"]["members"], steps["run"]["turned"]) == (PAIRS, PAIRS)


def shape(world: World) -> dict[str, Any]:
    """Keys, indexes and constraints of every table."""
    seen = inspect(world.store.engine)
    return {
        table.name: (
            seen.get_pk_constraint(table.name),
            sorted(seen.get_indexes(table.name), key=str),
            sorted(seen.get_unique_constraints(table.name), key=str),
        )
        for table in COLUMNS
    }
