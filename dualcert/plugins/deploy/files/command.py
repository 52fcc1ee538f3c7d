"""Running the command that reloads a server."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Sequence

from dualcert.clock import Clock
from dualcert.errors import DeployError

TAIL = 4096  # bytes of the command's output that an error shows
_PIPE = 65536


def run(argv: Sequence[str], *, timeout: float, clock: Clock) -> None:
    """Run a command to its end; DeployError when it cannot start, fails, or takes longer than ``timeout`` seconds.

    It leads a session of its own and reads nothing; when its time is up, it is killed with every child that stayed
    in its process group. A child that outlives a command which ended by itself is left alone: it may be the server.
    """
    read_end, write_end = os.pipe()
    try:
        try:
            process = _started(argv, write_end)
        finally:
            os.close(write_end)
        output = _Tail(read_end)
        ended = False
        try:
            ended = _watched(process, output, clock.monotonic() + timeout, clock)
        finally:
            # Nobody has reaped it yet, so its number still means our group and nobody else's.
            if not ended:
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        output.drain()
    finally:
        os.close(read_end)
    if not ended:
        raise _failed(argv, f"did not end within {timeout:g} seconds and was killed", output)
    if status:
        how = f"ended with exit status {status}" if status > 0 else f"was killed by signal {-status}"
        raise _failed(argv, how, output)


def _started(argv: Sequence[str], output: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise DeployError(
            f"the reload command {argv[0]!r} cannot be started: {why}",
            remedy="give `reload` as a list, the command first and one word per item, and make it executable",
        ) from error


def _watched(process: subprocess.Popen[bytes], output: _Tail, deadline: float, clock: Clock) -> bool:
    """Read what the command writes until it has ended (True) or its time is up (False).

    The end of its output is not its own end, nor the other way round: a server that it started may hold the pipe
    for as long as it lives.
    """
    end = _when_ended(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(output.descriptor, selectors.EVENT_READ)
            selector.register(end, selectors.EVENT_READ)
            while (left := deadline - clock.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left)}
                if end in ready:
                    return True
                if output.descriptor in ready and not output.read():
                    selector.unregister(output.descriptor)
        return False
    finally:
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


class _Tail:
    """The last bytes of what came through a pipe."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._bytes = b""

    def read(self) -> bool:
        """Take a piece that is there; False at the end."""
        chunk = os.read(self.descriptor, _PIPE)
        self._bytes = (self._bytes + chunk)[-TAIL:]
        return bool(chunk)

    def drain(self) -> None:
        """Take what is left, once and no more than a pipe holds: a child left behind may write for ever."""
        with contextlib.suppress(BlockingIOError):
            self.read()

    def __str__(self) -> str:
        return self._bytes.decode("utf-8", "replace").strip()


def _failed(argv: Sequence[str], how: str, output: _Tail) -> DeployError:
    # Only the first word is named: an argument may hold what is nobody's business.
    said = str(output)
    reason = f"the reload command {argv[0]!r} {how}"
    return DeployError(
        f"{reason}, having said:\n{said}" if said else f"{reason} without a word",
        remedy="the files are in place: mend the server's configuration or the command; the next run reloads again",
    )
