"""Looks at DNS and at targets: what a pair needs besides CAs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from dualcert.errors import DnsError, DnsUnreachable, ProbeFailed
from dualcert.lifecycle import checking_work, probing, weakkeys
from dualcert.lifecycle.findings import Finding, Look, Scene, trouble
from dualcert.lifecycle.suffixes import public_suffixes
from dualcert.lifecycle.watching import telling
from dualcert.lifecycle.world import DnsBinding, TargetBinding, World
from dualcert.model import names as naming
from dualcert.model.wording import typed
from dualcert.model.work import NO_PAIR, WorkKind
from dualcert.ports.dns import TxtValue
from dualcert.store import challenges, checks, work
from dualcert.store.checks import Sampled

_PAIRS = 200
"""Of how many pairs the names are looked at, to find the zones that a DNS provider is needed for."""

_ZONES = 10
_HOSTS = 50
_AT_A_TARGET = 5
_CLEAR_UP = timedelta(minutes=10)
"""When somebody else withdraws a value that this process has left because it died: no command waits that long."""


def looks(scene: Scene) -> Iterator[tuple[str, Look]]:
    for dns in scene.world.dns:
        yield f"dns.{dns}", partial(_dns, scene, dns)
    for target in scene.world.targets:
        yield f"target.{target}", partial(_target, scene, target)
    yield "weak keys", partial(weakkeys.findings, scene.world)
    if scene.database is None:
        yield "work", partial(checking_work.late, scene.world)
        yield "work that fails", partial(checking_work.failing, scene.world)
        yield "what pairs need", partial(checking_work.unconfigured, scene.world)
        yield "protection", partial(checking_work.exposed, scene.world)
        yield "incidents", partial(checking_work.unplanned, scene.world)
        yield "watching", partial(telling.findings, scene.world)


# --- DNS -------------------------------------------------------------------------------------------------


def _dns(scene: Scene, name: str) -> Iterator[Finding]:
    """Whether a value can be added and removed where challenges will be: in every zone that some pair needs."""
    subject, world = f"dns.{name}", scene.world
    binding = world.dns_of(name)
    binding.provider()
    if scene.database is not None:
        yield Finding(subject, "its rights are not tried: there is no database to remember the value in")
        return
    with world.store.read() as tx:
        sampled = checks.sample_of_dns(tx, name, _PAIRS)
    wanted = _apart(sampled)
    if name == world.new_pairs.dns:
        wanted |= {host: NO_PAIR for host in scene.names if host not in wanted}
    if not wanted:
        yield Finding(
            subject,
            remedy="Its rights are not tried yet, because no pair needs it: dualcert check --name NAME tries them.",
            detail="the provider is configured; its rights are not tried, because no pair needs it yet",
        )
        return
    tried: set[str] = set()
    for host, pair_id in list(wanted.items())[:_HOSTS]:
        if len(tried) == _ZONES:
            break
        try:
            location = binding.zones().locate(host)
        except DnsUnreachable as error:
            # Nobody answers, whatever the name.
            yield trouble(subject, error)
            return
        except DnsError as error:
            yield trouble(subject, error)
            continue
        if location.zone not in tried:
            tried.add(location.zone)
            yield from _try(world, binding, pair_id, location.zone, location.record)


def _apart(sampled: list[Sampled]) -> dict[str, int]:
    """Names that are in zones of their own as far as one can guess, each with its pair: one of those beside each
    other below a registered domain."""
    suffixes = public_suffixes()
    found: dict[str, tuple[str, int]] = {}
    for pair in sampled:
        for name in pair.names:
            host = name.removeprefix("*.")
            parent = host.partition(".")[2]
            beside = host if suffixes.privatesuffix(parent) is None else parent
            found.setdefault(beside, (host, pair.id))
    return dict(found.values())


def _try(world: World, binding: DnsBinding, pair_id: int, zone: str, record: str) -> Iterator[Finding]:
    """Add a value that means nothing to any CA, see who shows it, and take it away again.

    It is remembered as one to be withdrawn before it goes out: whatever happens here, it does not stay.
    """
    subject = f"dns.{binding.name}"
    value = TxtValue(record, f"dualcert-check-{secrets.token_hex(16)}")
    with world.store.write() as tx:
        if binding.capacity is not None and challenges.values_at(tx, {record}):
            yield Finding(
                subject,
                f"zone {zone} is not tried: {record} holds an order's values, and has no room for others",
                "Run dualcert check again when the order is done.",
            )
            return
        number = checks.remember_trial(
            tx, pair_id, dns=binding.name, zone=zone, record=record, value=value.value
        )
        work.schedule(tx, WorkKind.WITHDRAWAL, pair_id, tx.now + _CLEAR_UP)
    found: list[Finding] = []
    try:
        binding.apply(zone, {value}, frozenset())
        found = _servers(binding, zone, value)
    except DnsError as error:
        found = [trouble(subject, error)]
    try:
        binding.apply(zone, frozenset(), {value})
    except DnsError as error:
        yield from found
        yield Finding(
            subject,
            f"a value could not be removed from {record}: {error.reason}",
            error.remedy,
        )
        return
    with world.store.write() as tx:
        checks.forget_trial(tx, number)
        if not challenges.records(tx, pair_id=pair_id):
            work.cancel(tx, WorkKind.WITHDRAWAL, pair_id)
    yield from found or [Finding(subject, detail=f"a value was added to {record} and removed, zone {zone}")]


def _servers(binding: DnsBinding, zone: str, value: TxtValue) -> list[Finding]:
    return [
        Finding(
            f"nameserver {sight.server}",
            f"it cannot be asked for {value.name}: {sight.problem}",
            f"Every server of zone {zone} must answer before a CA is asked to look.",
        )
        for sight in binding.zones().look({(zone, value)})
        if sight.problem
    ]


# --- targets ---------------------------------------------------------------------------------------------


def _target(scene: Scene, name: str) -> Iterator[Finding]:
    subject, world = f"target.{name}", scene.world
    binding = world.target(name)
    looked = binding.check()
    sampled: list[Sampled] = []
    if scene.database is None:
        with world.store.read() as tx:
            sampled = checks.sample_at(tx, name, _AT_A_TARGET)
    held = binding.read_back([pair.name for pair in sampled])
    wrong = []
    for pair in sampled:
        there = held.get(pair.name)
        if pair.sha256 is not None and (there is None or there.sha256 != pair.sha256):
            what = "nothing" if there is None else "another certificate"
            wrong.append(
                Finding(
                    subject,
                    f"{pair.name}: it holds {what}",
                    f"Bring it there: dualcert renew {typed(pair.name)}",
                )
            )
    how = "can be written" if looked else "answers"
    yield from wrong or [Finding(subject, detail=f"it {how}")]
    for host, port in binding.endpoints:
        yield from _endpoint(binding, host, port, sampled)


def _endpoint(binding: TargetBinding, host: str, port: int, sampled: list[Sampled]) -> Iterator[Finding]:
    subject = f"target.{binding.name} endpoint {host}:{port}"
    wanted = [pair for pair in sampled if pair.sha256 is not None]
    if not wanted:
        yield _reachable(subject, host, port)
    for pair in wanted:
        server_name = naming.probe_name(pair.names)
        try:
            for place, seen in probing.served(host, port, server_name):
                if seen != pair.sha256:
                    yield Finding(
                        subject,
                        f"{place} serves another certificate for {server_name} ({seen.hex()[:16]}...)",
                        f"See whether the server reads what is put to target {binding.name}, and reloads.",
                    )
                    return
        except ProbeFailed as error:
            yield trouble(subject, error)
            return
    if wanted:
        yield Finding(
            subject, detail=f"it serves what it should for {', '.join(pair.name for pair in wanted)}"
        )


def _reachable(subject: str, host: str, port: int) -> Finding:
    try:
        probing.reached(host, port)
    except ProbeFailed as error:
        return Finding(subject, error.reason, "Start the server, or mend `endpoint`.")
    return Finding(subject, detail="somebody answers there; nothing of ours is to be served yet")
