"""A lock between processes that ends with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualcert.clock import Clock

_FIRST_LOOK = 0.001
_SLOWEST_LOOK = 0.05


def opened(path: Path) -> int:
    """A descriptor of the lock file, made where it is missing; OSError."""
    # Reading is enough for flock, so that an existing lock file works on a read-only file system too.
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def acquire(descriptor: int, *, patience: float, clock: Clock) -> bool:
    """Wait for the exclusive lock; False when it was not free for ``patience`` seconds. OSError.

    The wait has an end because a holder may be stopped (SIGTSTP, a frozen container) and keep the lock.
    """
    deadline = clock.monotonic() + patience
    pause = _FIRST_LOOK
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return True
        if clock.monotonic() >= deadline:
            return False
        clock.sleep(pause)
        pause = min(pause * 2, _SLOWEST_LOOK)


@contextmanager
def released(descriptor: int) -> Iterator[None]:
    """Give the lock up at the end."""
    try:
        yield
    finally:
        # Said aloud: closing alone would leave the lock with a copy that a fork in another thread has made.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
