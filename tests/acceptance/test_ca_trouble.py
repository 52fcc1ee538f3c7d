"""A CA that gets no orders, a CA that is not relied on, and a pair that changes its CA."""

from __future__ import annotations

import hashlib
from contextlib import closing as finally_closed
from dataclasses import replace
from typing import Any, cast

import pytest

from dualcert.lifecycle import closing, moving
from dualcert.lifecycle.world import Lazy, World
from dualcert.ports.keys import KeyContext, KeyProtector
from tests.brokenca import change, rows, with_world
from tests.labfixture import ProjectLab
from tests.program import Program


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return f"a.{lab.domain}"


@pytest.fixture
def issued(program: Program, name: str) -> Program:
    program.done("issue", name)
    return program


def served(lab: ProjectLab, name: str) -> str:
    return hashlib.sha256(lab.handshake(name)).hexdigest()


def orders_at(program: Program, ca: str) -> int:
    return int(rows(program, "SELECT count(*) FROM acme_order WHERE ca = ?", ca)[0][0])


# --- frozen ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_no_order_goes_to_a_frozen_ca_and_that_is_said(issued: Program, name: str) -> None:
    issued.done("freeze", "beta")
    before = orders_at(issued, "beta")

    forced = issued.run("renew", name, "--force", "--timeout", "1m")

    assert forced.status == 3
    assert "dualcert thaw beta" in forced.err
    assert "to ask sooner" not in forced.err
    assert orders_at(issued, "beta") == before
    due = issued.run("renew", "--due")
    assert due.status == 3
    assert f"  {name} beta: order: no order goes there: CA beta is frozen since" in due.out
    assert due.out.endswith("\n    When that is over: dualcert thaw beta\n")
    shown = issued.show(name)
    assert shown["backup"]["renewal"]["state"] == "waiting"
    assert "CA beta is frozen since" in shown["backup"]["renewal"]["error"]
    assert shown["primary"]["renewal"]["state"] == "idle"
    assert orders_at(issued, "alpha") == 2
    checked = issued.run("check")
    assert checked.status == 1
    assert "CA beta is frozen since" in checked.out

    issued.done("thaw", "beta")
    issued.done("renew", "--due")

    assert orders_at(issued, "beta") == before + 1
    assert issued.show(name)["backup"]["renewal"]["state"] == "idle"
    assert "is frozen" not in issued.run("check").out


class _Freezing:
    """A key protector that takes its time: before it has wrapped a key, the CA is frozen."""

    def __init__(self, real: KeyProtector, world: World, ca: str) -> None:
        self._real, self._world, self._ca = real, world, ca

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def wrap(self, secret: bytes, context: KeyContext) -> bytes:
        closing.freeze(self._world, self._ca)
        return self._real.wrap(secret, context)


def _freezing(world: World) -> World:
    domain = world.ca("beta").domain
    slow = cast("KeyProtector", _Freezing(world.protector(domain), world, "beta"))
    return replace(world, protectors={**world.protectors, domain: Lazy(lambda: slow)})


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_no_order_leaves_for_a_ca_that_was_frozen_while_its_key_was_made(issued: Program, name: str) -> None:
    before = orders_at(issued, "beta")

    forced = issued.run("renew", name, "--force", "--timeout", "1m", build=with_world(_freezing))

    assert forced.status == 3
    assert "CA beta is frozen since" in forced.err
    assert orders_at(issued, "beta") == before
    assert rows(issued, "SELECT ca, waiting_for FROM work") == [("beta", "frozen")]
    issued.done("thaw", "beta")
    issued.done("renew", "--due")
    assert orders_at(issued, "beta") == before + 1


def test_freezing_and_thawing_twice_changes_nothing_more(issued: Program) -> None:
    first, second = (issued.done("freeze", "beta", "--json").json for _ in range(2))
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["frozen_at"] == second["frozen_at"]
    third, fourth = (issued.done("thaw", "beta", "--json").json for _ in range(2))
    assert (third["changed"], fourth["changed"], fourth["frozen_at"]) == (True, False, None)
    assert issued.run("freeze", "nobody").status == 2


