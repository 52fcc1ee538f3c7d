"""Whether a key has signed some bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from dualcert.errors import EvidenceRejected


def verify(key: Any, signature: bytes, data: memoryview | bytes, signed: Any) -> None:
    """``signed`` is the CRL or OCSP response that the signature stands in: it tells the algorithm.

    Raises ``EvidenceRejected``.
    """
    try:
        _verifier(key, signed)(signature, data)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        raise EvidenceRejected("its signature is not that of the CA") from None


def _verifier(key: Any, signed: Any) -> Callable[[bytes, Any], None]:
    match key:
        case ec.EllipticCurvePublicKey():
            algorithm = ec.ECDSA(signed.signature_hash_algorithm)
            return lambda signature, data: key.verify(signature, data, algorithm)
        case rsa.RSAPublicKey():
            padding = _padding(signed)
            return lambda signature, data: key.verify(
                signature, data, padding, signed.signature_hash_algorithm
            )
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return key.verify
        case _:
            raise UnsupportedAlgorithm("a key that signs no certificates")


def _padding(signed: Any) -> Any:
    parameters = getattr(signed, "signature_algorithm_parameters", None)
    if parameters is not None:
        return parameters
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    return PKCS1v15()
