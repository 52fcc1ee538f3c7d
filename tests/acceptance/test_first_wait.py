"""The first certificate of a pair: how long the backup waits for the primary before it serves instead."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.acceptance.test_ca_failures import chain, instant, made_by_nobody, rejected
from tests.brokenca import CERTIFICATE, NEW_ORDER, Broken, broken, change, clock, say_in
from tests.faultproxy import Cut, Hang, problem
from tests.labfixture import ProjectLab
from tests.program import Program

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def scene(lab: ProjectLab, program: Program, tmp_path: Path) -> Iterator[Broken]:
    """The primary's CA, alpha, stands behind the proxy."""
    with broken(lab, program, "alpha", tmp_path) as scene:
        yield scene


def give_up_after(scene: Broken, first_wait: str) -> None:
    say_in(scene.program.config, "defaults", f'first_wait = "{first_wait}"')


def served(lab: ProjectLab) -> str:
    return hashlib.sha256(lab.handshake(lab.domain)).hexdigest()


def promotions(scene: Broken) -> list[str]:
    return [one["cause"] for one in scene.program.events(scene.name) if one["kind"] == "promoted"]


def test_after_first_wait_the_backup_serves_and_the_primarys_certificate_becomes_the_standby(
    lab: ProjectLab, scene: Broken
) -> None:
    give_up_after(scene, "1s")
    scene.proxy.on(NEW_ORDER, Cut(None), times=None)

    result = scene.program.run("issue", scene.name, "--json")

    assert result.status == 3, result
    view = result.json
    assert (view["epoch"], view["protection"]) == (1, "unprotected")
    assert (view["primary"]["ca"], view["primary"]["state"]) == ("beta", "serving")
    assert (view["backup"]["ca"], view["backup"]["state"]) == ("alpha", "failed")
    assert served(lab) == view["primary"]["certificate"]["sha256"]
    assert promotions(scene) == ["no certificate from alpha: first_wait has passed"]
    assert f"{scene.name}, CA alpha: " in result.err
    scene.proxy.calm()

    whole = scene.program.done("issue", scene.name, "--json").json

    assert (whole["epoch"], whole["protection"]) == (1, "protected")
    assert (whole["backup"]["ca"], whole["backup"]["state"]) == ("alpha", "ready")
    assert whole["primary"] == view["primary"]
    assert served(lab) == view["primary"]["certificate"]["sha256"]
    assert len(promotions(scene)) == 1
    scene.demand_whole()
    assert lab.leftovers() == {}


def test_a_primary_that_hangs_is_not_waited_for_beyond_first_wait(lab: ProjectLab, scene: Broken) -> None:
    give_up_after(scene, "1s")
    scene.proxy.on(NEW_ORDER, Hang(), times=None)

    with scene.program.start("issue", scene.name, "--timeout", "15s") as process:
        try:
            end = clock.monotonic() + 15
            while not promotions(scene) if scene.rows("SELECT 1 FROM pair") else True:
                assert clock.monotonic() < end
                assert process.poll() is None
                clock.sleep(0.1)
            assert process.poll() is None, "the primary's order is still under way"
            # It ends well, and finds that its role is the backup's now.
            scene.proxy.calm()
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()

    assert process.returncode == 0, (out, err)
    view = scene.demand_whole()
    assert (view["epoch"], view["primary"]["ca"]) == (1, "beta")
    assert served(lab) == view["primary"]["certificate"]["sha256"]


@pytest.mark.parametrize("why", ["refused", "unfit"])
def test_where_the_primarys_order_is_lost_for_good_the_backup_serves_at_once(
    lab: ProjectLab, scene: Broken, why: str
) -> None:
    give_up_after(scene, "10m")
    if why == "refused":
        scene.proxy.on(NEW_ORDER, rejected(scene.name), times=None)
    else:
        # It comes when the backup's has been there for a while, and waits for the ten minutes to pass.
        scene.proxy.on(CERTIFICATE, chain(made_by_nobody(scene.name)), times=None)
        scene.proxy.on(CERTIFICATE, Cut(None), times=2)
    began = clock.monotonic()

    result = scene.program.run("issue", scene.name, "--json")

    assert clock.monotonic() - began < 20
    assert result.status == 3, result
    view = result.json
    assert (view["epoch"], view["primary"]["ca"], view["primary"]["state"]) == (1, "beta", "serving")
    assert (view["backup"]["ca"], view["backup"]["state"]) == ("alpha", "waiting")
    assert len(scene.orders()) == 1
    assert served(lab) == view["primary"]["certificate"]["sha256"]
    scene.proxy.calm()
    whole = scene.program.done("renew", scene.name, "--json").json
    assert (whole["protection"], whole["epoch"], whole["primary"]["ca"]) == ("protected", 1, "beta")


