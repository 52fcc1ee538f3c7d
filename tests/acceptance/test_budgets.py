"""What a CA counts is kept to, what it asks for is obeyed, by all processes; the other CA's order is not delayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from dualcert.clock import from_microseconds
from tests.acceptance.test_ca_failures import invalid_authorization, order_document
from tests.brokenca import (
    AUTHORIZATION,
    FINALIZE,
    NEW_ORDER,
    ORDER,
    Broken,
    broken,
    change,
    clock,
    rows,
    say_in,
)
from tests.faultproxy import Answer, problem, too_many
from tests.labfixture import ProjectLab
from tests.program import Program, finish

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REVOKE = "/revoke-cert"


@pytest.fixture
def ca() -> str:
    """Which CA counts, where the test does not try both."""
    return "alpha"


@pytest.fixture
def scene(lab: ProjectLab, program: Program, tmp_path: Path, ca: str) -> Iterator[Broken]:
    with broken(lab, program, ca, tmp_path) as scene:
        yield scene


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def let_pass(program: Program, time: timedelta) -> None:
    """As if it had passed, for budgets and for what waits for them."""
    micros = time // timedelta(microseconds=1)
    change(program, "UPDATE budget SET full_at = full_at - ?, held_until = held_until - ?", micros, micros)
    change(program, "UPDATE work SET due_at = due_at - ? WHERE waiting_for = 'budget'", micros)


def demand_waiting(lineage: Any, until: datetime, *words: str, tolerance: float = 30) -> None:
    """What ``show`` says of a lineage that its CA's budget keeps waiting."""
    assert lineage["state"] == "waiting"
    renewal = lineage["renewal"]
    assert renewal["state"] == "waiting"
    assert abs(instant(renewal["next_try"]) - until) < timedelta(seconds=tolerance), renewal
    for word in words:
        assert word in renewal["error"], renewal


def waited(program: Program, name: str) -> list[str]:
    """Why, as often as an event says so."""
    return [one["cause"] for one in program.events(name) if one["kind"] == "waiting"]


def used(program: Program) -> set[tuple[str, str, str]]:
    return {(ca, kind, of) for ca, kind, of in rows(program, "SELECT ca, kind, subject FROM budget")}


def in_seconds(wish: datetime) -> str:
    return str(round((wish - clock.now()).total_seconds()))


def as_a_date(wish: datetime) -> str:
    return format_datetime(wish, usegmt=True)


# --- the CA says how long --------------------------------------------------------------------------------


@pytest.mark.parametrize(("ca", "form"), [("alpha", in_seconds), ("beta", as_a_date)])
def test_what_a_ca_has_asked_for_holds_for_every_pair_and_every_process_and_for_this_ca_alone(
    scene: Broken, form: Any
) -> None:
    program, other_pair = scene.program, f"second.{scene.name}"
    wish = clock.now().replace(microsecond=0) + HOUR
    scene.proxy.on(NEW_ORDER, too_many(form(wish)), times=None)

    result = program.run("issue", scene.name, "--json")

    assert result.status == 3, result
    assert scene.lineage(result.json, scene.other)["state"] in {"serving", "ready"}
    demand_waiting(scene.lineage(result.json), wish, "come back later", "too many requests")
    assert "too many requests" in result.err
    # Another process, with another pair, and a person who insists: nobody asks the CA again.
    assert finish(program.start("issue", other_pair, "--json")).status == 3
    assert program.run("renew", scene.name).status == 3
    program.run("renew", "--due", "--timeout", "1m")
    assert scene.proxy.count(NEW_ORDER) == 1
    view = program.show(other_pair)
    assert scene.lineage(view, scene.other)["state"] in {"serving", "ready"}
    demand_waiting(scene.lineage(view), wish, "too many requests", "it goes on at")
    assert len(waited(program, other_pair)) == 1

    scene.proxy.calm()
    let_pass(program, HOUR)

    assert program.run("renew", "--due").status == 0
    assert {program.show(name)["protection"] for name in (scene.name, other_pair)} == {"protected"}
    scene.demand_whole()


@pytest.mark.parametrize("form", [in_seconds, as_a_date])
def test_a_short_pause_is_sat_out_by_the_same_command(scene: Broken, form: Any) -> None:
    wish = clock.now().replace(microsecond=0) + timedelta(seconds=4)
    scene.proxy.on(NEW_ORDER, too_many(form(wish)))

    assert scene.program.run("issue", scene.name).status == 0

    assert clock.now() >= wish - timedelta(seconds=1)
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]
    scene.demand_whole()


