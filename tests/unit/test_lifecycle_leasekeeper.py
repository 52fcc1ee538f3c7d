from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from dualcert.clock import SystemClock
from dualcert.lifecycle import leasekeeper
from dualcert.lifecycle.leasekeeper import LeaseKeeper
from dualcert.testing.clock import FakeClock

PATIENCE = 10


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[LeaseKeeper]:
    monkeypatch.setattr(leasekeeper, "_RENEW_EVERY", 0.01)
    keeper = LeaseKeeper()
    yield keeper
    keeper.close()


def lease_threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "leases"}


def test_one_thread_renews_for_every_owner_until_he_leaves(keeper: LeaseKeeper) -> None:
    before = lease_threads()
    one, two = threading.Semaphore(0), threading.Semaphore(0)
    keeper.keep("one", one.release, SystemClock())
    keeper.keep("two", two.release, SystemClock())
    for _ in range(3):
        assert one.acquire(timeout=PATIENCE)
        assert two.acquire(timeout=PATIENCE)
    assert len(lease_threads() - before) == 1
    keeper.leave("one")
    two.acquire(timeout=PATIENCE)
    while one.acquire(blocking=False):
        pass  # what came while he left
    assert two.acquire(timeout=PATIENCE)
    assert two.acquire(timeout=PATIENCE)
    assert not one.acquire(blocking=False)


def test_its_thread_ends_when_it_is_closed(keeper: LeaseKeeper) -> None:
    before = lease_threads()
    renewed = threading.Event()
    keeper.keep("one", renewed.set, SystemClock())
    [thread] = lease_threads() - before
    assert renewed.wait(PATIENCE)
    keeper.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_what_goes_wrong_with_one_owners_leases_is_told_and_costs_nobody_his(
    keeper: LeaseKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = threading.Semaphore(0), threading.Semaphore(0)

    def renew() -> None:
        broken.release()
        raise ZeroDivisionError("nobody foresaw this")

    keeper.keep("one", renew, SystemClock())
    keeper.keep("two", other.release, SystemClock())
    for _ in range(3):
        assert broken.acquire(timeout=PATIENCE), "his turn comes again, too"
        assert other.acquire(timeout=PATIENCE)
    assert "the leases of one could not be renewed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("by", [timedelta(hours=1), -timedelta(hours=1)])
def test_a_clock_that_is_put_right_has_every_lease_renewed_at_once(
    monkeypatch: pytest.MonkeyPatch, by: timedelta
) -> None:
    monkeypatch.setattr(leasekeeper, "_LOOK_EVERY", 0.01)
    clock, renewed = FakeClock(), threading.Semaphore(0)
    keeper = LeaseKeeper()
    keeper.keep("one", renewed.release, clock)
    try:
        assert not renewed.acquire(timeout=0.1), "its time has not come"
        clock.set(clock.now() + by)
        assert renewed.acquire(timeout=PATIENCE)
        assert not renewed.acquire(timeout=0.1), "once is enough"
        clock.advance(leasekeeper._RENEW_EVERY)
        assert renewed.acquire(timeout=PATIENCE)
    finally:
        keeper.close()
