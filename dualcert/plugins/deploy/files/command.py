"""Running the command that reloads a server."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dualcert.clock import Clock
from dualcert.errors import DeployError
from dualcert.plugins.execution import TAIL, How, carry_out
from dualcert.plugins.plaintext import plain

__all__ = ["TAIL", "run"]


def run(argv: Sequence[str], *, timeout: float, clock: Clock, variables: Sequence[str] = ()) -> None:
    """Run a command to its end; DeployError when it cannot start, fails, or takes longer than ``timeout`` seconds.

    ``variables`` are names of those that it sees beside the usual ones.
    """
    try:
        ended = carry_out(argv, timeout=timeout, clock=clock, variables=variables)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise DeployError(
            f"the reload command {argv[0]!r} cannot be started: {why}",
            remedy="give `reload` as a list, the command first and one word per item, and make it executable",
        ) from error
    if ended.how is not How.ENDED:
        raise _failed(argv, f"did not end within {timeout:g} seconds and {ended.fate}", ended.complaints)
    if ended.status:
        how = f"ended with exit status {ended.status}"
        if ended.status < 0:
            how = f"was killed by signal {-ended.status}"
        raise _failed(argv, how, ended.complaints)


def _failed(argv: Sequence[str], how: str, output: bytes) -> DeployError:
    # Only the first word is named: an argument may hold what is nobody's business.
    said = plain(output.decode("utf-8", "replace"))
    reason = f"the reload command {argv[0]!r} {how}"
    return DeployError(
        f"{reason}, having said:\n{said}" if said else f"{reason} without a word",
        remedy="the files are in place: mend the server's configuration or the command; the next run reloads again",
    )
