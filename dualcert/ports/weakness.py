"""The port to whoever knows which public keys are weak: by the way they were made, or because their private keys are
known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Blocklist:
    """The list of keys that are known to have leaked, in a folder of the user's.

    ``fetched``: when; None where there is none that can be used. ``problem``: why not, where there is one.
    """

    folder: Path
    fetched: datetime | None = None
    problem: str | None = None


class KeyInspector(Protocol):
    """Calls may come from several threads; each takes a few milliseconds, the first ones a second."""

    @property
    def name(self) -> str:
        """With its version: it stands in the evidence."""
        ...

    @property
    def blocklist(self) -> Blocklist:
        """As it was when this process first looked at a key: it is not read again."""
        ...

    def weaknesses(self, key: bytes) -> tuple[str, ...]:
        """What is wrong with a public key (DER SubjectPublicKeyInfo), in a word or two each; empty: nothing is known.

        What follows from it, such as the factors of a modulus, is as secret as a private key, and is not told. Raises
        ``KeyProblem`` for a key of a kind that it cannot look at.
        """
        ...
