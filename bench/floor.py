"""The bare script that an issued pair is measured against: as little as two certificates of two CAs can cost.

One process, open connections, no abstraction: requests signed by cryptography and sent by ``http.client``, the TXT
values of both CAs as one TSIG update and one look at the server over connections that stay open, and SQLite. What an
issuance must have made durable before and after each irreversible step is a row of 1 KB, committed with
``synchronous=FULL``: place 2, answer 1, finalize 2, download 1 for each CA, publish 2 and withdraw 1 for the pair, 15
in all. Nothing is checked that arrives, nothing is read again, and nothing would be found after a crash.

It exists twice: both orders in turn, each CA working while the other is asked, and each order in a thread of its own.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import sqlite3
import ssl
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.tsigkeyring
import dns.update
from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dualcert.lab import LabServers, PebbleServer

_ROW = b"x" * 1024
_PAUSE = 0.001
_SIGNING = ec.ECDSA(hashes.SHA256())


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


class Account:
    """A key and its account at one CA, made once; connections share it."""

    def __init__(self, server: PebbleServer) -> None:
        self.server = server
        self.key = ec.generate_private_key(ec.SECP256R1())
        numbers = self.key.public_key().public_numbers()
        self._jwk = {
            "crv": "P-256",
            "kty": "EC",
            "x": _b64(numbers.x.to_bytes(32, "big")),
            "y": _b64(numbers.y.to_bytes(32, "big")),
        }
        canonical = json.dumps(self._jwk, sort_keys=True, separators=(",", ":")).encode()
        self.thumbprint = _b64(hashlib.sha256(canonical).digest())
        self.identity: dict[str, Any] = {"jwk": self._jwk}
        connection = Connection(self)
        payload: dict[str, Any] = {"termsOfServiceAgreed": True}
        if server.eab is not None:
            payload["externalAccountBinding"] = self._binding(connection.directory["newAccount"])
        _, location = connection.post(connection.directory["newAccount"], payload)
        self.identity = {"kid": location}

    def _binding(self, url: str) -> dict[str, str]:
        assert self.server.eab is not None
        kid, secret = self.server.eab.kid, self.server.eab.hmac_key
        protected = _b64(json.dumps({"alg": "HS256", "kid": kid, "url": url}).encode())
        payload = _b64(json.dumps(self._jwk).encode())
        mac = hmac.HMAC(urlsafe_b64decode(secret + "=" * (-len(secret) % 4)), hashes.SHA256())
        mac.update(f"{protected}.{payload}".encode())
        return {"protected": protected, "payload": payload, "signature": _b64(mac.finalize())}


class Connection:
    """One open connection to a CA; for one thread at a time."""

    def __init__(self, account: Account) -> None:
        server = account.server
        context = ssl.create_default_context(cafile=server.api_ca_pem)
        parts = urlsplit(server.direct_url)
        self.account = account
        self._http = http.client.HTTPSConnection(parts.netloc, context=context, timeout=30)
        self.requests = 0
        self.directory: dict[str, Any] = json.loads(self._send("GET", server.direct_url, None)[0])
        self._nonce = self._send("HEAD", self.directory["newNonce"], None)[1]["Replay-Nonce"] or ""

    def _send(self, method: str, url: str, body: bytes | None) -> tuple[bytes, http.client.HTTPMessage]:
        headers = {"User-Agent": "floor", "Content-Type": "application/jose+json"}
        self._http.request(method, urlsplit(url).path, body, headers)
        response = self._http.getresponse()
        content = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{url}: {response.status} {content.decode()}")
        return content, response.headers

    def post(self, url: str, payload: dict[str, Any] | None) -> tuple[bytes, str]:
        """A signed request, a POST-as-GET without ``payload``; the body and the Location."""
        header = {"alg": "ES256", **self.account.identity, "nonce": self._nonce, "url": url}
        protected = _b64(json.dumps(header).encode())
        content = "" if payload is None else _b64(json.dumps(payload).encode())
        r, s = decode_dss_signature(self.account.key.sign(f"{protected}.{content}".encode(), _SIGNING))
        signature = _b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        request = {"protected": protected, "payload": content, "signature": signature}
        answer, headers = self._send("POST", url, json.dumps(request).encode())
        self._nonce = headers["Replay-Nonce"] or ""
        self.requests += 1
        return answer, headers["Location"] or ""

    def close(self) -> None:
        self._http.close()


class Zone:
    """One open TCP connection to the zone's server for updates, one UDP socket for looks."""

    def __init__(self, servers: LabServers, zone: str) -> None:
        bind = servers.bind
        self._zone = dns.name.from_text(zone)
        self._keyring = dns.tsigkeyring.from_text({bind.tsig.name: ("hmac-sha256", bind.tsig.secret)})
        self._key = dns.name.from_text(bind.tsig.name)
        self._address = (bind.address, bind.port)
        self._stream: socket.socket | None = None
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.settimeout(10)
        self._udp.connect(self._address)

    def add(self, name: str, values: Sequence[str]) -> None:
        update = self._update()
        for value in values:
            update.add(dns.name.from_text(name), 60, dns.rdatatype.TXT, value)
        self._send(update)

    def remove(self, name: str, values: Sequence[str]) -> None:
        update = self._update()
        for value in values:
            update.delete(dns.name.from_text(name), dns.rdatatype.TXT, value)
        self._send(update)

    def look(self, name: str) -> set[str]:
        """The values that the server shows."""
        query = dns.message.make_query(name, dns.rdatatype.TXT)
        self._udp.send(query.to_wire())
        answer = dns.message.from_wire(self._udp.recv(65535))
        return {
            rdata.strings[0].decode()
            for rrset in answer.answer
            for rdata in rrset
            if rrset.rdtype == dns.rdatatype.TXT
        }

    def _update(self) -> dns.update.UpdateMessage:
        return dns.update.UpdateMessage(self._zone, keyring=self._keyring, keyname=self._key)

    def _send(self, update: dns.update.UpdateMessage) -> None:
        wire = update.to_wire()
        try:
            answer = self._exchange(wire)
        except (OSError, struct.error):
            # The server closes what was idle for half a minute.
            self._stream = None
            answer = self._exchange(wire)
        message = dns.message.from_wire(answer, keyring=self._keyring, request_mac=update.mac or b"")
        if message.rcode() != dns.rcode.NOERROR:
            raise RuntimeError(dns.rcode.to_text(message.rcode()))

    def _exchange(self, wire: bytes) -> bytes:
        if self._stream is None:
            self._stream = socket.create_connection(self._address, 10)
        self._stream.sendall(struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", self._stream.recv(2))
        answer = b""
        while len(answer) < length:
            answer += self._stream.recv(length - len(answer))
        return answer

    def close(self) -> None:
        self._udp.close()
        if self._stream is not None:
            self._stream.close()


class Journal:
    """Durable rows, in the journal mode that dualcert uses; shared by all threads that share a connection."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=30)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS step (id INTEGER PRIMARY KEY, row BLOB)")
        self.commits = 0

    def commit(self) -> None:
        # One statement outside of a transaction is a transaction, begun for writing and committed by itself.
        self._database.execute("INSERT INTO step (row) VALUES (?)", (_ROW,))
        self.commits += 1

    def close(self) -> None:
        self._database.close()


@dataclass
class _Order:
    """One order at one CA."""

    connection: Connection
    journal: Journal
    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    url: str = ""
    challenge: str = ""
    document: dict[str, Any] = field(default_factory=dict)

    def place(self) -> str:
        """Key, CSR, newOrder and its authorization; the TXT value to publish."""
        san = x509.SubjectAlternativeName([x509.DNSName(self.name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr = request.add_extension(san, critical=True).sign(self.key, hashes.SHA256())
        self.csr = csr.public_bytes(Encoding.DER)
        self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.journal.commit()
        profile = next(iter(self.connection.account.server.profiles))
        payload = {"identifiers": [{"type": "dns", "value": self.name}], "profile": profile}
        body, self.url = self.connection.post(self.connection.directory["newOrder"], payload)
        self.document = json.loads(body)
        self.journal.commit()
        authorization = json.loads(self.connection.post(self.document["authorizations"][0], None)[0])
        challenge = next(one for one in authorization["challenges"] if one["type"] == "dns-01")
        self.challenge = challenge["url"]
        text = f"{challenge['token']}.{self.connection.account.thumbprint}"
        return _b64(hashlib.sha256(text.encode()).digest())

    def answer(self) -> None:
        self.connection.post(self.challenge, {})
        self.journal.commit()

    def finalize(self) -> None:
        self._wait("pending")
        self.journal.commit()
        self.connection.post(self.document["finalize"], {"csr": _b64(self.csr)})
        self.journal.commit()

    def download(self) -> bytes:
        self._wait("processing")
        chain, _ = self.connection.post(self.document["certificate"], None)
        self.journal.commit()
        return chain

    def _wait(self, status: str) -> None:
        """Look at the order until it has left a status; at once, then every millisecond."""
        while True:
            self.document = json.loads(self.connection.post(self.url, None)[0])
            if self.document["status"] == "invalid":
                raise RuntimeError(self.document)
            if self.document["status"] != status:
                return
            time.sleep(_PAUSE)


class Floor:
    """The script, with connections of its own; for one thread at a time."""

    def __init__(self, servers: LabServers, accounts: Sequence[Account], zone: str, journal: Path) -> None:
        self.connections = [Connection(account) for account in accounts]
        self._zone = Zone(servers, zone)
        self.journal = Journal(journal)
        self._threads = ThreadPoolExecutor(len(accounts))

    def in_turn(self, name: str) -> list[bytes]:
        """Both certificates, one request at a time: each CA works while the other one is asked."""
        return self._issue(name, lambda act, orders: [act(order) for order in orders])

    def in_threads(self, name: str) -> list[bytes]:
        """Both certificates, each order in a thread of its own."""
        return self._issue(name, lambda act, orders: list(self._threads.map(act, orders)))

    def _issue(self, name: str, each: Callable[..., list[Any]]) -> list[bytes]:
        orders = [_Order(connection, self.journal, name) for connection in self.connections]
        record = f"_acme-challenge.{name}"
        values = each(_Order.place, orders)
        self.journal.commit()
        self._zone.add(record, values)
        while not self._zone.look(record) >= set(values):
            time.sleep(_PAUSE)
        self.journal.commit()
        each(_Order.answer, orders)
        each(_Order.finalize, orders)
        chains = each(_Order.download, orders)
        self._zone.remove(record, values)
        self.journal.commit()
        return chains

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self.connections:
            connection.close()
        self._zone.close()
        self.journal.close()
