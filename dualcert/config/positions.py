"""The lines on which a TOML file's keys stand, for error messages.

The standard parser does not tell positions. This reads headers and first keys line by line and keeps only
what the parsed document has as well, so at worst a message lacks its line; it never decides what a value is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\\]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"^\s*\[\s*({_DOTTED})\s*\]\s*(?:#.*)?$")
_KEY = re.compile(rf"^\s*({_DOTTED})\s*=")
_SPLIT = re.compile(_PART)

Path = tuple[str, ...]


class Positions:
    """Line numbers, from 1, by path."""

    def __init__(self, lines: Mapping[Path, int]) -> None:
        self._lines = lines

    def line(self, path: Sequence[str | int]) -> int | None:
        """The line of the key, or of the nearest table around it that has one."""
        known = tuple(part for part in path if isinstance(part, str))
        for length in range(len(known), 0, -1):
            if (found := self._lines.get(known[:length])) is not None:
                return found
        return None


def scan(text: str, document: Mapping[str, Any]) -> Positions:
    lines: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            path = _parts(header[1])
            if _present(path, document):
                table = path
                lines.setdefault(path, number)
        elif key := _KEY.match(line):
            path = table + _parts(key[1])
            if _present(path, document):
                lines.setdefault(path, number)
    return Positions(lines)


def _parts(text: str) -> Path:
    return tuple(part.strip("\"'") for part in _SPLIT.findall(text))


def _present(path: Path, document: Mapping[str, Any]) -> bool:
    node: Any = document
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True