def said_of(scene: Broken, what: str) -> Answer:
    said = problem(429, "rateLimited", what)
    return Answer(said.status, said.body, said.content_type, (("Retry-After", "3600"),))


def test_what_a_ca_says_of_one_set_of_names_keeps_no_other_waiting(scene: Broken) -> None:
    words = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s"
    scene.proxy.on(NEW_ORDER, said_of(scene, words))

    assert scene.program.run("issue", scene.name).status == 3

    assert scene.program.run("issue", f"second.{scene.name}").status == 0
    demand_waiting(scene.lineage(scene.program.show(scene.name)), clock.now() + HOUR, "exact set")


def test_what_is_no_new_order_for_the_ca_passes_while_new_ones_are_held(scene: Broken) -> None:
    assert scene.program.run("issue", scene.name).status == 0
    scene.proxy.on(NEW_ORDER, said_of(scene, "too many new orders (300) from this account"))
    assert scene.program.run("issue", f"second.{scene.name}").status == 3

    assert scene.program.run("renew", scene.name, "--force").status == 0

    assert [step for step, _ in scene.orders()] == ["stored", "abandoned", "stored"]


def test_a_pause_is_not_longer_than_half_of_what_the_certificate_has_left(scene: Broken) -> None:
    assert scene.program.run("issue", scene.name).status == 0
    soon = int((clock.now() + 2 * HOUR).timestamp() * 1_000_000)
    change(scene.program, "UPDATE certificate SET not_after = ? WHERE ca = ?", soon, scene.ca)
    scene.proxy.on(NEW_ORDER, too_many("86400"), times=None)

    scene.program.run("renew", scene.name, "--force")

    renewal = scene.lineage(scene.program.show(scene.name))["renewal"]
    assert renewal["state"] == "waiting"
    assert abs(instant(renewal["next_try"]) - clock.now() - HOUR) < timedelta(minutes=1)


def test_an_order_under_way_is_looked_at_before_half_of_what_the_certificate_has_left_is_over(
    scene: Broken,
) -> None:
    assert scene.program.run("issue", scene.name).status == 0
    soon = int((clock.now() + 2 * HOUR).timestamp() * 1_000_000)
    change(scene.program, "UPDATE certificate SET not_after = ? WHERE ca = ?", soon, scene.ca)
    tomorrow = replace(order_document(scene, "processing"), headers=(("Retry-After", "72000"),))
    scene.proxy.on(FINALIZE, tomorrow)
    scene.proxy.on(ORDER, tomorrow, times=None)

    assert scene.program.run("renew", scene.name, "--force").status == 3

    [(due_at,)] = rows(scene.program, "SELECT due_at FROM work WHERE kind = 'order' AND ca = ?", scene.ca)
    assert abs(from_microseconds(due_at) - clock.now() - HOUR) < timedelta(minutes=1)


# --- sets that are new to the CA --------------------------------------------------------------------------


@pytest.mark.parametrize("ca", ["alpha", "beta"])
def test_a_new_set_waits_when_the_budget_is_used_up_and_a_known_one_does_not(scene: Broken) -> None:
    program, second = scene.program, f"second.{scene.name}"
    say_in(program.config, f"ca.{scene.ca}", 'new_orders = "1/1d"')
    assert program.run("issue", scene.name).status == 0
    tomorrow = clock.now() + DAY

    result = program.run("issue", second, "--json")

    assert result.status == 3, result
    assert scene.lineage(result.json, scene.other)["state"] in {"serving", "ready"}
    demand_waiting(scene.lineage(result.json), tomorrow, f"CA {scene.ca}", "new sets of names (1/d)")
    assert program.run("renew", scene.name, "--force").status == 0, "the CA knows this set"
    assert len(scene.orders()) == 2
    # Looked at again without anybody's asking: it waits on, and that is no news.
    change(program, "UPDATE work SET due_at = 1 WHERE waiting_for = 'budget'")
    program.run("renew", "--due", "--timeout", "1m")
    assert len(scene.orders()) == 2
    assert len(waited(program, second)) == 1
    assert "it goes on at" in waited(program, second)[0]
    demand_waiting(scene.lineage(program.show(second)), tomorrow)

    let_pass(program, DAY + HOUR)

    assert program.run("renew", "--due").status == 0
    assert program.show(second)["protection"] == "protected"


def test_an_order_whose_answer_was_lost_has_cost_its_permit(scene: Broken) -> None:
    say_in(scene.program.config, f"ca.{scene.ca}", 'new_orders = "2/1d"')
    scene.proxy.on(NEW_ORDER, problem(500, "serverInternal"), times=1)

    assert scene.program.run("issue", scene.name).status == 0

    assert scene.program.run("issue", f"second.{scene.name}").status == 3


