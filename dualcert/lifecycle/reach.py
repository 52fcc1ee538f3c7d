"""What a leak concerns, as it stands now, and what is left to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dualcert.errors import UsageProblem
from dualcert.lifecycle.incidents import refills
from dualcert.lifecycle.leaked import Leak
from dualcert.lifecycle.world import World
from dualcert.model.work import HELD, WorkKind
from dualcert.store import Transaction, compromise, pairs, work
from dualcert.store.compromise import Attempt, Held

_BATCH = 500
_FILLING = (WorkKind.REFILL, WorkKind.ORDER, WorkKind.PUBLICATION)


@dataclass(frozen=True)
class Extent:
    """What a leak concerns: certificates by their numbers, orders under way, and the CAs whose account's key it was.

    ``before``: of a domain, until when its keys were made. ``known``: whether there ever was anything.
    """

    certificates: tuple[int, ...]
    attempts: tuple[Attempt, ...] = ()
    accounts: tuple[str, ...] = ()
    before: datetime | None = None
    known: bool = True


def extent(world: World, leak: Leak) -> Extent:
    """What the leak concerns; nothing is changed. Raises ``UsageProblem`` where the domain is not configured."""
    if leak.domain is not None and leak.domain not in world.protectors:
        raise UsageProblem(
            f"there is no isolation domain {leak.domain!r}",
            remedy=f"There is: {', '.join(sorted(world.protectors))}.",
        )
    with world.store.read() as tx:
        if leak.key is not None:
            found = Extent(
                tuple(compromise.of_key(tx, leak.key)),
                tuple(compromise.attempts_with(tx, leak.key)),
                tuple(compromise.accounts_with(tx, leak.key)),
            )
            known = found.certificates or found.accounts or compromise.blocked(tx, [leak.key])
            return found if known or compromise.made_at(tx, leak.key) else Extent((), known=False)
        if leak.target is not None:
            return Extent(tuple(compromise.at_target(tx, leak.target, leak.since, leak.before)))
        told = None if leak.again else compromise.last_told(tx, leak.described)
        before = told.at if told else tx.now
        return _in_domain(tx, leak.domain or "", before)


def _in_domain(tx: Transaction, domain: str, before: datetime) -> Extent:
    return Extent(
        tuple(compromise.in_domain(tx, domain, before)),
        tuple(compromise.attempts_in(tx, domain, before)),
        tuple(compromise.accounts_in(tx, domain)),
        before,
    )


def batches(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def held(world: World, ids: Sequence[int]) -> Iterator[Held]:
    """The certificates of an extent as they stand now, some hundred read at once."""
    for some in batches(ids):
        with world.store.read() as tx:
            found = compromise.held(tx, some)
        yield from found


def unfinished(world: World, reach: Extent) -> Iterator[str]:
    """What is left to do about an extent, a text each."""
    concerned: dict[int, str] = {}
    for one in held(world, reach.certificates):
        concerned[one.certificate.pair_id] = one.pair
        subject = one.certificate
        about = f"{one.pair}, CA {subject.ca}, serial {subject.serial.hex()}"
        if one.role == "primary":
            yield f"{about}: it serves until another one is there"
        elif not one.revoked:
            with world.store.read() as tx:
                row = work.get(tx, WorkKind.REVOCATION, subject.pair_id, ca=subject.ca)
            yield f"{about}: it is not revoked: {(row.reason if row else None) or 'under way'}"
    yield from _unprotected(world, concerned)


def _unprotected(world: World, concerned: dict[int, str]) -> Iterator[str]:
    """Pairs of these that have no backup which may take over; why it is not there yet."""
    for some in batches(list(concerned)):
        with world.store.read() as tx:
            steps = work.of_pairs(tx, some, _FILLING)
            states = pairs.states(tx, some)
            why = {row.pair_id: row.reason for row in steps if row.reason}
            # Nothing lets it go but what is said of its CA: to say the same again would be in vain.
            waiting = {row.pair_id: row.ca for row in steps if row.waiting_for == HELD}
            told = {ca: refills.held_at(tx, ca) for ca in set(waiting.values())}
            why |= {number: told[ca] for number, ca in waiting.items()}
        for number, state in states.items():
            if state.backup_ok_until is None:
                yield f"{concerned[number]}: its backup is not there yet: {why.get(number, 'it is under way')}"
