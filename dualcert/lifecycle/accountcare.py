"""What a person can do with an account: look at it, change its contact or its key, end it, make it anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualcert.errors import (
    AccountProblem,
    CaError,
    CaRejected,
    ConfigurationError,
    DualcertError,
    KeyProblem,
    UsageProblem,
)
from dualcert.lifecycle import accountkeys, accounts, keymaking, weakkeys
from dualcert.lifecycle.world import CaBinding, World
from dualcert.model.events import EventKind
from dualcert.ports.ca import Account, AccountSnapshot, CaFacts, CertificateAuthority
from dualcert.store import accounts as table
from dualcert.store import events
from dualcert.store.accounts import StoredAccount

VALID = "valid"
UNKNOWN = "unknown"
REFUSED = "refused"
"""What is shown as an account's status where the CA does not tell one: it does not know it, or lets it ask nothing."""


def configured(world: World, name: str) -> CaBinding:
    """A CA by its name. Raises ``UsageProblem``."""
    if name not in world.cas:
        raise UsageProblem(
            f"no CA is called {name}", remedy=f"There is: {', '.join(sorted(world.cas)) or 'none'}."
        )
    return world.cas[name]


# --- looking ---------------------------------------------------------------------------------------------


def describe(world: World, ca: CaBinding) -> dict[str, Any]:
    """An account in the shape that scripts rely on (``account show --json``); nothing is registered by looking.

    ``problem`` says why the CA could not be asked, or what it answered instead of a status.
    """
    with world.store.read() as tx:
        stored = table.get(tx, ca.name)
    facts, problem = _facts(ca)
    thumbprint, status, contact = None, None, None
    if stored is not None:
        try:
            accounts.check_recorded(ca, stored)
            stored = accountkeys.settle(world, ca, ca.authority(), stored) if problem is None else stored
            key = accountkeys.open_key(world, stored.key)
            thumbprint = accountkeys.thumbprint(key)
            if stored.url is not None and problem is None:
                snapshot, status, problem = _asked(ca.authority(), Account(stored.url, key))
                contact = list(snapshot.contact) if snapshot else None
        except (CaError, ConfigurationError, KeyProblem) as error:
            problem = error.reason
    return {
        "ca": ca.name,
        "directory": ca.directory,
        "url": stored.url if stored else None,
        "status": status,
        "contact": contact,
        "contact_sent": list(stored.contact) if stored and stored.contact is not None else None,
        "contact_configured": list(ca.contact),
        "domain": stored.key.domain if stored else ca.domain,
        "key_thumbprint": thumbprint,
        "spki_sha256": stored.key.spki if stored else None,
        "key_change": "under way" if stored and stored.next_key else None,
        "created_at": stored.created_at if stored else None,
        "deactivated_at": stored.deactivated_at if stored else None,
        "caa_identities": sorted(facts.caa_identities if facts else stored.caa_identities if stored else ()),
        "terms_of_service": facts.terms_of_service if facts else None,
        "profiles": sorted(facts.profiles) if facts else None,
        "reached": facts is not None,
        "problem": problem,
    }


def _facts(ca: CaBinding) -> tuple[CaFacts | None, str | None]:
    try:
        return ca.authority().facts(), None
    except (CaError, ConfigurationError) as error:
        return None, error.reason


def _asked(
    client: CertificateAuthority, account: Account
) -> tuple[AccountSnapshot | None, str | None, str | None]:
    """What the CA tells, the status, and what it said instead."""
    try:
        snapshot = client.account(account)
    except CaRejected as error:
        return None, UNKNOWN if error.problem == "accountDoesNotExist" else REFUSED, error.reason
    except CaError as error:
        return None, None, error.reason
    return snapshot, snapshot.status, None


# --- changing --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tended:
    """What came of it. ``woken``: orders that had waited for a person and go on now."""

    url: str
    changed: bool
    woken: int = 0


def update(world: World, ca: CaBinding) -> Tended:
    """Send the configured contact, and let go on what waited for the account. Raises ``CaError``, ``UsageProblem``."""
    client = ca.authority()
    account = accounts.current(world, ca, client, _registered(world, ca))
    client.update_account(account)
    with world.store.write() as tx:
        table.set_contact(tx, ca.name, ca.contact)
        events.record(tx, EventKind.ACCOUNT_UPDATED, ", ".join(ca.contact) or "no contact", ca=ca.name)
        woken = table.wake(tx, ca.name)
    return Tended(account.url, changed=True, woken=woken)


