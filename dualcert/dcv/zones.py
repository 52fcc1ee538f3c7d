"""Finds the zone of a challenge record, and looks at what its servers show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualcert.clock import Clock
from dualcert.dcv import addresses
from dualcert.dcv.exchange import exchange
from dualcert.dcv.names import Location, challenge_name, parents
from dualcert.dcv.remembered import Remembered
from dualcert.errors import DnsError, DnsUnreachable, ZoneNotFound
from dualcert.ports.dns import TxtValue

if TYPE_CHECKING:
    from dualcert.dcv.wire import Answer

_REMEMBERED_SECONDS = 60.0
_MOST_CNAMES = 8
_PATIENCE = 4  # times `timeout`: the longest that one search may take, however many names it leads through
_NAME_ANOTHER = 'Name a recursive resolver that knows it: `resolver = ["HOST:PORT"]` in the [dns.*] table.'


@dataclass(frozen=True)
class Sight:
    """What one server (``HOST:PORT``) does not show; ``problem`` says why where it gave no usable answer."""

    server: str
    missing: frozenset[TxtValue]
    problem: str | None = None


class Zones:
    """The DNS as seen through given resolvers and name servers. One object serves all threads.

    ``resolvers`` (``HOST:PORT``) answer for SOA, CNAME and NS; they may recurse or be authoritative only. None: the
    system's. ``nameservers`` must all show a value. None: every address of the zone's NS records, port 53.

    Zones, CNAMEs and name servers are remembered for a minute, TXT values never. ``timeout`` is in seconds per look.
    """

    def __init__(
        self, resolvers: Sequence[str], nameservers: Sequence[str], clock: Clock, timeout: float = 5.0
    ) -> None:
        for server in (*resolvers, *nameservers):
            addresses.split(server)  # a ConfigurationError is better now than at the first look
        self._resolvers = tuple(resolvers)
        self._nameservers = tuple(nameservers)
        self._clock = clock
        self._timeout = timeout
        self._locations: Remembered[Location] = Remembered(clock, _REMEMBERED_SECONDS)
        self._servers: Remembered[tuple[str, ...]] = Remembered(clock, _REMEMBERED_SECONDS)

    def locate(self, identifier: str) -> Location:
        """Where the challenge record of ``identifier`` (``example.com``, ``*.example.com``) is to be written.

        ZoneNotFound where CNAMEs go in a circle or nobody holds the name, DnsUnreachable where no resolver answers.
        """
        record = challenge_name(identifier)
        return self._locations.get(record, lambda: self._search(record))

    def servers(self, zone: str) -> tuple[str, ...]:
        """``HOST:PORT`` of everyone who must show what is written into ``zone``."""
        if self._nameservers:
            return self._nameservers
        return self._servers.get(zone, lambda: self._authoritative(zone))

    def missing(self, values: Collection[tuple[str, TxtValue]]) -> dict[str, frozenset[TxtValue]]:
        """One look for values, each with its zone: what each server does not show; empty when all show all.

        A server that does not answer shows nothing.
        """
        return {sight.server: sight.missing for sight in self.look(values) if sight.missing}

    def look(self, values: Collection[tuple[str, TxtValue]]) -> list[Sight]:
        """The same look in full, one Sight per server."""
        from dualcert.dcv import wire

        wanted: dict[str, set[TxtValue]] = {}
        for zone, value in values:
            for server in self.servers(zone):
                wanted.setdefault(server, set()).add(value)
        names = {server: sorted({value.name for value in values}) for server, values in wanted.items()}
        asked = {
            server: [wire.question(name, "TXT", recursive=False) for name in names[server]]
            for server in names
        }
        sights = []
        for server, answers in exchange(asked, self._timeout).items():
            shown: set[TxtValue] = set()
            problem = None
            for name, raw in zip(names[server], answers, strict=True):
                answer = _read(raw)
                if isinstance(answer, str):
                    problem = answer
                else:
                    shown |= {TxtValue(name, text) for text in answer.txt(name)}
                    problem = _why_not(answer, name) or problem
            sights.append(Sight(server, frozenset(wanted[server] - shown), problem))
        return sights

    def _search(self, record: str) -> Location:
        """Ask for the SOA of the record's own name: the answer carries the CNAMEs and, as a rule, the zone too."""
        deadline = self._clock.monotonic() + _PATIENCE * self._timeout
        path = [record]
        while True:
            self._not_after(deadline, record)
            answer = self._ask(path[-1], "SOA", path)
            links = answer.chain(path[-1])
            path += links
            _refuse_endless(path)
            zone = answer.zone_of(path[-1])
            if zone is None and not links:
                zone = self._walk_up(path, deadline)
            if zone == ".":
                raise ZoneNotFound(
                    f"no zone holds {_led_to(path)}",
                    remedy="Is the name registered and delegated?",
                    name=record,
                )
            if zone is not None:
                return Location(zone, path[-1])

    def _walk_up(self, path: list[str], deadline: float) -> str:
        """For resolvers that leave the SOA out of a negative answer."""
        for parent in parents(path[-1]):
            self._not_after(deadline, path[0])
            zone = self._ask(parent, "SOA", path).zone_of(parent)
            if zone is not None:
                return zone
        return "."

    def _ask(self, name: str, kind: str, path: list[str]) -> Answer:
        """The first resolver's answer that is one; an error that says what each resolver said instead."""
        said: list[str] = []
        silent = True
        for resolver in self._resolvers or addresses.system_resolvers():
            answer = self._ask_one(resolver, [(name, kind)])[0]
            if isinstance(answer, str):
                said.append(f"{resolver} {answer}")
            elif answer.refers_to is not None:
                silent = False
                said.append(f"{resolver} only refers to the servers of {answer.refers_to}")
            elif answer.usable:
                return answer
            else:
                silent &= answer.rcode == "SERVFAIL"
                said.append(f"{resolver} answers {answer.rcode}")
        reason = f"no resolver answers for {_led_to([*path, name] if name not in path else path)}: {'; '.join(said)}"
        problem: type[DnsError] = DnsUnreachable if silent else ZoneNotFound
        raise problem(reason, remedy=_NAME_ANOTHER, name=path[0])

    def _ask_one(self, resolver: str, questions: Sequence[tuple[str, str]]) -> list[Answer | str]:
        from dualcert.dcv import wire

        messages = [wire.question(name, kind, recursive=True) for name, kind in questions]
        return [_read(raw) for raw in exchange({resolver: messages}, self._timeout)[resolver]]

    def _authoritative(self, zone: str) -> tuple[str, ...]:
        hosts = self._ask(zone, "NS", [zone]).servers(zone)
        if not hosts:
            raise ZoneNotFound(f"{zone} has no name servers", remedy=_NAME_ANOTHER, name=zone)
        found = dict.fromkeys(addresses.join(host) for host in self._addresses(hosts, zone))
        servers = addresses.with_a_route(found)
        if not servers:
            raise DnsUnreachable(
                f"the name servers of {zone} ({', '.join(hosts)}) have no address that can be reached from here",
                remedy='Say which must show a value: `nameservers = ["HOST:PORT"]` in the [dns.*] table.',
                name=zone,
            )
        return servers

    def _addresses(self, hosts: Sequence[str], zone: str) -> list[str]:
        """All addresses of ``hosts``.

        A primary that serves as our resolver need not know its secondaries' names, so the system's resolvers come last.
        """
        found: list[str] = []
        unknown = {(host, kind): "was not asked" for host in hosts for kind in ("A", "AAAA")}
        for resolver in dict.fromkeys((*self._resolvers, *addresses.system_resolvers())):
            questions = list(unknown)
            for key, answer in zip(questions, self._ask_one(resolver, questions), strict=True):
                if isinstance(answer, str):
                    unknown[key] = f"{resolver} {answer}"
                elif answer.usable and answer.refers_to is None:
                    found += answer.addresses()
                    del unknown[key]
                else:
                    unknown[key] = f"{resolver} answers {answer.rcode}"
            if not unknown:
                return found
        (host, _), said = next(iter(unknown.items()))
        raise DnsUnreachable(
            f"the address of {host}, a name server of {zone}, cannot be found: {said}",
            remedy='Say which must show a value: `nameservers = ["HOST:PORT"]` in the [dns.*] table.',
            name=zone,
        )

    def _not_after(self, deadline: float, record: str) -> None:
        if self._clock.monotonic() > deadline:
            raise DnsUnreachable(
                f"finding the zone took more than {_PATIENCE * self._timeout:g} s",
                remedy=_NAME_ANOTHER,
                name=record,
            )


