"""A user's program, asked in JSON: one request on its standard input, one answer on its standard output.

The protocol is told in ``docs/exec.md``. Nothing but the request tells the program anything: its arguments and its
environment are those of the configuration, so that no secret of ours is in either.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from dualcert.clock import Clock
from dualcert.plugins.execution import TAIL, Ended, How, carry_out, check_variables
from dualcert.plugins.plaintext import end_of, plain, start_of
from dualcert.ports.options import Options, option

PROTOCOL = 1
MOST_ANSWER = 1 << 20  # bytes
_MOST_SHOWN = 2000  # characters of what a program said
_MOST_REASON = 500
_MOST_RETRY = 86400.0  # seconds

# Kinds of problems that are ours; a program has its own beside them.
NOT_STARTED = "not started"
TOO_SLOW = "too slow"
CRASHED = "crashed"
RUBBISH = "rubbish"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProgramOptions(Options):
    """Which program, and how long it may take."""

    most_timeout: ClassVar[float]

    program: Path = option(help="the program: it reads a request on its standard input (docs/exec.md)")
    arguments: tuple[str, ...] = option(
        default=(),
        help="arguments for it, one word per item and no shell; everybody can see them: no secrets",
    )
    environment: tuple[str, ...] = option(
        default=(), help="names of environment variables to hand on, beside PATH, HOME, LANG and the like"
    )

    def check(self, timeout: float) -> None:
        if any("\0" in word for word in self.arguments):
            raise ValueError("arguments: a word cannot hold a NUL character")
        check_variables(self.environment)
        if not 0 < timeout <= self.most_timeout:
            raise ValueError(f"timeout: must be above 0 and at most {self.most_timeout:g} seconds")


class ProgramProblem(Exception):
    """Why there is no good answer; ``kind`` is the program's own word for it, or one of those above."""

    def __init__(
        self, kind: str, reason: str, remedy: str | None = None, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.remedy = remedy
        self.retry_after = retry_after


@dataclass(frozen=True)
class Program:
    """``keep`` are descriptors that stay open for as long as it runs: of a lock, which it then holds with us."""

    path: Path
    arguments: Sequence[str]
    environment: Sequence[str]
    clock: Clock
    keep: tuple[int, ...] = ()

    def keeping(self, descriptor: int) -> Program:
        return replace(self, keep=(*self.keep, descriptor))

    def ask(
        self, operation: str, content: Mapping[str, Any], *, timeout: float, keys: Iterable[bytes] = ()
    ) -> dict[str, Any]:
        """Its answer to one request. ``keys`` are the private keys in it. Raises ProgramProblem."""
        request = json.dumps({"protocol": PROTOCOL, "operation": operation, **content}).encode()
        ended = self._run(request, timeout)
        keys = tuple(keys)
        said = end_of(ended.complaints, _MOST_SHOWN, keys, whole=len(ended.complaints) < TAIL)
        if said:
            _log.debug("%s said during %s: %s", self.path.name, operation, said)
        if (problem := _unfinished(ended, timeout)) is not None:
            kind, what, remedy = problem
            reason = f"the program {self.path} {what} during {operation}"
            raise ProgramProblem(kind, f"{reason}, having said:\n{said}" if said else reason, remedy)
        answer = _parsed(ended.answer)
        number = answer.get("protocol") if isinstance(answer, dict) else None
        # To Python true is a 1.
        if not isinstance(answer, dict) or isinstance(number, bool) or number != PROTOCOL:
            begun = start_of(ended.answer, _MOST_REASON, keys) or "nothing"
            raise self.rubbish(operation, f'what is no JSON object with "protocol": {PROTOCOL}: {begun}')
        if answer.get("error") is not None:
            raise told(answer["error"], keys=keys)
        return answer

    def rubbish(self, operation: str, what: str) -> ProgramProblem:
        return ProgramProblem(
            RUBBISH,
            f"the program {self.path} answered {operation} with {what}",
            "Print the answer of docs/exec.md on standard output, and all else on standard error.",
        )

    def _run(self, request: bytes, timeout: float) -> Ended:
        try:
            return carry_out(
                [str(self.path), *self.arguments],
                timeout=timeout,
                clock=self.clock,
                request=request,
                most_answer=MOST_ANSWER,
                variables=self.environment,
                folder=self.path.parent,
                keep=self.keep,
            )
        except OSError as error:
            raise _not_started(self.path, error) from error


def told(error: Any, *, keys: Iterable[bytes] = ()) -> ProgramProblem:
    """What a program says went wrong, made plain."""
    given = error if isinstance(error, dict) else {"reason": error}

    def text(key: str) -> str:
        value = given.get(key)
        return plain(value, keys)[:_MOST_REASON] if isinstance(value, str) else ""

    return ProgramProblem(
        text("kind"),
        text("reason") or "the program gave no reason",
        text("remedy") or None,
        _seconds(given.get("retry_after")),
    )


def _seconds(value: Any) -> timedelta | None:
    # Compared alone: JSON has integers that no float can hold, and what is not a number is above none.
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    return timedelta(seconds=min(value, _MOST_RETRY))


def _parsed(answer: bytes) -> Any:
    """None where it is not JSON: the parser's own error would carry the whole text along."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None


def _unfinished(ended: Ended, timeout: float) -> tuple[str, str, str] | None:
    """Kind, what happened, and remedy; None where it came to a good end."""
    if ended.how is How.TOO_SLOW:
        what = f"did not end within {timeout:.3g} seconds and {ended.fate}"
        return TOO_SLOW, what, "Make it faster or raise `timeout`; it is asked again."
    if ended.how is How.TOO_LONG:
        what = f"wrote more than {MOST_ANSWER} bytes to its standard output and {ended.fate}"
        return RUBBISH, what, "Print the answer alone there, and all else on standard error."
    by_hand = "Try it by hand with a request of docs/exec.md."
    if ended.status < 0:
        return CRASHED, f"was killed by signal {-ended.status}", by_hand
    if ended.status:
        return CRASHED, f"ended with exit status {ended.status}", by_hand
    return None


def _not_started(path: Path, error: OSError) -> ProgramProblem:
    why = os.strerror(error.errno) if error.errno else type(error).__name__
    remedy = "Put it there, or correct `program`."
    if isinstance(error, FileNotFoundError) and path.exists():
        why, remedy = "the interpreter in its first line does not exist", "Correct its first line (#!)."
    elif isinstance(error, FileNotFoundError):
        why = "it does not exist"
    elif error.errno == errno.ENOEXEC:
        why, remedy = (
            "it is neither a binary nor a script",
            "Its first line must name its interpreter: #!/...",
        )
    elif isinstance(error, PermissionError):
        why, remedy = "it is not executable for this user", f"chmod +x {path}"
    return ProgramProblem(NOT_STARTED, f"the program {path} cannot be started: {why}", remedy)
