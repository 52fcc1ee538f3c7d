"""Looks at the database, the keys, and the CAs: what stands behind every pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial

from dualcert.errors import CaError, CaUnreachable, ConfigurationError, DualcertError
from dualcert.lifecycle import accountkeys, inspection, keymaking
from dualcert.lifecycle.findings import Finding, Look, Scene, trouble
from dualcert.lifecycle.owner import new_owner
from dualcert.lifecycle.plugged import kek_of
from dualcert.lifecycle.world import World
from dualcert.policy import pairing
from dualcert.policy.pairing import CaIdentity
from dualcert.ports.ca import Account, CaFacts
from dualcert.store import accounts, checks, standings

_APART = timedelta(seconds=60)
"""How far two clocks may be apart: far less than what certificates and TSIG forgive."""

_APART_FROM_DATABASE = timedelta(seconds=5)
_SAMPLE = 3
_LATER = "It is tried again."
"""What a step of work says of a CA that it cannot reach; a look is not tried again."""


def looks(scene: Scene) -> Iterator[tuple[str, Look]]:
    yield "database", partial(_database, scene)
    for domain in scene.world.protectors:
        yield f"keys.{domain}", partial(_keys, scene, domain)
    yield "keys", partial(_keks_apart, scene.world)
    for ca in scene.world.cas:
        yield f"ca.{ca}", partial(_ca, scene, ca)
        yield f"orders at ca.{ca}", partial(_closed, scene, ca)
        yield f"clock of ca.{ca}", partial(_ca_clock, scene.world, ca)
        yield f"account at ca.{ca}", partial(_account, scene, ca)
    yield "independence", partial(_independence, scene)
    yield "spares", partial(_spares, scene)


# --- database and keys -----------------------------------------------------------------------------------


def _database(scene: Scene) -> Iterator[Finding]:
    if scene.database is not None:
        yield trouble("database", scene.database)
        return
    world = scene.world
    with world.store.write() as tx:
        checks.try_writing(tx, str(new_owner()))
    yield Finding("database", detail="it is of this program's revision, and can be written")
    with world.store.read() as tx:
        there = checks.database_clock(tx)
        here = world.clock.now()
    yield _apart("clock of the database", there - here, _APART_FROM_DATABASE)


def _apart(subject: str, ahead: timedelta, limit: timedelta) -> Finding:
    seconds = ahead.total_seconds()
    way = "ahead of" if seconds > 0 else "behind"
    if abs(ahead) <= limit:
        return Finding(subject, detail=f"{abs(seconds):.1f} s {way} this host's")
    return Finding(
        subject,
        f"it is {abs(seconds):.0f} s {way} this host's clock",
        "Set both by NTP: renewals, leases and signatures go by these clocks.",
    )


def _keys(scene: Scene, domain: str) -> Iterator[Finding]:
    subject = f"keys.{domain}"
    world = scene.world
    key_id = kek_of(domain, world.protector(domain))
    yield Finding(
        subject, detail=f"KEK {key_id[:16]} is there, and its protector finds nothing wrong with it"
    )
    if scene.database is not None:
        yield Finding(
            subject, "whether it opens what it should is not known: there is no database to look into"
        )
        return
    with world.store.read() as tx:
        sample = checks.sample_keys(tx, domain, _SAMPLE)
    for wrapped in sample:
        try:
            keymaking.unwrap(world, wrapped)
        except DualcertError as error:
            yield Finding(
                subject,
                f"a private key of this domain does not open: {error.reason}",
                # Where the KEK is kept its protector knows.
                error.remedy
                or f"See that the KEK that it was wrapped under is there: {wrapped.key_id[:16]}.",
            )
            return
    if sample:
        yield Finding(subject, detail=f"{len(sample)} of the private keys in it were opened")


def _keks_apart(world: World) -> Iterator[Finding]:
    """One KEK must not open both sides."""
    ids: dict[str, str] = {}
    for domain in world.protectors:
        try:
            key_id = kek_of(domain, world.protector(domain))
        except DualcertError:
            yield Finding(
                "keys",
                f"whether the KEKs differ is not known: that of {domain} is not to be had",
                unusable=True,
            )
            return
        other = ids.setdefault(key_id, domain)
        if other != domain:
            yield Finding(
                "keys",
                f"[keys.{domain}] and [keys.{other}] have the same KEK: one leak would open both sides",
                "Give each isolation domain a KEK of its own.",
                unusable=True,
            )
            return
    yield Finding("keys", detail="every isolation domain has a KEK of its own")


# --- CAs -------------------------------------------------------------------------------------------------


def _closed(scene: Scene, name: str) -> Iterator[Finding]:
    if scene.database is not None:
        return
    with scene.world.store.read() as tx:
        standing = standings.get(tx, name)
    if standing.closed is not None:
        way = f"distrust {name} --lift" if standing.distrusted_at is not None else f"thaw {name}"
        yield Finding(
            f"orders at ca.{name}",
            f"{standing.closed}: renewals and refills wait",
            f"If it is over: dualcert {way}",
        )


def _ca(scene: Scene, name: str) -> Iterator[Finding]:
    subject = f"ca.{name}"
    binding, expected = scene.world.ca(name), scene.cas[name]
    problems = []
    if expected.eab is not None:
        try:
            expected.eab()
        except DualcertError as error:
            problems.append(trouble(subject, error))
    if expected.trust_roots is not None:
        try:
            inspection.trusted_roots(expected.trust_roots)
        except ConfigurationError as error:
            problems.append(trouble(subject, error))
    try:
        facts = binding.authority().facts()
    except CaError as error:
        yield from [*problems, _not_reached(subject, binding.directory, error)]
        return
    problems += _as_expected(subject, name, facts, scene)
    yield from problems or [Finding(subject, detail=f"{binding.directory} answers")]


def _not_reached(subject: str, directory: str, error: CaError) -> Finding:
    found = trouble(subject, error)
    if not isinstance(error, CaUnreachable):
        return found
    where = f"See that this host reaches {directory}: network, firewall, proxy."
    return replace(found, remedy=where if found.remedy in {None, _LATER} else found.remedy)


def _as_expected(subject: str, name: str, facts: CaFacts, scene: Scene) -> list[Finding]:
    expected = scene.cas[name]
    found = []
    if facts.external_account_required and expected.eab is None:
        found.append(
            Finding(
                subject,
                "this CA wants an external account, and none is configured",
                f"Get a key identifier and an HMAC key from the CA, and write `eab` into [ca.{name}].",
                unusable=True,
            )
        )
    if expected.profile is not None and expected.profile not in facts.profiles:
        offered = ", ".join(facts.profiles) or "none"
        found.append(
            Finding(
                subject,
                f"the CA does not offer the profile {expected.profile!r}",
                f"It offers: {offered}. Mend `profile` in [ca.{name}], or leave it out.",
                unusable=True,
            )
        )
    return found


def _ca_clock(world: World, name: str) -> Iterator[Finding]:
    subject = f"clock of ca.{name}"
    binding = world.ca(name)
    try:
        facts = binding.authority().facts()
    except CaError as error:
        yield _not_reached(subject, binding.directory, error)
        return
    there = _instant(facts.date)
    if there is None or facts.fetched_at is None:
        yield Finding(
            subject, "it cannot be compared: the CA's answer has no Date", "That is the CA's to mend."
        )
        return
    yield _apart(subject, there - facts.fetched_at, _APART)


def _instant(date: str | None) -> datetime | None:
    """An HTTP date (RFC 9110 section 5.6.7)."""
    try:
        found = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _account(scene: Scene, name: str) -> Iterator[Finding]:
    """What the CA says of our account. None is registered for it, and none is a problem."""
    subject, world = f"account at ca.{name}", scene.world
    if scene.database is not None:
        yield Finding(subject, "whether there is one is not known: there is no database to look into")
        return
    binding = world.ca(name)
    with world.store.read() as tx:
        stored = accounts.get(tx, name)
    if stored is None or stored.url is None:
        yield Finding(subject, detail="not registered yet: the first order does it")
        return
    if stored.key.domain != binding.domain:
        yield Finding(
            subject,
            f"its key is kept in the isolation domain {stored.key.domain}, and the configuration says {binding.domain}",
            f'A CA keeps its domain for life: write keys = "{stored.key.domain}" into [ca.{name}].',
            unusable=True,
        )
        return
    if stored.deactivated_at is not None:
        yield Finding(
            subject,
            f"it was deactivated on {stored.deactivated_at:%Y-%m-%d %H:%M} UTC, so nothing is ordered there",
            f"To order there again: dualcert account register {name}",
        )
        return
    account = Account(stored.url, accountkeys.open_key(world, stored.key))
    status = binding.authority().account(account).status
    if status != "valid":
        yield Finding(subject, f"the CA says that it is {status}", f"See: dualcert account show {name}")
        return
    yield Finding(subject, detail=f"{stored.url} is valid")


def _independence(scene: Scene) -> Iterator[Finding]:
    """Of every two CAs that stand behind one pair, or would stand behind a new one."""
    for one, other in _together(scene):
        subject = f"independence of {one} and {other}"
        try:
            found = pairing.ca_objections(_identity(scene, one), _identity(scene, other))
        except DualcertError as error:
            why = f"{error.ca}: {error.reason}" if error.ca else error.reason
            yield Finding(subject, f"it is not known whether they are: {why}", "Mend that first.")
            continue
        if found:
            remedy = "A pair needs two CAs that do not fall together: configure another one."
            yield Finding(subject, "; ".join(found), remedy)
        else:
            yield Finding(subject, detail="another operator, other CAA identities, other keys")


def _together(scene: Scene) -> list[tuple[str, str]]:
    defaults = scene.world.new_pairs
    together = {frozenset((defaults.primary, defaults.backup))}
    if scene.database is None:
        with scene.world.store.read() as tx:
            together |= checks.combinations(tx)
    return sorted((min(pair), max(pair)) for pair in together if len(pair) == 2)


def _spares(scene: Scene) -> Iterator[Finding]:
    """Whether each CA's pairs have somewhere to move to: a spare that may stand beside their other one."""
    spares = scene.world.new_pairs.spares
    if not spares:
        return
    for one, other in _together(scene):
        for left, stays in ((one, other), (other, one)):
            subject, against = f"spare for {left} beside {stays}", []
            for spare in spares:
                if spare in {left, stays}:
                    continue
                why = _not_apart(scene, spare, stays)
                if why is None:
                    yield Finding(subject, detail=f"{spare} could take its place")
                    break
                against.append(why)
            else:
                yield Finding(
                    subject,
                    f"none could take its place: {'; '.join(against) or 'no other CA is a spare'}",
                    f"Were {left} distrusted, these pairs would stay with it: name another CA in [defaults] spares.",
                )


def _not_apart(scene: Scene, one: str, other: str) -> str | None:
    try:
        return "; ".join(pairing.ca_objections(_identity(scene, one), _identity(scene, other))) or None
    except DualcertError as error:
        return f"whether {one} and {other} are apart is not known: {error.reason}"


def _identity(scene: Scene, name: str) -> CaIdentity:
    """As the CA says itself, or, where it does not answer, as it said when its account was made."""
    binding = scene.world.ca(name)
    try:
        identities = frozenset(binding.authority().facts().caa_identities)
    except CaError:
        stored = None
        if scene.database is None:
            with scene.world.store.read() as tx:
                stored = accounts.get(tx, name)
        if stored is None:
            raise
        identities = stored.caa_identities
    return CaIdentity(name, binding.directory, binding.operator, identities, binding.domain)
