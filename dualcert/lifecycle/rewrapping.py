"""A domain's keys under a new KEK, while the old one still opens: nothing stops, and it may be cut off anywhere.

The new KEK wraps from the first moment on; then every key is opened and wrapped anew, a batch in one unit of work;
at last the old KEK is given up, at a moment when no row names it and nobody is wrapping under it. What is left is
found again by what the rows and the protector say, so whoever comes next goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from dualcert.errors import ConfigurationError, KeyProblem, LeaseLost, Refused, UsageProblem
from dualcert.lifecycle import keymaking
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.world import World
from dualcert.model.certificate import WrappedKey
from dualcert.model.events import EventKind
from dualcert.ports.keys import RotatingKeyProtector, rotation_of
from dualcert.store import Transaction, events, keys, leases, signed_heads
from dualcert.store.keys import AccountKey
from dualcert.store.signed_heads import SIGNING

_BATCH = 1000
_HOPELESS = 1000
"""Of one KEK. So many keys that do not open are not mended by looking at more of them."""

_PATIENCE = timedelta(seconds=10)
"""How long somebody may be between wrapping a key and storing it until we stop waiting for him."""

_LOOK = 0.05

Progress = Callable[[int, int], None]
"""Told how many keys are done, of how many."""


@dataclass(frozen=True)
class Wish:
    """``new``: a new KEK even if the last rotation is not finished; ``finish``: none in any case.

    Where several machines have copies: ``prepare`` makes the KEK that is to come, and nothing else; ``keep_old``
    leaves every older one.
    """

    new: bool = False
    finish: bool = False
    prepare: bool = False
    keep_old: bool = False


@dataclass(frozen=True)
class Problem:
    """A key that could not be wrapped anew. ``key`` is the hex hash of its public key."""

    pair: str | None
    ca: str | None
    key: str
    reason: str


@dataclass(frozen=True)
class Kept:
    """An older KEK that stays, and why."""

    kek: str
    reason: str


@dataclass(frozen=True)
class Rotation:
    """What a rotation has come to. ``made``: this call has made the KEK that wraps now; otherwise it went on.

    ``failed`` counts the keys that still lie under another KEK; ``problems`` names those that were tried. ``prepared``
    is the KEK that is to come, where one was made ready.
    """

    domain: str
    kek: str
    made: bool
    rewrapped: int
    failed: int
    problems: tuple[Problem, ...]
    dropped: tuple[str, ...]
    kept: tuple[Kept, ...]
    prepared: str | None = None


def rotate(world: World, domain: str, wish: Wish, progress: Progress) -> Rotation:
    """Bring all keys of an isolation domain under a new KEK, or take up a rotation that is not finished.

    Raises ``UsageProblem`` where there is no such domain, ``ConfigurationError`` where its protector does not replace
    KEKs, ``Refused`` where another process is rotating, or keys lie under a KEK that is not here, ``LeaseLost`` where
    another has taken over.
    """
    if domain not in world.protectors:
        raise UsageProblem(
            f"there is no isolation domain {domain!r}",
            remedy=f"There is: {', '.join(sorted(world.protectors))}.",
        )
    protector = rotation_of(world.protector(domain))
    if protector is None:
        raise ConfigurationError(
            f"the protector of domain {domain!r} does not replace its KEK by itself",
            remedy="Replace it where it is kept.",
        )
    engine = Engine(world)
    lease = _lease(domain)
    if not _take(world, engine, lease):
        raise Refused(
            f"another process is rotating the keys of domain {domain!r}",
            remedy="Let it end; `dualcert events` shows how far it is.",
        )
    try:
        return _Rotating(world, domain, protector, engine.owner, progress).run(wish)
    finally:
        with world.store.write() as tx:
            leases.drop(tx, lease, engine.owner)


def _listed(keks: Sequence[str]) -> str:
    return f"KEK {', '.join(keks)}"


def _lease(domain: str) -> str:
    return f"keys:{domain}"


def _take(world: World, engine: Engine, lease: str) -> bool:
    engine.take_from_the_dead()
    with world.store.write() as tx:
        return leases.take(tx, lease, engine.owner)


@dataclass
class _Rotating:
    """One rotation under way; whoever holds the domain's lease."""

    world: World
    domain: str
    protector: RotatingKeyProtector
    owner: str
    progress: Progress
    rewrapped: int = 0
    total: int = 0
    failed: dict[bytes, Problem] = field(default_factory=dict)

    def run(self, wish: Wish) -> Rotation:
        if wish.prepare:
            coming, now = self.protector.prepare_kek(), self.protector.key_id
            return Rotation(self.domain, now, False, 0, 0, (), (), self._all_kept(), coming)
        made = self._begin(wish)
        self._rewrap_all()
        dropped, kept = ((), self._all_kept()) if wish.keep_old else self._drop_old()
        keys.empty_log(self.world.store)
        return Rotation(
            domain=self.domain,
            kek=self.protector.key_id,
            made=made,
            rewrapped=self.rewrapped,
            failed=self._left(),
            problems=tuple(self.failed.values()),
            dropped=dropped,
            kept=kept,
        )

    def _begin(self, wish: Wish) -> bool:
        """Make a new KEK, unless a rotation was begun whose old one still stands."""
        if wish.finish or (self.protector.older_keks() and not wish.new):
            return False
        if not wish.new:
            self._demand_all_known()
        before = self.protector.key_id
        made = self.protector.new_kek()
        with self._unit() as tx:
            events.record(
                tx, EventKind.KEK_REPLACED, f"domain {self.domain}: KEK {made} in the place of {before}"
            )
        return True

    def _demand_all_known(self) -> None:
        """Another machine may have a KEK that has not come here: one made here would be a third."""
        known = {self.protector.key_id, self.protector.next_kek()}
        with self.world.store.read() as tx:
            unknown = [kek for kek in keys.keks(tx, self.domain) if kek not in known]
        if unknown:
            raise Refused(
                f"keys of domain {self.domain!r} lie under {_listed(unknown)}, which is not here; no new KEK was made",
                remedy="Bring it from the machine that has it, or from a backup. If it is lost: --new.",
            )

    # --- wrapping anew -----------------------------------------------------------------------------------

    def _rewrap_all(self) -> None:
        now = self.protector.key_id
        with self.world.store.read() as tx:
            others = [kek for kek in keys.keks(tx, self.domain) if kek != now]
            self.total = self.rewrapped + sum(keys.count(tx, self.domain, kek) for kek in others)
        for kek in others:
            self._accounts(kek)
            self._certificates(kek)

    def _certificates(self, kek: str) -> None:
        tried: set[bytes] = set()
        while len(tried) <= _HOPELESS:
            with self.world.store.read() as tx:
                # What does not open stays where it is, and is met again.
                batch = keys.under(tx, self.domain, kek, _BATCH + len(tried))
                signing = signed_heads.keys_in(tx, self.domain)
            fresh = [one for one in batch if one.spki not in tried]
            if not fresh:
                return
            pairs = []
            for key in fresh:
                new = self._rewrapped(key, SIGNING if key.spki in signing else "certificate")
                if new is None:
                    tried.add(key.spki)
                else:
                    pairs.append((key, new))
            self._store(kek, pairs)
            self.progress(self.rewrapped, self.total)

    def _store(self, kek: str, pairs: Sequence[tuple[WrappedKey, WrappedKey]]) -> None:
        with self._unit() as tx:
            # A key that was destroyed or replaced meanwhile is left as it is.
            count = keys.rewrap(tx, pairs)
            self._record(tx, count, "certificate keys", kek)
        self.rewrapped += count

    def _accounts(self, kek: str) -> None:
        with self.world.store.read() as tx:
            held = keys.accounts_under(tx, self.domain, kek)
        for one in held:
            fresh = self._rewrapped(one.key, "account", one)
            if fresh is not None:
                with self._unit() as tx:
                    count = int(keys.rewrap_account(tx, one, fresh))
                    self._record(tx, count, f"account key at {one.ca}", kek)
                self.rewrapped += count
                self.total += count

    def _rewrapped(self, key: WrappedKey, purpose: str, of: AccountKey | None = None) -> WrappedKey | None:
        try:
            fresh = keymaking.rewrap(self.world, key, purpose)
        except KeyProblem as error:
            self.failed[key.spki] = self._problem(key, of, error)
            return None
        self.failed.pop(key.spki, None)
        return fresh

    def _problem(self, key: WrappedKey, of: AccountKey | None, error: KeyProblem) -> Problem:
        if of is not None:
            return Problem(None, of.ca, key.spki.hex(), f"the key of the account: {error.reason}")
        with self.world.store.read() as tx:
            pair, ca = keys.whose(tx, [key.spki]).get(key.spki, (None, None))
        return Problem(pair, ca, key.spki.hex(), error.reason)

    def _record(self, tx: Transaction, count: int, what: str, kek: str) -> None:
        if count:
            cause = f"domain {self.domain}: {count} {what}, from KEK {kek} to {self.protector.key_id}"
            events.record(tx, EventKind.KEYS_REWRAPPED, cause)

    def _left(self) -> int:
        """How many keys lie under another KEK still."""
        now = self.protector.key_id
        with self.world.store.read() as tx:
            return sum(
                keys.count(tx, self.domain, kek) + len(keys.accounts_under(tx, self.domain, kek))
                for kek in keys.keks(tx, self.domain)
                if kek != now
            )

    # --- giving the old KEK up ---------------------------------------------------------------------------

    def _drop_old(self) -> tuple[tuple[str, ...], tuple[Kept, ...]]:
        dropped, kept = [], []
        for kek in self.protector.older_keks():
            reason = self._drop(kek)
            if reason is None:
                dropped.append(kek)
            else:
                kept.append(Kept(kek, reason))
        return tuple(dropped), tuple(kept)

    def _drop(self, kek: str) -> str | None:
        """Why the KEK stays; None where it is gone. Others may have wrapped under it until a moment ago."""
        clock = self.world.clock
        deadline = clock.monotonic() + _PATIENCE.total_seconds()
        while True:
            if self.protector.drop_kek(kek, lambda: self._unused(kek)):
                with self._unit() as tx:
                    events.record(tx, EventKind.KEK_DROPPED, f"domain {self.domain}: KEK {kek}")
                return None
            with self.world.store.read() as tx:
                named = keys.is_named(tx, self.domain, kek)
            if named and not self._rewrapped_more():
                return "keys that do not open lie under it"
            if clock.monotonic() >= deadline:
                return "a process that wrapped a key under it has not stored it yet"
            clock.sleep(_LOOK)

    def _unused(self, kek: str) -> bool:
        with self._unit() as tx:
            keys.wait_for_writers(tx)
            return not keys.is_named(tx, self.domain, kek)

    def _rewrapped_more(self) -> bool:
        before = self.rewrapped
        self._rewrap_all()
        return self.rewrapped > before

    @contextmanager
    def _unit(self) -> Iterator[Transaction]:
        """A unit of work that prolongs the lease. Raises ``LeaseLost`` where somebody else rotates by now."""
        with self.world.store.write() as tx:
            if not leases.take(tx, _lease(self.domain), self.owner):
                raise LeaseLost(
                    f"another process rotates the keys of domain {self.domain!r} by now",
                    remedy="What was done counts; the other one goes on with it.",
                )
            yield tx

    def _all_kept(self) -> tuple[Kept, ...]:
        return tuple(Kept(kek, "it was to be kept") for kek in self.protector.older_keks())
