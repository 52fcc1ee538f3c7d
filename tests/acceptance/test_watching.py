"""Watching: what a CA says to have revoked is seen, believed only with its signature, and acted upon."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests import rawdatabase
from tests.daemons import daemon, wait_for, wait_until_protected
from tests.labfixture import ProjectLab
from tests.program import Program
from tests.revocations import Publisher, Signer, crl, publishing
from tests.shifted import ShiftedClock, built_on


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as server:
        yield server


@pytest.fixture
def alpha(lab: ProjectLab) -> Signer:
    return Signer.of(lab.alpha)


@pytest.fixture
def watched(program: Program, publisher: Publisher, alpha: Signer) -> Program:
    """Alpha's CRL is at the publisher's, and empty."""
    place = publisher.put("/alpha.crl", crl(alpha))
    configure(program, f'crl = ["{place}"]')
    return program


def configure(program: Program, of_alpha: str, watch: str = "") -> None:
    text = program.config.read_text()
    text = text.replace("[ca.alpha]\n", f"[ca.alpha]\n{of_alpha}\n")
    program.config.write_text(f"{text}\n[watch]\nprivate_networks = true\n{watch}\n")


def serial_of(program: Program, name: str, role: str = "primary") -> bytes:
    return bytes.fromhex(program.show(name)[role]["certificate"]["serial"])


def test_a_certificate_on_its_cas_crl_is_promoted_away_from_and_refilled(
    lab: ProjectLab, watched: Program, publisher: Publisher, alpha: Signer
) -> None:
    name = lab.domain
    watched.done("issue", name)
    before = watched.show(name)
    calm = watched.done("watch", "--once", "--json").json
    assert (calm["revoked"], calm["turned"]) == (0, [])

    publisher.put("/alpha.crl", crl(alpha, {serial_of(watched, name): 4}, number=2))
    result = watched.done("watch", "--once", "--json").json

    assert result["turned"] == [{"pair": name, "promoted": True, "problem": None}]
    after = watched.show(name)
    assert after["primary"]["ca"] == "beta"
    assert after["targets"][0]["observed"] == "wire"
    assert hashlib.sha256(lab.handshake(name)).hexdigest() == before["backup"]["certificate"]["sha256"]
    kinds = {one["kind"]: one for one in watched.events(name)}
    assert kinds["promoted"]["actor"] == "watch"
    assert "superseded" in kinds["promoted"]["cause"]
    assert f"{publisher.url}/alpha.crl" in kinds["promoted"]["cause"]
    watched.done("renew", "--due")
    whole = watched.show(name)
    assert whole["protection"] == "protected"
    assert whole["backup"]["certificate"]["serial"] != before["primary"]["certificate"]["serial"]


def test_what_a_person_is_asked_for_is_not_done(
    lab: ProjectLab, program: Program, publisher: Publisher, alpha: Signer
) -> None:
    place = publisher.put("/alpha.crl", crl(alpha))
    configure(program, f'crl = ["{place}"]', 'promote = "ask"')
    program.done("issue", lab.domain)
    publisher.put("/alpha.crl", crl(alpha, [serial_of(program, lab.domain)], number=2))

    result = program.run("watch", "--once", "--json")

    assert (result.status, result.json["ask"], result.json["turned"]) == (3, 1, []), result
    asked = [one for one in program.events(lab.domain) if one["kind"] == "promotion-wanted"]
    assert [f"dualcert failover {lab.domain}" in one["cause"] for one in asked] == [True]


def test_the_daemon_watches_by_itself(
    lab: ProjectLab, watched: Program, publisher: Publisher, alpha: Signer, tmp_path: Path
) -> None:
    name = lab.domain
    watched.done("issue", name)
    publisher.put("/alpha.crl", crl(alpha, [serial_of(watched, name)], number=2))
    beta = watched.show(name)["backup"]["certificate"]["sha256"]

    def serves_beta() -> bool:
        try:
            return bool(hashlib.sha256(lab.handshake(name)).hexdigest() == beta)
        except ssl.SSLError:  # nginx opens the file for the key once more, and it was switched between
            return False

    with daemon(watched, tmp_path / "log") as process:
        wait_for(serves_beta)
        wait_until_protected(watched, [name])
        assert process.end() == 0

    assert watched.show(name)["primary"]["ca"] == "beta"


def test_a_false_alarm_turns_nothing_and_waits_for_a_person(
    watched: Program, lab: ProjectLab, publisher: Publisher, alpha: Signer
) -> None:
    """A CA that lists all it has issued for us, at once."""
    names = [f"p{number}.{lab.domain}" for number in range(11)]
    for name in names:
        watched.done("issue", name)
    before = {one["pair"]: one["primary"]["ca"] for one in watched.done("list", "--json").lines}
    listed = [
        bytes.fromhex(one["primary"]["certificate"]["serial"]) for one in watched.done("list", "--json").lines
    ]
    publisher.put("/alpha.crl", crl(alpha, listed, number=2))

    result = watched.run("watch", "--once", "--json")

    assert result.status == 3, result
    assert (result.json["held"], result.json["turned"], result.json["incident"]) == (11, [], 1)
    command = result.json["command"]
    assert command.startswith("dualcert incident run 1 --plan ")
    again = watched.run("watch", "--once", "--json")
    assert (again.status, again.json["held"], again.json["command"]) == (3, 11, command)
    assert (
        f"the brake holds 11 pairs: they serve what incident 1 names\n  {command}\n"
        in watched.run("watch", "--once").out
    )
    watched.run("run", "--once", "--timeout", "5s")
    after = {one["pair"]: one["primary"]["ca"] for one in watched.done("list", "--json").lines}
    assert after == before
    assert [one["kind"] for one in watched.done("events", "--json").lines].count("braked") == 1
    leave = f"dualcert failover {names[0]}; with all that incident 1 names: dualcert incident status 1"
    shown = watched.done("show", names[0]).out
    assert (
        f"exposed     what serves must not: it is revoked\n            To have its backup serve: {leave}"
        in shown
    )
    [exposed] = [one for one in watched.run("check", "--json").lines if one["subject"] == "protection"]
    assert (
        "; with all that incident 1 names: dualcert incident status 1. For all of them:" in exposed["remedy"]
    )


def test_the_blind_are_told_by_watch_and_by_check(
    watched: Program, lab: ProjectLab, publisher: Publisher, alpha: Signer
) -> None:
    watched.done("issue", lab.domain)
    assert watched.run("watch", "--once").status == 0
    stranger = Signer(alpha.certificate, ec.generate_private_key(ec.SECP256R1()))
    publisher.put("/alpha.crl", crl(stranger, [serial_of(watched, lab.domain)], number=2))

    result = watched.run("watch", "--once")

    assert result.status == 3
    assert "blind" in result.out
    assert "signature is not that of the CA" in result.err
    watch = [one for one in watched.run("check", "--json").lines if one["subject"] == "watching ca.alpha"]
    assert [one["ok"] for one in watch] == [False]
    assert "last good answer" in watch[0]["problem"]
    of_beta = [one for one in watched.run("check").out.splitlines() if "watching ca.beta" in one]
    assert "blind (no source)" in of_beta[0]
    assert watched.show(lab.domain)["primary"]["ca"] == "alpha"


def test_what_waits_too_long_to_be_asked_about_is_reported_as_left_out_of_a_sample(
    lab: ProjectLab, watched: Program
) -> None:
    watched.done("issue", lab.domain)
    assert watched.done("watch", "--once", "--json").json["not_asked_about"] == 0
    # As where a CA's budget of requests has been too small for long.
    assert rawdatabase.change(watched.config, "UPDATE renewal_info SET check_at = 1") == 2
    assert watched.done("watch", "--once", "--json").json["not_asked_about"] == 2
    told = watched.done("watch", "--once")
    assert "alpha: 1 certificate waits for more than an hour to be asked about (ARI)" in told.err
    assert "sample by hour of issuance" in told.err
    assert "(ARI)" in watched.run("check").out


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_host_whose_clock_is_an_hour_off_sees_all_the_same(
    watched: Program,
    lab: ProjectLab,
    publisher: Publisher,
    alpha: Signer,
    monkeypatch: pytest.MonkeyPatch,
    off: timedelta,
) -> None:
    name = lab.domain
    watched.done("issue", name)
    serial = serial_of(watched, name)
    build = built_on(ShiftedClock(off), monkeypatch)
    publisher.put("/alpha.crl", crl(alpha, [serial], number=2, lasts=timedelta(minutes=30)))

    result = watched.run("watch", "--once", "--json", build=build)

    assert result.json["turned"] == [{"pair": name, "promoted": True, "problem": None}], result
    assert watched.show(name)["primary"]["ca"] == "beta"


def test_an_address_of_ones_own_network_is_not_asked(
    program: Program, lab: ProjectLab, publisher: Publisher, alpha: Signer
) -> None:
    configure(program, f'crl = ["{publisher.put("/alpha.crl", crl(alpha))}"]')
    program.config.write_text(program.config.read_text().replace("private_networks = true", ""))
    program.done("issue", lab.domain)

    result = program.run("watch", "--once")

    assert result.status == 3
    assert "no public address" in result.err
    assert publisher.asked == []
