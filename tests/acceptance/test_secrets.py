"""Nothing secret is where it could be read: not in output, logs, errors, arguments, nor bare in the database."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from sqlalchemy import select

from dualcert.bootstrap import Application
from dualcert.lab.https import fetch
from dualcert.lab.pebble import PebbleServer
from dualcert.ports.keys import KeyContext
from dualcert.store import certificates, pairs
from dualcert.store.tables import account, blocked_key, wrapped_key
from tests import rawdatabase
from tests.faultproxy import FaultProxy, html
from tests.labfixture import ProjectLab
from tests.program import Program, finish

_OTHER_SECRET = "c29tZXRoaW5nIGVsc2UgdGhhbiB0aGUgc2VjcmV0ISE="


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


# --- what is secret, and how it might look ----------------------------------------------------------------


def forms(secret: bytes) -> set[bytes]:
    """The bytes as they are, and in the encodings in which they might have slipped out."""
    plain, url = base64.b64encode(secret), base64.urlsafe_b64encode(secret)
    digits = secret.hex()
    return {
        secret,
        plain.rstrip(b"="),
        url.rstrip(b"="),
        digits.encode(),
        digits.upper().encode(),
        ":".join(digits[i : i + 2] for i in range(0, len(digits), 2)).encode(),
        repr(secret)[2:-1].encode(),
        str(int.from_bytes(secret, "big")).encode(),
    }


def forms_of_key(pem: bytes) -> set[bytes]:
    """Also its lines of base64, its DER, and the numbers that make it private."""
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    found = {pem, *(line for line in pem.splitlines() if len(line) == 64)}
    for wording in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        found |= forms(key.private_bytes(Encoding.DER, wording, NoEncryption()))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        private = [key.private_numbers().private_value]
    else:
        numbers = key.private_numbers()
        private = [numbers.d, numbers.p, numbers.q]
    for number in private:
        found |= forms(number.to_bytes((number.bit_length() + 7) // 8, "big"))
    # The first line of every P-256 key's PEM is the same header, whatever the key.
    return {form for form in found if len(form) >= 16 and not form.startswith(b"MIGHAgEAMBMGByqGSM49")} | {
        pem
    }


def unwrapped(application: Application) -> list[bytes]:
    """Every private key that the database knows, opened as the program opens it."""
    world = application.world
    with world.store.read() as tx:
        rows = [(row, "certificate") for row in tx.execute(select(wrapped_key))]
        rows += [(row, "account") for row in tx.execute(select(account))]
    return [
        world.protector(row.domain).unwrap(row.wrapped, KeyContext(row.domain, row.spki.hex(), purpose))
        for row, purpose in rows
    ]


@dataclass
class Search:
    """What must not be found, by what it is."""

    needles: dict[str, set[bytes]] = field(default_factory=dict)

    def add_keys(self, program: Program) -> None:
        application = program.application()
        for pem in unwrapped(application):
            self.needles[f"private key {len(self.needles)}"] = forms_of_key(pem)
        application.close()

    def finds(self, places: Mapping[str, bytes]) -> list[tuple[str, str]]:
        return [
            (what, where)
            for what, needles in self.needles.items()
            for where, content in places.items()
            if any(needle in content for needle in needles)
        ]


@pytest.fixture
def search(lab: ProjectLab) -> Search:
    found = Search()
    for domain in ("primary", "backup"):
        kek = (lab.directory / "keys" / f"{domain}.kek").read_bytes().strip()
        found.needles[f"KEK {domain}"] = {kek, *forms(base64.b64decode(kek))}
    tsig = lab.bind.tsig_secret
    found.needles["TSIG secret"] = {tsig.encode(), *forms(base64.b64decode(tsig))}
    found.needles["another TSIG secret"] = {_OTHER_SECRET.encode(), *forms(base64.b64decode(_OTHER_SECRET))}
    assert lab.beta.eab is not None
    eab = lab.beta.eab.hmac_key
    found.needles["EAB key"] = {eab.encode(), *forms(base64.urlsafe_b64decode(eab + "=" * (-len(eab) % 4)))}
    return found


def rewrite(program: Program, *changes: tuple[str, str]) -> str:
    """Change the configuration by regular expressions; the text before."""
    before = text = program.config.read_text()
    for pattern, new in changes:
        text, count = re.subn(pattern, new.replace("\\", r"\\"), text)
        assert count == 1, pattern
    program.config.write_text(text)
    return before


def through(program: Program, proxy: FaultProxy, ca: PebbleServer, text: str | None = None) -> str:
    """Let the program reach a CA by way of a proxy, the rest of the configuration being ``text``; what it was."""
    whole = program.config.read_text() if text is None else text
    program.config.write_text(whole)
    rewrite(
        program,
        (re.escape(json.dumps(ca.directory_url)), json.dumps(proxy.directory)),
        (rf'(?<=ca_bundle = )"[^"]*"(?=\ntrust_roots = "[^"]*{ca.name})', json.dumps(str(proxy.ca_bundle))),
    )
    return whole


class Output:
    """Runs commands talkatively, and keeps all that they say."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.said: dict[str, bytes] = {}

    def run(self, *arguments: str, status: int) -> None:
        form = ("text", "json")[len(self.said) % 2]
        result = self._program.run("-vv", "--log-format", form, *arguments)
        self.said[f"{len(self.said)}: {' '.join(arguments)} ({form})"] = (result.out + result.err).encode()
        assert result.status == status, result

    def check(self) -> None:
        assert any(b"debug" in text for text in self.said.values()), "the log is switched on"


