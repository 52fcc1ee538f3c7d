"""What serves of what an incident names after its plan was made: what is told, and what to type; on both databases.

The pairs have no targets, so that a run is through when it has promoted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from dualcert.cli.incident_running import conclude
from dualcert.cli.incident_telling import tell_status
from dualcert.cli.renew import say_left
from dualcert.lifecycle import checking_work, reach, renewal
from dualcert.lifecycle.incidents import close, open_incident, plan, refills, running, telling
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.reach import Extent
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.pair import Pair
from dualcert.model.work import Later, WorkKind
from dualcert.store import (
    Store,
    certificates,
    incident_serving,
    incidents,
    pairs,
    promotion,
    revocations,
    work,
)
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_pair, give_role
from tests.store.overhearing import overheard, scans
from tests.store.renewing import step
from tests.store.worlds import Setting, a_world


@dataclass
class Ended:
    """What a person has of a run: the exit status, what is printed, and what is hinted."""

    status: int
    out: str
    err: str


@dataclass
class Scene:
    world: World
    store: Store
    screen: pytest.CaptureFixture[str]
    pairs: list[Pair] = field(default_factory=list)
    id: int = 0
    digest: str = ""

    def fill(self, many: int, *targets: str) -> None:
        with self.store.write() as tx:
            for _ in range(many):
                pair = a_pair(tx, targets=targets)
                for ca in (PRIMARY, BACKUP):
                    give_role(tx, pair, a_certificate(tx, pair, ca))
                self.pairs.append(pair)

    def held(self, number: int) -> tuple[int, int]:
        """What serves a pair, and what stands by."""
        with self.store.read() as tx:
            state = pairs.state(tx, self.pairs[number].id)
        assert state.serving is not None
        assert state.standby is not None
        return state.serving, state.standby

    def open(self, *certificates: int, ca: str | None = None) -> None:
        deadline = self.world.clock.now() + timedelta(days=1)
        self.id = open_incident(self.world, "a test", "a test", deadline, ca, list(certificates)).id

    def plan(self) -> None:
        self.digest = plan(self.world, self.id).hash

    def run(
        self,
        *,
        as_json: bool = False,
        terms: Terms | None = None,
        meanwhile: Callable[[World, int], object] | None = None,
    ) -> Ended:
        """``meanwhile``: what somebody does after the first batch."""
        heard: list[running.Progress] = []

        def tell(progress: running.Progress) -> None:
            if not heard and meanwhile is not None:
                meanwhile(self.world, self.id)
            heard.append(progress)

        self.screen.readouterr()
        ended = running.run(self.world, self.id, self.digest, terms or Terms(), tell)
        now = self.world.clock.now()
        status = conclude(self.shown(), ended, now, heard=bool(heard), as_json=as_json)
        return Ended(status, *self.screen.readouterr())

    def renewed(self, number: int, ca: str) -> Certificate:
        """One that has come from an order of somebody else's, in its role."""
        with self.store.write() as tx:
            return give_role(tx, self.pairs[number], a_certificate(tx, self.pairs[number], ca))

    def revoked(self, certificate: int) -> None:
        with self.store.write() as tx:
            assert revocations.revoked(tx, certificate, "superseded", "a test")

    def turned(self, number: int) -> None:
        """By somebody else, or by watching."""
        with self.store.write() as tx:
            assert promotion.swap(tx, pairs.state(tx, self.pairs[number].id), opened=True)

    def shown(self) -> dict[str, Any]:
        return telling.status(self.world, self.id)

    def stuck(self) -> dict[str, tuple[str | None, str, str]]:
        """What is told of a pair: action, state and reason."""
        found = self.shown()["stuck"]
        told = {one["pair"]: (one["action"], one["state"], one["reason"]) for one in found}
        assert len(told) == len(found)
        return told

    def text(self) -> str:
        self.screen.readouterr()
        tell_status(self.shown(), self.world.clock.now())
        return self.screen.readouterr().out

    def problems(self) -> list[tuple[str | None, str | None]]:
        return [(one.problem, one.remedy) for one in checking_work.unplanned(self.world) if not one.ok]


@pytest.fixture
def scene(store: Store, clock: FakeClock, capsys: pytest.CaptureFixture[str]) -> Scene:
    made = Scene(a_world(store, clock, Setting()), store, capsys)
    made.fill(3)
    return made


# --- served after the plan -----------------------------------------------------------------------------------


