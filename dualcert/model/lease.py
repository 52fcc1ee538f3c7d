"""How long whoever has taken something may keep it to himself without a word."""

from typing import Final

LEASE_SECONDS: Final = 60
