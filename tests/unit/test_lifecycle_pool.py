from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest

from dualcert.lifecycle.pool import Pool, Pools

PATIENCE = 10


class Steps:
    """Steps that stay where they are until they are let go."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.at_once = 0
        self.most_at_once = 0
        self._let_go = threading.Semaphore(0)
        self._changed = threading.Condition()

    def step(self, number: int) -> Callable[[], None]:
        def act() -> None:
            with self._changed:
                self.began.append(number)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                self._changed.notify_all()
            assert self._let_go.acquire(timeout=PATIENCE)
            with self._changed:
                self.at_once -= 1
                self._changed.notify_all()

        return act

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout=PATIENCE)

    def let_go(self, number: int) -> None:
        self._let_go.release(number)


def threads_of(name: str) -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith(name)]


def test_no_more_than_its_size_run_at_once_and_everything_runs() -> None:
    pool, steps = Pool("pool-a", 3), Steps()
    for number in range(10):
        pool.submit(steps.step(number))
    steps.until(lambda: steps.at_once == 3)
    assert len(threads_of("pool-a")) == 3
    steps.let_go(10)
    steps.until(lambda: len(steps.began) == 10 and steps.at_once == 0)
    assert steps.most_at_once == 3
    pool.close()


def test_what_was_submitted_first_begins_first() -> None:
    pool, steps = Pool("pool-b", 1), Steps()
    for number in range(20):
        pool.submit(steps.step(number))
    steps.let_go(20)
    steps.until(lambda: len(steps.began) == 20)
    assert steps.began == list(range(20))
    pool.close()


def test_a_thread_is_started_only_where_none_is_free() -> None:
    pool, steps = Pool("pool-c", 4), Steps()
    assert threads_of("pool-c") == []
    for number in range(3):
        pool.submit(steps.step(number))
        steps.let_go(1)
        steps.until(lambda: steps.at_once == 0 and len(steps.began) == number + 1)  # noqa: B023 - waited for here
    assert 1 <= len(threads_of("pool-c")) <= 3
    for number in range(2):
        pool.submit(steps.step(number))
    steps.until(lambda: steps.at_once == 2)
    assert len(threads_of("pool-c")) <= 4
    steps.let_go(2)
    pool.close()


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), SystemExit(0), KeyboardInterrupt()])
def test_a_thread_goes_on_whatever_it_meets_and_it_is_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble() -> None:
        raise error

    pool, steps = Pool("pool-h", 2), Steps()
    for _ in range(10):
        pool.submit(stumble)
    for number in range(2):
        pool.submit(steps.step(number))
    steps.until(lambda: steps.at_once == 2)
    assert len(threads_of("pool-h")) == 2
    steps.let_go(2)
    pool.close()
    assert caplog.text.count("what pool-h-") == 10
    assert type(error).__name__ in caplog.text


def test_a_hanging_step_keeps_no_process_alive_and_does_not_hold_up_closing() -> None:
    pool, steps = Pool("pool-d", 2), Steps()
    pool.submit(steps.step(1))
    steps.until(lambda: steps.at_once == 1)
    pool.close()
    assert all(thread.daemon for thread in threads_of("pool-d"))
    steps.let_go(1)
    for thread in threads_of("pool-d"):
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_idle_threads_end_when_a_pool_is_closed() -> None:
    pool, steps = Pool("pool-e", 2), Steps()
    for number in range(2):
        pool.submit(steps.step(number))
    steps.let_go(2)
    steps.until(lambda: len(steps.began) == 2 and steps.at_once == 0)
    started = threads_of("pool-e")
    pool.close()
    for thread in started:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_all_that_runs_in_a_process_shares_one_pool_of_a_kind() -> None:
    pools, steps = Pools(), Steps()
    for number in range(3):
        pools.get("pool-f", 2).submit(steps.step(number))
    steps.until(lambda: steps.at_once == 2)
    steps.let_go(3)
    steps.until(lambda: len(steps.began) == 3 and steps.at_once == 0)
    assert steps.most_at_once == 2
    assert len(threads_of("pool-f")) == 2
    pools.close()


def test_the_threads_of_pools_that_nobody_has_any_more_end() -> None:
    pools, steps = Pools(), Steps()
    pools.get("pool-g", 2).submit(steps.step(0))
    steps.let_go(1)
    steps.until(lambda: len(steps.began) == 1 and steps.at_once == 0)
    [thread] = threads_of("pool-g")
    del pools
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()
