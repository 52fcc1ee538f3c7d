"""When the pairs of an incident were seen at their targets, and what their certificates' lines tell; on both databases.

Instants are seconds since the incident was opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from dualcert.lifecycle import inventory, removal
from dualcert.lifecycle.incidents import close, open_incident, plan, telling
from dualcert.lifecycle.inventory import Changes
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.deployment import How
from dualcert.model.incident import Incident
from dualcert.model.pair import KeyType, Pair
from dualcert.model.work import Done, WorkKind
from dualcert.store import (
    Store,
    claims,
    deployments,
    incident_progress,
    incident_report,
    incident_runs,
    incident_stuck,
    incident_undo,
    pairs,
    promotion,
    revocations,
    standings,
    tables,
    work,
)
from dualcert.store.columns import micros
from dualcert.store.incident_runs import Range
from dualcert.testing.clock import FakeClock
from tests.store.building import PRIMARY, a_certificate, a_pair, give_role
from tests.store.overhearing import overheard, scans
from tests.store.worlds import Setting, a_world

ALL = 10**9


@dataclass
class Subject:
    pair: Pair
    bad: Certificate
    good: Certificate


@dataclass
class Scene:
    world: World
    store: Store
    clock: FakeClock
    setting: Setting
    began: datetime
    subjects: list[Subject] = field(default_factory=list)
    incident: Incident | None = None
    plan: int = 0

    def at(self, second: float) -> None:
        self.clock.set(self.began + timedelta(seconds=second))

    @property
    def id(self) -> int:
        assert self.incident is not None
        return self.incident.id

    @property
    def batch(self) -> Range:
        return Range(self.id, self.plan, 0, ALL)

    def a_subject(self, *, targets: Sequence[str] = ("web",), served: bool = False) -> Subject:
        """``served``: its targets have what is bad before the incident begins."""
        with self.store.write() as tx:
            pair = a_pair(tx, targets=targets)
            bad = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
            good = give_role(tx, pair, a_certificate(tx, pair, "beta"))
        made = Subject(pair, bad, good)
        for target in targets if served else ():
            self.put(made, target, bad, epoch=0)
            self.see(made, target, bad, epoch=0)
        self.subjects.append(made)
        return made

    def open(self) -> None:
        self.at(0)
        numbers = [one.bad.id for one in self.subjects]
        deadline = self.clock.now() + timedelta(days=1)
        self.incident = open_incident(self.world, "a test", "a test", deadline, None, numbers)

    def planned(self) -> None:
        self.plan = plan(self.world, self.id).number

    def promoted(self, second: float = 100) -> None:
        """Opened, planned and promoted."""
        if self.incident is None:
            self.open()
        self.planned()
        self.at(second)
        with self.store.write() as tx:
            incident_runs.promote(tx, self.batch)

    def put(
        self, one: Subject, target: str, certificate: Certificate | None = None, *, epoch: int = 1
    ) -> None:
        with self.store.write() as tx:
            deployments.arrived(tx, one.pair.id, target, epoch, (certificate or one.good).id)

    def see(
        self,
        one: Subject,
        target: str,
        certificate: Certificate | None = None,
        *,
        epoch: int = 1,
        how: How = How.WIRE,
    ) -> None:
        held = certificate or one.good
        with self.store.write() as tx:
            deployments.observe(tx, one.pair.id, target, held.sha256, how)
            deployments.verified(tx, one.pair.id, target, epoch, held.id, how)
            deployments.replaced_left(tx, one.pair.id, target, epoch, held.id)

    def serve(self, one: Subject, target: str, come: float, seen: float, how: How = How.WIRE) -> None:
        self.at(come)
        self.put(one, target)
        self.at(seen)
        self.see(one, target, how=how)

    def set_targets(self, one: Subject, *targets: str) -> None:
        inventory.change(self.world, one.pair, Changes(targets=targets))

    def leave(self) -> None:
        """Whatever is to be taken from a target has left it."""
        with self.store.write() as tx:
            rows = claims.claim(tx, "me", kinds=[WorkKind.REMOVAL], limit=9)
        assert [removal.advance(self.world, row) for row in rows] == [Done()] * len(rows)

    def observe(self) -> int:
        with self.store.write() as tx:
            return incident_progress.observe(tx, self.batch)

    def reached(self, step: str = "observed", percent: int = 100) -> float | None:
        with self.store.read() as tx:
            found = incident_report.reached(tx, self.id, step, percent)
        return None if found is None else (found - (micros(self.began) or 0)) / 1e6

    def line(self, one: Subject) -> dict[str, Any]:
        [found] = [line for line in telling.affected(self.world, self.id) if line["serial"] == one.bad.serial]
        assert tuple(found) == telling.COLUMNS
        return found

    def second(self, one: Subject, key: str = "observed_at") -> float | None:
        """What a certificate's line tells of an instant."""
        told = self.line(one)[key]
        return None if told is None else (told - self.began).total_seconds()

    def told(self, one: Subject) -> tuple[float | None, float | None, int]:
        """Of a pair that is alone: by the shares, by its certificate's line, and how many are counted."""
        return self.reached(), self.second(one), telling.status(self.world, self.id)["observed"]


