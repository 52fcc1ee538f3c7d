"""How many at a time, of very many: a unit of work is short for whoever waits for it, and worth its commit."""

from __future__ import annotations

LEAST = 150
LONG, SHORT = 0.12, 0.05
"""Seconds, between which a unit is as it should be."""


def next_size(size: int, took: float, most: int) -> int:
    """How many the next unit takes on, after one of ``size`` that took so many seconds; never above ``most``."""
    if took > LONG:
        return max(min(LEAST, size), size // 2)
    if took < SHORT:
        return min(most, 2 * size)
    return size
