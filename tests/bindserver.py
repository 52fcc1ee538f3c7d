"""A BIND on loopback with given zones and TSIG keys, gone when the test is over."""

from __future__ import annotations

import base64
import contextlib
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update

from dualcert.lab.binaries import NAMED, find_program
from dualcert.lab.process import ServerProcess
from dualcert.plugins.dns.rfc2136 import Rfc2136Options, Rfc2136Provider
from dualcert.ports.dns import TxtValue
from dualcert.ports.options import Secret

KEY = "dualcert"
STRANGER = "somebody-else"


@dataclass
class BindServer:
    """``key`` may change TXT in every zone, ``stranger`` is known but has no right to any."""

    port: int
    folder: Path
    zones: dict[str, str]
    algorithm: str = "hmac-sha256"
    key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())
    stranger: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def options(self, **changes: object) -> Rfc2136Options:
        given: dict[str, object] = {
            "server": "127.0.0.1",
            "port": self.port,
            "tsig_name": KEY,
            "tsig_algorithm": self.algorithm,
            "tsig_secret": Secret(self.key),
        }
        return Rfc2136Options(**{**given, **changes})  # type: ignore[arg-type]

    def provider(self, **changes: object) -> Rfc2136Provider:
        return Rfc2136Provider(self.options(**changes))

    def read(self, name: str) -> frozenset[str]:
        answer = self.ask(name, "TXT")
        return frozenset(
            b"".join(record.strings).decode()
            for rrset in answer.answer
            if rrset.rdtype == dns.rdatatype.TXT and rrset.name == dns.name.from_text(name)
            for record in rrset
        )

    def write(self, zone: str, value: TxtValue) -> None:
        """A value of somebody else's, whose record has a time to live of its own."""
        update = dns.update.UpdateMessage(zone, keyring=dns.tsig.Key(KEY, self.key, self.algorithm))
        update.add(dns.name.from_text(value.name), 3600, "TXT", f'"{value.value}"')
        answer = dns.query.tcp(update, "127.0.0.1", port=self.port, timeout=5)
        assert answer.rcode() == dns.rcode.NOERROR

    def answers(self) -> bool:
        try:
            self.ask(next(iter(self.zones)), "SOA")
        except OSError:
            return False
        return True

    def ask(self, name: str, kind: str) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        return dns.query.tcp(query, "127.0.0.1", port=self.port, timeout=5)


@contextlib.contextmanager
def bind(
    folder: Path, zones: Mapping[str, str], *, recursion: bool = False, algorithm: str = "hmac-sha256"
) -> Iterator[BindServer]:
    """Serve ``zones`` (name to records beside SOA and NS); with ``recursion`` CNAMEs are followed across zones."""
    program = find_program(NAMED)
    assert isinstance(program, Path), program
    server = BindServer(free_port(), folder, dict(zones), algorithm)
    _write_configuration(server, recursion=recursion)
    process = ServerProcess(
        "named",
        [str(program), "-g", "-n", "1", "-c", str(folder / "named.conf")],
        directory=folder,
        log=folder / "named.log",
    )
    process.spawn()
    try:
        process.wait_ready(server.answers)
        yield server
    finally:
        process.stop()


def _write_configuration(server: BindServer, *, recursion: bool) -> None:
    clauses = []
    for zone, records in server.zones.items():
        file = f"{zone if zone != '.' else 'root'}.zone"
        (server.folder / file).write_text(
            f"$ORIGIN {zone.removesuffix('.')}.\n$TTL 60\n"
            f"@ SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 1\n@ NS localhost.\n{records}\n"
        )
        clauses.append(
            f'zone "{zone}" {{ type primary; file "{file}"; update-policy {{ grant {KEY} zonesub TXT; }}; }};'
        )
    allowed = "yes; allow-recursion { 127.0.0.0/8; }" if recursion else "no"
    path = server.folder / "named.conf"
    path.touch(mode=0o600)
    path.write_text(
        f'key {KEY} {{ algorithm {server.algorithm}; secret "{server.key}"; }};\n'
        f'key {STRANGER} {{ algorithm {server.algorithm}; secret "{server.stranger}"; }};\n'
        f'options {{ directory "{server.folder}"; pid-file none; session-keyfile none; dnssec-validation no;\n'
        f"  listen-on port {server.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n"
        f"  recursion {allowed}; empty-zones-enable no; check-names primary ignore; }};\n"
        f"controls {{ }};\n" + "\n".join(clauses) + "\n"
    )


def free_port() -> int:
    """One that is free for TCP and UDP alike."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
