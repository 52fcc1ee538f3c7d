"""Units of work that follow each other, as large as this machine and its database carry out in a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dualcert.lifecycle.world import World
from dualcert.policy import pace as policy


class Pace:
    """``size``: how many the next unit is to take on, at most ``most``."""

    def __init__(self, world: World, most: int) -> None:
        self._world = world
        self._most = most
        self.size = most // 2

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Around one, its commit included; others who wait to write come before the next one."""
        clock = self._world.clock
        began = clock.monotonic()
        yield
        self.size = policy.next_size(self.size, clock.monotonic() - began, self._most)
        self._world.store.give_way()
