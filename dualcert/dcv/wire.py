"""Questions and answers as dnspython writes and reads them. Imported on first use: it takes a tenth of a second."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from dualcert.dcv.names import is_under


class Malformed(Exception):
    """Not a DNS message; caught inside this package, as an answer that is none."""


def question(name: str, kind: str, *, recursive: bool) -> bytes:
    """A message that asks for ``name``; ``kind`` is a record type such as ``SOA``."""
    flags = dns.flags.RD if recursive else 0
    return dns.message.make_query(dns.name.from_text(name), kind, flags=flags).to_wire()


class Answer:
    """What a server said."""

    def __init__(self, wire: bytes) -> None:
        """Malformed where ``wire`` cannot be read."""
        try:
            self._message = dns.message.from_wire(wire, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError) as error:
            raise Malformed(str(error) or type(error).__name__) from error

    @property
    def rcode(self) -> str:
        return dns.rcode.to_text(self._message.rcode())

    @property
    def usable(self) -> bool:
        """It says what is there or that nothing is.

        A server that follows CNAMEs into a circle says SERVFAIL, but shows the circle.
        """
        return self.rcode in {"NOERROR", "NXDOMAIN"} or bool(self._message.answer)

    @property
    def refers_to(self) -> str | None:
        """The zone to whose servers it sends us, because it neither holds it nor asks others."""
        message = self._message
        if message.answer or message.flags & (dns.flags.AA | dns.flags.RA) or self.rcode != "NOERROR":
            return None
        return next((_text(s.name) for s in message.authority if s.rdtype == dns.rdatatype.NS), None)

    def chain(self, name: str) -> list[str]:
        """The names to which CNAMEs lead from ``name``, in order; ends where it comes round to a name again."""
        targets = {
            _text(rrset.name): _text(rrset[0].target)
            for rrset in self._message.answer
            if rrset.rdtype == dns.rdatatype.CNAME
        }
        seen = [name]
        while (target := targets.get(seen[-1])) is not None:
            seen.append(target)
            if target in seen[:-1]:
                break
        return seen[1:]

    def zone_of(self, name: str) -> str | None:
        """The zone that holds ``name``, by the SOA that answers or that proves an absence (RFC 2308 section 3)."""
        for section in (self._message.answer, self._message.authority):
            for rrset in section:
                if rrset.rdtype == dns.rdatatype.SOA and is_under(name, _text(rrset.name)):
                    return _text(rrset.name)
        return None

    def txt(self, name: str) -> frozenset[str]:
        """The TXT values at ``name`` itself."""
        return frozenset(
            b"".join(record.strings).decode("latin-1")
            for rrset in self._message.answer
            if rrset.rdtype == dns.rdatatype.TXT and _text(rrset.name) == name
            for record in rrset
        )

    def servers(self, zone: str) -> list[str]:
        """The host names of the NS records of ``zone``."""
        return sorted(
            _text(record.target)
            for rrset in self._message.answer
            if rrset.rdtype == dns.rdatatype.NS and _text(rrset.name) == zone
            for record in rrset
        )

    def addresses(self) -> list[str]:
        """The A or AAAA records that were asked for, behind whatever CNAMEs."""
        kinds = {dns.rdatatype.A, dns.rdatatype.AAAA}
        return [
            record.address
            for rrset in self._message.answer
            if rrset.rdclass == dns.rdataclass.IN and rrset.rdtype in kinds
            for record in rrset
        ]


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