def test_before_first_wait_is_over_nothing_is_promoted_and_a_later_run_does_it(
    lab: ProjectLab, scene: Broken
) -> None:
    give_up_after(scene, "10m")
    scene.proxy.on(NEW_ORDER, problem(500, "serverInternal"), times=None)
    view = scene.program.run("issue", scene.name, "--json").json
    assert (view["epoch"], view["primary"]["certificate"], view["backup"]["state"]) == (0, None, "ready")
    assert not (lab.live / scene.name).exists(), "the backup's key does not leave before a promotion"

    # Eleven minutes later.
    past = int(timedelta(minutes=11) / timedelta(microseconds=1))
    change(scene.program, "UPDATE pair SET created_at = created_at - ?", past)
    change(scene.program, "UPDATE work SET due_at = due_at - ?", past)
    scene.program.run("renew", "--due", "--timeout", "1m")

    view = scene.program.show(scene.name)
    assert (view["epoch"], view["primary"]["ca"], view["primary"]["state"]) == (1, "beta", "serving")
    assert served(lab) == view["primary"]["certificate"]["sha256"]


def test_a_pair_that_is_whole_does_not_wait_for_first_wait_to_pass(scene: Broken) -> None:
    """The backup came first, and the primary a moment later: there is nothing left to wait for."""
    give_up_after(scene, "60s")
    scene.proxy.on(CERTIFICATE, Cut(None), times=2)
    began = clock.monotonic()

    assert scene.program.done("issue", scene.name, "--json").json["epoch"] == 0

    assert clock.monotonic() - began < 20
    stored = {
        one["ca"]: instant(one["at"]) for one in scene.program.events(scene.name) if one["kind"] == "stored"
    }
    assert stored["beta"] < stored["alpha"]
    assert scene.rows("SELECT kind FROM work") == []


def test_a_failover_in_the_first_wait_serves_the_backup_without_further_waiting(
    lab: ProjectLab, scene: Broken
) -> None:
    scene.proxy.on(NEW_ORDER, problem(500, "serverInternal"), times=None)
    assert scene.program.run("issue", scene.name).status == 3

    result = scene.program.run("failover", scene.name, "--json")

    assert result.status == 0, result
    assert (result.json["epoch"], result.json["to"]["ca"], result.json["from"]["serial"]) == (1, "beta", None)
    assert served(lab) == scene.program.show(scene.name)["primary"]["certificate"]["sha256"]
    assert scene.rows("SELECT kind, ca FROM work") == [("order", "alpha")], (
        "nothing waits for first_wait any more"
    )
    scene.proxy.calm()
    scene.program.done("renew", scene.name)
    assert scene.demand_whole()["epoch"] == 1


def test_neither_certificate_is_a_failure_with_both_reasons(
    lab: ProjectLab, scene: Broken, tmp_path: Path
) -> None:
    (second := tmp_path / "second").mkdir()
    with broken(lab, scene.program, "beta", second) as other:
        scene.proxy.on(NEW_ORDER, rejected(scene.name), times=None)
        other.proxy.on(NEW_ORDER, Cut(None), times=None)

        result = scene.program.run("issue", scene.name, "--json")

        assert result.status == 1, result
        assert result.json["protection"] == "pending"
        assert f"{scene.name}, CA alpha: the CA refused: some names are not for us" in result.err
        assert f"{scene.name}, CA beta: " in result.err
        scene.proxy.calm()
        other.proxy.calm()
        scene.program.done("issue", scene.name)
        assert scene.demand_whole()["epoch"] == 0