def rollover(world: World, ca: CaBinding, *, now: bool) -> tuple[StoredAccount, StoredAccount]:
    """Another key for the account, checked by a request that it signed: the account before and after.

    Raises ``Refused``, ``CaError``, ``UsageProblem``.
    """
    before = _registered(world, ca)
    accounts.demand_active(ca.name, before)
    return before, accountkeys.roll(world, ca, ca.authority(), now=now)


def used_by(world: World, ca: CaBinding) -> int:
    """How many pairs have this CA on one of their two sides."""
    with world.store.read() as tx:
        return table.lineages_at(tx, ca.name)


def deactivate(world: World, ca: CaBinding) -> str:
    """End the account for good; its URL. Raises ``CaError``, ``UsageProblem``.

    It is written down first, so that nothing speaks for the account any more whether or not the CA's answer arrives.
    """
    client = ca.authority()
    stored = accountkeys.settle(world, ca, client, _registered(world, ca))
    account = Account(stored.url or "", accountkeys.open_key(world, stored.key))
    with world.store.write() as tx:
        table.deactivate(tx, ca.name)
    try:
        client.deactivate_account(account)
    except AccountProblem:
        # So it was before, or the CA knows no such account: what was wanted is the case.
        pass
    except CaError as error:
        again = "Nothing is ordered there any more, but the CA may not know yet: say it again."
        error.remedy = f"{again} {error.remedy or ''}"
        raise
    with world.store.write() as tx:
        events.record(tx, EventKind.ACCOUNT_DEACTIVATED, account.url, ca=ca.name)
    return account.url


def register(world: World, ca: CaBinding) -> Tended:
    """An account that may be used: the one that is there if the CA knows it, else a new one.

    A key whose account was ended is replaced; one that the CA has merely lost is kept. Raises ``CaError``.
    """
    client = ca.authority()
    stored = accounts.stored_or_new(world, ca, client)
    old = stored.url
    if old is not None:
        stored = accountkeys.settle(world, ca, client, stored)
        stored = _usable(world, ca, client, stored)
    key = accountkeys.open_key(world, stored.key)
    if stored.url is None or (found := client.find_account(key)) is None:
        url, changed = accounts.register(world, ca, client, key, lost=old if stored.url else None), True
    else:
        url, changed = found, stored.deactivated_at is not None or found != stored.url
        with world.store.write() as tx:
            table.set_url(tx, ca.name, url)
            if changed:
                events.record(tx, EventKind.ACCOUNT_REGISTERED, f"{url} is in use again", ca=ca.name)
    with world.store.write() as tx:
        return Tended(url, changed, table.wake(tx, ca.name))


def _usable(
    world: World, ca: CaBinding, client: CertificateAuthority, stored: StoredAccount
) -> StoredAccount:
    """The account as it is, or under a new key where the CA says that the old one's account has ended."""
    try:
        client.find_account(accountkeys.open_key(world, stored.key))
    except AccountProblem:
        key = keymaking.wrap(world, stored.key.domain, weakkeys.account_key(world, ca.name), "account")
        with world.store.write() as tx:
            table.begin_anew(tx, stored, key)
        return accounts.stored_or_new(world, ca, client)
    return stored


def _registered(world: World, ca: CaBinding) -> StoredAccount:
    with world.store.read() as tx:
        stored = table.get(tx, ca.name)
    if stored is None or stored.url is None:
        raise UsageProblem(
            "there is no account at this CA yet",
            remedy=f"The first order makes one; to make it now: dualcert account register {ca.name}",
            ca=ca.name,
        )
    accounts.check_recorded(ca, stored)
    return stored


def problems_of(view: dict[str, Any]) -> DualcertError | None:
    """What a person should do about an account as ``describe`` tells it; None where it is well."""
    name = view["ca"]
    if not view["reached"] or (view["status"] is None and view["problem"]):
        return CaError(
            f"the CA could not be asked: {view['problem']}",
            remedy="What is shown is what was recorded here.",
            ca=name,
        )
    if view["deactivated_at"] is not None:
        return AccountProblem(
            "the account was deactivated: nothing is ordered there, its certificates stay valid",
            problem="unauthorized",
            remedy=f"A new account: dualcert account register {name}",
            ca=name,
        )
    if view["status"] in {UNKNOWN, REFUSED}:
        return AccountProblem(
            view["problem"],
            problem="accountDoesNotExist" if view["status"] == UNKNOWN else "unauthorized",
            remedy=f"Certificates stay valid. To order there again: dualcert account register {name}",
            ca=name,
        )
    return None
