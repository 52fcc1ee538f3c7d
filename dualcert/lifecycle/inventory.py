"""Which pairs there are: made, found by name, told apart."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dualcert.errors import ConfigurationError, InvalidName, UsageProblem
from dualcert.lifecycle import removal, renewal
from dualcert.lifecycle.suffixes import public_suffixes
from dualcert.lifecycle.world import World
from dualcert.model import names as naming
from dualcert.model.events import EventKind
from dualcert.model.pair import KeyType, Pair
from dualcert.model.wording import typed
from dualcert.model.work import DAY, WorkKind
from dualcert.policy import pairing
from dualcert.policy.pairing import CaIdentity
from dualcert.store import Transaction, events, pairs, work
from dualcert.store import removal as ended

ISSUING = (
    WorkKind.ORDER,
    WorkKind.PUBLICATION,
    WorkKind.WITHDRAWAL,
    WorkKind.DEPLOYMENT,
    WorkKind.VERIFICATION,
    WorkKind.REFILL,
    WorkKind.FALLBACK,
    WorkKind.PROMOTION,
    WorkKind.SIGNAL,
    WorkKind.REVOCATION,
    WorkKind.REMOVAL,
)
"""What ``issue`` and ``renew NAME`` drive for a pair."""


_PAIR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class PairRequest:
    """What ``issue`` was told; None where it was told nothing and the defaults serve."""

    names: tuple[str, ...]
    name: str | None = None
    primary: str | None = None
    backup: str | None = None
    dns: str | None = None
    targets: tuple[str, ...] | None = None
    key_type: KeyType | None = None
    replace_names: bool = False


def check_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Names in their stored form. Raises ``InvalidName``, for a bare public suffix too."""
    names = naming.normalise_all(texts)
    suffixes = public_suffixes(private=False)
    for name in names:
        if suffixes.privatesuffix(name.removeprefix("*.")) is None:
            raise InvalidName(
                f"{name} is a public suffix: nobody can own it whole, and no CA certifies it",
                remedy="Give a name under it, such as example." + name.removeprefix("*."),
            )
    return names


def check_pair_name(name: str) -> None:
    """A pair's name becomes a folder's name at targets. Raises ``UsageProblem``."""
    if not _PAIR_NAME.fullmatch(name) or name.startswith("_wildcard"):
        raise UsageProblem(
            f"{name!r} cannot name a pair",
            remedy="Use letters, digits, dots, hyphens and underscores, a letter or digit first; _wildcard is taken.",
        )


def resolve(world: World, text: str) -> Pair:
    """The pair that a person means: the one of this name, else the one that covers it.

    Raises ``UsageProblem`` where there is none or more than one.
    """
    with world.store.read() as tx:
        exact = pairs.by_name(tx, text)
        if exact is not None:
            return exact
        candidates = _called(tx, text)
    if not candidates:
        raise UsageProblem(
            f"no pair is called {text if text and text.isprintable() else repr(text)}, and none covers it",
            remedy="See what there is: dualcert list",
        )
    if len(candidates) > 1:
        raise UsageProblem(
            f"{text} is covered by several pairs: {', '.join(one.name for one in candidates)}",
            remedy="Name the pair that you mean.",
        )
    return candidates[0]


def _called(tx: Transaction, text: str) -> list[Pair]:
    try:
        name = naming.normalise(text)
    except InvalidName:
        return []  # nor does any pair cover it
    found = pairs.by_name(tx, name)
    return [found] if found is not None else pairs.covering(tx, name)


def ensure(world: World, request: PairRequest) -> Pair:
    """The pair for these names: made with both orders due if it is new, hurried on if it is not whole yet."""
    if request.name is not None:
        check_pair_name(request.name)
    if request.primary is not None and request.primary == request.backup:
        raise UsageProblem(
            f"--primary and --backup are both {request.primary}", remedy="Name another CA: two are the point."
        )
    with world.store.write() as tx:
        pairs.reserve(tx, request.name or naming.own_name(request.names), naming.digest(request.names))
        known = _known(tx, request)
        if known is None:
            return _create(tx, world, request)
        pairs.lock(tx, [known.id])
        pair = _same(tx, known, request)
        _go_on(tx, pair)
        return pair


