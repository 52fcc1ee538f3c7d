"""Signing the head of the history: whoever was given the public key before knows a head that we have told.

The private key is wrapped as those of certificates are. Whoever can write to the database, and has no KEK, can compute
seals anew, but not sign the last one.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dualcert.clock import rfc3339
from dualcert.errors import ConfigurationError, KeyProblem, KeyUnreadable, StoreError
from dualcert.lifecycle import keymaking, sealing, weakkeys
from dualcert.lifecycle.sealing import Head, Verdict
from dualcert.lifecycle.world import World
from dualcert.model.certificate import WrappedKey
from dualcert.model.events import EventKind
from dualcert.model.seal import Seal, statement, text_of
from dualcert.store import events, seals, signed_heads
from dualcert.store.signed_heads import SIGNING, Signature

PublicKey = ec.EllipticCurvePublicKey

_ALGORITHM = ec.ECDSA(hashes.SHA256())
_BEGIN = b"-----BEGIN "
_KEY = re.compile("[0-9a-f]{64}")
_PAGE = 1000


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


def last_head(world: World) -> tuple[dict[str, Any] | None, bool]:
    """The same; where others leave no moment to seal all, of what is sealed already. And whether that is all."""
    with world.store.read() as tx:
        if events.last(tx) == 0:
            return None, True
    key = _key(world)
    last, everything = sealing.seal_what_can_be(world)
    return None if last is None else _signed(world, last, key), everything


def public_key(world: World) -> str:
    """The public key in PEM, for whoever is to know heads by it; the pair is made if there is none yet."""
    opened = _opened(world, _key(world))
    return opened.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _signed(world: World, last: Seal, key: WrappedKey) -> dict[str, Any]:
    private = _opened(world, key)
    with sealing.readable(), world.store.read() as tx:
        first, at = seals.page(tx, 0, 1)[0], tx.now
        kept = signed_heads.get(tx, last.no, key.spki)
        newest = signed_heads.last(tx)
    if newest is not None:
        _refuse_another(world, *newest, first)
    if kept is None:
        signature = private.sign(text_of(statement(last, first.digest, key.spki, at)), _ALGORITHM)
        with sealing.readable(), world.store.write() as tx:
            kept = signed_heads.add(tx, Signature(last.no, key.spki, at, signature))
    if not _fits(private.public_key(), kept, last, first):
        raise _another(kept)
    line = statement(last, first.digest, key.spki, kept.at)
    return {**line, "signature": b64encode(kept.signature).decode("ascii")}


def _refuse_another(world: World, newest: Signature, its: Seal | None, first: Seal) -> None:
    """Whoever has computed the seals anew has not signed them: a signature of ours over them would vouch for him.

    Where nobody can say, for the key has leaked or its domain is configured no more, it goes on with another key.
    """
    public = _public_of(world, newest.spki)
    if its is None or (isinstance(public, PublicKey) and not _fits(public, newest, its, first)):
        raise _another(newest)


def _another(signed: Signature) -> StoreError:
    return StoreError(
        f"seal {signed.no} is not the one that was signed at {rfc3339(signed.at)}: the history was changed since",
        remedy="See what else is wrong: dualcert events --verify --against, with heads that were kept elsewhere.",
    )


# --- the key ---------------------------------------------------------------------------------------------


def _key(world: World) -> WrappedKey:
    """The key to sign with; where there is none, or it has leaked with its KEK, a new one."""
    with sealing.readable(), world.store.read() as tx:
        found = signed_heads.key(tx, world.protectors.keys())
    return found if found is not None else _new_key(world)


def _new_key(world: World) -> WrappedKey:
    domain = min(world.protectors, default=None)
    if domain is None:
        raise ConfigurationError(
            "there is no KEK that a key to sign with could lie under", remedy="Add [keys.NAME]."
        )
    made = keymaking.wrap(world, domain, weakkeys.account_key(world), SIGNING)
    with sealing.readable(), world.store.write() as tx:
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

    ``by_signature``: how many lines from elsewhere were known by their signature. ``unchecked``: how many older
    signatures nobody can say anything of any more, and why; their keys do not open.
    """

    verdict: Verdict
    signed: tuple[int, datetime] | None = None
    by_signature: int = 0
    unchecked: tuple[int, str] | None = None


def verify(
    world: World,
    kept: Sequence[tuple[Head, Mapping[str, Any]]] = (),
    by: Sequence[PublicKey] | None = None,
) -> Checked:
    """Compute all seals anew, and compare with heads that were kept elsewhere (each also as it was read), and with
    all that were signed here. ``by``: the public keys of which every line must be signed with one.
    """
    if by is not None:
        for one, line in kept:
            if not any(_is_signed(line, public) for public in by):
                return Checked(Verdict(None, 0, 0, _by_none(one, line, len(by))))
    verdict = sealing.verify(world, [one for one, _ in kept])
    if verdict.broken is not None:
        return Checked(verdict)
    try:
        found = _look_through(world)
    except ValueError as error:
        found = _Found(f"what was signed cannot be read: {error}")
    if found.broken is not None:
        return Checked(Verdict(verdict.head, verdict.newer, verdict.compared, found.broken))
    return Checked(
        verdict,
        None if found.newest is None else (found.newest.no, found.newest.at),
        len(kept) if by is not None else 0,
        found.unchecked,
    )


