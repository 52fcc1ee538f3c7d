"""Numbers and names in sentences."""

from __future__ import annotations

from shlex import quote


def many(number: int, one: str, more: str | None = None) -> str:
    """``1 line``, ``2 lines``; ``more`` where an s is not enough."""
    return f"{number} {one}" if number == 1 else f"{number} {more or one + 's'}"


def typed(name: str) -> str:
    """A pair's name in a command, as a shell takes it: to that a bare ``*.example.com`` is a pattern of files."""
    return quote(name)
