"""The daemon's clock: a tick a second, whatever happens to the machine's clock."""

from __future__ import annotations

import datetime as dt
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apscheduler.schedulers.base
import apscheduler.triggers.interval
import pytest

from dualcert.cli.systemd import Notifier
from dualcert.clock import SystemClock
from dualcert.scheduling import Ticker
from dualcert.testing.clock import FakeClock

CLOCK = SystemClock()
EVERY = 0.05
PATIENCE = 20.0


class Wrong(dt.datetime):
    """The machine's clock as APScheduler sees it, put forward or back."""

    by = dt.timedelta(0)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return CLOCK.now().astimezone(tz) + cls.by


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Wrong]]:
    for module in (apscheduler.schedulers.base, apscheduler.triggers.interval):
        monkeypatch.setattr(module, "datetime", Wrong)
    monkeypatch.setattr("dualcert.scheduling._MISSED", 10 * EVERY)
    yield Wrong
    Wrong.by = dt.timedelta(0)


class Ticks:
    def __init__(self) -> None:
        self._came = threading.Semaphore(0)
        self.number = 0

    def __call__(self) -> None:
        self.number += 1
        self._came.release()

    def wait(self, number: int) -> None:
        for _ in range(number):
            assert self._came.acquire(timeout=PATIENCE)


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def ticker(ticks: Ticks, wrong: type[Wrong]) -> Iterator[Ticker]:
    one = Ticker(ticks, CLOCK, EVERY)
    one.start()
    yield one
    one.stop()


def test_it_ticks_until_it_is_stopped(ticks: Ticks) -> None:
    one = Ticker(ticks, CLOCK, EVERY)
    one.start()
    ticks.wait(3)
    one.stop()
    number = ticks.number
    CLOCK.sleep(4 * EVERY)
    assert ticks.number == number


def test_a_clock_that_is_put_back_stops_no_ticks(ticker: Ticker, ticks: Ticks, wrong: type[Wrong]) -> None:
    ticks.wait(2)
    wrong.by = -dt.timedelta(hours=1)
    end = CLOCK.monotonic() + PATIENCE
    number = ticks.number
    while ticks.number < number + 2:
        assert CLOCK.monotonic() < end
        ticker.see_to_it()
        CLOCK.sleep(EVERY)
    ticks.wait(ticks.number + 10)  # by itself again


def test_a_clock_that_is_put_forward_makes_up_for_no_ticks(
    ticker: Ticker, ticks: Ticks, wrong: type[Wrong]
) -> None:
    ticks.wait(2)
    began, number = CLOCK.monotonic(), ticks.number
    wrong.by = dt.timedelta(hours=1)
    ticks.wait(10)
    CLOCK.sleep(10 * EVERY)
    assert ticks.number - number <= (CLOCK.monotonic() - began) / EVERY + 3


# --- systemd ---------------------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(5)
        yield made


def test_the_watchdog_is_fed_twice_as_often_as_it_demands(box: socket.socket) -> None:
    clock = FakeClock()
    environment = {"NOTIFY_SOCKET": box.getsockname(), "WATCHDOG_USEC": "30000000"}
    notifier = Notifier(clock, environment)
    for _ in range(31):
        notifier.alive()
        clock.advance(1)
    box.setblocking(False)
    fed = []
    while True:
        try:
            fed.append(box.recv(100))
        except BlockingIOError:
            break
    assert fed == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    "more", [{}, {"WATCHDOG_USEC": "10", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}], ids=str
)
def test_a_watchdog_that_is_not_ours_is_not_fed(box: socket.socket, more: dict[str, str]) -> None:
    notifier = Notifier(FakeClock(), {"NOTIFY_SOCKET": box.getsockname(), **more})
    notifier.alive()
    notifier.ready()
    assert box.recv(100) == b"READY=1"


def test_children_do_not_inherit_the_socket(box: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": box.getsockname(),
        "WATCHDOG_USEC": "10",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/nonexistent",
    }
    Notifier(FakeClock(), environment).alive()
    assert box.recv(100) == b"WATCHDOG=1"
    assert environment == {"HOME": "/nonexistent"}


def test_without_systemd_nothing_is_said_and_a_socket_that_is_gone_is_no_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(FakeClock(), {}).ready()
    assert caplog.records == []
    Notifier(FakeClock(), {"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    assert "READY=1" in caplog.text
