"""Dynamic update (RFC 2136) signed by TSIG (RFC 8945): BIND, Knot, PowerDNS, Windows and whoever else speaks it."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
import struct
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dualcert.clock import SystemClock
from dualcert.errors import DnsCredentialsRejected, DnsError, DnsRefused, DnsUnreachable, ZoneNotFound
from dualcert.ports.dns import TxtValue
from dualcert.ports.options import Options, Secret, option

if TYPE_CHECKING:
    import dns.tsig
    import dns.update

_TTL = 60
_SECONDS = 10.0  # for one message, connecting included
_LONGEST_VALUE = 255  # one character-string of a TXT record (RFC 1035 section 3.3.14)
_ROOM = 60_000  # octets of a message, which has at most 65,535, for its changes
_AROUND = 40  # octets of a change beside names and value: types, classes, lengths, and the prerequisite's
_KEY_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")

_clock = SystemClock()


@dataclass(frozen=True, kw_only=True)
class Rfc2136Options(Options):
    """Options of ``provider = "rfc2136"``."""

    summary: ClassVar[str] = "dynamic DNS update (RFC 2136) over TCP, signed with a TSIG key"

    server: str = option(help="the zone's primary server, an address or host name")
    port: int = option(help="its port", default=53)
    tsig_name: str = option(help="the TSIG key's name, as the server knows it")
    tsig_algorithm: Literal["hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"] = option(
        help="the TSIG key's algorithm", default="hmac-sha256"
    )
    tsig_secret: Secret = option(help="the TSIG key itself, base64, as tsig-keygen prints it")

    def __post_init__(self) -> None:
        _check_server(self.server)
        if not 0 < self.port < 65536:
            raise ValueError("port is a number from 1 to 65535")
        if not _KEY_NAME.fullmatch(self.tsig_name):
            raise ValueError("tsig_name is the name of a key: letters, digits, dots and hyphens")
        try:
            usable = bool(base64.b64decode(self.tsig_secret.reveal(), validate=True))
        except (binascii.Error, ValueError):
            usable = False
        if not usable:
            # Said after the except block: an exception being handled would travel along, and show what it choked on.
            raise ValueError(
                "tsig_secret is not base64; give the secret alone, without the key's name or quotes"
            )


def _check_server(server: str) -> None:
    host, colon, port = server.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if colon and port.isdecimal() and not _is_ipv6(server):
        raise ValueError(f'server holds a port: write server = "{host}" and port = {int(port)}')
    if not server or any(c in server for c in " /[]") or (colon and not _is_ipv6(server)):
        raise ValueError("server is an address or a host name; the port stands in `port`")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


class Rfc2136Provider:
    """One signed UPDATE per change, on a TCP connection of its own.

    A connection kept open would save a round trip, and would have to be mistrusted at each use: the server closes it
    after some idle seconds, usually between the adding and the removing of a value.

    Some servers accept a TXT beside a CNAME and drop it silently. The update therefore carries the condition that no
    CNAME stands at the names that get a value: the server checks it in the same step, where reading back would cost
    another round trip and could be overtaken.
    """

    options_class: ClassVar[type[Options]] = Rfc2136Options

    def __init__(self, options: Rfc2136Options) -> None:
        self._options = options

    def __repr__(self) -> str:
        return f"Rfc2136Provider({self._server}, key {self._options.tsig_name})"

    @property
    def _server(self) -> str:
        host = self._options.server
        return f"[{host}]:{self._options.port}" if ":" in host else f"{host}:{self._options.port}"

    @property
    def capacity(self) -> int | None:
        return None

    def default_resolvers(self) -> tuple[str, ...]:
        return (self._server,)

    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        """A value that is in both sets is there afterwards.

        One message, hence all or nothing, up to 75 values; above that in turns, removals first.
        """
        changes = [(value, False) for value in sorted(remove - add)] + [
            (value, True) for value in sorted(add)
        ]
        for value, _ in changes:
            if len(value.value.encode()) > _LONGEST_VALUE:
                raise DnsRefused(
                    f"a TXT value of {len(value.value.encode())} octets does not fit into one string, "
                    f"zone {zone}, server {self._server}",
                    name=value.name,
                )
        for part in _parts(changes):
            self._update(zone, part)

    def _update(self, zone: str, changes: Sequence[tuple[TxtValue, bool]]) -> None:
        update = self._message(zone, changes)
        try:
            answer = _send(self._options.server, self._options.port, update.to_wire())
        except (OSError, UnicodeError) as error:  # UnicodeError: `server` cannot be a host name
            raise self._unreachable(zone, error) from error
        rcode, signed = self._verified_rcode(zone, update, answer)
        if rcode != "NOERROR":
            raise self._refusal(zone, rcode, changes, signed=signed)

    def _message(self, zone: str, changes: Sequence[tuple[TxtValue, bool]]) -> dns.update.UpdateMessage:
        import dns.name
        import dns.rdataclass
        import dns.rdatatype
        import dns.rdtypes.ANY.TXT
        import dns.update

        update = dns.update.UpdateMessage(dns.name.from_text(zone), keyring=self._key())
        for name in sorted({value.name for value, adding in changes if adding}):
            update.absent(dns.name.from_text(name), dns.rdatatype.CNAME)
        for value, adding in changes:
            owner = dns.name.from_text(value.name)
            record = dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, [value.value.encode()])
            if adding:
                update.add(owner, _TTL, record)
            else:
                update.delete(owner, record)
        return update

    def _key(self) -> dns.tsig.Key:
        """Made for each message and kept nowhere: its repr shows the secret."""
        import dns.tsig

        options = self._options
        secret = base64.b64decode(options.tsig_secret.reveal())
        return dns.tsig.Key(options.tsig_name, secret, options.tsig_algorithm)

    def _verified_rcode(self, zone: str, update: dns.update.UpdateMessage, wire: bytes) -> tuple[str, bool]:
        """The answer's rcode, its signature checked, and whether it had one.

        An unsigned refusal is believed, an unsigned success is not.
        """
        import dns.exception
        import dns.message
        import dns.rcode

        try:
            signed = dns.message.from_wire(wire, keyring=self._key(), request_mac=update.mac or b"")
        except dns.exception.DNSException as error:
            return self._unsigned_rcode(zone, update, wire, error), False
        if not update.is_response(signed):
            raise self._bad_answer(zone, "ForeignAnswer")
        return dns.rcode.to_text(signed.rcode()), True

    def _unsigned_rcode(
        self, zone: str, update: dns.update.UpdateMessage, wire: bytes, why: dns.exception.DNSException
    ) -> str:
        """The refusal in an answer that has no signature. Raises what speaks against any other."""
        import dns.exception
        import dns.message
        import dns.rcode

        try:
            answer = dns.message.from_wire(wire, keyring=False)
        except dns.exception.DNSException as error:
            raise self._bad_answer(zone, type(error).__name__) from error
        if not update.is_response(answer):
            raise self._bad_answer(zone, "ForeignAnswer")
        if answer.had_tsig:
            raise self._bad_answer(zone, type(why).__name__) from why
        rcode = dns.rcode.to_text(answer.rcode())
        if rcode == "NOERROR":
            raise self._bad_answer(zone, "Unsigned")
        return rcode

    def _bad_answer(self, zone: str, kind: str) -> DnsError:
        """``kind`` is the name of dnspython's exception, or of what it has none for."""
        key = self._options.tsig_name
        reasons = {
            "PeerBadTime": "the server's clock and this one differ by more than five minutes (BADTIME)",
            "BadTime": "the answer's signature is older or newer than this machine's clock allows",
            "PeerBadKey": f"the server knows no TSIG key {key} of this algorithm (BADKEY)",
            "PeerBadSignature": f"the server has another secret under the name {key} (BADSIG)",
            "PeerBadTruncation": f"the server wants longer signatures with key {key} (BADTRUNC)",
            "PeerError": f"the server does not accept what is signed with key {key}",
            "BadSignature": f"the answer's signature was not made with key {key}",
            "BadKey": f"the answer is signed with another key than {key}",
            "BadAlgorithm": f"the answer is signed with another algorithm than {self._options.tsig_algorithm}",
            "Unsigned": f"the answer is not signed with key {key}",
        }
        where = f"zone {zone}, server {self._server}"
        if kind not in reasons:
            return DnsUnreachable(
                f"what came back is no answer to the update ({kind}), {where}",
                remedy="Check that `server` and `port` lead to the zone's primary.",
                name=zone,
            )
        remedy = "Compare tsig_name, tsig_algorithm and tsig_secret with the server's key."
        if kind in {"PeerBadTime", "BadTime"}:
            remedy = "Set the clocks of both machines (NTP)."
        if kind == "PeerBadKey":
            remedy += " Knot says the same of a key that no acl of the zone names."
        return DnsCredentialsRejected(f"{reasons[kind]}, {where}", remedy=remedy, name=zone)

    def _refusal(
        self, zone: str, rcode: str, changes: Sequence[tuple[TxtValue, bool]], *, signed: bool
    ) -> DnsError:
        where = f"zone {zone}, server {self._server}"
        names = ", ".join(sorted({value.name for value, _ in changes}))
        key = self._options.tsig_name
        if rcode == "REFUSED" and signed:
            return DnsCredentialsRejected(
                f"key {key} may not change TXT at {names} (REFUSED), {where}", remedy=_grant(key), name=zone
            )
        if rcode == "REFUSED":
            return DnsCredentialsRejected(
                f"the server refused without a signature (REFUSED): it does not know key {key}, has another secret "
                f"for it, does not let it change TXT at {names}, or the clocks differ, {where}",
                remedy="Compare tsig_name, tsig_algorithm and tsig_secret with the server's key; its log may tell. "
                + _grant(key),
                name=zone,
            )
        if rcode in {"NOTAUTH", "NOTZONE"}:
            return ZoneNotFound(
                f"the server does not hold the zone of {names} ({rcode}), {where}",
                remedy="`server` must be the zone's primary; check `resolver` if the zone is not the right one.",
                name=zone,
            )
        if rcode == "YXRRSET":
            added = ", ".join(sorted({value.name for value, adding in changes if adding}))
            return DnsRefused(
                f"a CNAME stands at {added}, and a TXT cannot stand beside it ({rcode}), {where}",
                remedy="It was made a moment ago, or `resolver` does not see it. Try again in a minute.",
                name=zone,
            )
        remedies = {
            "NOTIMP": "It does not take dynamic updates: name the zone's primary as `server`.",
            "SERVFAIL": "Its log says why: often it cannot write the zone's journal, or many values stand at one name "
            "already (BIND allows 100, max-records-per-type).",
        }
        return DnsRefused(
            f"the change was refused with {rcode}, {where}",
            remedy=remedies.get(rcode, "The server's log says why."),
            name=zone,
        )

    def _unreachable(self, zone: str, error: OSError | UnicodeError) -> DnsUnreachable:
        what = str(error)
        if isinstance(error, TimeoutError):
            what = f"no answer within {_SECONDS:g} s"
        elif isinstance(error, OSError) and error.strerror:
            what = error.strerror
        return DnsUnreachable(
            f"{what}, zone {zone}, server {self._server} over TCP",
            remedy="Check `server` and `port`, and that TCP is allowed to it.",
            name=zone,
        )


