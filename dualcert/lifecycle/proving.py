"""The keys of backups are opened again and again, so that a backup goes on counting until its certificate ends.

A mass failover opens no keys: it goes by the last time that one was opened. A walk goes over all pairs in a week,
evenly, and opens what was not opened for a week; where it has come to stands in the database, for all daemons alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dualcert.errors import ConfigurationError, DualcertError, KeyProblem
from dualcert.lifecycle import keymaking, renewal
from dualcert.lifecycle.world import World
from dualcert.model.certificate import WrappedKey
from dualcert.model.events import EventKind
from dualcert.model.pair import PairState
from dualcert.policy import due
from dualcert.store import Transaction, events, incident_plans, keys, moving, pairs, proofs
from dualcert.store.proofs import Unproved, Walk

log = logging.getLogger(__name__)

_WALK = timedelta(days=7)
"""What one walk takes. What it opens was opened two weeks ago at most, and counts for as long again."""

WALKED = 2 * _WALK
"""How long ago the keys of backups that it has come by were opened, at most."""

_AT_ONCE = 50
"""How many pairs are looked at before what was found is written down; others wait for none of it."""

_TURN = 20
_IDLE = 10.0
_PAUSE = 60.0
_OTHERS = 5


def prove(world: World) -> float:
    """As far as the walk is to have come by now, for the daemon; in how many seconds the next part."""
    turn, more = Turn(world), True
    for _ in range(_TURN):
        more = more and turn.step()
    turn.tell()
    if turn.closed:
        return _PAUSE
    return 0.0 if more else _IDLE


def prove_until(world: World, until: datetime) -> None:
    """The same for a command, as far as time allows."""
    turn = Turn(world)
    while turn.step() and world.clock.now() < until:
        pass
    turn.tell()


def prove_named(world: World, incident_id: int, until: datetime) -> bool:
    """Open the keys of backups that a closed incident named, until an instant; whether that was enough. The walk has
    not opened what served, or was not trusted, and would take a week to come to it: so long such a pair may count as
    unprotected."""
    turn, after = Turn(world), 0
    while True:
        with world.store.glance() as tx:
            up_to = incident_plans.members_up_to(tx, incident_id, after)
        if up_to is None:
            break
        with world.store.read() as tx:
            found = proofs.unproved_named(tx, incident_id, after, up_to, world.clock.now() - WALKED)
        if not turn.prove_all(found, until):
            break
        after = up_to
    turn.tell()
    return up_to is None


def given_up(tx: Transaction, seen: PairState, ca: str, cause: str, *, refill: bool) -> None:
    """The key of a pair's backup does not open: it counts no more, and gets a successor where that helps (``refill``).

    Nothing happens where the pair is not as ``seen`` any more.
    """
    if not pairs.set_backup_ok(tx, seen, None):
        return
    if seen.backup_ok_until is not None:
        events.record(tx, EventKind.PROOF_FAILED, cause, pair=seen.pair_id, ca=ca, certificate=seen.standby)
    if refill:
        renewal.refill_soon(tx, seen.pair_id, ca, "the backup's private key cannot be opened")


def told(error: DualcertError) -> str:
    """How it is told everywhere that a backup's key does not open."""
    return f"the backup's private key cannot be opened: {error.reason}"


