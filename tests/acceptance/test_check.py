"""``dualcert check``: fine where all is fine, and what is not is named with what to mend."""

from __future__ import annotations

import re
import socket
import sqlite3
from collections.abc import Iterator, Set
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest

from dualcert.clock import SystemClock, to_microseconds
from dualcert.lab.https import fetch
from dualcert.plugins.dns.rfc2136 import Rfc2136Provider
from dualcert.plugins.keys import kekfile
from dualcert.ports.dns import TxtValue
from tests.labfixture import ProjectLab
from tests.program import Program, Result, finish


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


def problems(result: Result) -> dict[str, str]:
    """What is wrong, by subject; a line has just the four members."""
    for line in result.lines:
        assert set(line) == {"subject", "ok", "problem", "remedy"}
        assert line["ok"] == (line["problem"] is None)
    return {line["subject"]: line["problem"] for line in result.lines if not line["ok"]}


def check(program: Program, *options: str) -> Result:
    return program.run("check", "--json", *options)


def edit(lab: ProjectLab, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, lab.config_path.read_text())
    assert count
    lab.config_path.write_text(text)


def execute(lab: ProjectLab, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(lab.directory / "dualcert.db")) as connection, connection:
        connection.execute(statement, values)


def rows(lab: ProjectLab, query: str) -> list[Any]:
    with closing(sqlite3.connect(lab.directory / "dualcert.db")) as connection:
        return connection.execute(query).fetchall()


# --- fine ------------------------------------------------------------------------------------------------


def test_before_the_first_issue_nothing_is_wrong_and_nothing_is_registered(
    lab: ProjectLab, program: Program
) -> None:
    result = check(program)

    assert (result.status, problems(result)) == (0, {}), result
    assert {line["subject"] for line in result.lines} >= {
        "configuration",
        "database",
        "clock of the database",
        "keys.primary",
        "keys",
        "ca.alpha",
        "clock of ca.beta",
        "account at ca.alpha",
        "independence of alpha and beta",
        "dns.lab",
        "target.web",
        "work",
    }
    [dns] = [line for line in result.lines if line["subject"] == "dns.lab"]
    assert "--name" in dns["remedy"]
    assert rows(lab, "SELECT * FROM account") == []


def test_the_rights_in_dns_are_tried_for_a_name_that_no_pair_has_yet(
    lab: ProjectLab, program: Program, name: str
) -> None:
    result = program.done("check", "--name", f"*.{name}")

    assert f"a value was added to _acme-challenge.{name} and removed" in result.out
    assert lab.leftovers() == {}
    assert rows(lab, "SELECT * FROM challenge_record") == rows(lab, "SELECT * FROM work") == []


def test_a_whole_pair_is_looked_at_and_left_as_it_is(lab: ProjectLab, program: Program, name: str) -> None:
    before = program.done("issue", name, f"*.{name}", "--json").json
    events = program.events(name)

    result = program.done("check")

    assert f"it serves what it should for {name}" in result.out
    assert f"_acme-challenge.{name}" in result.out
    assert "2 of the private keys" in result.out or "1 of the private keys" in result.out
    assert "is valid" in result.out
    assert program.show(name) == before
    assert program.events(name) == events
    assert lab.leftovers() == {}
    for table in ("challenge_record", "work", "lease"):
        assert rows(lab, f"SELECT * FROM {table}") == [], table


# --- the configuration -----------------------------------------------------------------------------------


def test_all_that_is_wrong_in_the_file_is_told_line_by_line(lab: ProjectLab, program: Program) -> None:
    edit(lab, r"terms_agreed = true", "terms_agreed = false")
    edit(lab, r"tsig_name", "tsig_nmae")
    edit(lab, r'backup = "beta"', 'backup = "gamma"')

    result = check(program)

    assert result.status == 2
    found = problems(result)
    assert len(found) >= 3
    assert all(subject.startswith("configuration, line ") for subject in found)
    assert any("gamma" in problem for problem in found.values())
    assert all(line["remedy"] for line in result.lines)


