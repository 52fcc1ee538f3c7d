"""A pair changes one of its CAs: the lineage is retired, and one of the new CA takes its place.

The certificate that the role has stays in it until the new lineage's is stored, so what serves never lacks one, and a
backup is given up for no worse one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from dualcert.errors import CaError, ConfigurationError, Refused, StoreError, UsageProblem
from dualcert.lifecycle import renewal, validation
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.order import OrderStep
from dualcert.model.pair import Lineage, Pair
from dualcert.policy import pairing
from dualcert.policy.pairing import CaIdentity
from dualcert.store import Transaction, certificates, events, moving, orders, pairs, standings
from dualcert.store import accounts as stored_accounts

_BATCH = 200
_RACES = 100


@dataclass(frozen=True)
class Move:
    """From which CA to which; ``cause`` goes into the events."""

    old: str
    new: str
    cause: str


@dataclass(frozen=True)
class Moved:
    """What came of one pair; ``problem`` says why it stays with its CA."""

    pair_id: int
    name: str
    problem: str | None


def check(world: World, move: Move) -> None:
    """Raises ``UsageProblem`` where it can be nobody's move, ``Refused`` where the new CA gets no orders."""
    if move.new not in world.cas:
        raise UsageProblem(
            f"no CA is called {move.new}", remedy=f"There is: {', '.join(sorted(world.cas)) or 'none'}."
        )
    if move.old == move.new:
        raise UsageProblem("old and new CA are the same", remedy="Write it like --ca alpha=gamma.")
    with world.store.read() as tx:
        _demand_open(tx, move.new)


def _demand_open(tx: Transaction, ca: str) -> None:
    standing = standings.get(tx, ca)
    if standing.closed is not None:
        remedy = f"Move to another CA, or: dualcert {standing.reopening}"
        raise Refused(standing.closed, remedy=remedy, ca=ca)


def demand_known(world: World, ca: str) -> None:
    """Raises ``UsageProblem`` where no such CA is configured, and no pair has ever had it."""
    if ca in world.cas:
        return
    with world.store.read() as tx:
        known = moving.ever_had(tx, ca)
    if not known:
        raise UsageProblem(
            f"no CA is called {ca}, and no pair has ever had it",
            remedy=f"There is: {', '.join(sorted(world.cas)) or 'none'}.",
        )


Said = Mapping[str, frozenset[str]]
"""The caaIdentities that CAs claim in their directories, by the CAs' names; without those that do not answer."""


def ask(world: World, cas: Iterable[str]) -> Said:
    """What CAs say of themselves now: of one that never had an order, nothing is stored by which to tell who it is."""
    said = {}
    for name in cas:
        with suppress(CaError, ConfigurationError):
            said[name] = frozenset(world.ca(name).authority().facts().caa_identities)
    return said


def everyone(world: World, ca: str) -> Iterator[int]:
    """The pairs that have an open lineage of a CA."""
    after = 0
    while True:
        with world.store.read() as tx:
            found = moving.with_ca(tx, ca, after, _BATCH)
        yield from (pair_id for _, pair_id in found)
        if len(found) < _BATCH:
            return
        after = found[-1][0]


def move(world: World, pair_id: int, wanted: Move, said: Said) -> Moved | None:
    """Move one pair; its order is due from here on. None where nothing of it is at the old CA any more.

    ``said``: as ``ask`` has it of the new CA.
    """
    with world.store.read() as tx:
        pair = pairs.by_id(tx, pair_id)
    if pair is None:
        return None
    for _ in range(_RACES):
        try:
            with world.store.write() as tx:
                return _moved(world, tx, pair.id, wanted, said)
        except Refused as refused:
            return Moved(pair.id, pair.name, refused.reason)
        except _Changed:
            continue
    return Moved(pair.id, pair.name, "it kept changing while it was to be moved")


class _Changed(StoreError):
    """The pair is not as it was read: nothing of the unit of work is kept."""