def test_a_primary_whose_ca_is_frozen_is_left_in_the_last_tenth_of_its_life(
    lab: ProjectLab, issued: Program, name: str
) -> None:
    backup = issued.show(name)["backup"]["certificate"]
    issued.done("freeze", "alpha")
    life = "not_after - not_before"
    change(
        issued,
        f"UPDATE certificate SET not_after = (SELECT max(stored_at) FROM certificate) + ({life}) * 25 / 900, "
        f"not_before = (SELECT max(stored_at) FROM certificate) - ({life}) * 875 / 900 WHERE ca = 'alpha'",
    )
    change(issued, "UPDATE lineage SET renew_at = 1 WHERE ca = 'alpha'")
    change(issued, "UPDATE renewal_info SET renew_at = 1, life_at = 1 WHERE ca = 'alpha'")
    change(issued, "UPDATE pair_state SET next_action_at = 1")

    issued.run("renew", "--due")
    change(issued, "UPDATE pair_state SET next_action_at = 1")
    issued.run("renew", "--due")

    assert issued.show(name)["primary"]["ca"] == "beta"
    assert served(lab, name) == backup["sha256"]
    assert orders_at(issued, "alpha") == 1


# --- distrusted ------------------------------------------------------------------------------------------


def test_a_distrusted_cas_certificates_are_no_backups(lab: ProjectLab, issued: Program, name: str) -> None:
    alone = issued.run("distrust", "beta")
    assert alone.status == 3
    assert f"{name}: no spare is configured" in alone.err

    refused = issued.run("failover", name)

    assert refused.status == 4
    assert "CA is distrusted" in refused.err
    assert issued.show(name)["protection"] == "unprotected"
    assert "unprotected" in issued.done("list").out
    assert issued.run("thaw", "beta").status == 4
    issued.done("distrust", "beta", "--lift")
    assert issued.show(name)["protection"] == "protected"
    issued.done("failover", name)


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("meanwhile", ["drill", "failover", "incident"])
def test_what_only_the_distrust_was_against_counts_again_when_that_is_lifted(
    issued: Program, name: str, meanwhile: str
) -> None:
    ca = "alpha" if meanwhile == "failover" else "beta"
    issued.run("distrust", ca)
    match meanwhile:
        case "drill":
            drilled = issued.run("drill")
            assert (drilled.status, "CA is distrusted" in drilled.out) == (1, True)
        case "failover":
            issued.run("failover", name)
        case _:
            issued.done("incident", "open", "--title", "a test", "--within", "1d", "--ca", "beta")
            issued.done("incident", "close", "1")
    shown = issued.show(name)
    assert (shown["backup"]["ca"], shown["protection"]) == (ca, "unprotected")

    issued.done("distrust", ca, "--lift")

    assert issued.show(name)["protection"] == "protected"


def test_what_was_issued_before_a_date_goes_on_counting(issued: Program, name: str) -> None:
    told = issued.run("distrust", "beta", "--after", "2100-01-01")
    assert "what it issued after 2100-01-01 00:00 UTC is no backup" in told.out
    assert issued.show(name)["protection"] == "protected"
    issued.run("distrust", "beta", "--after", "2000-01-01")
    assert issued.show(name)["protection"] == "unprotected"


# --- a third CA ------------------------------------------------------------------------------------------


@pytest.fixture
def with_gamma(lab: ProjectLab, program: Program) -> Program:
    """[ca.gamma], which is beta's server under another name and in a domain of its own, as a spare.

    Pebble tells who it is by `caaIdentities`, so it may stand beside alpha alone.
    """
    text = lab.config_path.read_text()
    section = text[text.index("[ca.beta]") :].partition("\n[")[0] + "\n"
    gamma = section.replace("[ca.beta]", "[ca.gamma]")
    text = text.replace("spares = []", "").replace("[defaults]\n", '[defaults]\nspares = ["gamma"]\n')
    lab.config_path.write_text(text + "\n" + gamma)
    return program