def _known(tx: Transaction, request: PairRequest) -> Pair | None:
    same_names = pairs.by_digest(tx, naming.digest(request.names))
    same_name = pairs.by_name(tx, request.name or naming.own_name(request.names))
    if same_names is None:
        return same_name
    if request.name is not None and same_names.name != request.name:
        raise UsageProblem(
            f"the pair {same_names.name} has exactly these names already",
            remedy=f"Two pairs for one set of names are not kept: use {same_names.name}.",
        )
    return same_names


def _same(tx: Transaction, pair: Pair, request: PairRequest) -> Pair:
    lineages = {one.id: one.ca for one in pairs.lineages(tx, [pair.id])}
    told = {
        "--primary and --backup": {one for one in (request.primary, request.backup) if one}
        - set(lineages.values()),
        "--dns": request.dns not in {None, pair.dns},
        "--target": request.targets is not None and tuple(sorted(request.targets)) != pair.targets,
        "--key-type": request.key_type not in {None, pair.key_type},
    }
    other = [option for option, differs in told.items() if differs]
    if other:
        raise UsageProblem(
            f"the pair {pair.name} exists and was made with other values for {', '.join(other)}",
            remedy=f"Leave the option out; see what it has: dualcert show {typed(pair.name)}. "
            f"Most of it is changed by: dualcert pair set {typed(pair.name)}",
        )
    if set(request.names) == set(pair.names):
        return pair
    if not request.replace_names:
        raise UsageProblem(
            f"the pair {pair.name} exists with other names: {', '.join(pair.names)}",
            remedy="Say --replace-names to give it the new ones, or --name to make another pair.",
        )
    pairs.replace_names(tx, pair, request.names)
    replaced = pairs.by_id(tx, pair.id)
    if replaced is None:
        raise AssertionError("a pair vanished inside the transaction that changed it")
    events.record(tx, EventKind.NAMES_REPLACED, ", ".join(request.names), pair=pair.id)
    renewal.open_orders(tx, replaced, renewal.due_lineages(tx, replaced), "the pair has other names")
    return replaced


def _create(tx: Transaction, world: World, request: PairRequest) -> Pair:
    defaults = world.new_pairs
    primary, backup = request.primary or defaults.primary, request.backup or defaults.backup
    dns, targets = (
        request.dns or defaults.dns,
        defaults.targets if request.targets is None else request.targets,
    )
    _check_configured(world, (primary, backup), dns, targets)
    name = request.name or naming.own_name(request.names)
    former = removal.refuse_unfinished(tx, name)
    pair = pairs.create(
        tx,
        name=name,
        names=request.names,
        key_type=request.key_type or defaults.key_type,
        dns=dns,
        targets=targets,
        first_wait=defaults.first_wait,
        lineages=((primary, world.ca(primary).domain), (backup, world.ca(backup).domain)),
    )
    if former is not None:
        ended.continue_epochs(tx, pair.id, former.epoch + 1)
    events.record(tx, EventKind.CREATED, f"{primary} and {backup} for {', '.join(pair.names)}", pair=pair.id)
    renewal.open_orders(tx, pair, pairs.lineages(tx, [pair.id]), "first issuance")
    return pair


def _check_configured(world: World, cas: tuple[str, str], dns: str, targets: tuple[str, ...]) -> None:
    _require("ca", world.cas, cas)
    _check_places(world, (dns,), targets)
    identities = [
        CaIdentity(one.name, one.directory, one.operator, frozenset(), one.domain)
        for one in (world.ca(name) for name in cas)
    ]
    found = pairing.ca_objections(*identities)
    if found:
        raise ConfigurationError("; ".join(found), remedy="A pair needs two CAs that do not fall together.")


