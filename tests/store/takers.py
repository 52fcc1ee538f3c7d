"""Many processes that take from one budget at once: ``python -m tests.store.takers URL PROCESSES TRIES``.

They are forked from one that has everything imported, and begin when the last of them is there. Prints, as JSON, how
many permits each got; one more process takes a permit and dies before it is committed, another right after.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta

from dualcert.clock import SystemClock
from dualcert.policy.budget import Kind, Limit, Subject
from dualcert.store import Store, budgets

LIMIT = Limit(50, timedelta(days=1))
SUBJECT = Subject(Kind.NEW_ORDERS)
CA = "alpha"


def _one(url: str, tries: int) -> int:
    store = Store(url, SystemClock(), "taker")
    got = 0
    for _ in range(tries):
        with store.write() as tx:
            got += budgets.take(tx, CA, SUBJECT, LIMIT)
    store.close()
    return got


def _die(url: str, *, committed: bool) -> None:
    store = Store(url, SystemClock(), "taker")
    with store.write() as tx:
        assert budgets.take(tx, CA, SUBJECT, LIMIT)
        if not committed:
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _children(url: str, processes: int, tries: int) -> list[int]:
    start, begin = os.pipe()
    pipes = []
    for _ in range(processes):
        result, answer = os.pipe()
        if os.fork() == 0:
            os.close(begin)
            os.read(start, 1)  # until the parent closes its end
            os.write(answer, json.dumps(_one(url, tries)).encode())
            os._exit(0)
        os.close(answer)
        pipes.append(result)
    os.close(begin)
    got = [json.loads(os.read(pipe, 100)) for pipe in pipes]
    for _ in pipes:
        os.wait()
    return got


def _deaths(url: str) -> None:
    for committed in (False, True):
        number = os.fork()
        if number == 0:
            _die(url, committed=committed)
        os.waitpid(number, 0)


if __name__ == "__main__":
    _deaths(sys.argv[1])
    print(json.dumps(_children(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))  # noqa: T201
