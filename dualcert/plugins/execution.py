"""Running a program to its end, with an end: its time, its output and its children are bounded."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from dualcert.clock import Clock
from dualcert.onecpu import one_cpu

HANDED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
"""What a program needs to find its way. All else may be secret: tokens of dualcert.toml can come from variables."""

TAIL = 4096  # bytes of a program's complaints that an error shows
_PIPE = 65536
_LOOK = (
    0.02  # seconds, between two looks whether it has ended, on systems where nobody can wait for that alone
)


class How(Enum):
    """How a program came to its end."""

    ENDED = "ended by itself"
    TOO_SLOW = "killed when its time was up"
    TOO_LONG = "killed for writing more than was asked for"


@dataclass(frozen=True)
class Ended:
    """``status`` is the exit status, negative for a signal; ``answer`` what it wrote to its standard output (empty
    where that went among the complaints); ``complaints`` the last bytes of its standard error. ``left``: it could not
    be killed, because it runs as another user by now, as what ``sudo`` starts does."""

    how: How
    status: int
    answer: bytes
    complaints: bytes
    left: bool = False

    @property
    def fate(self) -> str:
        """What became of one that did not end by itself."""
        return (
            "cannot be killed, since it runs as another user" if self.left else "was killed with its children"
        )


def carry_out(
    argv: Sequence[str],
    *,
    timeout: float,
    clock: Clock,
    request: bytes | None = None,
    most_answer: int | None = None,
    variables: Sequence[str] = (),
    folder: Path | None = None,
    keep: Sequence[int] = (),
) -> Ended:
    """Run a command to its end; OSError when it cannot be started.

    It leads a session of its own. It reads ``request``, or nothing. Without ``most_answer`` both of its outputs are
    complaints; with it, more than so many bytes on its standard output end it. When its time (seconds) is up, it is
    killed with every child that stayed in its process group, where that is allowed. A child that outlives a program
    which ended by itself is left alone: it may be a server. It sees the variables ``HANDED_ON`` and ``variables``, and
    has ``keep`` open, too.
    """
    with one_cpu.elsewhere():
        process = subprocess.Popen(
            list(argv),
            bufsize=0,
            stdin=subprocess.DEVNULL if request is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if most_answer is None else subprocess.PIPE,
            start_new_session=True,
            env={name: os.environ[name] for name in (*HANDED_ON, *variables) if name in os.environ},
            cwd=folder,
            pass_fds=keep,
        )
    try:
        answer = None if process.stderr is None else _Collected(process.stdout, most=most_answer)
        complaints = _Collected(process.stderr or process.stdout, most=None)
        attended = [one for one in (answer, complaints) if one is not None]
        how, left = None, False
        try:
            how = _attended(process, request or b"", attended, clock.monotonic() + timeout, clock)
        finally:
            left = how is not How.ENDED and not _killed(process)
            status = 0 if left else process.wait()
        for one in attended:
            one.drain()
        if answer is not None and answer.full:
            how = How.TOO_LONG
        return Ended(how, status, b"" if answer is None else answer.data, complaints.data, left)
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _killed(process: subprocess.Popen[bytes]) -> bool:
    """Kill its group; False where that is not allowed, and then it is reaped whenever it ends."""
    try:
        # Nobody has reaped it yet, so its number still means our group and nobody else's.
        os.killpg(process.pid, signal.SIGKILL)
    except PermissionError:
        threading.Thread(target=process.wait, daemon=True, name=f"left {process.pid}").start()
        return False
    return True


def check_variables(names: Sequence[str]) -> None:
    """ValueError where one of them cannot be the name of a variable."""
    if any(not name or "=" in name or "\0" in name for name in names):
        raise ValueError("environment: give names of variables; their values stay where they are")


def _attended(
    process: subprocess.Popen[bytes],
    request: bytes,
    collected: Sequence[_Collected],
    deadline: float,
    clock: Clock,
) -> How:
    """Feed the program and read what it writes until it has ended, or something is too much.

    The end of its output is not its own end, nor the other way round: a server that it started may hold the pipe
    for as long as it lives.
    """
    end = _when_ended(process.pid) if hasattr(os, "waitid") else None
    try:
        with selectors.DefaultSelector() as selector:
            if end is not None:
                selector.register(end, selectors.EVENT_READ)
            for one in collected:
                selector.register(one.descriptor, selectors.EVENT_READ, one)
            feeding = None if process.stdin is None else _Feeding(process.stdin.fileno(), request)
            if feeding is not None:
                selector.register(feeding.descriptor, selectors.EVENT_WRITE, feeding)
            while (left := deadline - clock.monotonic()) > 0:
                ready = [key for key, _ in selector.select(left if end is not None else min(left, _LOOK))]
                if (end is None and process.poll() is not None) or any(key.fd == end for key in ready):
                    return How.ENDED
                for key in ready:
                    if key.data.go_on():
                        continue
                    selector.unregister(key.fd)
                    if key.data is feeding and process.stdin is not None:
                        process.stdin.close()  # the program sees the end of its request
                if any(one.full for one in collected):
                    return How.TOO_LONG
        return How.TOO_SLOW
    finally:
        if end is not None:
            os.close(end)


def _when_ended(pid: int) -> int:
    """A descriptor that becomes readable when the process has ended; the process is left to be reaped."""
    read_end, write_end = os.pipe()

    def wait() -> None:
        try:
            # Once it was killed, whoever killed it may have reaped it before this thread looks.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        finally:
            os.close(write_end)

    threading.Thread(target=wait, daemon=True, name=f"end of {pid}").start()
    return read_end


class _Feeding:
    """A request on its way through a pipe."""

    def __init__(self, descriptor: int, request: bytes) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._rest = memoryview(request)

    def go_on(self) -> bool:
        """Write a piece; False when there is no more to write, or nobody who reads."""
        try:
            self._rest = self._rest[os.write(self.descriptor, self._rest[:_PIPE]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False  # not having read all is no failure by itself: its answer counts
        return bool(self._rest)


class _Collected:
    """What came through a pipe: all of it, up to ``most`` bytes, or its tail."""

    def __init__(self, pipe: IO[bytes] | None, *, most: int | None) -> None:
        assert pipe is not None  # noqa: S101 - asked for when the program was started
        self.descriptor = pipe.fileno()
        os.set_blocking(self.descriptor, False)
        self.data = b""
        self._most = most

    @property
    def full(self) -> bool:
        return self._most is not None and len(self.data) > self._most

    def go_on(self) -> bool:
        """Take a piece that is there; False at the end."""
        chunk = os.read(self.descriptor, _PIPE)
        self.data += chunk
        if self._most is None:
            self.data = self.data[-TAIL:]
        return bool(chunk)

    def drain(self) -> None:
        """Take what is left. Of complaints no more than one piece: a child left behind may write for ever."""
        with contextlib.suppress(BlockingIOError):
            while self.go_on() and self._most is not None and not self.full:
                pass
