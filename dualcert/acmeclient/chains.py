"""Choosing among the chains that a CA offers for one certificate (RFC 8555 section 7.4.2)."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from cryptography import x509
from cryptography.x509.oid import NameOID

from dualcert.acmeclient.answers import is_https

_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_ALTERNATE = re.compile(r';\s*rel\s*=\s*(?:"(?:[^"]*\s)?alternate(?:\s[^"]*)?"|alternate\b)', re.IGNORECASE)


def alternates(link: str | None, base: str) -> list[str]:
    """The URLs of a Link header whose relation is ``alternate``, https only, made absolute by ``base``."""
    found = _LINK.findall(link or "")
    urls = [urljoin(base, target) for target, parameters in found if _ALTERNATE.search(parameters)]
    return [url for url in urls if is_https(url)]


def top_issuer(chain: str) -> str | None:
    """The common name of the one who issued the last certificate of a PEM chain; None where it has none."""
    last = x509.load_pem_x509_certificates(chain.encode())[-1]
    names = last.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else None
