"""What somebody has found, brought down to the hash of its public key. A private key goes no further than here."""

from __future__ import annotations

import hashlib
import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from dualcert.errors import UsageProblem

_PRIVATE = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_PEM = b"-----BEGIN CERTIFICATE-----"


def spki_of_private_key(content: bytes, file: str) -> bytes:
    """Of the first private key in a PEM file. Raises ``UsageProblem``, which tells nothing of the key."""
    found = _PRIVATE.search(content)
    if found is None:
        raise UsageProblem(
            f"{file} holds no private key in PEM", remedy="A certificate is named by --cert FILE."
        )
    try:
        key = load_pem_private_key(found.group(), None)
    except TypeError:
        raise UsageProblem(f"the private key in {file} is encrypted", remedy="Decrypt it first.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageProblem(f"the private key in {file} cannot be read") from None
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).digest()


def spki_of_certificate(content: bytes, file: str) -> bytes:
    """Of the first certificate in a file, PEM or DER. Raises ``UsageProblem``."""
    try:
        if _PEM in content:
            found = x509.load_pem_x509_certificate(content[content.index(_PEM) :])
        else:
            found = x509.load_der_x509_certificate(content)
        public = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageProblem(f"{file} holds no certificate that can be read") from None
    return hashlib.sha256(public).digest()
