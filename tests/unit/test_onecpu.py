"""Where threads are, as the kernel tells it. Where there is but one CPU, all of it is told of that one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from dualcert import onecpu
from dualcert.clock import SystemClock
from dualcert.lifecycle import beside, keymaking
from dualcert.lifecycle import pool as lifecycle_pool
from dualcert.lifecycle.pool import Pool, Pools
from dualcert.model.pair import KeyType
from dualcert.onecpu import OneCpu
from dualcert.plugins import execution

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone lets a thread stay on a CPU")

PATIENCE = 10
MINUTE = 60.0
EVERYWHERE = os.sched_getaffinity(0)
_TELLS = "import os; print(sorted(os.sched_getaffinity(0)))"


def where() -> set[int]:
    """On which CPUs the calling thread may be."""
    return os.sched_getaffinity(0)


@pytest.fixture
def home() -> OneCpu:
    return OneCpu()


@contextmanager
def another(home: OneCpu) -> Iterator[Callable[[], set[int]]]:
    """A thread that stays; gives where it may be."""
    over, ready = threading.Event(), threading.Event()

    def stay() -> None:
        with home.stays():
            ready.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=stay)
    thread.start()
    assert ready.wait(PATIENCE)
    assert thread.native_id is not None
    number = thread.native_id
    try:
        yield lambda: os.sched_getaffinity(number)
    finally:
        over.set()
        thread.join(PATIENCE)


def test_threads_that_stay_are_on_one_cpu_together(home: OneCpu) -> None:
    with home.stays(), another(home) as other:
        assert len(where()) == 1
        assert other() == where()
    assert where() == EVERYWHERE


def test_who_stays_twice_goes_when_both_are_over(home: OneCpu) -> None:
    with home.stays():
        with home.stays():
            pass
        assert len(where()) == 1
    assert where() == EVERYWHERE


def test_what_goes_elsewhere_has_all_cpus_and_comes_back(home: OneCpu) -> None:
    with home.stays():
        here = where()
        with home.elsewhere():
            assert where() == EVERYWHERE
            with home.elsewhere():
                pass
            assert where() == EVERYWHERE
        assert where() == here
    with home.elsewhere():
        assert where() == EVERYWHERE
    assert where() == EVERYWHERE


def test_a_program_that_is_started_elsewhere_has_all_cpus(home: OneCpu) -> None:
    with home.stays():
        with home.elsewhere():
            process = subprocess.Popen([sys.executable, "-c", _TELLS], stdout=subprocess.PIPE)
        said, _ = process.communicate(timeout=PATIENCE)
    assert said.decode().strip() == str(sorted(EVERYWHERE))


def test_every_minute_all_are_let_go_for_a_moment_and_stay_where_the_caller_is_then(home: OneCpu) -> None:
    with home.stays(), another(home) as other:
        here = where()
        home.look_round(1000.0)
        home.look_round(1000.0 + MINUTE - 1)
        assert where() == other() == here
        home.look_round(1000.0 + MINUTE)
        assert where() == other() == EVERYWHERE
        home.look_round(1000.0 + MINUTE + 0.01)
        assert where() == other() == EVERYWHERE
        os.sched_setaffinity(0, {max(EVERYWHERE)})  # the kernel moves us
        home.look_round(1000.0 + MINUTE + 0.1)
        assert where() == other() == {max(EVERYWHERE)}
        home.look_round(1000.0 + 2 * MINUTE)
        assert where() == other() == {max(EVERYWHERE)}
        home.look_round(1000.0 + 2 * MINUTE + 0.2)
        assert where() == other() == EVERYWHERE


def test_who_comes_while_all_are_let_go_settles_with_them(home: OneCpu) -> None:
    home.look_round(0.0)
    home.look_round(MINUTE)
    with home.stays(), another(home) as other:
        assert where() == other() == EVERYWHERE
        home.look_round(MINUTE + 1)
        assert len(where()) == 1
        assert other() == where()


def test_a_thread_that_has_ended_is_in_nobodys_way(home: OneCpu) -> None:
    thread = threading.Thread(target=lambda: home.stays().__enter__())
    thread.start()
    thread.join(PATIENCE)
    with home.stays():
        home.look_round(0.0)
        home.look_round(MINUTE)
        home.look_round(MINUTE + 1)
        assert len(where()) == 1


def test_a_system_that_does_not_let_us_is_asked_once(monkeypatch: pytest.MonkeyPatch, home: OneCpu) -> None:
    asked = []

    def refuse(thread: int, cpus: Any) -> None:
        asked.append((thread, cpus))
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with home.stays(), another(home) as other, home.elsewhere():
        home.look_round(0.0)
        home.look_round(MINUTE)
        home.look_round(MINUTE + 1)
        assert where() == other() == EVERYWHERE
    assert len(asked) <= 1


def test_where_nothing_tells_which_cpu_it_is_nobody_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: OneCpu
) -> None:
    monkeypatch.setattr(onecpu, "_STAT", tmp_path / "stat")
    with home.stays(), another(home) as other, home.elsewhere():
        home.look_round(0.0)
        home.look_round(MINUTE)
        home.look_round(MINUTE + 1)
        assert where() == other() == EVERYWHERE


def test_on_other_systems_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onecpu, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.delattr(os, "sched_setaffinity")
    home = OneCpu()
    with home.stays(), home.elsewhere():
        home.look_round(0.0)
        home.look_round(MINUTE)
    assert where() == EVERYWHERE


# --- who stays, and who does not ---------------------------------------------------------------------------


@pytest.fixture
def of_process(monkeypatch: pytest.MonkeyPatch, home: OneCpu) -> OneCpu:
    """The process's own may have let all go just now."""
    for module in (beside, execution, keymaking, lifecycle_pool):
        monkeypatch.setattr(module, "one_cpu", home)
    return home