@dataclass
class Turn:
    """A part of the walk, or of what it would come to too late.

    ``opens``: the KEKs that were seen to open a key, by domain and id. ``closed``: the domains of which nothing opens,
    each with why.
    """

    world: World
    opens: set[tuple[str, str]] = field(default_factory=set)
    closed: dict[str, str] = field(default_factory=dict)

    def step(self) -> bool:
        """One unit of work; whether more is due."""
        now = self.world.clock.now()
        with self.world.store.read() as tx:
            walk, last = proofs.where(tx), moving.last_number(tx)
        began = _begins(walk, last, now)
        if began is not None:
            with self.world.store.write() as tx:
                proofs.begin(tx, walk, began)
            return last > 0
        wanted = int(last * min(1.0, (now - walk.began) / _WALK))
        if wanted <= walk.up_to:
            return False
        up_to = self._walk_on(walk, wanted, now)
        return up_to < wanted

    def _walk_on(self, walk: Walk, wanted: int, now: datetime) -> int:
        with self.world.store.read() as tx:
            up_to = proofs.bound(tx, walk.up_to, wanted, _AT_ONCE)
            found = proofs.unproved(tx, walk.up_to, up_to, now - _WALK)
        # Whoever was here first has written the same.
        self._prove(found, now, lambda tx: proofs.go_on(tx, walk, up_to))
        return up_to

    def prove_all(self, found: Sequence[Unproved], until: datetime | None = None) -> bool:
        """Open the keys of these backups, a few in each unit of work; False where the time was over before the end."""
        for begin in range(0, len(found), _AT_ONCE):
            now = self.world.clock.now()
            if until is not None and now >= until:
                return False
            self._prove(found[begin : begin + _AT_ONCE], now)
        return True

    def _prove(
        self,
        found: Sequence[Unproved],
        now: datetime,
        wanted: Callable[[Transaction], bool] = lambda _: True,
    ) -> None:
        """Open their keys, then write down what came of it, in one unit of work, where that is ``wanted`` still."""
        # To open one that ends in a moment would change nothing.
        found = [one for one in found if due.usable_until(one.not_before, one.not_after, now) > now]
        failed: dict[int, KeyProblem] = {}
        opened = [one for one in found if self._opens(one, failed)]
        with self.world.store.write() as tx:
            pairs.lock(tx, [one.pair_id for one in found])
            if wanted(tx):
                if opened:
                    proofs.proved(tx, opened)
                _write_failed(tx, [one for one in found if one.certificate in failed], failed)

    def tell(self) -> None:
        for domain, why in self.closed.items():
            log.warning(
                "no private key of domain %s opens, and no backup under it is proved: %s", domain, why
            )

    def _opens(self, one: Unproved, failed: dict[int, KeyProblem]) -> bool:
        """Whether a backup's key opens. Where it alone does not, why is noted in ``failed``."""
        key = one.key
        if key.domain in self.closed:
            return False
        try:
            keymaking.unwrap(self.world, key)
        except ConfigurationError as error:
            self.closed[key.domain] = error.reason
        except KeyProblem as error:
            if self._others_open(key):
                failed[one.certificate] = error
            else:
                self.closed[key.domain] = error.reason
        else:
            self.opens.add((key.domain, key.key_id))
            return True
        return False

    def _others_open(self, key: WrappedKey) -> bool:
        """Whether the KEK is the right one, which it is where it opens others; or nobody can tell, for want of any.

        A KEK that is lost, or another one in its place, is no reason to order anew what it has wrapped: it may come
        back, and until then nothing could be wrapped either.
        """
        kek = (key.domain, key.key_id)
        if kek in self.opens:
            return True
        with self.world.store.read() as tx:
            others = [(one, "certificate") for one in keys.under(tx, *kek, _OTHERS) if one.spki != key.spki]
            others += [(one.key, "account") for one in keys.accounts_under(tx, *kek)]
        if not others or any(self._opens_other(*one) for one in others):
            self.opens.add(kek)
            return True
        return False

    def _opens_other(self, key: WrappedKey, purpose: str) -> bool:
        try:
            keymaking.opened(self.world, key, purpose)
        except (KeyProblem, ConfigurationError):
            return False
        return True


def _begins(walk: Walk, last: int, now: datetime) -> datetime | None:
    """As of when the next walk begins, where this one is over; None where it goes on."""
    if walk == proofs.NEVER:
        return now - _WALK  # nobody knows what was opened before: all of it is due
    if walk.began > now:
        return now  # the clock was wrong, and is no more
    if walk.up_to < last or now - walk.began < _WALK:
        return None
    return max(walk.began + _WALK, now - _WALK)


def _write_failed(tx: Transaction, found: Sequence[Unproved], failed: Mapping[int, KeyProblem]) -> None:
    states = pairs.states(tx, [one.pair_id for one in found]) if found else {}
    for one in found:
        state = states.get(one.pair_id)
        if state is not None and state.standby == one.certificate:
            given_up(tx, state, one.ca, told(failed[one.certificate]), refill=True)