def test_several_things_that_make_it_unusable_are_told_together(lab: ProjectLab, program: Program) -> None:
    keys = lab.directory / "keys"
    (keys / "primary.kek").chmod(0o644)
    (keys / "backup.kek").unlink()
    edit(lab, r"tsig_secret = .*", 'tsig_secret = { file = "nowhere" }')
    for file in lab.directory.glob("dualcert.db*"):
        file.unlink()

    result = check(program)

    assert result.status == 2
    found = problems(result)
    assert "can be read or written by others" in found["keys.primary"]
    assert "backup.kek" in found["keys.backup"]
    assert "does not exist" in found["database"]
    assert "nowhere" in found["dns.lab"]
    assert "account at ca.alpha" in found, "what cannot be looked at is no success"
    assert "ca.alpha" not in found
    assert not (lab.directory / "dualcert.db").exists()


def test_a_database_of_another_revision_is_unusable(lab: ProjectLab, program: Program) -> None:
    execute(lab, "UPDATE alembic_version SET version_num = '9999'")
    result = check(program)
    assert result.status == 2
    assert "newer" in problems(result)["database"]


def test_domains_that_share_a_kek_are_found(lab: ProjectLab, program: Program) -> None:
    keys = lab.directory / "keys"
    (keys / "backup.kek").write_bytes((keys / "primary.kek").read_bytes())
    result = check(program)
    assert result.status == 2
    assert "the same KEK" in problems(result)["keys"]


def test_a_kek_that_does_not_open_what_it_should_is_found(
    lab: ProjectLab, program: Program, name: str
) -> None:
    program.done("issue", name)
    kek = lab.directory / "keys" / "backup.kek"
    kek.unlink()
    kekfile.create(kek)

    result = check(program)

    assert "does not open" in problems(result)["keys.backup"]
    assert "keys.primary" not in problems(result)
    [remedy] = [
        line["remedy"] for line in result.lines if line["subject"] == "keys.backup" and not line["ok"]
    ]
    assert f"bring back as {kek} the KEK" in remedy


