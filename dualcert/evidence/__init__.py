"""What CAs publish about revoked certificates, fetched and verified: CRLs (RFC 5280) and OCSP (RFC 6960).

Reading order: addresses (who may be connected to), fetching (one HTTP request within limits), signatures, der, crl,
ocsp. Nothing here decides anything, and nothing is written.
"""

from dualcert.evidence.fetching import Fetcher, Limits
from dualcert.evidence.watcher import EvidenceReader

__all__ = ["EvidenceReader", "Fetcher", "Limits"]
