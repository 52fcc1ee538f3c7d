"""Link headers (RFC 8288): other chains, and the terms of service."""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_RELATION = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,"]+))', re.IGNORECASE)
_HTTPS = re.compile(
    r"https://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{0,5}))?([/?#][!-~]*)?", re.IGNORECASE
)


def linked(header: str | None, base: str, relation: str) -> list[str]:
    """The URLs of a Link header that stand in this relation, https only, made absolute by ``base``."""
    found = []
    for target, parameters in _LINK.findall(header or ""):
        relations = _RELATION.search(parameters)
        if relations and relation in (relations[1] or relations[2] or "").lower().split():
            with suppress(ValueError):  # brackets around what is no address
                found.append(urljoin(base, target))
    return [url for url in found if is_https(url)]


def is_https(url: str) -> bool:
    """Whether this is an https URL that can go into a request as it stands."""
    found = _HTTPS.fullmatch(url)
    if found is None or not 0 < int(found["port"] or 443) < 65536:
        return False
    try:
        urlsplit(url)
    except ValueError:  # brackets around what is no address
        return False
    return True
