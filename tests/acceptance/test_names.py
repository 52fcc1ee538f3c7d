"""Names as people type them and as CAs certify them; serials as large as they come."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from dualcert.clock import SystemClock
from dualcert.lifecycle import inspection
from dualcert.store import certificates, pairs
from tests.labfixture import ProjectLab
from tests.program import Program


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


def certified(lab: ProjectLab, server_name: str) -> set[str]:
    """The DNS names in the certificate that is served for this name."""
    leaf = x509.load_der_x509_certificate(lab.handshake(server_name))
    extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value.get_values_for_type(x509.DNSName))


def test_an_internationalised_name_is_kept_as_an_a_label_and_found_by_both(
    lab: ProjectLab, program: Program, name: str
) -> None:
    pair = program.done("issue", f"Müller.{name}", "--json").json

    ascii_name = f"xn--mller-kva.{name}"
    assert (pair["pair"], pair["names"], pair["protection"]) == (ascii_name, [ascii_name], "protected")
    assert certified(lab, ascii_name) == {ascii_name}
    assert program.show(f"MÜLLER.{name}.") == program.show(ascii_name) == pair
    assert program.done("failover", f"müller.{name}", "--json").json["pair"] == ascii_name


def test_case_final_dots_and_repetition_make_no_other_pair(
    lab: ProjectLab, program: Program, name: str
) -> None:
    pair = program.done("issue", name.upper(), f"{name}.", f"*.{name.title()}", name, "--json").json

    assert (pair["pair"], pair["names"]) == (name, [name, f"*.{name}"])
    assert certified(lab, name) == {name, f"*.{name}"}
    again = program.done("issue", f"*.{name}", name, "--json").json
    assert again["primary"]["certificate"] == pair["primary"]["certificate"]
    assert [one["pair"] for one in program.done("list", "--json").lines] == [name]


def test_a_hundred_names_in_one_pair(lab: ProjectLab, program: Program, name: str) -> None:
    wanted = [name, *(f"n{number}.{name}" for number in range(99))]

    pair = program.done("issue", *wanted, "--json").json

    assert pair["names"] == wanted
    assert pair["protection"] == "protected"
    assert certified(lab, name) == set(wanted)
    assert program.show(f"n98.{name}")["pair"] == name
    assert lab.leftovers() == {}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["192.0.2.1"], ["'192.0.2.1' is an IP address", "DNS-01"]),
        (["2001:db8::1"], ["'2001:db8::1' is an IP address", "DNS-01"]),
        (["my_host.example.test"], ["'my_host.example.test'", "underscore"]),
        ([""], ["an empty name", "www.example.com"]),
        (["com"], ["'com' has a single label"]),
        (["co.uk"], ["co.uk is a public suffix", "example.co.uk"]),
        (["*.co.uk"], ["*.co.uk is a public suffix", "example.co.uk"]),
        (["good.example.test", "a..b.example.test"], ["'a..b.example.test' has an empty label"]),
        ([f"n{number}.example.test" for number in range(101)], ["101 names", "several pairs"]),
    ],
)
def test_what_no_ca_certifies_is_refused_before_anything_is_made(
    program: Program, typed: list[str], words: list[str]
) -> None:
    result = program.run("issue", *typed)

    assert result.status == 2, result
    assert result.out == ""
    for word in words:
        assert word in result.err
    assert program.done("list", "--json").out == ""


# --- serials -----------------------------------------------------------------------------------------------


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content).to_bytes(2, "big").lstrip(b"\0")
    long_form = b"" if len(content) < 128 else bytes([0x80 | len(length)])
    return bytes([tag]) + long_form + length + content


def _with_serial(serial: bytes) -> str:
    """A self-signed certificate (PEM) with this serial, which no builder here would put in."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a CA with long serials")])
    now = SystemClock().now()
    small = 0x7F01020304
    draft = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(small)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    head, serial_in_draft, rest = draft.tbs_certificate_bytes.partition(_tlv(0x02, small.to_bytes(5, "big")))
    assert serial_in_draft
    version = head[-5:]  # what stands before it inside the sequence: [0] EXPLICIT INTEGER 2
    sign_byte = b"\0" if serial[0] & 0x80 else b""
    tbs = _tlv(0x30, version + _tlv(0x02, sign_byte + serial) + rest)
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
    der = _tlv(0x30, tbs + ecdsa_with_sha256 + _tlv(0x03, b"\0" + signature))
    return ssl.DER_cert_to_PEM_cert(der)


