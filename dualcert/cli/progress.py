"""Running work for a command, and telling a person how it goes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.context import Context
from dualcert.cli.output import note

if TYPE_CHECKING:
    from dualcert.lifecycle.driver import Scope
    from dualcert.lifecycle.world import World
    from dualcert.model.events import Event


GRACE = "a step that is under way then is given up to 35 s more."
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def timeout_option(about: str = "How long to wait for what is left") -> Decorator:
    """``--timeout``, as all have it who drive."""
    return click.option(
        "--timeout", default="5m", show_default=True, metavar="TIME", help=f"{about}; {GRACE}"
    )


def drive(context: Context, scope: Scope, timeout: float, *, follow: bool = True) -> None:
    """Move the scope's work on for at most ``timeout`` seconds; on a terminal, a line for every event."""
    from dualcert.lifecycle.driver import run_until
    from dualcert.lifecycle.engine import Engine

    world = context.application.world
    deadline = world.clock.now() + timedelta(seconds=timeout)
    watched = sys.stderr.isatty() and not context.json
    told = _Lines(world, many=scope.pairs is None) if watched else None
    run_until(Engine(world), scope, deadline, told, follow=follow)


class _Lines:
    def __init__(self, world: World, *, many: bool) -> None:
        self._world = world
        self._many = many
        self._names: dict[int, str] = {}

    def __call__(self, event: Event) -> None:
        about = [self._pair(event.pair_id)] if self._many and event.pair_id is not None else []
        about += [word for word in (event.ca, event.target) if word]
        cause = event.cause if len(event.cause) <= 100 else event.cause[:97] + "..."
        note(f"  {event.at:%H:%M:%S}  {' '.join(about):<12}  {event.kind:<18}  {cause}")

    def _pair(self, number: int) -> str:
        if number not in self._names:
            from dualcert.lifecycle.history import pair_names

            self._names.update(pair_names(self._world, [number]))
        return self._names.get(number, str(number))


def duration(text: str, option: str = "--timeout", remedy: str = "Write it like 5m or 90s.") -> float:
    """``5m``, ``30s``, or plain seconds. Raises ``UsageProblem``, which names the option."""
    from dualcert.bootstrap import parse_duration
    from dualcert.errors import UsageProblem

    try:
        if not (text.isascii() and text.isdigit()):
            return parse_duration(text).total_seconds()
        # Plain seconds; none is for who does not wait at all.
        return parse_duration(f"{text}s").total_seconds() if text.strip("0") else 0.0
    except ValueError as error:
        raise UsageProblem(f"{option} {text}: {error}", remedy=remedy) from error


def moment(text: str) -> datetime:
    """``2026-03-01``, ``2026-03-01T12:00Z``; without a zone it is UTC. Raises ``ValueError``."""
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text} is no time") from None


def until(text: str, option: str, now: datetime, otherwise: str) -> timedelta:
    """``24h``: so long from now; otherwise until a date, or a date with a time, in UTC unless it says otherwise.

    A time that is over is a mistyped year sooner than a wish: it is refused, and told what ``otherwise`` says.
    """
    from dualcert.errors import UsageProblem

    try:
        at = moment(text)
    except ValueError:
        seconds = duration(text, option, remedy="Write it like 24h or 2027-03-01T12:00Z.")
        left, problem = timedelta(seconds=seconds), "this is no time at all"
    else:
        left, problem = at - now, f"{at:%Y-%m-%d %H:%M:%S} UTC is over"
    if left <= timedelta(0):
        raise UsageProblem(
            f"{option} {text}: {problem}", remedy=f"Write a time to come, like 24h. {otherwise}"
        )
    return left