def test_a_pair_moves_to_another_ca_and_never_lacks_a_backup(
    lab: ProjectLab, with_gamma: Program, name: str
) -> None:
    with_gamma.done("issue", name)
    before = with_gamma.show(name)
    text = lab.config_path.read_text()
    lab.config_path.write_text(text.replace('tsig_name = "', 'tsig_name = "not-'))
    unfinished = with_gamma.run("pair", "move", name, "--ca", "beta=gamma", "--timeout", "2s")
    between = with_gamma.show(name)
    lab.config_path.write_text(text)

    assert unfinished.status != 0
    assert (between["protection"], between["backup"]["ca"]) == ("protected", "gamma")
    assert between["backup"]["certificate"] == before["backup"]["certificate"]

    with_gamma.done("pair", "move", name, "--ca", "beta=gamma")

    after = with_gamma.show(name)
    assert (after["protection"], after["backup"]["ca"], after["backup"]["state"]) == (
        "protected",
        "gamma",
        "ready",
    )
    assert after["backup"]["certificate"]["serial"] != before["backup"]["certificate"]["serial"]
    assert after["primary"] == before["primary"]
    assert served(lab, name) == before["primary"]["certificate"]["sha256"]
    with_gamma.done("failover", name)
    assert with_gamma.show(name)["primary"]["ca"] == "gamma"


def test_a_command_that_leaves_an_order_under_way_says_so_although_the_pair_is_whole(
    with_gamma: Program, name: str
) -> None:
    with_gamma.done("issue", name)
    move = ("pair", "move", name, "--ca", "beta=gamma")

    for command, cas in (move, ["gamma"]), (("renew", name, "--force"), ["alpha", "gamma"]):
        left = with_gamma.run(*command, "--timeout", "0")
        assert left.status == 3
        assert left.err.splitlines() == [
            f"{name}, CA {ca}: the order is under way; to go on with it: dualcert renew {name}" for ca in cas
        ]
        assert with_gamma.show(name)["protection"] == "protected"
        assert with_gamma.run("issue", name, "--timeout", "0").status == 0, "nothing new was asked of it"
        with_gamma.done(*command)


def test_what_serves_stays_until_the_new_cas_certificate_takes_its_place(
    lab: ProjectLab, with_gamma: Program, name: str
) -> None:
    with_gamma.done("issue", name, "--primary", "beta", "--backup", "alpha")
    old = with_gamma.show(name)["primary"]["certificate"]
    assert served(lab, name) == old["sha256"]

    with_gamma.done("pair", "move", name, "--ca", "beta=gamma")

    pair = with_gamma.show(name)
    assert (pair["protection"], pair["primary"]["ca"], pair["epoch"]) == ("protected", "gamma", 0)
    assert served(lab, name) == pair["primary"]["certificate"]["sha256"] != old["sha256"]
    retired = "SELECT ca FROM lineage WHERE retired_at IS NOT NULL"
    assert rows(with_gamma, retired) == [("beta",)]


def test_a_move_that_would_bring_both_sides_together_is_refused(with_gamma: Program, name: str) -> None:
    with_gamma.done("issue", name)
    before = with_gamma.show(name)

    refused = with_gamma.run("pair", "move", name, "--ca", "alpha=gamma")

    assert refused.status == 4, refused
    assert with_gamma.show(name) == before
    all_refused = with_gamma.run("pair", "move", "--all", "--ca", "alpha=gamma")
    assert (all_refused.status, "0 pairs move" in all_refused.out) == (4, True)
    assert "--due" not in all_refused.out
    assert with_gamma.show(name) == before
    for arguments, status in (
        (("--ca", "beta=nobody"), 2),
        (("--ca", "beta"), 2),
        (("--ca", "beta=beta"), 2),
    ):
        assert with_gamma.run("pair", "move", name, *arguments).status == status, arguments


def test_an_old_ca_that_nobody_knows_is_no_success(lab: ProjectLab, with_gamma: Program, name: str) -> None:
    with_gamma.done("issue", name)

    for which, new in (("--all", "gamma"), (name, "gamma"), (name, "beta")):
        mistyped = with_gamma.run("pair", "move", which, "--ca", f"beat={new}")
        assert mistyped.status == 2
        assert "no CA is called beat" in mistyped.err
        assert "There is: alpha, beta, gamma." in mistyped.err
    with_gamma.done("pair", "move", "--all", "--ca", "beta=gamma")
    text = lab.config_path.read_text()
    lab.config_path.write_text(
        text.replace("[ca.beta]", "[ca.delta]").replace('backup = "beta"', 'backup = "delta"')
    )
    again = with_gamma.done("pair", "move", "--all", "--ca", "beta=gamma", "--json").json
    assert (again["moved"], again["not_moved"]) == (0, 0)


