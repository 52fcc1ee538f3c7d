"""Running dualcert in tests: inside this process where that is enough, as a process of its own where it is not."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dualcert import bootstrap, cli
from dualcert.bootstrap import Application
from dualcert.config import Settings

REPOSITORY = Path(__file__).parent.parent
_CTRL_C = b"\x03"
_UNHEARD = 5.0
"""Seconds without a word."""


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Program:
    """dualcert over one configuration file."""

    config: Path

    def run(self, *arguments: str, build: Callable[[Settings], Application] | None = None) -> Result:
        """Run a command inside this process. Not for several threads at once: it takes over stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(["--config", str(self.config), *arguments], build=build)
        return Result(status, out.getvalue(), err.getvalue())

    def done(self, *arguments: str) -> Result:
        """Run a command that is expected to succeed."""
        result = self.run(*arguments)
        assert result.status == 0, (arguments, result)
        return result

    def show(self, name: str) -> Any:
        return self.done("show", name, "--json").json

    def events(self, name: str) -> list[Any]:
        return self.done("events", name, "--json").lines

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command as a process of its own; the caller waits for it."""
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def asked(self, *arguments: str, answer: bytes) -> Result:
        """Run a command that asks a person at a terminal, who types an answer, ``b"\\x03"`` for Ctrl-C; all that was
        shown is ``out``.

        Whom nothing follows types Ctrl-C again: where it comes just before Python waits for a line, Python hears of it
        with the next key.
        """
        ours, theirs = os.openpty()
        process = subprocess.Popen(self.command(*arguments), preexec_fn=partial(os.login_tty, theirs))  # noqa: PLW1509
        os.close(theirs)
        shown = b""
        with open(ours, "r+b", buffering=0) as terminal:  # noqa: PTH123 - a terminal has no path
            while not shown.endswith(b"[y/N]: ") and (some := terminal.read(1000)):
                shown += some
            terminal.write(answer)
            # EIO: nobody holds its other end any more.
            with contextlib.suppress(OSError):
                while True:
                    if not select.select([terminal], [], [], _UNHEARD)[0] and answer == _CTRL_C:
                        terminal.write(answer)
                    elif some := terminal.read(1000):
                        shown += some
                    else:
                        break
        return Result(process.wait(), shown.decode(), "")

    def command(self, *arguments: str) -> Sequence[str]:
        code = "import sys; from dualcert.cli import entry; entry()"
        return [sys.executable, "-c", code, "--config", str(self.config), *arguments]

    def move_to(self, database: str) -> None:
        """Use another database from now on."""
        text = self.config.read_text()
        self.config.write_text(re.sub(r"(?m)^database = .*$", f'database = "{database}"', text))

    def application(self) -> Application:
        """The wired application, for looking at the database and for driving the engine; close it."""
        return bootstrap.build(bootstrap.load_settings(self.config))


def finish(process: subprocess.Popen[str], timeout: float = 60.0) -> Result:
    out, err = process.communicate(timeout=timeout)
    return Result(process.returncode, out, err)
