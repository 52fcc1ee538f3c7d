"""What CAs suggest, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from dualcert.clock import SystemClock, to_microseconds
from dualcert.errors import CaBusy, CaError, CaRejected, CaServerError, CaUnreachable
from dualcert.lifecycle import accounts, renewal
from dualcert.lifecycle.driver import Scope, run_until
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.renewal_information import identifier
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.work import WorkKind
from dualcert.ports.ca import CertificateAuthority, RenewalInformation
from dualcert.store import Store, promotion, work
from dualcert.store import pairs as stored_pairs
from dualcert.store import tables as t
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair
from tests.store.renewing import (
    DAY,
    HOUR,
    MINUTE,
    Oracle,
    Oracles,
    Says,
    a_held,
    ask,
    asking,
    asking_world,
    causes,
    clock_of,
    gets,
    info,
    lineage,
    ordering,
    window,
)
from tests.store.worlds import Setting, a_world

ASK = WorkKind.RENEWAL_INFORMATION


@pytest.fixture
def oracle() -> Oracle:
    """The primary's CA."""
    return Oracle(None)


@pytest.fixture
def world(store: Store, clock: FakeClock, oracle: Oracle) -> World:
    return asking_world(store, clock, oracle)


def checked_at(world: World, held: Certificate) -> datetime | None:
    found = info(world, held)
    assert found is not None
    at = found["check_at"]
    return None if at is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)  # type: ignore[arg-type]


# --- what a window does ----------------------------------------------------------------------------------