@pytest.mark.parametrize("close", ["freeze", "distrust"])
def test_nothing_moves_to_a_ca_that_gets_no_orders(with_gamma: Program, name: str, close: str) -> None:
    with_gamma.done("issue", name)
    with_gamma.run(close, "gamma")

    refused = with_gamma.run("pair", "move", name, "--ca", "beta=gamma")

    assert refused.status == 4
    assert refused.err.count("CA gamma") == 1
    remedy = "dualcert thaw gamma" if close == "freeze" else "dualcert distrust gamma --lift"
    assert refused.err.endswith(f"or: {remedy}\n")


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_of_many_pairs_none_moves_any_more_once_the_new_ca_is_closed(with_gamma: Program, name: str) -> None:
    with_gamma.done("issue", name)
    with finally_closed(with_gamma.application()) as application:
        world = application.world
        wanted = moving.Move("beta", "gamma", "by hand")
        moving.check(world, wanted)
        closing.freeze(world, "gamma")

        [moved] = [moving.move(world, one, wanted, {}) for one in moving.everyone(world, "beta")]

    assert moved is not None
    assert "CA gamma is frozen since" in (moved.problem or "")
    assert with_gamma.show(name)["backup"]["ca"] == "beta"


def test_all_pairs_of_a_distrusted_ca_move_to_a_spare(lab: ProjectLab, with_gamma: Program) -> None:
    names = [f"n{number}.{lab.domain}" for number in range(3)]
    for one in names:
        with_gamma.done("issue", one)

    moved = with_gamma.done("distrust", "beta", "--json").json
    again = with_gamma.done("distrust", "beta", "--json").json
    with_gamma.done("renew", "--due")

    assert (moved["moved"], moved["not_moved"], again["moved"]) == (3, 0, 0)
    for one in names:
        pair = with_gamma.show(one)
        assert (pair["protection"], pair["backup"]["ca"]) == ("protected", "gamma")
    assert with_gamma.done("pair", "move", "--all", "--ca", "beta=gamma", "--json").json["moved"] == 0


def test_nothing_moves_to_a_spare_of_the_same_operator_though_it_was_never_used(
    lab: ProjectLab, with_gamma: Program, name: str
) -> None:
    text = lab.config_path.read_text()
    before, _, gamma = text.partition("[ca.gamma]")
    # Another address of beta's server, and other keys: what they have in common is what the directory says.
    gamma = gamma.replace('/dir"', '/dir?spare"', 1).replace('keys = "backup"', 'keys = "primary"', 1)
    lab.config_path.write_text(before + "[ca.gamma]" + gamma)
    with_gamma.done("issue", name)
    shown = with_gamma.show(name)
    shared = "gamma and beta share the CAA identity"

    refused = with_gamma.run("pair", "move", name, "--ca", "alpha=gamma")
    checked = with_gamma.run("check")
    first, again = (with_gamma.run("distrust", "alpha") for _ in range(2))

    assert (refused.status, shared in refused.err) == (4, True), refused
    assert "spare for alpha beside beta" in checked.out
    assert f"none could take its place: {shared}" in checked.out
    assert "spare for beta beside alpha" in checked.out
    for said in (first, again):
        assert (said.status, f"{name}: {shared}" in said.err) == (3, True), said
    assert with_gamma.show(name)["primary"]["ca"] == "alpha"
    assert with_gamma.show(name)["epoch"] == shown["epoch"]


def test_an_order_under_way_at_the_old_ca_is_given_up(
    lab: ProjectLab, with_gamma: Program, name: str
) -> None:
    text = lab.config_path.read_text()
    lab.config_path.write_text(text.replace('tsig_name = "', 'tsig_name = "not-'))
    with_gamma.run("issue", name, "--timeout", "2s")
    lab.config_path.write_text(text)

    with_gamma.done("pair", "move", name, "--ca", "beta=gamma")

    assert rows(with_gamma, "SELECT step FROM acme_order WHERE ca = 'beta'") == [("abandoned",)]
    pair = with_gamma.show(name)
    assert (pair["protection"], pair["backup"]["ca"]) == ("protected", "gamma")
    assert lab.leftovers() == {}
