"""What a pair's facts amount to."""

from __future__ import annotations

from dataclasses import dataclass

from dualcert.model.pair import Protection


@dataclass(frozen=True)
class ProtectionFacts:
    """``serving_bad``/``standby_bad``: why the certificate must not serve, None where nothing speaks against it.

    ``served_everywhere``: every target of the pair was last seen with the serving certificate.
    """

    issued: bool
    serving: bool
    serving_bad: str | None
    standby_usable: bool
    served_everywhere: bool


def protection(facts: ProtectionFacts) -> Protection:
    if not facts.issued:
        return Protection.PENDING
    if facts.serving and facts.serving_bad:
        return Protection.EXPOSED
    if facts.serving and facts.standby_usable and facts.served_everywhere:
        return Protection.PROTECTED
    return Protection.UNPROTECTED
