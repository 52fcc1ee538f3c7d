"""Placements to deploy: real keys, real certificates, made once per process."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dualcert.ports.deploy import Placement, Version

_NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(2046, 1, 1, tzinfo=UTC)


@cache
def placement(pair: str, epoch: int = 0, certificate: int = 1) -> Placement:
    """What a target is to serve for ``pair``: the same object for the same arguments, another key for others."""
    root_key, root = _root()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, pair[:64])])
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(pair)]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return Placement(
        pair=pair,
        names=(pair,),
        version=Version(epoch, certificate),
        certificate=_pem(leaf),
        chain=_pem(root),
        private_key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        sha256=leaf.fingerprint(hashes.SHA256()),
    )


def belong_together(certificate: bytes, private_key: bytes) -> bool:
    """Whether the first certificate of a PEM text is of the first private key of another."""
    leaf = x509.load_pem_x509_certificate(certificate)
    key = serialization.load_pem_private_key(private_key, None)
    return leaf.public_key() == key.public_key()


def fingerprint(certificate: bytes) -> bytes:
    """The SHA-256 of the DER of the first certificate of a PEM text."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())


@cache
def _root() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a root for tests")])
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, root


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
