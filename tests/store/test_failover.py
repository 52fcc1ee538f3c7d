"""A failover by hand: what it goes on with, what it leaves, and what is said where the backup may not serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import delete, update

from dualcert.errors import ConfigurationError, Refused
from dualcert.lifecycle import closing, inventory, promotion, renewal, revocation
from dualcert.lifecycle.incidents import open_incident
from dualcert.lifecycle.inventory import Changes
from dualcert.lifecycle.promotion import Turn, Wish
from dualcert.lifecycle.world import Lazy, World
from dualcert.model.deployment import How
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason
from dualcert.model.work import WorkKind
from dualcert.ports.keys import KeyProtector
from dualcert.store import Store, certificates, deployments, pairs, revocations, tables, work
from dualcert.store import promotion as promotion_sql
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.renewing import DAY, MINUTE, step
from tests.store.worlds import Setting, a_world, issued


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


@pytest.fixture
def pair(world: World) -> Pair:
    with world.store.write() as tx:
        made = a_pair(tx)
        for ca in (PRIMARY, BACKUP):
            give_role(tx, made, issued(tx, world, made, ca))
        for one in pairs.lineages(tx, [made.id]):
            pairs.set_renew_at(tx, one.id, tx.now + 60 * DAY)
        renewal.reckon(tx, made.id)
    return made


def serves(world: World, pair: Pair) -> str:
    with world.store.read() as tx:
        return certificates.get(tx, pairs.state(tx, pair.id).serving or 0).ca


def failed_over(world: World, pair: Pair, wish: Wish | None = None) -> Turn:
    with world.store.read() as tx:
        now = pairs.by_id(tx, pair.id)
    assert now is not None
    return promotion.failover(world, now, wish or Wish())


def seen_everywhere(world: World, pair: Pair) -> None:
    with world.store.write() as tx:
        state = pairs.state(tx, pair.id)
        for target in pair.targets:
            deployments.arrived(tx, pair.id, target, state.epoch, state.serving or 0)
            deployments.verified(tx, pair.id, target, state.epoch, state.serving or 0, How.WIRE)


def test_the_key_that_a_failover_has_opened_counts_as_opened_then(
    world: World, pair: Pair, clock: FakeClock
) -> None:
    """It is a backup's again after the way back: what was proved when it was stored would be too old by then."""
    clock.advance(20 * DAY)
    failed_over(world, pair)

    with world.store.write() as tx:
        state = pairs.state(tx, pair.id)
        assert promotion_sql.swap(tx, state, opened=True)
        assert pairs.state(tx, pair.id).backup_ok_until == tx.now + 30 * DAY


def refilled(world: World, pair: Pair, ca: str) -> None:
    with world.store.write() as tx:
        give_role(tx, pair, issued(tx, world, pair, ca))


def serving(world: World, pair: Pair) -> int:
    with world.store.read() as tx:
        return pairs.state(tx, pair.id).serving or 0


# --- what an earlier one has left ------------------------------------------------------------------------


def a_target_is_dead(world: World, pair: Pair) -> None:
    seen_everywhere(world, pair)
    inventory.change(world, pair, Changes(targets=("web", "mail")))


def a_revocation_waits(world: World, pair: Pair) -> None:
    """It was asked for with the failover, and its CA does not do it."""
    seen_everywhere(world, pair)


LEFT = pytest.mark.parametrize("left", [a_target_is_dead, a_revocation_waits])


@LEFT
def test_what_is_left_of_an_old_failover_does_not_stand_in_the_way_of_a_new_one(
    world: World, pair: Pair, clock: FakeClock, left: Callable[[World, Pair], None]
) -> None:
    assert failed_over(world, pair, Wish(revoke=True)).to_ca == BACKUP
    left(world, pair)
    refilled(world, pair, PRIMARY)
    clock.advance(10 * DAY)

    turn = failed_over(world, pair)

    assert (turn.from_ca, turn.to_ca, turn.epoch, turn.taken_up) == (BACKUP, PRIMARY, 2, False)
    assert serves(world, pair) == PRIMARY


@LEFT
@pytest.mark.parametrize("dry_run", [False, True])
def test_said_again_a_minute_later_it_goes_on_with_what_is_unfinished(
    world: World, pair: Pair, clock: FakeClock, left: Callable[[World, Pair], None], dry_run: bool
) -> None:
    failed_over(world, pair, Wish(revoke=True))
    left(world, pair)
    refilled(world, pair, PRIMARY)
    clock.advance(MINUTE)

    turn = failed_over(world, pair, Wish(dry_run=dry_run))

    assert (turn.to_ca, turn.epoch, turn.changed, turn.taken_up) == (BACKUP, 1, True, True)
    assert serves(world, pair) == BACKUP


