"""What the lifecycle works with, as ``bootstrap`` wired it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from dualcert.clock import Clock
from dualcert.errors import ConfigurationError, DeployError, DnsError
from dualcert.lifecycle.leasekeeper import LeaseKeeper
from dualcert.lifecycle.plugged import called, is_whole, unforeseen
from dualcert.lifecycle.pool import Pools
from dualcert.model.pair import KeyType
from dualcert.ports.deploy import check_of, place_of
from dualcert.store import Store

if TYPE_CHECKING:
    # Named in annotations only: a failover needs no DNS, a list no CA.
    from dualcert.dcv import Zones
    from dualcert.lifecycle.permits import RequestPermits
    from dualcert.model.order import Order
    from dualcert.policy.budget import Kind, Limit, Subject
    from dualcert.ports.ca import CertificateAuthority, OrderSnapshot
    from dualcert.ports.deploy import Deployer, Held, Placement, Version
    from dualcert.ports.dns import DnsProvider, TxtValue
    from dualcert.ports.evidence import Evidence
    from dualcert.ports.keys import KeyProtector
    from dualcert.ports.weakness import KeyInspector

T = TypeVar("T")


class Lazy(Generic[T]):
    """Something made when it is first asked for, once, whichever thread asks: a failover needs no ACME client."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]


