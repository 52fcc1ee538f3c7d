"""Ending a pair: nothing of it stays at targets and in DNS, what happened stays, and its name is free."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dualcert.lab.https import fetch
from dualcert.lab.pebble import PebbleServer
from tests.faults import AFTER, BEFORE, Death, Life, Nursery
from tests.labfixture import ProjectLab
from tests.program import Program


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


def rows(lab: ProjectLab, query: str, *values: object) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(lab.directory / "dualcert.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query, values)]


def at_target(lab: ProjectLab, name: str) -> list[Path]:
    return [path for path in lab.live.rglob("*") if name in path.name or name in str(path.parent)]


def status_at(ca: PebbleServer, serial: str) -> str:
    """What the CA itself says of a certificate."""
    _, body = fetch(f"{ca.management_url}/cert-status-by-serial/{serial.lstrip('0')}", ca.api_ca_pem)
    return str(json.loads(body)["Status"])


def served(lab: ProjectLab, name: str) -> str:
    return hashlib.sha256(lab.handshake(name)).hexdigest()


def statuses(lab: ProjectLab, pair: Any) -> list[str]:
    return [
        status_at(ca, pair[role]["certificate"]["serial"])
        for role, ca in (("primary", lab.alpha), ("backup", lab.beta))
    ]


def is_gone(lab: ProjectLab, program: Program, name: str) -> None:
    assert program.run("show", name).status == 2
    assert program.done("list", "--json").lines == []
    assert at_target(lab, name) == []
    assert lab.leftovers() == {}
    for table in (
        "work",
        "lease",
        "challenge_record",
        "observation",
        "pair_name",
        "pair_target",
        "pair_state",
    ):
        assert rows(lab, f"SELECT * FROM {table}") == [], table
    assert rows(lab, "SELECT * FROM lineage WHERE retired_at IS NULL") == []
    assert rows(lab, "SELECT * FROM deployment WHERE left_at IS NULL") == []


def test_a_pair_that_is_removed_leaves_its_targets_and_keeps_its_history(
    lab: ProjectLab, program: Program, name: str
) -> None:
    pair = program.done("issue", name, f"*.{name}", "--json").json

    shown = program.done("remove", name, "--yes", "--json").json

    is_gone(lab, program, name)
    assert (shown["pair"], shown["names"], shown["unfinished"]) == (name, [name, f"*.{name}"], [])
    assert [one["revoked"] for one in shown["certificates"]] == [False, False]
    assert statuses(lab, pair) == ["Valid", "Valid"]
    told = program.events(name)
    assert [one["kind"] for one in told][-2:] == ["removed", "left-target"]
    assert {one["pair"] for one in told} == {name}
    attempts = rows(lab, "SELECT spki FROM public_key")
    assert len(attempts) == 2
    assert rows(lab, "SELECT spki FROM wrapped_key") == attempts


def test_with_revoke_both_certificates_are_revoked_after_they_have_left(
    lab: ProjectLab, program: Program, name: str
) -> None:
    pair = program.done("issue", name, "--json").json

    program.done("remove", name, "--revoke", "--yes")

    is_gone(lab, program, name)
    assert statuses(lab, pair) == ["Revoked", "Revoked"]
    told = program.events(name)
    kinds = [one["kind"] for one in told]
    assert kinds.index("left-target") < kinds.index("revoked")
    causes = {one["cause"] for one in told if one["kind"] == "revoked"}
    assert causes == {"cessationOfOperation: accepted by the CA"}


def test_a_pair_that_was_removed_can_still_be_revoked(lab: ProjectLab, program: Program, name: str) -> None:
    pair = program.done("issue", name, "--json").json
    program.done("remove", name, "--yes")

    program.done("remove", name, "--revoke", "--reason", "keyCompromise", "--json")

    assert statuses(lab, pair) == ["Revoked", "Revoked"]
    assert len(rows(lab, "SELECT * FROM blocked_key")) == 2


def test_a_name_that_was_removed_can_be_issued_again(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("failover", name)
    program.done("remove", name, "--yes")

    pair = program.done("issue", name, "--json").json

    assert pair["protection"] == "protected"
    assert served(lab, name) == pair["primary"]["certificate"]["sha256"]
    kinds = [one["kind"] for one in program.events(name)]
    assert kinds.count("created") == 2
    # What still comes from the first pair is older than anything of the second.
    assert pair["epoch"] > 1


def test_removed_again_it_says_so_and_does_nothing(program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("remove", name, "--yes")
    before = program.events(name)

    assert program.done("remove", name, "--json").json["unfinished"] == []

    assert program.events(name) == before


def test_nobody_is_asked_where_there_is_nobody(program: Program, name: str) -> None:
    program.done("issue", name)

    refused = program.run("remove", name)

    assert refused.status == 2
    assert "--yes" in refused.err
    assert program.show(name)["protection"] == "protected"


def test_a_name_that_another_pair_covers_does_not_end_that_pair(program: Program, name: str) -> None:
    program.done("issue", f"*.{name}")
    program.done("issue", f"www.{name}")
    program.done("remove", f"www.{name}", "--yes")

    assert program.done("remove", f"www.{name}", "--yes", "--json").json["pair"] == f"www.{name}"
    other = program.run("remove", f"mail.{name}", "--yes")

    assert other.status == 2
    assert f"dualcert remove '*.{name}'" in other.err
    assert program.show(f"*.{name}")["protection"] == "protected"


def test_an_order_under_way_is_given_up_and_its_values_go(
    lab: ProjectLab, program: Program, name: str
) -> None:
    text = lab.config_path.read_text()
    # Nobody listens there: the values go out and are never seen.
    lab.config_path.write_text(re.sub(r"nameservers = .*", 'nameservers = ["127.0.0.1:9"]', text))
    assert program.run("issue", name, "--timeout", "3").status == 1
    assert lab.leftovers() != {}
    assert rows(lab, "SELECT * FROM acme_order WHERE step = 'placed'")

    program.done("remove", name, "--yes")

    is_gone(lab, program, name)
    assert {one["step"] for one in rows(lab, "SELECT step FROM acme_order")} == {"abandoned"}
    program.done("renew", "--due")
    is_gone(lab, program, name)


# --- targets that do not let go --------------------------------------------------------------------------


def test_a_target_that_fails_is_tried_again_and_nothing_is_revoked_before(
    lab: ProjectLab, program: Program, name: str
) -> None:
    pair = program.done("issue", name, "--json").json
    link = lab.live / name
    elsewhere = link.readlink()
    link.unlink()
    link.mkdir()

    result = program.run("remove", name, "--revoke", "--yes", "--timeout", "1", "--json")

    assert result.status == 3
    assert {one["step"] for one in result.json["unfinished"]} == {"removal", "revocation"}
    assert "was not made by dualcert" in result.err
    due = program.run("renew", "--due", "--timeout", "1")
    assert f"to try sooner: dualcert remove {name}" in due.out, "nothing is to be renewed of it"
    assert statuses(lab, pair) == ["Valid", "Valid"]
    again = program.run("issue", name)
    assert again.status == 4
    assert f"dualcert remove {name}" in again.err

    link.rmdir()
    link.symlink_to(elsewhere)
    program.done("remove", name)
    is_gone(lab, program, name)
    assert statuses(lab, pair) == ["Revoked", "Revoked"]


def test_a_target_that_is_gone_for_good_is_not_waited_for(
    lab: ProjectLab, program: Program, name: str
) -> None:
    pair = program.done("issue", name, "--json").json
    text = lab.config_path.read_text().replace("[target.web]", "[target.other]").replace('"web"', '"other"')
    lab.config_path.write_text(text)

    stuck = program.run("remove", name, "--revoke", "--yes", "--timeout", "1")
    assert stuck.status == 3
    assert "[target.web] is not configured" in stuck.err

    program.done("remove", name, "--leave", "web")

    assert statuses(lab, pair) == ["Revoked", "Revoked"]
    assert rows(lab, "SELECT * FROM work") == []


# --- pair set --------------------------------------------------------------------------------------------


def add_target(lab: ProjectLab, name: str) -> Path:
    directory = lab.directory / name
    with lab.config_path.open("a") as config:
        config.write(f'\n[target.{name}]\ndeployer = "files"\ndirectory = "{name}"\n')
    return directory


def test_targets_are_replaced_and_the_one_left_out_is_left(
    lab: ProjectLab, program: Program, name: str
) -> None:
    pair = program.done("issue", name, "--json").json
    mail = add_target(lab, "mail")

    changed = program.done("pair", "set", name, "--target", "mail", "--json").json

    assert [one["target"] for one in changed["targets"]] == ["mail"]
    assert changed["targets"][0]["observed_sha256"] == pair["primary"]["certificate"]["sha256"]
    assert changed["protection"] == "protected"
    assert (mail / name / "privkey.pem").exists()
    assert at_target(lab, name) == []

    program.done("pair", "set", name, "--target", "mail", "--target", "web")
    assert served(lab, name) == pair["primary"]["certificate"]["sha256"]

    assert program.done("pair", "set", name, "--no-targets", "--json").json["targets"] == []
    assert at_target(lab, name) == []
    assert not (mail / name).exists()
    assert rows(lab, "SELECT * FROM work") == []


def test_a_target_given_back_before_it_was_left_is_served(
    lab: ProjectLab, program: Program, name: str
) -> None:
    pair = program.done("issue", name, "--json").json
    link = lab.live / name
    elsewhere = link.readlink()
    link.unlink()
    link.mkdir()
    assert program.run("pair", "set", name, "--no-targets", "--timeout", "1").status in {0, 3}
    link.rmdir()
    link.symlink_to(elsewhere)

    program.done("pair", "set", name, "--target", "web")

    assert served(lab, name) == pair["primary"]["certificate"]["sha256"]
    assert program.show(name)["targets"][0]["observed"] == "wire"
    assert rows(lab, "SELECT * FROM work") == []


def test_the_next_order_has_the_new_type_of_key(program: Program, name: str) -> None:
    program.done("issue", name)

    program.done("pair", "set", name, "--key-type", "rsa-2048")
    assert program.show(name)["primary"]["certificate"]["key_type"] == "ec-p256"
    program.done("renew", name, "--force")

    pair = program.show(name)
    assert {pair[role]["certificate"]["key_type"] for role in ("primary", "backup")} == {"rsa-2048"}
    changed = [one["cause"] for one in program.events(name) if one["kind"] == "changed"]
    assert changed == ["keys of type rsa-2048 instead of ec-p256"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--primary", "gamma"], "keeps its CA for life"),
        (["--target", "nowhere"], "[target.nowhere] is not configured"),
        (["--dns", "nowhere"], "[dns.nowhere] is not configured"),
        (["--no-targets", "--target", "web"], "contradict"),
        ([], "nothing is to be changed"),
    ],
)
def test_what_cannot_be_changed_is_refused(
    program: Program, name: str, options: list[str], said: str
) -> None:
    program.done("issue", name)
    before = program.events(name)

    refused = program.run("pair", "set", name, *options)

    assert refused.status == 2
    assert said in refused.err
    assert re.search(r"^  \S", refused.err, re.MULTILINE), "a remedy stands below"
    assert program.events(name) == before


# --- kill -9 ---------------------------------------------------------------------------------------------


def removal_dies(lab: ProjectLab, program: Program, nursery: Nursery, name: str, death: Death | None) -> Life:
    pair = program.done("issue", name, "--json").json

    life = nursery.run(lab.config_path, "remove", name, "--revoke", "--yes", death=death)

    assert life.killed or life.status == 0, life
    if rows(lab, "SELECT 1 FROM deployment WHERE left_at IS NULL"):
        assert statuses(lab, pair) == ["Valid", "Valid"], "revoked before it has left its target"
    again = nursery.run(lab.config_path, "remove", name, "--revoke", "--yes")
    assert again.status == 0, again
    is_gone(lab, program, name)
    assert statuses(lab, pair) == ["Revoked", "Revoked"]
    assert [one["kind"] for one in program.events(name)].count("removed") == life_count(program, name)
    return life


def life_count(program: Program, name: str) -> int:
    return [one["kind"] for one in program.events(name)].count("created")


def test_whatever_step_of_a_removal_a_process_dies_at_the_next_run_finishes_it(
    lab: ProjectLab, program: Program, nursery: Nursery, name: str
) -> None:
    clean = removal_dies(lab, program, nursery, name, None)
    deaths = [death for side in (BEFORE, AFTER) for death in clean.deaths(side)]
    assert len(deaths) > 30
    missed = []
    for number, death in enumerate(deaths):
        if number % 4 == 0:
            try:
                if not removal_dies(lab, program, nursery, name, death).killed:
                    missed.append(str(death))
            except AssertionError as error:
                error.add_note(f"where the process was killed: {death}")
                raise
    assert len(missed) < len(deaths) // 20, missed


@pytest.mark.parametrize(
    "answer", [b"n\n", b"\n", b"\x03", b"\x04"], ids=["no", "nothing", "ctrl-c", "ctrl-d"]
)
def test_whoever_does_not_say_yes_keeps_the_pair(
    lab: ProjectLab, program: Program, name: str, answer: bytes
) -> None:
    program.done("issue", name)

    refused = program.asked("remove", name, answer=answer)

    assert (refused.status, "nothing was changed" in refused.out) == (4, True), refused
    assert program.show(name)["protection"] == "protected"


def test_whoever_says_yes_ends_the_pair(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    assert program.asked("remove", name, answer=b"y\n").status == 0
    is_gone(lab, program, name)
