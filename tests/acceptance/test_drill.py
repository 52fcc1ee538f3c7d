"""A drill tries for real what a failover would need, and moves nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import tomllib
from pathlib import Path
from typing import Any

import certifi
import pytest

from dualcert.lifecycle import inspection, loopback
from tests.brokenca import change, change_ca, rows
from tests.labfixture import ProjectLab
from tests.program import Program, finish


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return f"a.{lab.domain}"


@pytest.fixture
def issued(program: Program, name: str) -> Program:
    program.done("issue", name, f"*.{name}")
    return program


def ok_until(program: Program) -> Any:
    return rows(program, "SELECT backup_ok_until FROM pair_state")[0][0]


def drilled(program: Program, *arguments: str) -> tuple[int, Any]:
    result = program.run("drill", *arguments, "--json")
    return result.status, next((line for line in result.lines if "pair" in line), None)


def test_a_good_backup_is_shown_on_loopback_and_counts_again(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    before, served = issued.show(name), lab.handshake(name)
    change(issued, "UPDATE pair_state SET backup_ok_until = 1")
    change(issued, "UPDATE wrapped_key SET proved_at = 1")

    status, told = drilled(issued, name)

    backup = before["backup"]["certificate"]
    assert (status, told["ok"], told["ca"], told["problems"]) == (0, True, "beta", [])
    assert (told["serial"], told["handshake"]) == (backup["serial"], "TLSv1.3")
    assert ok_until(issued) > 1
    assert lab.handshake(name) == served
    assert issued.show(name) == before
    assert [one["kind"] for one in issued.events(name)][-1] == "drilled"
    assert rows(issued, "SELECT count(*) FROM wrapped_key WHERE proved_at > 1") == [(1,)]
    assert "directory answers" in issued.done("drill").out


def test_without_a_daemon_a_scheduled_run_opens_the_keys_of_backups_again(issued: Program, name: str) -> None:
    change(issued, "UPDATE pair_state SET backup_ok_until = 1")
    change(issued, "UPDATE wrapped_key SET proved_at = 1")
    assert issued.show(name)["protection"] == "unprotected"
    issued.done("renew", "--due")
    assert issued.show(name)["protection"] == "protected"


def swapped_keys(lab: ProjectLab, program: Program) -> None:
    change(
        program,
        "UPDATE wrapped_key SET wrapped = x'00' WHERE spki = "
        "(SELECT spki FROM certificate WHERE id = (SELECT standby FROM pair_state))",
    )


def no_chain(lab: ProjectLab, program: Program) -> None:
    change(program, "UPDATE chain SET pem = ''")


def _alphas(lab: ProjectLab) -> str:
    with lab.config_path.open("rb") as file:
        return str(lab.config_path.parent / tomllib.load(file)["ca"]["alpha"]["trust_roots"])


def another_root(lab: ProjectLab, program: Program) -> None:
    change_ca(lab.config_path, "beta", trust_roots=_alphas(lab))


def revoked(lab: ProjectLab, program: Program) -> None:
    change(
        program,
        "INSERT INTO revocation (certificate_id, at, reason, source) "
        "SELECT standby, 1, 'unspecified', 'a test' FROM pair_state",
    )


def other_names(lab: ProjectLab, program: Program) -> None:
    change(program, "UPDATE pair_name SET reversed_name = 'other.' || reversed_name WHERE position = 0")


def ended(lab: ProjectLab, program: Program) -> None:
    change(program, "UPDATE certificate SET not_after = not_before + 1")


def swapped_leaves(lab: ProjectLab, program: Program) -> None:
    """The bytes that would be served are those of another certificate."""
    change(
        program,
        "UPDATE leaf SET der = (SELECT der FROM leaf JOIN pair_state ON certificate_id = serving) "
        "WHERE certificate_id = (SELECT standby FROM pair_state)",
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (swapped_keys, "private key cannot be opened"),
        (no_chain, "chain does not lead to a trusted root"),
        (another_root, "chain does not lead to a trusted root"),
        (revoked, "revoked"),
        (other_names, "does not name"),
        (ended, "expired"),
        (swapped_leaves, "for another key"),
    ],
)
def test_what_would_not_serve_is_named_and_is_no_backup_any_more(
    lab: ProjectLab, issued: Program, name: str, spoil: Any, says: str
) -> None:
    spoil(lab, issued)

    status, told = drilled(issued)

    assert status == 1
    assert (told["pair"], told["ok"]) == (name, False)
    assert says in "; ".join(told["problems"]), told
    assert ok_until(issued) is None
    assert [one["kind"] for one in issued.events(name)][-1] == "proof-failed"
    shown = issued.done("show", name).out
    assert "\nno backup   " in shown, "why the pair is unprotected is told where that is read"
    assert f"dualcert drill {name}" in shown or f"dualcert renew {name}" in shown


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize(("spoil", "after"), [(None, "protected"), (no_chain, "unprotected")])
def test_what_only_an_incident_was_against_counts_again_after_its_end(
    lab: ProjectLab, issued: Program, name: str, spoil: Any, after: str
) -> None:
    issued.done("incident", "open", "--title", "a test", "--within", "1d", "--ca", "beta")
    if spoil is not None:
        spoil(lab, issued)
    status, told = drilled(issued)
    assert status == 1
    assert "named by an open incident" in "; ".join(told["problems"])
    shown = issued.done("show", name).out
    assert "named by an open incident" in shown
    assert "dualcert incident status 1" in shown

    issued.done("incident", "close", "1")

    assert issued.show(name)["protection"] == after


def test_what_is_held_against_a_backup_while_it_is_drilled_is_not_forgotten(
    lab: ProjectLab, issued: Program, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shake = loopback.handshake

    def meanwhile(*arguments: Any) -> Any:
        opening = ("incident", "open", "--title", "a test", "--within", "1d", "--ca", "beta")
        assert finish(issued.start(*opening)).status == 0
        return shake(*arguments)

    monkeypatch.setattr(loopback, "handshake", meanwhile)

    status, told = drilled(issued)

    assert (status, told["ok"]) == (1, False)
    assert "named by an open incident" in "; ".join(told["problems"])
    assert ok_until(issued) is None


def test_a_backup_that_covers_the_names_of_today_goes_on_counting(issued: Program, name: str) -> None:
    before = issued.show(name)
    issued.done("issue", name, f"www.{name}", "--name", name, "--replace-names")
    change(issued, "UPDATE pair_state SET backup_ok_until = 1")
    status, told = drilled(issued, name)
    assert (status, told["problems"], told["serial"]) == (0, [], before["backup"]["certificate"]["serial"])
    assert issued.show(name)["protection"] == "protected"
    assert ok_until(issued) > 1


def test_public_roots_are_those_of_an_arrival_where_the_machine_has_none(
    lab: ProjectLab, issued: Program, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a container without a store of its own: the roots that come with dualcert count.
    with lab.config_path.open("rb") as file:
        roots = lab.config_path.parent / tomllib.load(file)["ca"]["beta"]["trust_roots"]
    monkeypatch.setattr(certifi, "where", lambda: str(roots))
    inspection._public_roots.cache_clear()
    inspection._store.cache_clear()
    loopback._client.cache_clear()
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(variable, str(lab.directory / "none"))
    try:
        fullchain, key = _backup(lab, issued, name)
        assert loopback.handshake(fullchain, key, name, None)[1] == "TLSv1.3"
    finally:
        inspection._public_roots.cache_clear()
        inspection._store.cache_clear()
        loopback._client.cache_clear()


def _backup(lab: ProjectLab, program: Program, name: str) -> tuple[str, bytes]:
    program.done("failover", name)
    folder = lab.live / name
    return (folder / "fullchain.pem").read_text(), (folder / "privkey.pem").read_bytes()


def test_the_chain_may_end_at_any_certificate_that_is_trusted(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    issuer = lab.directory / "issuer.pem"
    query = "SELECT pem FROM chain JOIN certificate ON hash = chain_hash WHERE ca = 'beta'"
    issuer.write_text(rows(issued, query)[0][0])
    change_ca(lab.config_path, "beta", trust_roots=str(issuer))
    status, told = drilled(issued, name)
    assert (status, told["problems"]) == (0, [])


def test_what_hinders_this_machine_is_told_and_not_held_against_the_backup(
    lab: ProjectLab, issued: Program, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ok_until(issued)

    def full() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", lambda *_: full())
        status, told = drilled(issued, name)
    assert status == 1
    assert "no handshake could be held here: [Errno 24] Too many open files" in told["problems"][0]

    rubbish = lab.directory / "rubbish.pem"
    rubbish.write_text("no certificate")
    change_ca(lab.config_path, "beta", trust_roots=str(rubbish))
    status, told = drilled(issued, name)
    assert status == 1
    assert "rubbish.pem cannot be read" in told["problems"][0]

    assert ok_until(issued) == before
    assert issued.show(name)["protection"] == "protected"


def test_a_pair_without_a_backup_fails(issued: Program, name: str) -> None:
    change(issued, "UPDATE pair_state SET standby = NULL")
    status, told = drilled(issued)
    assert (status, told["problems"]) == (1, ["there is no backup"])


def test_a_ca_that_does_not_answer_is_named(lab: ProjectLab, issued: Program, name: str) -> None:
    change_ca(lab.config_path, "alpha", directory="https://127.0.0.1:9/dir")
    result = issued.run("drill", name)
    assert result.status == 1
    assert "PROBLEM  CA alpha" in result.out
    assert f"ok       {name}" in result.out


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_a_sample_is_rounded_up_and_drawn_anew(lab: ProjectLab, program: Program) -> None:
    for number in range(4):
        program.done("issue", f"n{number}.{lab.domain}")
    change(program, "UPDATE pair_state SET backup_ok_until = 1 WHERE pair_id > 0")

    few = program.run("drill", "--sample", "1%", "--json").lines
    half = program.run("drill", "--sample", "50%", "--json").lines
    everything = program.run("drill", "--sample", "100%", "--json").lines

    assert [sum("pair" in one for one in lines) for lines in (few, half, everything)] == [1, 2, 4]


def test_the_key_touches_no_disk(lab: ProjectLab, issued: Program, name: str, tmp_path: Path) -> None:
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in lab.directory.rglob("*.pem")}
    issued.done("drill", name)
    after = {path: hashlib.sha256(path.read_bytes()).digest() for path in lab.directory.rglob("*.pem")}
    assert before == after


@pytest.mark.parametrize("sample", ["0", "101%", "some"])
def test_a_sample_is_a_percentage(program: Program, sample: str) -> None:
    refused = program.run("drill", "--sample", sample)
    assert (refused.status, "percent" in refused.err) == (2, True)
