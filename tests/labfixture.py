"""The lab for tests: CAs and DNS once per test process, a project, an nginx and a domain of its own per test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsigkeyring
import dns.update
import dns.zone
import pytest

from dualcert.lab import Lab, LabOptions, LabServers

_SECONDS = 5.0


class ProjectLab(Lab):
    """A lab with eyes and hands in its DNS, for arranging a scene and for looking at what was left."""

    def txt_values(self, name: str) -> set[str]:
        """The TXT values at exactly this name, as the authoritative server tells them."""
        query = dns.message.make_query(name, "TXT")
        answer = dns.query.tcp(query, self.bind.address, _SECONDS, self.bind.port)
        owner = dns.name.from_text(name)
        return {
            b"".join(rdata.strings).decode()
            for rrset in answer.answer
            if rrset.rdtype == dns.rdatatype.TXT and rrset.name == owner
            for rdata in rrset
        }

    def leftovers(self) -> dict[str, set[str]]:
        """Every TXT value at or below this lab's domain, and of the other zones those whose name mentions it."""
        label = self.domain.split(".")[0].encode()
        found: dict[str, set[str]] = {}
        for origin in self.bind.zones:
            zone = dns.zone.Zone(origin, relativize=False)
            dns.query.inbound_xfr(self.bind.address, zone, port=self.bind.port, timeout=_SECONDS)
            for name, rdataset in zone.iterate_rdatasets("TXT"):
                if label in name.labels:
                    values = {b"".join(rdata.strings).decode() for rdata in rdataset}
                    found[name.to_text(omit_final_dot=True)] = values
        return found

    def add_record(self, name: str, kind: str, value: str) -> None:
        """Add a record of any type with the administrator's key; a TXT value stands in quotes."""
        update, owner = self._update_of(name)
        update.add(owner, 1, kind, value)
        self._send(update)

    def remove_record(self, name: str, kind: str, value: str) -> None:
        update, owner = self._update_of(name)
        update.delete(owner, kind, value)
        self._send(update)

    def _update_of(self, name: str) -> tuple[dns.update.UpdateMessage, dns.name.Name]:
        owner = dns.name.from_text(name)
        zone = next(z for z in map(dns.name.from_text, self.bind.zones) if owner.is_subdomain(z))
        admin = self.bind.admin
        keyring = dns.tsigkeyring.from_text({admin.name: ("hmac-sha256", admin.secret)})
        return dns.update.UpdateMessage(zone, keyring=keyring, keyname=dns.name.from_text(admin.name)), owner

    def _send(self, update: dns.update.UpdateMessage) -> None:
        answer = dns.query.tcp(update, self.bind.address, _SECONDS, self.bind.port)
        assert answer.rcode() == dns.rcode.NOERROR, dns.rcode.to_text(answer.rcode())


@pytest.fixture(scope="session")
def lab_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServers]:
    """Two CAs and DNS that all tests of this process share; change nothing for good.

    No nonce is refused for nothing, so that a test may count the requests of its own faults; what a refused
    nonce does has tests of its own, with labs that refuse half of them.
    """
    with LabServers.start(tmp_path_factory.mktemp("lab"), LabOptions(nonce_reject=0)) as servers:
        yield servers


@pytest.fixture
def lab(lab_servers: LabServers, tmp_path: Path) -> Iterator[ProjectLab]:
    """A fresh project with its own nginx and a domain that no other test uses (``lab.domain``)."""
    lab_servers.heal()
    domain = f"t-{secrets.token_hex(6)}.example.test"
    with ProjectLab.on(lab_servers, tmp_path / "project", domain=domain) as project:
        yield project
