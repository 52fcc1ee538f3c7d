"""``dualcert run``"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

import click

from dualcert.cli.context import Context
from dualcert.cli.frame import Command, pass_context
from dualcert.cli.progress import GRACE, duration
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, UsageProblem

_STOP = (signal.SIGTERM, signal.SIGINT)

_EXAMPLES = """
dualcert run                        # the daemon, until it is told to stop
dualcert run --log-format json      # its log as JSON, one line a record
dualcert run --once --timeout 20m   # what is due by then, and the end: for cron
"""
_EXITS = {
    EXIT_DONE: "It was told to end. With --once: nothing is left to do.",
    EXIT_PARTIAL: "With --once: something is left; it is told what.",
}


@click.command(
    "run",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert renew", "dualcert check", "docs/daemon.md"),
)
@click.option("--once", is_flag=True, help="Do what is due, then end; for cron.")
@click.option(
    "--timeout",
    metavar="TIME",
    help=f"With --once: how long to wait for what is left; {GRACE}  [default: 5m]",
)
@pass_context
def run(context: Context, once: bool, timeout: str | None) -> int:
    """Keep all pairs in order: the daemon.

    It renews what is due, refills what was emptied, finishes what any command left, and leaves a primary that cannot
    be renewed for its backup. Several daemons on one database, on one machine or on many, share the work.

    It logs to stderr what it does (with -v in every detail). SIGTERM or SIGINT ends it within ten seconds: steps that
    are under way may end, and what is left is taken up by whoever comes next. A second signal ends it at once. The
    configuration is read at the start only.

    With --once it does what is due and ends, with the exit status of `renew --due`. A step that comes due within
    --timeout, such as a failed order's next try, both wait for. They differ in two things: what another process holds,
    `renew --due` follows until it is done, and `run --once` leaves to it; and where nothing is left, `run --once` says
    nothing.
    """
    from dualcert.cli import logs

    if timeout is not None and not once:
        raise UsageProblem("--timeout goes with --once", remedy="See dualcert run --help.")
    if once:
        from dualcert.cli.renew import run_due

        return run_due(context, duration(timeout or "5m"), once=True)
    # What a daemon does is wanted in the journal without being asked for.
    logs.configure(context.verbosity + 1, context.log_format)
    _serve(context)
    return EXIT_DONE


def _serve(context: Context) -> None:
    import logging
    from importlib.metadata import version

    from dualcert.cli.systemd import Notifier
    from dualcert.lifecycle.daemon import Daemon
    from dualcert.scheduling import serve

    world = context.application.world
    daemon = Daemon(world, version("dualcert"))
    with _signals() as signals:
        logging.getLogger(__name__).info(
            "started: dualcert %s, %s, as %s", version("dualcert"), context.settings.path, daemon.owner
        )
        serve(daemon, world.clock, signals, Notifier(world.clock))


@contextmanager
def _signals() -> Iterator[SimpleQueue[int]]:
    """The signals that arrive. The second one that would end the process ends it at once."""
    arrived: SimpleQueue[int] = SimpleQueue()
    ending: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        # Between any two steps of the main thread: nothing here may take a lock.
        if number in _STOP:
            if ending:
                os._exit(128 + number)
            ending.append(number)
        arrived.put(number)

    before = {number: signal.signal(number, handle) for number in (*_STOP, signal.SIGHUP)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
