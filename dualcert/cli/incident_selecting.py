"""What the options of ``dualcert incident`` mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from dualcert.cli.progress import duration, moment
from dualcert.errors import UsageProblem

if TYPE_CHECKING:
    import io

    from dualcert.lifecycle.incidents.opening import Entry, Selection
    from dualcert.lifecycle.world import World


_LARGEST = 2**63 - 1


class IncidentNumber(click.ParamType[int]):
    """One that a database can hold."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) <= _LARGEST):
            self.fail(f"{text!r} is no incident's number. See: dualcert incident list", param, ctx)
        return int(text)


def instant(text: str, option: str) -> datetime:
    """``2027-03-01T12:00Z``; without a zone it is UTC. Raises ``UsageProblem``, which names the option."""
    try:
        return moment(text)
    except ValueError:
        raise UsageProblem(
            f"{option} {text}: this is no time", remedy="Write it like 2027-03-01T12:00Z."
        ) from None


def until(now: datetime, deadline: str | None, within: str | None) -> datetime:
    """The deadline, of which exactly one of the two options must speak."""
    if (deadline is None) == (within is None):
        raise UsageProblem(
            "say until when: either --deadline or --within", remedy="Such as --within 24h, or --within 5d."
        )
    if deadline is not None:
        return instant(deadline, "--deadline")
    return now + timedelta(seconds=duration(within or "", "--within"))


_DIGITS = 9
"""Nobody promotes a thousand million pairs a second, and no database remembers such a number."""


def words(option: str, text: str) -> str:
    """A line of text, as it can be kept and shown. Raises ``UsageProblem``, which names the option."""
    if not text.strip() or not text.isprintable():
        raise UsageProblem(f"{option} {text!a}: this is no line of text", remedy="Say it in words.")
    return text


def per_second(text: str | None) -> int | None:
    """``500/s``. Raises ``UsageProblem``."""
    if text is None:
        return None
    number = text.removesuffix("/s")
    if not number.isdecimal() or len(number) > _DIGITS or not int(number):
        raise UsageProblem(f"--rate {text}: this is no rate", remedy="Write it like 500/s.")
    return int(number)


def percentages(waves: str, max_failures: str, max_drift: str) -> None:
    """Raises ``UsageProblem`` where one of them cannot be read."""
    from dualcert.policy.waves import share
    from dualcert.policy.waves import waves as parse

    reading: tuple[tuple[str, Callable[[str], object], str], ...] = (
        ("--waves", parse, waves),
        ("--max-failures", share, max_failures),
        ("--max-drift", share, max_drift),
    )
    for option, read, text in reading:
        try:
            read(text)
        except ValueError as error:
            raise UsageProblem(
                f"{option} {text}: {error}", remedy="Such as --waves 1%,10%,100% or --max-failures 1%."
            ) from error


@contextmanager
def wanted(
    world: World,
    serials: str | None,
    ca: str | None,
    issued_between: tuple[str, str] | None,
    issuer: str | None,
    spki_file: str | None,
    names: str | None,
) -> Iterator[Selection]:
    """What an incident is to name; a file stays open meanwhile. Raises ``UsageProblem`` where options contradict."""
    from dualcert.lifecycle.incidents import issuers, reading
    from dualcert.lifecycle.incidents.opening import Selection

    files = {"--serials": serials, "--spki-file": spki_file, "--names": names}
    given = {option: path for option, path in files.items() if path is not None}
    _check(world, given, ca, issued_between, issuer)
    if issuer is not None:
        words("--issuer", issuer)
    between = None if issued_between is None else [instant(one, "--issued-between") for one in issued_between]
    if between is not None and between[0] > between[1]:
        raise UsageProblem("--issued-between ends before it begins", remedy="Say the earlier time first.")
    with ExitStack() as stack:
        entries: Iterator[Entry] | None = None
        for option, path in given.items():
            file = reading.opened(stack.enter_context(_file(path)))
            entries = _some(path, _entries(option, path, file, narrowed=ca is not None or issuer is not None))
        # A path may hold what a terminal would obey.
        said = [
            f"{option[2:]} {path if path.isprintable() else ascii(path)}" for option, path in given.items()
        ]
        said += [f"CA {ca}"] if ca is not None else []
        said += [f"issuer {issuer}"] if issuer is not None else []
        said += (
            [f"issued between {between[0]:%Y-%m-%d %H:%M} and {between[1]:%Y-%m-%d %H:%M}"] if between else []
        )
        yield Selection(
            described=", ".join(said),
            entries=entries,
            ca=ca,
            issuer=None if issuer is None else issuers.told(world, issuer),
            since=between[0] if between else None,
            until=between[1] if between else None,
        )


def _check(
    world: World,
    given: dict[str, str],
    ca: str | None,
    issued_between: tuple[str, str] | None,
    issuer: str | None,
) -> None:
    if len(given) > 1:
        raise UsageProblem(f"{' and '.join(given)} at once", remedy="Open an incident for each.")
    if not given and ca is None and issuer is None:
        raise UsageProblem(
            "nothing says which certificates are meant",
            remedy="Say --serials, --ca, --issuer, --spki-file or --names.",
        )
    if given and issued_between is not None:
        raise UsageProblem(f"--issued-between does not go with {next(iter(given))}", remedy="Leave it out.")
    if issuer is not None and given and "--serials" not in given:
        raise UsageProblem(f"--issuer does not go with {next(iter(given))}", remedy="Leave it out.")
    if ca is not None and "--spki-file" in given:
        raise UsageProblem(
            "--ca does not go with --spki-file", remedy="Leave it out: a key tells its certificate."
        )
    if ca is not None and ca not in world.cas:
        raise UsageProblem(
            f"[ca.{ca}] is not configured", remedy=f"There is: {', '.join(sorted(world.cas))}.", ca=ca
        )


@contextmanager
def _file(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UsageProblem(f"{path} cannot be read: {error.strerror}", remedy="Mend the path.") from error
    with file:
        yield file


_KEPT = 10_000
"""How many lines that cannot be read are kept while none was found that can."""


def _some(path: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    """What it names, of which there is something: where a download has failed, the file is empty, or tells of that."""
    file, unreadable = "stdin" if path == "-" else path, []
    for entry in entries:
        unreadable.append(entry)
        if entry.problem is None or len(unreadable) == _KEPT:
            return chain(unreadable, entries)
    if not unreadable:
        raise UsageProblem(f"{file} names nothing", remedy="See that all of it has arrived.")
    first = unreadable[0]
    raise UsageProblem(
        f"{file}: not one line can be read; line {first.line}: {first.problem}",
        remedy="See that it is the file that was meant, and that all of it has arrived.",
    )


def _entries(option: str, path: str, file: io.BufferedReader, *, narrowed: bool) -> Iterator[Entry]:
    try:
        return _read(option, file, narrowed=narrowed)
    except UsageProblem as error:
        error.name = "stdin" if path == "-" else path
        raise


def _read(option: str, file: io.BufferedReader, *, narrowed: bool) -> Iterator[Entry]:
    from dualcert.lifecycle.incidents import reading

    if option == "--spki-file":
        return reading.keys(file)
    if option == "--names":
        return reading.host_names(file)
    if reading.is_crl(file):
        return reading.crl(file)
    if not narrowed:
        raise UsageProblem(
            "a serial belongs to an issuer, and this file does not tell it",
            remedy="Say --ca CA, or --issuer NAME.",
        )
    return reading.serials(file)
