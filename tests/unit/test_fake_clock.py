from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dualcert.testing.clock import FakeClock

START = datetime(2026, 3, 1, tzinfo=UTC)


def test_it_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(START)
    assert clock.now() == clock.now() == START
    clock.advance(timedelta(minutes=1))
    clock.advance(0.5)
    assert clock.now() == START + timedelta(seconds=60.5)
    assert clock.monotonic() == 60.5


def test_who_sleeps_wakes_at_once_and_later() -> None:
    clock = FakeClock(START)
    clock.sleep(30)
    assert clock.slept == [30]
    assert clock.now() == START + timedelta(seconds=30)


def test_putting_the_wall_clock_back_does_not_move_the_monotonic_one() -> None:
    clock = FakeClock(START)
    clock.advance(5)
    clock.set(START - timedelta(days=1))
    assert clock.now() == START - timedelta(days=1)
    assert clock.monotonic() == 5


def test_time_does_not_go_backwards_by_itself() -> None:
    clock = FakeClock(START)
    with pytest.raises(ValueError, match="forwards"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="backwards"):
        clock.sleep(-1)


def test_a_naive_instant_is_refused() -> None:
    naive = START.replace(tzinfo=None)
    with pytest.raises(ValueError, match="aware"):
        FakeClock(naive)
    with pytest.raises(ValueError, match="aware"):
        FakeClock().set(naive)