@pytest.fixture
def scene(store: Store, clock: FakeClock) -> Scene:
    setting = Setting()
    return Scene(a_world(store, clock, setting), store, clock, setting, clock.now() + timedelta(hours=1))


# --- first seen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("run", [False, True])
def test_a_target_that_comes_to_the_pair_later_does_not_move_it(
    scene: Scene, served: bool, run: bool
) -> None:
    one = scene.a_subject(served=served)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    assert scene.observe() == 1 if run else True
    scene.at(5000)
    scene.set_targets(one, "web", "mail")
    scene.serve(one, "mail", 998_000, 999_000)

    assert scene.told(one) == (160, 160, 1)


def test_what_is_deployed_again_does_not_move_it(scene: Scene) -> None:
    one = scene.a_subject(served=True)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    with scene.store.write() as tx:
        renewed = give_role(tx, one.pair, a_certificate(tx, one.pair, "beta"))
    scene.at(8000)
    scene.put(one, "web", renewed)
    scene.at(9000)
    scene.see(one, "web", renewed)

    assert scene.told(one) == (160, 160, 1)


def test_the_last_of_its_targets_counts(scene: Scene) -> None:
    one = scene.a_subject(targets=("mail", "web"))
    scene.promoted()
    scene.at(120)
    scene.put(one, "web")
    scene.serve(one, "mail", 130, 140)
    assert scene.told(one) == (None, None, 0)
    scene.at(700)
    scene.see(one, "web")

    assert scene.told(one) == (700, 700, 1)


def test_a_target_that_the_pair_had_before_counts_however_late_it_is_served(scene: Scene) -> None:
    one = scene.a_subject(targets=("mail", "web"), served=True)
    scene.promoted()
    scene.serve(one, "web", 120, 130)
    scene.serve(one, "mail", 7000, 7100)

    assert scene.told(one) == (7100, 7100, 1)


@pytest.mark.parametrize("given", [False, True])
def test_a_target_that_the_pair_had_when_it_was_promoted_counts_though_nothing_was_there_yet(
    scene: Scene, given: bool
) -> None:
    """Given to it a moment before, or brought in with an inventory that nothing was deployed of."""
    one = scene.a_subject(targets=("mail",) if given else ("mail", "web"))
    scene.open()
    scene.put(one, "mail", one.bad, epoch=0)
    if given:
        scene.at(90)
        scene.set_targets(one, "mail", "web")
    scene.promoted()
    scene.serve(one, "mail", 110, 120)
    scene.at(400)
    inventory.change(scene.world, one.pair, Changes(key_type=KeyType.EC_P384))
    assert scene.told(one) == (None, None, 0)
    scene.serve(one, "web", 500, 700)

    assert scene.told(one) == (700, 700, 1)


def test_a_target_that_comes_later_is_told_from_one_that_was_there_and_had_nothing_yet(scene: Scene) -> None:
    one, other = scene.a_subject(targets=("mail", "web")), scene.a_subject(targets=("mail",))
    scene.promoted()
    for both in (one, other):
        scene.serve(both, "mail", 110, 120)
    scene.at(400)
    scene.set_targets(one, "web")
    scene.set_targets(one, "mail", "web")
    scene.set_targets(other, "mail", "web")
    for both in (one, other):
        scene.serve(both, "web", 500, 700)

    assert (scene.second(one), scene.second(other)) == (700, 120)


