"""The command line. ``main`` runs one command and gives its exit status; ``entry`` is the console script.

Reading order: commands (what there is), frame (global options, lazy loading, error mapping), context (what a command
is handed), output and logs; completion; then one thin module per noun.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualcert.bootstrap import Application, Settings

    Build = Callable[[Settings], Application]

__all__ = ["entry", "main"]


def main(argv: Sequence[str] | None = None, *, build: Build | None = None) -> int:
    """Run one command; its exit status. Nothing escapes but what no program may catch.

    ``build`` wires the application from the settings; unsaid: ``dualcert.bootstrap.build``.
    """
    from dualcert.cli.commands import dualcert
    from dualcert.cli.context import Context
    from dualcert.cli.frame import run

    # Not list(): a module of this package has that name once it is imported.
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    return run(dualcert, arguments, Context(build))


def collect_seldom() -> None:
    """Look for garbage less often than usual.

    Importing makes a hundred thousand objects that stay; looking through them takes a sixth of a command's start.
    """
    gc.set_threshold(200_000, 20, 20)


def open_streams() -> None:
    """Have something behind stdin, stdout and stderr, should whoever started this process have closed them.

    The next file that is opened would get the number of a closed one: whatever writes to stderr, here or in a program
    that is started, would write into the database.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def entry() -> None:
    """The console script."""
    try:
        open_streams()
        collect_seldom()
        from dualcert.cli import completion

        completion.prepare()
        status = main()
    except KeyboardInterrupt:
        # Before or after the command itself, while modules load or output is written.
        status = 130
    # The interpreter looks through all that is left when it ends, twice; what is frozen it leaves alone.
    gc.freeze()
    sys.exit(status)
