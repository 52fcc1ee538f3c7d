"""What commands print: JSON in the order given, plain columns that stream, text for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import click

from dualcert.clock import rfc3339
from dualcert.errors import DualcertError

_BATCH = 1000


class OutputFailed(DualcertError):
    """Stdout takes no more: a full disk, most of the time. What the command did is done."""


def write(text: str) -> None:
    """Text on stdout. Raises OutputFailed, and BrokenPipeError where nobody reads any more."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_failed(error) from None


def agreed(question: str) -> bool:
    """What a person at the terminal says to that. Whoever interrupts, or ends the input, has said no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        note("")
        return False


def flush() -> None:
    """What was written is seen now: for lines that come one by one."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_failed(error) from None


def output_failed(error: OSError) -> OutputFailed:
    return OutputFailed(
        f"the output cannot be written: {error.strerror}",
        remedy="what the command did is done; `dualcert show` and `dualcert events` tell what that was",
    )


def is_terminal() -> bool:
    """Whether somebody watches stdout."""
    return sys.stdout.isatty()


def hanging(text: str, indent: int) -> str:
    """The lines of an error under one another, where the first one begins elsewhere in a line."""
    return f"\n{'':{indent}}".join([line.strip() for line in text.splitlines()])


def say(text: str = "") -> None:
    """A line for people, on stdout."""
    write(f"{text}\n")


def note(text: str) -> None:
    """A line that is no data (progress, a hint), on stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def to_json(value: Any) -> str:
    """One line of JSON: instants as RFC 3339 UTC, bytes as lower-case hex, durations as seconds."""
    return _ENCODER.encode(value)


def print_json(value: Any) -> None:
    """One thing, as one object."""
    write(to_json(value) + "\n")


def print_json_lines(values: Iterable[Any]) -> None:
    """Many things, one a line, written as they come."""
    for batch in _batches(values):
        write("".join([to_json(value) + "\n" for value in batch]))


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_encode)


@dataclass(frozen=True)
class Column:
    """A title and the width kept for it. A longer value is never cut; it pushes the rest of its line."""

    title: str
    width: int = 0
    right: bool = False

    @property
    def form(self) -> str:
        """The column's place in a line, for ``%``: of a long list ``str.format`` would take twice as long."""
        return f"%{'' if self.right else '-'}{self.width or ''}s"


class Table:
    """Lines under their titles, written as they come: widths are fixed, so nothing waits for the last one."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._line = "  ".join([column.form for column in columns])
        self.add([[column.title for column in columns]])

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        line = self._line
        write("".join([(line % tuple(row)).rstrip() + "\n" for row in rows]))


def print_columns(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
    """Rows under their titles. None shows as ``-``, an instant as RFC 3339, bytes as hex."""
    table = Table(columns)
    for batch in _batches(rows):
        table.add([[cell(value) for value in row] for row in batch])


def cell(value: Any) -> str:
    """A value as text in a column."""
    if isinstance(value, str):
        return value
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _batches(values: Iterable[Any]) -> Iterable[list[Any]]:
    iterator = iter(values)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
