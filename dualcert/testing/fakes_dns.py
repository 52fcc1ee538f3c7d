"""A DNS provider in memory, held to the same conformance suite as the real ones."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from dualcert.errors import (
    DnsCredentialsRejected,
    DnsError,
    DnsRefused,
    DnsThrottled,
    DnsUnreachable,
    ZoneNotFound,
)
from dualcert.ports.dns import TxtValue
from dualcert.ports.options import Options, Secret, option


class FakeDnsServer:
    """What the providers of one account share: its zones, what stands in them, and the trouble it is to make.

    All attributes may be set while it is in use. ``faults`` are raised one per change, instead of it;
    ``lost_answers`` counts changes that are made and then look as if nobody had answered.
    """

    def __init__(self, zones: Iterable[str], token: Secret, capacity: int | None = None) -> None:
        self.zones = set(zones)
        self.token = token
        self.capacity = capacity
        self.reachable = True
        self.throttled_for: timedelta | None = None
        self.faults: deque[DnsError] = deque()
        self.lost_answers = 0
        self.changes = 0
        self._values: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> frozenset[str]:
        """The values at ``name``, as its authoritative servers show them."""
        with self._lock:
            return frozenset(self._values.get(name, ()))

    def write(self, value: TxtValue) -> None:
        """Add a value as somebody else would."""
        with self._lock:
            self._values.setdefault(value.name, set()).add(value.value)

    def change(self, zone: str, token: Secret, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        with self._lock:
            self._check(zone, token)
            after: dict[str, set[str]] = {}
            for value in remove | add:
                after.setdefault(value.name, set(self._values.get(value.name, ())))
            for value in remove - add:
                after[value.name].discard(value.value)
            for value in add:
                after[value.name].add(value.value)
            self._check_capacity(zone, after)
            self._values.update(after)
            self.changes += 1
            if self.lost_answers:
                self.lost_answers -= 1
                raise DnsUnreachable(f"the answer was lost, zone {zone}, fake server", name=zone)

    def _check(self, zone: str, token: Secret) -> None:
        if not self.reachable:
            raise DnsUnreachable(f"no answer, zone {zone}, fake server", name=zone)
        if self.faults:
            raise self.faults.popleft()
        if token != self.token:
            raise DnsCredentialsRejected(f"another token is needed, zone {zone}, fake server", name=zone)
        if self.throttled_for is not None:
            raise DnsThrottled(
                f"too many changes, zone {zone}, fake server", name=zone, retry_after=self.throttled_for
            )
        if zone not in self.zones:
            raise ZoneNotFound(f"no such zone {zone}, fake server", name=zone)

    def _check_capacity(self, zone: str, after: dict[str, set[str]]) -> None:
        for name, values in after.items():
            if self.capacity is not None and len(values) > self.capacity:
                raise DnsRefused(
                    f"{name} holds {self.capacity} values at most, zone {zone}, fake server", name=zone
                )


@dataclass(frozen=True, kw_only=True)
class FakeDnsOptions(Options):
    """Which server, and the token to show it."""

    summary: ClassVar[str] = "values in memory, for tests"

    server: FakeDnsServer = option(help="where the values are")
    token: Secret = option(help="what the server asks for")


class FakeDnsProvider:
    """``DnsProvider`` over a FakeDnsServer."""

    options_class: ClassVar[type[Options]] = FakeDnsOptions

    def __init__(self, options: FakeDnsOptions) -> None:
        self._options = options

    @property
    def capacity(self) -> int | None:
        return self._options.server.capacity

    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        self._options.server.change(zone, self._options.token, add, remove)

    def default_resolvers(self) -> tuple[str, ...]:
        return ()
