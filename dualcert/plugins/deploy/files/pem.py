"""The five PEM files of a pair."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from dualcert.errors import DeployError
from dualcert.plugins.deploy.files.durable import begin_writing
from dualcert.ports.deploy import Placement

FILES = ("cert.pem", "chain.pem", "fullchain.pem", "privkey.pem", "bundle.pem")
PRIVATE = ("privkey.pem", "bundle.pem")


def contents(placement: Placement) -> dict[str, bytes]:
    """What each file is to hold. DeployError where the placement is no certificate."""
    certificate = _lines(placement.certificate.encode())
    chain = _lines(placement.chain.encode())
    key = _lines(placement.private_key)
    if fingerprint(certificate) is None or not key:
        raise DeployError("what should be served is not a certificate with its key", name=placement.pair)
    fullchain = certificate + chain
    return dict(zip(FILES, (certificate, chain, fullchain, key, key + fullchain), strict=True))


def _lines(text: bytes) -> bytes:
    stripped = text.strip()
    return stripped + b"\n" if stripped else b""


def fingerprint(certificate: bytes) -> bytes | None:
    """The SHA-256 of the first certificate's DER; None where there is none."""
    try:
        return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())
    except ValueError:
        return None


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into an empty folder. Those with a key are never readable by others, not even for a moment."""
    for name, data in files.items():
        private = name in PRIVATE
        descriptor = os.open(
            folder / name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600 if private else 0o644,
        )
        try:
            if not private:
                os.fchmod(descriptor, 0o644)  # a umask of 077 would keep a server from its own certificate
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            begin_writing(descriptor)
        finally:
            os.close(descriptor)


def same(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether the folder holds exactly this, its keys for their owner alone."""
    for name, data in files.items():
        path = folder / name
        try:
            if path.read_bytes() != data:
                return False
            if name in PRIVATE and stat.S_IMODE(path.stat().st_mode) & 0o077:
                return False
        except OSError:
            return False
    return True


def read_fingerprint(folder: Path, *, whole: bool) -> bytes | None:
    """The fingerprint of what a server reads in the folder; None where there is none, or, if ``whole``, where the
    files do not belong together: some servers read one of them, some another."""
    try:
        certificate = (folder / "cert.pem").read_bytes()
        if whole:
            chain, fullchain, key, bundle = ((folder / name).read_bytes() for name in FILES[1:])
            if fullchain != certificate + chain or bundle != key + fullchain:
                return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    return fingerprint(certificate)