def test_a_pair_that_came_to_be_served_by_what_is_named_after_the_plan_is_told_until_it_is_planned(
    scene: Scene,
) -> None:
    """What served it was revoked; what is named was the lesser evil."""
    serves, stands_by = scene.held(0)
    scene.open(stands_by, scene.held(1)[1], ca=BACKUP)
    scene.plan()
    assert scene.run().status == 0
    assert (scene.stuck(), scene.problems()) == ({}, [])

    scene.revoked(serves)
    scene.turned(0)
    scene.renewed(0, PRIMARY)

    shown, command = scene.shown(), f"dualcert incident plan {scene.id}"
    assert (shown["pairs"]["served"], shown["pairs"]["unplanned"], shown["protected"]) == (1, 1, 0)
    [(name, (action, state, reason))] = scene.stuck().items()
    assert (name, action, state) == (scene.pairs[0].name, None, "serving")
    assert command in reason
    assert f"1 pair is served by what is named, and not in the plan for that: {command}" in scene.text()
    [(problem, remedy)] = scene.problems()
    assert problem is not None
    assert scene.pairs[0].name in problem
    assert command in str(remedy)
    for as_json in (False, True):
        again = scene.run(as_json=as_json)
        assert again.status == 3
        assert command in (again.err if as_json else again.out)
        assert "carried out before" in again.err

    scene.plan()
    assert (scene.stuck(), scene.problems()) == ({}, [])
    assert scene.run().status == 0
    shown = scene.shown()
    assert (shown["promoted"], shown["protected"], shown["pairs"]["served"]) == (1, 0, 0)


def test_a_pair_that_was_promoted_and_serves_what_is_named_again_is_told(scene: Scene) -> None:
    serves, stands_by = scene.held(0)
    scene.open(serves, ca=PRIMARY)
    scene.plan()
    assert scene.run().status == 0
    scene.revoked(stands_by)
    scene.turned(0)

    assert scene.shown()["pairs"]["unplanned"] == 1
    assert scene.run().status == 3


def test_a_pair_that_was_served_by_nothing_named_is_told_though_it_is_in_no_row(scene: Scene) -> None:
    """What is named did neither when it was planned."""
    serves, idle = scene.held(0)
    scene.renewed(0, BACKUP)
    scene.open(idle, ca=BACKUP)
    scene.plan()
    assert scene.run().status == 0
    with scene.store.write() as tx:
        state = pairs.state(tx, scene.pairs[0].id)
        found = certificates.get(tx, idle)
        assert pairs.put_certificate(tx, state, found.lineage_id, idle, found.not_after)
    scene.revoked(serves)
    scene.turned(0)

    assert [(action, state) for action, state, _ in scene.stuck().values()] == [(None, "serving")]
    assert scene.shown()["pairs"]["concerned"] == 0


def test_what_the_plan_takes_out_is_not_told_as_if_it_did_not(scene: Scene) -> None:
    scene.open(scene.held(0)[0], scene.held(1)[0], ca=PRIMARY)
    scene.revoked(scene.held(1)[1])
    scene.plan()
    counted = scene.shown()["pairs"]
    assert {key: counted[key] for key in ("leaving", "concerned", "served", "unplanned")} == {
        "leaving": 2,
        "concerned": 2,
        "served": 2,
        "unplanned": 0,
    }
    assert scene.problems() == []
    scene.run()
    assert [state for _, state, _ in scene.stuck().values()] == ["ordered"]
    assert (scene.shown()["pairs"]["served"], scene.problems()) == (1, [])


def test_of_an_incident_that_is_closed_nothing_is_served_any_more(scene: Scene) -> None:
    scene.open(scene.held(0)[0])
    scene.plan()
    scene.turned(1)
    close(scene.world, scene.id)
    assert (scene.shown()["pairs"]["served"], scene.problems()) == (0, [])


# --- left by another way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["renewed", "failed over"])
def test_a_pair_that_has_left_without_a_run_is_not_waited_for(scene: Scene, way: str) -> None:
    """It was to be ordered a backup, and another order brought what serves; or the way that ``show`` tells was gone."""
    scene.open(*(scene.held(number)[0] for number in range(3)))
    if way == "renewed":
        scene.revoked(scene.held(0)[1])
    scene.plan()
    if way == "failed over":
        scene.turned(0)
    assert scene.run().status == (3 if way == "renewed" else 0)
    if way == "renewed":
        assert [state for _, state, _ in scene.stuck().values()] == ["ordered"]
        scene.renewed(0, PRIMARY)
        assert scene.stuck() == {}
    scene.renewed(0, BACKUP if way == "renewed" else PRIMARY)

    shown, text = scene.shown(), scene.text()
    assert (shown["promoted"], shown["protected"], scene.stuck()) == (2, 1, {})
    counted = {"leaving": 3, "concerned": 3, "away": 3, "otherwise": 1, "served": 0, "unplanned": 0}
    assert shown["pairs"] == counted
    assert "  promoted   2 of 2\n" in text
    assert "  observed   2 of 2\n" in text
    assert "  otherwise  1 more pair has left what is named" in text
    assert "  protected  1 of 3\n" in text


