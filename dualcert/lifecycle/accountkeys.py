"""The keys of accounts: opened, and replaced by others (RFC 8555 section 7.3.5).

The new key is written down before the CA hears of it, and takes the old one's place once the CA has answered a request
that it signed. Whoever finds a key that is neither in place nor gone asks the CA which of the two it knows; asking it
for the change once more does no harm. So the key that the CA knows is never lost, wherever a process ends.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from contextlib import suppress
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dualcert.errors import (
    AccountProblem,
    CaError,
    CaRejected,
    CaServerError,
    KeyUnreadable,
    Refused,
    StoreUnavailable,
)
from dualcert.lifecycle import keymaking, weakkeys
from dualcert.lifecycle.owner import is_dead, new_owner
from dualcert.lifecycle.world import CaBinding, World
from dualcert.model.certificate import WrappedKey
from dualcert.model.events import EventKind
from dualcert.ports.ca import Account, CertificateAuthority
from dualcert.store import accounts, events, leases
from dualcert.store.accounts import StoredAccount


def open_key(world: World, key: WrappedKey) -> bytes:
    """An account's key as PKCS#8 PEM. Raises ``KeyUnreadable``."""
    return keymaking.opened(world, key, "account")


def thumbprint(pem: bytes) -> str:
    """What an account's key is known by in ACME (RFC 7638), base64url."""
    key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyUnreadable("the account's key is not on an elliptic curve")
    public = key.public_key().public_numbers()
    length = (key.curve.key_size + 7) // 8
    members = {
        "crv": f"P-{key.curve.key_size}",
        "kty": "EC",
        "x": _base64url(public.x.to_bytes(length, "big")),
        "y": _base64url(public.y.to_bytes(length, "big")),
    }
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True).encode()
    return _base64url(hashlib.sha256(canonical).digest())


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# --- another key -----------------------------------------------------------------------------------------


def roll(world: World, ca: CaBinding, client: CertificateAuthority, *, now: bool) -> StoredAccount:
    """Give an account another key, or finish giving it the one that an earlier run has begun with.

    Raises ``Refused`` where orders are under way that hang on the old key (unless ``now``) or another process is
    at it, ``CaRejected`` where the CA does not take the key: then the old one stays.
    """
    owner = str(new_owner())
    if not _lead(world, ca.name, owner):
        raise _others(ca.name)
    try:
        stored = _now(world, ca.name)
        if stored.next_key is None:
            stored = _begin(world, ca, stored, now=now)
        elif _knows(world, client, stored):
            return _taken(world, ca.name, stored)
        return _change(world, ca, client, stored, owner)
    finally:
        _step_back(world, ca.name, owner)


def _others(ca: str) -> Refused:
    return Refused(
        "another process is changing the account's key at this moment",
        remedy=f"See what has come of it: dualcert account show {ca}",
        ca=ca,
    )


def settle(world: World, ca: CaBinding, client: CertificateAuthority, stored: StoredAccount) -> StoredAccount:
    """An account for which a key change is under way, as it is to be used now: by the key that the CA knows.

    What another process has begun and cannot finish any more is finished, or dropped where the CA refuses it.
    """
    if stored.next_key is None:
        return stored
    if _knows(world, client, stored):
        return _taken(world, ca.name, stored)
    owner = str(new_owner())
    if not _lead(world, ca.name, owner):
        return stored
    try:
        # Asked again and not dropped: a request that was cut off may reach the CA yet.
        return _change(world, ca, client, _now(world, ca.name), owner)
    except (CaError, Refused):
        # The old key was good a moment ago; where it is not, the next refusal leads here again.
        return _now(world, ca.name)
    finally:
        _step_back(world, ca.name, owner)


def _begin(world: World, ca: CaBinding, stored: StoredAccount, *, now: bool) -> StoredAccount:
    coming = keymaking.wrap(world, stored.key.domain, weakkeys.account_key(world, ca.name), "account")
    with world.store.write() as tx:
        hanging = 0 if now else accounts.between_challenges(tx, ca.name)
        if not hanging and accounts.want_key(tx, stored, coming):
            events.record(tx, EventKind.KEY_CHANGE_WANTED, f"to the key {coming.spki.hex()}", ca=ca.name)
    if hanging:
        raise Refused(
            f"{hanging} order{'s are' if hanging > 1 else ' is'} under way there whose challenges hang on the old key",
            remedy="Wait until they are through. With --now they fail, and are placed again.",
            ca=ca.name,
        )
    return _now(world, ca.name)


