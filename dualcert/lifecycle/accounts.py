"""Accounts at CAs: made at first use, found again after a crash, bound to one isolation domain for life."""

from __future__ import annotations

from dualcert.errors import ConfigurationError
from dualcert.lifecycle import keymaking
from dualcert.lifecycle.world import CaBinding, World
from dualcert.model.events import EventKind
from dualcert.ports.ca import Account, CertificateAuthority
from dualcert.ports.keys import KeyContext
from dualcert.store import accounts, events
from dualcert.store.accounts import StoredAccount


def authority(world: World, ca: CaBinding) -> CertificateAuthority:
    """The CA, speaking for our account there; the account is registered if there is none yet.

    Raises ``CaError``, or ``ConfigurationError`` where the CA's recorded directory or domain is another now.
    """
    client = ca.authority()

    def load() -> None:
        stored = _stored(world, ca, client)
        key = _open(world, stored)
        client.use(Account(stored.url or _register(world, ca, client, key), key))

    ca.account(load)
    return client


def check_recorded(ca: CaBinding, stored: StoredAccount) -> None:
    """A CA's keys stay in the domain that they were first put into, and its name stays with its directory."""
    if stored.key.domain != ca.domain:
        raise ConfigurationError(
            f"[ca.{ca.name}] keys = {ca.domain!r}, but since it was first used they have been in {stored.key.domain!r}",
            remedy=f'Write keys = "{stored.key.domain}", or give the CA another name.',
            ca=ca.name,
        )
    if stored.directory != ca.directory:
        raise ConfigurationError(
            f"[ca.{ca.name}] directory is another than the one its account is at, {stored.directory}",
            remedy="A CA keeps its directory: give the new one a name of its own.",
            ca=ca.name,
        )


def _stored(world: World, ca: CaBinding, client: CertificateAuthority) -> StoredAccount:
    with world.store.read() as tx:
        stored = accounts.get(tx, ca.name)
    if stored is None:
        identities = frozenset(client.facts().caa_identities)
        key = keymaking.account_key()
        wrapped = keymaking.wrap(world, ca.domain, key, "account")
        mine = StoredAccount(ca.name, ca.directory, wrapped, None, identities)
        with world.store.write() as tx:
            # Another process may have been first; then its key is the account's.
            stored = accounts.create_or_get(tx, mine)
    check_recorded(ca, stored)
    return stored


def _open(world: World, stored: StoredAccount) -> bytes:
    key = stored.key
    return world.protector(key.domain).unwrap(key.wrapped, KeyContext(key.domain, key.spki.hex(), "account"))


def _register(world: World, ca: CaBinding, client: CertificateAuthority, key: bytes) -> str:
    url = client.register(key)
    with world.store.write() as tx:
        accounts.set_url(tx, ca.name, url)
        events.record(tx, EventKind.ACCOUNT_REGISTERED, url, ca=ca.name)
    return url
