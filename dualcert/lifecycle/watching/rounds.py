"""What came of asking the sources: also of a round that was cut off and is gone on with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dualcert.lifecycle.watching.turning import Decided


@dataclass(frozen=True)
class Told:
    """What one source came to: how many of our certificates it says are revoked, and how many are due at it and were
    not asked about."""

    failed: bool
    revoked: int
    unasked: int


@dataclass
class Round:
    """What one round came to: what each source told, by its number, and what was decided for that."""

    told: dict[int, Told] = field(default_factory=dict)
    decided: Decided = field(default_factory=Decided)

    @property
    def asked(self) -> int:
        return len(self.told)

    @property
    def failed(self) -> int:
        return sum(one.failed for one in self.told.values())

    @property
    def revoked(self) -> int:
        return sum(one.revoked for one in self.told.values())

    @property
    def unasked(self) -> int:
        """Certificates that are due at responders and were not asked about."""
        return sum(one.unasked for one in self.told.values())

    def tell(self, number: int, told: Told) -> None:
        """One that is asked once more, because the round was cut off, may not say again what it has said."""
        before = self.told.get(number)
        self.told[number] = replace(told, revoked=max(told.revoked, before.revoked if before else 0))
