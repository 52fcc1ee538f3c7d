"""When a terminating signal takes effect. Each signal is sent to this very process, in its main thread."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from dualcert.lab.interruption import ending_on_signals, held_back


@pytest.mark.parametrize(
    ("number", "unwinds_as"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_a_signal_waits_for_the_end_of_what_must_not_be_torn(
    number: signal.Signals, unwinds_as: type[BaseException]
) -> None:
    done: list[str] = []

    def work() -> None:
        with held_back():
            signal.raise_signal(number)
            with held_back():
                done.append("inner")
            done.append("outer")
        done.append("after")

    with ending_on_signals(), pytest.raises(unwinds_as):
        work()
    assert done == ["inner", "outer"]


def test_a_second_signal_does_not_wait() -> None:
    done: list[str] = []

    def work() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            done.append("still here")
            signal.raise_signal(signal.SIGINT)
            done.append("never")

    with ending_on_signals(), pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["still here"]
    with ending_on_signals(), held_back():
        done.append("nothing is pending")
    assert done[-1] == "nothing is pending"


def test_outside_it_takes_effect_at_once() -> None:
    with ending_on_signals(), pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM


def test_another_thread_holds_nothing_back() -> None:
    inside, leave = Event(), Event()

    def work() -> None:
        with held_back():
            inside.set()
            leave.wait(10)

    with ending_on_signals(), ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert inside.wait(10)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        leave.set()
        assert working.exception(10) is None


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending_on_signals():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_as_before_afterwards() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with ending_on_signals():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
