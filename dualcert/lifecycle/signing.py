"""Signing the head of the history: whoever was given the public key before knows a head that we have told.

The private key is wrapped as those of certificates are. Whoever can write to the database, and has no KEK, can compute
seals anew, but not sign the last one.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dualcert.clock import rfc3339
from dualcert.errors import ConfigurationError, KeyProblem, KeyUnreadable, StoreError, StoreUnavailable
from dualcert.lifecycle import keymaking, sealing, weakkeys
from dualcert.lifecycle.sealing import Head, Verdict
from dualcert.lifecycle.world import World
from dualcert.model.certificate import WrappedKey
from dualcert.model.events import EventKind
from dualcert.model.seal import Seal, statement, text_of
from dualcert.store import events, keys, seals, signed_heads
from dualcert.store.signed_heads import SIGNING, Signature

_ALGORITHM = ec.ECDSA(hashes.SHA256())


def head(world: World) -> dict[str, Any] | None:
    """Seal all there is, and sign the last seal; None where nothing ever happened.

    As ``docs/audit.md`` says: what is signed, and beside it the ``signature``. Raises ``StoreUnavailable`` where the
    history cannot be sealed, ``StoreError`` where another one was signed before, ``KeyProblem`` where the key does not
    open.
    """
    with world.store.read() as tx:
        if events.last(tx) == 0:
            return None
    key = _key(world)
    last = sealing.seal_everything(world)
    return None if last is None else _signed(world, last, key)


def last_head(world: World) -> dict[str, Any] | None:
    """The same; where others leave no moment to seal all, of what is sealed already."""
    try:
        return head(world)
    except StoreUnavailable:
        with world.store.read() as tx:
            last = seals.last(tx)
        return None if last is None else _signed(world, last, _key(world))


def public_key(world: World) -> str:
    """The public key in PEM, for whoever is to know heads by it; the pair is made if there is none yet."""
    opened = _opened(world, _key(world))
    return opened.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _signed(world: World, last: Seal, key: WrappedKey) -> dict[str, Any]:
    private = _opened(world, key)
    with world.store.read() as tx:
        history, at = seals.page(tx, 0, 1)[0].digest, tx.now
        kept = signed_heads.get(tx, last.no, key.spki)
    if kept is None:
        signature = private.sign(text_of(statement(last, history, key.spki, at)), _ALGORITHM)
        with world.store.write() as tx:
            kept = signed_heads.add(tx, Signature(last.no, key.spki, at, signature))
    line = statement(last, history, key.spki, kept.at)
    if not _fits(private.public_key(), kept.signature, text_of(line)):
        raise StoreError(
            f"seal {last.no} is not the one that was signed at {rfc3339(kept.at)}: the history was changed since",
            remedy="See what else is wrong: dualcert events --verify --against, with heads that were kept elsewhere.",
        )
    return {**line, "signature": b64encode(kept.signature).decode("ascii")}


# --- the key ---------------------------------------------------------------------------------------------


def _key(world: World) -> WrappedKey:
    """The key to sign with; where there is none, or it has leaked with its KEK, a new one."""
    with world.store.read() as tx:
        found = signed_heads.key(tx, world.protectors.keys())
    return found if found is not None else _new_key(world)


def _new_key(world: World) -> WrappedKey:
    domain = min(world.protectors, default=None)
    if domain is None:
        raise ConfigurationError(
            "there is no KEK that a key to sign with could lie under", remedy="Add [keys.NAME]."
        )
    made = keymaking.wrap(world, domain, weakkeys.account_key(world), SIGNING)
    with world.store.write() as tx:
        tx.alone("signing key")
        # Another process may have been first.
        found = signed_heads.key(tx, world.protectors.keys())
        if found is not None:
            return found
        signed_heads.keep_key(tx, made)
        cause = f"heads of the history are signed with the key {made.spki.hex()} from now on"
        events.record(tx, EventKind.SIGNING_KEY_MADE, cause)
    return made


def _opened(world: World, key: WrappedKey) -> ec.EllipticCurvePrivateKey:
    opened = load_pem_private_key(keymaking.unwrap(world, key, SIGNING), None)
    if not isinstance(opened, ec.EllipticCurvePrivateKey):
        raise KeyUnreadable("the key to sign with is of another kind than those that are made for it")
    return opened


# --- verifying -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """What verifying came to. ``signed``: the seal that was signed last, and when, where it is still the same.

    ``by_signature``: how many lines from elsewhere were known by their signature.
    """

    verdict: Verdict
    signed: tuple[int, datetime] | None
    by_signature: int


def verify(
    world: World, kept: Sequence[tuple[Head, Mapping[str, Any]]] = (), by: bytes | None = None
) -> Checked:
    """Compute all seals anew, and compare with heads that were kept elsewhere (each also as it was read), and with
    the one that was signed here last. ``by``: the public key in PEM that every line must be signed with.

    Raises ``ValueError`` where that is no such key.
    """
    if by is not None:
        public = _public(by)
        for one, line in kept:
            if not _is_signed(line, public):
                broken = f"line {one.line} (seal {one.no}) is not signed with that key"
                return Checked(Verdict(None, 0, 0, broken), None, 0)
    verdict = sealing.verify(world, [one for one, _ in kept])
    if verdict.broken is not None:
        return Checked(verdict, None, 0)
    try:
        with world.store.read() as tx:
            last = signed_heads.last(tx)
            key = None if last is None else keys.find(tx, last.spki)
            first, mine = [
                next(iter(seals.page(tx, after, 1)), None) for after in (0, last.no - 1 if last else 0)
            ]
    except sealing.UNREADABLE as error:
        broken = f"what was signed last cannot be read: {error}"
        return Checked(Verdict(verdict.head, verdict.newer, verdict.compared, broken), None, 0)
    by_signature = len(kept) if by is not None else 0
    if last is None:
        return Checked(verdict, None, by_signature)
    wrong = _wrong(world, last, key, first, mine)
    if wrong is None:
        return Checked(verdict, (last.no, last.at), by_signature)
    return Checked(Verdict(verdict.head, verdict.newer, verdict.compared, wrong), None, by_signature)


def _wrong(
    world: World, last: Signature, key: WrappedKey | None, first: Seal | None, mine: Seal | None
) -> str | None:
    what = f"seal {last.no}, which was signed at {rfc3339(last.at)}"
    if first is None or mine is None or mine.no != last.no:
        return f"{what}, is not in the database"
    if key is None:
        return f"{what}: the key that has signed it is not in the database"
    try:
        public = _opened(world, key).public_key()
    except KeyProblem as error:
        return f"{what}: whether it is the same is not known, for {error.reason}"
    text = text_of(statement(mine, first.digest, last.spki, last.at))
    return None if _fits(public, last.signature, text) else f"{what}, is another one now"


def _public(pem: bytes) -> ec.EllipticCurvePublicKey:
    public = load_pem_public_key(pem)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ValueError("it is a key of another kind")  # noqa: TRY004 - what was read is wrong, not what was passed
    return public


def _is_signed(line: Mapping[str, Any], public: ec.EllipticCurvePublicKey) -> bool:
    said = {name: value for name, value in line.items() if name != "signature"}
    try:
        signature, text = b64decode(str(line.get("signature", "")), validate=True), text_of(said)
    except ValueError:  # it is no Base64, or holds what no text can be made of
        return False
    return _fits(public, signature, text)


def _fits(public: ec.EllipticCurvePublicKey, signature: bytes, text: bytes) -> bool:
    try:
        public.verify(signature, text, _ALGORITHM)
    except InvalidSignature:
        return False
    return True
