"""Deployments in processes of their own, which can be killed or halted before each of their steps.

``Apart`` starts ``python -m dualcert.testing.apart``, which forks a child for each deployment. (Forking in the test's
own process would take its threads' locks along.) Keys travel through a pipe, never as arguments.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dualcert.errors import DeployError
from dualcert.ports.deploy import Deployer, Placement
from dualcert.testing.steps import Steps, watch_system

Results = Mapping[str, DeployError | None]
End = Literal["done", "killed", "halted"]


class Call(Protocol):
    """A deployment that runs beside the test."""

    def wait(self) -> End:
        """Wait until it is done, was killed, or stands halted before its step."""
        ...

    def resume(self) -> None:
        """Let it go on after a halt."""
        ...

    @property
    def results(self) -> Results:
        """What ``deploy`` returned; after ``done`` only."""
        ...


@dataclass(frozen=True)
class _Request:
    deployer: type[Deployer]
    options: Any
    placements: tuple[Placement, ...]
    kill_before: int
    halt_before: int


class Apart:
    """One process for one deployment at a time; ``close`` ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dualcert.testing.apart"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def start(
        self,
        deployer: type[Deployer],
        options: Any,
        placements: Sequence[Placement],
        *,
        kill_before: int = 0,
        halt_before: int = 0,
    ) -> Call:
        """Deploy with a new ``deployer(options)``. Steps count from 1; 0 means none."""
        assert self._process.stdin is not None
        request = _Request(deployer, options, tuple(placements), kill_before, halt_before)
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        return _RemoteCall(self._process)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class _RemoteCall:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._halted = 0
        self._results: Results | None = None

    def wait(self) -> End:
        assert self._process.stdout is not None
        end, content = pickle.load(self._process.stdout)  # noqa: S301 - from a child of ours
        if end == "failed":
            raise AssertionError(f"the deployment beside the test raised: {content}")
        if end == "halted":
            self._halted = content
        if end == "done":
            self._results = content
        return end  # type: ignore[no-any-return]

    def resume(self) -> None:
        os.kill(self._halted, signal.SIGCONT)

    @property
    def results(self) -> Results:
        assert self._results is not None, "it has not ended"
        return self._results


def _serve() -> None:
    """Fork for each request, tell how its child stands."""
    while True:
        try:
            request: _Request = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the test that started us
        except EOFError:
            return
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _run(request, writer)
        os.close(writer)
        _follow(child, reader)


def _follow(child: int, reader: int) -> None:
    while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
        _tell("halted", child)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    if os.WIFSIGNALED(status):
        _tell("killed", None)
    else:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _tell(end: str, content: object) -> None:
    pickle.dump((end, content), sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _run(request: _Request, writer: int) -> None:
    """In the forked child; never returns."""
    write = os.write  # the pipe to the parent is no step
    deployer = request.deployer(request.options)  # type: ignore[call-arg]
    if request.kill_before:
        watch_system(Steps(request.kill_before, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    if request.halt_before:
        watch_system(Steps(request.halt_before, lambda: os.kill(os.getpid(), signal.SIGSTOP)))
    answer: tuple[str, object]
    try:
        answer = ("done", dict(deployer.deploy(request.placements)))
    except Exception as error:  # noqa: BLE001 - told to the test, which fails by it
        answer = ("failed", repr(error))
    write(writer, pickle.dumps(answer))
    os._exit(0)


if __name__ == "__main__":
    _serve()