def test_a_certificate_that_took_the_place_of_the_new_one_counts(scene: Scene) -> None:
    one = scene.a_subject(served=True)
    scene.promoted()
    with scene.store.write() as tx:
        state = pairs.state(tx, one.pair.id)
        other = a_certificate(tx, one.pair, "beta")
        assert pairs.put_certificate(tx, state, state.primary_lineage, other.id, other.not_after)
    scene.at(4000)
    scene.put(one, "web", other)
    assert scene.told(one) == (None, None, 0)
    scene.at(5000)
    scene.see(one, "web", other)

    assert scene.told(one) == (5000, 5000, 1)
    assert scene.line(one)["new_serial"] == one.good.serial


def test_the_one_that_had_to_leave_does_not_count_where_it_serves_again(scene: Scene) -> None:
    one = scene.a_subject()
    scene.promoted()
    close(scene.world, scene.id)
    with scene.store.write() as tx:
        assert promotion.swap(tx, pairs.state(tx, one.pair.id))
    scene.at(5000)
    scene.put(one, "web", one.bad, epoch=2)
    scene.see(one, "web", one.bad, epoch=2)

    assert scene.told(one) == (None, None, 0)


# --- how it was seen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("later", ["removed", "renewed", "not served", "another target"])
def test_how_it_was_seen_stands_as_when_does(scene: Scene, run: bool, later: str) -> None:
    one = scene.a_subject(served=True)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    assert scene.observe() == 1 if run else True
    assert (scene.second(one), scene.line(one)["observed"]) == (160, "wire")
    scene.at(900_000)
    match later:
        case "removed":
            removal.remove(scene.world, one.pair, None)
            scene.leave()
        case "another target":
            scene.set_targets(one, "web", "mail")
            scene.serve(one, "mail", 910_000, 920_000, How.STORED)
        case _:
            with scene.store.write() as tx:
                renewed = give_role(tx, one.pair, a_certificate(tx, one.pair, "beta"))
                problem = "it does not reload" if later == "not served" else None
                deployments.observe(tx, one.pair.id, "web", renewed.sha256, How.STORED, problem)
            scene.put(one, "web", renewed)
            if problem is None:
                scene.see(one, "web", renewed, how=How.STORED)

    assert (scene.second(one), scene.line(one)["observed"]) == (160, "wire")


def test_of_targets_that_were_seen_in_both_ways_the_weaker_one_is_told(scene: Scene) -> None:
    one = scene.a_subject(targets=("mail", "web"), served=True)
    scene.promoted()
    scene.serve(one, "mail", 110, 120, How.STORED)
    scene.serve(one, "web", 110, 160)

    assert (scene.second(one), scene.line(one)["observed"]) == (160, "stored")


# --- targets that are no more ------------------------------------------------------------------------------


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_a_pair_that_was_removed_before_it_was_seen_is_not_observed(
    scene: Scene, served: bool, left: bool
) -> None:
    one = scene.a_subject(served=served)
    scene.promoted()
    scene.at(200)
    removal.remove(scene.world, one.pair, None)
    if left:
        scene.at(300)
        scene.leave()

    assert scene.observe() == 0
    assert scene.told(one) == (None, None, 0)
    assert scene.reached("promoted") == 100
    [stuck] = telling.status(scene.world, scene.id)["stuck"]
    assert (stuck["pair"], stuck["state"]) == (one.pair.name, "promoted")
    assert "before it was seen" in stuck["reason"]


def test_a_pair_that_has_got_its_only_target_since_was_seen_when_it_was_seen_there(scene: Scene) -> None:
    one = scene.a_subject(targets=())
    scene.promoted()
    assert scene.observe() == 1
    scene.set_targets(one, "web")
    assert (scene.reached(), scene.second(one)) == (None, None)
    scene.serve(one, "web", 5000, 5100)

    assert scene.told(one) == (5100, 5100, 1)