@pytest.fixture
def output(program: Program) -> Output:
    return Output(program)


# --- the searches -----------------------------------------------------------------------------------------


def test_the_search_finds_what_it_looks_for(
    lab: ProjectLab, program: Program, search: Search, name: str
) -> None:
    """A search that finds nothing anywhere proves nothing: this is where the secrets rightly are."""
    program.done("issue", name)
    search.add_keys(program)

    rightly = [lab.live / name / "privkey.pem", lab.directory / "keys" / "primary.kek"]
    found = search.finds({path.name: path.read_bytes() for path in rightly})
    assert {where for _, where in found} == {"privkey.pem", "primary.kek"}
    der = base64.b64decode(b"".join((lab.live / name / "privkey.pem").read_bytes().splitlines()[1:-1]))
    assert search.finds({"hex": der.hex().encode()})
    assert len([what for what in search.needles if what.startswith("private key")]) == 4, (
        "two pairs of keys, so far"
    )


def test_nothing_secret_is_told_while_all_goes_well(
    lab: ProjectLab, program: Program, search: Search, output: Output, name: str
) -> None:
    output.run("issue", name, status=0)
    output.run("show", name, status=0)
    search.add_keys(program)  # before a renewal replaces some
    output.run("failover", name, "--revoke", "--reason", "keyCompromise", status=0)
    output.run("renew", "--due", status=0)
    output.run("events", status=0)
    output.run("list", "--json", status=0)
    output.run("export", name, "--to", str(lab.directory / "exported"), "--with-key", status=0)
    process = finish(program.start("-vv", "renew", name, "--force"))
    output.said["as a process"] = (process.out + process.err).encode()

    output.check()
    search.add_keys(program)
    assert search.finds(output.said) == []
    assert search.finds(bare_files(lab)) == []


def bare_files(lab: ProjectLab) -> dict[str, bytes]:
    """Every file of the project but those that are there to hold a secret."""
    secret = re.compile(r"/(keys/.*\.kek|.*\.key|(privkey|bundle)\.pem)$")
    return {
        str(path): path.read_bytes()
        for path in lab.directory.rglob("*")
        if path.is_file() and not secret.search(str(path)) and "lab-private" not in str(path)
    }


