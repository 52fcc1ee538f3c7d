"""TXT values of a pair in its zones: brought out with those of its other CA, looked for, and withdrawn."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta

from dualcert.errors import (
    ConfigurationError,
    DnsError,
    DnsThrottled,
    DnsUnreachable,
    DualcertError,
    LeaseLost,
    NotPropagated,
)
from dualcert.lifecycle.looking import look_again
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.order import ChallengeRecord, RecordState
from dualcert.model.wording import many
from dualcert.model.work import Done, Later, Outcome, Waiting, WorkKind, WorkRow
from dualcert.policy import gathering
from dualcert.ports.dns import TxtValue
from dualcert.store import Transaction, challenges, events, pairs, work

_ADD_AGAIN = 30
"""After so many looks in vain a value is added again: a provider may have lost it."""

_PATIENCE = timedelta(minutes=2)
"""How long every second is looked; after that every ten."""

_GIVE_UP = timedelta(minutes=10)


def publish(world: World, row: WorkRow) -> Outcome:
    """Bring every remembered value of a pair out as one change per zone, and look until every server shows it."""
    with world.store.read() as tx:
        waiting = challenges.unpublished(tx, row.pair_id)
        known = challenges.values_at(tx, {one.record for one in waiting})
        withdrawing = work.held_by_another(tx, WorkKind.WITHDRAWAL, row.pair_id)
    if withdrawing:
        # A value that one order leaves behind may be the next one's: not removed and added at once.
        return Waiting("withdrawal", "waiting until old values are withdrawn")
    added = [one for one in waiting if one.state is RecordState.ADDED]
    fresh = _with_room(world, row, _fitting(world, [one for one in waiting if one not in added], known))
    # Whoever held the row before may have died before the provider took the values in; or it has lost them since.
    again = not row.continued or row.looks % _ADD_AGAIN == _ADD_AGAIN - 1
    kept = {one.id for one in fresh}
    try:
        for (dns, zone), group in _by_zone([*added, *fresh] if again else fresh).items():
            values = {TxtValue(one.record, one.value) for one in group}
            world.dns_of(dns).apply(zone, values, frozenset())
            kept -= {one.id for one in group}
    except DnsError:
        _leave_room(world, row, [one for one in fresh if one.id in kept])
        raise
    out = [*added, *fresh]
    lagging = _lagging(world, out)
    try:
        return _published(world, row, waiting, out, lagging)
    except LeaseLost:
        with world.store.write() as tx:
            _take_back(tx, row, out)
        raise


def _with_room(world: World, row: WorkRow, fresh: list[ChallengeRecord]) -> list[ChallengeRecord]:
    """Where a name has little room it is taken before anything goes out: another pair may publish there as well."""
    tight = [one for one in fresh if _is_tight(world, one)]
    if not tight:
        return fresh
    names = {one.record for one in tight}
    with world.store.write() as tx:
        work.hold(tx, row)
        tx.alone(*(f"values at {name}" for name in names))
        mine = {
            one.id for one in challenges.unpublished(tx, row.pair_id) if one.state is RecordState.REMEMBERED
        }
        taken = _fitting(world, [one for one in tight if one.id in mine], challenges.values_at(tx, names))
        challenges.set_state(tx, [one.id for one in taken], RecordState.ADDED)
    ample = [one for one in fresh if one not in tight]
    return [*ample, *(replace(one, state=RecordState.ADDED, since=tx.now) for one in taken)]


def _leave_room(world: World, row: WorkRow, records: list[ChallengeRecord]) -> None:
    """The provider did not take them, and who knows when it does: others at the name need not wait for that."""
    taken = [one.id for one in records if one.state is RecordState.ADDED]
    if taken:
        with world.store.write() as tx:
            work.hold(tx, row)
            challenges.set_state(tx, taken, RecordState.REMEMBERED, only=(RecordState.ADDED,))


def _is_tight(world: World, record: ChallengeRecord) -> bool:
    return world.dns_of(record.dns).capacity is not None


def _take_back(tx: Transaction, row: WorkRow, out: list[ChallengeRecord]) -> None:
    """We may have been held up for so long that what went out was withdrawn before: it is withdrawn once more."""
    if challenges.spend_again(tx, out):
        work.schedule(tx, WorkKind.WITHDRAWAL, row.pair_id, tx.now)


def _fitting(world: World, fresh: list[ChallengeRecord], known: dict[str, int]) -> list[ChallengeRecord]:
    chosen: list[ChallengeRecord] = []
    for dns in sorted({one.dns for one in fresh}):
        group = [one for one in fresh if one.dns == dns]
        fits = gathering.fitting(known, [(one.id, one.record) for one in group], world.dns_of(dns).capacity)
        chosen += [one for one in group if one.id in fits]
    return chosen


def _by_zone(records: list[ChallengeRecord]) -> dict[tuple[str, str], list[ChallengeRecord]]:
    groups: dict[tuple[str, str], list[ChallengeRecord]] = defaultdict(list)
    for record in records:
        groups[record.dns, record.zone].append(record)
    return groups


def _lagging(world: World, records: list[ChallengeRecord]) -> dict[int, str]:
    """Which records a server does not show yet, and which server that is."""
    found: dict[int, str] = {}
    for dns in sorted({one.dns for one in records}):
        group = [one for one in records if one.dns == dns]
        for sight in (
            world.dns_of(dns).zones().look({(one.zone, TxtValue(one.record, one.value)) for one in group})
        ):
            why = f"{sight.server} ({sight.problem})" if sight.problem else sight.server
            for one in group:
                if TxtValue(one.record, one.value) in sight.missing:
                    found[one.id] = why
    return found


def _published(
    world: World,
    row: WorkRow,
    known: list[ChallengeRecord],
    out: list[ChallengeRecord],
    lagging: dict[int, str],
) -> Outcome:
    seen = [one.id for one in out if one.id not in lagging]
    with world.store.write() as tx:
        work.hold(tx, row)
        # An order may have died meanwhile: what it spent stays spent.
        unspent = (RecordState.REMEMBERED, RecordState.ADDED)
        moved = challenges.set_state(tx, seen, RecordState.PUBLISHED, only=unspent)
        moved += challenges.set_state(tx, lagging, RecordState.ADDED, only=(RecordState.REMEMBERED,))
        if moved < len(out):
            _take_back(tx, row, out)
        left = challenges.unpublished(tx, row.pair_id)
        if seen:
            work.wake(tx, WorkKind.ORDER, row.pair_id)
            events.record(
                tx,
                EventKind.PUBLISHED,
                f"{many(len(seen), 'TXT value')} on every server",
                pair=row.pair_id,
            )
        if not left:
            work.finish(tx, row)
            return Done()
    if {one.id for one in left} - {one.id for one in known}:
        return Later(world.clock.now(), "more values have come")
    if lagging:
        return _look_again(world, row, out, lagging)
    if seen:
        return Later(world.clock.now(), "what had room is out")
    return Waiting("withdrawal", "the provider has no room for more values at this name")


def _look_again(
    world: World, row: WorkRow, records: list[ChallengeRecord], lagging: dict[int, str]
) -> Outcome:
    servers = ", ".join(sorted(set(lagging.values())))
    waited = world.clock.now() - min(one.since for one in records)
    if waited > _GIVE_UP:
        raise NotPropagated(
            f"after {int(waited.total_seconds() // 60)} minutes {servers} does not show the value",
            remedy="See why this server does not follow the zone's primary.",
        )
    wish = timedelta(seconds=10) if waited > _PATIENCE else None
    return look_again(world, row, f"{servers} does not show the value yet", wish)


def withdraw(world: World, row: WorkRow) -> Outcome:
    """Remove every spent value of a pair, one change per zone; where one cannot be changed, the others are all the
    same."""
    with world.store.glance() as tx:
        spent = challenges.records(tx, pair_id=row.pair_id, states=(RecordState.SPENT,))
    gone: list[ChallengeRecord] = []
    problems: list[DualcertError] = []
    hopeless: set[str] = set()
    for (dns, zone), group in _by_zone(spent).items():
        if dns in hopeless:
            continue
        try:
            world.dns_of(dns).apply(zone, frozenset(), {TxtValue(one.record, one.value) for one in group})
        except (DnsError, ConfigurationError) as error:
            problems.append(error)
            if isinstance(error, DnsUnreachable | DnsThrottled):
                hopeless.add(dns)  # whatever the zone
        else:
            gone += group
    with world.store.write() as tx:
        work.hold(tx, row)
        challenges.forget(tx, gone)
        if gone:
            events.record(tx, EventKind.WITHDRAWN, many(len(gone), "TXT value"), pair=row.pair_id)
        more = not problems and challenges.records(tx, pair_id=row.pair_id, states=(RecordState.SPENT,))
        if not problems and not more:
            work.wake(tx, WorkKind.PUBLICATION, row.pair_id)
            work.finish(tx, row)
        left = {one.record for one in gone if _is_tight(world, one)}
        waiting = challenges.waiting_at(tx, left) if left else []
    _wake_others(world, row, waiting)
    if problems:
        raise problems[0]
    return Later(world.clock.now(), "more values are to be withdrawn") if more else Done()


def _wake_others(world: World, row: WorkRow, waiting: list[int]) -> None:
    """There is room at a name where other pairs' values waited for it. Each by itself: two pairs wake one another."""
    for pair_id in waiting:
        if pair_id != row.pair_id:
            with world.store.write() as tx:
                pairs.lock(tx, [pair_id])
                work.wake(tx, WorkKind.PUBLICATION, pair_id)
