from __future__ import annotations

from datetime import timedelta

from dualcert.model.deployment import How, Observation
from dualcert.store import Store, deployments
from dualcert.testing.clock import FakeClock

WEB, MAIL = "web", "mail"


def test_an_arrival_is_recorded_once_for_each_epoch(store: Store) -> None:
    with store.write() as tx:
        assert deployments.arrived(tx, 1, WEB, 0, 10)
        assert not deployments.arrived(tx, 1, WEB, 0, 10)
        assert deployments.arrived(tx, 1, MAIL, 0, 10)
        assert deployments.arrived(tx, 2, WEB, 0, 10)
        assert deployments.arrived(tx, 1, WEB, 1, 10)
        assert deployments.arrived(tx, 1, WEB, 1, 11)


def test_a_certificate_that_left_arrives_anew(store: Store) -> None:
    with store.write() as tx:
        deployments.arrived(tx, 1, WEB, 0, 10)
        deployments.replaced_left(tx, 1, WEB, 1, 11)
        assert deployments.arrived(tx, 1, WEB, 0, 10)


def test_the_first_sight_in_an_epoch_is_kept(store: Store, clock: FakeClock) -> None:
    first = clock.now()
    with store.write() as tx:
        deployments.arrived(tx, 1, WEB, 3, 10)
        deployments.arrived(tx, 1, MAIL, 3, 10)
        assert deployments.verified_in(tx, 1, 3) == {}
        deployments.verified(tx, 1, WEB, 3, 10, How.WIRE)
    clock.advance(timedelta(hours=1))
    with store.write() as tx:
        deployments.verified(tx, 1, WEB, 3, 10, How.WIRE)
        deployments.arrived(tx, 1, WEB, 3, 11)
        deployments.verified(tx, 1, WEB, 3, 11, How.WIRE)
        assert deployments.verified_in(tx, 1, 3) == {WEB: first}
        deployments.verified(tx, 1, MAIL, 3, 10, How.WIRE)
        assert deployments.verified_in(tx, 1, 3) == {WEB: first, MAIL: clock.now()}


def test_what_was_seen_in_another_epoch_or_of_another_pair_does_not_count(store: Store) -> None:
    with store.write() as tx:
        deployments.arrived(tx, 1, WEB, 0, 10)
        deployments.arrived(tx, 1, WEB, 1, 11)
        deployments.verified(tx, 1, WEB, 0, 10, How.WIRE)
        deployments.verified(tx, 1, WEB, 1, 10, How.WIRE)
        deployments.verified(tx, 2, WEB, 1, 11, How.WIRE)
        assert deployments.verified_in(tx, 1, 1) == {}
        assert set(deployments.verified_in(tx, 1, 0)) == {WEB}


def test_replaced_keys_are_there_until_they_have_left(store: Store) -> None:
    with store.write() as tx:
        deployments.arrived(tx, 1, WEB, 0, 10)
        deployments.arrived(tx, 1, MAIL, 0, 10)
        deployments.arrived(tx, 2, WEB, 0, 20)
        assert not deployments.replaced_there(tx, 1, WEB, 0, 10)
        deployments.arrived(tx, 1, WEB, 1, 11)
        assert deployments.replaced_there(tx, 1, WEB, 1, 11)
        deployments.replaced_left(tx, 1, WEB, 1, 11)
        assert not deployments.replaced_there(tx, 1, WEB, 1, 11)
        assert deployments.replaced_there(tx, 1, MAIL, 1, 11)
        assert deployments.replaced_there(tx, 2, WEB, 1, 11)


def test_a_key_that_came_later_has_not_left_with_what_was_replaced(store: Store) -> None:
    with store.write() as tx:
        for epoch, number in ((0, 10), (1, 11), (1, 13), (2, 12)):
            deployments.arrived(tx, 1, WEB, epoch, number)
        deployments.replaced_left(tx, 1, WEB, 1, 11)
        assert not deployments.replaced_there(tx, 1, WEB, 1, 11)
        assert deployments.replaced_there(tx, 1, WEB, 2, 12)
        deployments.replaced_left(tx, 1, WEB, 1, 13)
        assert not deployments.arrived(tx, 1, WEB, 2, 12)
        assert deployments.arrived(tx, 1, WEB, 0, 10)


def test_a_certificate_that_came_back_is_not_replaced_by_itself(store: Store) -> None:
    with store.write() as tx:
        for epoch, number in ((0, 10), (1, 11), (2, 10)):
            deployments.arrived(tx, 1, WEB, epoch, number)
        deployments.replaced_left(tx, 1, WEB, 2, 10)
        assert not deployments.arrived(tx, 1, WEB, 0, 10)
        assert deployments.arrived(tx, 1, WEB, 1, 11)


def test_whether_a_certificate_ever_was_at_a_target(store: Store) -> None:
    with store.write() as tx:
        deployments.arrived(tx, 1, WEB, 0, 10)
        deployments.replaced_left(tx, 1, WEB, 1, 11)
        assert deployments.was_deployed(tx, 1, 10)
        assert not deployments.was_deployed(tx, 1, 11)
        assert not deployments.was_deployed(tx, 2, 10)


def test_the_last_look_at_a_target_counts(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        deployments.observe(tx, 1, WEB, b"old", How.STORED)
        deployments.observe(tx, 1, MAIL, None, How.WIRE, "no answer")
        deployments.observe(tx, 2, WEB, b"other", How.STORED)
    first = clock.now()
    clock.advance(1)
    with store.write() as tx:
        deployments.observe(tx, 1, WEB, b"new", How.WIRE)
        assert deployments.observations(tx, [1]) == [
            Observation(1, MAIL, None, How.WIRE, first, "no answer"),
            Observation(1, WEB, b"new", How.WIRE, clock.now(), None),
        ]
        assert len(deployments.observations(tx, [1, 2])) == 3
        assert deployments.observations(tx, []) == []
