"""Issuers as people tell them: by a name, a hash, or the identifier that stands in certificates."""

from __future__ import annotations

from cryptography import x509

from dualcert.errors import UsageProblem
from dualcert.lifecycle import inspection
from dualcert.lifecycle.watching.places import parsed
from dualcert.lifecycle.world import World
from dualcert.store import census

_IDENTIFIER = 20
"""Bytes of a key identifier as all CAs make it (RFC 5280 section 4.2.1.2)."""


def told(world: World, text: str) -> str:
    """What the database knows an issuer by: of a key identifier the SHA-256 of the key, anything else as it is.

    Raises ``UsageProblem`` where no CA certificate that is kept has this identifier.
    """
    try:
        identifier = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return text
    if len(identifier) != _IDENTIFIER:
        return text
    with world.store.read() as tx:
        kept = census.chains(tx)
    for one in (one for pem in kept.values() for one in parsed(pem)):
        if _identifier_of(one) == identifier:
            return inspection.spki_of_ca(one).hex()
    raise UsageProblem(
        f"no CA that has issued for us has the key identifier {text}",
        remedy="See the authority key identifier of the certificates that are meant, or say --ca.",
    )


def _identifier_of(authority: x509.Certificate) -> bytes:
    try:
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(authority.public_key()).digest
