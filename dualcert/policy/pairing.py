"""Whether two CAs, or two certificates, are independent of each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CaIdentity:
    """Who stands behind a CA, as configured and as its directory says (RFC 8555 section 7.1.1, caaIdentities)."""

    name: str
    directory: str
    operator: str | None
    caa_identities: frozenset[str]
    domain: str


@dataclass(frozen=True)
class CertificateIdentity:
    """SHA-256 of the SubjectPublicKeyInfo of the leaf, of who signed it, and of the root it leads to."""

    spki: bytes
    issuing_key: bytes
    root_key: bytes | None


def ca_objections(one: CaIdentity, other: CaIdentity) -> tuple[str, ...]:
    """Why the two must not stand behind one pair; empty where they may."""
    found = []
    if one.name == other.name or one.directory == other.directory:
        found.append(f"{one.name} and {other.name} are the same CA ({one.directory})")
    if one.operator and one.operator == other.operator:
        found.append(f"{one.name} and {other.name} have the same operator, {one.operator}")
    shared = one.caa_identities & other.caa_identities
    if shared:
        found.append(f"{one.name} and {other.name} share the CAA identity {', '.join(sorted(shared))}")
    if one.domain == other.domain:
        found.append(
            f"{one.name} and {other.name} keep their keys in the same isolation domain, {one.domain}"
        )
    return tuple(found)


def certificate_objections(one: CertificateIdentity, other: CertificateIdentity) -> tuple[str, ...]:
    found = []
    if one.spki == other.spki:
        found.append("it has the same key as the pair's other certificate")
    if one.issuing_key and one.issuing_key == other.issuing_key:
        found.append("it was signed by the same issuing key as the pair's other certificate")
    if one.root_key is not None and one.root_key == other.root_key:
        found.append("it stands on the same root as the pair's other certificate")
    return tuple(found)