def test_nothing_secret_is_told_when_things_go_wrong(
    lab: ProjectLab, program: Program, search: Search, output: Output, name: str, tmp_path: Path
) -> None:
    assert lab.beta.eab is not None
    hmac_key = lab.beta.eab.hmac_key
    with FaultProxy(lab.beta.directory_url, folder=tmp_path) as proxy:
        whole = through(program, proxy, lab.beta)
        for wrong in (f'"{hmac_key[:-2]}$$"', f'"{_OTHER_SECRET.rstrip("=")}"'):
            rewrite(program, (r"hmac_key = \{[^}]*\}", f"hmac_key = {wrong}"))
            output.run("issue", name, "--timeout", "10s", status=3)
            through(program, proxy, lab.beta, whole)
        proxy.on("/order-plz", html(502), times=None)
        output.run("issue", name, "--timeout", "1s", status=3)
        output.run("renew", name, "--timeout", "1s", status=3)
        proxy.calm()

        (lab.directory / "other.key").touch(mode=0o600)
        (lab.directory / "other.key").write_text(_OTHER_SECRET)
        rewrite(program, (r"tsig_secret = .*", 'tsig_secret = { file = "other.key" }'))
        output.run("renew", name, "--timeout", "10s", status=3)
        rewrite(program, (r"tsig_secret = .*", f'tsig_secret = "{lab.bind.tsig_secret[:-4]}*"'))
        output.run("renew", name, "--timeout", "10s", status=3)
        output.run("issue", f"www.{name}", status=2)
        through(program, proxy, lab.beta, whole)
        output.run("renew", name, status=0)
    search.add_keys(program)
    kek = lab.directory / "keys" / "backup.kek"
    text = kek.read_text()
    for broken in (text.strip()[:-8], text.replace("=", "*"), f"{text}{text}"):
        kek.write_text(broken)
        output.run("failover", name, status=2)
    kek.write_text(base64.b64encode(bytes(32)).decode())
    output.run("failover", name, status=4)
    kek.write_text(text)
    kek.chmod(0o644)
    output.run("failover", name, status=2)
    kek.chmod(0o600)

    output.check()
    needles = search.needles
    needles["the TSIG secret but for its end"] = {lab.bind.tsig_secret[:-4].encode()}
    needles["the EAB key but for its end"] = {hmac_key[:-2].encode()}
    needles["the KEK but for its end"] = {text.strip()[:-8].encode(), text.strip()[:20].encode()}
    assert search.finds(output.said) == []


def test_a_configuration_error_does_not_show_the_secret_beside_it(
    lab: ProjectLab, program: Program, search: Search, output: Output
) -> None:
    inline = (r"tsig_secret = .*", f'tsig_secret = "{lab.bind.tsig_secret}"')
    for wrong in (
        (r"port = \d+", 'port = "fifty-three"'),
        (r"port = \d+", "port = 99999"),
        (r'tsig_algorithm = "[^"]*"', 'tsig_algorithm = "rot13"'),
        (r'tsig_algorithm = "[^"]*"', "tsig_algoritm = 1"),
    ):
        whole = rewrite(program, inline, wrong)
        output.run("issue", "a.example.test", status=2)
        program.config.write_text(whole)
    whole = rewrite(program, (r"tsig_secret = .*", f'tsig_secret = {{ fil = "{lab.bind.tsig_secret}" }}'))
    output.run("issue", "a.example.test", status=2)
    program.config.write_text(whole)
    program.config.write_text(f'{whole}\n[dns.broken\ntsig_secret = "{lab.bind.tsig_secret}"\n')
    output.run("list", status=2)

    output.check()
    assert search.finds(output.said) == []