def _grant(key: str) -> str:
    return (
        "Give the key that right on the zone's primary. In BIND, inside the zone: "
        f"update-policy {{ grant {key} zonesub TXT; }}; and it must be allowed to query, too. In Knot: an acl with "
        "`action: update`. In PowerDNS: dnsupdate=yes, allow-dnsupdate-from, and "
        f"`pdnsutil set-meta ZONE TSIG-ALLOW-DNSUPDATE {key}`."
    )


def _parts(changes: Sequence[tuple[TxtValue, bool]]) -> Iterator[Sequence[tuple[TxtValue, bool]]]:
    """As many in each message as surely fit: a change in one message is there as a whole or not at all."""
    first, room = 0, _ROOM
    for number, (value, _) in enumerate(changes):
        # Its name may come twice: as a prerequisite, too.
        size = 2 * len(value.name) + len(value.value.encode()) + _AROUND
        if size > room and number > first:
            yield changes[first:number]
            first, room = number, _ROOM
        room -= size
    yield changes[first:]


def _send(host: str, port: int, message: bytes) -> bytes:
    """One message and its answer, each after its length (RFC 1035 section 4.2.2); OSError after ten seconds."""
    deadline = _clock.monotonic() + _SECONDS
    # A host name may have two addresses, and the first of them may be silent.
    with socket.create_connection((host, port), timeout=_SECONDS / 2) as stream:
        stream.settimeout(_left(deadline))
        stream.sendall(struct.pack("!H", len(message)) + message)
        (length,) = struct.unpack("!H", _read(stream, 2, deadline))
        return _read(stream, length, deadline)


def _read(stream: socket.socket, length: int, deadline: float) -> bytes:
    data = b""
    while len(data) < length:
        stream.settimeout(_left(deadline))
        part = stream.recv(length - len(data))
        if not part:
            raise ConnectionError("the connection was closed before the answer")
        data += part
    return data


def _left(deadline: float) -> float:
    left = deadline - _clock.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
