"""What the step at hand is about: whatever is logged during it says so."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subject:
    """``pair`` is asked for only when somebody logs: to find a name costs a look at the database."""

    pair: Callable[[], str | None] | None
    ca: str | None
    target: str | None
    work: int | None

    def told(self) -> dict[str, object]:
        """As a log record says it; what there is not is left out."""
        pair = self.pair() if self.pair is not None else None
        about = {"pair": pair, "ca": self.ca, "target": self.target, "work": self.work}
        return {key: value for key, value in about.items() if value is not None}


current: ContextVar[Subject | None] = ContextVar("subject", default=None)