def _check_places(world: World, dns: Collection[str], targets: Collection[str]) -> None:
    """What a pair is told to use is there, and a mistake in a plugin's table is told before anything is done."""
    _require("dns", world.dns, dns)
    _require("target", world.targets, targets)
    for name in dns:
        world.dns_of(name).provider()
    for name in targets:
        world.target(name).deployer()


def _require(section: str, table: Mapping[str, object], names: Collection[str]) -> None:
    for name in names:
        if name not in table:
            raise UsageProblem(
                f"[{section}.{name}] is not configured",
                remedy=f"There is: {', '.join(sorted(table)) or 'none'}.",
            )


def _go_on(tx: Transaction, pair: Pair) -> None:
    """Open what is due and end every back-off, but not the day that an unfit certificate has to wait."""
    renewal.open_orders(tx, pair, renewal.due_lineages(tx, pair), "the pair was not whole")
    work.hurry(tx, pair.id, ISSUING, spare=(DAY,))


@dataclass(frozen=True)
class Changes:
    """What ``pair set`` was told; None leaves it as it is."""

    dns: str | None = None
    targets: tuple[str, ...] | None = None
    key_type: KeyType | None = None


def change(world: World, pair: Pair, wanted: Changes) -> list[str]:
    """Change what a pair goes by; in words, what is different now. Raises ``UsageProblem``, ``ConfigurationError``.

    Orders go by it from the next one on. A target that is new to the pair is served at once, one that is left out is
    left: both are work that is due from here on.
    """
    _check_places(world, () if wanted.dns is None else (wanted.dns,), wanted.targets or ())
    with world.store.write() as tx:
        pairs.lock(tx, [pair.id])
        current = pairs.by_id(tx, pair.id)
        if current is None:
            raise UsageProblem("the pair was removed meanwhile", name=pair.name)
        dns, key_type = wanted.dns or current.dns, wanted.key_type or current.key_type
        said = []
        if dns != current.dns:
            said.append(f"DNS {dns} instead of {current.dns}")
        if key_type is not current.key_type:
            said.append(f"keys of type {key_type.value} instead of {current.key_type.value}")
        if said:
            ended.set_policy(tx, pair.id, dns=dns, key_type=key_type)
        targets = current.targets if wanted.targets is None else tuple(sorted(set(wanted.targets)))
        if targets != current.targets:
            shown = [", ".join(one) or "none" for one in (targets, current.targets)]
            said.append(f"targets {shown[0]} instead of {shown[1]}")
            _move(tx, current, targets)
        if said:
            events.record(tx, EventKind.CHANGED, "; ".join(said), pair=pair.id)
        work.hurry(tx, pair.id, ISSUING, spare=(DAY,))
    return said


def _move(tx: Transaction, pair: Pair, targets: tuple[str, ...]) -> None:
    ended.set_targets(tx, pair.id, targets)
    for target in pair.targets:
        if target not in targets:
            removal.take_from(tx, pair.id, target)
    issued = pairs.state(tx, pair.id).serving is not None
    for target in targets:
        if target not in pair.targets:
            events.record(tx, EventKind.GIVEN_TARGET, "it is served there, too", pair=pair.id, target=target)
            if issued:
                work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target=target)
    # It may have waited to be seen at a target that does not count any more.
    work.wake(tx, WorkKind.REVOCATION, pair.id)


def renew(world: World, pair: Pair, *, force: bool) -> None:
    """A person asks for one pair: what is due, or everything, is ordered now and back-off is ignored."""
    with world.store.write() as tx:
        pairs.lock(tx, [pair.id])
        wanted = pairs.lineages(tx, [pair.id]) if force else renewal.due_lineages(tx, pair)
        cause = "renewal by hand, although nothing was due" if force else "renewal by hand"
        renewal.open_orders(tx, pair, wanted, cause)
        work.hurry(tx, pair.id, ISSUING)
