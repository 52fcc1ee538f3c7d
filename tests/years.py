"""Months in minutes: dualcert's daemon with real CAs, while its clock jumps from one thing that is due to the next.

The CAs' clocks cannot be moved: Pebble asks the kernel, not a library that could be told otherwise. But it dates a
certificate exactly as its order asks (RFC 8555 section 7.4, notBefore and notAfter). So the only thing that is
bent is the payload of newOrder, signed by the client itself: it asks for the dates that a CA which lives at our time
would give. All else follows by itself. Pebble reckons its suggested windows from a certificate's dates, chains are
checked at our time, and what was shown to be in time is what clients would see. One thing does not follow: an order
at Pebble lives for a day of the machine's, and is never too old at ours; so its client says instead that one is gone
which has not been finalized within a twentieth of the life that it asks for.

The database tells our time, too: leases and budgets go by it.
"""

from __future__ import annotations

import heapq
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from dualcert import bootstrap
from dualcert.acmeclient import AcmeCa, AcmeCaSettings
from dualcert.clock import from_microseconds, rfc3339
from dualcert.errors import ResourceGone
from dualcert.lab import LabServers
from dualcert.lab.pebble import PebbleServer
from dualcert.lifecycle import inventory, removal
from dualcert.lifecycle.daemon import Daemon
from dualcert.lifecycle.inventory import PairRequest
from dualcert.lifecycle.world import CaBinding, Lazy, World
from dualcert.ports.ca import OrderSnapshot
from tests import brokenca
from tests.faultproxy import Cut, Fault, FaultProxy, html
from tests.labfixture import ProjectLab
from tests.program import Program
from tests.shifted import ShiftedClock, built_on
from tests.store import databaseclock

DAY, HOUR, MINUTE, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
SIDES = ("alpha", "beta")
LIVES = {"hour": HOUR, "week": 6 * DAY, "month": 45 * DAY}
"""The profiles: how long their certificates live."""

LONGEST_PAUSE = 24 * HOUR * 1.1
"""A CA that is well again may be left alone for so long."""

PROFILES = {name: int(life / SECOND) for name, life in LIVES.items()}
_ASK_SLACK = 100
"""What share of a certificate's life a question to its CA may be late: many go out at one jump then."""


class PassingClock(ShiftedClock):
    """Time that is let pass, passes by every clock of the machine: nobody has put one right."""

    def monotonic(self) -> float:
        return super().monotonic() + self.passed.total_seconds()


# --- CAs that live at our time -----------------------------------------------------------------------------


class DatedCa(AcmeCa):
    """The client of a real CA whose orders ask for certificates that live for so long, from now by our time on."""

    def __init__(self, settings: AcmeCaSettings, clock: ShiftedClock, life: timedelta) -> None:
        super().__init__(settings, clock)
        self.life = life
        self.placed: dict[str, datetime] = {}
        """Orders that the CA has accepted, by their URL: when that was."""
        self.keys: list[bytes] = []
        """Public keys of the CSRs that were sent, of each order the first time only."""
        self._finalized: set[str] = set()

    def _post(self, url: str, payload: bytes, *arguments: Any, **options: Any) -> Any:
        if b'"identifiers"' in payload:
            born = self._clock.now().replace(microsecond=0)
            dates = {"notBefore": rfc3339(born), "notAfter": rfc3339(born + self.life)}
            payload = json.dumps({**json.loads(payload), **dates}).encode()
        return super()._post(url, payload, *arguments, **options)

    def new_order(self, names: Sequence[str], *, replaces: str | None = None) -> OrderSnapshot:
        answer = super().new_order(names, replaces=replaces)
        self.placed[answer.url] = self._clock.now()
        return answer

    def order(self, url: str) -> OrderSnapshot:
        answer = super().order(url)
        if answer.status not in {"processing", "valid"}:
            self._demand_youth(url)
        # Until when it is kept is told by the machine's time.
        return replace(answer, expires=None)

    def finalize(self, url: str, order: str, csr: bytes) -> OrderSnapshot:
        self._demand_youth(order)
        if order not in self._finalized:
            self._finalized.add(order)
            key = x509.load_der_x509_csr(csr).public_key()
            self.keys.append(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        return replace(super().finalize(url, order, csr), expires=None)

    def _demand_youth(self, order: str) -> None:
        now = self._clock.now()
        if now > self.placed.get(order, now) + self.life / 20:
            raise ResourceGone("the order expired before it was finished", problem="expired", ca=self.name)


# --- how a CA fails ----------------------------------------------------------------------------------------

_EVERYTHING = "/"
_PLACES = (
    _EVERYTHING,
    _EVERYTHING,
    _EVERYTHING,
    brokenca.NEW_ORDER,
    brokenca.AUTHORIZATION,
    brokenca.CHALLENGE,
    brokenca.FINALIZE,
    brokenca.CERTIFICATE,
)
_WAYS: dict[str, Fault] = {"503": html(503), "500": html(500), "no answer": Cut(after=None)}


@dataclass(frozen=True)
class Outage:
    """``place``: which requests fail, all or those of one step; ``way``: how."""

    side: str
    begin: datetime
    end: datetime
    place: str
    way: str

    def __str__(self) -> str:
        return f"{self.side} fails from {self.begin:%m-%d %H:%M} to {self.end:%m-%d %H:%M} at {self.place}: {self.way}"


def outages(chance: random.Random, begin: datetime, end: datetime, lengths: Sequence[float]) -> list[Outage]:
    """CAs fail by chance, one at a time; the first times wholly and for so many days, then for up to sixteen.

    One that was away has had time to make up for it when the other one fails. All is well at the end.
    """
    found: list[Outage] = []
    given = iter(lengths)
    side = chance.choice(SIDES)
    at = begin + chance.uniform(2, 4) * DAY
    while True:
        length = next(given, None) or chance.choice([chance.uniform(0.5, 6)] * 3 + [chance.uniform(6, 16)])
        if at + length * DAY > end - 2 * LONGEST_PAUSE:
            return found
        place = _EVERYTHING if len(found) < len(lengths) else chance.choice(_PLACES)
        found.append(Outage(side, at, at + length * DAY, place, chance.choice(list(_WAYS))))
        at = found[-1].end + LONGEST_PAUSE + chance.uniform(0.1, 5) * DAY
        # The other one next, more often than not.
        side = chance.choice([one for one in SIDES if one != side] * 2 + [side])


# --- what is served ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """A certificate as it lies where the TLS server reads it."""

    begin: datetime
    end: datetime
    serial: int

    @property
    def life(self) -> timedelta:
        return self.end - self.begin


def _read(folder: Path, name: str) -> Served:
    [leaf, *chain] = x509.load_pem_x509_certificates((folder / "fullchain.pem").read_bytes())
    key = load_pem_private_key((folder / "privkey.pem").read_bytes(), None)
    assert key.public_key() == leaf.public_key(), name
    assert chain[0].subject == leaf.issuer, name
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]
    return Served(leaf.not_valid_before_utc, leaf.not_valid_after_utc, leaf.serial_number)


