"""Numbers in sentences."""

from __future__ import annotations


def many(number: int, one: str, more: str | None = None) -> str:
    """``1 line``, ``2 lines``; ``more`` where an s is not enough."""
    return f"{number} {one}" if number == 1 else f"{number} {more or one + 's'}"
