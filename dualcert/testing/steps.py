"""Counting the steps of a run, to end it or to halt it before any one of them.

``watch_system`` makes a step of everything by which a Python program changes the file system or starts another
program; syncing is none, since a kill loses nothing of what was written. It is for a process that exists for this
alone, such as the children of ``dualcert.testing.apart``.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from typing import Any

_CALLS: tuple[tuple[Any, str], ...] = (
    *((os, name) for name in ("open", "write", "fchmod", "chmod", "mkdir", "rename", "replace", "symlink")),
    *((os, name) for name in ("link", "unlink", "rmdir", "truncate", "ftruncate")),
    (fcntl, "flock"),
    (subprocess, "Popen"),
)


_OPEN = os.open
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Calls ``act`` before the step numbered ``at`` (from 1) and before no other."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self._at = at
        self._act = act
        self._taken = 0

    def take(self) -> None:
        self._taken += 1
        if self._taken == self._at:
            self._act()


def watch_system(steps: Steps) -> None:
    """From now on every changing system call of this process is a step. There is no way back."""
    for module, name in _CALLS:
        setattr(module, name, _counted(getattr(module, name), steps))


def _counted(call: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    def counted(*arguments: Any, **keywords: Any) -> Any:
        if call is not _OPEN or arguments[1] & _CHANGING:
            steps.take()
        return call(*arguments, **keywords)

    return counted
