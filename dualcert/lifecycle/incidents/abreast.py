"""Two units of work at a time, where the database lets several write: what carries one out keeps one CPU busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dualcert.lifecycle.world import World

T = TypeVar("T")
U = TypeVar("U")

_WAYS = 2
"""As many connections."""


def abreast(world: World, items: Iterable[T], act: Callable[[T], None]) -> None:
    """``act`` on each item; the next one begins before the last one has ended.

    Two that are under way must not want the same rows. An error ends it, once the other one has come to its end.
    """
    if world.store.dialect == "sqlite":  # it has one writer at a time
        for item in items:
            act(item)
        return
    under_way: deque[Future[None]] = deque()
    with ThreadPoolExecutor(_WAYS, "mass") as threads:
        for item in items:
            under_way.append(threads.submit(act, item))
            if len(under_way) == _WAYS:
                under_way.popleft().result()
        while under_way:
            under_way.popleft().result()


def both(world: World, one: Callable[[], T], other: Callable[[], U]) -> tuple[T, U]:
    """What each of them gives; at the same time, as above."""
    if world.store.dialect == "sqlite":
        return one(), other()
    with ThreadPoolExecutor(1, "mass") as thread:
        beside = thread.submit(other)
        return one(), beside.result()
