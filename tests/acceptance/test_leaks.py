"""A key has leaked: all that used it leaves service, is revoked and never used again; the rest stays as it is."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dualcert.clock import to_microseconds
from dualcert.lab.https import fetch
from dualcert.lifecycle import accountkeys, renewal
from dualcert.lifecycle.driver import Scope, run_until
from dualcert.lifecycle.engine import Engine
from dualcert.model.work import WorkKind
from dualcert.ports.ca import Account
from dualcert.store import accounts, pairs, work
from tests.brokenca import change, rows, without_dns
from tests.faults import AFTER, BEFORE, Death, Nursery, Point
from tests.labfixture import ProjectLab
from tests.program import Program, Result


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return f"a.{lab.domain}"


@pytest.fixture
def issued(program: Program, name: str) -> Program:
    program.done("issue", name)
    return program


def served(lab: ProjectLab, name: str) -> str:
    return hashlib.sha256(lab.handshake(name)).hexdigest()


def status(lab: ProjectLab, ca: str, serial: str) -> tuple[str, int | None]:
    """What the CA says of a certificate; Pebble knows serials without the zeros in front."""
    server = lab.alpha if ca == "alpha" else lab.beta
    url = f"{server.management_url}/cert-status-by-serial/{serial.lstrip('0')}"
    code, body = fetch(url, server.api_ca_pem)
    assert code == 200, body
    told = json.loads(body)
    return told["Status"], told.get("Reason")


def revoked_by_its_key(program: Program, name: str) -> list[str]:
    return [one["cause"] for one in program.events(name) if one["kind"] == "revoked"]


def summary(result: Result) -> Any:
    return result.lines[-1]


def history(program: Program) -> int:
    return len(program.done("events", "--json").lines)


def test_the_key_that_serves_is_left_revoked_and_replaced(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    before = issued.show(name)
    old, backup = before["primary"]["certificate"], before["backup"]["certificate"]

    done = issued.done("compromise", name, "--json")

    assert (summary(done)["promoted"], summary(done)["certificates"]) == (1, 1)
    after = issued.show(name)
    assert (after["protection"], after["primary"]["ca"], after["backup"]["ca"]) == (
        "protected",
        "beta",
        "alpha",
    )
    assert served(lab, name) == backup["sha256"]
    assert status(lab, "alpha", old["serial"]) == ("Revoked", 1)
    assert revoked_by_its_key(issued, name)[0].endswith("signed by the certificate's key")
    assert after["backup"]["certificate"]["spki_sha256"] != old["spki_sha256"]
    assert rows(issued, "SELECT spki FROM blocked_key") == [(bytes.fromhex(old["spki_sha256"]),)]
    kinds = [one["kind"] for one in issued.events(name)]
    promoted = kinds.index("promoted")
    assert promoted < kinds.index("verified", promoted) < kinds.index("revoked")


def test_said_twice_it_changes_nothing_more(lab: ProjectLab, issued: Program, name: str) -> None:
    key = issued.show(name)["primary"]["certificate"]["spki_sha256"]
    issued.done("compromise", "--spki", key)
    before = (history(issued), issued.show(name))

    again = issued.done("compromise", "--spki", key, "--json")

    assert (history(issued), issued.show(name)) == before
    assert (summary(again)["promoted"], summary(again)["problems"]) == (0, [])


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("since", [(), ("--since", "3d")])
def test_what_came_to_a_target_after_it_was_said_is_not_what_leaked(
    issued: Program, name: str, since: tuple[str, ...]
) -> None:
    leaked = issued.show(name)["primary"]["certificate"]["serial"]
    command = ("compromise", "--target", "web", *since)
    issued.done(*command)
    before = (history(issued), issued.show(name))

    again = issued.done(*command, "--json")

    assert (history(issued), issued.show(name)) == before
    assert [one["serial"] for one in again.lines[:-1]] == [leaked]
    assert "--again" in again.err
    anew = issued.done(*command, "--again", "--dry-run", "--json")
    assert before[1]["primary"]["certificate"]["serial"] in {one.get("serial") for one in anew.lines}


def test_a_target_that_leaks_long_after_is_looked_at_as_it_is_now(issued: Program, name: str) -> None:
    issued.done("compromise", "--target", "web")
    change(issued, "UPDATE event SET at = at - 7200000000")

    told = issued.done("compromise", "--target", "web", "--dry-run", "--json")

    serves = issued.show(name)["primary"]["certificate"]["serial"]
    assert serves in {one.get("serial") for one in told.lines}


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("role", ["primary", "backup"])
def test_by_name_it_means_the_key_of_that_moment_and_said_twice_no_other(
    issued: Program, name: str, role: str
) -> None:
    old = issued.show(name)
    command = ("compromise", name, "--role", role)
    issued.done(*command)
    before = (history(issued), issued.show(name))
    assert before[1][role]["certificate"]["serial"] != old[role]["certificate"]["serial"]

    again = issued.done(*command, "--json")

    assert (history(issued), issued.show(name)) == before
    assert old[role]["certificate"]["spki_sha256"] in summary(again)["compromised"]
    assert "--again" in again.err
    anew = issued.done(*command, "--again", "--dry-run", "--json")
    assert anew.lines[0]["serial"] == before[1][role]["certificate"]["serial"]


def test_by_name_it_means_another_key_when_the_first_is_long_done_with(issued: Program, name: str) -> None:
    issued.done("compromise", name)
    change(issued, "UPDATE event SET at = at - 7200000000")

    told = issued.done("compromise", name, "--dry-run", "--json")

    assert told.lines[0]["ca"] == "beta"


def test_the_time_until_it_is_revoked_although_it_serves_can_be_told(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    old = issued.show(name)["primary"]["certificate"]
    issued.done("revoke", name, "--role", "backup")
    without_dns(issued)
    issued.run("compromise", name, "--revoke-by", "2h", "--timeout", "2s")
    [(by, at)] = rows(issued, "SELECT revoke_by, requested_at FROM revocation_request")
    told = datetime.fromisoformat(
        next(one for one in issued.events(name) if one["kind"] == "compromised")["at"]
    )
    # It counts from when the leak was told, which is a moment before it is asked for.
    assert to_microseconds(told) + 2 * 3600 * 1_000_000 <= by < at + 2 * 3600 * 1_000_000
    assert status(lab, "alpha", old["serial"])[0] == "Valid"

    issued.run("compromise", name, "--revoke-by", "1m", "--timeout", "2s")

    [(sooner, at)] = rows(issued, "SELECT revoke_by, requested_at FROM revocation_request")
    assert to_microseconds(told) <= sooner <= at + 60 * 1_000_000 < by

    issued.run("compromise", name, "--revoke-by", "2s", "--timeout", "1s")
    issued.run("renew", "--due", "--timeout", "5s")

    assert status(lab, "alpha", old["serial"]) == ("Revoked", 1)


def test_a_private_key_that_was_found_names_its_certificate_and_goes_no_further(
    lab: ProjectLab, issued: Program, name: str, tmp_path: Path
) -> None:
    live = lab.directory / "live" / name
    found = tmp_path / "found.pem"
    found.write_bytes((live / "bundle.pem").read_bytes())
    secret = (live / "privkey.pem").read_text().splitlines()[1]

    done = issued.done("compromise", "--key", str(found), "-vv")

    assert issued.show(name)["primary"]["ca"] == "beta"
    assert secret not in done.out + done.err + issued.done("events", "--json").out
    by_certificate = issued.run("compromise", "--cert", str(found), "--json")
    assert summary(by_certificate)["certificates"] == 1


def test_a_dry_run_lists_all_and_changes_nothing(lab: ProjectLab, issued: Program, name: str) -> None:
    before = (history(issued), issued.show(name))

    told = issued.done("compromise", "--domain", "primary", "--dry-run", "--json")

    first = told.lines[0]
    assert (first["pair"], first["ca"], first["role"]) == (name, "alpha", "primary")
    assert first["would"] == "beta serves instead, then revoked"
    assert summary(told)["accounts"] == ["alpha"]
    assert summary(told)["orders"] == 0
    done = {"promoted", "ordered", "incident", "problems"}
    assert [summary(told)[key] for key in sorted(done)] == [None, None, [], None]
    told_people = issued.done("compromise", "--target", "web", "--dry-run").out
    assert "nothing was changed" in told_people
    assert "1 certificate that has not expired\n" in told_people
    assert (history(issued), issued.show(name)) == before


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_of_a_target_replaced_keys_count_that_were_there_in_time(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    first = issued.show(name)["primary"]["certificate"]
    issued.done("renew", name, "--force")
    second, standby = (issued.show(name)[role]["certificate"] for role in ("primary", "backup"))
    assert first["serial"] != second["serial"]
    change(issued, "UPDATE deployment SET left_at = left_at - 172800000000 WHERE left_at IS NOT NULL")
    change(issued, "UPDATE deployment SET arrived_at = arrived_at - 172800000000")

    since = issued.done("compromise", "--target", "web", "--since", "1d", "--dry-run", "--json")
    issued.done("compromise", "--target", "web")

    assert [one["serial"] for one in since.lines[:-1]] == [second["serial"]]
    assert {status(lab, "alpha", one["serial"])[0] for one in (first, second)} == {"Revoked"}
    assert status(lab, "beta", standby["serial"])[0] == "Valid"
    assert served(lab, name) == standby["sha256"]


def test_without_a_usable_backup_it_is_ordered_at_once_and_revoked_when_the_new_one_serves(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    old = issued.show(name)["primary"]["certificate"]
    issued.done("revoke", name, "--role", "backup")
    key = issued.show(name)["backup"]["certificate"]["spki_sha256"]
    # Nothing serves under that one; and nobody waits for the next backup.
    assert issued.run("compromise", "--spki", key, "--timeout", "0").status == 3

    done = issued.done("compromise", name, "--json")

    assert summary(done)["ordered"] == 1
    pair = issued.show(name)
    assert pair["protection"] == "protected"
    assert served(lab, name) == pair["primary"]["certificate"]["sha256"] != old["sha256"]
    assert status(lab, "alpha", old["serial"]) == ("Revoked", 1)


def test_a_pair_that_cannot_be_replaced_is_revoked_when_its_time_is_over(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    old = issued.show(name)["primary"]["certificate"]
    issued.done("revoke", name, "--role", "backup")
    without_dns(issued)
    waiting = issued.run("compromise", name, "--timeout", "3s")
    assert waiting.status == 3, waiting
    assert "it serves until another one is there" in waiting.err
    assert status(lab, "alpha", old["serial"])[0] == "Valid"

    change(issued, "UPDATE revocation_request SET revoke_by = requested_at - 1")
    change(issued, "UPDATE work SET due_at = 0 WHERE kind = 'revocation'")
    issued.run("compromise", name, "--timeout", "3s")

    assert status(lab, "alpha", old["serial"]) == ("Revoked", 1)


def test_a_key_that_is_kept_no_more_is_revoked_by_the_account_and_that_is_said(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    old = issued.show(name)["primary"]["certificate"]
    issued.done("renew", name, "--force")
    change(issued, "DELETE FROM wrapped_key WHERE spki = ?", bytes.fromhex(old["spki_sha256"]))

    issued.done("compromise", "--spki", old["spki_sha256"])

    assert status(lab, "alpha", old["serial"])[0] == "Revoked"
    [cause] = revoked_by_its_key(issued, name)
    assert "signed by the account" in cause
    assert "the CA does not block the key" in cause


# --- accounts and domains --------------------------------------------------------------------------------


def account(program: Program, ca: str) -> Account:
    with closing(program.application()) as application, application.world.store.read() as tx:
        stored = accounts.get(tx, ca)
        assert stored is not None
        assert stored.url is not None
        return Account(stored.url, accountkeys.open_key(application.world, stored.key))


def is_known(program: Program, ca: str, by: Account) -> bool:
    with closing(program.application()) as application:
        return application.world.ca(ca).authority().find_account(by.key) is not None


def test_an_accounts_key_is_rolled_over_and_the_old_one_refused(issued: Program, name: str) -> None:
    old = account(issued, "alpha")
    [(key,)] = rows(issued, "SELECT spki FROM account WHERE ca = 'alpha'")

    done = issued.done("compromise", "--spki", key.hex(), "--json")
    again = issued.done("compromise", "--spki", key.hex(), "--json")

    assert (summary(done)["accounts"], summary(again)["accounts"]) == (["alpha"], [])
    assert not is_known(issued, "alpha", old)
    assert is_known(issued, "alpha", account(issued, "alpha"))
    issued.done("renew", name, "--force")
    assert rows(issued, "SELECT spki FROM blocked_key") == [(key,)]


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_one_kek_leaked_and_the_other_side_is_untouched(lab: ProjectLab, issued: Program, name: str) -> None:
    other = f"b.{lab.domain}"
    issued.done("issue", other, "--primary", "beta", "--backup", "alpha")
    before = {one: issued.show(one) for one in (name, other)}
    keks = {one.name: one.read_bytes() for one in (lab.directory / "keys").iterdir()}
    old = account(issued, "alpha")
    theirs = rows(issued, "SELECT spki, wrapped FROM account WHERE ca = 'beta'")

    done = issued.done("compromise", "--domain", "primary", "--json")
    count = history(issued)
    again = issued.done("compromise", "--domain", "primary", "--json")

    assert (summary(done)["certificates"], summary(done)["promoted"], summary(done)["accounts"]) == (
        2,
        1,
        ["alpha"],
    )
    now = {one.name: one.read_bytes() for one in (lab.directory / "keys").iterdir()}
    assert now["backup.kek"] == keks["backup.kek"]
    assert now["primary.kek"] != keks["primary.kek"]
    assert keks["primary.kek"] not in now.values()
    for pair in (name, other):
        shown = issued.show(pair)
        assert (shown["protection"], shown["primary"]["ca"]) == ("protected", "beta")
        side = "primary" if before[pair]["primary"]["ca"] == "alpha" else "backup"
        stays = "backup" if side == "primary" else "primary"
        assert status(lab, "alpha", before[pair][side]["certificate"]["serial"]) == ("Revoked", 1)
        assert status(lab, "beta", before[pair][stays]["certificate"]["serial"])[0] == "Valid"
        assert shown["primary"]["certificate"] == before[pair][stays]["certificate"]
    assert rows(issued, "SELECT spki, wrapped FROM account WHERE ca = 'beta'") == theirs
    assert not is_known(issued, "alpha", old)
    # What was made since is good, and stays.
    assert "--again" in again.err
    assert (summary(again)["promoted"], history(issued)) == (0, count)
    # A dry run of the same says no more than that.
    foretold = issued.done("compromise", "--domain", "primary", "--dry-run", "--json")
    assert summary(foretold)["accounts"] == summary(again)["accounts"] == []
    assert {one["would"] for one in foretold.lines[:-1]} == {"nothing, it is revoked"}
    said = issued.done("compromise", "--domain", "primary", "--dry-run").out
    assert ("account" in said, "KEK" in said) == (False, False)
    said = issued.done("compromise", "--domain", "primary", "--again", "--dry-run").out
    assert ("account at alpha" in said, "gets a new KEK first" in said) == (True, True)
    anew = issued.done("compromise", "--domain", "primary", "--again", "--dry-run", "--json")
    assert summary(anew)["certificates"] == 4


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_a_refill_that_an_order_under_way_has_overtaken_is_not_ordered_again(
    issued: Program, name: str
) -> None:
    with closing(issued.application()) as application:
        world = application.world
        with world.store.write() as tx:
            pair = pairs.by_name(tx, name)
            assert pair is not None
            renewal.open_orders(tx, pair, pairs.lineages(tx, [pair.id]), "asked for")
            # Wanted while the orders are under way, and taken up only after they are done.
            for ca in ("alpha", "beta"):
                work.schedule(tx, WorkKind.REFILL, pair.id, tx.now + timedelta(hours=1), ca=ca)
        kinds = [one for one in WorkKind if one is not WorkKind.REFILL]
        deadline = world.clock.now() + timedelta(minutes=1)
        run_until(Engine(world), Scope(frozenset([pair.id]), tuple(kinds)), deadline)
        with world.store.read() as tx:
            assert work.of_pairs(tx, [pair.id], list(WorkKind)) == []
    assert rows(issued, "SELECT count(*) FROM certificate") == [(4,)]


# --- more than may turn, and less than there is ----------------------------------------------------------


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_above_the_brake_an_incident_is_opened_and_no_pair_turns(lab: ProjectLab, program: Program) -> None:
    names = [f"n{number}.{lab.domain}" for number in range(11)]
    for one in names:
        program.done("issue", one)

    stopped = program.run("compromise", "--target", "web", "--json")
    again = program.run("compromise", "--target", "web", "--json")

    assert (stopped.status, again.status) == (3, 3)
    assert summary(stopped)["incident"] == summary(again)["incident"] == 1
    assert "more than 10" in summary(stopped)["brake"]
    assert {program.show(one)["epoch"] for one in names} == {0}
    assert rows(program, "SELECT count(*) FROM incident_member") == [(11,)]
    assert rows(program, "SELECT count(*) FROM blocked_key") == [(0,)]

    leaked = {program.show(one)["primary"]["certificate"]["serial"] for one in names}
    planned = program.done("incident", "plan", "1", "--json").json["plan"]
    program.done("incident", "run", "1", "--plan", planned)
    done = program.done("compromise", "--target", "web", "--json")

    assert {one["serial"] for one in done.lines[:-1]} == leaked
    assert (summary(done)["promoted"], summary(done)["incident"]) == (0, None)
    assert {status(lab, "alpha", one) for one in leaked} == {("Revoked", 1)}
    shown = [program.show(one) for one in names]
    # No CA is in trouble where keys have leaked: refills at the one that all of them served from are not held.
    assert {(one["epoch"], one["protection"]) for one in shown} == {(1, "protected")}


def test_an_order_under_a_leaked_key_is_given_up_and_placed_again(
    lab: ProjectLab, program: Program, name: str
) -> None:
    text = lab.config_path.read_text()
    lab.config_path.write_text(text.replace('tsig_name = "', 'tsig_name = "not-'))
    assert program.run("issue", name, "--timeout", "2s").status != 0
    [(key,)] = rows(program, "SELECT spki FROM acme_order WHERE ca = 'beta' AND step = 'placed'")
    lab.config_path.write_text(text)

    program.done("compromise", "--spki", key.hex())

    assert rows(program, "SELECT step FROM acme_order WHERE spki = ?", key) == [("abandoned",)]
    assert program.show(name)["protection"] == "protected"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "say one of"),
        (("x.example", "--target", "web"), "say one of"),
        (("--domain", "primary", "--since", "1d"), "--since belongs to --target"),
        (("--spki", "ab" * 32, "--again"), "--again to NAME, --target or --domain"),
        (("--target", "web", "--since", "soon"), "Write it like 3d or 2026-03-01T12:00Z."),
        (("--target", "web", "--revoke-by", "soon"), "--revoke-by"),
        (("--target", "web", "--revoke-by", "2020-01-01"), "the time that was said first stands"),
        (("--target", "web", "--revoke-by", "0", "--dry-run"), "the time that was said first stands"),
        (("--spki", "abc"), "64 hexadecimal digits"),
        (("--spki", "ab" * 32), "no key of ours"),
        (("--domain", "nowhere"), "there is no isolation domain"),
        (("--target", "nowhere"), "there is no target"),
        (("--key", "nowhere.pem"), "cannot be read"),
        (("--cert", "nowhere.pem"), "cannot be read"),
        (("--cert", "dualcert.toml"), "holds no certificate"),
        (("--key", "dualcert.toml"), "holds no private key"),
        (("--key", "broken.pem"), "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_do_instead(
    program: Program, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(program.config.parent)
    Path("broken.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    refused = program.run("compromise", *arguments)
    assert refused.status == 2, refused
    assert says in refused.err
    assert re.search(r"^  \S", refused.err, re.MULTILINE), "a remedy stands below"


# --- killed in between -----------------------------------------------------------------------------------

DEATHS = [
    Death(Point(what, 1), side)
    for what in (
        "commit main: promotion._turned",
        "commit main: compromise._leave",
        "files: rename",
        "target web: purge",
        "ca alpha: revoke",
        "ca alpha: new_order",
        "ca alpha: finalize",
    )
    for side in (BEFORE, AFTER)
]


@pytest.mark.parametrize("death", DEATHS, ids=str)
def test_whoever_comes_after_a_killed_one_finishes(
    lab: ProjectLab, issued: Program, nursery: Nursery, name: str, death: Death
) -> None:
    old, new = (issued.show(name)[role]["certificate"] for role in ("primary", "backup"))
    command = ("compromise", "--spki", old["spki_sha256"], "--json")

    assert nursery.run(lab.config_path, *command, death=death).killed
    after = nursery.run(lab.config_path, *command)

    assert after.status == 0, after
    pair = issued.show(name)
    assert (pair["protection"], pair["epoch"], pair["primary"]["ca"]) == ("protected", 1, "beta")
    assert served(lab, name) == new["sha256"]
    assert status(lab, "alpha", old["serial"]) == ("Revoked", 1)
    kinds = [one["kind"] for one in issued.events(name)]
    assert (kinds.count("promoted"), kinds.count("key-blocked")) == (1, 1)


@pytest.mark.parametrize(
    "death",
    [
        Death(Point("commit main: promotion._turned", 1), AFTER),
        Death(Point("ca alpha: revoke", 1), BEFORE),
        Death(Point("ca alpha: revoke", 1), AFTER),
    ],
    ids=str,
)
def test_whoever_types_the_name_again_after_a_killed_one_leaves_no_other_key(
    lab: ProjectLab, issued: Program, nursery: Nursery, name: str, death: Death
) -> None:
    before = issued.show(name)
    assert nursery.run(lab.config_path, "compromise", name, death=death).killed
    change(issued, "UPDATE event SET at = at - 7200000000")  # and not at once

    issued.done("compromise", name)

    pair = issued.show(name)
    assert (pair["protection"], pair["epoch"]) == ("protected", 1)
    assert pair["primary"]["certificate"] == before["backup"]["certificate"]
    assert status(lab, "alpha", before["primary"]["certificate"]["serial"]) == ("Revoked", 1)


def test_a_certificate_that_was_under_way_under_a_leaked_key_is_revoked_when_it_comes(
    lab: ProjectLab, program: Program, nursery: Nursery, name: str
) -> None:
    assert nursery.run(
        lab.config_path, "issue", name, death=Death(Point("ca beta: finalize", 1), AFTER)
    ).killed
    [(key,)] = rows(program, "SELECT spki FROM acme_order WHERE ca = 'beta' AND step = 'finalizing'")

    program.done("compromise", "--spki", key.hex())
    program.done("issue", name)

    [(serial, flaw)] = rows(program, "SELECT serial, flaw FROM certificate WHERE spki = ?", key)
    assert "blocked" in flaw
    assert status(lab, "beta", serial.hex()) == ("Revoked", 1)
    pair = program.show(name)
    assert pair["protection"] == "protected"
    assert pair["backup"]["certificate"]["spki_sha256"] != key.hex()


@pytest.mark.parametrize(("late", "epoch"), [("alpha", 1), ("beta", 2)])
def test_where_both_keys_lay_on_the_server_neither_takes_over(
    lab: ProjectLab, issued: Program, name: str, late: str, epoch: int
) -> None:
    """A new primary replaces what has leaked. A new backup that comes first is turned to at once."""
    before = issued.show(name)
    issued.done("failover", name)  # the one that served before is a usable backup, and its key was there
    told = issued.done("compromise", "--target", "web", "--dry-run", "--json")
    assert {one["would"] for one in told.lines[:-1]} == {
        "revoked",
        "ordered anew, then revoked: the backup's key leaked too",
    }

    issued.done("freeze", late)
    done = issued.run("compromise", "--target", "web", "--json")
    assert done.status == 3
    assert f"its backup is not there yet: no order goes there: CA {late} is frozen" in done.err
    issued.done("thaw", late)
    issued.done("renew", "--due")

    assert (summary(done)["promoted"], summary(done)["ordered"]) == (0, 1)
    pair = issued.show(name)
    assert (pair["protection"], pair["epoch"]) == ("protected", epoch)
    assert served(lab, name) == pair["primary"]["certificate"]["sha256"]
    for role in ("primary", "backup"):
        held = before[role]
        assert status(lab, held["ca"], held["certificate"]["serial"]) == ("Revoked", 1)


@pytest.mark.parametrize(
    "death",
    [
        Death(Point("keys primary: new_kek", 1), AFTER),
        Death(Point("keys primary: drop_kek", 1), BEFORE),
        Death(Point("commit main: compromise._replace_kek", 1), AFTER),
        Death(Point("commit main: accountkeys._begin", 1), AFTER),
    ],
    ids=str,
)
def test_a_domains_leak_is_finished_by_whoever_comes_after_a_killed_one(
    lab: ProjectLab, issued: Program, nursery: Nursery, name: str, death: Death
) -> None:
    old = {role: issued.show(name)[role]["certificate"] for role in ("primary", "backup")}
    before, theirs = account(issued, "alpha"), account(issued, "beta")
    command = ("compromise", "--domain", "primary")

    assert nursery.run(lab.config_path, *command, death=death).killed
    issued.done(*command)

    pair = issued.show(name)
    assert (pair["protection"], pair["primary"]["ca"]) == ("protected", "beta")
    assert pair["primary"]["certificate"] == old["backup"]
    assert status(lab, "alpha", old["primary"]["serial"]) == ("Revoked", 1)
    assert not is_known(issued, "alpha", before)
    assert account(issued, "beta") == theirs
    assert {one.name for one in (lab.directory / "keys").iterdir()} == {"primary.kek", "backup.kek"}
