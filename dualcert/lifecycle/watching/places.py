"""By what a certificate is watched: the places that it and its intermediates name, and those that are configured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from dualcert.errors import DualcertError
from dualcert.lifecycle import inspection
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.policy.watching import SourceKind, unwatched
from dualcert.store import Transaction, census, counters, watch_answers, watching
from dualcert.store.watching import Place, Source

_CENSUS = 500
_UP_TO = "watched up to "


def begin(
    world: World,
    tx: Transaction,
    arrived: Certificate,
    number: int,
    arrival: inspection.Arrival,
    instead_of: int | None,
) -> None:
    """A certificate has taken its lineage's role, ``instead_of`` another one: it is watched, the other one no more."""
    if instead_of is not None and instead_of != number:
        watching.unwatch(tx, instead_of)
    signed = (arrived.issuing_key, arrived.issuer_hash)
    watching.watch(tx, number, _places(world, arrived.ca, arrival.leaf, signed, arrival.intermediates))


def register_older(world: World) -> bool:
    """Register certificates that were stored before they were watched, some at a time; whether there are more.

    Each is looked at once; where other distribution points are configured, once again.
    """
    name = census_name(world)
    with world.store.read() as tx:
        after = counters.value(tx, name) or 0
        found = census.following(tx, after, _CENSUS)
        chains = census.chains(tx) if found else {}
    if not found:
        return False
    with world.store.write() as tx:
        for one in found:
            if one.current:
                leaf = x509.load_der_x509_certificate(one.der)
                intermediates = parsed(chains[one.chain_hash]) if chains.get(one.chain_hash) else ()
                signed = (one.issuing_key, one.issuer_hash)
                found_there = _places(world, one.ca, leaf, signed, intermediates)
                watching.watch(tx, one.id, found_there)
                watch_answers.only_by(tx, one.id, found_there)
        counters.put(tx, name, found[-1].id)
        more = len(found) == _CENSUS
        if not more:
            # Who configures those of before again is to be heard again.
            for other in counters.named(tx, _UP_TO):
                if other != name:
                    counters.forget(tx, other)
    return more


def census_name(world: World) -> str:
    """The counter with the number of the last certificate that was looked at; another one for other points."""
    configured = sorted((name, *binding.crl) for name, binding in world.cas.items() if binding.crl)
    return f"{_UP_TO}{hashlib.sha256(repr(configured).encode()).hexdigest()[:16]}"


def _places(
    world: World,
    ca: str,
    leaf: x509.Certificate,
    signed: tuple[bytes, bytes],
    intermediates: Sequence[x509.Certificate],
) -> list[Place]:
    binding = world.cas.get(ca)
    configured = binding.crl if binding is not None else ()
    lists = dict.fromkeys([*distribution_points(leaf), *configured])
    found = [Place(SourceKind.CRL, place, *signed, ca) for place in lists]
    found += [Place(SourceKind.OCSP, place, *signed, ca) for place in responders(leaf)]
    if not found:
        kind = unwatched(leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        found.append(Place(kind, "", *signed, ca))
    for one in intermediates:
        points = distribution_points(one)
        signer = _signer(world, ca, one, intermediates) if points else None
        if signer is not None:
            key = inspection.spki_of_ca(signer)
            found += [Place(SourceKind.CRL_OF_CAS, place, key, name_hash(one.issuer), ca) for place in points]
    return found


def name_hash(name: x509.Name) -> bytes:
    return hashlib.sha256(name.public_bytes()).digest()


def distribution_points(certificate: x509.Certificate) -> list[str]:
    """Where its CRL is, over plain HTTP (RFC 5280 section 4.2.1.13). What is for some reasons only, or issued by
    another CA, does not count."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    names = (name for one in points if not one.reasons and not one.crl_issuer for name in one.full_name or ())
    return list(_http(names))


def responders(certificate: x509.Certificate) -> list[str]:
    """Who answers for it over plain HTTP (RFC 5280 section 4.2.2.1)."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return list(
        _http(
            one.access_location for one in access if one.access_method == AuthorityInformationAccessOID.OCSP
        )
    )


def _http(names: Iterable[x509.GeneralName]) -> Iterator[str]:
    for name in names:
        if isinstance(name, x509.UniformResourceIdentifier) and name.value.lower().startswith("http://"):
            yield name.value


# --- who signs there -------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def parsed(pem: str) -> tuple[x509.Certificate, ...]:
    """A chain's certificates; an empty one has none."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem.encode("ascii")))
    except ValueError:
        return ()


def issuer_of(world: World, tx: Transaction, source: Source) -> bytes | None:
    """The certificate (DER) of who signs what a source says: from a chain that is kept, or a root that is trusted."""
    kept = (one for pem in census.chains(tx).values() for one in parsed(pem))
    for one in (*kept, *_roots(world, source.ca)):
        if name_hash(one.subject) == source.issuer_hash and inspection.spki_of_ca(one) == source.issuing_key:
            return one.public_bytes(Encoding.DER)
    return None


def _roots(world: World, ca: str) -> Sequence[x509.Certificate]:
    binding = world.cas.get(ca)
    try:
        return _trusted(binding.trust_roots if binding is not None else None)
    except DualcertError:
        # What is wrong with the file is told by whoever needs it to issue; here its roots are not known.
        return ()


@lru_cache(maxsize=16)
def _trusted(path: Path | None) -> tuple[x509.Certificate, ...]:
    return tuple(inspection.trusted_roots(path))


def _signer(
    world: World, ca: str, subject: x509.Certificate, intermediates: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    for one in (*intermediates, *_roots(world, ca)):
        if one.subject == subject.issuer:
            try:
                subject.verify_directly_issued_by(one)
            except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
                continue
            return one
    return None