@pytest.mark.parametrize("run", [False, True])
def test_a_pair_that_was_removed_after_it_was_seen_stays_observed(scene: Scene, run: bool) -> None:
    one = scene.a_subject(served=True)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    assert scene.observe() == 1 if run else True
    scene.at(200)
    removal.remove(scene.world, one.pair, None)
    scene.at(300)
    scene.leave()

    assert scene.told(one) == (160, 160, 1)
    assert telling.status(scene.world, scene.id)["stuck"] == []


def test_a_pair_that_was_removed_when_some_of_its_targets_had_been_seen_is_not_observed(scene: Scene) -> None:
    one = scene.a_subject(targets=("mail", "web"), served=True)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    scene.at(200)
    removal.remove(scene.world, one.pair, None)

    assert scene.told(one) == (None, None, 0)


@pytest.mark.parametrize("removed", [False, True])
def test_a_pair_without_targets_has_nothing_to_be_seen(scene: Scene, removed: bool) -> None:
    one = scene.a_subject(served=True)
    scene.set_targets(one)
    scene.leave()
    scene.promoted()
    if removed:
        scene.at(200)
        removal.remove(scene.world, one.pair, None)

    assert scene.told(one) == (100, 100, 1)
    assert scene.observe() == 1
    assert scene.told(one) == (100, 100, 1)


@pytest.mark.parametrize("done", [False, True])
def test_a_target_that_is_taken_from_a_pair_holds_it_up_until_it_is_left(scene: Scene, done: bool) -> None:
    one = scene.a_subject(targets=("mail", "web"), served=True)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    scene.at(4000)
    scene.set_targets(one, "web")
    if done:
        scene.at(5000)
        scene.leave()

    when = 5000 if done else 160  # as long as it is not left, nobody knows when
    assert scene.told(one) == (when, when, 1)


# --- turned back -------------------------------------------------------------------------------------------


def undone(scene: Scene, *, staying: Sequence[Subject]) -> None:
    close(scene.world, scene.id)
    with scene.store.write() as tx:
        for one in staying:
            revocations.revoked(tx, one.bad.id, "superseded", "a test")
        turned, stayed = incident_undo.turn_back(tx, scene.batch)
    assert (turned, stayed) == (len(scene.subjects) - len(staying), len(staying))


@pytest.mark.parametrize("before", ["ordered", "skipped"])
def test_what_was_turned_back_counts_for_none_whatever_an_earlier_plan_made_of_it(
    scene: Scene, before: str
) -> None:
    first, second, third = (scene.a_subject() for _ in range(3))
    scene.open()

    def trust(until: datetime | None) -> None:
        with scene.store.write() as tx:
            for one in (first, second, third):
                assert pairs.set_backup_ok(tx, pairs.state(tx, one.pair.id), until)

    if before == "ordered":
        trust(None)
    scene.planned()
    trust(None)
    with scene.store.write() as tx:
        if before == "ordered":
            assert incident_progress.order_backups(tx, scene.batch, "a test") == 3
        else:
            assert incident_runs.promote(tx, scene.batch) == (0, 3)
    trust(scene.clock.now() + timedelta(days=20))
    scene.promoted()
    for one, seen in ((first, 120), (second, 130), (third, 140)):
        scene.serve(one, "web", 110, seen)
    assert scene.observe() == 3
    assert [scene.reached(percent=share) for share in (30, 50, 100)] == [120, 130, 140]

    undone(scene, staying=[third])

    shares = (50, 90, 100)
    assert [scene.reached("promoted", share) for share in shares] == [100] * 3
    assert [scene.reached("observed", share) for share in shares] == [140] * 3


def test_a_line_tells_that_a_pair_was_turned_back_and_when(scene: Scene) -> None:
    one, other = scene.a_subject(), scene.a_subject()
    scene.promoted()
    assert scene.line(one)["undone_at"] is None
    scene.at(900)

    undone(scene, staying=[other])

    assert (scene.second(one, "promoted_at"), scene.second(one, "undone_at")) == (None, 900)
    assert (scene.second(other, "promoted_at"), scene.second(other, "undone_at")) == (100, None)
    assert telling.COLUMNS[-1] == "undone_at"


