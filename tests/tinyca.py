"""A CA of a few lines: a root, an intermediate, and leaves that say where they are watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from tests.revocations import Signer

BEGAN = datetime(2020, 1, 1, tzinfo=UTC)


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def points(places: Sequence[str]) -> x509.CRLDistributionPoints:
    return x509.CRLDistributionPoints(
        [
            x509.DistributionPoint([x509.UniformResourceIdentifier(place)], None, None, None)
            for place in places
        ]
    )


def certificate(
    subject: x509.Name,
    key: Any,
    by: Signer | None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    *,
    began: datetime = BEGAN,
    ends: datetime = datetime(2046, 1, 1, tzinfo=UTC),
    signing: Any = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(ends)
    )
    for one, critical in extensions:
        builder = builder.add_extension(one, critical)
    return builder.sign(signing or (by.key if by else key), hashes.SHA256())


_OF_A_CA = (x509.BasicConstraints(ca=True, path_length=None), True)


@dataclass(frozen=True)
class TinyCa:
    root: Signer
    intermediate: Signer

    @classmethod
    def make(cls, name: str = "tiny", crl_of_cas: Sequence[str] = ()) -> TinyCa:
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        root = Signer(certificate(named(f"{name} root"), keys[0], None, [_OF_A_CA]), keys[0])
        more = [(points(crl_of_cas), False)] if crl_of_cas else []
        between = certificate(named(f"{name} intermediate"), keys[1], root, [_OF_A_CA, *more])
        return cls(root, Signer(between, keys[1]))

    @property
    def chain(self) -> str:
        """PEM, the intermediate alone."""
        return self.intermediate.certificate.public_bytes(Encoding.PEM).decode()

    def leaf(
        self,
        *names: str,
        crl: Sequence[str] = (),
        ocsp: Sequence[str] = (),
        began: datetime,
        life: timedelta = timedelta(days=90),
        key: Any = None,
    ) -> x509.Certificate:
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), True)
        ]
        if crl:
            extensions.append((points(crl), False))
        if ocsp:
            access = [
                x509.AccessDescription(
                    AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(place)
                )
                for place in ocsp
            ]
            extensions.append((x509.AuthorityInformationAccess(access), False))
        key = key or ec.generate_private_key(ec.SECP256R1())
        return certificate(x509.Name([]), key, self.intermediate, extensions, began=began, ends=began + life)

    def responder(self, *, may: bool = True) -> Signer:
        """One that this CA has set to answer for it, or has not."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.OCSP_SIGNING if may else ExtendedKeyUsageOID.SERVER_AUTH
        extensions = [(x509.ExtendedKeyUsage([usage]), False)]
        return Signer(certificate(named("responder"), key, self.intermediate, extensions), key)
