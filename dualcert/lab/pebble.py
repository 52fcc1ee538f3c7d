"""One Pebble: an ACME CA that keeps everything in memory and makes a new root at every start."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dualcert.lab.certificates import ApiCertificate
from dualcert.lab.errors import LabError
from dualcert.lab.files import write_secret, write_text
from dualcert.lab.https import answers, fetch
from dualcert.lab.options import LabOptions
from dualcert.lab.polling import wait_for
from dualcert.lab.ports import Port
from dualcert.lab.process import START_SECONDS, ServerProcess

HANGS_AFTER_SECONDS = 5.0
_UNKNOWN_SERIAL = "00"


@dataclass(frozen=True)
class Eab:
    """An external account binding: what an account must show once (RFC 8555 section 7.3.4)."""

    kid: str
    hmac_key: str = field(repr=False)
    """base64url without padding."""

    @classmethod
    def make(cls, kid: str) -> Eab:
        return cls(kid, base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode())


@dataclass(frozen=True)
class Character:
    """In what the lab's two CAs differ."""

    name: str
    key_algorithm: str
    profiles: Mapping[str, int]
    strict: bool = False
    eab: Eab | None = None

    @property
    def caa_identity(self) -> str:
        return f"{self.name}.lab.test"


class PebbleServer:
    """A Pebble process, its URLs and its trust."""

    def __init__(
        self,
        character: Character,
        *,
        program: Path,
        directory: Path,
        private: Path,
        certificate: ApiCertificate,
        options: LabOptions,
        dns: str,
    ) -> None:
        self.name = character.name
        self.eab = character.eab
        self.profiles = character.profiles
        self.api_ca_pem = certificate.ca
        self.roots_pem = directory / f"{self.name}-roots.pem"
        # A challenge over HTTP or TLS finds its port reserved and nobody there.
        self._ports = {what: Port.reserve() for what in ("api", "management", "limited", "http", "tls")}
        self._config = private / f"{self.name}.json"
        self._write_config(character, certificate, options)
        self.process = ServerProcess(
            self.name,
            [str(program), "-config", str(self._config), "-dnsserver", dns, *["-strict"] * character.strict],
            directory=private,
            log=directory / "logs" / f"{self.name}.log",
            environment={
                "PEBBLE_WFE_NONCEREJECT": str(options.nonce_reject),
                "PEBBLE_AUTHZREUSE": str(options.authz_reuse),
                "PEBBLE_VA_NOSLEEP": "0" if options.va_sleep else "1",
            },
        )

    @property
    def address(self) -> Port:
        """Where it listens itself; more than four requests at a time make it hang for good."""
        return self._ports["api"]

    @property
    def limited_address(self) -> Port:
        """Where the limiter listens for it."""
        return self._ports["limited"]

    @property
    def direct_url(self) -> str:
        return f"https://{self.address}/dir"

    @property
    def directory_url(self) -> str:
        """The directory through the limiter: the one to use."""
        return f"https://{self.limited_address}/dir"

    @property
    def management_url(self) -> str:
        """Without a slash at its end."""
        return f"https://{self._ports['management']}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def spawn(self) -> None:
        for port in self._ports.values():
            port.make_way()
        self.process.spawn()

    def wait_ready(self) -> None:
        """Wait until it serves, then fetch its root; LabError if it is too old to have profiles or ARI."""
        self.process.wait_ready(lambda: answers(self.direct_url, self.api_ca_pem, 1.0), START_SECONDS)
        directory = json.loads(self._get(self.direct_url))
        if "renewalInfo" not in directory or "profiles" not in directory.get("meta", {}):
            raise LabError(
                "this Pebble knows no profiles or no ARI",
                ca=self.name,
                remedy="Pebble 2.10 is needed: in a checkout, `make setup` fetches it.",
            )
        if not wait_for(
            lambda: answers(f"{self.management_url}/roots/0", self.api_ca_pem, 1.0), START_SECONDS
        ):
            raise LabError("Pebble's management port does not answer", ca=self.name)
        write_text(self.roots_pem, self._get(f"{self.management_url}/roots/0").decode())

    def start(self) -> None:
        self.spawn()
        self.wait_ready()

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        """End it at once and start it anew on its ports: another root, no account, order or revocation."""
        self.process.kill()
        self.start()

    def hangs(self, seconds: float = HANGS_AFTER_SECONDS) -> bool:
        """Whether it does not answer (or has ended).

        Asked is the status of a certificate that is not there: of the management port's answers the one that
        takes the lock behind which everything stands still.
        """
        if not self.process.running:
            return True
        url = f"{self.management_url}/cert-status-by-serial/{_UNKNOWN_SERIAL}"
        return not answers(url, self.api_ca_pem, seconds)

    def close(self) -> None:
        self.stop()
        for port in self._ports.values():
            port.close()

    def _get(self, url: str) -> bytes:
        try:
            status, body = fetch(url, self.api_ca_pem)
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"{url} does not answer: {error}", ca=self.name) from error
        if status != 200:
            raise LabError(f"{url} answered {status}", ca=self.name)
        return body

    def _write_config(self, character: Character, certificate: ApiCertificate, options: LabOptions) -> None:
        pebble = {
            "listenAddress": str(self.address),
            "managementListenAddress": str(self._ports["management"]),
            "certificate": str(certificate.chain),
            "privateKey": str(certificate.key),
            "httpPort": self._ports["http"].number,
            "tlsPort": self._ports["tls"].number,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": character.eab is not None,
            "keyAlgorithm": character.key_algorithm,
            "caaIdentities": [character.caa_identity],
            "profiles": {
                profile: {"description": f"valid for {seconds} seconds", "validityPeriod": seconds}
                for profile, seconds in character.profiles.items()
            },
        }
        if character.eab is not None:
            pebble["externalAccountMACKeys"] = {character.eab.kid: character.eab.hmac_key}
        if options.retry_after is not None:
            pebble["retryAfter"] = {"authz": options.retry_after, "order": options.retry_after}
        write_secret(self._config, json.dumps({"pebble": pebble}, indent=2))
