"""The lab itself: everything speaks, nothing deadlocks, and nothing is left behind."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from dualcert.clock import SystemClock
from dualcert.lab import PROBE_LABEL, Lab, LabError, LabOptions, LabServers, PebbleServer
from dualcert.lab import binaries as lab_binaries
from dualcert.lab.https import fetch
from dualcert.lab.polling import wait_for
from dualcert.lab.process import ServerProcess
from tests.labfixture import ProjectLab

PARALLEL_CLIENTS = 32
IN_FLIGHT = 4


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class RawAccount:
    """The least that can place an order: signed JSON over one open connection, no library of ours or others."""

    def __init__(self, pebble: PebbleServer, directory_url: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        context = ssl.create_default_context(cafile=pebble.api_ca_pem)
        netloc = urlsplit(directory_url).netloc
        self._connection = http.client.HTTPSConnection(netloc, timeout=60, context=context)
        self._directory: dict[str, Any] = json.loads(self._send("GET", directory_url)[2])
        self._kid = ""
        status, headers, body = self.post(self._directory["newAccount"], {"termsOfServiceAgreed": True})
        assert status == 201, body
        self._kid = headers["Location"]
        self.url = self._kid

    def order(self, *names: str, profile: str = "classic") -> dict[str, Any]:
        identifiers = [{"type": "dns", "value": name} for name in names]
        payload = {"identifiers": identifiers, "profile": profile}
        status, _, body = self.post(self._directory["newOrder"], payload)
        assert status == 201, body
        order: dict[str, Any] = json.loads(body)
        return order

    def fetch(self, url: str) -> dict[str, Any]:
        status, _, body = self.post(url, None)
        assert status == 200, body
        document: dict[str, Any] = json.loads(body)
        return document

    def post(self, url: str, payload: object) -> tuple[int, http.client.HTTPMessage, bytes]:
        while True:
            _, headers, _ = self._send("HEAD", self._directory["newNonce"])
            answer = self._send("POST", url, self._signed(url, headers["Replay-Nonce"], payload))
            if answer[0] != 400 or b"badNonce" not in answer[2]:
                return answer

    def close(self) -> None:
        self._connection.close()

    def key_authorization_digest(self, token: str) -> str:
        members = json.dumps(self._jwk(), separators=(",", ":"), sort_keys=True).encode()
        thumbprint = b64(hashlib.sha256(members).digest())
        return b64(hashlib.sha256(f"{token}.{thumbprint}".encode()).digest())

    def _jwk(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        x, y = (b64(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
        return {"crv": "P-256", "kty": "EC", "x": x, "y": y}

    def _signed(self, url: str, nonce: str, payload: object) -> bytes:
        header: dict[str, object] = {"alg": "ES256", "nonce": nonce, "url": url}
        header |= {"kid": self._kid} if self._kid else {"jwk": self._jwk()}
        protected = b64(json.dumps(header).encode())
        body = "" if payload is None else b64(json.dumps(payload).encode())
        r, s = decode_dss_signature(self._key.sign(f"{protected}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
        signature = b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return json.dumps({"protected": protected, "payload": body, "signature": signature}).encode()

    def _send(
        self, method: str, url: str, body: bytes | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers = {"User-Agent": "lab-test", "Content-Type": "application/jose+json"}
        self._connection.request(method, urlsplit(url).path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()


def certificate_pem(*names: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = SystemClock().now()
    subject = x509.Name([])
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now,
        not_valid_after=now.replace(year=now.year + 1, day=1),
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
    return builder.sign(key, hashes.SHA256())


def serve(live: Path, folder: str, *names: str) -> x509.Certificate:
    """Put a self-signed certificate where a pair's would be."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = certificate_pem(*names, key=key)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (live / folder).mkdir(exist_ok=True)
    new = live / folder / "bundle.new"
    new.touch(mode=0o600)
    new.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    new.replace(live / folder / "bundle.pem")
    return certificate


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def is_alive(pid: int) -> bool:
    """A zombie, which only waits to be reaped by a parent that is not us, is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- what is there ----------------------------------------------------------------------------------------


def test_the_directories_lead_back_through_the_limiter(lab: ProjectLab) -> None:
    for pebble in (lab.alpha, lab.beta):
        status, body = fetch(pebble.directory_url, pebble.api_ca_pem)
        assert status == 200
        urls = [value for value in json.loads(body).values() if isinstance(value, str)]
        assert len(urls) >= 5
        assert {urlsplit(url).netloc for url in urls} == {urlsplit(pebble.directory_url).netloc}


def test_the_two_cas_differ(lab: ProjectLab) -> None:
    alpha, beta = (json.loads(fetch(p.directory_url, p.api_ca_pem)[1])["meta"] for p in (lab.alpha, lab.beta))
    assert alpha["externalAccountRequired"] is False
    assert beta["externalAccountRequired"] is True
    assert alpha["caaIdentities"] == ["alpha.lab.test"]
    assert beta["caaIdentities"] == ["beta.lab.test"]
    assert len(alpha["profiles"]) == 3
    assert len(beta["profiles"]) == 1
    roots = [x509.load_pem_x509_certificate(p.roots_pem.read_bytes()) for p in (lab.alpha, lab.beta)]
    assert isinstance(roots[0].public_key(), rsa.RSAPublicKey)
    assert isinstance(roots[1].public_key(), ec.EllipticCurvePublicKey)


def test_the_configuration_names_what_was_started(lab: ProjectLab) -> None:
    config = tomllib.loads(lab.config_path.read_text())
    home = lab.config_path.parent
    assert set(config) == {"database", "keys", "ca", "dns", "target", "defaults"}
    assert config["ca"]["alpha"]["directory"] == lab.alpha.directory_url
    assert config["ca"]["alpha"]["profile"] == "classic"
    assert config["ca"]["beta"]["directory"] == lab.beta.directory_url
    assert config["target"]["web"]["endpoint"] == [f"127.0.0.1:{lab.nginx.port}"]
    assert config["dns"]["lab"]["port"] == lab.bind.port
    eab = config["ca"]["beta"]["eab"]
    assert lab.beta.eab is not None
    assert eab["kid"] == lab.beta.eab.kid
    assert (home / eab["hmac_key"]["file"]).read_text().strip() == lab.beta.eab.hmac_key
    assert (home / config["dns"]["lab"]["tsig_secret"]["file"]).read_text().strip() == lab.bind.tsig_secret
    for ca in config["ca"].values():
        x509.load_pem_x509_certificate((home / ca["ca_bundle"]).read_bytes())
        x509.load_pem_x509_certificate((home / ca["trust_roots"]).read_bytes())


def test_secrets_are_readable_by_their_owner_alone_and_kept_out_of_repr(lab: ProjectLab) -> None:
    config = tomllib.loads(lab.config_path.read_text())
    home = lab.config_path.parent
    files = [home / config["keys"][domain]["path"] for domain in ("primary", "backup")]
    assert len({base64.b64decode(kek.read_text(), validate=False) for kek in files}) == 2
    assert all(len(base64.b64decode(kek.read_text())) == 32 for kek in files)
    files.append(home / config["ca"]["beta"]["eab"]["hmac_key"]["file"])
    files.append(home / config["dns"]["lab"]["tsig_secret"]["file"])
    files += lab.servers.directory.glob("servers/*-key.pem")
    files += lab.servers.directory.glob("servers/*.json")
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert lab.beta.eab is not None
    assert lab.beta.eab.hmac_key not in repr(lab.beta.eab)
    assert lab.bind.tsig_secret not in repr(lab.bind.tsig)


def test_dns_takes_txt_updates_and_tells_them(lab: ProjectLab) -> None:
    name = f"_acme-challenge.{lab.domain}"
    assert lab.txt_values(name) == set()
    lab.add_record(name, "TXT", '"one"')
    lab.add_record(name, "TXT", '"two"')
    assert lab.txt_values(name) == {"one", "two"}
    assert lab.leftovers() == {name: {"one", "two"}}
    lab.remove_record(name, "TXT", '"one"')
    assert lab.txt_values(name) == {"two"}
    lab.remove_record(name, "TXT", '"two"')
    assert lab.leftovers() == {}


def test_dns_survives_a_restart_with_its_values(lab: ProjectLab) -> None:
    name = f"_acme-challenge.{lab.domain}"
    lab.add_record(name, "TXT", '"kept"')
    lab.bind.stop()
    with pytest.raises(OSError):  # noqa: PT011  any way of not being reachable
        lab.txt_values(name)
    lab.bind.start()
    assert lab.txt_values(name) == {"kept"}
    lab.remove_record(name, "TXT", '"kept"')


def test_a_ca_validates_through_a_cname_into_another_zone(lab: ProjectLab) -> None:
    lab.add_record(f"_acme-challenge.{lab.domain}", "CNAME", f"{lab.domain.split('.')[0]}.acme.test.")
    account = RawAccount(lab.alpha, lab.alpha.directory_url)
    order = account.order(lab.domain)
    authorization = account.fetch(order["authorizations"][0])
    challenge = next(c for c in authorization["challenges"] if c["type"] == "dns-01")
    value = account.key_authorization_digest(challenge["token"])
    target = f"{lab.domain.split('.')[0]}.acme.test"
    lab.add_record(target, "TXT", f'"{value}"')
    account.post(challenge["url"], {})
    statuses = ["pending"]

    def settled() -> bool:
        statuses.append(str(account.fetch(order["authorizations"][0])["status"]))
        return statuses[-1] != "pending"

    assert wait_for(settled, 10)
    assert statuses[-1] == "valid"
    account.close()
    lab.remove_record(target, "TXT", f'"{value}"')


def test_nginx_serves_the_folder_of_the_name_without_a_reload(lab: ProjectLab) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        lab.handshake("www.example.test")
    first = serve(lab.live, "www.example.test", "www.example.test")
    assert lab.handshake("www.example.test") == der(first)
    second = serve(lab.live, "www.example.test", "www.example.test")
    assert lab.handshake("www.example.test") == der(second)
    wildcard = serve(lab.live, "_wildcard.example.test", "*.example.test")
    assert lab.handshake(f"{PROBE_LABEL}.example.test") == der(wildcard)


def test_nginx_comes_back_on_its_port(lab: ProjectLab) -> None:
    serve(lab.live, "www.example.test", "www.example.test")
    lab.nginx.stop()
    with pytest.raises(ConnectionError):
        lab.handshake("www.example.test")
    lab.nginx.start()
    assert lab.handshake("www.example.test")


def test_each_project_is_its_own(lab: ProjectLab, lab_servers: LabServers, tmp_path: Path) -> None:
    with ProjectLab.on(lab_servers, tmp_path / "other") as other:
        assert other.nginx.port != lab.nginx.port
        keks = [(project.directory / "keys" / "primary.kek").read_bytes() for project in (lab, other)]
        assert keks[0] != keks[1]
    assert lab.nginx.process.running


# --- under load, and after a hang -------------------------------------------------------------------------


def test_many_clients_at_once_are_served_four_at_a_time(lab: ProjectLab) -> None:
    def place_and_follow(number: int) -> int:
        account = RawAccount(lab.alpha, lab.alpha.directory_url)
        for turn in range(3):
            order = account.order(*(f"{prefix}{number}-{turn}.{lab.domain}" for prefix in "abc"))
            for url in order["authorizations"]:
                assert account.fetch(url)["status"] == "pending"
        account.close()
        return number

    with ThreadPoolExecutor(PARALLEL_CLIENTS) as pool:
        done = list(pool.map(place_and_follow, range(PARALLEL_CLIENTS), timeout=90))
    assert done == list(range(PARALLEL_CLIENTS))
    assert not lab.alpha.hangs()
    # Reached, so the queue was needed; never exceeded.
    assert lab.servers.limiter.most_in_flight("alpha") == IN_FLIGHT


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """For tests that hurt a CA."""
    with Lab.start(tmp_path / "own") as lab:
        yield lab


def test_a_restarted_ca_has_another_root_and_the_same_address(own_lab: Lab) -> None:
    before, pid, url = own_lab.alpha.roots_pem.read_bytes(), own_lab.alpha.pid, own_lab.alpha.directory_url
    own_lab.alpha.restart()
    assert own_lab.alpha.roots_pem.read_bytes() != before
    assert own_lab.alpha.pid != pid
    assert own_lab.alpha.directory_url == url
    assert fetch(url, own_lab.alpha.api_ca_pem)[0] == 200


def test_a_ca_that_hangs_or_died_is_healed(own_lab: Lab) -> None:
    assert own_lab.heal() == ()
    os.kill(own_lab.alpha.pid, signal.SIGSTOP)
    assert own_lab.alpha.hangs(0.2)
    own_lab.beta.stop()
    assert own_lab.heal() == ("alpha", "beta")
    assert own_lab.heal() == ()
    for pebble in (own_lab.alpha, own_lab.beta):
        assert fetch(pebble.directory_url, pebble.api_ca_pem)[0] == 200


class _Impatient(SystemClock):
    def __init__(self, sleeps: int) -> None:
        self.left = sleeps

    def sleep(self, seconds: float) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


def test_who_holds_a_lab_is_told_of_a_ca_that_was_started_anew(own_lab: Lab) -> None:
    own_lab.beta.stop()
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        own_lab.serve(_Impatient(2), told.append)
    assert told == ["beta"]


# --- nothing is left behind -------------------------------------------------------------------------------

HOLD_A_LAB = """
import sys
from pathlib import Path
from dualcert.lab import Lab, ending_on_signals

