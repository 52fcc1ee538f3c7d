"""Two units of work at a time, where the database lets several write: what carries one out keeps one CPU busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from dualcert.lifecycle.world import World

T = TypeVar("T")
R = TypeVar("R")

_WAYS = 2
"""As many connections; and a failover meanwhile is to find a CPU."""


def lets_several_write(world: World) -> bool:
    """SQLite has one writer at a time."""
    return world.store.dialect != "sqlite"


def abreast(world: World, items: Iterable[T], act: Callable[[T], R]) -> Iterator[R]:
    """What ``act`` makes of each item, in their order; the next one begins before the last one has ended.

    Two that are under way must not want the same rows. An error ends it, once the other one has come to its end.
    """
    if not lets_several_write(world):
        yield from map(act, items)
        return
    under_way: deque[Future[R]] = deque()
    with ThreadPoolExecutor(_WAYS, "mass") as threads:
        for item in items:
            under_way.append(threads.submit(act, item))
            if len(under_way) == _WAYS:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


@contextmanager
def beside(act: Callable[[], R]) -> Iterator[Future[R]]:
    """What ``act`` does meanwhile, in a thread of its own; the block does not end before it has."""
    with ThreadPoolExecutor(1, "mass") as thread:
        yield thread.submit(act)
