"""Certificates for the HTTPS side of the lab's CAs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dualcert.lab.errors import LabError
from dualcert.lab.files import write_secret
from dualcert.lab.ports import LOOPBACK


@dataclass(frozen=True)
class ApiCertificate:
    """One CA's API on loopback: who vouches for it, and the certificate and key that it shows."""

    ca: Path
    chain: Path
    key: Path
    bundle: Path


def make_api_certificate(name: str, public: Path, private: Path) -> ApiCertificate:
    """``<name>-api.pem`` goes to ``public``; the rest, with the key, to ``private``."""
    try:
        import trustme
    except ImportError as error:
        raise LabError("the lab needs trustme", remedy="pip install 'dualcert[lab]'") from error
    authority = trustme.CA()
    leaf = authority.issue_cert(LOOPBACK, "localhost")
    ca = public / f"{name}-api.pem"
    authority.cert_pem.write_to_path(ca)
    chain = private / f"{name}-chain.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    return ApiCertificate(
        ca=ca,
        chain=chain,
        key=write_secret(private / f"{name}-key.pem", leaf.private_key_pem.bytes().decode()),
        bundle=write_secret(
            private / f"{name}-bundle.pem", leaf.private_key_and_cert_chain_pem.bytes().decode()
        ),
    )