with ending_on_signals(), Lab.start(Path(sys.argv[1]) if len(sys.argv) > 1 else None) as lab:
    pids = [process.pid for process in (*lab.servers.processes, lab.nginx.process)]
    print(lab.directory, *pids, flush=True)
    lab.serve()
"""


def held_lab(*arguments: str) -> tuple[subprocess.Popen[str], Path, list[int]]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_LAB, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As at a terminal, where Ctrl-C goes to the whole foreground group.
        process_group=0,
    )
    assert holder.stdout is not None
    said = holder.stdout.readline().split()
    assert said, holder.communicate()
    return holder, Path(said[0]), [int(pid) for pid in said[1:]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_server_outlives_its_lab(number: signal.Signals) -> None:
    holder, directory, pids = held_lab()
    assert len(pids) == 5
    assert all(is_alive(pid) for pid in pids)
    os.killpg(holder.pid, number)
    holder.communicate(timeout=20)
    assert wait_for(lambda: not any(is_alive(pid) for pid in pids), 5), [p for p in pids if is_alive(p)]
    if number is signal.SIGKILL:
        # Nobody was left to tidy up; but the servers are gone, and so the folder can go.
        shutil.rmtree(directory)
    assert not directory.exists()


def test_a_folder_that_was_named_stays_after_the_lab(tmp_path: Path) -> None:
    home = tmp_path / "named"
    with Lab.start(home) as lab:
        pids = [process.pid for process in (*lab.servers.processes, lab.nginx.process)]
    assert not any(is_alive(pid) for pid in pids)
    assert (home / "dualcert.toml").is_file()
    assert (home / "logs" / "alpha.log").stat().st_size > 0
    with pytest.raises(LabError, match="not empty"):
        Lab.start(home)


def test_a_folder_that_was_named_goes_if_told_so(tmp_path: Path) -> None:
    with Lab.start(tmp_path / "gone", LabOptions(keep=False)):
        pass
    assert not (tmp_path / "gone").exists()


def test_servers_started_by_a_thread_outlive_the_thread(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        lab = pool.submit(Lab.start, tmp_path / "threaded").result()
    with lab:
        assert all(process.running for process in lab.servers.processes)
        assert fetch(lab.beta.directory_url, lab.beta.api_ca_pem)[0] == 200


def test_a_forked_child_leaves_its_parents_lab_alone(own_lab: Lab) -> None:
    child = subprocess.run(
        [sys.executable, "-c", FORK_AND_CLOSE], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.stdout.strip() == "still there", child.stderr
    assert all(process.running for process in own_lab.servers.processes)


FORK_AND_CLOSE = """
import os
from dualcert.lab import Lab
with Lab.start() as lab:
    child = os.fork()
    if child == 0:
        lab.close()
        os._exit(0)
    os.waitpid(child, 0)
    print("still there" if lab.heal() == () and lab.nginx.process.running else "gone")
