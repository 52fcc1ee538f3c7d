"""Durations (``90s``, ``10m``, ``3h``, ``1d``) and rates (``300/3h``, ``8/s``) as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_LONGEST = 36_525 * 86_400
"""A hundred years, in seconds: that long from now is a date still."""
_RATE = re.compile(r"(\d{1,9})/(\d{0,9}[smhdw])", re.ASCII)

DURATION_FORM = 'a number and one of s, m, h, d, w, such as "90s", "10m", "3h" or "1d"'
RATE_FORM = 'a count, a slash and a duration, such as "300/3h" or "8/s"'


@dataclass(frozen=True)
class Rate:
    """``count`` in every ``per``."""

    count: int
    per: timedelta


def parse_duration(text: str) -> timedelta:
    """The duration, longer than nothing. Raises ValueError, whose text says what was expected."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'"{text}" is not a duration: {DURATION_FORM}')
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds == 0:
        raise ValueError(f'"{text}" is no time at all: {DURATION_FORM}')
    if seconds > _LONGEST:
        raise ValueError(f'"{text}" is longer than a hundred years')
    return timedelta(seconds=seconds)


def parse_rate(text: str) -> Rate:
    """The rate, more than none. Raises ValueError, whose text says what was expected."""
    match = _RATE.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ValueError(f'"{text}" is not a rate: {RATE_FORM}')
    count, per = int(match[1]), match[2]
    if count == 0:
        raise ValueError(f'"{text}" allows nothing at all: {RATE_FORM}')
    return Rate(count, parse_duration(per if per[0].isdigit() else f"1{per}"))
