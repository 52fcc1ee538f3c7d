"""The port to a DNS provider."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Protocol

from dualcert.ports.options import Options


@dataclass(frozen=True, order=True)
class TxtValue:
    """One TXT value at one owner name.

    ``name`` is absolute, lower case, without the final dot, CNAMEs already followed.
    """

    name: str
    value: str


class DnsProvider(Protocol):
    """Adds and removes exact TXT values in zones that it holds. Finding the zone is not its work.

    Built as ``Provider(options)``, without a request; one object is shared by all threads.

    * **Exact.** ``apply`` adds and removes the given values and touches nothing else: values that others wrote at the
      same name stay, also where the provider's API can only replace whole record sets.
    * **Idempotent.** Adding what is there and removing what is absent succeed. After an interrupted or failed call
      the same call may be made again.
    * **Safe together.** Calls may come from several threads and several processes at once, for one name too. A
      provider whose API has no compare-and-set serialises in itself as far as it can, reads back, and repeats.
    * **One change.** One call is one change at the provider where its API allows.
    * **No waiting** for propagation: that is watched from outside.
    * **Typed errors**: ``DnsCredentialsRejected``, ``ZoneNotFound``, ``DnsThrottled`` (with ``retry_after``),
      ``DnsRefused``, ``DnsUnreachable``; each names zone and server and never holds a secret. Whatever else is raised
      is told as a defect of the plugin. A call ends within 30 seconds.
    """

    options_class: ClassVar[type[Options]]

    @property
    def capacity(self) -> int | None:
        """How many values one name holds at once; None where there is no limit that matters."""
        ...

    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        """Make the change in ``zone`` (no final dot). Returns when the provider has accepted it.

        A value that is in both sets is there afterwards.
        """
        ...

    def default_resolvers(self) -> tuple[str, ...]:
        """``HOST:PORT`` addresses to ask for SOA, CNAME and NS where the configuration names none.

        Empty: the system's resolvers.
        """
        ...