"""


# --- what can go wrong at the start -----------------------------------------------------------------------


def write_program(folder: Path, name: str, script: str) -> None:
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    program = folder / "bin" / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def only_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_binaries, "_folders", lambda: iter([folder / "bin"]))


def test_missing_and_outdated_programs_are_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "nginx", "echo nginx version: nginx/1.14.2 >&2")
    write_program(tmp_path, "named", "echo 'BIND 9.18.49-Debian (Extended Support Version) <id:>'")
    write_program(tmp_path, "pebble", "echo 'flag provided but not defined: -version' >&2; exit 2")
    only_in(tmp_path, monkeypatch)
    with pytest.raises(LabError) as caught:
        lab_binaries.find_binaries()
    said = str(caught.value)
    assert "nginx 1.22 or newer is needed; found" in said
    assert "(1.14)" in said
    assert "haproxy 2.4 or newer is needed; there is none" in said
    assert "pebble 2.10 or newer is needed; found" in said
    assert "named" not in said
    assert "make setup" in said


def test_a_chosen_folder_goes_before_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "haproxy", "echo HAProxy version 2.8.1-1 2024/01/01")
    monkeypatch.setenv(lab_binaries.SERVERS_VARIABLE, str(tmp_path))
    assert lab_binaries.find_program(lab_binaries.HAPROXY) == tmp_path / "bin" / "haproxy"
    found = lab_binaries.find_program(lab_binaries.NGINX)
    assert isinstance(found, Path)
    assert found.parent != tmp_path / "bin"


def test_a_server_that_ends_at_once_is_quoted_and_nothing_else_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[ServerProcess] = []
    spawn = ServerProcess.spawn

    def remember(process: ServerProcess) -> None:
        spawn(process)
        started.append(process)

    monkeypatch.setattr(ServerProcess, "spawn", remember)
    write_program(tmp_path / "bad", "named", 'test "$1" = -v && exec echo "BIND 9.18.1"; echo no zones today')
    monkeypatch.setenv(lab_binaries.SERVERS_VARIABLE, str(tmp_path / "bad"))
    with pytest.raises(LabError, match="bind ended right after its start; it said:\nno zones today"):
        Lab.start(tmp_path / "lab")
    assert len(started) >= 4
    assert not any(process.running for process in started)


def test_it_starts_in_seconds(tmp_path: Path) -> None:
    clock = SystemClock()
    began = clock.monotonic()
    with Lab.start(tmp_path / "quick"):
        assert clock.monotonic() - began < 10


def test_options_reach_the_cas(tmp_path: Path) -> None:
    options = LabOptions(alpha_profiles={"short": 600}, nonce_reject=0, retry_after=7, va_sleep=True)
    with Lab.start(tmp_path / "tuned", options) as lab:
        assert "profile =" not in lab.config_path.read_text()
        assert "Disabling random VA sleeps" not in lab.alpha.process.log.read_text()
        meta = json.loads(fetch(lab.alpha.directory_url, lab.alpha.api_ca_pem)[1])["meta"]
        assert list(meta["profiles"]) == ["short"]
        account = RawAccount(lab.alpha, lab.alpha.directory_url)
        order = account.order(*(f"a{number}.example.test" for number in range(12)), profile="short")
        for url in order["authorizations"]:
            account.post(account.fetch(url)["challenges"][0]["url"], {})
        # Each validation sleeps for 0 to 4 seconds: of a dozen, some are under way still.
        retry_after = {account.post(url, None)[1]["Retry-After"] for url in order["authorizations"]}
        account.close()
    assert retry_after - {None}
