"""A certificate arrives, and the pair is no longer what it was when the order left."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import select

from dualcert.clock import from_microseconds, to_microseconds
from dualcert.errors import CertificateUnfit, LeaseLost
from dualcert.lifecycle import compromise, renewal, renewal_information, storing
from dualcert.lifecycle import promotion as turning
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.leaked import Leak
from dualcert.lifecycle.promotion import Wish
from dualcert.lifecycle.world import World
from dualcert.model.order import Order
from dualcert.model.pair import Pair
from dualcert.model.work import Done, WorkKind, WorkRow
from dualcert.ports.ca import IssuedCertificate
from dualcert.store import (
    Store,
    certificates,
    claims,
    events,
    leases,
    pairs,
    promotion,
    removal,
    renewal_info,
    revocations,
    tables,
    work,
)
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.renewing import step
from tests.store.worlds import Setting, a_world, issued, ordered, root_pem, signed

NAMES = ("example.com", "www.example.com")


@pytest.fixture
def world(store: Store, clock: FakeClock, tmp_path: Path) -> World:
    setting = Setting()
    for ca in (PRIMARY, BACKUP):
        setting.trust_roots[ca] = tmp_path / f"{ca}.pem"
        setting.trust_roots[ca].write_bytes(root_pem(ca))
    return a_world(store, clock, setting)


def under_way(world: World, ca: str) -> tuple[Pair, Order, WorkRow]:
    """A pair with an order at one CA, about to be answered with a certificate."""
    with world.store.write() as tx:
        pair = pairs.by_name(tx, NAMES[0]) or a_pair(tx, *NAMES)
        order = ordered(tx, world, pair, ca)
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=ca)
    [[row]] = Engine(world).claim([WorkKind.ORDER], 1)
    return pair, order, row


def arrive(world: World, pair: Pair, order: Order, row: WorkRow) -> object:
    pem = signed(order.csr, order.ca, world.clock.now())
    return storing.store(world, row, pair, order, IssuedCertificate(pem))


def scheduled(world: World, pair: Pair) -> set[tuple[WorkKind, str, str]]:
    with world.store.read() as tx:
        return {(row.kind, row.ca, row.target) for row in work.of_pairs(tx, [pair.id])}


def test_the_primarys_certificate_serves_and_is_deployed(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    assert arrive(world, pair, order, row) == Done()
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        assert state.serving is not None
        assert state.standby is None
        assert state.next_action_at is not None
        assert certificates.get(tx, state.serving).flaw is None
    assert scheduled(world, pair) == {(WorkKind.DEPLOYMENT, "", "web")}


def test_the_backups_certificate_stands_by_and_is_not_deployed(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    arrive(world, pair, order, row)
    pair, order, row = under_way(world, BACKUP)
    arrive(world, pair, order, row)
    assert scheduled(world, pair) == {(WorkKind.DEPLOYMENT, "", "web")}
    with world.store.read() as tx:
        assert promotion.usable(tx, [pair.id]) == {pair.id}


def test_what_the_primary_ordered_arrives_as_the_backup_where_a_promotion_came_between(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    with world.store.write() as tx:
        serving = give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        standby = give_role(tx, pair, issued(tx, world, pair, BACKUP))
        assert promotion.swap(tx, pairs.state(tx, pair.id))
    arrive(world, pair, order, row)
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        assert state.serving == standby.id
        assert state.standby not in {None, serving.id}
    assert scheduled(world, pair) == set()


@pytest.mark.parametrize("because", ["a list says so", "its key leaked"])
def test_a_backup_that_arrives_is_turned_to_at_once_where_what_serves_is_not_to_be_trusted(
    world: World, because: str
) -> None:
    pair, order, row = under_way(world, PRIMARY)
    arrive(world, pair, order, row)
    leaked = order.spki
    pair, order, row = under_way(world, BACKUP)
    if because == "its key leaked":
        compromise.contain(world, Leak("key", key=leaked))
    else:
        with world.store.write() as tx:
            serving = pairs.state(tx, pair.id).serving
            assert serving is not None
            revocations.revoked(tx, serving, "superseded", "a list")
            work.schedule(tx, WorkKind.SIGNAL, pair.id, tx.now)
    step(world, WorkKind.SIGNAL)  # there is no backup yet
    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).epoch == 0

    arrive(world, pair, order, row)
    step(world, WorkKind.SIGNAL)

    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).epoch == 1


def test_a_certificate_for_names_that_grew_meanwhile_is_followed_by_another_order(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    with world.store.write() as tx:
        pairs.replace_names(tx, pair, [*NAMES, "mail.example.com"])
    arrive(world, pair, order, row)
    assert (WorkKind.ORDER, PRIMARY, "") in scheduled(world, pair)


def test_a_certificate_for_names_of_which_some_were_taken_away_meanwhile_counts(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    with world.store.write() as tx:
        pairs.replace_names(tx, pair, NAMES[:1])
    arrive(world, pair, order, row)
    assert (WorkKind.ORDER, PRIMARY, "") not in scheduled(world, pair)
    with world.store.read() as tx:
        now = pairs.by_id(tx, pair.id)
        assert now is not None
        assert [one.ca for one in renewal.due_lineages(tx, now)] == [BACKUP]


def test_an_unfit_certificate_is_kept_and_takes_no_role(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    stranger = signed(order.csr, "stranger", world.clock.now())
    with pytest.raises(CertificateUnfit, match="does not lead to a trusted root"):
        storing.store(world, row, pair, order, IssuedCertificate(stranger))
    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).serving is None
        [unfit] = [event for event in events.page(tx) if event.kind == "unfit"]
        assert unfit.certificate is not None
        assert certificates.get(tx, unfit.certificate).flaw == unfit.cause


def test_a_certificate_that_shares_its_root_with_the_other_is_unfit(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    arrive(world, pair, order, row)
    pair, order, row = under_way(world, BACKUP)
    roots = world.ca(BACKUP).trust_roots
    assert roots is not None
    roots.write_bytes(root_pem(PRIMARY))
    late = signed(order.csr, PRIMARY, world.clock.now())
    with pytest.raises(CertificateUnfit, match="stands on the same root"):
        storing.store(world, row, pair, order, IssuedCertificate(late))


def test_who_lost_the_row_stores_nothing(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    with world.store.write() as tx:
        leases.release_owner(tx, row.owner or "")
        assert claims.claim(tx, "another", kinds=[row.kind], limit=9, pairs=[pair.id])
    with pytest.raises(LeaseLost):
        arrive(world, pair, order, row)
    with world.store.read() as tx:
        assert pairs.state(tx, pair.id).serving is None
        assert events.page(tx) == []


def renewal_info_of(world: World) -> list[tuple[str, int, int, int]]:
    """(CA, certificate, when it is renewed by its life, when its CA is asked) of what is remembered."""
    columns = ("ca", "certificate_id", "life_at", "check_at")
    with world.store.read() as tx:
        query = select(*(tables.renewal_info.c[name] for name in columns))
        return [tuple(row) for row in tx.execute(query.order_by(tables.renewal_info.c.certificate_id))]


def test_when_it_is_renewed_and_when_its_ca_is_asked_is_drawn_once_as_it_arrives(
    world: World, clock: FakeClock
) -> None:
    draws = iter([0.5, 0.25])
    pair, order, row = under_way(replace(world, draw=lambda: next(draws)), PRIMARY)
    arrive(replace(world, draw=lambda: next(draws)), pair, order, row)
    [(ca, number, life_at, check_at)] = renewal_info_of(world)
    born = clock.now() - timedelta(days=1)
    assert ca == PRIMARY
    assert life_at == to_microseconds(born + timedelta(days=60) - timedelta(days=1) / 2)
    assert check_at == to_microseconds(clock.now() + timedelta(hours=6) / 4)
    with world.store.read() as tx:
        lineage = pairs.lineage_at(tx, pair.id, PRIMARY)
        leaf = x509.load_der_x509_certificate(certificates.der_of(tx, number))
        assert lineage is not None
        assert lineage.renew_at == pairs.state(tx, pair.id).next_action_at == from_microseconds(life_at)
        assert renewal_info.due(tx, PRIMARY, 9) == ([], [])
        stored = tx.execute(select(tables.renewal_info.c.ari_id)).scalar_one()
    assert stored == renewal_information.identifier(leaf)


def test_a_ca_is_asked_about_the_successor_only(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    arrive(world, pair, order, row)
    pair, order, row = under_way(world, PRIMARY)
    arrive(world, pair, order, row)
    with world.store.read() as tx:
        assert [one[1] for one in renewal_info_of(world)] == [pairs.state(tx, pair.id).serving]


def fallback(world: World, pair: Pair) -> datetime | None:
    with world.store.read() as tx:
        found = work.get(tx, WorkKind.FALLBACK, pair.id)
    assert found is not None
    return found.due_at


def test_a_first_backup_waits_for_a_primary_that_is_under_way(world: World) -> None:
    pair, order, row = under_way(world, BACKUP)
    with world.store.write() as tx:
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
    arrive(world, pair, order, row)
    assert fallback(world, pair) == pair.created_at + timedelta(seconds=pair.first_wait)


def test_a_first_backup_does_not_wait_for_a_primary_that_needs_a_person(world: World) -> None:
    pair, order, row = under_way(world, BACKUP)
    arrive(world, pair, order, row)
    assert fallback(world, pair) == world.clock.now()


def refused(world: World, pair: Pair, *kinds: WorkKind) -> None:
    """Steps away from what serves that could not be taken, and are tried again the next day."""
    with world.store.write() as tx:
        for kind in kinds:
            work.schedule(tx, kind, pair.id, tx.now)
        for row in work.of_pairs(tx, [pair.id], kinds):
            at = tx.now + timedelta(days=1)
            work.put_back(tx, row, due_at=at, reason="the backup may not serve", failed=True)


def test_nothing_turns_away_any_more_from_what_has_a_successor(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    refused(world, pair, WorkKind.PROMOTION, WorkKind.SIGNAL)
    arrive(world, pair, order, row)
    assert scheduled(world, pair) == {(WorkKind.DEPLOYMENT, "", "web")}
    assert [one["step"] for one in renewal.outstanding(world)] == ["deployment"]


def test_a_backup_that_arrives_is_turned_to_at_once_where_it_was_waited_for(world: World) -> None:
    pair, order, row = under_way(world, BACKUP)
    with world.store.write() as tx:
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
    refused(world, pair, WorkKind.SIGNAL)
    arrive(world, pair, order, row)
    with world.store.read() as tx:
        signal = work.get(tx, WorkKind.SIGNAL, pair.id)
    assert signal is not None
    assert signal.due_at == world.clock.now()


def test_who_was_turned_away_by_hand_is_looked_at_by_what_was_to_do_it(world: World) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        give_role(tx, pair, issued(tx, world, pair, BACKUP))
    refused(world, pair, WorkKind.PROMOTION, WorkKind.SIGNAL)
    turning.failover(world, pair, Wish())
    with world.store.read() as tx:
        left = work.of_pairs(tx, [pair.id], [WorkKind.PROMOTION, WorkKind.SIGNAL])
    assert [one.due_at for one in left] == [world.clock.now()] * 2


def test_a_target_that_was_added_while_the_order_was_under_way_gets_the_certificate(world: World) -> None:
    pair, order, row = under_way(world, PRIMARY)
    with world.store.write() as tx:
        removal.set_targets(tx, pair.id, ["web", "mail"])
    arrive(world, pair, order, row)
    assert {target for kind, _, target in scheduled(world, pair) if kind is WorkKind.DEPLOYMENT} == {
        "web",
        "mail",
    }