def test_the_database_holds_private_keys_wrapped_only(
    lab: ProjectLab, program: Program, search: Search, name: str
) -> None:
    application = program.application()  # open, so that the write-ahead log stays beside the database
    with application.world.store.read() as tx:
        pairs.by_name(tx, name)
    program.done("issue", name, "--key-type", "rsa-2048")
    program.done("failover", name, "--revoke", "--reason", "keyCompromise")
    program.done("renew", "--due")
    search.add_keys(program)

    kept = rawdatabase.all_that_is_kept(program.config)
    application.close()
    assert sum(map(len, kept.values())) > 10_000, "what was written is looked at where it is"
    assert search.finds(kept) == []
    assert not any(b"PRIVATE KEY" in content for content in kept.values())


def test_the_reload_command_is_handed_nothing(
    lab: ProjectLab, program: Program, search: Search, name: str
) -> None:
    script = lab.directory / "reload"
    script.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\n'
        'for process in $$ $PPID; do tr "\\0" "\\n" < /proc/$process/cmdline; done >> arguments\n'
        "cat >> input\nenv >> environment\n"
    )
    script.chmod(0o755)
    rewrite(
        program,
        (
            r'directory = "live"',
            f'directory = "live"\nreload = ["{script}", "one"]\nenvironment = ["HANDED"]',
        ),
    )
    secret = "c2VjcmV0" * 6
    rewrite(program, (r"tsig_secret = .*", 'tsig_secret = { env = "LAB_TSIG" }'))
    given = {"LAB_TSIG": lab.bind.tsig_secret, "UNUSED_TOKEN": secret, "LANG": "C.UTF-8", "HANDED": "on"}
    assert finish(program.start("issue", name, environment=given)).status == 0
    assert finish(program.start("failover", name, environment=given)).status == 0
    search.add_keys(program)

    arguments = (lab.directory / "arguments").read_bytes()
    assert arguments.count(str(script).encode() + b"\none\n") == 2
    assert arguments.count(b"failover") == 1, "the calling process itself is looked at too"
    assert (lab.directory / "input").read_bytes() == b""
    environment = (lab.directory / "environment").read_bytes()
    assert environment.count(b"LANG=C.UTF-8\n") == environment.count(b"HANDED=on\n") == 2
    assert secret.encode() not in environment
    assert search.finds({"arguments": arguments, "environment": environment}) == []


def test_no_object_shows_a_secret_of_its_own(
    lab: ProjectLab, program: Program, search: Search, name: str
) -> None:
    program.done("issue", name)
    search.add_keys(program)
    application = program.application()
    world = application.world
    world.dns_of("lab").provider()
    shown: list[object] = [application, application.settings, world, world.dns_of("lab").provider()]
    shown += [world.protector(domain) for domain in world.protectors]
    shown += [world.ca(ca).authority() for ca in world.cas]
    shown += [world.dns, world.cas, world.targets, vars(world.dns_of("lab").provider())]
    with world.store.read() as tx:
        pair = pairs.by_name(tx, name)
        assert pair is not None
        serving = pairs.state(tx, pair.id).serving
        assert serving is not None
        shown.append(certificates.wrapped(tx, certificates.get(tx, serving).spki))
    application.close()

    assert search.finds({str(number): repr(one).encode() for number, one in enumerate(shown)}) == []


def test_files_that_hold_secrets_are_their_owners_alone(lab: ProjectLab, program: Program, name: str) -> None:
    program.done("issue", name)
    program.done("failover", name)
    program.done("export", name, "--to", str(lab.directory / "exported"), "--with-key")

    def secret_files() -> Iterator[Path]:
        yield from lab.directory.glob("keys/*.kek")
        yield from lab.directory.glob("dualcert.db*")
        yield from (path for path in lab.live.rglob("*.pem") if path.name in {"privkey.pem", "bundle.pem"})
        yield from (lab.directory / "exported" / name for name in ("privkey.pem", "bundle.pem"))

    assert {str(path): oct(path.stat().st_mode & 0o777) for path in secret_files()} == {
        str(path): "0o600" for path in secret_files()
    }
    assert len({*secret_files()}) >= (6 if rawdatabase.is_on_postgres(program.config) else 7)