def is_blocked(world: World, pair: Pair) -> None:
    with world.store.write() as tx:
        certificates.block_key(tx, certificates.get(tx, serving(world, pair)).spki, "leaked")


def is_revoked(world: World, pair: Pair) -> None:
    with world.store.write() as tx:
        revocations.revoked(tx, serving(world, pair), "superseded", "a test")


def is_named(world: World, pair: Pair) -> None:
    deadline = world.clock.now() + DAY
    open_incident(world, "a test", "a test", deadline, certificates=[serving(world, pair)])


@pytest.mark.parametrize("spoilt", [is_blocked, is_revoked, is_named])
def test_what_must_not_serve_is_left_though_an_earlier_failover_is_unfinished(
    world: World, pair: Pair, clock: FakeClock, spoilt: Callable[[World, Pair], None]
) -> None:
    failed_over(world, pair)
    refilled(world, pair, PRIMARY)
    clock.advance(MINUTE)
    spoilt(world, pair)

    assert failed_over(world, pair).epoch == 2
    assert serves(world, pair) == PRIMARY


def test_finished_it_is_refused_within_the_hour(world: World, pair: Pair, clock: FakeClock) -> None:
    failed_over(world, pair)
    seen_everywhere(world, pair)
    clock.advance(MINUTE)
    with pytest.raises(Refused, match="and finished"):
        failed_over(world, pair)


def test_what_served_is_revoked_by_the_command_that_is_named_and_not_the_new_backup(
    world: World, pair: Pair, clock: FakeClock
) -> None:
    left = serving(world, pair)
    failed_over(world, pair)
    seen_everywhere(world, pair)
    refilled(world, pair, PRIMARY)
    clock.advance(MINUTE)

    with pytest.raises(Refused, match="and finished") as refused:
        failed_over(world, pair, Wish(revoke=True))

    assert f"dualcert failover {pair.name} --to {BACKUP} --revoke" in (refused.value.remedy or "")
    assert failed_over(world, pair, Wish(to=BACKUP, revoke=True)).changed
    with world.store.write() as tx:
        assert [one.certificate_id for one in revocations.wanted(tx, pair.id)] == [left]
        revocations.revoked(tx, left, "superseded", "a test")
        revocations.settle(tx, left)
    with pytest.raises(Refused, match="and finished") as refused:
        failed_over(world, pair, Wish(revoke=True))
    assert "--revoke" not in (refused.value.remedy or "")


# --- a backup that may not serve -------------------------------------------------------------------------


def spoilt_key(world: World, pair: Pair) -> None:
    with world.store.write() as tx:
        backup = certificates.get(tx, pairs.state(tx, pair.id).standby or 0)
        of_its_key = tables.wrapped_key.c.spki == backup.spki
        tx.execute(update(tables.wrapped_key).where(of_its_key).values(wrapped=b"spoilt" * 9))


def revocation_wanted(world: World, pair: Pair) -> None:
    revocation.revoke_backup(world, pair, Reason.SUPERSEDED)


def backup_named(world: World, pair: Pair) -> None:
    with world.store.read() as tx:
        standby = pairs.state(tx, pair.id).standby
    open_incident(world, "a test", "a test", world.clock.now() + DAY, certificates=[standby or 0])


def backup_distrusted(world: World, _pair: Pair) -> None:
    closing.distrust(world, BACKUP, None)


def due_at_backup(world: World, pair: Pair) -> set[WorkKind]:
    kinds = (WorkKind.REFILL, WorkKind.ORDER)
    with world.store.read() as tx:
        return {row.kind for row in work.of_pairs(tx, [pair.id], kinds) if row.ca == BACKUP}


def refused(world: World, pair: Pair, wish: Wish | None = None) -> str:
    with pytest.raises(Refused, match="not failed over to beta") as error:
        failed_over(world, pair, wish)
    return error.value.remedy or ""


@pytest.mark.parametrize("spoil", [spoilt_key, revocation_wanted])
def test_a_backup_that_will_not_serve_any_more_gets_a_successor_without_a_command(
    world: World, pair: Pair, spoil: Callable[[World, Pair], None]
) -> None:
    spoil(world, pair)
    refused(world, pair)
    assert due_at_backup(world, pair) == {WorkKind.REFILL}
    step(world, WorkKind.REFILL)
    assert due_at_backup(world, pair) == {WorkKind.ORDER}
    refused(world, pair)
    assert due_at_backup(world, pair) == {WorkKind.ORDER}, "one is enough"