class Once:
    """Runs something until it has succeeded once; others wait for it meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False

    def __call__(self, act: Callable[[], None]) -> None:
        if self._done:
            return
        with self._lock:
            if not self._done:
                act()
                self._done = True


@dataclass(frozen=True)
class CaBinding:
    """A CA as configured. ``trust_roots``: PEM file of what its certificates chain to; None for public roots.

    ``crl``: distribution points that its certificates do not name.
    ``preferred_chain``: the common name of the root that certificates are to be served with a chain to.
    ``limits``: what is counted here of what the CA counts, but for single requests, which need one of ``permits``.
    """

    name: str
    directory: str
    domain: str
    operator: str | None
    trust_roots: Path | None
    max_concurrency: int
    authority: Lazy[CertificateAuthority]
    limits: Mapping[Kind, Limit] = field(default_factory=dict)
    permits: RequestPermits | None = None
    contact: tuple[str, ...] = ()
    preferred_chain: str | None = None
    crl: tuple[str, ...] = ()
    account: Once = field(default_factory=Once, repr=False)


@dataclass(frozen=True)
class DnsBinding:
    name: str
    provider: Lazy[DnsProvider]
    zones: Lazy[Zones]

    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        """As the provider does it. Raises ``DnsError``, whatever the provider raised."""
        provider = self.provider()
        with called(f"dns.{self.name}", DnsError):
            provider.apply(zone, add, remove)

    @property
    def capacity(self) -> int | None:
        """As the provider says it. Raises ``DnsError`` where that is neither a number nor None."""
        provider = self.provider()
        with called(f"dns.{self.name}", DnsError):
            found = provider.capacity
            if found is not None and type(found) is not int:
                raise TypeError(f"its capacity is a {type(found).__name__}, neither a number nor None")
        return found

    def default_resolvers(self) -> tuple[str, ...]:
        """As the provider says them. Raises ``DnsError``, whatever the provider raised or said."""
        provider = self.provider()
        with called(f"dns.{self.name}", DnsError):
            found: object = provider.default_resolvers()
            if not isinstance(found, tuple) or not all(isinstance(one, str) for one in found):
                raise TypeError(f"its resolvers are no tuple of texts: {found!r}")
        return found


def _by_pair(answer: Mapping[str, T]) -> Mapping[str, T]:
    said: object = answer
    if not isinstance(said, Mapping):
        raise TypeError(f"it gave back a {type(said).__name__}, and nothing by pair")
    return answer


@dataclass(frozen=True)
class TargetBinding:
    """``endpoints``: where to look with a handshake, (host, port). ``switching``: whose thread has it changes it."""

    name: str
    deployer: Lazy[Deployer]
    endpoints: tuple[tuple[str, int], ...]
    switching: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def _table(self) -> str:
        return f"target.{self.name}"

    def deploy(self, placements: Sequence[Placement]) -> dict[str, DeployError | None]:
        """As the deployer does it. Raises ``DeployError`` where it has said nothing of any pair."""
        deployer = self.deployer()
        with called(self._table, DeployError):
            results = _by_pair(deployer.deploy(placements))
            return {one.pair: self._result(results.get(one.pair)) for one in placements}

    def _result(self, said: object) -> DeployError | None:
        if said is None or (isinstance(said, DeployError) and is_whole(said)):
            return said
        odd = said if isinstance(said, BaseException) else TypeError(f"a result is a {type(said).__name__}")
        return unforeseen(self._table, DeployError, odd)

    def read_back(self, pairs: Sequence[str]) -> dict[str, Held | None]:
        """As the deployer does it. Raises ``DeployError``, whatever the deployer raised."""
        deployer = self.deployer()
        with called(self._table, DeployError):
            held = _by_pair(deployer.read_back(pairs))
            found = {pair: held.get(pair) for pair in pairs}
            for there in found.values():
                if there is not None and not isinstance(there.sha256, bytes):
                    raise TypeError(f"a fingerprint is a {type(there.sha256).__name__}, not bytes")
        return found

    def purge(self, pair: str, keep: Version) -> None:
        """As the deployer does it. Raises ``DeployError``, whatever the deployer raised."""
        deployer = self.deployer()
        with called(self._table, DeployError):
            deployer.purge(pair, keep)

    def remove(self, pair: str) -> None:
        """As the deployer does it. Raises ``DeployError``, whatever the deployer raised."""
        deployer = self.deployer()
        with called(self._table, DeployError):
            deployer.remove(pair)

    def place(self) -> object:
        """Equal for two targets if they have one place; None where the deployer cannot say."""
        deployer = self.deployer()
        with called(self._table, DeployError):
            return place_of(deployer)

    def check(self) -> bool:
        """Whether the deployer can look beforehand, and has. Raises ``DeployError`` for what it found."""
        deployer = self.deployer()
        with called(self._table, DeployError):
            look = check_of(deployer)
            if look is not None:
                look()
        return look is not None


@dataclass(frozen=True)
class NewPairs:
    """What a new pair gets where its command says nothing. ``first_wait`` in seconds."""

    primary: str
    backup: str
    dns: str
    targets: tuple[str, ...]
    key_type: KeyType
    first_wait: int
    spares: tuple[str, ...] = ()


@dataclass(frozen=True)
class WatchRules:
    """What is done about what is seen. ``promote``: "auto", "ask" or "never"; ``brake_then``: "wait" or "waves".

    ``early``: a CA's early warning is enough to promote.
    """

    promote: str = "auto"
    early: bool = False
    brake_then: str = "wait"


@dataclass(frozen=True)
class Placing:
    """An order whose key is this process's to use. ``answer``: to newOrder; None until it has left.

    ``replaces``: the ARI identifier that it names. ``counted``: the permits that were taken for it.
    """

    order: Order
    replaces: str | None
    answer: OrderSnapshot | None = None
    counted: tuple[tuple[Subject, Limit], ...] = ()


def _no_evidence() -> Evidence:
    raise ConfigurationError("nothing here asks CAs what they have revoked")


def _no_inspector() -> KeyInspector | None:
    return None


@dataclass(frozen=True)
class World:
    """``draw`` gives a random number in [0, 1): the lifecycle draws, a policy is told.

    ``inspector``: who looks for weaknesses in keys that enter; None where nobody does. ``placing``: by pair and CA,
    what is known here of newOrder and perhaps not in the database. ``pools`` and ``leases`` are shared by all that
    runs in this process: a CA's ``max_concurrency`` is for all of it.
    """

    clock: Clock
    store: Store
    cas: Mapping[str, CaBinding]
    dns: Mapping[str, DnsBinding]
    targets: Mapping[str, TargetBinding]
    protectors: Mapping[str, Lazy[KeyProtector]]
    new_pairs: NewPairs
    draw: Callable[[], float]
    watch: WatchRules = field(default_factory=WatchRules)
    evidence: Lazy[Evidence] = field(default_factory=lambda: Lazy(_no_evidence))
    inspector: Lazy[KeyInspector | None] = field(default_factory=lambda: Lazy(_no_inspector))
    placing: dict[tuple[int, str], Placing] = field(default_factory=dict, repr=False, compare=False)
    pools: Pools = field(default_factory=Pools, repr=False, compare=False)
    leases: LeaseKeeper = field(default_factory=LeaseKeeper, repr=False, compare=False)

    def ca(self, name: str) -> CaBinding:
        return _configured(self.cas, name, "ca")

    def dns_of(self, name: str) -> DnsBinding:
        return _configured(self.dns, name, "dns")

    def target(self, name: str) -> TargetBinding:
        return _configured(self.targets, name, "target")

    def protector(self, domain: str) -> KeyProtector:
        return _configured(self.protectors, domain, "keys")()


def _configured(table: Mapping[str, T], name: str, section: str) -> T:
    try:
        return table[name]
    except KeyError:
        raise ConfigurationError(
            f"[{section}.{name}] is not configured, but a pair in the database needs it",
            remedy=f"Add [{section}.{name}] to the configuration.",
        ) from None
