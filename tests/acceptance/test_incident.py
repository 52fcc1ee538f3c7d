"""A mass revocation in small: certificates are named, planned, promoted wave by wave, and seen on the wire."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import pty
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from dualcert import bootstrap
from dualcert.lab.https import fetch
from dualcert.lifecycle import inventory
from dualcert.lifecycle.inventory import PairRequest
from tests.brokenca import without_dns
from tests.labfixture import ProjectLab
from tests.program import Program, Result

SERVING, BACKUP = "primary", "backup"


def issue(lab: ProjectLab, program: Program, count: int) -> list[str]:
    names = [f"n{number}.{lab.domain}" for number in range(count)]
    for name in names:
        program.done("issue", name)
    return names


def serial(program: Program, name: str, role: str = SERVING) -> str:
    return str(program.show(name)[role]["certificate"]["serial"])


def serving_ca(program: Program, name: str) -> str:
    return str(program.show(name)["primary"]["ca"])


def a_file(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "serials.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def open_incident(program: Program, *selector: str, within: str = "24h") -> Any:
    return program.done("incident", "open", "--title", "a test", "--within", within, *selector, "--json").json


def plan(program: Program, number: int = 1) -> Any:
    return program.done("incident", "plan", str(number), "--json").json


def run(program: Program, digest: str, *more: str, number: int = 1) -> Result:
    return program.run("incident", "run", str(number), "--plan", digest, *more, "--json")


def status(program: Program, number: int = 1) -> Any:
    return program.done("incident", "status", str(number), "--json").json


def served(lab: ProjectLab, name: str) -> str:
    return hashlib.sha256(lab.handshake(name)).hexdigest()


@pytest.fixture
def names(lab: ProjectLab, program: Program) -> list[str]:
    return issue(lab, program, 4)


def test_from_a_file_of_serials_to_the_backups_on_the_wire(
    lab: ProjectLab, program: Program, names: list[str], tmp_path: Path
) -> None:
    before = {name: program.show(name) for name in names}
    serials = [serial(program, name) for name in names[:3]]
    with_colons = ":".join(serials[1][i : i + 2] for i in range(0, len(serials[1]), 2)).upper()
    published = f'12345,"00{serials[2]}",2027-01-01T00:00:00Z,{names[2]}'
    lines = (serials[0], with_colons, published, "deadbeef", "no serial", "# a remark")

    opened = open_incident(program, "--ca", "alpha", "--serials", a_file(tmp_path, *lines))
    assert (opened["members"], opened["unknown"], opened["unreadable"]) == (3, 1, 1)
    assert {one["line"] for one in opened["strays"]} == {4, 5}

    planned = plan(program)
    assert {key: planned[key] for key in ("affected", "serving", "standby", "usable", "not_usable")} == {
        "affected": 3,
        "serving": 3,
        "standby": 0,
        "usable": 3,
        "not_usable": 0,
    }
    assert [serving_ca(program, name) for name in names] == ["alpha"] * 4

    result = run(program, planned["plan"])

    assert result.status == 0, result
    assert (result.json["promoted"], result.json["observed"]) == (3, 3)
    assert (result.json["skipped"], result.json["failed"], result.json["protected"]) == (0, 0, 0)
    for name in names[:3]:
        assert served(lab, name) == before[name]["backup"]["certificate"]["sha256"]
    assert served(lab, names[3]) == before[names[3]]["primary"]["certificate"]["sha256"]
    assert program.show(names[0])["protection"] == "unprotected"


def test_twenty_five_pairs_go_from_a_packed_list_to_the_wire_wave_by_wave(
    lab: ProjectLab, program: Program, tmp_path: Path
) -> None:
    names = [f"n{number}.{lab.domain}" for number in range(25)]
    with closing(bootstrap.build(bootstrap.load_settings(lab.config_path))) as application:
        for name in names:
            inventory.ensure(application.world, PairRequest((name,)))
    program.done("renew", "--due")
    before = {one["pair"]: one for one in program.done("list", "--json").lines}
    assert {one["protection"] for one in before.values()} == {"protected"}
    path = tmp_path / "serials.gz"
    serials = (one["primary"]["certificate"]["serial"] for one in before.values())
    path.write_bytes(gzip.compress("\n".join(serials).encode()))

    assert open_incident(program, "--ca", "alpha", "--serials", str(path))["members"] == 25
    planned = plan(program)
    result = run(program, planned["plan"])

    assert result.status == 0, result
    told = {
        key: result.json[key] for key in ("affected", "usable", "promoted", "deployed", "observed", "skipped")
    }
    assert told == dict.fromkeys(told, 25) | {"skipped": 0}
    assert (result.json["run"]["wave"], result.json["run"]["waves"]) == (3, "1%,10%,100%")
    wanted = {name: one["backup"]["certificate"]["sha256"] for name, one in before.items()}
    assert {name: served(lab, name) for name in names} == wanted
    lines = list(csv.DictReader(io.StringIO(program.done("incident", "report", "1", "--format", "csv").out)))
    assert {(line["pair"], line["observed"]) for line in lines} == {(name, "wire") for name in names}
    both = program.done("incident", "report", "1", "--format", "csv", "--json").json
    assert len(both["certificates"]) == len(lines)


def test_a_finished_incident_run_again_does_nothing(program: Program, names: list[str]) -> None:
    open_incident(program, "--ca", "alpha")
    planned = plan(program)
    first = run(program, planned["plan"])
    assert first.status == 0, first
    events = program.done("events", "--json").out

    again = run(program, planned["plan"])

    assert again.status == 0
    assert "nothing was done" in again.err
    assert program.done("events", "--json").out == events
    assert {name: program.show(name)["epoch"] for name in names} == dict.fromkeys(names, 1)


def test_another_hash_than_the_newest_plans_is_refused(program: Program, names: list[str]) -> None:
    open_incident(program, "--ca", "alpha")
    old = plan(program)["plan"]
    program.done("failover", names[0])
    new = plan(program)["plan"]
    assert old != new

    for digest in (old, "00" * 32, "nonsense"):
        result = run(program, digest)
        assert result.status == 4, result
        assert "incident plan 1" in result.err
    assert status(program)["promoted"] == 0

    assert run(program, new).json["observed"] == 3


def test_a_backup_revoked_between_plan_and_run_is_refused_and_the_rest_goes_on(
    program: Program, names: list[str]
) -> None:
    open_incident(program, "--ca", "alpha")
    planned = plan(program)
    program.done("revoke", names[1], "--role", "backup")

    result = run(program, planned["plan"])

    assert result.status == 3, result
    assert (result.json["observed"], result.json["skipped"]) == (3, 1)
    [stuck] = result.json["stuck"]
    assert (stuck["pair"], stuck["state"], stuck["reason"]) == (names[1], "skipped", "revoked")
    assert serving_ca(program, names[1]) == "alpha"


def test_a_failover_after_the_plan_is_left_alone(program: Program, names: list[str]) -> None:
    open_incident(program, "--ca", "alpha")
    planned = plan(program)
    program.done("failover", names[2])

    result = run(program, planned["plan"])

    assert (result.json["promoted"], result.json["skipped"]) == (3, 1)
    assert program.show(names[2])["epoch"] == 1
    # It has left what is named all the same.
    assert (result.status, result.json["stuck"]) == (0, [])
    assert (result.json["pairs"]["away"], result.json["pairs"]["otherwise"]) == (4, 1)


def test_a_backup_that_is_named_is_not_promoted_onto_and_is_ordered_anew(
    program: Program, names: list[str], tmp_path: Path
) -> None:
    one = names[0]
    lines = [serial(program, one, BACKUP)]
    opened = open_incident(program, "--ca", "beta", "--serials", a_file(tmp_path, *lines))
    assert opened["members"] == 1
    assert program.show(one)["protection"] == "unprotected"

    refused = program.run("failover", one)
    assert refused.status == 4
    assert "named by an open incident" in refused.err

    # Now what serves is named, too.
    open_incident(program, "--ca", "alpha", "--serials", a_file(tmp_path, serial(program, one)))
    planned = plan(program, 2)
    assert (planned["usable"], planned["not_usable"]) == (0, 1)
    assert planned["by_why"] == {"named by an incident": {"order": 1}}
    result = run(program, planned["plan"], number=2)
    assert result.status == 3
    assert serving_ca(program, one) == "alpha"

    program.done("renew", "--due")
    again = plan(program, 2)
    assert again["usable"] == 1
    assert run(program, again["plan"], number=2).json["observed"] == 1
    assert serving_ca(program, one) == "beta"


def test_closing_gives_a_backup_back_its_trust(program: Program, names: list[str]) -> None:
    open_incident(program, "--ca", "beta")
    assert program.show(names[0])["protection"] == "unprotected"

    program.done("incident", "close", "1")

    assert program.show(names[0])["protection"] == "protected"
    assert program.run("incident", "close", "1").status == 4
    assert program.run("incident", "plan", "1").status == 4
    [one] = program.done("incident", "list", "--json").lines
    assert one["closed_at"] is not None


def test_after_a_false_alarm_the_way_back_is_close_and_undo(
    lab: ProjectLab, program: Program, names: list[str]
) -> None:
    before = {name: served(lab, name) for name in names}
    open_incident(program, "--ca", "alpha")
    assert run(program, plan(program)["plan"]).status == 0
    assert program.run("incident", "undo", "1").status == 4
    program.done("incident", "close", "1")
    program.done("revoke", names[3], "--role", "backup")

    result = program.run("incident", "undo", "1", "--json")

    assert result.status == 3, result
    assert (result.json["undone"], result.json["stayed"]) == (3, 1)
    assert {name: served(lab, name) for name in names[:3]} == {name: before[name] for name in names[:3]}
    assert serving_ca(program, names[3]) == "beta"


def test_an_undo_that_is_not_seen_at_its_targets_is_done_in_part_and_goes_on_when_said_again(
    lab: ProjectLab, program: Program, names: list[str]
) -> None:
    before = {name: served(lab, name) for name in names}
    open_incident(program, "--ca", "alpha")
    assert run(program, plan(program)["plan"]).status == 0
    program.done("incident", "close", "1")
    lab.nginx.stop()

    result = program.run("incident", "undo", "1", "--json")

    assert result.status == 3, result
    assert (result.json["undone"], result.json["stayed"]) == (4, 0)
    assert "4 pairs were not seen" in result.err

    lab.nginx.start()
    assert program.run("incident", "undo", "1").status == 0
    assert {name: served(lab, name) for name in names} == before


def test_refills_at_the_incidents_own_ca_are_held_until_somebody_lets_them_go(
    program: Program, names: list[str]
) -> None:
    open_incident(program, "--ca", "alpha")
    assert run(program, plan(program)["plan"]).status == 0
    assert status(program)["refills_held_at"] == ["alpha"]
    old = serial(program, names[0], BACKUP)
    program.done("renew", "--due")
    assert serial(program, names[0], BACKUP) == old

    program.done("incident", "run", "1", "--refill", "now")
    last = program.done("events", "--json").lines[-1]
    assert (last["kind"], last["ca"], last["cause"]) == (
        "incident-run",
        "alpha",
        "incident 1: refills at alpha are due",
    )
    program.done("renew", "--due")

    assert serial(program, names[0], BACKUP) != old
    shown = status(program)
    assert (shown["protected"], shown["refills_held_at"]) == (4, [])


@pytest.mark.parametrize(
    ("state", "closing", "opening"),
    [
        ("frozen", ["freeze", "alpha"], "dualcert thaw alpha"),
        ("distrusted", ["distrust", "alpha"], "dualcert distrust alpha --lift"),
    ],
    ids=["frozen", "distrusted"],
)
@pytest.mark.parametrize("with_plan", [False, True], ids=["alone", "with the plan"])
def test_refills_that_are_let_go_at_a_ca_that_gets_no_orders_are_told_to_wait_for_that(
    program: Program, names: list[str], state: str, closing: list[str], opening: str, with_plan: bool
) -> None:
    open_incident(program, "--ca", "alpha")
    planned = plan(program)["plan"]
    assert run(program, planned).status == 0
    program.run(*closing)

    chosen = ["--plan", planned] if with_plan else []
    told = program.done("incident", "run", "1", *chosen, "--refill", "now")

    assert "refills are due at alpha" in told.out + told.err
    assert f"CA alpha is {state} since" in told.err
    assert opening in told.err
    program.done(*opening.split()[1:])
    program.done("renew", "--due")
    assert status(program)["protected"] == 4


def test_a_finished_run_that_is_asked_for_its_refills_says_that_they_are_due(
    program: Program, names: list[str]
) -> None:
    open_incident(program, "--ca", "alpha")
    planned = plan(program)["plan"]
    assert run(program, planned).status == 0

    again = program.done("incident", "run", "1", "--plan", planned, "--refill", "now")
    assert "carried out before; refills are due at alpha" in again.err
    assert status(program)["refills_held_at"] == []

    again = program.done("incident", "run", "1", "--plan", planned, "--refill", "now")
    assert "carried out before; nothing was done" in again.err


def test_pairs_that_only_lose_their_backup_get_another_one_when_their_ca_may_issue_again(
    program: Program, names: list[str]
) -> None:
    open_incident(program, "--ca", "beta")
    planned = plan(program)
    assert (planned["serving"], planned["standby"]) == (0, 4)
    old = {name: serial(program, name, BACKUP) for name in names}

    assert run(program, planned["plan"]).status == 0
    program.done("renew", "--due")
    assert {name: serial(program, name, BACKUP) for name in names} == old
    assert status(program)["protected"] == 0

    program.done("incident", "run", "1", "--refill", "now")
    program.done("renew", "--due")

    assert all(serial(program, name, BACKUP) != old[name] for name in names)
    assert {program.show(name)["protection"] for name in names} == {"protected"}
    assert status(program)["protected"] == 4
    assert "protected  4 of 4" in program.done("incident", "status", "1").out


def test_where_no_ca_is_in_trouble_such_backups_are_ordered_at_once(
    program: Program, names: list[str]
) -> None:
    issuer = program.show(names[0])[BACKUP]["certificate"]["issuer"]
    open_incident(program, "--issuer", issuer)
    assert run(program, plan(program)["plan"]).status == 0

    program.done("renew", "--due")

    assert {program.show(name)["protection"] for name in names} == {"protected"}


def test_what_is_planned_anew_is_counted_once(program: Program, names: list[str]) -> None:
    open_incident(program, "--ca", "alpha")
    first = plan(program)
    program.done("revoke", names[0], "--role", "backup")
    assert run(program, first["plan"]).json["skipped"] == 1

    def promoted() -> Any:
        return program.done("incident", "report", "1", "--format", "json").json["seconds_to"]["promoted"]

    assert promoted()["50%"] is not None
    assert promoted()["100%"] is None
    program.done("renew", "--due")
    second = plan(program)
    assert (second["serving"], second["usable"]) == (1, 1)

    result = run(program, second["plan"])

    assert (result.status, result.json["promoted"], result.json["observed"]) == (0, 4, 4)
    assert promoted()["100%"] is not None
    assert "promoted   4 of 4" in program.done("incident", "status", "1").out


def test_a_pair_that_waits_for_its_backup_is_not_among_the_100_percent(
    program: Program, names: list[str]
) -> None:
    program.done("revoke", names[0], "--role", "backup")
    open_incident(program, "--ca", "alpha")
    assert run(program, plan(program)["plan"]).json["promoted"] == 3

    told = program.done("incident", "report", "1", "--format", "json").json

    assert told["seconds_to"]["observed"]["50%"] is not None
    assert told["seconds_to"]["observed"]["100%"] is None


def test_a_failover_of_another_pair_says_that_its_refill_is_held_too(
    program: Program, names: list[str], tmp_path: Path
) -> None:
    open_incident(program, "--ca", "alpha", "--serials", a_file(tmp_path, serial(program, names[0])))
    assert run(program, plan(program)["plan"]).status == 0

    assert program.done("failover", names[1], "--json").json["refill"] == "held"
    old = serial(program, names[1], BACKUP)
    program.run("renew", "--due")
    assert serial(program, names[1], BACKUP) == old

    program.done("incident", "close", "1")
    program.done("renew", "--due")
    assert serial(program, names[1], BACKUP) != old


def test_what_is_not_seen_stops_the_run_above_the_limit_and_is_seen_when_said_again(
    lab: ProjectLab, program: Program, names: list[str]
) -> None:
    open_incident(program, "--ca", "alpha")
    planned = plan(program)
    lab.nginx.stop()

    stopped = run(program, planned["plan"], "--max-failures", "0%")

    assert stopped.status == 3, stopped
    assert "stopped: 4 of 4 promoted pairs were not seen" in stopped.err
    assert (stopped.json["promoted"], stopped.json["observed"], stopped.json["failed"]) == (4, 0, 4)
    assert stopped.json["run"]["stopped"]

    lab.nginx.start()
    again = run(program, planned["plan"], "--max-failures", "0%")

    assert again.status == 0, again
    assert (again.json["observed"], again.json["run"]["stopped"]) == (4, None)


def test_what_is_seen_after_a_run_has_stopped_counts_whoever_saw_it(
    lab: ProjectLab, program: Program, names: list[str]
) -> None:
    open_incident(program, "--ca", "alpha")
    lab.nginx.stop()
    stopped = run(program, plan(program)["plan"], "--max-failures", "0%")
    assert (stopped.status, stopped.json["observed"]) == (3, 0)
    assert all("127.0.0.1" in one["reason"] for one in stopped.json["stuck"]), stopped.json["stuck"]
    lab.nginx.start()

    program.done("renew", names[0])
    assert (status(program)["promoted"], status(program)["observed"]) == (4, 1)
    rows = csv.DictReader(io.StringIO(program.done("incident", "report", "1", "--format", "csv").out))
    assert {row["pair"]: row["observed"] for row in rows} == dict.fromkeys(names, "") | {names[0]: "wire"}

    result = run(program, plan(program)["plan"])

    assert (result.status, result.json["observed"]) == (0, 4)
    report = program.done("incident", "report", "1", "--format", "json").json
    assert report["seconds_to"]["observed"]["100%"] is not None


def test_why_pairs_do_not_get_their_backup_again_is_told(
    lab: ProjectLab, program: Program, names: list[str]
) -> None:
    program.done("revoke", names[0], "--role", "backup")
    open_incident(program, "--ca", "alpha")
    run(program, plan(program)["plan"])
    without_dns(program)
    program.done("incident", "run", "1", "--refill", "now")
    program.run("renew", "--due", "--timeout", "3s")

    stuck = {one["pair"]: (one["state"], one["reason"]) for one in status(program)["stuck"]}

    assert stuck.keys() == set(names)
    assert {state for state, _ in stuck.values()} == {"ordered", "observed"}
    assert all("TSIG" in reason for _, reason in stuck.values()), stuck


def test_a_person_at_a_terminal_sees_how_far_it_is_and_how_long_there_is(
    program: Program, names: list[str]
) -> None:
    open_incident(program, "--ca", "alpha", within="5430s")
    digest = plan(program)["plan"]
    master, terminal = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen:
        with os.fdopen(terminal, "wb") as stderr:
            command = program.command("incident", "run", "1", "--plan", digest)
            ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=stderr, timeout=60, check=False)
        shown = screen.read(65_536).decode()

    assert ended.returncode == 0, shown
    assert f"{len(names)} of {len(names)} had their turn, {len(names)} seen" in shown
    assert "deadline in 1:30:" in shown


def test_the_report_has_a_line_for_each_certificate(program: Program, names: list[str]) -> None:
    before = {name: (serial(program, name), serial(program, name, BACKUP)) for name in names}
    open_incident(program, "--ca", "alpha")
    run(program, plan(program)["plan"])

    rows = list(csv.DictReader(io.StringIO(program.done("incident", "report", "1", "--format", "csv").out)))

    assert {row["pair"]: (row["serial"], row["new_serial"]) for row in rows} == before
    assert {row["observed"] for row in rows} == {"wire"}
    for row in rows:
        promoted, observed = (
            datetime.fromisoformat(row[key]).astimezone(UTC) for key in ("promoted_at", "observed_at")
        )
        assert promoted <= observed
    told = program.done("incident", "report", "1", "--format", "json").json
    assert len(told["certificates"]) == 4
    assert told["seconds_to"]["observed"]["100%"] >= told["seconds_to"]["promoted"]["50%"]
    assert "| promoted | 0:00:" in program.done("incident", "report", "1").out


def test_a_packed_list_on_stdin_and_a_crl_name_the_same(
    lab: ProjectLab, program: Program, names: list[str], tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    def of_the_ca(place: str) -> bytes:
        status_, body = fetch(f"{lab.alpha.management_url}/{place}/0", lab.alpha.api_ca_pem)
        assert status_ == 200
        return body

    issuer = x509.load_pem_x509_certificate(of_the_ca("intermediates"))
    key: Any = load_pem_private_key(of_the_ca("intermediate-keys"), None)
    now = issuer.not_valid_before_utc
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(now).next_update(issuer.not_valid_after_utc)
    for name in names[:2]:
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial(program, name), 16))
        builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
    crl = tmp_path / "alpha.crl.gz"
    crl.write_bytes(gzip.compress(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)))

    opened = open_incident(program, "--serials", str(crl))

    assert (opened["members"], opened["unknown"]) == (2, 0)
    assert plan(program)["usable"] == 2


def test_an_issuer_is_told_by_its_key_identifier_too(
    lab: ProjectLab, program: Program, names: list[str]
) -> None:
    chain = (lab.directory / "live" / names[0] / "chain.pem").read_bytes()
    issuer = x509.load_pem_x509_certificate(chain)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    opened = open_incident(program, "--issuer", identifier.hex(":").upper())

    assert opened["members"] == len(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--within", "24h"),
        ("--ca", "alpha"),
        ("--ca", "nobody", "--within", "24h"),
        ("--within", "24h", "--serials", "/does/not/exist", "--ca", "alpha"),
        ("--within", "24h", "--names", "a", "--spki-file", "b"),
        ("--within", "24h", "--ca", "alpha", "--issued-between", "2026-02-01", "2026-01-01"),
        ("--within", "24h", "--issuer", "ab" * 20),
    ],
)
def test_what_says_too_little_or_contradicts_itself_is_a_usage_problem(
    program: Program, arguments: tuple[str, ...]
) -> None:
    result = program.run("incident", "open", "--title", "a test", *arguments)
    assert result.status == 2, result
    assert program.done("incident", "list", "--json").lines == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("open", "--within", "24h", "--ca", "alpha", "--title", "a\udcffb"),
        ("open", "--within", "24h", "--title", "a test", "--issuer", "\udcff"),
        ("open", "--within", "24h", "--title", "a test", "--issuer", ""),
        ("status", "9" * 20),
        ("close", "9" * 20),
        ("run", "1", "--plan", "00", "--rate", f"{'9' * 20}/s"),
    ],
)
def test_what_no_database_can_keep_is_a_usage_problem(program: Program, arguments: tuple[str, ...]) -> None:
    result = program.run("incident", *arguments)
    assert result.status == 2, result
    assert "internal error" not in result.err


@pytest.mark.parametrize("title", ["", "  ", "two\nlines", "\x1b[31mred"])
def test_a_title_that_cannot_be_shown_in_a_line_is_refused(program: Program, title: str) -> None:
    result = program.run("incident", "open", "--title", title, "--within", "24h", "--ca", "alpha")
    assert result.status == 2, result
    assert "--title" in result.err
    assert program.done("incident", "list", "--json").lines == []


@pytest.mark.parametrize("option", ["--serials", "--spki-file", "--names"])
def test_a_file_that_names_nothing_opens_nothing(program: Program, tmp_path: Path, option: str) -> None:
    path = a_file(tmp_path, "# a comment", "")
    ca = ("--ca", "alpha") if option == "--serials" else ()
    result = program.run("incident", "open", "--title", "a test", "--within", "24h", option, path, *ca)
    assert (result.status, path in result.err) == (2, True), result
    assert program.done("incident", "list", "--json").lines == []


@pytest.mark.parametrize("option", ["--serials", "--spki-file", "--names"])
def test_a_file_of_which_no_line_can_be_read_opens_nothing(
    program: Program, tmp_path: Path, option: str
) -> None:
    path = a_file(tmp_path, "", "<html>", "<h1>not found ...</h1>", "</html>")
    ca = ("--ca", "alpha") if option == "--serials" else ()
    result = program.run("incident", "open", "--title", "a test", "--within", "24h", option, path, *ca)
    assert (result.status, f"{path}: not one line can be read; line 2: " in result.err) == (2, True), result
    assert program.done("incident", "list", "--json").lines == []


def test_many_lines_that_cannot_be_read_do_not_hide_the_first_that_can(
    program: Program, names: list[str], tmp_path: Path
) -> None:
    lines = (*("?" for _ in range(10_100)), serial(program, names[0]))
    opened = open_incident(program, "--ca", "alpha", "--serials", a_file(tmp_path, *lines))
    assert (opened["members"], opened["unreadable"]) == (1, 10_100)


def test_a_file_that_cannot_be_unpacked_is_named(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "serials.gz"
    path.write_bytes(gzip.compress(b"03a1b2\n")[:12])
    arguments = ("--title", "a test", "--within", "24h", "--ca", "alpha", "--serials", str(path))
    result = program.run("incident", "open", *arguments)
    assert (result.status, str(path) in result.err) == (2, True), result


def test_an_incident_that_names_nothing_of_ours_says_how_it_is_ended(program: Program) -> None:
    arguments = ("--title", "a test", "--within", "24h", "--issuer", "nobody of that name")
    opened = program.done("incident", "open", *arguments)
    assert "dualcert incident close 1" in opened.out
    assert "incident plan" not in opened.out


@pytest.mark.parametrize("number", ["0", "first", "9" * 19, "9" * 30, "٣"])
def test_what_can_be_no_incidents_number_is_a_usage_problem(program: Program, number: str) -> None:
    for command in ("status", "plan", "close"):
        result = program.run("incident", command, number)
        assert (result.status, "incident list" in result.err) == (2, True), result


def test_serials_without_their_issuer_are_refused(program: Program, tmp_path: Path) -> None:
    path = a_file(tmp_path, "deadbeef")
    result = program.run("incident", "open", "--title", "a test", "--within", "24h", "--serials", path)
    assert result.status == 2
    assert "--ca" in result.err
