"""Who holds a lease: host, boot, process and its start, so that a dead local owner is recognised at once."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import count
from pathlib import Path

from dualcert.clock import uptime

_engines = count(1)


@dataclass(frozen=True)
class Owner:
    """``place`` is where process numbers mean something: a host's boot, and a process namespace on it."""

    host: str
    place: str
    pid: int
    started: str
    engine: int

    def __str__(self) -> str:
        return f"{self.host}|{self.place}|{self.pid}|{self.started}|{self.engine}"


def new_owner() -> Owner:
    """This process, once more for each engine in it."""
    return Owner(socket.gethostname(), _place(), os.getpid(), _mine(os.getpid()), next(_engines))


def is_dead(text: str, silent_for: timedelta | None = None) -> bool:
    """Whether an owner is known to be gone. One that lives elsewhere is never known to be.

    ``silent_for``: how long ago it last showed that it lives; None where nobody but this machine can be meant.
    """
    try:
        host, place, pid, started, _ = text.split("|")
        number = int(pid)
    except ValueError:
        return False
    if host != socket.gethostname():
        return False
    if place != _place():
        # The same host after another boot: nothing of before is alive. Another namespace of this boot may be, and so
        # may whoever cannot tell the boot, or whom we cannot tell it of.
        theirs, ours = place.partition("/")[0], _place().partition("/")[0]
        return bool(theirs and ours) and theirs != ours and _since_before_our_boot(silent_for)
    if number == os.getpid():
        return _mine(number) != started
    return not _hidden(number) and _started(number) != started


def _since_before_our_boot(silent_for: timedelta | None) -> bool:
    """Whoever was heard of later is another machine of the same name, be it a copy of this one or a container."""
    if silent_for is None:
        return True
    ours = uptime()
    return ours is not None and silent_for > timedelta(seconds=ours)


@lru_cache(maxsize=1)
def _mine(pid: int) -> str:
    """When this process was started; its number is asked for, since a child has another."""
    return _started(pid) or ""


@lru_cache(maxsize=1)
def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return f"{boot.read_text().strip() if boot.exists() else ''}/{_link(namespace)}"


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _hidden(pid: int) -> bool:
    """Whether a process exists that we may not look at: /proc can be mounted so that it shows our own alone."""
    if Path(f"/proc/{pid}/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return False


def _started(pid: int) -> str | None:
    """When a process was started, in whatever form the system gives; None where there is no such process."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _started_by_ps(pid)
    # Field 22 of proc(5); a zombie (field 3) has ended.
    return None if fields[0] == "Z" else fields[19]


def _started_by_ps(pid: int) -> str | None:
    answer = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None