@pytest.mark.parametrize(
    "serial",
    [b"\xff" + b"\xab" * 19, b"\x80" + b"\0" * 19, b"\x7f" * 20, b"\x0a", b"\x01\x00\x02"],
    ids=lambda serial: serial.hex()[:8],
)
def test_a_serial_is_parsed_stored_shown_and_found_without_a_sign_byte(
    program: Program, name: str, serial: bytes
) -> None:
    program.done("issue", name)
    arrival = inspection.parse(_with_serial(serial))
    assert arrival.serial == serial
    application = program.application()
    with application.world.store.write() as tx:
        pair = pairs.by_name(tx, name)
        assert pair is not None
        state = pairs.state(tx, pair.id)
        assert state.standby is not None
        before = certificates.get(tx, state.standby)
        arrived = replace(
            before,
            id=0,
            serial=arrival.serial,
            issuer_hash=arrival.issuer_hash,
            sha256=arrival.sha256,
            spki=arrival.spki,
            not_after=arrival.leaf.not_valid_after_utc,
        )
        number = certificates.insert_certificate(tx, arrived, arrival.der, arrival.chain_pem)
        assert pairs.put_certificate(tx, state, before.lineage_id, number, arrived.not_after)
    with application.world.store.read() as tx:
        found = certificates.find_serial(tx, serial, arrival.issuer_hash)
        assert found is not None
        assert (found.id, found.serial) == (number, serial)
        assert certificates.find_serial(tx, serial, before.issuer_hash) is None, (
            "serials belong to their issuer"
        )
        assert inspection.parse(inspection.pem_of(certificates.der_of(tx, number))).serial == serial
    application.close()

    shown = program.show(name)["backup"]["certificate"]["serial"]
    assert shown == serial.hex()
    assert program.done("list", "--json").lines[0]["backup"]["certificate"]["serial"] == shown
    assert f"serial {shown}," in program.done("show", name).out


def test_the_same_serial_of_two_issuers_is_two_certificates(program: Program, name: str) -> None:
    program.done("issue", name)
    application = program.application()
    with application.world.store.write() as tx:
        pair = pairs.by_name(tx, name)
        assert pair is not None
        state = pairs.state(tx, pair.id)
        assert state.serving is not None
        assert state.standby is not None
        mine, other = (certificates.get(tx, one) for one in (state.serving, state.standby))
        twin = replace(other, id=0, serial=mine.serial, sha256=b"t" * 32, spki=b"t" * 32)
        number = certificates.insert_certificate(tx, twin, b"der", "")
        assert certificates.find_serial(tx, mine.serial, mine.issuer_hash) == mine
        found = certificates.find_serial(tx, mine.serial, other.issuer_hash)
        assert found is not None
        assert found.id == number
    application.close()


@pytest.mark.parametrize("text", ["shop", "a_b", "*.", "1.2.3.4"])
def test_what_is_no_pairs_name_is_told_so_whatever_it_looks_like(program: Program, text: str) -> None:
    refused = program.run("show", text)
    assert refused.status == 2
    assert f"no pair is called {text}" in refused.err
    assert "dualcert list" in refused.err


def test_what_names_nothing_is_refused_before_anything_is_made(
    lab: ProjectLab, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.done("issue", lab.domain)
    monkeypatch.chdir(tmp_path)
    for command, said in (
        (("issue", lab.domain, "--primary", "alpha", "--backup", "alpha"), "both alpha"),
        (("issue", f"other.{lab.domain}", "--primary", "alpha", "--backup", "alpha"), "both alpha"),
        (("export", lab.domain, "--to", "", "--with-key"), "no folder"),
    ):
        refused = program.run(*command)
        assert refused.status == 2, refused
        assert said in refused.err
    assert list(tmp_path.glob("*.pem")) == []


def test_keys_that_lie_beside_an_export_without_them_are_mentioned(
    lab: ProjectLab, program: Program, tmp_path: Path
) -> None:
    program.done("issue", lab.domain)
    export = ("export", lab.domain, "--to", str(tmp_path))
    assert program.done(*export).err == ""
    assert program.done(*export, "--with-key").err == ""
    assert "privkey.pem and bundle.pem there are of an earlier export" in program.done(*export).err


def test_what_is_not_there_yet_says_when_it_is_tried_again(lab: ProjectLab, program: Program) -> None:
    name = f"{lab.domain}.nowhere.invalid"
    program.run("issue", name, "--timeout", "1")
    view = program.show(name)
    shown = program.done("show", name).out
    assert f"next try at {view['backup']['renewal']['next_try']}" in shown
    program.done("issue", lab.domain)
    program.done("failover", lab.domain, "--revoke")
    due = program.show(lab.domain)["backup"]["renewal"]["next_try"]
    assert f"waiting, due at {due}\n" in program.done("show", lab.domain).out


def test_a_pairs_own_name_goes_before_what_others_cover_and_several_are_listed(
    lab: ProjectLab, program: Program
) -> None:
    shared = f"shared.{lab.domain}"
    for pair in ("one", "another"):
        program.run("issue", shared, f"{pair}.{lab.domain}", "--name", pair, "--timeout", "1")
    for command in (
        ("show", shared),
        ("failover", shared, "--dry-run"),
        ("revoke", shared, "--role", "backup"),
    ):
        refused = program.run(*command)
        assert refused.status == 2, refused
        assert "covered by several pairs: another, one" in refused.err
    program.run("issue", shared, "--timeout", "1")
    assert program.show(shared)["names"] == program.show(shared.upper())["names"] == [shared]
    assert program.show("one")["pair"] == "one", "which is no name that a certificate could have"
    nobody = program.run("show", f"nobody.{lab.domain}")
    assert (nobody.status, nobody.out) == (2, "")
