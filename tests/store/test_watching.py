"""What watching writes down, when it turns pairs by itself, and when the brake holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from sqlalchemy import func, select

from dualcert.errors import EvidenceError
from dualcert.lifecycle import incidents
from dualcert.lifecycle.incidents import running
from dualcert.lifecycle.watching import asking, braked, places, telling, turning
from dualcert.lifecycle.watching.rounds import Round
from dualcert.lifecycle.world import Lazy, WatchRules, World
from dualcert.model.certificate import Certificate
from dualcert.model.pair import Pair
from dualcert.model.work import WorkKind
from dualcert.ports.evidence import Crl, Evidence, KnownCrl, OcspAnswer
from dualcert.store import (
    Store,
    certificates,
    counters,
    events,
    incident_runs,
    pairs,
    removal,
    revocations,
    signals,
    work,
)
from dualcert.store import tables as t
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import automatic_promotion, signal, watch_source, watched
from dualcert.testing.clock import FakeClock
from tests.revocations import Publisher, crl, ocsp_answer
from tests.store.building import BACKUP, PRIMARY, a_full_pair, a_pair
from tests.store.renewing import step
from tests.store.watched import a_watching_world, issue, many
from tests.tinyca import TinyCa

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_watching_world(store, clock)


def turning_pairs(world: World) -> int:
    with world.store.read() as tx:
        query = select(func.count()).where(t.work.c.kind == WorkKind.SIGNAL.value)
        return int(tx.execute(query).scalar_one())


def counted(world: World, table: object) -> int:
    with world.store.read() as tx:
        return int(tx.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def publish(
    publisher: Publisher, tiny: TinyCa, world: World, held: list[Certificate], number: int = 2
) -> Round:
    publisher.put(
        "/crl", crl(tiny.intermediate, [one.serial for one in held], now=world.clock.now(), number=number)
    )
    done = asking.ask_due(world, all_of_them=True)
    braked.run_in_waves(world)
    return done


# --- the brake -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there_are", "revoked", "held"),
    [(10, 8, False), (30, 10, False), (30, 11, True), (500, 25, False), (500, 26, True), (30, 30, True)],
)
def test_the_brake_holds_more_than_ten_and_a_twentieth(
    world: World, publisher: Publisher, tiny: TinyCa, there_are: int, revoked: int, held: bool
) -> None:
    place = publisher.put("/crl", b"")
    served = many(world.store, tiny, there_are, place)

    done = publish(publisher, tiny, world, served[:revoked])

    assert done.revoked == revoked
    assert (done.decided.held > 0) is held
    assert turning_pairs(world) == (0 if held else revoked)
    assert counted(world, automatic_promotion) == (0 if held else revoked)


def test_the_brake_holds_more_than_a_hundred_of_however_many(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    place = publisher.put("/crl", b"")
    served = many(world.store, tiny, 101, place)
    with world.store.write() as tx:
        counters.add(tx, counters.PAIRS, 1_000_000)

    assert publish(publisher, tiny, world, served[:100]).decided.held == 0
    done = publish(publisher, tiny, world, served, number=3)
    assert (done.decided.held, turning_pairs(world)) == (1, 100)


def test_what_the_brake_holds_is_an_incident_with_a_plan_and_its_command(
    world: World, publisher: Publisher, tiny: TinyCa, clock: FakeClock
) -> None:
    place = publisher.put("/crl", b"")
    served = many(world.store, tiny, 30, place)

    done = publish(publisher, tiny, world, served[:20])

    assert done.decided.incident is not None
    with world.store.read() as tx:
        opened = incidents.planning.existing(tx, done.decided.incident)
        planned = incidents.newest_plan(tx, opened)
        told = [one for one in events.page(tx) if one.kind == "braked"]
    assert planned is not None
    assert (opened.members, planned.counts.serving) == (20, 20)
    assert done.decided.command == f"dualcert incident run {opened.id} --plan {planned.hash}"
    assert [planned.hash in one.cause for one in told] == [True]
    # The same list again, and a longer one: nothing turns for an hour, and what is new joins the incident.
    assert publish(publisher, tiny, world, served[:20], number=3).decided.held == 0
    more = publish(publisher, tiny, world, served[:21], number=4)
    assert (more.decided.incident, more.decided.held, turning_pairs(world)) == (opened.id, 1, 0)
    with world.store.read() as tx:
        assert incidents.planning.existing(tx, opened.id).members == 21
    clock.advance(HOUR + MINUTE)
    assert publish(publisher, tiny, world, served[:22], number=5).decided.turning == (served[21].pair_id,)


def test_promotions_of_the_last_hour_count_towards_the_brake(
    world: World, publisher: Publisher, tiny: TinyCa, clock: FakeClock
) -> None:
    place = publisher.put("/crl", b"")
    served = many(world.store, tiny, 40, place)

    assert len(publish(publisher, tiny, world, served[:10]).decided.turning) == 10
    clock.advance(HOUR / 2)
    assert publish(publisher, tiny, world, served[:11], number=3).decided.held == 1
    clock.advance(2 * HOUR)
    assert len(publish(publisher, tiny, world, served[:14], number=4).decided.turning) == 3


def test_two_lists_that_are_read_together_are_decided_together(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    other = TinyCa.make("other")
    now = world.clock.now()
    for one, path in ((tiny, "/1"), (other, "/2")):
        place = publisher.put(path, b"")
        served = many(world.store, one, 8, place)
        publisher.put(path, crl(one.intermediate, [held.serial for held in served], now=now))

    done = asking.ask_due(world, all_of_them=True)

    assert (done.asked, done.revoked, done.decided.held, turning_pairs(world)) == (2, 16, 16, 0)


def test_a_round_that_dies_before_its_decision_tells_everything_again(
    world: World, publisher: Publisher, tiny: TinyCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = many(world.store, tiny, 5, publisher.put("/crl", b""))
    with monkeypatch.context() as patched:
        patched.setattr(turning, "decide", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            publish(publisher, tiny, world, served[:2])
    with world.store.write() as tx:
        tx.execute(watch_source.update().values(lease_until=None))

    assert len(asking.ask_due(world, all_of_them=True).decided.turning) == 2


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_where_that_is_wished_what_the_brake_holds_goes_on_in_waves(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    world = a_watching_world(store, clock, WatchRules(brake_then="waves"))
    place = publisher.put("/crl", b"")
    made = [a_pair_of(world, tiny, crl=[place]) for _ in range(11)]

    done = publish(publisher, tiny, world, [serving for _, serving, _ in made])

    assert done.decided.held == 11
    assert [serves(world, pair) for pair, _, _ in made] == [standby.id for _, _, standby in made]
    assert turning_pairs(world) == 0


def test_a_run_that_has_stopped_waits_for_a_person_though_more_is_found(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    world = a_watching_world(store, clock, WatchRules(brake_then="waves"))
    place = publisher.put("/crl", b"")
    made = [a_pair_of(world, tiny, crl=[place]) for _ in range(13)]
    found = publish(publisher, tiny, world, [serving for _, serving, _ in made[:11]])
    number = found.decided.incident
    assert number is not None
    with store.write() as tx:
        incident_runs.set_end(tx, number, 1, stopped="4 of 11 pairs are not served by their targets")

    more = publish(publisher, tiny, world, [serving for _, serving, _ in made[:12]], number=3)

    assert (more.decided.incident, more.decided.held) == (number, 1)
    pair, serving, _ = made[11]
    assert serves(world, pair) == serving.id
    with store.read() as tx:
        planned = incidents.newest_plan(tx, incidents.planning.existing(tx, number))
    assert planned is not None
    running.run(world, number, planned.hash, running.Terms())
    publish(publisher, tiny, world, [serving for _, serving, _ in made], number=4)
    pair, _, standby = made[12]
    assert serves(world, pair) == standby.id, "a person has run it since"


def test_a_run_that_a_person_goes_on_with_is_joined_by_nobody_before_it_is_through(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = a_watching_world(store, clock, WatchRules(brake_then="waves"))
    made = [a_pair_of(world, tiny, crl=[publisher.put("/crl", b"")]) for _ in range(11)]
    with monkeypatch.context() as patched:  # it fails in its first wave, which is one pair
        patched.setattr("dualcert.policy.waves.failing", lambda *_: "too many have failed")
        number = publish(publisher, tiny, world, [serving for _, serving, _ in made]).decided.incident
    assert number is not None
    with store.read() as tx:
        planned = incidents.newest_plan(tx, incidents.planning.existing(tx, number))
        assert planned is not None
        stopped = incident_runs.get(tx, number)
        assert stopped is not None
        assert stopped.stopped == "too many have failed"
    terms = running.Terms(waves="20%,100%", rate=1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(running._Run, "_promote", interrupted)
        with pytest.raises(KeyboardInterrupt):
            running.run(world, number, planned.hash, terms)
    braked.run_in_waves(world)

    with store.read() as tx:
        run = incident_runs.get(tx, number)
    assert run is not None
    assert (run.waves, run.rate, run.stopped) == (terms.waves, terms.rate, None)
    assert [serves(world, pair) for pair, _, _ in made] == [
        made[0][2].id,
        *(one.id for _, one, _ in made[1:]),
    ]
    assert running.run(world, number, planned.hash, terms).stopped is None
    with store.read() as tx:
        assert not incident_runs.is_a_persons(tx, number)


@dataclass
class _Hanging:
    """Places that let one wait, as those of a CA whose servers are gone; the others are asked."""

    real: Evidence
    clock: FakeClock
    meet: Callable[[], int]
    turning: list[int] = field(default_factory=list)

    def crl(self, place: str, issuer: bytes, known: KnownCrl, now: datetime, *, of_cas: bool) -> Crl | None:
        if "hanging" not in place:
            return self.real.crl(place, issuer, known, now, of_cas=of_cas)
        self.turning.append(self.meet())
        self.clock.advance(timedelta(seconds=15))
        raise EvidenceError("it does not answer")

    def ocsp(self, place: str, issuer: bytes, certificate: bytes, now: datetime) -> OcspAnswer:
        return self.real.ocsp(place, issuer, certificate, now)


@pytest.mark.parametrize("all_of_them", [True, False])
def test_what_was_found_is_decided_while_other_places_hang(
    world: World, clock: FakeClock, publisher: Publisher, tiny: TinyCa, all_of_them: bool
) -> None:
    served = many(world.store, tiny, 5, publisher.put("/crl", b""))
    publisher.put("/crl", crl(tiny.intermediate, [served[0].serial], now=clock.now()))
    clock.advance(timedelta(seconds=1))
    for number in range(12):
        many(world.store, tiny, 1, f"http://localhost/hanging/{number}")
    hanging = _Hanging(world.evidence(), clock, lambda: turning_pairs(world))
    world = replace(world, evidence=Lazy(lambda: hanging))

    done = asking.ask_due(world, all_of_them=all_of_them)

    assert hanging.turning[:3] == [0, 1, 1]
    assert len(done.decided.turning) == 1
    # In the daemon it ends after a minute: the first of them would be due again before the last one was asked.
    assert done.failed == (12 if all_of_them else 4)


@pytest.mark.parametrize(("rule", "asked"), [("ask", 2), ("never", 0)])
def test_nothing_turns_where_a_person_is_to_be_asked_or_nobody(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa, rule: str, asked: int
) -> None:
    world = a_watching_world(store, clock, WatchRules(promote=rule))
    served = many(store, tiny, 5, publisher.put("/crl", b""))

    done = publish(publisher, tiny, world, served[:2])

    assert (len(done.decided.asked), done.decided.turning, turning_pairs(world)) == (asked, (), 0)
    with store.read() as tx:
        assert all(revocations.is_revoked(tx, one.id) for one in served[:2])
        wanted = [one for one in events.page(tx) if one.kind == "promotion-wanted"]
    assert len(wanted) == asked


# --- lists -----------------------------------------------------------------------------------------------


def a_pair_of(world: World, tiny: TinyCa, **leaf: object) -> tuple[Pair, Certificate, Certificate]:
    with world.store.write() as tx:
        pair = a_pair(tx)
        serving = issue(tx, world, tiny, pair, PRIMARY, **leaf)
        standby = issue(tx, world, tiny, pair, BACKUP, **leaf)
    return pair, serving, standby


def serves(world: World, pair: Pair) -> int | None:
    with world.store.read() as tx:
        return pairs.state(tx, pair.id).serving


def test_a_revoked_certificate_is_turned_away_from_and_its_lineage_refilled(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    place = publisher.put("/crl", b"")
    pair, serving, standby = a_pair_of(world, tiny, crl=[place])

    done = publish(publisher, tiny, world, [serving])
    step(world, WorkKind.SIGNAL)

    assert done.decided.turning == (pair.id,)
    assert serves(world, pair) == standby.id
    with world.store.read() as tx:
        promoted = [one for one in events.page(tx, pairs=[pair.id]) if one.kind == "promoted"]
        assert [(one.actor, place in one.cause) for one in promoted] == [("watch", True)]
        assert work.get(tx, WorkKind.REFILL, pair.id, ca=PRIMARY) is not None
        assert signals.against(tx, serving.id)[0]["url"] == place


def test_a_revoked_backup_is_refilled_and_never_promoted_onto(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    pair, serving, standby = a_pair_of(world, tiny, crl=[publisher.put("/crl", b"")])

    done = publish(publisher, tiny, world, [standby])

    assert (done.revoked, done.decided.turning) == (1, ())
    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).backup_ok_until is None
        assert work.get(tx, WorkKind.REFILL, pair.id, ca=BACKUP) is not None
    publish(publisher, tiny, world, [serving, standby], number=3)
    step(world, WorkKind.SIGNAL)
    assert serves(world, pair) == serving.id
    with world.store.read() as tx:
        # There is no way but new certificates, and they are ordered at once.
        assert work.get(tx, WorkKind.ORDER, pair.id, ca=PRIMARY) is not None
        assert work.get(tx, WorkKind.SIGNAL, pair.id) is not None


def test_a_key_that_the_ca_calls_compromised_is_blocked(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    place = publisher.put("/crl", b"")
    _, serving, _ = a_pair_of(world, tiny, crl=[place])
    publisher.put("/crl", crl(tiny.intermediate, {serving.serial: 1}, now=world.clock.now()))

    asking.ask_due(world)

    with world.store.read() as tx:
        standing = certificates.standing(tx, serving.id)
        assert standing is not None
        assert standing.blocked


def test_the_same_serial_of_another_ca_is_none_of_ours(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    other = TinyCa.make("other")
    place, elsewhere = publisher.put("/crl", b""), publisher.put("/other", b"")
    _, serving, _ = a_pair_of(world, tiny, crl=[place])
    a_pair_of(world, other, crl=[elsewhere])
    now = world.clock.now()
    publisher.put("/crl", crl(tiny.intermediate, now=now))
    publisher.put("/other", crl(other.intermediate, [serving.serial], now=now))

    assert asking.ask_due(world).revoked == 0
    # Nor is a list believed that another CA has signed.
    publisher.put("/crl", crl(other.intermediate, [serving.serial], now=now))
    done = asking.ask_due(world, all_of_them=True)
    assert (done.revoked, done.failed) == (0, 1)


@pytest.mark.parametrize("trouble", ["signature", "stale", "cut off", "gone"])
def test_a_source_that_fails_is_blind_with_the_age_of_its_last_good_answer(
    world: World, publisher: Publisher, tiny: TinyCa, clock: FakeClock, trouble: str
) -> None:
    place = publisher.put("/crl", b"")
    pair, serving, _ = a_pair_of(world, tiny, crl=[place])
    good = crl(tiny.intermediate, now=clock.now())
    publisher.put("/crl", good)
    asking.ask_due(world)
    assert [one.state for one in telling.standings(world)] == ["good"]
    clock.advance(2 * HOUR)
    now = clock.now()
    whole = crl(tiny.intermediate, [serving.serial], now=now, number=2)
    bad = {
        "signature": crl(
            tiny.intermediate,
            [serving.serial],
            now=now,
            number=2,
            key=ec.generate_private_key(ec.SECP256R1()),
        ),
        "stale": crl(tiny.intermediate, [serving.serial], now=now - timedelta(days=4), number=2),
        "cut off": whole[:-20],
    }
    if trouble == "gone":
        del publisher.at["/crl"]
    else:
        publisher.put("/crl", bad[trouble])

    done = asking.ask_due(world)

    assert (done.failed, done.revoked) == (1, 0)
    (standing,) = telling.standings(world)
    assert (standing.state, standing.age) == ("blind", 2 * HOUR)
    (finding,) = [one for one in telling.findings(world) if one.problem]
    assert "last good answer is 2 h old" in (finding.problem or "")
    assert serves(world, pair) == serving.id
    publisher.put("/crl", whole)
    assert len(asking.ask_due(world, all_of_them=True).decided.turning) == 1
    assert [one.state for one in telling.standings(world)] == ["good"]


def test_a_list_is_fetched_once_for_all_and_not_again_while_it_is_the_same(
    world: World, publisher: Publisher, tiny: TinyCa, clock: FakeClock
) -> None:
    place = publisher.put("/crl", crl(tiny.intermediate, now=clock.now()), ETag='"1"')
    for _ in range(3):
        a_pair_of(world, tiny, crl=[place])

    asking.ask_due(world)
    asking.ask_due(world)
    clock.advance(HOUR)
    asking.ask_due(world)

    assert publisher.asked == [("/crl", 200), ("/crl", 304)]
    (standing,) = telling.standings(world)
    assert (standing.state, standing.certificates, standing.age) == ("good", 6, timedelta())


def test_not_modified_does_not_outlive_next_update(
    world: World, publisher: Publisher, tiny: TinyCa, clock: FakeClock
) -> None:
    place = publisher.put("/crl", crl(tiny.intermediate, now=clock.now()), ETag='"1"')
    a_pair_of(world, tiny, crl=[place])
    asking.ask_due(world)
    clock.advance(timedelta(days=2))

    assert asking.ask_due(world).failed == 1
    assert [one.state for one in telling.standings(world)] == ["blind"]


def test_a_source_that_nobody_asks_any_more_is_blind(
    world: World, publisher: Publisher, tiny: TinyCa, clock: FakeClock
) -> None:
    a_pair_of(world, tiny, crl=[publisher.put("/crl", crl(tiny.intermediate, now=clock.now()))])
    assert [one.state for one in telling.standings(world)] == ["not asked yet"]
    clock.advance(4 * HOUR)
    assert [one.state for one in telling.standings(world)] == ["blind"]
    asking.ask_due(world)
    assert [one.state for one in telling.standings(world)] == ["good"]
    clock.advance(4 * HOUR)
    assert [one.state for one in telling.standings(world)] == ["blind"]


def test_private_addresses_are_not_asked_unless_that_is_allowed(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    world = a_watching_world(store, clock, private=False)
    place = publisher.put("/crl", crl(tiny.intermediate, now=clock.now()))
    a_pair_of(world, tiny, crl=[place])

    assert asking.ask_due(world).failed == 1
    assert publisher.asked == []
    assert "no public address" in (telling.standings(world)[0].source.problem or "")


@pytest.mark.parametrize("entries", [50_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_long_list_with_serials_of_twenty_bytes(
    world: World, publisher: Publisher, tiny: TinyCa, entries: int
) -> None:
    place = publisher.put("/crl", b"")
    pair, serving, _ = a_pair_of(world, tiny, crl=[place])
    serials = [b"\xff" + number.to_bytes(19, "big") for number in range(entries)]
    serials[31_234] = serving.serial
    publisher.put("/crl", crl(tiny.intermediate, serials, now=world.clock.now()))

    done = asking.ask_due(world)

    assert (done.revoked, done.decided.turning) == (1, (pair.id,))
    assert telling.standings(world)[0].source.entries == entries


def test_a_certificate_of_twenty_bytes_serial_is_matched(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    place = publisher.put("/crl", b"")
    (served,) = many(world.store, tiny, 1, place)
    serial = b"\xfe" * 20
    with world.store.write() as tx:
        tx.execute(t.certificate.update().where(t.certificate.c.id == served.id).values(serial=serial))
    publisher.put("/crl", crl(tiny.intermediate, [serial], now=world.clock.now()))
    assert asking.ask_due(world).revoked == 1


def test_an_intermediate_on_its_crl_is_a_signal_for_every_certificate_under_it(
    store: Store, clock: FakeClock, publisher: Publisher
) -> None:
    world = a_watching_world(store, clock)
    place = publisher.put("/root.crl", b"")
    tiny, other = TinyCa.make("one", [place]), TinyCa.make("two")
    with store.write() as tx:
        tx.execute(upsert(t.chain).values(hash=b"r", pem=_pem(tiny)).on_conflict_do_nothing())
    publisher.put("/root.crl", crl(tiny.root, now=clock.now()))
    own = publisher.put("/1", crl(tiny.intermediate, now=clock.now()))
    with store.write() as tx:
        pair = a_pair(tx)
        # The root is known from the chain here; where it is not sent, the trusted roots have it.
        serving = issue(tx, world, _with_root(tiny), pair, PRIMARY, crl=[own])
        standby = issue(tx, world, other, pair, BACKUP)
    assert asking.ask_due(world).revoked == 0
    serial = tiny.intermediate.certificate.serial_number
    gone = serial.to_bytes((serial.bit_length() + 7) // 8, "big")
    publisher.put("/root.crl", crl(tiny.root, {gone: 2}, now=clock.now(), number=2))

    done = asking.ask_due(world, all_of_them=True)
    step(world, WorkKind.SIGNAL)

    assert done.revoked == 1
    assert serves(world, pair) == standby.id
    with store.read() as tx:
        assert "certificate of its CA" in signals.against(tx, serving.id)[0]["evidence"]


def _pem(tiny: TinyCa) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return tiny.root.certificate.public_bytes(Encoding.PEM).decode()


class _with_root(TinyCa):  # noqa: N801
    def __init__(self, tiny: TinyCa) -> None:
        super().__init__(tiny.root, tiny.intermediate)

    @property
    def chain(self) -> str:
        return super().chain + _pem(self)


# --- who is watched --------------------------------------------------------------------------------------


def test_without_a_source_a_certificate_is_blind_and_a_short_lived_one_is_not(
    world: World, tiny: TinyCa
) -> None:
    a_pair_of(world, tiny)
    a_pair_of(world, tiny, life=timedelta(days=6))

    found = {one.state: one.certificates for one in telling.standings(world)}
    assert found == {"blind (no source)": 2, "short-lived": 2}
    assert asking.ask_due(world, all_of_them=True).asked == 0
    assert [one.problem for one in telling.findings(world)] == [None] * 2


def test_certificates_that_were_stored_before_are_registered_by_and_by(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    place = publisher.put("/crl", b"")
    pair, serving, _ = a_pair_of(world, tiny, crl=[place])
    with world.store.write() as tx:
        tx.execute(watched.delete())
        tx.execute(watch_source.delete())

    assert places.register_older(world) is False
    assert publish(publisher, tiny, world, [serving]).decided.turning == (pair.id,)
    assert places.register_older(world) is False


def test_what_was_replaced_is_not_asked_about(world: World, publisher: Publisher, tiny: TinyCa) -> None:
    old, new = (
        publisher.put("/old", b""),
        publisher.put("/new", crl(tiny.intermediate, now=world.clock.now())),
    )
    with world.store.write() as tx:
        pair = a_pair(tx)
        issue(tx, world, tiny, pair, PRIMARY, crl=[old])
        issue(tx, world, tiny, pair, PRIMARY, crl=[new])

    assert [one.source.place for one in telling.standings(world)] == [new]
    asking.ask_due(world)

    assert publisher.asked == [("/new", 200)]


def test_pairs_are_counted_as_they_come_and_go(world: World) -> None:
    with world.store.write() as tx:
        before = counters.value(tx, counters.PAIRS) or 0
        pair, _, _ = a_full_pair(tx)
        a_full_pair(tx)
        removal.end(tx, pair, pairs.state(tx, pair.id))
        assert (counters.value(tx, counters.PAIRS) or 0) == before + 1


# --- responders ------------------------------------------------------------------------------------------


def leaf_of(world: World, held: Certificate) -> x509.Certificate:
    with world.store.read() as tx:
        return x509.load_der_x509_certificate(certificates.der_of(tx, held.id))


def answers(publisher: Publisher, world: World, tiny: TinyCa, held: list[Certificate], **how: object) -> None:
    leaves = {one.serial_number: one for one in (leaf_of(world, each) for each in held)}

    def answer(request: bytes) -> bytes:
        leaf = leaves[ocsp.load_der_ocsp_request(request).serial_number]
        return ocsp_answer(request, tiny.intermediate, leaf, now=world.clock.now(), **how)  # type: ignore[arg-type]

    publisher.put("/ocsp", answer)


def test_a_responder_that_says_revoked_is_believed(world: World, publisher: Publisher, tiny: TinyCa) -> None:
    place = publisher.put("/ocsp", b"")
    with world.store.write() as tx:
        pair = a_pair(tx)
        serving = issue(tx, world, tiny, pair, PRIMARY, ocsp=[place])
        standby = issue(tx, world, tiny, pair, BACKUP)
    answers(publisher, world, tiny, [serving])
    assert asking.ask_due(world).revoked == 0
    answers(publisher, world, tiny, [serving], status=ocsp.OCSPCertStatus.REVOKED)

    done = asking.ask_due(world, all_of_them=True)
    step(world, WorkKind.SIGNAL)

    assert (done.revoked, serves(world, pair)) == (1, standby.id)


@pytest.mark.parametrize("trouble", ["unknown", "a stranger", "not set to it", "stale", "of another"])
def test_a_responder_whose_answer_does_not_count_is_blind(
    world: World, publisher: Publisher, tiny: TinyCa, trouble: str
) -> None:
    place = publisher.put("/ocsp", b"")
    _, serving, standby = a_pair_of(world, tiny, ocsp=[place])
    both = [serving, standby]
    revoked = ocsp.OCSPCertStatus.REVOKED
    match trouble:
        case "unknown":
            answers(publisher, world, tiny, both, status=ocsp.OCSPCertStatus.UNKNOWN)
        case "a stranger":
            answers(publisher, world, tiny, both, status=revoked, by=TinyCa.make("x").responder())
        case "not set to it":
            answers(publisher, world, tiny, both, status=revoked, by=tiny.responder(may=False))
        case "stale":
            answers(publisher, world, tiny, both, status=revoked, lasts=timedelta(hours=-12))
        case _:
            _, another, _ = a_pair_of(world, tiny)
            publisher.put(
                "/ocsp",
                lambda request: ocsp_answer(
                    request, tiny.intermediate, leaf_of(world, another), now=world.clock.now()
                ),
            )

    done = asking.ask_due(world)

    assert (done.revoked, turning_pairs(world)) == (0, 0)
    assert [one.blind for one in telling.standings(world) if one.source.place] == [True]


def test_a_responder_that_the_ca_has_set_to_it_is_believed(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    place = publisher.put("/ocsp", b"")
    _, serving, standby = a_pair_of(world, tiny, ocsp=[place])
    answers(publisher, world, tiny, [serving, standby], by=tiny.responder())

    asking.ask_due(world)

    assert [(one.state, one.blind) for one in telling.standings(world)] == [("good", False)]
    assert counted(world, signal) == 0
