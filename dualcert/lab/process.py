"""One server process of the lab: started so that it cannot outlive us, stopped, and asked what it said."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from dualcert.lab.errors import LabError, PortTaken
from dualcert.lab.polling import wait_for

START_SECONDS = 15.0
_GRACE_SECONDS = 3.0
_TAIL_LINES = 12
_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")


class ServerProcess:
    """A program in a process group of its own (a Ctrl-C is ours alone), with its output in a log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [*die_with_us(), *command]
        self._directory = directory
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        self._environment = {**inherited, "LC_ALL": "C", "TZ": "UTC", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LabError(f"{self.name} is not running", remedy="Start it first.")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start it; whether it serves is for ``wait_ready`` to say."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._process = _SPAWNER.run(
                lambda: subprocess.Popen(
                    self._command,
                    cwd=self._directory,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            )

    def wait_ready(self, ready: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Return once ``ready()``; LabError with the log's last lines if the program ends or is too slow."""
        served = False

        def settled() -> bool:
            nonlocal served
            served = self.running and ready()
            return served or not self.running or self._port_is_taken()

        wait_for(settled, seconds)
        if served:
            return
        what = "does not answer" if self.running else "ended right after its start"
        error = PortTaken if self._port_is_taken() else LabError
        raise error(f"{self.name} {what}; it said:\n{self.tail()}", remedy=f"All of its output: {self.log}")

    def tail(self) -> str:
        """The last lines that it said since its start."""
        return "\n".join(self._said().splitlines()[-_TAIL_LINES:]) or "(nothing)"

    def _said(self) -> str:
        try:
            return self.log.read_bytes()[self._log_start :].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _port_is_taken(self) -> bool:
        # nginx and named go on trying or running without the port, so their end would be waited for in vain.
        return "address in use" in self._said().lower() or "already in use" in self._said().lower()

    def ask_to_stop(self) -> None:
        """Send SIGTERM without waiting, so that several stop side by side."""
        if self.running:
            self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it, gently for three seconds; harmless if it has ended."""
        self.ask_to_stop()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill(self) -> None:
        """End it at once, as a crash would; for a program that hangs."""
        if self.running:
            self._signal(signal.SIGKILL)
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        # It may end between the look and the signal; as it is not reaped yet, the pid is still its own.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def die_with_us() -> list[str]:
    """Words before a command: Linux kills it when the thread that started it ends, even by SIGKILL."""
    if sys.platform != "linux":
        return []
    setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if setpriv is None:
        raise LabError("setpriv is missing: servers could outlive the lab", remedy="apt install util-linux")
    return [setpriv, "--pdeathsig", "KILL", "--"]


class _Spawner:
    """Starts all servers from one thread that lives as long as the process.

    The kernel's parent-death signal looks at the thread, not the process: a server started by a worker thread
    would be killed as soon as that worker is done.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ]
        self._jobs = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def run(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._starting:
            # In a forked child the thread is gone, and another takes its place.
            if self._thread is None or not self._thread.is_alive():
                self._jobs = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._serve, name="lab-spawner", daemon=True)
                self._thread.start()
        outcome: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((start, outcome))
        return outcome.result()

    def _serve(self) -> None:
        while True:
            start, outcome = self._jobs.get()
            try:
                outcome.set_result(start())
            except OSError as error:
                outcome.set_exception(error)


_SPAWNER = _Spawner()