# --- the time that passes ----------------------------------------------------------------------------------

_NEXT = f"""
SELECT min(at) FROM (
    SELECT min(next_action_at) AS at FROM pair_state
    UNION ALL SELECT min(due_at) FROM work WHERE owner IS NULL AND due_at IS NOT NULL
    UNION ALL SELECT min(check_at + (not_after - not_before) / {_ASK_SLACK})
        FROM renewal_info JOIN certificate ON certificate.id = certificate_id
        WHERE NOT EXISTS (
            SELECT 1 FROM work WHERE kind = 'renewal-information' AND work.ca = renewal_info.ca)
) AS found
"""
_MOST_TURNS = 2_000


class Months:
    """A daemon, its pairs and its CAs, while time passes: the daemon's own turns, taken in the test's thread, so that
    time never jumps while it is at work. What is served is looked at at every instant that time comes to, before the
    daemon has done anything about it and after."""

    def __init__(
        self, world: World, clock: ShiftedClock, lab: ProjectLab, proxies: Mapping[str, FaultProxy]
    ) -> None:
        self.world = world
        self.clock = clock
        self.cas: list[DatedCa] = [binding.authority() for binding in world.cas.values()]  # type: ignore[misc]
        self.lab = lab
        self.proxies = proxies
        self.begin = clock.now()
        self.jumps = 0
        self.served: dict[str, Served] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self.daemon = Daemon(world, "1.2.3")
        self._plans: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = count()

    def plan(self, at: datetime, act: Callable[[], None]) -> None:
        heapq.heappush(self._plans, (at, next(self._numbers), act))

    def plan_outages(self, found: Sequence[Outage]) -> None:
        for one in found:
            proxy = self.proxies[one.side]
            self.plan(one.begin, lambda proxy=proxy, one=one: self._fails(proxy, one))  # type: ignore[misc]
            self.plan(one.end, proxy.calm)

    @staticmethod
    def _fails(proxy: FaultProxy, outage: Outage) -> None:
        proxy.on(outage.place, _WAYS[outage.way], times=None)
        proxy.hang_up()

    def plan_pair(self, at: datetime, name: str, profile: str, primary: str) -> None:
        backup = next(side for side in SIDES if side != primary)
        request = PairRequest((name,), primary=f"{primary}-{profile}", backup=f"{backup}-{profile}")
        self.plan(at, lambda: self._begin(request))

    def _begin(self, request: PairRequest) -> None:
        pair = inventory.ensure(self.world, request)
        self._settle()
        while self._looks_again():  # a CA may take a moment to issue
            self._jump(self._next())
            self._settle()
        self.served[pair.name] = self._look_at(pair.name)

    def end_pair(self, name: str) -> None:
        del self.served[name]
        removal.remove(self.world, inventory.resolve(self.world, name), None)

    def pass_until(self, end: datetime) -> None:
        """Jump from one instant at which anything is due to the next."""
        while True:
            self._settle()
            self.look()
            at = min(end, self._next(), self._plans[0][0] if self._plans else end)
            self._jump(at)
            self.look()
            while self._plans and self._plans[0][0] <= self.clock.now():
                heapq.heappop(self._plans)[2]()
            if at >= end:
                self._settle()
                return

    def _jump(self, at: datetime) -> None:
        self.jumps += 1
        self.clock.advance(max(at - self.clock.now(), timedelta(0)))
        for proxy in self.proxies.values():
            proxy.forget()

    def _settle(self) -> None:
        """Let the daemon do all that is due now."""
        for _ in range(_MOST_TURNS):
            if self.daemon.load[0] == 0:
                self.daemon.tick_soon()
            self.daemon._turn()
            if self.daemon.load[0] == 0 and self._next() > self.clock.now():
                return
        raise AssertionError(f"the daemon does not come to rest: {self.rows('SELECT * FROM work')}")

    def _next(self) -> datetime:
        """When anything is due next; what waits in memory for a moment is due when it goes on."""
        [(at,)] = self.rows(_NEXT)
        known = [from_microseconds(at)] if at is not None else []
        now, monotonic = self.clock.now(), self.clock.monotonic()
        known += [now + timedelta(seconds=wake - monotonic) for wake in self._looks_again()]
        return min(known, default=now + DAY)

    def _looks_again(self) -> list[float]:
        """When what waits in memory goes on, by the monotonic clock."""
        return [one.wake for one in self.daemon._runner._kept.values() if not one.held.waiting]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.world.store.read() as tx:
            return [tuple(row) for row in tx.connection.exec_driver_sql(query).all()]

    # --- looking -------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Everything that is in service has a certificate that is valid now, and is not about to end."""
        now = self.clock.now()
        for name in self.served:
            one = self.served[name] = self._look_at(name)
            assert one.begin <= now < one.end, f"{name}: {one} at {now}"
            assert now <= one.end - one.life / 20 + MINUTE, f"{name} was not left in time: {one} at {now}"

    def _look_at(self, name: str) -> Served:
        folder = self.lab.live / name
        found = (folder / "fullchain.pem").stat()
        stamp = (found.st_ino, found.st_mtime_ns)
        if self._stamps.get(name) == stamp:
            return self.served[name]
        self._stamps[name] = stamp
        return _read(folder, name)