# --- protected again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["its CA is distrusted", "names not covered", "revoked"])
def test_a_backup_that_may_not_be_used_protects_nothing(scene: Scene, against: str) -> None:
    one = scene.a_subject(served=True)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    with scene.store.write() as tx:
        come = give_role(tx, one.pair, a_certificate(tx, one.pair, PRIMARY))
    shown = telling.status(scene.world, scene.id)
    assert (shown["protected"], shown["stuck"]) == (1, [])

    with scene.store.write() as tx:
        match against:
            case "its CA is distrusted":
                standings.distrust(tx, PRIMARY, None)
            case "revoked":
                revocations.revoked(tx, come.id, "superseded", "a test")
            case _:
                pairs.replace_names(tx, one.pair, ("another.example.com",))

    shown = telling.status(scene.world, scene.id)
    assert shown["protected"] == 0
    assert [(line["pair"], line["reason"]) for line in shown["stuck"]] == [(one.pair.name, against)]


def test_a_backup_that_is_distrusted_has_not_come(scene: Scene) -> None:
    scene.a_subject(served=True)
    with scene.store.write() as tx:
        standings.distrust(tx, "beta", None)
    scene.open()
    for _ in range(2):
        scene.planned()
        with scene.store.write() as tx:
            assert incident_progress.order_backups(tx, scene.batch, "a test") == 1
        [stuck] = telling.status(scene.world, scene.id)["stuck"]
        assert (stuck["action"], stuck["reason"]) == ("order", "its CA is distrusted")
    with scene.store.write() as tx:
        standings.trust(tx, "beta")
    [stuck] = telling.status(scene.world, scene.id)["stuck"]
    assert "plan and run once more" in stuck["reason"]


# --- many --------------------------------------------------------------------------------------------------


@pytest.mark.plans
def test_what_is_seen_of_each_pair_is_looked_up(scene: Scene) -> None:
    for _ in range(20):
        scene.a_subject(served=True)
    scene.promoted()
    with scene.store.write() as tx:
        with overheard(tx) as statements:
            incident_report.reached(tx, scene.id, "observed", 50)
            incident_report.funnel(tx, scene.id)
            incident_stuck.stuck(tx, scene.id, scene.plan, 20)
            incident_report.affected(tx, scene.id, [scene.plan], 0, ALL)
            incident_progress.observe(tx, scene.batch)
        found = [found for one in statements for found in scans(tx, one)]
    large = ("certificate", "deployment", "event", "pair", "pair_state", "pair_target", "revocation", "work")
    of_ours = [one for one in found if any(f" {name}" in one for name in large)]
    assert (len(statements) < 20, of_ours) == (True, [])


def test_what_came_to_a_target_and_was_not_taken_into_service_is_not_deployed(scene: Scene) -> None:
    one = scene.a_subject()
    scene.promoted()
    scene.put(one, "web")  # as a deployment does that fails
    with scene.store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, one.pair.id, tx.now, target="web")
        tx.execute(update(tables.work).values(attempts=1))
    with scene.store.read() as tx:
        assert incident_report.funnel(tx, scene.id).deployed == 0
    with scene.store.write() as tx:
        tx.execute(delete(tables.work))
    with scene.store.read() as tx:
        assert incident_report.funnel(tx, scene.id).deployed == 1


@pytest.mark.parametrize("run", [False, True])
def test_what_was_deployed_stays_so_when_a_later_renewal_fails_at_its_target(scene: Scene, run: bool) -> None:
    one = scene.a_subject(served=True)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    assert scene.observe() == 1 if run else True
    scene.at(5_000_000)
    with scene.store.write() as tx:
        renewed = give_role(tx, one.pair, a_certificate(tx, one.pair, "beta"))
    scene.put(one, "web", renewed)
    with scene.store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, one.pair.id, tx.now, target="web")
        tx.execute(update(tables.work).values(attempts=1))

    shown = telling.status(scene.world, scene.id)

    assert (shown["deployed"], shown["observed"]) == (1, 1)
    assert (shown["failed"], shown["stuck"]) == (0, [])


def test_what_a_run_has_seen_stays_deployed_when_its_pair_is_given_another_target(scene: Scene) -> None:
    one = scene.a_subject(served=True)
    scene.promoted()
    scene.serve(one, "web", 150, 160)
    assert scene.observe() == 1
    scene.set_targets(one, "web", "mail")

    shown = telling.status(scene.world, scene.id)

    assert (shown["deployed"], shown["observed"]) == (1, 1)