def test_a_pair_that_waits_is_never_shown_as_waiting_once_it_has_gone_on(scene: Broken) -> None:
    say_in(scene.program.config, f"ca.{scene.ca}", 'new_orders = "1/3s"')
    assert scene.program.run("issue", scene.name).status == 0

    assert scene.program.run("issue", f"second.{scene.name}").status == 0, "three seconds are waited for"

    assert rows(scene.program, "SELECT count(*) FROM work") == [(0,)]


# --- who has the next permit -------------------------------------------------------------------------------


def stored_at(scene: Broken) -> list[str]:
    """The pairs that have a certificate of the CA that counts, in the order in which they got it."""
    query = "SELECT name FROM certificate JOIN pair ON pair.id = pair_id WHERE ca = ? ORDER BY certificate.id"
    return [name for (name,) in rows(scene.program, query, scene.ca)]


def serve_for(program: Program, name: str, days: int) -> None:
    """As if the serving certificate of a pair had so long to live."""
    until = int((clock.now() + days * DAY).timestamp() * 1_000_000)
    of_pair = "pair_id = (SELECT id FROM pair WHERE name = ?)"
    change(program, f"UPDATE certificate SET not_after = ? WHERE ca = 'alpha' AND {of_pair}", until, name)


def say_revoked(program: Program, name: str) -> None:
    certificate = "SELECT id FROM certificate WHERE pair_id = (SELECT id FROM pair WHERE name = ?)"
    change(
        program,
        f"INSERT INTO revocation SELECT id, ?, 'superseded', 'a test' FROM ({certificate}) AS serving",
        int(clock.now().timestamp() * 1_000_000),
        name,
    )


@pytest.mark.parametrize("ca", ["beta"])
@pytest.mark.parametrize("command", [("renew", "--due", "--timeout", "1m"), ("run", "--once")])
def test_each_permit_that_comes_back_goes_to_the_pair_that_needs_it_first(
    scene: Broken, command: tuple[str, ...]
) -> None:
    program = scene.program
    say_in(program.config, f"ca.{scene.ca}", 'new_orders = "1/1d"')
    spender, long_lived, middling, expiring, revoked_one = names = [
        f"{word}.{scene.name}" for word in ("spender", "long", "middling", "expiring", "revoked")
    ]
    assert [program.run("issue", name).status for name in names] == [0, 3, 3, 3, 3]
    for name, days in ((long_lived, 80), (middling, 40), (expiring, 10), (revoked_one, 90)):
        serve_for(program, name, days)
    say_revoked(program, revoked_one)
    expected = [spender, revoked_one, expiring, middling, long_lived]

    for so_far in range(1, len(expected)):
        let_pass(program, DAY)
        program.run(*command)
        assert stored_at(scene) == expected[: so_far + 1]
        for name in expected[so_far + 1 :]:
            lineage = scene.lineage(program.show(name))
            assert lineage["renewal"]["state"] == "waiting"
            assert "new sets of names" in lineage["renewal"]["error"]
    assert rows(program, "SELECT max(fence) FROM work WHERE kind = 'order'") == [(None,)]


@pytest.mark.parametrize("ca", ["beta"])
def test_whom_a_person_asks_for_does_not_wait_behind_the_others(scene: Broken) -> None:
    program = scene.program
    say_in(program.config, f"ca.{scene.ca}", 'new_orders = "1/1d"')
    spender, first, second = names = [f"{word}.{scene.name}" for word in ("spender", "first", "second")]
    assert [program.run("issue", name).status for name in names] == [0, 3, 3]
    serve_for(program, first, 5)
    serve_for(program, second, 50)
    change(program, "UPDATE work SET due_at = 1 WHERE waiting_for = 'budget'")
    program.run("renew", "--due", "--timeout", "1m")
    let_pass(program, DAY)

    assert program.run("renew", second).status == 0

    assert stored_at(scene) == [spender, second]


# --- certificates under one registered domain --------------------------------------------------------------


def test_certificates_under_a_registered_domain_are_counted_together(scene: Broken) -> None:
    program = scene.program
    say_in(program.config, f"ca.{scene.ca}", 'per_domain = "1/7d"')
    assert program.run("issue", scene.name).status == 0

    result = program.run("issue", f"second.{scene.name}", "--json")

    # The lab's zone is example.test, and of it the public suffix list knows nothing: its last label counts as one.
    demand_waiting(
        scene.lineage(result.json), clock.now() + DAY, "new certificates under example.test (1/7d)"
    )
    assert len(scene.orders()) == 1
    assert program.run("renew", scene.name, "--force").status == 0


