"""What leaked, in the words of whoever says so; what was found is brought down to the hash of its public key.

A private key goes no further than here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from dualcert.errors import UsageProblem
from dualcert.lifecycle.world import World
from dualcert.model.events import Event, EventKind
from dualcert.model.pair import Pair
from dualcert.model.wording import typed
from dualcert.store import Transaction, certificates, compromise, events, pairs

_PRIVATE = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_PEM = b"-----BEGIN CERTIFICATE-----"

REVOKE_WITHIN = timedelta(hours=24)
"""What the Baseline Requirements give for a leaked key: then it is revoked although it may serve still."""

_RECENT = timedelta(hours=1)


_BATCH = 500


@dataclass(frozen=True)
class Leak:
    """What leaked: one key, what was at a target since an instant, or a whole isolation domain.

    ``described`` says so in words that are the same at each call. ``before``: when the same was said of this leak
    already; of a target, what came there later is good. ``again``: the domain leaked anew, after it was given a new
    KEK because of an earlier leak. ``of``: the certificate that a person meant by the name of its pair, and its role
    in words. ``revoke_at``: the instant by which it is revoked, where that was said as one; else it is so long
    from now.
    """

    described: str
    key: bytes | None = None
    target: str | None = None
    since: datetime | None = None
    domain: str | None = None
    again: bool = False
    revoke_within: timedelta = REVOKE_WITHIN
    revoke_at: datetime | None = None
    before: datetime | None = None
    of: tuple[int, str] | None = None


# --- what is said twice ----------------------------------------------------------------------------------
#
# What serves where a leaked key served is another one as soon as the pair has turned. So what was said within the last
# hour, or is not finished, is gone on with; unless it leaked again.


def of_pair(world: World, pair: Pair, role: str, *, again: bool) -> Leak:
    """The key of the certificate that has this role in the pair, or had it when this was said first.

    Raises ``UsageProblem`` where there is no certificate.
    """
    said = f"the key of its {role}"
    with world.store.read() as tx:
        told = None if again else compromise.last_told(tx, said, pair.id)
        if told is not None and not _goes_on(tx, told, [told.certificate or 0]):
            told = None
        state = pairs.state(tx, pair.id)
        number = told.certificate if told else state.serving if role == "primary" else state.standby
        if number is None:
            raise UsageProblem(
                f"there is no certificate whose key could have leaked: no {role}",
                remedy=f"See what it has: dualcert show {typed(pair.name)}. A key by itself: --key or --spki.",
                name=pair.name,
            )
        key = certificates.get(tx, number).spki
    return Leak(f"key {key.hex()}", key=key, before=told.at if told else None, of=(number, said))


def of_target(
    world: World, target: str, since: str | None, reckoned: Callable[[datetime], datetime], *, again: bool
) -> Leak:
    """What was at a target, since an instant that is ``reckoned`` from now, or from when this was said first."""
    said = f"target {target}" if since is None else f"target {target} since {since}"
    with world.store.read() as tx:
        told = None if again else compromise.last_told(tx, said)
        at = tx.now if told is None else told.at
        begin = None if since is None else reckoned(at)
        if told is not None and not _goes_on(tx, told, compromise.at_target(tx, target, begin, at)):
            told, begin = None, None if since is None else reckoned(tx.now)
    return Leak(said, target=target, since=begin, before=told.at if told else None)


def of_domain(world: World, domain: str, *, again: bool) -> Leak:
    """All keys of an isolation domain that were made until this was said first."""
    said = f"isolation domain {domain}"
    with world.store.read() as tx:
        told = None if again else compromise.last_told(tx, said)
    return Leak(said, domain=domain, again=again, before=told.at if told else None)


def _goes_on(tx: Transaction, told: Event, ids: Sequence[int]) -> bool:
    if tx.now - told.at < _RECENT:
        return True
    batches = (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))
    return any(one.role or not one.revoked for some in batches for one in compromise.held(tx, some))


def remember(world: World, leak: Leak) -> Leak:
    """Write down that it was said, before anything comes of it. Of a domain that is done when it has its new KEK."""
    if leak.before is not None or (leak.of is None and leak.target is None):
        return leak
    with world.store.write() as tx:
        if leak.of is not None:
            one = certificates.get(tx, leak.of[0])
            said, pair = leak.of[1], one.pair_id
            events.record(tx, EventKind.COMPROMISED, said, pair=pair, ca=one.ca, certificate=one.id)
        else:
            events.record(tx, EventKind.COMPROMISED, leak.described, target=leak.target)
    return replace(leak, before=tx.now)


# --- what was found --------------------------------------------------------------------------------------


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
        raise UsageProblem(
            f"the private key in {file} cannot be read",
            remedy="If its certificate is at hand: --cert FILE; if the hash of its public key is: --spki HEX.",
        ) from None
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
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise UsageProblem(
            f"{file} holds no certificate that can be read",
            remedy="Name one in PEM or DER. A private key is named by --key FILE, a public key's hash by --spki HEX.",
        ) from None
    return hashlib.sha256(public).digest()
