"""BIND, authoritative for the lab's zones, taking TXT updates under a TSIG key, on loopback only."""

from __future__ import annotations

import base64
import secrets
import socket
import struct
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dualcert.lab.files import write_secret, write_text
from dualcert.lab.ports import LOOPBACK, Port
from dualcert.lab.process import ServerProcess

ZONES = ("example.test", "lab.test", "acme.test")
_SOA = 6
_IN = 1
_RECURSION_DESIRED = 0x0100
_RCODE = 0x000F

# recursion: an authoritative server does not follow a CNAME into its other zones, a recursive one does. The
# empty root zone answers for all that is not here, so that no question ever leaves the machine. tcp-listen-queue:
# Pebble asks over TCP, three times for each challenge, and whoever comes upon a full queue tries again a second later.
_CONFIG = """\
{keys}
options {{
    directory "{directory}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    lock-file none;
    session-keyfile "session.key";
    managed-keys-directory ".";
    recursion yes;
    allow-recursion {{ 127.0.0.0/8; }};
    allow-query {{ 127.0.0.0/8; }};
    allow-transfer {{ 127.0.0.0/8; }};
    dnssec-validation no;
    empty-zones-enable no;
    max-cache-ttl 0;
    max-ncache-ttl 0;
    notify no;
    tcp-clients 500;
    tcp-listen-queue 500;
    version none;
}};
controls {{ }};
zone "." {{ type primary; file "root.zone"; }};
{zones}
"""

_KEY = 'key "{name}" {{ algorithm hmac-sha256; secret "{secret}"; }};\n'

_ZONE = """\
zone "{zone}" {{
    type primary;
    file "{zone}.zone";
    update-policy {{ grant {tsig} zonesub TXT; grant {admin} zonesub ANY; }};
}};
"""

_ZONE_FILE = """\
$TTL 1
@ IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 604800 1
@ IN NS ns.{zone}.
ns.{zone}. IN A 127.0.0.1
"""

_ROOT_FILE = """\
$TTL 1
@ IN SOA ns. hostmaster. 1 3600 600 604800 1
@ IN NS ns.
ns. IN A 127.0.0.1
"""


@dataclass(frozen=True)
class TsigKey:
    """A name and a secret that both sides know (RFC 8945), for hmac-sha256."""

    name: str
    secret: str = field(repr=False)
    """base64."""

    @classmethod
    def make(cls, name: str) -> TsigKey:
        return cls(name, base64.b64encode(secrets.token_bytes(32)).decode())


class BindServer:
    """A named process; its zones lie in the lab's folder and survive a stop."""

    zones = ZONES
    address = LOOPBACK

    def __init__(self, *, program: Path, directory: Path, private: Path) -> None:
        self.tsig = TsigKey.make("dualcert")
        self.admin = TsigKey.make("lab-admin")
        """May change records of every type, to arrange a scene."""
        self._port = Port.reserve()
        folder = private / "bind"
        folder.mkdir()
        for zone in ZONES:
            write_text(folder / f"{zone}.zone", _ZONE_FILE.format(zone=zone))
        write_text(folder / "root.zone", _ROOT_FILE)
        config = write_secret(folder / "named.conf", self._config(folder))
        self.process = ServerProcess(
            "bind",
            # -g: in the foreground, logging to stderr; -n: one thread is plenty.
            [str(program), "-g", "-n", "1", "-c", str(config)],
            directory=folder,
            log=directory / "logs" / "bind.log",
        )

    @property
    def port(self) -> int:
        """TCP and UDP."""
        return self._port.number

    @property
    def tsig_name(self) -> str:
        return self.tsig.name

    @property
    def tsig_secret(self) -> str:
        return self.tsig.secret

    @property
    def pid(self) -> int:
        return self.process.pid

    def spawn(self) -> None:
        self._port.make_way()
        self.process.spawn()

    def wait_ready(self) -> None:
        """It listens before it has read its zones: wait for an answer about each."""
        for zone in ZONES:
            self.process.wait_ready(partial(_knows_zone, (self.address, self.port), zone))

    def start(self) -> None:
        self.spawn()
        self.wait_ready()

    def stop(self) -> None:
        self.process.stop()

    def close(self) -> None:
        self.stop()
        self._port.close()

    def _config(self, folder: Path) -> str:
        keys = "".join(_KEY.format(name=key.name, secret=key.secret) for key in (self.tsig, self.admin))
        zones = "".join(_ZONE.format(zone=zone, tsig=self.tsig.name, admin=self.admin.name) for zone in ZONES)
        return _CONFIG.format(keys=keys, directory=folder, port=self.port, zones=zones)


def _knows_zone(server: tuple[str, int], zone: str, seconds: float = 0.5) -> bool:
    """Whether the server has an SOA for the zone, asked over UDP (RFC 1035 section 4.1)."""
    number = secrets.randbelow(1 << 16)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in zone.split("."))
    question = struct.pack("!6H", number, _RECURSION_DESIRED, 1, 0, 0, 0) + labels + b"\0"
    question += struct.pack("!2H", _SOA, _IN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(seconds)
        try:
            udp.connect(server)
            udp.send(question)
            answer = udp.recv(4096)
        except OSError:
            return False
    if len(answer) < 12:
        return False
    echoed, flags, _, found = struct.unpack("!4H", answer[:8])
    return bool(echoed == number and flags & _RCODE == 0 and found > 0)