def _refuse_endless(path: list[str]) -> None:
    if len(set(path)) < len(path):
        circle = " -> ".join(path)
        raise ZoneNotFound(f"CNAMEs go in a circle: {circle}", remedy="Mend these CNAMEs.", name=path[0])
    if len(path) > _MOST_CNAMES + 1:
        raise ZoneNotFound(
            f"more than {_MOST_CNAMES} CNAMEs follow one another: {' -> '.join(path)}",
            remedy="Let the first one point to the last name.",
            name=path[0],
        )


def _why_not(answer: Answer, name: str) -> str | None:
    """What keeps this server from showing any value at ``name``, whatever was published."""
    if not answer.usable:
        return f"answers {answer.rcode} for {name}"
    if answer.refers_to is not None:
        return f"only refers to the servers of {answer.refers_to}"
    links = answer.chain(name)
    return f"has a CNAME at {name}, to {links[0]}" if links else None


def _led_to(path: list[str]) -> str:
    return f"{path[-1]} (reached from {path[0]})" if len(path) > 1 else path[0]


def _read(raw: bytes | OSError) -> Answer | str:
    """The answer, or in words why there is none."""
    from dualcert.dcv import wire

    if isinstance(raw, TimeoutError):
        return "does not answer"
    if isinstance(raw, OSError):
        return f"cannot be reached ({raw.strerror or raw})"
    try:
        return wire.Answer(raw)
    except wire.Malformed as error:
        return f"answers nonsense ({error})"
