"""A drill: what a failover would need is tried today, for real, and nothing is moved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from dualcert.errors import (
    CaError,
    CertificateUnfit,
    ConfigurationError,
    KeyProblem,
    ProbeFailed,
    ProbeHindered,
)
from dualcert.lifecycle import inspection, keymaking, loopback, objecting, proving
from dualcert.lifecycle.world import World
from dualcert.model import names as naming
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.pair import Pair, PairState
from dualcert.policy import due
from dualcert.policy.promotion import DISTRUSTED
from dualcert.store import certificates, counters, events, moving, pairs

_PAGE = 200


@dataclass(frozen=True)
class Drilled:
    """How one pair's backup has done. ``handshake``: the version of TLS with which it was shown and accepted."""

    pair: str
    ca: str
    certificate: Certificate | None
    handshake: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Reached:
    """Whether a CA's directory was to be had; ``problem`` says why not."""

    ca: str
    problem: str | None


def directories(world: World, cas: Iterable[str]) -> list[Reached]:
    """Ask each CA for its directory, once."""
    return [Reached(ca, _unreachable(world, ca)) for ca in sorted(set(cas))]


def _unreachable(world: World, ca: str) -> str | None:
    try:
        world.ca(ca).authority().facts()
    except (CaError, ConfigurationError) as error:
        return error.reason
    return None


# --- which ones ------------------------------------------------------------------------------------------


def every(world: World) -> Iterator[Pair]:
    """All pairs in the order of their names."""
    after = ""
    while True:
        with world.store.read() as tx:
            found = pairs.page(tx, after=after, limit=_PAGE)
        yield from found
        if len(found) < _PAGE:
            return
        after = found[-1].name


def sample(world: World, share: float) -> Iterator[Pair]:
    """So large a part of all pairs (0 to 1), rounded up, spread evenly over them and drawn anew at each call."""
    if share >= 1:
        yield from every(world)
        return
    with world.store.read() as tx:
        count, last = counters.value(tx, counters.PAIRS) or 0, moving.last_number(tx)
    wanted = min(count, math.ceil(count * share))
    seen: set[int] = set()
    for number in range(wanted):
        begin = int((number + world.draw()) * last / wanted)
        with world.store.read() as tx:
            found = moving.next_number(tx, begin) or moving.next_number(tx, 0)
            chosen = pairs.by_id(tx, found) if found is not None and found not in seen else None
        if chosen is not None:
            seen.add(chosen.id)
            yield chosen
    # Numbers with gaps lead to the same pair more than once: what is missing follows one after the other.
    after = int(world.draw() * last)
    for _ in range(2 * count if len(seen) < wanted else 0):
        with world.store.read() as tx:
            after = moving.next_number(tx, after) or 0
            chosen = pairs.by_id(tx, after) if after not in seen else None
        if chosen is not None:
            seen.add(chosen.id)
            yield chosen
        if len(seen) == wanted:
            return


# --- one pair --------------------------------------------------------------------------------------------


def rehearse(world: World, pair: Pair) -> Drilled:
    """Try the pair's backup. What its key's proof is worth is written down, for a mass failover goes by that.

    Nothing is where this machine is to blame: a backup that was not tried is as good as it was before.
    """
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        lineages = {one.id: one for one in pairs.lineages(tx, [pair.id])}
        ca = lineages[state.backup_lineage].ca
        standby = None if state.standby is None else certificates.get(tx, state.standby)
    if standby is None:
        return Drilled(pair.name, ca, None, None, ("there is no backup",))
    found, key = _opened(world, standby)
    version = None
    if key is not None:
        try:
            seen, version = _shown(world, pair, standby, key)
        except (ConfigurationError, ProbeHindered) as error:
            return Drilled(pair.name, ca, standby, None, (error.reason,))
        found += seen
    found += _life_left(standby, world.clock.now())
    problems = _record(world, pair, state, standby, found)
    return Drilled(pair.name, ca, standby, version, problems)


def _opened(world: World, standby: Certificate) -> tuple[tuple[str, ...], bytes | None]:
    with world.store.read() as tx:
        wrapped = certificates.wrapped(tx, standby.spki)
    try:
        return (), keymaking.unwrap(world, wrapped)
    except (KeyProblem, ConfigurationError) as error:
        return (proving.told(error),), None


def _shown(world: World, pair: Pair, standby: Certificate, key: bytes) -> tuple[tuple[str, ...], str | None]:
    """Chain and names as at its arrival, then a client that accepts it."""
    with world.store.read() as tx:
        fullchain = inspection.pem_of(certificates.der_of(tx, standby.id)) + certificates.chain_of(
            tx, standby
        )
    try:
        roots = world.ca(standby.ca).trust_roots
        arrival = inspection.parse(fullchain)
        # A pair may have other names by now, and a certificate that covers them goes on counting.
        uncovered = tuple(name for name in pair.names if not naming.covers(arrival.names, (name,)))
        found, _ = inspection.flaws(
            arrival,
            spki=standby.spki,
            names=uncovered or arrival.names,
            now=world.clock.now(),
            trust_roots=roots,
        )
        if found:
            return found, None
        seen, version = loopback.handshake(fullchain, key, naming.probe_name(pair.names), roots)
    except (CertificateUnfit, ProbeFailed) as error:
        return (error.reason,), None
    if seen != standby.sha256:
        return ("a handshake with it showed another certificate",), None
    return (), version


def _life_left(standby: Certificate, now: datetime) -> tuple[str, ...]:
    if due.usable_until(standby.not_before, standby.not_after, now) > now:
        return ()
    return (f"it ends too soon to rely on: {standby.not_after:%Y-%m-%d %H:%M} UTC",)


def _record(
    world: World, pair: Pair, state: PairState, standby: Certificate, found: tuple[str, ...]
) -> tuple[str, ...]:
    """What was ``found``, and what is recorded against the backup by now: all of it is returned."""
    with world.store.write() as tx:
        pairs.lock(tx, [pair.id])
        problems = tuple(dict.fromkeys((*found, *objecting.speaking_against(tx, pair, state))))
        now = pairs.states(tx, [pair.id]).get(pair.id)
        if now is None or (now.standby, now.epoch) != (state.standby, state.epoch):
            return problems  # it was drilled for a pair that is another by now
        if not found:
            # What is only recorded against it says nothing of the key: without that it counts again.
            certificates.proved(tx, standby.spki)
        # A distrust is asked of the CA at every look, and goes without anybody passing here again.
        good = not set(problems) - {DISTRUSTED}
        until = due.usable_until(standby.not_before, standby.not_after, tx.now) if good else None
        pairs.set_backup_ok(tx, now, until)
        kind = EventKind.PROOF_FAILED if problems else EventKind.DRILLED
        cause = "; ".join(problems) or "the backup was opened, checked and shown in a handshake"
        events.record(tx, kind, cause, pair=pair.id, ca=standby.ca, certificate=standby.id)
    return problems
