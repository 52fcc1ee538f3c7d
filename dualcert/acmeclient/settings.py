"""What the configuration says of one CA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dualcert.errors import ConfigurationError
from dualcert.ports.options import Secret


@dataclass(frozen=True, kw_only=True)
class AcmeCaSettings:
    """``[ca.NAME]``, as far as talking to the CA is concerned.

    ``contact`` holds URLs (``mailto:...``). ``eab_hmac_key`` is base64url, with or without padding.
    ``ca_bundle`` replaces the public roots for the CA's own HTTPS. ``timeout``: seconds, for a whole call.
    Raises ConfigurationError where the values cannot work together.
    """

    name: str
    directory: str
    contact: tuple[str, ...] = ()
    terms_agreed: bool = False
    eab_kid: str | None = None
    eab_hmac_key: Secret | None = None
    profile: str | None = None
    ca_bundle: Path | None = None
    user_agent: str = "dualcert"
    timeout: float = 30.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.directory)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigurationError(
                f"the directory {self.directory!r} is not an https URL",
                remedy=f"Set `directory` in [ca.{self.name}] to the https URL of the CA's ACME directory.",
                ca=self.name,
            )
        if (self.eab_kid is None) != (self.eab_hmac_key is None):
            raise ConfigurationError(
                "the external account binding needs both a key id and an HMAC key",
                remedy=f"Give `kid` and `hmac_key` in `eab` of [ca.{self.name}], or neither.",
                ca=self.name,
            )


def check_binding_key(ca: str, hmac_key: str) -> None:
    """Raises ConfigurationError where an external account's key cannot be one."""
    from dualcert.acmeclient.signing import binding_key

    try:
        binding_key(hmac_key)
    except ValueError:
        raise ConfigurationError(
            "the HMAC key of the external account binding is not base64url",
            remedy=f"Set `hmac_key` in `eab` of [ca.{ca}] exactly as the CA gave it.",
            ca=ca,
        ) from None
