"""What a look at something comes to, and what there is to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dualcert.errors import ConfigurationError, DualcertError
from dualcert.lifecycle.world import World


@dataclass(frozen=True)
class Finding:
    """What a look came to. ``detail`` says what was seen where nothing is wrong, and is told to people only.

    ``unusable``: as it is configured nothing works, or not this part.
    """

    subject: str
    problem: str | None = None
    remedy: str | None = None
    detail: str = ""
    unusable: bool = False

    @property
    def ok(self) -> bool:
        return self.problem is None


def trouble(subject: str, error: DualcertError) -> Finding:
    """What an error means for a subject."""
    reason = f"{error.name}: {error.reason}" if error.name else error.reason
    return Finding(subject, reason, error.remedy, unusable=isinstance(error, ConfigurationError))


@dataclass(frozen=True)
class CaExpected:
    """What is configured of a CA that only its client would notice.

    ``eab``: raises where the secret is not to be had, or cannot be one; None where no external account is configured.
    """

    eab: Callable[[], object] | None
    profile: str | None
    trust_roots: Path | None


@dataclass(frozen=True)
class Scene:
    """What is looked at: a world in which nothing has been tried yet.

    ``database`` is what is wrong with it; only where that is None the world's store is touched. ``names`` are DNS names
    to try the DNS with in addition to those of pairs.
    """

    world: World
    database: DualcertError | None
    cas: Mapping[str, CaExpected]
    names: Sequence[str] = field(default=())


Look = Callable[[], Iterable[Finding]]
