"""Replacing a KEK while everything goes on; and the end of keys."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dualcert.errors import KeyUnreadable
from dualcert.lifecycle import keymaking
from dualcert.plugins.keys.file import FileKeyOptions, FileKeyProtector
from dualcert.ports.keys import KeyContext
from dualcert.store import certificates
from dualcert.store.tables import account, wrapped_key
from tests.brokenca import CERTIFICATE, NEW_ORDER, Broken, broken, change, clock, database_of, rows
from tests.crowd import Call, crowd
from tests.faultproxy import Hang
from tests.faults import AFTER, BEFORE, Nursery
from tests.labfixture import ProjectLab
from tests.program import Program, finish

_PATIENCE = 30.0


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


def wait_for(what: Callable[[], object]) -> None:
    end = clock.monotonic() + _PATIENCE
    while not what():
        assert clock.monotonic() < end
        clock.sleep(0.02)


def served(lab: ProjectLab, name: str) -> str:
    return hashlib.sha256(lab.handshake(name)).hexdigest()


def keks(lab: ProjectLab) -> set[str]:
    return {path.name for path in (lab.directory / "keys").iterdir()}


def demand_all_open(program: Program) -> set[str]:
    """Every key in the database opens, as a process that starts now opens it; the ids of their KEKs."""
    with closing(program.application()) as application:
        world = application.world
        with world.store.read() as tx:
            for row in tx.execute(select(wrapped_key)):
                assert keymaking.unwrap(world, certificates.wrapped(tx, row.spki))
            found = {row.key_id for row in tx.execute(select(wrapped_key))}
            for row in tx.execute(select(account)):
                context = KeyContext(row.domain, row.spki.hex(), "account")
                assert world.protector(row.domain).unwrap(row.wrapped, context)
                found.add(row.key_id)
        assert found <= {world.protector(domain).key_id for domain in world.protectors}
    return found


# --- rotating ---------------------------------------------------------------------------------------------


def test_after_a_rotation_everything_goes_on(lab: ProjectLab, program: Program, name: str) -> None:
    before = program.done("issue", name, "--json").json
    old = demand_all_open(program)

    done = program.done("keys", "rotate", "backup", "--json").json
    program.done("keys", "rotate", "primary")

    assert done["domain"] == "backup"
    assert (done["made"], done["rewrapped"], done["failed"], done["problems"]) == (True, 2, 0, [])
    assert not demand_all_open(program) & old
    assert {done["kek"], *done["dropped"]}.isdisjoint({""})
    assert set(done["dropped"]) < old
    assert keks(lab) == {"primary.kek", "backup.kek"}
    moved = program.done("failover", name, "--revoke", "--reason", "keyCompromise", "--json").json
    assert moved["to"]["serial"] == before["backup"]["certificate"]["serial"]
    assert moved["revoked"] is True
    program.done("renew", "--due")
    assert program.show(name)["protection"] == "protected"
    assert served(lab, name) == before["backup"]["certificate"]["sha256"]


def test_it_tells_a_person_what_it_has_done(program: Program, name: str) -> None:
    program.done("issue", name)
    said = program.done("keys", "rotate", "primary").out.splitlines()
    assert len(said) == 3
    assert "wraps from now on (keep a copy" in said[0]
    assert "primary: 2 keys wrapped anew" in said[1]
    assert "is removed" in said[2]


def test_a_domain_that_is_not_there_is_a_usage_error(program: Program) -> None:
    result = program.run("keys", "rotate", "third")
    assert result.status == 2
    assert "there is no isolation domain 'third'" in result.err
    assert "backup, primary" in result.err


def test_a_key_that_does_not_open_is_told_with_its_pair_and_ca(program: Program, name: str) -> None:
    program.done("issue", name)
    change(program, "UPDATE wrapped_key SET wrapped = zeroblob(200) WHERE domain = 'backup'")

    result = program.run("keys", "rotate", "backup", "--json")

    assert result.status == 3, result
    [problem] = result.json["problems"]
    assert (problem["pair"], problem["ca"]) == (name, "beta")
    assert (result.json["failed"], result.json["rewrapped"], result.json["dropped"]) == (1, 1, [])
    again = program.run("keys", "rotate", "backup")
    assert again.status == 3
    assert f"{name}, CA beta, " in again.err
    assert "1 key could not be wrapped anew" in again.err
    assert "stays: keys that do not open lie under it" in again.err


def test_init_makes_no_other_kek_in_the_place_of_one_that_is_missed(
    lab: ProjectLab, program: Program, name: str
) -> None:
    """It would open nothing, and the next failover would find that out."""
    program.done("issue", name)
    kek = lab.directory / "keys" / "primary.kek"
    kept = kek.rename(lab.directory / "kept")
    lost = program.run("issue", name)
    assert (lost.status, "bring it back from a backup" in lost.err) == (2, True)

    refused = program.run("init")

    assert (refused.status, kek.exists()) == (4, False)
    assert "the KEK of domain 'primary' is missing" in refused.err
    assert "Bring the file back" in refused.err
    kept.rename(kek)
    assert program.done("init", "--json").json["keys"] == []
    program.done("failover", name)


def test_it_is_made_ready_for_other_machines_first(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)

    first = program.done("keys", "rotate", "primary", "--keep-old", "--json").json

    [kept] = first["kept"]
    assert keks(lab) == {"primary.kek", "backup.kek", f"primary.kek.{kept['kek']}"}
    again = program.run("keys", "rotate", "primary", "--keep-old")
    assert (again.status, "nothing to do" in again.out) == (0, True)
    last = program.done("keys", "rotate", "primary", "--json").json
    assert (last["made"], last["kek"], last["dropped"]) == (False, first["kek"], [kept["kek"]])
    assert keks(lab) == {"primary.kek", "backup.kek"}


def test_what_a_rotation_heals_and_what_it_does_not(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path
) -> None:
    program.done("issue", name)
    stolen = shutil.copytree(lab.directory / "keys", tmp_path / "stolen")
    before = copied(program, tmp_path / "before.db")

    program.done("keys", "rotate", "primary")

    after = copied(program, tmp_path / "after.db")
    leaked = FileKeyProtector("primary", FileKeyOptions(path=stolen / "primary.kek"))
    assert opened(leaked, before), "an old copy still opens, and holds the keys that serve"
    with pytest.raises(KeyUnreadable):
        opened(leaked, after)
    for row in rows_of(before):
        assert row["wrapped"] not in after.read_bytes()


def copied(program: Program, to: Path) -> Path:
    with closing(sqlite3.connect(database_of(program))) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
    return to


def rows_of(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        return list(connection.execute("SELECT * FROM wrapped_key WHERE domain = 'primary'"))


def opened(protector: FileKeyProtector, database: Path) -> list[bytes]:
    return [
        protector.unwrap(row["wrapped"], KeyContext("primary", row["spki"].hex()))
        for row in rows_of(database)
    ]


def test_on_several_machines_each_takes_the_new_kek_and_finishes(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path
) -> None:
    """As docs/security.md has it; here the other one has the same database in another place."""
    program.done("issue", name)
    here, there = (folder / "keys" for folder in (lab.directory, tmp_path))
    shutil.copytree(here, there)
    config = lab.directory / "there.toml"
    config.write_text(program.config.read_text().replace('"keys/', f'"{there}/'))
    other = Program(config)
    machines = (program, other)
    before = demand_all_open(other)

    coming = program.done("keys", "rotate", "primary", "--prepare", "--json").json["prepared"]
    assert coming not in demand_all_open(program)
    shutil.copy2(here / "primary.kek.next", there / "primary.kek.next")
    for number, machine in enumerate(machines):
        done = machine.done("keys", "rotate", "primary", "--keep-old", "--json").json
        assert (done["kek"], done["made"], len(done["kept"])) == (coming, True, 1)
        # Under the new one here, under the old one there as long as it was not there's turn.
        for each in machines:
            each.done("issue", f"{'ab'[number]}{machines.index(each)}.{name}")
    done = [one.done("keys", "rotate", "primary", "--finish", "--json").json for one in machines]

    assert [(one["made"], len(one["dropped"])) for one in done] == [(False, 1), (False, 1)]
    assert {path.name for path in there.iterdir()} == keks(lab) == {"primary.kek", "backup.kek"}
    after = demand_all_open(program)
    assert after == demand_all_open(other)
    assert len(after & before) == 1
    again = other.run("keys", "rotate", "primary", "--finish")
    assert (again.status, "nothing to do" in again.out) == (0, True)
    assert other.run("keys", "rotate", "primary", "--finish", "--new").status == 2


def test_who_finds_an_older_kek_beside_it_is_told_that_none_was_made(program: Program, name: str) -> None:
    """Whoever rotates because a KEK has leaked must not believe that it wraps nothing any more."""
    program.done("issue", name)
    program.done("keys", "rotate", "primary", "--keep-old")

    gone_on = program.done("keys", "rotate", "primary")
    assert "no new KEK was made" in gone_on.out
    assert "--new" in gone_on.out
    fresh = program.done("keys", "rotate", "primary")
    assert "no new KEK was made" not in fresh.out


# --- beside others ----------------------------------------------------------------------------------------


@pytest.fixture
def scene(lab: ProjectLab, program: Program, tmp_path: Path) -> Iterator[Broken]:
    with broken(lab, program, "alpha", tmp_path) as scene:
        yield scene


def test_in_the_middle_of_an_issuance_by_a_process_that_knows_the_old_kek_alone(
    lab: ProjectLab, scene: Broken
) -> None:
    program, name = scene.program, scene.name
    scene.proxy.on(CERTIFICATE, Hang())
    with program.start("issue", name, "--json") as running:
        wait_for(lambda: scene.proxy.count(CERTIFICATE))

        for domain in ("primary", "backup"):
            program.done("keys", "rotate", domain)
        assert keks(lab) == {"primary.kek", "backup.kek"}

        scene.proxy.release()
        issued = finish(running)

    assert issued.status == 0, issued
    assert served(lab, name) == issued.json["primary"]["certificate"]["sha256"]
    demand_all_open(program)
    assert program.done("failover", name, "--json").json["targets"][0]["verified"] == "wire"


def test_what_a_process_wraps_that_began_before_lies_under_the_new_kek(
    lab: ProjectLab, scene: Broken
) -> None:
    """Its order is lost, and it makes a new key for another."""
    program, name = scene.program, scene.name
    scene.proxy.on(NEW_ORDER, Hang())
    with program.start("issue", name, "--json") as running:
        wait_for(lambda: scene.proxy.count(NEW_ORDER))
        old = {row[0] for row in scene.rows("SELECT spki FROM wrapped_key WHERE domain = 'primary'")}

        program.done("keys", "rotate", "primary")
        scene.proxy.hang_up()
        scene.proxy.release()
        issued = finish(running)

    assert issued.status == 0, issued
    new = {row[0] for row in scene.rows("SELECT spki FROM wrapped_key WHERE domain = 'primary'")}
    assert old < new
    demand_all_open(program)


def test_many_that_issue_and_some_that_rotate_lose_no_key(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path
) -> None:
    names = [f"n{number}.{name}" for number in range(6)]
    calls = [Call(("issue", one), 0.1 * number) for number, one in enumerate(names)]
    calls += [
        Call(("keys", "rotate", domain), 0.3 + 0.2 * number)
        for number in range(4)
        for domain in ("primary", "backup")
    ]

    ended = crowd(program, calls, tmp_path)

    assert [one for one in ended[: len(names)] if one.status] == []
    assert [one for one in ended[len(names) :] if one.status not in {0, 4}] == []
    for domain in ("primary", "backup"):
        assert program.run("keys", "rotate", domain).status == 0
    demand_all_open(program)
    assert keks(lab) == {"primary.kek", "backup.kek"}
    for one in names:
        program.done("failover", one)


# --- killed anywhere --------------------------------------------------------------------------------------


def test_killed_at_any_point_the_same_command_goes_on(
    lab: ProjectLab, program: Program, nursery: Nursery, name: str
) -> None:
    program.done("issue", name)
    command = ("keys", "rotate", "primary", "--json")
    whole = nursery.run(lab.config_path, *command)
    assert whole.status == 0, whole
    deaths = [death for side in (BEFORE, AFTER) for death in whole.deaths(side)]
    assert {"keys primary: new_kek", "keys primary: drop_kek"} <= {death.point.what for death in deaths}
    assert len(deaths) >= 14
    for death in deaths:
        before = demand_all_open(program)
        died = nursery.run(lab.config_path, *command, death=death)
        assert died.killed, (death, died)
        demand_all_to_open(program)

        after = nursery.run(lab.config_path, *command)

        assert after.status == 0, (death, after)
        assert keks(lab) == {"primary.kek", "backup.kek"}, death
        assert demand_all_open(program) != before, death
        assert rows(program, "SELECT * FROM lease") == []
    program.done("failover", name)
    program.done("failover", name, "--to", "alpha")


def demand_all_to_open(program: Program) -> None:
    """Whatever lies under which KEK: a command that starts now can use it."""
    with closing(program.application()) as application:
        world = application.world
        with world.store.read() as tx:
            for row in tx.execute(select(wrapped_key)):
                assert keymaking.unwrap(world, certificates.wrapped(tx, row.spki))


# --- hiding -----------------------------------------------------------------------------------------------


def test_nothing_secret_is_shown(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    file = lab.directory / "keys" / "primary.kek"
    secrets = [file.read_text().strip()]
    change(program, "UPDATE wrapped_key SET wrapped = zeroblob(200) WHERE domain = 'primary'")
    results = [
        program.run("keys", "rotate", "primary", "-vv", "--log-format", "json"),
        program.run("keys", "rotate", "primary", "--new", "--json", "-vv"),
    ]
    secrets.append(file.read_text().strip())
    assert len(set(secrets)) == 2
    said = "".join(one.out + one.err for one in results) + json.dumps(program.done("events", "--json").lines)
    for secret in secrets:
        raw = base64.b64decode(secret)
        assert not [form for form in (secret, raw.hex(), repr(raw)[2:-1]) if form in said]
    assert "PRIVATE KEY" not in said


# --- the end of keys --------------------------------------------------------------------------------------


def test_a_key_goes_at_the_scheduled_run_after_its_certificate_has_ended(program: Program, name: str) -> None:
    program.done("issue", name)
    ends = "SELECT w.destroy_at, c.not_after FROM wrapped_key w JOIN certificate c ON c.spki = w.spki"
    assert len({at for at, _ in rows(program, ends)}) >= 1
    assert all(at == not_after for at, not_after in rows(program, ends))
    assert program.done("renew", "--due", "--json").json["keys_destroyed"] == 0
    [replaced] = rows(program, "SELECT spki FROM certificate WHERE ca = 'beta'")
    program.done("renew", name, "--force")
    # What stands ready keeps its key until another takes its place, whatever the time.
    change(program, "UPDATE wrapped_key SET destroy_at = 1 WHERE domain = 'backup'")

    assert program.done("renew", "--due", "--json").json["keys_destroyed"] == 1

    left = rows(program, "SELECT domain, spki FROM wrapped_key ORDER BY domain")
    assert [domain for domain, _ in left] == ["backup", "primary", "primary"]
    assert left[0][1] != replaced[0]
    assert len(rows(program, "SELECT * FROM public_key")) == 4
    [gone] = [one for one in program.events(name) if one["kind"] == "key-destroyed"]
    assert (gone["pair"], gone["ca"]) == (name, "beta")
    change(program, "DELETE FROM wrapped_key WHERE domain = 'backup'")
    refused = program.run("failover", name)
    assert refused.status == 4
    assert "not kept any more" in refused.err


def test_the_key_of_a_certificate_that_must_not_be_used_goes_with_it_too(
    lab: ProjectLab, program: Program, name: str
) -> None:
    text = program.config.read_text()
    head, section, rest = text.partition("[ca.beta]\n")
    lines = [line for line in rest.splitlines() if not line.startswith("trust_roots")]
    program.config.write_text(head + section + "\n".join(lines) + "\n")
    program.run("issue", name, "--timeout", "5s")
    found: list[Any] = rows(
        program,
        "SELECT w.destroy_at, c.not_after, c.flaw FROM wrapped_key w JOIN certificate c ON c.spki = w.spki "
        "WHERE c.ca = 'beta'",
    )
    assert found
    assert all(flaw and at == not_after for at, not_after, flaw in found)