def test_an_order_that_came_to_nothing_has_used_up_no_certificate(scene: Broken) -> None:
    say_in(scene.program.config, f"ca.{scene.ca}", 'per_domain = "1/7d"')
    fail_challenges(scene)
    assert scene.program.run("issue", scene.name).status == 3

    scene.proxy.calm()

    assert scene.program.run("renew", scene.name).status == 0
    assert scene.program.run("issue", f"second.{scene.name}").status == 3


def fail_challenges(scene: Broken) -> None:
    scene.proxy.on(ORDER, order_document(scene, "invalid"), times=None)
    scene.proxy.on(AUTHORIZATION, invalid_authorization(scene.name), skip=1, times=None)


# --- failed authorizations --------------------------------------------------------------------------------


def test_a_name_that_has_failed_too_often_is_left_alone_even_if_a_person_insists(scene: Broken) -> None:
    program = scene.program
    say_in(program.config, f"ca.{scene.ca}", 'failed_authorizations = "2/h"')
    fail_challenges(scene)
    assert program.run("issue", scene.name).status == 3
    assert program.run("renew", scene.name).status == 3
    assert len(scene.orders()) == 2

    assert program.run("renew", scene.name).status == 3

    assert len(scene.orders()) == 2
    lineage = scene.lineage(program.show(scene.name))
    demand_waiting(lineage, clock.now() + HOUR / 2, f"failed authorizations of {scene.name} (2/h)")
    scene.proxy.calm()
    assert program.run("issue", f"second.{scene.name}").status == 0, "another name has not failed"
    let_pass(program, HOUR / 2)
    assert program.run("renew", scene.name).status == 0
    assert program.show(scene.name)["protection"] == "protected"


# --- revocations and requests ------------------------------------------------------------------------------


@pytest.mark.parametrize("ca", ["beta"])
def test_revocations_wait_for_their_budget(scene: Broken) -> None:
    program, second = scene.program, f"second.{scene.name}"
    say_in(program.config, f"ca.{scene.ca}", 'revocations = "1/1d"')
    for name in (scene.name, second):
        program.done("issue", name)
    program.run("revoke", scene.name, "--role", "backup")

    program.run("revoke", second, "--role", "backup")

    assert revoked(program) == 1
    assert rows(program, "SELECT waiting_for FROM work WHERE kind = 'revocation'") == [("budget",)]
    assert "revocations (1/d) are used up" in waited(program, second)[0]
    let_pass(program, DAY)
    program.run("renew", "--due", "--timeout", "1m")
    assert revoked(program) == 2


@pytest.mark.parametrize("ca", ["beta"])
def test_a_ca_that_wants_fewer_revocations_is_asked_for_none_until_then(scene: Broken) -> None:
    program, second = scene.program, f"second.{scene.name}"
    for name in (scene.name, second):
        program.done("issue", name)
    scene.proxy.on(REVOKE, too_many("3600"), times=None)
    program.run("revoke", scene.name, "--role", "backup")

    program.run("revoke", second, "--role", "backup")

    assert scene.proxy.count(REVOKE) == 1
    scene.proxy.calm()
    let_pass(program, HOUR)
    program.run("renew", "--due", "--timeout", "1m")
    assert revoked(program) == 2


def revoked(program: Program) -> int:
    return int(rows(program, "SELECT count(*) FROM revocation")[0][0])


def test_requests_keep_to_their_pace(scene: Broken) -> None:
    say_in(scene.program.config, f"ca.{scene.ca}", 'requests = "8/s"')
    began = clock.monotonic()

    assert scene.program.run("issue", scene.name).status == 0

    asked = sum(one.method == "POST" for one in scene.proxy.seen)
    # An account's registration is none of them; two go out at once.
    assert clock.monotonic() - began > (asked - 1 - 2) / 8
    scene.demand_whole()


def test_orders_wait_for_requests_before_a_key_is_spent(scene: Broken) -> None:
    say_in(scene.program.config, f"ca.{scene.ca}", 'requests = "1/1d"')
    result = scene.program.run("issue", scene.name, "--json")
    assert result.status == 3, result
    assert scene.lineage(result.json, scene.other)["state"] in {"serving", "ready"}

    second = scene.program.run("issue", f"second.{scene.name}", "--json")

    demand_waiting(scene.lineage(second.json), clock.now() + DAY, "requests (1/d)", tolerance=120)
    assert len(scene.orders()) == 1


def test_without_a_budget_and_without_a_word_of_a_ca_nothing_is_written(
    lab: ProjectLab, program: Program
) -> None:
    program.done("issue", lab.domain)
    assert used(program) == set()
