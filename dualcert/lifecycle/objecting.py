"""Why a pair's standby may not take over, in words, and how the pair gets one that may."""

from __future__ import annotations

from dataclasses import replace

from dualcert.errors import ConfigurationError, KeyProblem
from dualcert.lifecycle.world import World
from dualcert.model.pair import Pair, PairState
from dualcert.model.wording import typed
from dualcert.policy.promotion import StandbyFacts, objections
from dualcert.store import Transaction, certificates, incidents, pairs, revocations, standings


def speaking_against(tx: Transaction, pair: Pair, state: PairState) -> tuple[str, ...]:
    """What is recorded against the pair's standby, in words; its key is not opened."""
    return objections(_facts(tx, pair, state), tx.now)


def doubts(world: World, pair: Pair) -> tuple[tuple[str, ...], str]:
    """Why the pair's standby does not count as a backup now, empty where it does, and how it gets one that does."""
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        facts = _facts(tx, pair, state)
        if facts is None:
            return (), ""
        found = objections(replace(facts, ok_until=state.backup_ok_until), tx.now)
        lineages = {one.id: one.ca for one in pairs.lineages(tx, [pair.id])}
        if found and not objections(facts, tx.now):
            return found, f"Have its key opened: dualcert drill {typed(pair.name)}"
        return found, ways(tx, pair, state, lineages[state.backup_lineage], None, dry_run=True)


def exposure(world: World, pair: Pair) -> tuple[str | None, str]:
    """Why what serves must not be served, None where it may, and how it is left."""
    with world.store.read() as tx:
        standing = certificates.standing(tx, pairs.state(tx, pair.id).serving)
        bad = standing.bad(tx.now) if standing is not None else None
        return bad, "" if standing is None or bad is None else leaving(tx, pair.name, standing.certificate.id)


def leaving(tx: Transaction, name: str, serving: int) -> str:
    """How a pair is taken off what serves, and the incident that names it."""
    number = incidents.naming(tx, serving)
    many = f"; with all that incident {number} names: dualcert incident status {number}" if number else ""
    return f"To have its backup serve: dualcert failover {typed(name)}{many}"


def _facts(tx: Transaction, pair: Pair, state: PairState) -> StandbyFacts | None:
    standing = certificates.standing(tx, state.standby)
    if standing is None:
        return None
    standby = standing.certificate
    serving = certificates.standing(tx, state.serving)
    return StandbyFacts(
        revoked=standing.revoked,
        blocked=standing.blocked,
        not_after=standby.not_after,
        covers=certificates.covers(tx, standby, pair.names_digest),
        # Opened just now: even the last hours may be used, which a mass failover leaves as a margin.
        ok_until=standby.not_after,
        revocation_wanted=revocations.is_wanted(tx, standby.id),
        named=incidents.naming(tx, standby.id) is not None,
        serving_worse=serving is None or serving.bad(tx.now) is not None,
        distrusted=not standings.counts(standings.get(tx, standby.ca), standby.not_before),
    )


def ways(
    tx: Transaction,
    pair: Pair,
    state: PairState,
    ca: str,
    error: KeyProblem | ConfigurationError | None,
    *,
    dry_run: bool,
) -> str:
    """How the pair gets a backup that may serve. ``ca``: where it is from now; ``error``: its key does not open."""
    facts = _facts(tx, pair, state)
    if facts is not None and facts.distrusted:
        return (
            f"Get a backup from another CA: dualcert pair move {typed(pair.name)} --ca {ca}=OTHER\n"
            f"  If {ca} is to be relied on again: dualcert distrust {ca} --lift"
        )
    anew = f"Get a usable backup: dualcert renew {typed(pair.name)}"
    if facts is not None and facts.named and not facts.serving_worse and state.standby is not None:
        number = incidents.naming(tx, state.standby)
        return f"{anew} --force\n  What names it, and what becomes of that: dualcert incident status {number}"
    if isinstance(error, ConfigurationError):
        return error.remedy or anew
    # A dry run writes nothing down by which another one would be ordered.
    return f"{anew} --force" if error is not None and dry_run else anew
