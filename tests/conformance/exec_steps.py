"""The steps of an exec deployment, counted through dualcert's process and the program's runs as one series.

    python exec_steps.py FILE NUMBER kill|halt PROGRAM [ARGUMENT...]

runs a Python program and kills or halts it, together with the dualcert that started it, before the step of that
number. Whoever deploys counts the steps of dualcert itself with ``SharedSteps``.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

from dualcert.clock import SystemClock
from dualcert.testing.steps import watch_system


class SharedSteps:
    """A count in a file. Two who take a step at one moment do not occur: dualcert waits while its program runs."""

    def __init__(self, file: Path, number: int, what: str) -> None:
        self._file = file
        self._number = number
        self._what = what

    def take(self) -> None:
        # Opened without os.open, it is no step itself.
        with self._file.open("r+") as file:
            taken = int(file.read() or 0) + 1
            file.seek(0)
            file.write(str(taken))
        if taken == self._number:
            self.act()

    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL if self._what == "kill" else signal.SIGSTOP)


class StepsOfProgram(SharedSteps):
    def act(self) -> None:
        dualcert = os.getppid()
        if self._what == "kill":
            os.kill(dualcert, signal.SIGKILL)
            super().act()
        os.kill(dualcert, signal.SIGSTOP)
        while Path(f"/proc/{dualcert}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            SystemClock().sleep(0.001)
        while Path(f"/proc/{dualcert}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            SystemClock().sleep(0.001)


if __name__ == "__main__":
    _, counter, at, mode, program, *rest = sys.argv
    watch_system(StepsOfProgram(Path(counter), int(at), mode))  # type: ignore[arg-type]
    sys.argv = [program, *rest]
    runpy.run_path(program, run_name="__main__")
