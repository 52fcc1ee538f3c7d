"""What watching finds while others find something too, and what a place says before it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from dualcert.lifecycle.watching import asking, places, suspicion, turning
from dualcert.lifecycle.watching.turning import Decided
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.signal import Suspect
from dualcert.model.work import WorkKind
from dualcert.store import Store, certificates, chains, events, signals
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.revocations import Publisher, crl, ocsp_answer
from tests.store.building import BACKUP, PRIMARY, a_full_pair, a_pair
from tests.store.racing import Act, Arena
from tests.store.renewing import step
from tests.store.test_watching import leaf_of, turning_pairs
from tests.store.watched import a_watching_world, issue
from tests.store.worlds import Setting
from tests.tinyca import TinyCa


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_watching_world(store, clock)


@pytest.fixture
def arena(server: Postgres, on_postgres: str, clock: FakeClock, tmp_path: Path) -> Iterator[Arena]:
    made = Arena(server, on_postgres, clock, Setting(), tmp_path)
    yield made
    made.close()


# --- two processes that decide at the same moment --------------------------------------------------------


def finds(world: World, served: Sequence[Certificate]) -> Act:
    """What a process decides that has heard of some that serve."""
    suspects = [
        Suspect(one.id, one.pair_id, one.ca, one.spki, "superseded", "it is listed") for one in served
    ]
    turnings = suspicion.revoked(world, suspects, "a list")
    return lambda mine: turning.decide(mine, turnings)


def test_two_processes_that_decide_at_the_same_moment_are_counted_together(arena: Arena) -> None:
    """Either alone is below what the brake lets pass."""
    with arena.second.store.write() as tx:
        served = [a_full_pair(tx)[1] for _ in range(30)]
    one, other = finds(arena.second, served[:6]), finds(arena.second, served[6:12])

    first, second = arena.race(one, other)

    assert arena.was_blocked
    assert isinstance(first, Decided), first
    assert isinstance(second, Decided), second
    assert (len(first.turning), first.held) == (6, 0)
    assert (len(second.turning), second.held) == (0, 6)
    assert turning_pairs(arena.second) == 6


# --- a responder that says something, and then nothing more ----------------------------------------------


def test_what_a_responder_says_before_it_fails_counts(
    world: World, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    place = publisher.put("/ocsp", b"")
    with world.store.write() as tx:
        made = [issue(tx, world, tiny, a_pair(tx), ocsp=[place]) for _ in range(4)]
    leaves = {one.serial_number: one for one in (leaf_of(world, each) for each in made)}
    said = list[int]()

    def answer(request: bytes) -> bytes:
        """Revoked, to the first question; to all others what is no answer."""
        said.append(ocsp.load_der_ocsp_request(request).serial_number)
        if len(said) > 1:
            return b"no answer"
        revoked, now = ocsp.OCSPCertStatus.REVOKED, world.clock.now()
        return ocsp_answer(request, tiny.intermediate, leaves[said[0]], revoked, now=now)

    publisher.put("/ocsp", answer)

    done = asking.ask_due(world)

    told = next(one for one in made if leaf_of(world, one).serial_number == said[0])
    assert (done.failed, done.revoked, len(said)) == (1, 1, 4)
    assert done.decided.turning == (told.pair_id,)
    clock.advance(600)
    assert asking.ask_due(world).failed == 1
    assert said.count(said[0]) == 1, "its answer was settled like any"


# --- certificates of CAs ---------------------------------------------------------------------------------


def pem(*made: x509.Certificate) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in made)


class _WithRoot(TinyCa):
    """It sends its root, too: so it is known who signs the list of CAs."""

    @classmethod
    def below(cls, place: str) -> _WithRoot:
        made = TinyCa.make("one", [place])
        return cls(made.root, made.intermediate)

    @property
    def chain(self) -> str:
        return pem(self.intermediate.certificate, self.root.certificate)


def serial_of(tiny: TinyCa) -> bytes:
    serial = tiny.intermediate.certificate.serial_number
    return serial.to_bytes((serial.bit_length() + 7) // 8, "big")


def under_a_revoked_ca(world: World, publisher: Publisher, reason: int) -> tuple[Certificate, Certificate]:
    """A pair of which what serves is under an intermediate that is revoked; nobody was asked yet."""
    place = publisher.put("/root.crl", b"")
    tiny, own = _WithRoot.below(place), publisher.put("/1", b"")
    publisher.put("/1", crl(tiny.intermediate, now=world.clock.now()))
    with world.store.write() as tx:
        pair = a_pair(tx)
        serving = issue(tx, world, tiny, pair, PRIMARY, crl=[own])
        standby = issue(tx, world, TinyCa.make("two"), pair, BACKUP)
    publisher.put("/root.crl", crl(tiny.root, {serial_of(tiny): reason}, now=world.clock.now()))
    return serving, standby


def test_where_a_cas_key_has_leaked_no_key_of_ours_has(world: World, publisher: Publisher) -> None:
    serving, _ = under_a_revoked_ca(world, publisher, 1)

    done = asking.ask_due(world, all_of_them=True)

    assert done.decided.turning == (serving.pair_id,)
    with world.store.read() as tx:
        assert signals.against(tx, serving.id)[0]["reason"] == "cACompromise"
        standing = certificates.standing(tx, serving.id)
        kinds = [one.kind for one in events.page(tx, pairs=[serving.pair_id])]
    assert standing is not None
    assert not standing.blocked
    assert "key-blocked" not in kinds


@pytest.mark.parametrize("elsewhere", [True, False], ids=["another root", "the same CA's"])
def test_what_another_chain_leads_to_a_root_is_warned_of_and_serves(
    world: World, publisher: Publisher, elsewhere: bool
) -> None:
    serving, standby = under_a_revoked_ca(world, publisher, 4)
    with world.store.write() as tx:
        of_it = certificates.chain_of(tx, serving)
        [one, _] = places.parsed(of_it)
        other = TinyCa.make("elsewhere").chain if elsewhere else pem(one)
        chains.keep(tx, serving.id, [of_it, other])

    done = asking.ask_due(world, all_of_them=True)
    step(world, WorkKind.SIGNAL)

    with world.store.read() as tx:
        [pair_id] = {serving.pair_id, standby.pair_id}
        kinds = [row["kind"] for row in signals.against(tx, serving.id)]
    assert kinds == (["warning"] if elsewhere else ["revoked"])
    assert done.decided.turning == (() if elsewhere else (pair_id,))