def test_a_pair_that_has_left_without_a_run_and_gets_no_backup_is_told(scene: Scene) -> None:
    scene.open(scene.held(0)[0])
    scene.plan()
    scene.turned(0)
    assert scene.run().status == 0
    come = scene.renewed(0, PRIMARY)
    scene.revoked(come.id)

    assert list(scene.stuck().values()) == [("promote", "skipped", "revoked")]
    assert scene.shown()["protected"] == 0


def test_a_skipped_pair_that_what_is_named_serves_still_is_told(scene: Scene) -> None:
    serves, stands_by = scene.held(0)
    scene.open(serves)
    scene.plan()
    scene.revoked(stands_by)
    assert scene.run().status == 3
    assert list(scene.stuck().values()) == [("promote", "skipped", "revoked")]
    assert "otherwise" not in scene.text()


# --- the next command ------------------------------------------------------------------------------------------


def test_the_newest_plan_is_told_with_its_command_until_it_is_through(scene: Scene) -> None:
    scene.open(scene.held(0)[0], scene.held(1)[0], scene.held(2)[0], ca=PRIMARY)
    assert "incident run" not in scene.text()

    scene.plan()
    command = f"dualcert incident run {scene.id} --plan {scene.digest}"
    assert f"  to carry it out: {command}\n" in scene.text()

    class Killed(BaseException):
        pass

    def kill(_progress: running.Progress) -> None:
        raise Killed

    with pytest.raises(Killed):
        running.run(scene.world, scene.id, scene.digest, Terms(waves="30%,100%"), kill)
    assert f"  to go on with it: {command}\n" in scene.text()

    assert scene.run().status == 0
    assert "--plan" not in scene.text()

    scene.plan()  # what has left service stands by
    assert "--plan" in scene.text()
    close(scene.world, scene.id)
    assert "--plan" not in scene.text()


def test_what_is_named_and_in_no_use_any_more_is_nothing_to_be_run(scene: Scene) -> None:
    idle = scene.held(0)[1]
    scene.renewed(0, BACKUP)
    scene.open(idle)
    scene.plan()
    assert "--plan" not in scene.text()


# --- held for another incident -------------------------------------------------------------------------------


def test_what_is_held_for_another_incident_is_told_with_its_ca_and_what_lets_it_go(scene: Scene) -> None:
    """Of one incident the backups are held; what serves is named by another one, of the other CA."""
    scene.open(*(scene.held(number)[1] for number in range(2)), ca=BACKUP)
    scene.plan()
    scene.run()
    first = scene.id
    scene.open(*(scene.held(number)[0] for number in range(2)), ca=PRIMARY)
    scene.plan()
    scene.run()
    step(scene.world, WorkKind.REFILL, 2)  # as whatever orders backups does: they are held again
    told = f"held at beta for incident {first}: dualcert incident run {first} --refill now"
    assert [reason for _, _, reason in scene.stuck().values()] == [told] * 2
    assert f"refills are held at alpha: dualcert incident run {scene.id} --refill now" in scene.text()

    refills.release_for(scene.world, first)
    assert all("held" not in reason for _, _, reason in scene.stuck().values())

    scene.renewed(0, BACKUP)
    assert "its backup has come: plan and run once more" in str(scene.stuck()[scene.pairs[0].name])


def test_who_contains_a_leak_is_told_what_lets_a_backup_go_that_an_incident_holds(scene: Scene) -> None:
    _, stands_by = scene.held(0)
    scene.open(stands_by, ca=BACKUP)
    scene.plan()
    scene.run()

    [problem] = [one for one in reach.unfinished(scene.world, Extent((stands_by,))) if "not there yet" in one]

    told = f"held at beta for incident {scene.id}: dualcert incident run {scene.id} --refill now"
    assert problem == f"{scene.pairs[0].name}: its backup is not there yet: {told}"


def test_of_a_refill_that_is_held_nobody_is_told_to_renew_the_pair(scene: Scene) -> None:
    scene.open(scene.held(0)[1], ca=BACKUP)
    scene.plan()
    scene.run()
    with scene.store.write() as tx:
        work.schedule(tx, WorkKind.REFILL, scene.pairs[0].id, tx.now, ca=BACKUP)
    assert isinstance(step(scene.world, WorkKind.REFILL)[0], Later)  # it was looked at, and is held again
    scene.screen.readouterr()

    say_left(scene.world, renewal.outstanding(scene.world))

    out = scene.screen.readouterr().out
    assert f"When beta is to issue again: dualcert incident run {scene.id} --refill now\n" in out
    assert "dualcert renew" not in out