# --- a scene -----------------------------------------------------------------------------------------------


def _configure(lab: ProjectLab, program: Program, proxies: Mapping[str, FaultProxy]) -> None:
    """Each CA stands there once per profile, with an account of its own, and behind its proxy."""
    text = program.config.read_text()
    for side, proxy in proxies.items():
        found = re.search(rf"(?ms)^\[ca\.{side}\]\n(.*?)(?=^\[)", text)
        assert found is not None
        section = found[1]
        for key, value in (("directory", proxy.directory), ("ca_bundle", str(proxy.ca_bundle))):
            section = re.sub(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", section)
        section = re.sub(r"(?m)^profile = .*\n", "", section)
        copies = [f'[ca.{side}-{name}]\nprofile = "{name}"\n{section}' for name in LIVES]
        text = text.replace(found[0], "".join(copies))
        text = text.replace(f'= "{side}"', f'= "{side}-month"')
    program.config.write_text(text)


@contextmanager
def months(
    servers: LabServers, folder: Path, patch: pytest.MonkeyPatch, chance: random.Random
) -> Iterator[Months]:
    """Everything made ready, its draws by ``chance``."""
    clock = PassingClock()
    with (
        ProjectLab.on(servers, folder / "project", domain="example.test") as lab,
        _proxy(servers.alpha, folder) as alpha,
        _proxy(servers.beta, folder) as beta,
    ):
        program = Program(lab.config_path)
        _configure(lab, program, {"alpha": alpha, "beta": beta})
        program.done("init")
        application = built_on(clock, patch)(bootstrap.load_settings(program.config))
        with closing(application):
            world = _seeded(application.world, clock, chance)
            scene = Months(world, clock, lab, {"alpha": alpha, "beta": beta})
            with scene.daemon._runner:
                yield scene


def _proxy(pebble: PebbleServer, folder: Path) -> FaultProxy:
    own = folder / f"proxy-{pebble.name}"
    own.mkdir()
    return FaultProxy(pebble.directory_url, folder=own)


def _seeded(world: World, clock: ShiftedClock, chance: random.Random) -> World:
    databaseclock.follow(world.store, clock)
    while world.store._idle:  # they know the machine's time only
        world.store._idle.pop().close()
    return replace(dated(world, clock), draw=chance.random)


def dated(world: World, clock: ShiftedClock) -> World:
    """The same, with CAs that live at our time; a profile that is not known here is one of 90 days."""
    return replace(world, cas={name: _dated(binding, clock) for name, binding in world.cas.items()})


def _dated(binding: CaBinding, clock: ShiftedClock) -> CaBinding:
    real: Any = binding.authority()
    ca = DatedCa(real._settings, clock, LIVES.get(real._settings.profile, 90 * DAY))
    return replace(binding, authority=Lazy(lambda: ca))
