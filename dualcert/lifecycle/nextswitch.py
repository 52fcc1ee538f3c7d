"""What waits for the next switch of its target, in this process: it is switched together, but never without bound."""

from __future__ import annotations

from collections.abc import Sequence

from dualcert.model.work import WorkRow

AT_ONCE = 500
"""Of how many pairs a target is switched in one step. Until the last of them is written down, the keys of all are in
memory, none of them is known to be there, and one error is the error of all."""


class NextSwitch:
    """Deployments by their target, as long as that is being switched. For one thread."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[WorkRow]] = {}

    def __len__(self) -> int:
        """How many targets are being switched."""
        return len(self._waiting)

    def full(self) -> list[str]:
        """The targets that need no more for their next switch."""
        return [target for target, rows in self._waiting.items() if len(rows) >= AT_ONCE]

    def come(self, rows: Sequence[WorkRow]) -> list[WorkRow]:
        """Due deployments of one target; returns those to begin with now."""
        target = rows[0].target
        if target in self._waiting:
            self._waiting[target] += rows
            return []
        self._waiting[target] = [*rows[AT_ONCE:]]
        return [*rows[:AT_ONCE]]

    def follow(self, target: str) -> list[WorkRow]:
        """A switch has ended; returns those of the next one, where there is any."""
        rows = self.leave(target)
        return self.come(rows) if rows else []

    def leave(self, target: str) -> list[WorkRow]:
        """A switch has ended, and nothing follows; returns what would have."""
        return self._waiting.pop(target)