def test_the_replaced_key_has_left_the_target(
    lab: ProjectLab, program: Program, search: Search, name: str
) -> None:
    program.done("issue", name)
    old = (lab.live / name / "privkey.pem").read_bytes()
    program.done("failover", name)

    search.needles = {"the replaced key": forms_of_key(old)}
    everything = {str(path): path.read_bytes() for path in lab.live.rglob("*") if path.is_file()}
    assert search.finds(everything) == []
    assert old != (lab.live / name / "privkey.pem").read_bytes()


def test_the_backups_key_is_not_at_the_target_before_its_promotion(
    lab: ProjectLab, program: Program, search: Search, name: str
) -> None:
    program.done("issue", name)
    search.needles.clear()
    application = program.application()
    with application.world.store.read() as tx:
        rows = list(tx.execute(select(wrapped_key).where(wrapped_key.c.domain == "backup")))
    protector = application.world.protector("backup")
    for row in rows:
        pem = protector.unwrap(row.wrapped, KeyContext("backup", row.spki.hex(), "certificate"))
        search.needles[row.spki.hex()] = forms_of_key(pem)
    application.close()

    assert search.needles
    assert (
        search.finds({str(path): path.read_bytes() for path in lab.live.rglob("*") if path.is_file()}) == []
    )


# --- a compromised key ------------------------------------------------------------------------------------


def status_at(ca: PebbleServer, serial: str) -> Any:
    _, body = fetch(f"{ca.management_url}/cert-status-by-serial/{serial}", ca.api_ca_pem)
    return json.loads(body)


def signers(requests: Iterable[Any]) -> set[str]:
    """By what every request to revoke was signed: the account (kid), or a key of its own (jwk)."""
    found = set()
    for request in requests:
        if "revoke" in request.path and request.method == "POST":
            protected = json.loads(request.body)["protected"]
            header = json.loads(base64.urlsafe_b64decode(protected + "=" * (-len(protected) % 4)))
            found.add("kid" if "kid" in header else "jwk")
    return found


@pytest.mark.parametrize(
    ("reason", "signer", "code"), [("keyCompromise", "jwk", 1), ("superseded", "kid", 4)]
)
def test_a_revocation_is_signed_by_the_key_only_where_the_key_is_compromised(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path, reason: str, signer: str, code: int
) -> None:
    with FaultProxy(lab.alpha.directory_url, folder=tmp_path) as proxy:
        through(program, proxy, lab.alpha)
        old = program.done("issue", name, "--json").json["primary"]["certificate"]

        result = program.done("failover", name, "--revoke", "--reason", reason, "--json").json

        assert result["revoked"] is True
        assert signers(proxy.seen) == {signer}
    said = status_at(lab.alpha, old["serial"])
    assert (said["Status"], said["Reason"]) == ("Revoked", code)
    application = program.application()
    with application.world.store.read() as tx:
        blocked = [row.spki.hex() for row in tx.execute(select(blocked_key))]
    application.close()
    assert blocked == ([old["spki_sha256"]] if reason == "keyCompromise" else [])
    kinds = [event["kind"] for event in program.events(name)]
    assert ("key-blocked" in kinds) == (reason == "keyCompromise")


def test_a_blocked_key_is_never_served_again(program: Program, name: str) -> None:
    old = program.done("issue", name, "--json").json["primary"]["certificate"]
    program.done("failover", name, "--revoke", "--reason", "keyCompromise")

    refused = program.run("failover", name, "--to", "alpha")
    assert refused.status == 4
    assert "is blocked" in refused.err

    program.done("renew", "--due")
    back = program.done("failover", name, "--to", "alpha", "--json").json
    assert back["to"]["serial"] != old["serial"]
    assert program.show(name)["primary"]["certificate"]["spki_sha256"] != old["spki_sha256"]
