"""What is wrong in a configuration file, collected and told together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualcert.errors import ConfigurationError


@dataclass(frozen=True)
class Problem:
    """One thing to mend. ``key`` is dotted (``ca.alpha.directory``); ``line`` is None where unknown."""

    key: str
    reason: str
    remedy: str
    line: int | None = None

    @property
    def place(self) -> str:
        parts = [f"line {self.line}" if self.line else "", self.key]
        return ", ".join(part for part in parts if part)


class InvalidConfiguration(ConfigurationError):
    """A configuration file that cannot be used, with all of its ``problems``."""

    def __init__(self, file: Path, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        if len(self.problems) == 1:
            only = self.problems[0]
            where = ", ".join(part for part in (str(file), only.place) if part)
            super().__init__(f"{where}: {only.reason}", remedy=only.remedy)
            return
        lines = [f"{file}: {len(self.problems)} problems"]
        for problem in self.problems:
            lines += [f"  {problem.place}: {problem.reason}", f"    {problem.remedy}"]
        super().__init__("\n".join(lines))


def unknown_key(section: str, key: str, known: Sequence[str], line: int | None) -> Problem:
    """The problem of a key that means nothing, with the nearest one that does."""
    near = nearest(key, known)
    listed = f"known here: {', '.join(known)}" if known else "nothing is known here"
    remedy = f'did you mean "{near}"? ({listed})' if near else listed
    return Problem(f"{section}.{key}" if section else key, "unknown key", remedy, line)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one that was probably meant."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def dotted(path: Sequence[str | int]) -> str:
    """``("ca", "alpha", "contact", 0)`` as ``ca.alpha.contact[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text
