"""What a lab can be asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_DAY = 86_400


def _alpha_profiles() -> Mapping[str, int]:
    return MappingProxyType({"classic": 90 * _DAY, "shortlived": 6 * _DAY, "hour": 3600})


def _beta_profiles() -> Mapping[str, int]:
    return MappingProxyType({"standard": 90 * _DAY})


@dataclass(frozen=True)
class LabOptions:
    """How the two CAs behave; the defaults are quick, and as forgetful about nonces as Pebble's own."""

    alpha_profiles: Mapping[str, int] = field(default_factory=_alpha_profiles)
    """Profile to validity in seconds; ``dualcert.toml`` names the first (unsaid, Pebble draws lots)."""
    beta_profiles: Mapping[str, int] = field(default_factory=_beta_profiles)
    """As above; named in ``dualcert.toml`` only if there are several."""
    nonce_reject: int = 5
    """Percent of good nonces that are refused with badNonce."""
    authz_reuse: int = 0
    """Percent of orders that find a valid authorization again (Pebble makes 1 of 0)."""
    retry_after: int | None = None
    """Seconds, from 1 on, in Retry-After of what is not settled yet; none: the header is not sent."""
    va_sleep: bool = False
    """Whether a validation waits up to 5 seconds first, as Pebble does by itself."""
    keep: bool | None = None
    """Whether the folder outlives the lab; unsaid: one that was named stays, a temporary one goes."""
