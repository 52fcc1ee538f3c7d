"""Pairs whose certificates have a life, and a CA that says what a test wants it to say of renewals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dualcert.clock import Clock, to_microseconds
from dualcert.errors import CaError
from dualcert.lifecycle import renewal
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.pair import Pair
from dualcert.model.work import NO_PAIR, Outcome, WorkKind, WorkRow
from dualcert.policy import due
from dualcert.policy.due import Life
from dualcert.ports.ca import CertificateAuthority, RenewalInformation
from dualcert.store import Store, Transaction, events, pairs, renewal_info, work
from dualcert.store import tables as t
from dualcert.store.renewals import Renewable
from dualcert.store.renewals import of_pairs as renewables
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_pair, give_role
from tests.store.worlds import Setting, a_world

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
LIFE = 90 * DAY

Says = RenewalInformation | CaError | None


def window(start: datetime, end: datetime, retry_after: timedelta | None = None) -> RenewalInformation:
    return RenewalInformation(start, end, None, retry_after)


class Oracle:
    """Stands in for a CA of which nothing but renewal information is wanted; ``asked`` lists the identifiers."""

    def __init__(self, says: Says | Callable[[str], Says]) -> None:
        self.says = says
        self.asked: list[str] = []

    def renewal_info(self, ari_id: str) -> RenewalInformation | None:
        self.asked.append(ari_id)
        said = self.says(ari_id) if callable(self.says) else self.says
        if isinstance(said, CaError):
            raise said
        return said


@dataclass
class Oracles:
    """Who answers for which CA: what a world ``meets``."""

    known: dict[str, Oracle] = field(default_factory=dict)

    def __call__(self, ca: str) -> CertificateAuthority:
        return self.known[ca]  # type: ignore[return-value]


def asking_world(store: Store, clock: Clock, oracle: Oracle) -> World:
    """The primary's CA is the oracle; the backup's has nothing to say."""
    return a_world(store, clock, Setting(meet=Oracles({PRIMARY: oracle, BACKUP: Oracle(None)})))


def gets(
    tx: Transaction,
    pair: Pair,
    ca: str,
    *,
    age: timedelta = timedelta(0),
    life: timedelta = LIFE,
    check_in: timedelta = timedelta(0),
    ok_until: datetime | None = None,
) -> Certificate:
    """A certificate of this age and life takes its lineage's role, as when it is stored; its CA is asked in a while."""
    born = tx.now - age
    held = a_certificate(tx, pair, ca, not_before=born, not_after=born + life)
    then = to_microseconds(born)
    tx.execute(t.certificate.update().where(t.certificate.c.id == held.id).values(stored_at=then))
    give_role(tx, pair, held, ok_until)
    life_at = due.by_life(Life(born, born + life, born), 0.0)
    renewal_info.remember(
        tx,
        certificate_id=held.id,
        pair_id=pair.id,
        ca=ca,
        ari_id=f"{ca}.{held.id}",
        life_at=life_at,
        check_at=tx.now + check_in,
    )
    pairs.set_renew_at(tx, held.lineage_id, life_at)
    return held


def a_held(world: World, **how: Any) -> tuple[Pair, Certificate]:
    """A pair with a certificate of the primary's CA, which is to be asked about it."""
    with world.store.write() as tx:
        pair = a_pair(tx)
        held = gets(tx, pair, PRIMARY, **how)
        gets(tx, pair, BACKUP, check_in=100 * DAY)
        renewal.reckon(tx, pair.id)
    return pair, held


def ask(world: World) -> None:
    """Ask the CAs about what is due, once."""
    renewal.open_due(world)
    step(world, WorkKind.RENEWAL_INFORMATION)


def ordering(world: World, pair: Pair) -> set[str]:
    """The CAs at which an order of the pair is under way."""
    with world.store.read() as tx:
        return {row.ca for row in work.of_pairs(tx, [pair.id], [WorkKind.ORDER])}


def lineage(world: World, pair: Pair, ca: str) -> Renewable:
    with world.store.read() as tx:
        return next(one for one in renewables(tx, [pair.id])[pair.id] if one.ca == ca)


def clock_of(world: World, pair: Pair) -> datetime | None:
    with world.store.read() as tx:
        return pairs.state(tx, pair.id).next_action_at


def causes(world: World, pair: Pair, kind: str) -> list[str]:
    with world.store.read() as tx:
        return [one.cause for one in events.page(tx, pairs=[pair.id]) if one.kind == kind]


def asking(world: World, ca: str) -> WorkRow | None:
    """The row that stands for a CA which is to be asked."""
    with world.store.read() as tx:
        return work.get(tx, WorkKind.RENEWAL_INFORMATION, NO_PAIR, ca=ca)


def info(world: World, held: Certificate) -> dict[str, object] | None:
    """What is remembered of renewing a certificate; times in microseconds."""
    with world.store.read() as tx:
        query = t.renewal_info.select().where(t.renewal_info.c.certificate_id == held.id)
        row = tx.execute(query).mappings().first()
        return dict(row) if row else None


def step(world: World, kind: WorkKind, limit: int = 64) -> list[Outcome]:
    """Take every due row of a kind on by one step, and let go of it."""
    engine = Engine(world)
    taken = []
    for [row] in engine.claim([kind], limit):
        [outcome] = engine.advance([row])
        taken.append(outcome)
        held = engine.settle(row, outcome)
        if held is not None:
            engine.release([held])
    return taken