def test_threads_of_pools_stay(of_process: OneCpu) -> None:
    pools = Pool("stay-a", 1), Pool("stay-b", 1)
    seen: list[set[int]] = []
    both = threading.Barrier(3)

    def look() -> None:
        seen.append(where())
        both.wait(PATIENCE)

    with of_process.stays():
        for pool in pools:
            pool.submit(look)
        both.wait(PATIENCE)
        assert seen == [where(), where()]
        assert len(where()) == 1
    for pool in pools:
        pool.close()


def test_a_program_of_the_users_has_all_cpus(of_process: OneCpu) -> None:
    with of_process.stays():
        ended = execution.carry_out([sys.executable, "-c", _TELLS], timeout=PATIENCE, clock=SystemClock())
    assert ended.complaints.decode().strip() == str(sorted(EVERYWHERE))


def test_an_rsa_key_is_made_wherever_there_is_room(
    monkeypatch: pytest.MonkeyPatch, of_process: OneCpu
) -> None:
    seen = []
    made = rsa.generate_private_key

    def look(exponent: int, size: int) -> rsa.RSAPrivateKey:
        seen.append(where())
        return made(exponent, size)

    monkeypatch.setattr(rsa, "generate_private_key", look)
    with of_process.stays():
        keymaking.make(KeyType.RSA_2048, ("example.com",))
        assert len(where()) == 1
    assert seen == [EVERYWHERE]


def test_what_the_daemon_does_beside_its_steps_is_in_nobodys_way(of_process: OneCpu) -> None:
    seen: list[set[int]] = []
    done = threading.Event()

    def act(_: Any) -> float:
        seen.append(where())
        done.set()
        return 60.0

    pools = Pools()
    world: Any = SimpleNamespace(clock=SystemClock(), pools=pools)
    with of_process.stays():
        beside.Job(world, "beside", act).look()
        assert done.wait(PATIENCE)
    assert seen == [EVERYWHERE]
    pools.close()
