"""The whole way once: issue, look, fail over, revoke, refill, back again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests import rawdatabase
from tests.labfixture import ProjectLab
from tests.program import Program


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


def served(lab: ProjectLab, name: str) -> str:
    return hashlib.sha256(lab.handshake(name)).hexdigest()


def test_a_pair_for_a_name_and_its_wildcard_is_issued_and_served(
    lab: ProjectLab, program: Program, name: str
) -> None:
    result = program.run("issue", name, f"*.{name}", "--json")

    assert result.status == 0, result
    pair = result.json
    assert pair["protection"] == "protected"
    assert (pair["primary"]["ca"], pair["primary"]["state"]) == ("alpha", "serving")
    assert (pair["backup"]["ca"], pair["backup"]["state"]) == ("beta", "ready")
    assert pair["primary"]["certificate"]["spki_sha256"] != pair["backup"]["certificate"]["spki_sha256"]
    assert served(lab, name) == pair["primary"]["certificate"]["sha256"]
    assert pair["targets"][0]["observed"] == "wire"
    assert lab.leftovers() == {}


def test_the_two_values_of_both_cas_go_out_as_one_change_each_way(program: Program, name: str) -> None:
    program.done("issue", name, f"*.{name}")

    causes = [(one["kind"], one["cause"]) for one in program.events(name)]
    assert causes.count(("published", "4 TXT values on every server")) == 1
    assert causes.count(("withdrawn", "4 TXT values")) == 1


def test_failover_with_revocation_then_refill_makes_the_pair_whole_again(
    lab: ProjectLab, program: Program, name: str
) -> None:
    before = program.done("issue", name, "--json").json

    result = program.run("failover", name, "--revoke", "--json")

    assert result.status == 0, result
    after = result.json
    assert after["from"] == {"ca": "alpha", "serial": before["primary"]["certificate"]["serial"]}
    assert after["to"] == {"ca": "beta", "serial": before["backup"]["certificate"]["serial"]}
    assert after["targets"][0]["verified"] == "wire"
    assert (after["epoch"], after["revoked"], after["refill"], after["dry_run"]) == (
        1,
        True,
        "scheduled",
        False,
    )
    assert served(lab, name) == before["backup"]["certificate"]["sha256"]
    assert program.show(name)["protection"] == "unprotected"
    assert program.show(name)["backup"]["state"] == "revoked"

    program.done("renew", "--due")

    whole = program.show(name)
    assert whole["protection"] == "protected"
    assert whole["backup"]["ca"] == "alpha"
    assert whole["backup"]["certificate"]["spki_sha256"] != before["primary"]["certificate"]["spki_sha256"]
    assert lab.leftovers() == {}


def test_failover_is_a_goal_and_not_a_toggle(program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("failover", name)

    again = program.run("failover", name)
    assert again.status == 4
    assert "--to alpha" in again.err
    assert program.show(name)["epoch"] == 1

    assert program.done("failover", name, "--to", "beta").status == 0
    assert program.show(name)["epoch"] == 1

    assert program.done("failover", name, "--to", "alpha", "--json").json["epoch"] == 2
    assert program.show(name)["primary"]["ca"] == "alpha"


def test_an_hour_later_it_is_a_wish_of_its_own_again(program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("failover", name)
    an_hour_ago = "UPDATE event SET at = at - ? WHERE kind = 'promoted'"
    assert rawdatabase.change(program.config, an_hour_ago, 3_601_000_000) == 1

    assert program.done("failover", name, "--json").json["epoch"] == 2
    assert program.show(name)["primary"]["ca"] == "alpha"


def test_a_revocation_that_is_asked_for_when_all_the_rest_is_done_is_made_up_for(
    program: Program, name: str
) -> None:
    program.done("issue", name)
    program.done("failover", name, "--to", "beta")
    wish = ("failover", name, "--to", "beta", "--revoke", "--reason", "keyCompromise", "--json")

    told = program.done(*wish, "--dry-run").json
    assert not told["revoked"]
    done = program.done(*wish).json

    assert (done["epoch"], done["revoked"]) == (1, True)
    assert [one["kind"] for one in program.events(name)].count("key-blocked") == 1
    again = program.done(*wish).json
    assert (again["epoch"], again["revoked"]) == (1, True)


def test_failover_without_revocation_keeps_the_old_certificate_as_the_standby(
    program: Program, name: str
) -> None:
    before = program.done("issue", name, "--json").json

    shown = program.done("failover", name, "--json").json

    assert (shown["revoked"], shown["refill"]) == (False, "scheduled")
    after = program.show(name)
    assert after["protection"] == "protected"
    assert after["backup"]["certificate"] == before["primary"]["certificate"]


def test_a_dry_run_changes_nothing(program: Program, name: str) -> None:
    before = program.done("issue", name, "--json").json
    events = program.events(name)

    shown = program.done("failover", name, "--dry-run", "--json").json

    assert (shown["dry_run"], shown["to"]["ca"], shown["epoch"]) == (True, "beta", 0)
    assert program.show(name) == before
    assert program.events(name) == events


def test_revoking_the_backup_empties_its_lineage_until_the_next_run(program: Program, name: str) -> None:
    before = program.done("issue", name, "--json").json

    program.done("revoke", name, "--role", "backup")

    shown = program.show(name)
    assert (shown["backup"]["state"], shown["protection"]) == ("revoked", "unprotected")
    refused = program.run("failover", name)
    assert refused.status == 4
    assert "revoked" in refused.err
    program.done("renew", "--due")
    shown = program.show(name)
    assert (shown["backup"]["state"], shown["protection"]) == ("ready", "protected")
    assert shown["backup"]["certificate"]["serial"] != before["backup"]["certificate"]["serial"]


def test_issue_again_does_nothing_for_a_whole_pair(program: Program, name: str) -> None:
    before = program.done("issue", name, "--json").json
    count = len(program.events(name))

    assert program.done("issue", name, "--json").json == before
    assert len(program.events(name)) == count


def test_other_names_for_a_pair_need_to_be_asked_for(program: Program, name: str) -> None:
    program.done("issue", name)

    refused = program.run("issue", name, f"www.{name}")
    assert refused.status == 2
    assert "--replace-names" in refused.err

    replaced = program.done("issue", name, f"www.{name}", "--replace-names", "--json").json
    assert replaced["names"] == [name, f"www.{name}"]
    assert replaced["protection"] == "protected"


def test_a_forced_renewal_replaces_both_certificates(lab: ProjectLab, program: Program, name: str) -> None:
    before = program.done("issue", name, "--json").json

    program.done("renew", name, "--force")

    after = program.show(name)
    for role in ("primary", "backup"):
        assert after[role]["certificate"]["serial"] != before[role]["certificate"]["serial"]
        assert after[role]["certificate"]["spki_sha256"] != before[role]["certificate"]["spki_sha256"]
    assert served(lab, name) == after["primary"]["certificate"]["sha256"]
    assert after["protection"] == "protected"


def test_export_writes_the_certificate_and_the_key_only_when_asked(
    program: Program, name: str, tmp_path: Path
) -> None:
    pair = program.done("issue", name, "--json").json

    program.done("export", name, "--to", str(tmp_path / "plain"))
    program.done("export", name, "--to", str(tmp_path / "secret"), "--role", "backup", "--with-key")

    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == [
        "cert.pem",
        "chain.pem",
        "fullchain.pem",
    ]
    assert (tmp_path / "secret" / "privkey.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secret" / "bundle.pem").stat().st_mode & 0o777 == 0o600
    assert pair["backup"]["certificate"]["serial"]


def test_the_next_command_names_a_wildcard_as_a_shell_takes_it(program: Program, name: str) -> None:
    pair = f"*.{name}"
    program.done("issue", pair)
    program.done("failover", pair)

    again = program.run("failover", pair)

    assert (again.status, f"dualcert failover '{pair}' --to alpha" in again.err) == (4, True), again


def test_a_wildcard_alone_is_issued_served_and_listed(lab: ProjectLab, program: Program, name: str) -> None:
    pair = program.done("issue", f"*.{name}", "--json").json

    assert pair["pair"] == f"*.{name}"
    assert (lab.live / f"_wildcard.{name}" / "bundle.pem").exists()
    assert pair["protection"] == "protected"
    assert [one["pair"] for one in program.done("list", "--json").lines] == [f"*.{name}"]


@pytest.mark.parametrize("key_type", ["ec-p384", "rsa-2048"])
def test_other_kinds_of_keys(program: Program, name: str, key_type: str) -> None:
    pair = program.done("issue", name, "--key-type", key_type, "--json").json

    assert pair["primary"]["certificate"]["key_type"] == key_type
    assert pair["backup"]["certificate"]["key_type"] == key_type
    assert pair["protection"] == "protected"
