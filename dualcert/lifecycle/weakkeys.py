"""Known weaknesses of keys that enter: one that we have made is never used, one that a certificate has is blocked.

Whether anybody looks is for ``World.inspector`` to say; without it nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dualcert.errors import KeyWeak
from dualcert.lifecycle import keymaking
from dualcert.lifecycle.findings import Finding
from dualcert.lifecycle.keymaking import NewKey
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.events import EventKind
from dualcert.model.signal import Reason, SignalKind, Suspect
from dualcert.store import Transaction, certificates, events, signals

if TYPE_CHECKING:
    from dualcert.lifecycle.inspection import Arrival


def sound(world: World, make: Callable[[], NewKey], *, ca: str | None, pair: int | None = None) -> NewKey:
    """A key as ``make`` makes it, of which no weakness is known. A weak one is blocked for ever, and another is made.

    Raises ``KeyWeak`` where that one is weak, too: then it is not the key.
    """
    said = ""
    for _ in range(2):
        key = make()
        found = _of(world, key.public)
        if not found:
            return key
        said = told(world, found)
        with world.store.write() as tx:
            if certificates.block_key(tx, key.spki, said):
                events.record(tx, EventKind.KEY_BLOCKED, f"a new key is weak: {said}", pair=pair, ca=ca)
    raise KeyWeak(
        f"two new keys in a row are weak: {said}",
        remedy="No key that is made here can be relied on. See where this machine has its randomness from.",
        ca=ca,
    )


def account_key(world: World, ca: str | None = None) -> NewKey:
    """A fresh key for an account at a CA, or to sign with. Raises ``KeyWeak``."""
    return sound(world, keymaking.account_key, ca=ca)


def of_certificate(world: World, certificate: x509.Certificate) -> tuple[str, ...]:
    """What is wrong with its key; empty: nothing is known, or nobody looks."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return ()  # it is unfit for that alone
    return _of(world, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def told(world: World, found: tuple[str, ...]) -> str:
    """The evidence: what was found, and who says so."""
    inspector = world.inspector()
    return f"{', '.join(found)} ({inspector.name if inspector is not None else 'nobody'})"


def _of(world: World, key: bytes) -> tuple[str, ...]:
    inspector = world.inspector()
    return () if inspector is None else inspector.weaknesses(key)


# --- what arrives ----------------------------------------------------------------------------------------


def flaws(world: World, arrival: Arrival, weak: tuple[str, ...]) -> tuple[str, ...]:
    """What speaks against using a certificate that has arrived: its own key, where that is ``weak``, and those of the
    CAs above it."""
    found = [f"its key is weak: {told(world, weak)}"] if weak else []
    for one in arrival.intermediates:
        above = of_certificate(world, one)
        if above:
            name = one.subject.rfc4514_string()
            found.append(f"the key of its CA's certificate {name} is weak: {told(world, above)}")
    return tuple(found)


def block(
    world: World, tx: Transaction, arrival: Arrival, weak: tuple[str, ...], *, pair: int, ca: str
) -> None:
    """Have the key of a certificate that arrives blocked for ever, where it is ``weak``."""
    if weak and certificates.block_key(tx, arrival.spki, told(world, weak)):
        events.record(tx, EventKind.KEY_BLOCKED, f"its key is weak: {told(world, weak)}", pair=pair, ca=ca)


def remember(world: World, tx: Transaction, arrived: Certificate, number: int, weak: tuple[str, ...]) -> None:
    """Keep what is known against a certificate that has arrived."""
    if weak:
        suspect = suspect_of(weak, number, arrived.pair_id, arrived.ca, arrived.spki)
        signals.remember(tx, suspect, SignalKind.WEAK_KEY, source(world))


def suspect_of(found: tuple[str, ...], certificate: int, pair: int, ca: str, spki: bytes) -> Suspect:
    """A certificate whose key is weak: as good as known to others."""
    return Suspect(
        certificate_id=certificate,
        pair_id=pair,
        ca=ca,
        spki=spki,
        reason=Reason.KEY_COMPROMISE.value,
        evidence=f"its key is weak: {', '.join(found)}",
    )


def source(world: World) -> str:
    """Who looks at keys, as signals name it."""
    inspector = world.inspector()
    return inspector.name if inspector is not None else ""


# --- check -----------------------------------------------------------------------------------------------


def findings(world: World) -> Iterator[Finding]:
    """What ``check`` says of it."""
    subject, fetch = "weak keys", "Fetch it: badkeys --update-bl, as the user that dualcert runs as."
    inspector = world.inspector()
    if inspector is None:
        yield Finding(
            subject,
            remedy="Install it: pip install 'dualcert[badkeys]'.",
            detail="nobody looks for known weaknesses in keys: badkeys is not installed",
        )
        return
    listed = inspector.blocklist
    if listed.problem is not None:
        yield Finding(
            subject, f"the list of leaked keys in {listed.folder} is not used: {listed.problem}", fetch
        )
    elif listed.fetched is None:
        yield Finding(
            subject,
            remedy=fetch,
            detail=f"{inspector.name} looks at every RSA key that enters; there is no list of leaked keys in "
            f"{listed.folder}, so EC keys are not looked at",
        )
    else:
        yield Finding(
            subject,
            detail=f"{inspector.name} looks at every key that enters; its list of leaked keys is of "
            f"{listed.fetched:%Y-%m-%d}",
        )
