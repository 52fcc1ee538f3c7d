"""What is served where, and how that is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class How(StrEnum):
    """``wire``: a full handshake; ``stored``: files or store read back."""

    WIRE = "wire"
    STORED = "stored"


@dataclass(frozen=True)
class Observation:
    """What a target was last seen to serve for a pair; ``sha256`` is None where nothing was found."""

    pair_id: int
    target: str
    sha256: bytes | None
    how: How
    at: datetime
    problem: str | None