def _change(
    world: World, ca: CaBinding, client: CertificateAuthority, stored: StoredAccount, owner: str
) -> StoredAccount:
    coming = stored.next_key
    if coming is None or stored.url is None:
        return stored
    key = open_key(world, coming)
    with world.store.write() as tx:
        if not leases.take(tx, _lease(ca.name), owner):
            raise _others(ca.name)
    try:
        client.change_key(Account(stored.url, open_key(world, stored.key)), key)
    except CaRejected as error:
        _drop(world, ca, stored, owner, error)
        raise
    except CaError as error:
        # Whether the CA has heard of it is not known; the next run that needs the account finds out.
        error.remedy = (
            f"The CA may have taken the new key: who needs the account next finds out. {error.remedy or ''}"
        )
        raise
    _check(world, ca, client, stored, owner, Account(stored.url, key))
    return _taken(world, ca.name, stored)


def _check(
    world: World,
    ca: CaBinding,
    client: CertificateAuthority,
    stored: StoredAccount,
    owner: str,
    changed: Account,
) -> None:
    """The CA has said yes; whether it means it, a request tells that the new key signs."""
    try:
        client.account(changed)
    except CaRejected as error:
        problem = CaServerError(
            f"the CA said yes to another key for the account, and refuses what it signs: {error.reason}",
            remedy=f"Both keys are kept. See what the CA says: dualcert account show {ca.name}",
            ca=ca.name,
        )
        try:
            client.account(Account(changed.url, open_key(world, stored.key)))
        except CaRejected:
            raise problem from error
        _drop(world, ca, stored, owner, problem)
        problem.remedy = "The old key stays, and the CA knows it. This is the CA's fault; try again later."
        raise problem from error


def _drop(world: World, ca: CaBinding, stored: StoredAccount, owner: str, why: CaError) -> None:
    """Only by who leads still: another may have asked for the same change meanwhile, and the CA have taken it."""
    with world.store.write() as tx:
        if leases.take(tx, _lease(ca.name), owner) and accounts.drop_key(tx, stored):
            events.record(tx, EventKind.KEY_CHANGE_DROPPED, why.reason, ca=ca.name)


def _knows(world: World, client: CertificateAuthority, stored: StoredAccount) -> bool:
    """Whether the CA has taken the key that is to come."""
    coming = stored.next_key
    return coming is not None and client.find_account(open_key(world, coming)) == stored.url


def _taken(world: World, ca: str, stored: StoredAccount) -> StoredAccount:
    coming = stored.next_key
    with world.store.write() as tx:
        if coming is not None and accounts.take_key(tx, stored, coming):
            cause = f"{coming.spki.hex()} signs in place of {stored.key.spki.hex()}"
            events.record(tx, EventKind.KEY_CHANGED, cause, ca=ca)
    return _now(world, ca)


def _now(world: World, ca: str) -> StoredAccount:
    with world.store.read() as tx:
        stored = accounts.get(tx, ca)
    if stored is None:
        raise AccountProblem(
            "its account has vanished from the database", problem="accountDoesNotExist", ca=ca
        )
    return stored


def _lease(ca: str) -> str:
    return f"account:{ca}"


def _lead(world: World, ca: str, owner: str) -> bool:
    """Whether it is ours to change the key, until we step back; what a dead process of this machine has left is."""
    if not _taken_over(world, _lease(ca), owner):
        return False
    # The requests to a slow CA last longer, taken together, than a lease.
    world.leases.keep(owner, partial(_prolong, world, owner), world.clock)
    return True


def _prolong(world: World, owner: str) -> None:
    with suppress(StoreUnavailable), world.store.write() as tx:
        leases.renew(tx, owner, at_work=False)


def _taken_over(world: World, name: str, owner: str) -> bool:
    with world.store.write() as tx:
        if leases.take(tx, name, owner):
            return True
        for other, holder in leases.known(tx).items():
            if is_dead(other, None if world.store.goes_by_our_clock else holder.silent_for):
                leases.drop(tx, name, other)
        return leases.take(tx, name, owner)


def _step_back(world: World, ca: str, owner: str) -> None:
    world.leases.leave(owner)
    with world.store.write() as tx:
        leases.drop(tx, _lease(ca), owner)
