"""lego, the other program: one certificate of one CA, on the same Pebble and BIND."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.stage import Stage, run
from dualcert.lab import LabError
from dualcert.lab.binaries import Program, find_program

LEGO = Program("lego", (4,), "--version", "lego")


@dataclass(frozen=True)
class Lego:
    """An account at the lab's alpha, registered beforehand, and a folder for certificates."""

    stage: Stage
    folder: Path

    def obtain(self, name: str) -> None:
        """Order a certificate, a new one even where there is one; the whole command."""
        run(self._command(name), **self._environment())

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Certificate with chain, and key."""
        folder = self.folder / "certificates"
        return folder / f"{name}.crt", folder / f"{name}.key"

    def _command(self, name: str) -> list[str]:
        servers = self.stage.servers
        ca, bind = servers.alpha, servers.bind
        options = {
            "--server": ca.direct_url,
            "--email": "ops@example.test",
            "--path": str(self.folder),
            "--domains": name,
            "--dns": "rfc2136",
            "--dns.resolvers": f"{bind.address}:{bind.port}",
            "--key-type": "ec256",
        }
        flags = [word for pair in options.items() for word in pair]
        # The zone's NS record leads to port 53, where nobody is: lego may ask the server that it was given.
        flags += ["--accept-tos", "--dns.propagation-disable-ans", "--dns.propagation-rns"]
        return [str(program()), *flags, "run", "--profile", next(iter(ca.profiles))]

    def _environment(self) -> dict[str, str]:
        servers = self.stage.servers
        return {
            "LEGO_CA_CERTIFICATES": str(servers.alpha.api_ca_pem),
            "RFC2136_NAMESERVER": f"{servers.bind.address}:{servers.bind.port}",
            "RFC2136_TSIG_KEY": servers.bind.tsig.name,
            "RFC2136_TSIG_SECRET": servers.bind.tsig.secret,
            "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
            "RFC2136_POLLING_INTERVAL": "1",
        }


def program() -> Path:
    found = find_program(LEGO)
    if isinstance(found, str):
        raise LabError(found, remedy="Run `make setup`, which fetches it.")
    return found
