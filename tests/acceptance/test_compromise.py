"""A key that a person calls compromised is not used from that moment on, whatever its CA says or does not say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dualcert.lab import Lab
from tests.program import Program


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """For tests that end a CA."""
    with Lab.start(tmp_path / "own") as lab:
        yield lab


@pytest.fixture
def issued(own_lab: Lab) -> Program:
    program = Program(own_lab.config_path)
    program.done("init")
    program.done("issue", own_lab.domain)
    return program


def kinds(program: Program, name: str) -> list[str]:
    return [one["kind"] for one in program.events(name)]


def test_a_compromised_backup_never_serves_although_its_ca_is_down(own_lab: Lab, issued: Program) -> None:
    name = own_lab.domain
    own_lab.beta.stop()
    unfinished = issued.run(
        "revoke", name, "--role", "backup", "--reason", "keyCompromise", "--timeout", "2s"
    )
    assert unfinished.status == 3, unfinished

    refused = issued.run("failover", name)

    assert refused.status == 4, refused
    assert "blocked after a compromise" in refused.err
    shown = issued.show(name)
    assert (shown["epoch"], shown["primary"]["ca"], shown["protection"]) == (0, "alpha", "unprotected")


def test_nobody_goes_back_to_a_compromised_certificate_whose_ca_is_down(
    own_lab: Lab, issued: Program
) -> None:
    name = own_lab.domain
    own_lab.alpha.stop()
    unfinished = issued.run("failover", name, "--revoke", "--reason", "keyCompromise", "--timeout", "2s")
    assert unfinished.status == 3, unfinished

    refused = issued.run("failover", name, "--to", "alpha")

    assert refused.status == 4, refused
    assert "blocked after a compromise" in refused.err
    shown = issued.show(name)
    assert (shown["epoch"], shown["primary"]["ca"], shown["protection"]) == (1, "beta", "unprotected")


def test_the_key_is_blocked_once_and_its_revocation_is_signed_by_it(own_lab: Lab, issued: Program) -> None:
    name = own_lab.domain
    issued.done("revoke", name, "--role", "backup", "--reason", "keyCompromise")

    assert kinds(issued, name).count("key-blocked") == 1
    revoked = next(one["cause"] for one in issued.events(name) if one["kind"] == "revoked")
    assert revoked.endswith("signed by the certificate's key")