@dataclass
class _Found:
    """What the signatures say: the first thing wrong, the newest of them, and those that nobody can check."""

    broken: str | None = None
    newest: Signature | None = None
    unknown: list[tuple[Signature, str]] = field(default_factory=list)

    @property
    def unchecked(self) -> tuple[int, str] | None:
        why = "; ".join(dict.fromkeys(reason for _, reason in self.unknown))
        return (len(self.unknown), why) if self.unknown else None


def _look_through(world: World) -> _Found:
    """All of them: whoever rewrites the history leaves older ones, and the next head is signed by ourselves."""
    found = _Found()
    publics: dict[bytes, PublicKey | str | None] = {}
    after: Signature | None = None
    while True:
        with world.store.read() as tx:
            first = next(iter(seals.page(tx, 0, 1)), None)
            page = signed_heads.page(tx, after, _PAGE)
        for one, its in page:
            if one.spki not in publics:
                publics[one.spki] = _public_of(world, one.spki)
            public = publics[one.spki]
            found.broken = _wrong(one, its, first, public)
            if found.broken is not None:
                return found
            if isinstance(public, str):
                found.unknown.append((one, public))
            if found.newest is None or (one.no, one.at) >= (found.newest.no, found.newest.at):
                found.newest = one
            after = one
        if len(page) < _PAGE:
            break
    # Older ones go with a KEK that has leaked; of the newest somebody should be able to say something.
    found.broken = next(
        (
            f"{_named(one)}: whether it is the same is not known, for {why}"
            for one, why in found.unknown
            if one is found.newest
        ),
        None,
    )
    return found


def _named(signed: Signature) -> str:
    return f"seal {signed.no}, which was signed at {rfc3339(signed.at)}"


def _wrong(
    signed: Signature, its: Seal | None, first: Seal | None, public: PublicKey | str | None
) -> str | None:
    what = _named(signed)
    if first is None or its is None:
        return f"{what}, is not in the database"
    if public is None:  # nothing ever removes one
        return f"{what}: the key that has signed it is not in the database"
    if isinstance(public, str) or _fits(public, signed, its, first):
        return None
    return f"{what}, is another one now"


def _public_of(world: World, spki: bytes) -> PublicKey | str | None:
    """The public part of a key that has signed; in words why nobody knows it; None where it is not there."""
    try:
        with world.store.read() as tx:
            key = signed_heads.key_of(tx, spki)
        if key is None:
            return None
        if key.domain not in world.protectors:
            return f"its key lies under the KEK of [keys.{key.domain}], which is not configured"
        return _opened(world, key).public_key()
    except (KeyProblem, ConfigurationError) as error:
        return error.reason
    except ValueError as error:
        return str(error)


def _fits(public: PublicKey, signed: Signature, its: Seal, first: Seal) -> bool:
    text = text_of(statement(its, first.digest, signed.spki, signed.at))
    return _is_of(public, signed.signature, text)


def _is_of(public: PublicKey, signature: bytes, text: bytes) -> bool:
    try:
        public.verify(signature, text, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


# --- heads from elsewhere ----------------------------------------------------------------------------------


def public_keys(pem: bytes) -> list[PublicKey]:
    """Of a file in which several stand one after another: a key is followed by another one when its KEK has leaked.

    Raises ``ValueError`` where there is none, or something else among them.
    """
    _, *blocks = pem.split(_BEGIN)
    if not blocks:
        raise ValueError("there is no PEM in it")
    return [_public(_BEGIN + block) for block in blocks]


def _public(pem: bytes) -> PublicKey:
    try:
        public = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError("it is a key of another kind") from error
    if not isinstance(public, PublicKey):
        raise ValueError("it is a key of another kind")  # noqa: TRY004 - what was read is wrong, not what was passed
    return public


def _is_signed(line: Mapping[str, Any], public: PublicKey) -> bool:
    said = {name: value for name, value in line.items() if name != "signature"}
    try:
        signature, text = b64decode(str(line.get("signature", "")), validate=True), text_of(said)
    except ValueError:  # it is no Base64, or holds what no text can be made of
        return False
    return _is_of(public, signature, text)


def _by_none(one: Head, line: Mapping[str, Any], keys: int) -> str:
    key = line.get("key")
    names = f"the key {key}" if isinstance(key, str) and _KEY.fullmatch(key) else "no key"
    by = "is not signed with that key" if keys == 1 else f"is signed with none of the {keys} keys"
    return f"line {one.line} (seal {one.no}) {by}; it names {names}"
