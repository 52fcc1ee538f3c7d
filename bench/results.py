"""What a measurement is, and how it is written: a table for people, ``results.json`` for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Goal:
    """A bound, inclusive: ``at_most`` of a ratio or value, or ``at_least`` of a ratio. ``text`` is what is shown."""

    text: str
    met: bool

    @classmethod
    def at_most(cls, figure: float, bound: float, unit: str) -> Goal:
        return cls(f"<= {bound:g} {unit}", figure <= bound)

    @classmethod
    def at_least(cls, figure: float, bound: float, unit: str) -> Goal:
        return cls(f">= {bound:g} {unit}", figure >= bound)

    def and_also(self, other: Goal) -> Goal:
        return Goal(f"{self.text} and {other.text}", self.met and other.met)


@dataclass(frozen=True)
class Result:
    """One line. ``against`` says what it was compared with and that one's figure, ``ratio`` is value through figure.

    ``goal`` and ``met`` are None where a figure is only told.
    """

    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None


def result(
    name: str,
    value: float,
    unit: str,
    *,
    against: tuple[str, float] | None = None,
    goal: Goal | None = None,
) -> Result:
    """``against``: a name and its figure, in the same unit."""
    return Result(
        name=name,
        value=round(value, 4),
        unit=unit,
        against=None if against is None else f"{against[0]}: {against[1]:.4g} {unit}",
        ratio=None if against is None else round(value / against[1], 3),
        goal=goal.text if goal else None,
        met=goal.met if goal else None,
    )


def write(results: Sequence[Result], file: Path = FILE) -> None:
    file.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n")


def table(results: Sequence[Result]) -> str:
    """Plain columns, as wide as their widest cell."""
    titles = ("what", "value", "against", "ratio", "goal", "met")
    rows = [titles, *(_cells(one) for one in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _cells(one: Result) -> tuple[str, ...]:
    met = {None: "", True: "yes", False: "NO"}[one.met]
    ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
    return (one.name, f"{one.value:.4g} {one.unit}", one.against or "", ratio, one.goal or "", met)
