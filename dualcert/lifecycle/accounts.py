"""Accounts at CAs: made at first use, found again after a crash, bound to one isolation domain for life.

A process opens an account's key once and keeps it. Another one may change the key, and a CA may lose the account: so a
refused request asks here whether it was signed with what is valid now, before its refusal counts.
"""

from __future__ import annotations

import threading

from dualcert.errors import AccountProblem, CaError, CaRejected, ConfigurationError
from dualcert.lifecycle import accountkeys, keymaking, weakkeys
from dualcert.lifecycle.world import CaBinding, World
from dualcert.model.events import EventKind
from dualcert.policy.recovery import about_account, lost_account
from dualcert.ports.ca import Account, CertificateAuthority
from dualcert.store import accounts, events
from dualcert.store.accounts import StoredAccount


def authority(world: World, ca: CaBinding) -> CertificateAuthority:
    """The CA, speaking for our account there; the account is registered if there is none yet.

    Raises ``CaError``, or ``ConfigurationError`` where the CA's recorded directory or domain is another now.
    """
    client = ca.authority()

    def load() -> None:
        client.use(
            current(world, ca, client, stored_or_new(world, ca, client)), _Reconsider(world, ca, client)
        )

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


def stored_or_new(world: World, ca: CaBinding, client: CertificateAuthority) -> StoredAccount:
    """The account as it is written down; a new one gets a key, and is not known to the CA yet."""
    with world.store.read() as tx:
        stored = accounts.get(tx, ca.name)
    if stored is None:
        identities = frozenset(client.facts().caa_identities)
        wrapped = keymaking.wrap(world, ca.domain, weakkeys.account_key(world, ca.name), "account")
        mine = StoredAccount(ca.name, ca.directory, wrapped, None, identities)
        with world.store.write() as tx:
            # Another process may have been first; then its key is the account's.
            stored = accounts.create_or_get(tx, mine)
    check_recorded(ca, stored)
    return stored


def current(world: World, ca: CaBinding, client: CertificateAuthority, stored: StoredAccount) -> Account:
    """The account to speak for, with the key that the CA knows; registered where the CA has not heard of it yet.

    Raises ``AccountProblem`` where we have ended it, ``CaError``.
    """
    demand_active(ca.name, stored)
    stored = accountkeys.settle(world, ca, client, stored)
    key = accountkeys.open_key(world, stored.key)
    return Account(stored.url or register(world, ca, client, key), key)


def demand_active(ca: str, stored: StoredAccount) -> None:
    if stored.deactivated_at is not None:
        raise AccountProblem(
            f"its account was deactivated on {stored.deactivated_at:%Y-%m-%d %H:%M} UTC, so nothing is ordered there",
            problem="unauthorized",
            remedy=f"To order there again, make a new account: dualcert account register {ca}",
            ca=ca,
        )


def register(
    world: World, ca: CaBinding, client: CertificateAuthority, key: bytes, lost: str | None = None
) -> str:
    """Register a key that is written down; the account's URL. ``lost``: where it was before the CA lost it."""
    url = client.register(key)
    with world.store.write() as tx:
        accounts.set_url(tx, ca.name, url)
        accounts.set_contact(tx, ca.name, ca.contact)
        cause = url if lost is None else f"{url}, because the CA does not know {lost} any more"
        events.record(tx, EventKind.ACCOUNT_REGISTERED, cause, ca=ca.name)
    return url


class _Reconsider:
    """Whether a refusal was meant for an account or a key of before (see ``ports.ca``)."""

    def __init__(self, world: World, ca: CaBinding, client: CertificateAuthority) -> None:
        self._world = world
        self._ca = ca
        self._client = client
        self._lock = threading.Lock()

    def __call__(self, error: CaRejected, used: Account) -> Account | None:
        if not about_account(error):
            return None
        with self._lock:  # of many threads that are refused, one finds out
            with self._world.store.read() as tx:
                stored = accounts.get(tx, self._ca.name)
            if stored is None:
                return None
            demand_active(self._ca.name, stored)
            try:
                now = current(self._world, self._ca, self._client, stored)
                if now != used:
                    return now
                if not lost_account(error):
                    return None
                return Account(register(self._world, self._ca, self._client, now.key, lost=now.url), now.key)
            except CaError as trouble:
                raise _because(trouble, error) from trouble


def _because(trouble: CaError, refusal: CaRejected) -> CaError:
    """What kept a lost account from being made anew is told with what was lost."""
    trouble.reason = f"{refusal.reason}; and then: {trouble.reason}"
    return trouble
