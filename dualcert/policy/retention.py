"""How long a private key is kept that has no certificate; one that has goes when that ends."""

from __future__ import annotations

from datetime import datetime, timedelta

LONGEST_LIFE = timedelta(days=398)
"""No public CA has issued for longer since 2020."""


def kept_until(*, placed: bool, now: datetime) -> datetime:
    """Until when the key of an attempt is kept that was given up just now.

    As long as no answer to newOrder was recorded no CSR has left, so nobody can hold a certificate for the key: it
    goes at once. After that the CSR may have left, and the CA may have issued what never arrived here. Whoever finds
    that certificate wants it revoked under its own key, so that the CA blocks the key: it stays as long as the
    certificate could live.
    """
    return now + LONGEST_LIFE if placed else now