def test_a_run_that_stops_because_too_much_has_moved_asks_once_for_a_new_plan(scene: Scene) -> None:
    scene.fill(2)
    scene.open(*(scene.held(number)[0] for number in range(5)))
    scene.plan()
    for number in range(4):
        scene.turned(number)
        scene.renewed(number, PRIMARY)

    ended = scene.run(terms=Terms(waves="100%", max_drift="0%"))

    assert ended.status == 3
    command = f"make a new plan: dualcert incident plan {scene.id}"
    assert f"stopped: 4 of 5 rows were skipped, and at most 3 may be; {command}\n" in ended.err
    assert (ended.out + ended.err).count("incident plan") == 1
    assert "--plan" not in ended.out + ended.err
    # Whoever comes later is told the same.
    assert scene.text().count(command) == 1
    assert "--plan" not in scene.text()


def test_a_run_that_stops_because_too_little_is_seen_is_gone_on_with(scene: Scene) -> None:
    """What is to be mended is at the targets: the same again is what is to be typed."""
    scene.fill(4, "elsewhere")
    scene.open(*(scene.held(number)[0] for number in range(3, 7)))
    scene.plan()

    ended = scene.run(terms=Terms(waves="100%", max_failures="0%"))

    assert (ended.status, ended.err.count("stopped: "), "stopped" in ended.out) == (3, 1, False)
    assert f"to go on with it: dualcert incident run {scene.id} --plan {scene.digest}" in ended.out


# --- commands that would be refused --------------------------------------------------------------------------


def test_of_an_incident_that_is_closed_no_plan_is_asked_for(scene: Scene) -> None:
    scene.open(scene.held(0)[0])
    assert f"no plan is complete: dualcert incident plan {scene.id}" in scene.text()
    close(scene.world, scene.id)
    assert "incident plan" not in scene.text()


def test_of_an_incident_that_is_closed_no_backup_that_has_come_is_to_be_planned(scene: Scene) -> None:
    scene.open(scene.held(0)[0])
    scene.revoked(scene.held(0)[1])
    scene.plan()
    scene.run()
    scene.renewed(0, BACKUP)
    assert "incident plan" in scene.text()
    close(scene.world, scene.id)
    assert "incident plan" not in scene.text()


def test_of_an_incident_that_was_not_opened_to_its_end_no_plan_is_asked_for(scene: Scene) -> None:
    with scene.store.write() as tx:
        until = tx.now + timedelta(days=1)
        scene.id = incidents.create(tx, title="a test", cause="a test", selector="", ca=None, deadline=until)
    assert scene.shown()["loading"]
    assert f"if nobody is at it: dualcert incident close {scene.id}" in scene.text()
    assert "incident plan" not in scene.text()


# --- overtaken -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meanwhile", "why"), [(close, "was closed on"), (plan, "somebody has planned incident 1 anew")]
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_that_is_overtaken_in_its_middle_tells_what_stands_and_how_that_is_finished(
    scene: Scene, meanwhile: Callable[[World, int], object], why: str, as_json: bool
) -> None:
    scene.fill(2, "web")
    scene.open(*(scene.held(number)[0] for number in (0, 1, 3, 4)))
    scene.plan()
    terms = Terms(waves="100%", rate=3)  # the rest of the wave comes before the look at its targets

    ended = scene.run(as_json=as_json, terms=terms, meanwhile=meanwhile)

    assert ended.status == 3
    assert f"stopped: {'incident 1 ' if meanwhile is close else ''}{why}" in ended.err
    assert "3 pairs are promoted, 1 of them not yet seen: dualcert renew --due, or the daemon" in ended.err
    assert (scene.shown()["promoted"], scene.shown()["observed"]) == (3, 2)


def test_a_run_that_is_overtaken_when_it_has_only_ordered_backups_has_promoted_none(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.open(scene.held(0)[0], scene.held(1)[1])
    scene.plan()
    order = running._Run.order_backups

    def then_closed(run: running._Run) -> None:
        order(run)
        close(scene.world, scene.id)

    monkeypatch.setattr(running._Run, "order_backups", then_closed)

    ended = scene.run()

    assert ended.status == 3
    assert "was closed" in ended.err
    assert "no pair is promoted; backups were ordered anew" in ended.err


@pytest.mark.plans
def test_what_serves_is_looked_up_pair_by_pair(scene: Scene) -> None:
    scene.fill(20)
    scene.open(*(scene.held(number)[0] for number in range(20)))
    scene.plan()
    with scene.store.write() as tx:
        with overheard(tx) as statements:
            incident_serving.counted(tx, scene.id, 1)
            incident_serving.unplanned(tx, scene.id, 1, 20)
        found = [found for one in statements for found in scans(tx, one)]
    assert (len(statements), found) == (2, [])
