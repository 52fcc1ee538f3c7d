"""Many dualcert processes at once: forked from one that has everything imported, so that they start in milliseconds.

Run as a module this is the parent of the crowd: it reads the commands as JSON, forks a child for each before any
thread runs, and says how they ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.program import REPOSITORY, Program, Result
from tests.warm import import_everything


@dataclass(frozen=True)
class Call:
    """A command, begun so many seconds after the first."""

    arguments: tuple[str, ...]
    delay: float = 0.0


def crowd(program: Program, calls: Sequence[Call], folder: Path, timeout: float = 100.0) -> list[Result]:
    """Run the commands as processes of their own, all at once; how each ended, in their order."""
    files = [(folder / f"{number}.out", folder / f"{number}.err") for number in range(len(calls))]
    children = [
        {
            "argv": ["--config", str(program.config), *call.arguments],
            "delay": call.delay,
            "out": str(out),
            "err": str(err),
        }
        for call, (out, err) in zip(calls, files, strict=True)
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.crowd"],
        input=json.dumps(children),
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        timeout=timeout,
        check=True,
    )
    return [
        Result(status, out.read_text(), err.read_text())
        for status, (out, err) in zip(json.loads(done.stdout), files, strict=True)
    ]


def _live(child: dict[str, Any]) -> int:
    from dualcert import cli
    from dualcert.clock import SystemClock

    for stream, path in ((1, child["out"]), (2, child["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
    SystemClock().sleep(child["delay"])
    return cli.main(child["argv"])


def _main() -> None:
    children = json.load(sys.stdin)
    import_everything()
    numbers = []
    for child in children:
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                status = _live(child)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        numbers.append(pid)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in numbers]
    print(json.dumps(statuses), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    _main()
