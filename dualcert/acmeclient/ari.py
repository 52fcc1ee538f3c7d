"""ACME Renewal Information (RFC 9773): when a CA would like a certificate to be replaced."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dualcert.acmeclient.answers import Fields
from dualcert.acmeclient.links import is_https
from dualcert.ports.ca import RenewalInformation

if TYPE_CHECKING:
    from dualcert.acmeclient.connection import Deadline
    from dualcert.acmeclient.transport import Transport

_LONGEST_URL = 1000


def fetch(wire: Transport, base: str, ari_id: str, ca: str, deadline: Deadline) -> RenewalInformation:
    """Ask for one certificate; ``base`` is the directory's ``renewalInfo``. The request is not signed."""
    answer = wire.get(f"{base.rstrip('/')}/{ari_id}", deadline)
    return read(ca, answer.document(ca), answer.retry_after)


def read(ca: str, document: object, retry_after: timedelta | None) -> RenewalInformation:
    """A RenewalInfo object (RFC 9773 section 4.2). Raises CaServerError where it makes no sense."""
    fields = Fields(ca, "renewal information", document)
    window = fields.inner("suggestedWindow")
    start, end = _instant(window, "start"), _instant(window, "end")
    if end <= start:
        raise fields.wrong("has a window that ends before it begins")
    return RenewalInformation(start, end, _explanation(fields), retry_after)


def _instant(window: Fields, key: str) -> datetime:
    instant = window.instant(key)
    if instant is None:
        raise window.wrong(f"has no {key}")
    return instant


def _explanation(fields: Fields) -> str | None:
    """The page for people; one that cannot be followed is left out: what counts is the window."""
    url = fields.raw("explanationURL")
    if not isinstance(url, str) or not is_https(url):
        return None
    return url if len(url) <= _LONGEST_URL else None
