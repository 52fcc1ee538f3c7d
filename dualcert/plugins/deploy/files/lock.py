"""A lock between processes that ends with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualcert.clock import Clock
from dualcert.errors import DeployError
from dualcert.plugins.deploy.files.problems import explained

_FIRST_LOOK = 0.001
_SLOWEST_LOOK = 0.05


@contextmanager
def locked(path: Path, *, patience: float, clock: Clock) -> Iterator[None]:
    """Hold the exclusive lock of ``path``; DeployError when it was not free for ``patience`` seconds.

    The wait has an end because a holder may be stopped (SIGTSTP, a frozen container) and keep the lock.
    """
    with explained("lock", path):
        # Reading is enough for flock, so that an existing lock file works on a read-only file system too.
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(descriptor, path, patience, clock)
        try:
            yield
        finally:
            # Said aloud: closing alone would leave the lock with a copy that a fork in another thread has made.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, patience: float, clock: Clock) -> None:
    deadline = clock.monotonic() + patience
    pause = _FIRST_LOOK
    while True:
        with explained("lock", path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return
        if clock.monotonic() >= deadline:
            raise DeployError(
                f"another process has held {path} for {patience:.0f} seconds",
                remedy=f"find it with `fuser {path}`, let it go on or end it, then run `dualcert renew --due`",
            )
        clock.sleep(pause)
        pause = min(pause * 2, _SLOWEST_LOOK)