def test_a_database_that_cannot_be_written_is_found(lab: ProjectLab, program: Program) -> None:
    with closing(sqlite3.connect(lab.directory / "dualcert.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("DELETE FROM lease")
        process = program.start("check", "--json")
        result = finish(process)
    assert "could not be used" in problems(result)["database"]
    assert result.status == 1


def test_a_database_whose_folder_cannot_be_written_is_told_as_such(lab: ProjectLab, program: Program) -> None:
    (lab.directory / "dualcert.db-wal").mkdir()

    for command in ("list", "check"):
        result = program.run(command)
        assert result.status == 1
        assert "unable to open database file" in result.out + result.err
        assert "must be able to write the file, those beside it" in result.out + result.err


# --- CAs -------------------------------------------------------------------------------------------------


def test_a_ca_that_is_away_is_a_problem_of_its_own(lab: ProjectLab, program: Program) -> None:
    with unused_port() as port:
        edit(lab, rf"127\.0\.0\.1:{lab.alpha.limited_address.number}", f"127.0.0.1:{port}")
        result = check(program)

    assert result.status == 1
    found = problems(result)
    assert set(found) == {"ca.alpha", "clock of ca.alpha", "independence of alpha and beta"}
    assert "refused" in found["ca.alpha"]


def test_what_a_ca_does_not_offer_or_wants_besides_is_found(lab: ProjectLab, program: Program) -> None:
    edit(lab, r"\neab = .*", "")
    edit(lab, r'profile = ".*"', 'profile = "nonesuch"')

    result = check(program)

    assert result.status == 2
    found = problems(result)
    assert "external account" in found["ca.beta"]
    assert "'nonesuch'" in found["ca.alpha"]


def test_an_external_accounts_key_that_can_be_none_is_found(lab: ProjectLab, program: Program) -> None:
    edit(lab, r"hmac_key = \{.*?\}", 'hmac_key = "a b"')

    result = check(program)

    assert result.status == 2
    assert "base64url" in problems(result)["ca.beta"]


def test_an_external_accounts_key_that_others_can_read_is_told_and_holds_no_failover_up(
    lab: ProjectLab, program: Program
) -> None:
    """It is needed when an account is made, and never after."""
    program.done("issue", lab.domain)
    file = lab.directory / "open.hmac"
    file.write_text("a2V5")
    file.chmod(0o644)
    edit(lab, r"hmac_key = \{.*?\}", 'hmac_key = { file = "open.hmac" }')

    program.done("failover", lab.domain)

    result = check(program)
    assert result.status == 2
    assert "others can read the secret file" in problems(result)["ca.beta"]
    assert f"chmod 600 {file}" in result.out


def test_trust_roots_that_are_no_pem_are_told_in_words_of_ours(lab: ProjectLab, program: Program) -> None:
    (lab.directory / "roots.pem").write_text("nothing")
    edit(lab, r'trust_roots = ".*"', 'trust_roots = "roots.pem"')

    result = check(program)

    assert result.status == 2
    assert problems(result)["ca.alpha"].endswith("roots.pem cannot be read: it holds no certificate in PEM")


def test_an_account_that_the_ca_does_not_accept_is_found(
    lab: ProjectLab, program: Program, name: str
) -> None:
    program.done("issue", name)
    execute(lab, "UPDATE account SET url = url || '00' WHERE ca = 'alpha'")

    result = check(program)

    assert set(problems(result)) == {"account at ca.alpha"}
    assert result.status == 1


def test_cas_of_one_operator_are_not_independent(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    status, _ = fetch(lab.alpha.directory_url, lab.alpha.api_ca_pem)
    assert status == 200
    edit(lab, r"\[ca\.(alpha|beta)\]", r'[ca.\1]\noperator = "one and the same"')

    result = check(program)

    assert result.status == 2, "the file alone says so"
    assert any("operator" in problem for problem in problems(result).values())


# --- DNS -------------------------------------------------------------------------------------------------


def test_a_key_that_may_not_write_is_found_and_nothing_is_left(
    lab: ProjectLab, program: Program, name: str
) -> None:
    program.done("issue", name)
    edit(lab, r'tsig_name = ".*"', 'tsig_name = "somebody-else"')

    result = check(program)

    assert set(problems(result)) == {"dns.lab"}
    assert result.status == 1
    assert lab.leftovers() == {}


def test_a_name_server_that_does_not_answer_is_found(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    with unused_port() as port:
        server = f"{lab.bind.address}:{lab.bind.port}"
        edit(lab, r"nameservers = .*", f'nameservers = ["{server}", "127.0.0.1:{port}"]')
        result = check(program)

    assert set(problems(result)) == {f"nameserver 127.0.0.1:{port}"}
    assert lab.leftovers() == {}


def test_a_value_that_an_interrupted_check_has_left_is_withdrawn(
    lab: ProjectLab, program: Program, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.done("issue", name)
    apply = Rfc2136Provider.apply

    def interrupted(provider: Rfc2136Provider, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        if remove:
            raise KeyboardInterrupt
        apply(provider, zone, add, remove)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Rfc2136Provider, "apply", interrupted)
        assert program.run("check").status == 130
    assert len(lab.leftovers()[f"_acme-challenge.{name}"]) == 1
    program.done("renew", "--due")
    assert lab.leftovers() != {}, "another process leaves it alone for a while: the check may be at work"
    execute(lab, "UPDATE work SET due_at = 0 WHERE kind = 'withdrawal'")

    program.done("renew", "--due")

    assert lab.leftovers() == {}
    assert rows(lab, "SELECT * FROM challenge_record") == []


def test_a_resolver_that_does_not_answer_is_told_once(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("issue", f"a.b.{name}")
    with unused_port() as port:
        edit(lab, r"nameservers = ", f'resolver = ["127.0.0.1:{port}"]\nnameservers = ')
        result = check(program)

    assert result.status == 1
    [said] = [line for line in result.lines if line["subject"] == "dns.lab"]
    assert f"127.0.0.1:{port} cannot be reached" in said["problem"]


# --- targets ---------------------------------------------------------------------------------------------


def test_a_target_that_cannot_be_written_is_found(lab: ProjectLab, program: Program) -> None:
    lab.live.rename(lab.directory / "aside")
    lab.live.write_text("not a folder")

    result = check(program)

    assert result.status == 1
    assert "cannot" in problems(result)["target.web"]


def test_a_reload_command_that_is_not_there_is_found(lab: ProjectLab, program: Program) -> None:
    edit(lab, r'deployer = "files"', 'deployer = "files"\nreload = ["no-such-command", "-x"]')
    assert "'no-such-command'" in problems(check(program))["target.web"]


def test_an_endpoint_that_serves_something_else_is_found(
    lab: ProjectLab, program: Program, name: str
) -> None:
    program.done("issue", name)
    other = f"other-{name}"
    program.done("issue", other)
    link = lab.live / name
    link.unlink()
    link.symlink_to((lab.live / other).readlink())

    found = problems(check(program))

    assert "it holds" in found["target.web"]
    [endpoint] = [problem for subject, problem in found.items() if subject.startswith("target.web endpoint")]
    assert f"serves another certificate for {name}" in endpoint


def test_an_endpoint_where_nobody_answers_is_found(lab: ProjectLab, program: Program) -> None:
    with unused_port() as port:
        edit(lab, r"endpoint = .*", f'endpoint = ["127.0.0.1:{port}"]')
        found = problems(check(program))
    assert set(found) == {f"target.web endpoint 127.0.0.1:{port}"}


# --- what is late ----------------------------------------------------------------------------------------


def ago(**time: float) -> int:
    return to_microseconds(SystemClock().now() - timedelta(**time))


def test_steps_that_nobody_takes_are_late(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    due = ago(hours=2)
    execute(lab, "INSERT INTO work (kind, pair_id, ca, due_at) VALUES ('refill', 1, 'beta', ?)", due)
    execute(lab, "UPDATE pair_state SET next_action_at = ?", due)

    result = check(program)

    assert result.status == 1
    said = [line["problem"] for line in result.lines if line["subject"] == "work"]
    assert any(f"one step is overdue, the refill of {name} at beta" in problem for problem in said)
    assert any(f"one renewal is overdue, that of {name}" in problem for problem in said)


def test_a_step_that_waits_for_a_person_is_told(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    execute(
        lab,
        "INSERT INTO work (kind, pair_id, ca, due_at, reason) VALUES ('order', 1, 'beta', NULL, 'pay first')",
    )
    found = check(program)
    assert found.status == 1
    assert f"the order of {name} at beta waits for a person: pay first" in problems(found)["work"]
    execute(lab, "UPDATE work SET reason = 'pay first\n  at the counter' WHERE due_at IS NULL")
    assert "waits for a person: pay first\n         at the counter\n         When" in program.run("check").out


def test_a_step_that_fails_is_told_with_its_reason_until_it_succeeds(
    lab: ProjectLab, program: Program, name: str
) -> None:
    edit(lab, 'directory = "live"', 'directory = "live"\nreload = ["false"]')
    assert program.run("issue", name, "--timeout", "2").status == 3

    [said] = [line for line in check(program).lines if not line["ok"]]
    assert said["subject"] == "work"
    assert said["problem"].startswith(f"the deployment of {name} at web has failed since 20")
    assert "the reload command 'false' ended with exit status 1" in said["problem"]
    assert said["remedy"].startswith("the files are in place: mend the server's configuration or the command")
    assert re.search(rf"Next try at 20\S+Z; to try sooner: dualcert renew {name}$", said["remedy"])

    edit(lab, "(?m)^reload = .*$", "")
    program.done("renew", name)
    assert problems(check(program)) == {}


def test_steps_that_fail_for_the_same_ca_are_told_together(
    lab: ProjectLab, program: Program, name: str
) -> None:
    for number in range(3):
        program.done("issue", f"p{number}.{name}")
        execute(
            lab,
            "INSERT INTO work (kind, pair_id, ca, due_at, attempts, since, reason) SELECT 'order', id, 'beta', ?, 2,"
            " ?, 'refused' FROM pair WHERE name = ?",
            ago(hours=-2),
            ago(hours=number),
            f"p{number}.{name}",
        )
    [problem] = problems(check(program)).values()
    assert problem.startswith(f"the order of p2.{name} at beta has failed since 20")
    assert problem.endswith(", 2 times (and 2 more there): refused")


def test_what_pairs_need_and_the_configuration_does_not_have_is_told_before_it_is_missed(
    lab: ProjectLab, program: Program, name: str
) -> None:
    program.done("issue", name)
    program.done("issue", f"other.{name}")
    for old, new in (
        ("[ca.beta]", "[ca.gamma]"),
        ('"beta"', '"gamma"'),
        ("[dns.lab]", "[dns.new]"),
        ('"lab"', '"new"'),
    ):
        edit(lab, re.escape(old), new)
    edit(lab, re.escape("[target.web]"), "[target.www]")
    edit(lab, re.escape('["web"]'), '["www"]')

    said = {line["subject"]: line for line in check(program).lines if not line["ok"]}

    ways = {
        "ca.beta": f"move {name} --ca beta=ANOTHER",
        "dns.lab": f"set {name} --dns ANOTHER",
        "target.web": f"set {name} --target ANOTHER",
    }
    for section, way in ways.items():
        assert said[section]["problem"] == f"[{section}] is not configured, but {name} and 1 more need it"
        assert said[section]["remedy"].endswith(f"dualcert pair {way}")


def test_a_renewal_that_waits_for_its_budget_or_fails_to_be_asked_about_is_no_failure(
    lab: ProjectLab, program: Program, name: str
) -> None:
    program.done("issue", name)
    step = "INSERT INTO work (kind, pair_id, ca, due_at, attempts, since, reason, waiting_for) VALUES "
    execute(lab, step + "('order', 1, 'beta', ?, 1, ?, '429', 'budget')", ago(hours=-1), ago(hours=1))
    execute(lab, step + "('renewal-information', 0, 'beta', ?, 1, ?, 'x', NULL)", ago(hours=-1), ago(hours=1))
    assert problems(check(program)) == {}


@pytest.mark.parametrize("how", ["expired", "revoked", "blocked"])
def test_pairs_that_serve_what_must_not_be_served_are_told(
    lab: ProjectLab, program: Program, name: str, how: str
) -> None:
    program.done("issue", name)
    program.done("issue", f"good.{name}")
    match how:
        case "expired":
            execute(
                lab, "UPDATE certificate SET not_after = ? WHERE pair_id = 1 AND ca = 'alpha'", ago(days=2)
            )
        case "revoked":
            execute(
                lab,
                "INSERT INTO revocation SELECT id, 0, 'crl', 4 FROM certificate WHERE pair_id = 1 AND ca = 'alpha'",
            )
        case "blocked":
            execute(
                lab,
                "INSERT INTO blocked_key SELECT spki, 0, 'leaked' FROM certificate WHERE pair_id = 1 AND ca = 'alpha'",
            )
    [said] = [line for line in check(program).lines if line["subject"] == "protection"]
    assert said["problem"].startswith(f"one pair is exposed: {name} serves a certificate of alpha")
    assert how in said["problem"]
    leave = f"To have its backup serve: dualcert failover {name}"
    assert said["remedy"] == f"{leave}. For all of them: dualcert list --protection exposed"


@pytest.mark.parametrize(("seen", "due", "wrong"), [(200, 180, True), (30, 180, False), (200, None, False)])
def test_a_daemon_is_missed_when_something_is_due(
    lab: ProjectLab, program: Program, name: str, seen: int, due: int | None, wrong: bool
) -> None:
    program.done("issue", name)
    beat = ago(seconds=seen)
    execute(
        lab, "INSERT INTO daemon (owner, version, started_at, seen_at) VALUES ('host|1', '1', 0, ?)", beat
    )
    if due is not None:
        execute(
            lab,
            "INSERT INTO work (kind, pair_id, ca, due_at) VALUES ('refill', 1, 'beta', ?)",
            ago(seconds=due),
        )
    found = problems(check(program))
    assert ("daemon" in found) == wrong
    assert set(found) <= {"daemon"}


@contextmanager
def unused_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else comes to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
