"""The lock of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualcert.clock import Clock
from dualcert.errors import DeployError
from dualcert.plugins.deploy.files.problems import explained
from dualcert.plugins.lock import acquire, opened, released


@contextmanager
def locked(path: Path, *, patience: float, clock: Clock) -> Iterator[None]:
    """Hold the exclusive lock of ``path``; DeployError when it was not free for ``patience`` seconds."""
    with explained("lock", path):
        descriptor = opened(path)
    try:
        with explained("lock", path):
            ours = acquire(descriptor, patience=patience, clock=clock)
        if not ours:
            raise DeployError(
                f"another process has held {path} for {patience:.0f} seconds",
                remedy=f"find it with `fuser {path}`, let it go on or end it, then run `dualcert renew --due`",
            )
        with released(descriptor):
            yield
    finally:
        os.close(descriptor)