def test_a_window_in_the_past_opens_the_order_at_once_and_quotes_the_ca(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    pair, held = a_held(world, age=20 * DAY)
    past = window(clock.now() - 2 * HOUR, clock.now() - HOUR)
    oracle.says = replace(past, explanation="https://ca.test/why")
    ask(world)
    assert oracle.asked == [f"{PRIMARY}.{held.id}"]
    assert ordering(world, pair) == {PRIMARY}
    assert causes(world, pair, "order-due") == ["its CA suggests it: https://ca.test/why"]
    [said] = causes(world, pair, "renewal-suggested")
    assert "https://ca.test/why" in said


def test_a_window_that_is_earlier_than_two_thirds_of_the_life_moves_the_clock(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    pair, _ = a_held(world)
    oracle.says = window(clock.now() + 30 * DAY, clock.now() + 32 * DAY)
    ask(world)
    assert ordering(world, pair) == set()
    assert clock_of(world, pair) == lineage(world, pair, PRIMARY).renew_at == clock.now() + 30 * DAY
    clock.advance(30 * DAY)
    oracle.says = CaUnreachable("nobody there")
    renewal.open_due(world)
    assert ordering(world, pair) == {PRIMARY}


def test_a_window_after_two_thirds_of_the_life_moves_nothing(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    pair, _ = a_held(world)
    oracle.says = window(clock.now() + 80 * DAY, clock.now() + 81 * DAY)
    ask(world)
    assert lineage(world, pair, PRIMARY).renew_at == clock.now() + 60 * DAY
    assert causes(world, pair, "renewal-suggested") == []


def test_a_window_that_is_open_at_birth_does_not_renew_what_has_just_come(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    oracle.says = window(clock.now() - DAY, clock.now() + DAY, MINUTE)
    pair, held = a_held(world, life=HOUR)
    for _ in range(5):
        ask(world)
        assert ordering(world, pair) == set()
        clock.advance(MINUTE)
    clock.advance(MINUTE)
    renewal.open_due(world)
    assert clock.now() == held.not_before + HOUR / 10
    assert ordering(world, pair) == {PRIMARY}, "it is followed when a tenth of the life has passed"


def test_bounds_that_stand_are_not_drawn_from_again_and_bounds_that_move_are(
    store: Store, clock: FakeClock, oracle: Oracle
) -> None:
    draws = iter([0.5, 0.25, 0.75])
    world = replace(a_world(store, clock, Setting(meet=Oracles({PRIMARY: oracle}))), draw=lambda: next(draws))
    pair, held = a_held(world)
    start, end = clock.now() + 30 * DAY, clock.now() + 32 * DAY
    oracle.says = window(start, end, HOUR)
    ask(world)
    assert lineage(world, pair, PRIMARY).renew_at == start + DAY
    clock.advance(HOUR)
    ask(world)
    assert lineage(world, pair, PRIMARY).renew_at == start + DAY
    oracle.says = window(start, end + 2 * DAY, HOUR)
    clock.advance(HOUR)
    ask(world)
    assert len(oracle.asked) == 3
    assert lineage(world, pair, PRIMARY).renew_at == start + 3 * DAY
    assert len(causes(world, pair, "renewal-suggested")) == 2
    found = info(world, held)
    assert found is not None
    assert found["window_end"] == to_microseconds(end + 2 * DAY)


def test_a_suggestion_is_followed_by_the_lineage_wherever_a_promotion_has_put_it(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    pair, _ = a_held(world, age=20 * DAY)
    with world.store.write() as tx:
        assert promotion.swap(tx, stored_pairs.state(tx, pair.id))
    oracle.says = window(clock.now() - 2 * HOUR, clock.now() - HOUR)
    ask(world)
    assert ordering(world, pair) == {PRIMARY}


# --- when it is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wished", "wait"), [(timedelta(0), MINUTE), (9 * HOUR, 9 * HOUR), (9 * DAY, DAY), (None, 6 * HOUR)]
)
def test_a_ca_is_asked_again_when_it_wishes_within_bounds(
    world: World, oracle: Oracle, clock: FakeClock, wished: timedelta | None, wait: timedelta
) -> None:
    _, held = a_held(world)
    oracle.says = window(clock.now() + 30 * DAY, clock.now() + 31 * DAY, wished)
    ask(world)
    assert checked_at(world, held) == clock.now() + wait
    clock.advance(wait - timedelta(seconds=1))
    ask(world)
    assert len(oracle.asked) == 1
    clock.advance(timedelta(seconds=1))
    ask(world)
    assert len(oracle.asked) == 2


def test_a_ca_is_not_asked_about_a_certificate_that_has_expired(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    _, held = a_held(world, check_in=HOUR)
    clock.advance(90 * DAY)
    ask(world)
    assert oracle.asked == []
    assert checked_at(world, held) is None


def test_a_ca_is_not_asked_about_a_certificate_that_was_replaced(world: World, oracle: Oracle) -> None:
    pair, old = a_held(world)
    with world.store.write() as tx:
        new = gets(tx, pair, PRIMARY)
    ask(world)
    assert oracle.asked == [f"{PRIMARY}.{new.id}"]
    assert info(world, old) is None


def test_a_ca_is_not_asked_about_the_certificate_of_a_lineage_that_was_closed(
    world: World, oracle: Oracle
) -> None:
    _, held = a_held(world)
    with world.store.write() as tx:
        mine = t.lineage.c.id == held.lineage_id
        tx.execute(t.lineage.update().where(mine).values(retired_at=tx.at))
    ask(world)
    assert oracle.asked == []
    assert asking(world, PRIMARY) is None


def test_what_is_left_of_a_pair_that_is_gone_is_not_asked_about_for_ever(
    world: World, oracle: Oracle
) -> None:
    _, held = a_held(world)
    with world.store.write() as tx:
        for table in (t.certificate, t.lineage, t.pair_state):
            tx.execute(table.delete())
    ask(world)
    assert oracle.asked == []
    assert asking(world, PRIMARY) is None
    assert checked_at(world, held) is None


def test_an_answer_that_comes_after_the_certificate_was_replaced_is_not_followed(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    pair, _ = a_held(world, age=20 * DAY)

    def meanwhile(_: str) -> Says:
        with world.store.write() as tx:
            gets(tx, pair, PRIMARY, check_in=DAY)
        return window(clock.now() - 2 * HOUR, clock.now() - HOUR)

    oracle.says = meanwhile
    ask(world)
    assert ordering(world, pair) == set()
    assert lineage(world, pair, PRIMARY).renew_at == clock.now() + 60 * DAY


def test_a_ca_that_offers_nothing_is_not_asked_about_this_certificate_again(
    world: World, oracle: Oracle
) -> None:
    _, held = a_held(world)
    oracle.says = None
    ask(world)
    assert checked_at(world, held) is None
    assert asking(world, PRIMARY) is None


def test_a_ca_that_has_answered_before_is_asked_again_after_a_day(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    _, held = a_held(world)
    oracle.says = window(clock.now() + 30 * DAY, clock.now() + 32 * DAY)
    ask(world)
    clock.advance(DAY)
    oracle.says = None

    ask(world)

    assert checked_at(world, held) == clock.now() + DAY


# --- when no answer comes --------------------------------------------------------------------------------

AWAY = [CaUnreachable("nobody there", ca=PRIMARY), CaBusy("later", ca=PRIMARY, retry_after=2 * HOUR)]
RUBBISH = CaServerError("the CA's renewal information has no end", ca=PRIMARY)


@pytest.mark.parametrize("error", [*AWAY, RUBBISH, CaRejected("no such", problem="malformed", ca=PRIMARY)])
def test_a_ca_that_does_not_say_delays_no_renewal(
    world: World, oracle: Oracle, clock: FakeClock, error: CaError
) -> None:
    pair, _ = a_held(world)
    oracle.says = error
    ask(world)
    assert lineage(world, pair, PRIMARY).renew_at == clock.now() + 60 * DAY
    clock.advance(60 * DAY)
    renewal.open_due(world)
    assert ordering(world, pair) == {PRIMARY, BACKUP}


@pytest.mark.parametrize(("error", "pause"), [(AWAY[0], 5 * MINUTE), (AWAY[1], 2 * HOUR)])
def test_a_ca_that_is_away_is_left_alone_for_a_while(
    world: World, oracle: Oracle, clock: FakeClock, error: CaError, pause: timedelta
) -> None:
    for _ in range(3):
        a_held(world)
    oracle.says = error
    ask(world)
    assert len(oracle.asked) == 1
    row = asking(world, PRIMARY)
    assert row is not None
    assert (row.due_at, row.attempts) == (clock.now() + pause, 1)
    clock.advance(pause - timedelta(seconds=1))
    ask(world)
    assert len(oracle.asked) == 1, "a row that backs off is not made due by whoever looks"
    oracle.says = window(clock.now() + 30 * DAY, clock.now() + 31 * DAY)
    clock.advance(timedelta(seconds=1))
    ask(world)
    assert len(set(oracle.asked)) == 3
    assert asking(world, PRIMARY) is None


def test_a_ca_that_is_not_configured_any_more_is_not_asked(world: World, oracle: Oracle) -> None:
    """Others may know it still; who does not has nobody to ask, now or in five minutes."""
    a_held(world)
    oracle.says = CaUnreachable("no answer", ca=PRIMARY)
    ask(world)
    assert asking(world, PRIMARY) is not None
    with world.store.write() as tx:
        tx.execute(t.work.update().values(due_at=tx.at))
    cas = {name: binding for name, binding in world.cas.items() if name != PRIMARY}

    ask(replace(world, cas=cas))

    assert asking(world, PRIMARY) is None
    assert renewal.not_asked(world) == []


def test_one_certificate_of_which_a_ca_knows_nothing_does_not_keep_it_from_being_asked_about_others(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    held = [a_held(world)[1] for _ in range(5)]
    bad = f"{PRIMARY}.{held[0].id}"
    fine = window(clock.now() + 30 * DAY, clock.now() + 31 * DAY)
    oracle.says = lambda ari_id: RUBBISH if ari_id == bad else fine
    ask(world)
    assert len(oracle.asked) == 5
    assert asking(world, PRIMARY) is None
    assert checked_at(world, held[0]) == clock.now() + 5 * MINUTE
    found = info(world, held[0])
    assert found is not None
    assert (found["failures"], found["problem"]) == (1, RUBBISH.reason)


def test_what_was_said_before_stands_while_a_ca_talks_rubbish(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    pair, _ = a_held(world)
    oracle.says = window(clock.now() + 30 * DAY, clock.now() + 32 * DAY, HOUR)
    ask(world)
    moved = lineage(world, pair, PRIMARY).renew_at
    oracle.says = RUBBISH
    clock.advance(HOUR)
    ask(world)
    assert len(oracle.asked) == 2
    assert lineage(world, pair, PRIMARY).renew_at == moved


def test_a_ca_that_talks_nothing_but_rubbish_is_left_alone_after_three_certificates(
    world: World, oracle: Oracle
) -> None:
    for _ in range(5):
        a_held(world)
    oracle.says = RUBBISH
    ask(world)
    assert len(oracle.asked) == 3
    row = asking(world, PRIMARY)
    assert row is not None
    assert row.attempts == 1


@pytest.fixture
def hanging(database_url: str) -> Iterator[tuple[World, Oracle, threading.Event]]:
    """The primary's CA hangs, the backup's answers; time is the machine's."""
    let_go = threading.Event()
    clock = SystemClock()

    def hang(_: str) -> Says:
        assert let_go.wait(30)
        return CaUnreachable("it hung", ca=PRIMARY)

    answering = Oracle(RenewalInformation(clock.now() + 30 * DAY, clock.now() + 31 * DAY))
    store = Store(database_url, clock, "tester")
    yield (
        a_world(store, clock, Setting(meet=Oracles({PRIMARY: Oracle(hang), BACKUP: answering}))),
        answering,
        let_go,
    )
    let_go.set()
    store.close()


def test_a_ca_that_hangs_does_not_hold_up_another(
    hanging: tuple[World, Oracle, threading.Event],
) -> None:
    world, answering, let_go = hanging
    with world.store.write() as tx:
        for _ in range(60):
            pair = a_pair(tx)
            gets(tx, pair, PRIMARY)
            gets(tx, pair, BACKUP)
    renewal.open_due(world)
    until = world.clock.now() + timedelta(seconds=20)
    driving = threading.Thread(target=run_until, args=(Engine(world), Scope(), until))
    driving.start()
    patience = world.clock.monotonic() + 20
    while len(answering.asked) < 60 and world.clock.monotonic() < patience:
        world.clock.sleep(0.01)
    assert not let_go.is_set()
    assert len(set(answering.asked)) == 60
    let_go.set()
    driving.join()
    row = asking(world, PRIMARY)
    assert row is not None
    assert row.attempts == 1


def test_a_cas_only_thread_goes_to_an_order_after_one_batch_of_questions(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SystemClock()
    store = Store(database_url, clock, "tester")
    asked_before: list[int] = []

    def order_comes(_: str) -> RenewalInformation:
        """It is due before the first answer, and has been claimed by then."""
        if len(only.asked) == 1:
            with store.write() as tx:
                pair = a_pair(tx)
                work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
            until = clock.monotonic() + 20
            while True:
                with store.read() as tx:
                    row = work.get(tx, WorkKind.ORDER, pair.id, ca=PRIMARY)
                assert row is not None
                assert clock.monotonic() < until
                if row.owner is not None:
                    break
                clock.sleep(0.01)
        return RenewalInformation(clock.now() + 30 * DAY, clock.now() + 31 * DAY)

    def authority(*_: object) -> CertificateAuthority:
        asked_before.append(len(only.asked))
        raise CaRejected("no", problem="rejectedIdentifier", ca=PRIMARY)

    only = Oracle(order_comes)
    meet = Oracles({PRIMARY: only, BACKUP: Oracle(None)})
    world = a_world(store, clock, Setting(meet=meet, max_concurrency=1))
    monkeypatch.setattr(accounts, "authority", authority)
    with store.write() as tx:
        for _ in range(120):
            pair = a_pair(tx)
            gets(tx, pair, PRIMARY)
            gets(tx, pair, BACKUP, check_in=100 * DAY)
    renewal.open_due(world)
    run_until(Engine(world), Scope(), clock.now() + timedelta(seconds=30))
    store.close()
    assert asked_before == [25]
    assert len(set(only.asked)) == 120


# --- the identifier --------------------------------------------------------------------------------------


def a_leaf(serial: int, key_identifier: bytes | None) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2026, 4, 1, tzinfo=UTC))
    )
    if key_identifier is not None:
        extension = x509.AuthorityKeyIdentifier(key_identifier, None, None)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def test_the_identifier_is_the_one_of_the_rfcs_example() -> None:
    signer = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")
    assert identifier(a_leaf(0x87654321, signer)) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


@pytest.mark.parametrize(
    ("serial", "text"), [(1, "AQ"), (0x7F, "fw"), (0x80, "AIA"), (0xFF, "AP8"), (0x100, "AQA")]
)
def test_a_serial_has_a_sign_byte_where_its_first_bit_is_set(serial: int, text: str) -> None:
    assert identifier(a_leaf(serial, b"\0")) == f"AA.{text}"


def test_a_certificate_that_does_not_say_who_signed_it_has_no_identifier() -> None:
    assert identifier(a_leaf(1, None)) is None