@pytest.mark.parametrize("spoil", [spoilt_key, revocation_wanted])
def test_renewing_by_name_orders_a_backup_in_the_place_of_one_that_will_not_serve(
    world: World, pair: Pair, clock: FakeClock, spoil: Callable[[World, Pair], None]
) -> None:
    clock.advance(MINUTE)
    spoil(world, pair)
    assert refused(world, pair).endswith(f"Get a usable backup: dualcert renew {pair.name}")
    with world.store.write() as tx:
        row = work.get(tx, WorkKind.REFILL, pair.id, ca=BACKUP)
        assert row is not None
        tx.execute(delete(tables.work).where(tables.work.c.id == row.id))  # as an earlier release has left it

    inventory.renew(world, pair, force=False)

    assert due_at_backup(world, pair) == {WorkKind.ORDER}
    with world.store.read() as tx:
        assert work.get(tx, WorkKind.ORDER, pair.id, ca=PRIMARY) is None


def test_a_dry_run_says_what_helps_and_orders_nothing(world: World, pair: Pair) -> None:
    spoilt_key(world, pair)
    assert f"dualcert renew {pair.name} --force" in refused(world, pair, Wish(dry_run=True))
    assert due_at_backup(world, pair) == set()


def test_a_kek_that_is_missing_is_to_be_brought_back(world: World, pair: Pair) -> None:
    def missing() -> KeyProtector:
        raise ConfigurationError("there is no KEK", remedy="Bring back keys/backup.kek.")

    without = replace(world, protectors={**world.protectors, "two": Lazy(missing)})
    assert refused(without, pair) == "Nothing was changed at what serves. Bring back keys/backup.kek."
    assert due_at_backup(world, pair) == set()


def test_a_backup_that_an_incident_names_is_ordered_by_force_and_the_incident_is_told(
    world: World, pair: Pair
) -> None:
    backup_named(world, pair)
    said = refused(world, pair)
    assert f"dualcert renew {pair.name} --force" in said
    assert "dualcert incident status 1" in said
    inventory.renew(world, pair, force=True)
    assert due_at_backup(world, pair) == {WorkKind.ORDER}


def test_a_backup_of_a_distrusted_ca_is_not_ordered_there_again(world: World, pair: Pair) -> None:
    backup_distrusted(world, pair)
    said = refused(world, pair)
    assert f"dualcert pair move {pair.name} --ca beta=OTHER" in said
    assert "dualcert distrust beta --lift" in said
    assert "renew" not in said


# --- a target that comes or goes while the backup's key is opened ------------------------------------------

SERVING = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION, WorkKind.REMOVAL)


def meanwhile(world: World, act: Callable[[], object]) -> World:
    """The same world; ``act`` is done when it opens the backup's key."""
    real = world.protectors["two"]

    def opening() -> KeyProtector:
        act()
        return real()

    return replace(world, protectors={**world.protectors, "two": Lazy(opening)})


def turns_by_itself(world: World, pair: Pair) -> None:
    with world.store.write() as tx:
        revocations.revoked(tx, serving(world, pair), "superseded", "a test")
        work.schedule(tx, WorkKind.SIGNAL, pair.id, tx.now)
    step(world, WorkKind.SIGNAL)


def settled(world: World, pair: Pair) -> None:
    """All that is due at the targets is done, as far as it can be done without waiting."""
    for kind in SERVING:
        step(world, kind)


@pytest.mark.parametrize("turn", [failed_over, turns_by_itself])
def test_a_target_that_the_pair_got_meanwhile_serves_the_backup(
    world: World, pair: Pair, turn: Callable[[World, Pair], object]
) -> None:
    def given() -> None:
        inventory.change(world, pair, Changes(targets=("web", "mail")))
        settled(world, pair)

    turn(meanwhile(world, given), pair)
    settled(world, pair)

    with world.store.read() as tx:
        new = certificates.get(tx, serving(world, pair))
    assert new.ca == BACKUP
    assert lies_at(world, pair, "web") == lies_at(world, pair, "mail") == new.sha256


def test_a_target_that_was_taken_from_the_pair_meanwhile_gets_nothing(world: World, pair: Pair) -> None:
    def taken() -> None:
        inventory.change(world, pair, Changes(targets=("mail",)))
        settled(world, pair)

    failed_over(meanwhile(world, taken), pair)
    settled(world, pair)

    assert lies_at(world, pair, "web") is None
    assert lies_at(world, pair, "mail") is not None


def lies_at(world: World, pair: Pair, target: str) -> bytes | None:
    found = world.target(target).deployer().read_back([pair.name])[pair.name]
    return found.sha256 if found else None