def _moved(world: World, tx: Transaction, pair_id: int, wanted: Move, said: Said) -> Moved | None:
    pairs.lock(tx, [pair_id])
    pair = pairs.by_id(tx, pair_id)
    if pair is None:
        return None
    open_ones = pairs.lineages(tx, [pair_id])
    old = next((one for one in open_ones if one.ca == wanted.old), None)
    if old is None:
        return None
    other = next(one for one in open_ones if one.id != old.id)
    _demand_open(tx, wanted.new)  # again: it may have been closed while many pairs move
    _demand_apart(world, tx, wanted.new, other, said)
    _give_up_order(tx, pair, wanted)
    state = pairs.state(tx, pair_id)
    number = moving.replace_lineage(tx, state, old, wanted.new, world.ca(wanted.new).domain)
    if number is None:
        raise _Changed("the pair has changed")
    moving.end_steps(tx, pair_id, wanted.old)
    events.record(tx, EventKind.MOVED, f"from {wanted.old} to {wanted.new}: {wanted.cause}", pair=pair_id)
    fresh = [one for one in pairs.lineages(tx, [pair_id]) if one.id == number]
    renewal.open_orders(tx, pair, fresh, f"the pair moves from {wanted.old} to {wanted.new}")
    return Moved(pair_id, pair.name, None)


def _demand_apart(world: World, tx: Transaction, new: str, other: Lineage, said: Said) -> None:
    """Raises ``Refused`` where the new CA falls together with the pair's other one."""
    if other.ca == new:
        raise Refused(f"{new} stands on its other side already")
    if other.ca not in world.cas:
        raise Refused(
            f"[ca.{other.ca}] is not configured any more: nobody can tell whether {new} is apart from it"
        )
    found = pairing.ca_objections(_identity(world, tx, new, said), _identity(world, tx, other.ca, said))
    if found:
        raise Refused("; ".join(found))


def _identity(world: World, tx: Transaction, name: str, said: Said) -> CaIdentity:
    """As the CA says itself, or, where it was not asked or does not answer, as it said when its account was made."""
    ca, account = world.ca(name), stored_accounts.get(tx, name)
    known = said.get(name, account.caa_identities if account is not None else frozenset())
    domain = account.key.domain if account is not None else ca.domain
    return CaIdentity(ca.name, ca.directory, ca.operator, known, domain)


def _give_up_order(tx: Transaction, pair: Pair, wanted: Move) -> None:
    order = orders.open_order(tx, pair.id, wanted.old)
    if order is None:
        return
    if order.step is OrderStep.FINALIZING:
        raise Refused(
            f"{wanted.old} is issuing a certificate for it at this moment: say it again when it is there"
        )
    orders.set_step(tx, order.id, OrderStep.ABANDONED, f"the pair moves to {wanted.new}")
    validation.spend(tx, order)
    events.record(tx, EventKind.ABANDONED, f"the pair moves to {wanted.new}", pair=pair.id, ca=wanted.old)


def demand_there(world: World, pair: Pair, wanted: Move) -> None:
    """Raises ``UsageProblem`` unless the pair has the new CA already, by an earlier move."""
    with world.store.read() as tx:
        cas = [one.ca for one in pairs.lineages(tx, [pair.id])]
    if wanted.new not in cas:
        raise UsageProblem(
            f"CA {wanted.old} does not stand behind this pair",
            remedy=f"Its CAs are {' and '.join(cas)}.",
            name=pair.name,
        )


def has_arrived(world: World, pair_id: int, ca: str) -> bool:
    """Whether a CA that the pair has moved to has a certificate of its own there; until then there is the old one's."""
    with world.store.read() as tx:
        state = pairs.state(tx, pair_id)
        mine = next((one for one in pairs.lineages(tx, [pair_id]) if one.ca == ca), None)
        held = None if mine is None else state.certificate_of(mine.id)
        return held is not None and certificates.get(tx, held).ca == ca
