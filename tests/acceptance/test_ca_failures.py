"""One CA is down, slow, busy, confused or hostile: the other one's certificate is there all the same, and what is
missing is told, remembered and made up for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from dualcert.clock import to_microseconds
from dualcert.lab import Lab, LabOptions
from dualcert.lifecycle import inventory
from dualcert.lifecycle.driver import Scope, run_until
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.inventory import PairRequest
from dualcert.lifecycle.world import Lazy, World
from dualcert.model.work import Later, Outcome, WorkRow
from dualcert.ports.dns import DnsProvider
from tests.brokenca import (
    AUTHORIZATION,
    CERTIFICATE,
    CHALLENGE,
    FINALIZE,
    NEW_ORDER,
    ORDER,
    Broken,
    broken,
    change,
    change_ca,
    clock,
    hasty,
    pebble_of,
    rows,
    with_authority,
    with_world,
)
from tests.faultproxy import Answer, Cut, Fault, Hang, html, problem, too_many
from tests.labfixture import ProjectLab
from tests.program import Program, Result

BOTH = pytest.mark.parametrize("ca", ["alpha", "beta"])


def some_of(names: str, *cases: tuple[Any, ...], all: Iterable[tuple[Any, ...]]) -> pytest.MarkDecorator:
    """``cases`` in every run, the rest of ``all`` in a long one."""
    rest = [pytest.param(*case, marks=pytest.mark.long) for case in all if case not in cases]
    return pytest.mark.parametrize(names, [*cases, *rest])


@pytest.fixture
def ca() -> str:
    """Which CA misbehaves, where the test does not try both."""
    return "alpha"


@pytest.fixture
def scene(lab: ProjectLab, program: Program, tmp_path: Path, ca: str) -> Iterator[Broken]:
    with broken(lab, program, ca, tmp_path) as scene:
        yield scene


def issue(scene: Broken, **options: Any) -> Result:
    return scene.program.run("issue", scene.name, "--json", **options)


def demand_in_part(scene: Broken, result: Result, *words: str) -> Any:
    """Exit status 3; the other CA's certificate is there and serves if it is the primary's; stderr says the rest."""
    assert result.status == 3, result
    view = result.json
    well = "serving" if scene.other == view["primary"]["ca"] else "ready"
    assert scene.lineage(view, scene.other)["state"] == well
    for word in (scene.name, f"CA {scene.ca}", f"dualcert renew {scene.name}", *words):
        assert word in result.err, (word, result.err)
    assert "Traceback" not in result.err
    return scene.lineage(view)


def demand_failing(lineage: Any, at_least: timedelta = timedelta(minutes=4)) -> None:
    """What ``show`` says of a lineage that will be tried again by itself."""
    assert lineage["state"] == "failed"
    renewal = lineage["renewal"]
    assert renewal["state"] == "failing"
    assert renewal["tries"] >= 1
    assert renewal["error"]
    assert instant(renewal["next_try"]) > clock.now() + at_least


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


# --- a CA that gives no usable answer --------------------------------------------------------------------


def no_answer(fault: str) -> Fault:
    faults: dict[str, Fault] = {"500": problem(500, "serverInternal"), "html": html(200), "cut": Cut(None)}
    return faults[fault]


@some_of(
    "ca, fault, path",
    ("alpha", "html", "/dir"),
    ("beta", "500", NEW_ORDER),
    all=product(["alpha", "beta"], ["500", "html", "cut"], ["/dir", NEW_ORDER]),
)
def test_one_ca_without_answers_costs_its_own_certificate_only_and_the_next_run_makes_up_for_it(
    lab: ProjectLab, scene: Broken, fault: str, path: str
) -> None:
    scene.proxy.on(path, no_answer(fault), times=None)
    began = clock.monotonic()

    missing = demand_in_part(scene, issue(scene))

    assert clock.monotonic() - began < 20
    demand_failing(missing)
    assert 1 < scene.proxy.count(path) < 6, "tried again soon, and not for ever"
    assert lab.leftovers() == {}
    scene.proxy.calm()
    assert issue(scene).status == 0
    scene.demand_whole()


def test_a_ca_that_refuses_the_connection_is_named_with_its_address(
    lab: ProjectLab, program: Program
) -> None:
    well = pebble_of(lab, "beta").directory_url
    change_ca(program.config, "beta", directory="https://127.0.0.1:1/dir")

    result = program.run("issue", lab.domain, "--json")

    assert result.status == 3, result
    assert result.json["primary"]["state"] == "serving"
    assert "127.0.0.1:1 refused the connection" in result.err
    change_ca(program.config, "beta", directory=well)
    assert program.done("renew", lab.domain, "--json").json["protection"] == "protected"


@pytest.mark.parametrize("draw", [0.0, 0.999])
def test_a_command_never_waits_for_the_next_try_of_a_ca_that_is_down(scene: Broken, draw: float) -> None:
    """However the lot falls that spreads the tries, they come after the five minutes that a command has."""
    scene.proxy.on("/dir", no_answer("cut"), times=None)
    began = clock.monotonic()

    result = issue(scene, build=with_world(lambda world: replace(world, draw=lambda: draw)))

    assert clock.monotonic() - began < 20
    demand_failing(demand_in_part(scene, result), timedelta(minutes=4, seconds=50))


@some_of(
    "ca, path",
    ("alpha", NEW_ORDER),
    ("beta", NEW_ORDER),
    all=product(["alpha", "beta"], ["/dir", NEW_ORDER, AUTHORIZATION, FINALIZE]),
)
def test_a_hanging_ca_holds_up_nobody_else_and_is_given_up_at_its_first_timeout(
    scene: Broken, path: str, ca: str
) -> None:
    scene.proxy.on(path, Hang(), times=None)
    began = clock.monotonic()

    # Requests that end after 11 seconds stand for those that end after 30: both are past the time of quick tries.
    missing = demand_in_part(scene, issue(scene, build=hasty(ca, 11.0)), "did not answer in time")

    assert clock.monotonic() - began < 20
    demand_failing(missing)
    at = {(one["kind"], one["ca"]): instant(one["at"]) for one in scene.program.events(scene.name)}
    # Three seconds are what values are gathered for.
    assert at["stored", scene.other] - at["created", None] < timedelta(seconds=6)
    scene.proxy.calm()
    assert scene.program.run("renew", scene.name).status == 0
    scene.demand_whole()


@pytest.mark.long
@BOTH
def test_a_hanging_ca_costs_less_than_a_minute(scene: Broken) -> None:
    scene.proxy.on(NEW_ORDER, Hang(), times=None)
    began = clock.monotonic()

    demand_failing(demand_in_part(scene, issue(scene), "did not answer in time (30 s)"))

    assert clock.monotonic() - began < 60


# --- a CA that is busy -----------------------------------------------------------------------------------


def test_retry_after_in_seconds_is_obeyed_and_told(scene: Broken) -> None:
    scene.proxy.on(NEW_ORDER, too_many("3600"), times=None)

    missing = demand_in_part(scene, issue(scene), "come back later", "too many requests")

    assert abs(instant(missing["renewal"]["next_try"]) - clock.now() - timedelta(hours=1)) < timedelta(
        seconds=20
    )
    assert scene.proxy.count(NEW_ORDER) == 1
    scene.program.run("renew", "--due", "--timeout", "1m")
    assert scene.proxy.count(NEW_ORDER) == 1, "what the CA asked for holds for runs that nobody hurries"
    scene.proxy.calm()
    assert issue(scene).status == 3, "and for a person who does"
    change(scene.program, "UPDATE budget SET held_until = 1")
    assert issue(scene).status == 0
    scene.demand_whole()


@contextmanager
def timezone(name: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


@pytest.mark.parametrize("zone", ["America/St_Johns", "Pacific/Kiritimati"])
def test_retry_after_as_a_date_means_the_same_in_every_time_zone(scene: Broken, zone: str) -> None:
    wish = clock.now().replace(microsecond=0) + timedelta(hours=2)
    scene.proxy.on(NEW_ORDER, too_many(format_datetime(wish, usegmt=True), 503), times=None)

    with timezone(zone):
        missing = demand_in_part(scene, issue(scene))

    assert abs(instant(missing["renewal"]["next_try"]) - wish) < timedelta(seconds=5)


def test_a_short_retry_after_is_waited_for_by_the_same_command(scene: Broken) -> None:
    scene.proxy.on(NEW_ORDER, too_many("1"), times=2)

    result = issue(scene)

    assert result.status == 0, result
    assert scene.proxy.count(NEW_ORDER) == 3
    scene.demand_whole()


@pytest.mark.long
def test_a_ca_that_always_says_come_back_at_once_is_not_run_over(scene: Broken) -> None:
    scene.proxy.on(NEW_ORDER, too_many("0"), times=None)
    began = clock.monotonic()

    demand_failing(demand_in_part(scene, issue(scene)))

    assert clock.monotonic() - began < 50
    assert scene.proxy.count(NEW_ORDER) < 10


def test_half_of_all_nonces_refused_is_no_trouble(tmp_path: Path) -> None:
    with Lab.start(tmp_path / "lab", LabOptions(nonce_reject=50)) as lab:
        program = Program(lab.config_path)
        program.done("init")

        assert program.done("issue", f"a.{lab.domain}", "--json").json["protection"] == "protected"
        assert [step for (step,) in rows(program, "SELECT step FROM acme_order")] == ["stored", "stored"]


# --- connections that break off ---------------------------------------------------------------------------


@some_of(
    "ca, path, after",
    ("alpha", NEW_ORDER, 10),
    ("beta", AUTHORIZATION, None),
    ("alpha", FINALIZE, 10),
    ("beta", ORDER, 10),
    ("alpha", CERTIFICATE, 10),
    all=product(["alpha", "beta"], [NEW_ORDER, AUTHORIZATION, FINALIZE, ORDER, CERTIFICATE], [None, 10]),
)
def test_an_answer_that_breaks_off_is_made_up_for_in_the_same_command(
    lab: ProjectLab, scene: Broken, path: str, after: int | None
) -> None:
    scene.proxy.on(path, Cut(after))

    result = issue(scene)

    assert result.status == 0, result
    scene.demand_whole()
    # Nobody knows where the order is whose answer was lost: its key is spent, a new order has a new one.
    lost = [("abandoned",)] if path == NEW_ORDER else []
    assert [(step,) for step, _ in scene.orders()] == [*lost, ("stored",)]
    assert lab.leftovers() == {}


@pytest.mark.parametrize("path", [NEW_ORDER, ORDER, CERTIFICATE])
def test_answers_that_keep_breaking_off_are_made_up_for_by_the_next_command(
    lab: ProjectLab, scene: Broken, path: str
) -> None:
    scene.proxy.on(path, Cut(10), times=None)
    demand_failing(demand_in_part(scene, issue(scene), "broke off"))
    tried = len(scene.orders())

    scene.proxy.calm()

    assert scene.program.run("renew", scene.name).status == 0
    scene.demand_whole()
    # After newOrder was answered there is one order, and it goes on.
    assert len(scene.orders()) == (tried + 1 if path == NEW_ORDER else 1)
    assert lab.leftovers() == {}


# --- a CA that says no -----------------------------------------------------------------------------------


def rejected(name: str) -> Answer:
    return problem(
        403,
        "rejectedIdentifier",
        "some names are not for us",
        subproblems=[
            {
                "type": "urn:ietf:params:acme:error:rejectedIdentifier",
                "detail": "on the list of high-risk names",
                "identifier": {"type": "dns", "value": name},
            }
        ],
    )


@BOTH
def test_a_refused_name_waits_for_a_person_and_says_which_name(scene: Broken) -> None:
    scene.proxy.on(NEW_ORDER, rejected(scene.name), times=None)

    missing = demand_in_part(
        scene, issue(scene), "not for us", f"{scene.name}: on the list of high-risk names"
    )

    assert (missing["state"], missing["renewal"]["state"]) == ("waiting", "waiting")
    assert missing["renewal"]["next_try"] is None
    assert scene.proxy.count(NEW_ORDER) == 1
    scene.program.run("renew", "--due", "--timeout", "1m")
    assert scene.proxy.count(NEW_ORDER) == 1, "nothing changes before a person acts"
    scene.proxy.calm()
    assert issue(scene).status == 0
    scene.demand_whole()


def invalid_authorization(name: str) -> Answer:
    document = {
        "status": "invalid",
        "identifier": {"type": "dns", "value": name},
        "expires": "2099-01-01T00:00:00Z",
        "challenges": [
            {
                "type": "dns-01",
                "url": "https://127.0.0.1:1/chalZ/x",
                "status": "invalid",
                "token": "a" * 43,
                "error": {
                    "type": "urn:ietf:params:acme:error:unauthorized",
                    "detail": "Incorrect TXT record found",
                },
            }
        ],
    }
    return with_json(document)


def with_json(document: object, status: int = 200) -> Answer:
    import json

    return Answer(status, json.dumps(document).encode(), "application/json")


def order_document(scene: Broken, status: str, **more: Any) -> Answer:
    url = scene.proxy.url
    return with_json(
        {
            "status": status,
            "identifiers": [{"type": "dns", "value": scene.name}],
            "authorizations": [f"{url}/authZ/x"],
            "finalize": f"{url}/finalize-order/x",
            "expires": "2099-01-01T00:00:00Z",
            **more,
        }
    )


def test_a_challenge_that_somebody_has_answered_already_is_answered(scene: Broken) -> None:
    """By whoever held the order before, and was held up: CAs take no answer twice."""
    scene.proxy.on(CHALLENGE, replace(problem(400, "malformed", "not pending any more"), forward=True))

    assert issue(scene).status == 0

    scene.demand_whole()
    assert scene.proxy.count(CHALLENGE) == 1


def test_a_challenge_that_the_ca_refuses_to_take_an_answer_for_is_told(scene: Broken) -> None:
    scene.proxy.on(CHALLENGE, problem(400, "malformed", "no such thing"), times=None)

    demand_in_part(scene, issue(scene), "no such thing")


def test_a_refused_challenge_withdraws_its_values_and_is_tried_again_in_minutes(
    lab: ProjectLab, scene: Broken
) -> None:
    scene.proxy.on(ORDER, order_document(scene, "invalid"), times=None)
    scene.proxy.on(AUTHORIZATION, invalid_authorization(scene.name), skip=1, times=None)

    missing = demand_in_part(scene, issue(scene), "Incorrect TXT record found (unauthorized)", "CAA")

    demand_failing(missing)
    assert instant(missing["renewal"]["next_try"]) < clock.now() + timedelta(minutes=7)
    assert len(scene.orders()) == 1, "failed authorizations are rationed: no quick tries"
    assert lab.leftovers() == {}
    assert [step for step, _ in scene.orders()] == ["abandoned"]
    scene.proxy.calm()
    assert issue(scene).status == 0
    scene.demand_whole()


@pytest.mark.parametrize("ca", ["beta"])
def test_an_order_that_becomes_invalid_after_finalize_is_given_up_with_its_reason(
    lab: ProjectLab, scene: Broken
) -> None:
    error = {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids us"}
    scene.proxy.on(FINALIZE, order_document(scene, "invalid", error=error), times=None)

    missing = demand_in_part(scene, issue(scene), "became invalid", "CAA forbids us (caa)")

    demand_failing(missing)
    assert [step for step, _ in scene.orders()] == ["abandoned"]
    assert lab.leftovers() == {}
    scene.proxy.calm()
    assert scene.program.run("renew", scene.name).status == 0
    scene.demand_whole()


@some_of("ca, times", ("alpha", 1), ("beta", None), all=product(["alpha", "beta"], [1, None]))
def test_an_order_that_is_not_ready_is_looked_at_again_and_not_thrown_away(
    scene: Broken, times: int | None
) -> None:
    """As another process's finalize, or a copy that lags behind, makes a CA say."""
    scene.proxy.on(FINALIZE, problem(403, "orderNotReady", "the order is processing"), times=times)

    result = issue(scene)

    if times is None:
        demand_failing(demand_in_part(scene, result, "the order is processing (orderNotReady)"))
        assert scene.proxy.count(FINALIZE) < 8
        scene.proxy.calm()
        result = issue(scene)
    assert result.status == 0, result
    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["stored"]


def test_an_order_of_which_a_copy_that_lags_behind_says_that_it_is_pending_is_not_thrown_away(
    scene: Broken,
) -> None:
    pending = scene.proxy.on(ORDER, order_document(scene, "pending"), times=0)
    refused = scene.proxy.on(FINALIZE, problem(403, "orderNotReady", "the order is pending"))
    with closing(scene.program.application()) as application:
        world = application.world
        pair = inventory.ensure(world, PairRequest((scene.name,), targets=()))

        class Lagging(Engine):
            def advance(self, rows: Sequence[WorkRow]) -> list[Outcome]:
                # From the refusal of the first finalize on, three looks find the order as it was before.
                pending.times = 3 if refused.hits else 0
                return super().advance(rows)

        scope = Scope(frozenset([pair.id]), inventory.ISSUING)
        run_until(Lagging(world), scope, world.clock.now() + timedelta(seconds=60))
    assert pending.hits == 3
    assert [step for step, _ in scene.orders()] == ["stored"]


class _LongLooked(Engine):
    """Every step finds that what it waits for was looked at in vain a hundred times."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.issuing: list[int] = []

    def advance(self, rows: Sequence[WorkRow]) -> list[Outcome]:
        outcomes = super().advance([replace(row, looks=100) for row in rows])
        self.issuing += [
            one.looks
            for one in outcomes
            if isinstance(one, Later) and one.reason == "the CA is issuing the certificate"
        ]
        return outcomes


def test_a_certificate_is_looked_for_at_once_however_long_the_validation_took(scene: Broken) -> None:
    scene.proxy.on(FINALIZE, order_document(scene, "processing"))
    with closing(scene.program.application()) as application:
        world = application.world
        pair = inventory.ensure(world, PairRequest((scene.name,), targets=()))
        engine = _LongLooked(world)
        scope = Scope(frozenset([pair.id]), inventory.ISSUING)
        run_until(engine, scope, world.clock.now() + timedelta(seconds=60))
    assert engine.issuing[0] == 1
    assert [step for step, _ in scene.orders()] == ["stored"]


@pytest.mark.parametrize(
    ("status", "wish"),
    [("processing", (("Retry-After", "0"),)), ("valid", ())],
    ids=["come-at-once", "without-url"],
)
def test_a_ca_that_keeps_saying_that_it_is_nearly_there_is_not_run_over(
    scene: Broken, status: str, wish: tuple[tuple[str, str], ...]
) -> None:
    nearly = replace(order_document(scene, status), headers=wish)
    scene.proxy.on(FINALIZE, nearly)
    scene.proxy.on(ORDER, nearly, times=None)

    result = scene.program.run("issue", scene.name, "--json", "--timeout", "10s")

    assert result.status == 3, result
    assert "the CA is issuing the certificate" in result.err
    assert 5 < scene.proxy.count(ORDER) < 30
    scene.proxy.calm()
    scene.program.done("renew", scene.name)
    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["stored"]


def test_an_order_that_a_ca_leaves_lying_for_hours_is_looked_at_once_and_then_left_alone(
    scene: Broken,
) -> None:
    processing = order_document(scene, "processing")
    scene.proxy.on(FINALIZE, processing)
    scene.proxy.on(ORDER, processing, times=None)
    assert scene.program.run("issue", scene.name, "--timeout", "2s").status == 3
    finalized_before(scene, timedelta(hours=2))
    scene.proxy.forget()

    assert scene.program.run("renew", "--due").status == 3
    assert scene.proxy.count(ORDER) == 1
    [(due_at,)] = rows(scene.program, "SELECT due_at FROM work WHERE kind = 'order'")
    assert due_at > to_microseconds(clock.now() + timedelta(minutes=5))
    scene.proxy.calm()
    scene.program.done("renew", scene.name)
    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["stored"]


def test_an_order_that_the_ca_has_forgotten_is_placed_anew_at_once(scene: Broken) -> None:
    scene.proxy.on(ORDER, problem(404, "malformed", "no such order"))

    assert issue(scene).status == 0
    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]


def test_an_order_that_has_outlived_its_time_is_placed_anew_at_once_however_often_its_ca_has_failed(
    scene: Broken,
) -> None:
    scene.proxy.on(FINALIZE, problem(503, "serverInternal"))
    assert issue(scene).status == 3
    assert [step for step, _ in scene.orders()] == ["finalizing"]
    hour_ago = to_microseconds(clock.now() - timedelta(hours=1))
    change(scene.program, f"UPDATE acme_order SET created_at = {hour_ago}")
    change(scene.program, f"UPDATE work SET due_at = {hour_ago}, attempts = 7 WHERE kind = 'order'")
    scene.proxy.on(ORDER, problem(404, "malformed", "no such order"))

    assert scene.program.run("renew", "--due").status == 0

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]


def placed_before(scene: Broken, lasted: timedelta) -> None:
    """The orders were placed so long ago, and are due now."""
    began = to_microseconds(clock.now() - lasted)
    change(scene.program, f"UPDATE acme_order SET created_at = {began}")
    change(scene.program, "UPDATE work SET due_at = 1 WHERE kind = 'order'")


def finalized_before(scene: Broken, lasted: timedelta) -> None:
    """Placed, validated and finalized so long ago."""
    placed_before(scene, lasted)
    began = to_microseconds(clock.now() - lasted)
    change(scene.program, f"UPDATE event SET at = {began} WHERE kind = 'validated'")


def processing_for(scene: Broken, lasted: timedelta, expires: timedelta = timedelta(days=7)) -> None:
    """An order that was finalized, and that the CA says to be processing ever since; it is looked at once more."""
    scene.proxy.on(FINALIZE, order_document(scene, "processing"))
    scene.proxy.on(ORDER, order_document(scene, "processing"), times=None)
    assert scene.program.run("issue", scene.name, "--timeout", "2s").status == 3
    finalized_before(scene, lasted)
    scene.proxy.calm()
    until = (clock.now() - lasted + expires).strftime("%Y-%m-%dT%H:%M:%SZ")
    scene.proxy.on(ORDER, order_document(scene, "processing", expires=until))


@pytest.mark.parametrize(
    ("lasted", "expires"),
    [(timedelta(hours=37), timedelta(days=7)), (timedelta(hours=4), timedelta(hours=1))],
    ids=["long", "expired"],
)
def test_an_order_that_its_ca_never_ends_is_given_up_and_another_one_placed(
    scene: Broken, lasted: timedelta, expires: timedelta
) -> None:
    processing_for(scene, lasted, expires)

    scene.program.done("renew", "--due")

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]


def test_an_order_that_has_just_expired_is_waited_for_as_our_clock_may_be_wrong(scene: Broken) -> None:
    processing_for(scene, timedelta(hours=2), timedelta(hours=1))

    scene.program.run("renew", "--due")

    assert "abandoned" not in [step for step, _ in scene.orders()]


def test_an_order_that_stays_ready_is_not_finalized_at_each_look(scene: Broken) -> None:
    ready = order_document(scene, "ready")
    scene.proxy.on(FINALIZE, ready, times=None)
    scene.proxy.on(ORDER, ready, times=None)

    assert scene.program.run("issue", scene.name, "--timeout", "8s").status == 3

    assert 2 < scene.proxy.count(FINALIZE) < 8
    assert scene.proxy.count(ORDER) > 8
    scene.proxy.calm()
    scene.program.done("renew", scene.name)
    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["stored"]


def test_an_order_that_stays_ready_for_days_is_given_up(scene: Broken) -> None:
    ready = order_document(scene, "ready")
    scene.proxy.on(FINALIZE, ready)
    scene.proxy.on(ORDER, ready, times=None)
    assert scene.program.run("issue", scene.name, "--timeout", "2s").status == 3
    finalized_before(scene, timedelta(hours=100))
    scene.proxy.calm()
    scene.proxy.forget()
    scene.proxy.on(ORDER, ready)

    scene.program.done("renew", "--due")

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]
    assert scene.proxy.count(FINALIZE) == 1, "the new one's"


class Narrow:
    """A DNS provider with room for one value at a name."""

    capacity = 1

    def __init__(self, real: DnsProvider) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def narrowed(world: World) -> World:
    binding = world.dns_of("lab")
    real = binding.provider()
    return replace(
        world, dns={"lab": replace(binding, provider=Lazy(lambda: cast("DnsProvider", Narrow(real))))}
    )


def test_an_order_of_which_only_one_value_has_room_is_given_up_too_where_its_ca_never_ends(
    lab: ProjectLab, scene: Broken
) -> None:
    build = with_world(narrowed)
    names = (scene.name, f"*.{scene.name}")
    well = pebble_of(lab, scene.other).directory_url
    change_ca(scene.program.config, scene.other, directory="https://127.0.0.1:1/dir")
    url, token = f"{scene.proxy.url}/chalZ/x", "a" * 43
    challenge = {"type": "dns-01", "url": url, "token": token, "status": "processing"}
    identifier = {"type": "dns", "value": scene.name}
    pending = {"status": "pending", "identifier": identifier, "challenges": [challenge]}
    scene.proxy.on(CHALLENGE, with_json(challenge), times=None)
    scene.proxy.on(AUTHORIZATION, with_json(pending), skip=2, times=None)
    assert scene.program.run("issue", *names, "--timeout", "5s", build=build).status == 1
    assert set(scene.rows("SELECT state FROM challenge_record")) == {("answered",), ("remembered",)}
    change_ca(scene.program.config, scene.other, directory=well)
    placed_before(scene, timedelta(hours=37))
    began = to_microseconds(clock.now() - timedelta(hours=37))
    change(scene.program, f"UPDATE challenge_record SET since = {began}")
    scene.proxy.calm()
    scene.proxy.on(AUTHORIZATION, with_json(pending), skip=1)

    assert scene.program.run("renew", "--due", "--timeout", "30s", build=build).status == 0

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]
    assert lab.leftovers() == {}


def test_an_order_that_was_finalized_late_has_its_time_from_there(scene: Broken) -> None:
    scene.proxy.on(FINALIZE, order_document(scene, "processing"))
    scene.proxy.on(ORDER, order_document(scene, "processing"), times=None)
    assert scene.program.run("issue", scene.name, "--timeout", "2s").status == 3
    placed_before(scene, timedelta(hours=37))

    assert scene.program.run("renew", scene.name, "--timeout", "2s").status == 3
    scene.proxy.calm()
    scene.proxy.on(ORDER, problem(500, "serverInternal"))
    scene.program.run("renew", scene.name)
    scene.program.done("renew", scene.name)

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["stored"]


def test_orders_whose_values_could_not_go_out_for_days_are_not_given_up_when_they_can(
    lab: ProjectLab, scene: Broken
) -> None:
    """What DNS took is no delay of the CA, which has only just been asked."""
    text = scene.program.config.read_text()
    scene.program.config.write_text(text.replace('tsig_name = "', 'tsig_name = "not-'))
    assert scene.program.run("issue", scene.name).status == 1
    placed_before(scene, timedelta(hours=40))
    scene.program.config.write_text(text)
    scene.proxy.on(CHALLENGE, problem(500, "serverInternal"))
    scene.proxy.on(ORDER, order_document(scene, "pending"), times=3)

    scene.program.run("renew", scene.name)
    scene.program.done("renew", scene.name)

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["stored"]
    assert [step for step, _ in scene.orders(scene.other)] == ["stored"]
    assert lab.leftovers() == {}


def test_an_order_whose_url_never_answers_any_more_is_given_up(scene: Broken) -> None:
    processing_for(scene, timedelta(hours=37))
    scene.proxy.calm()
    scene.proxy.on(ORDER, problem(500, "serverInternal"))

    scene.program.run("renew", "--due")
    scene.proxy.calm()
    scene.program.done("renew", scene.name)

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["abandoned", "stored"]


def test_a_certificate_that_is_not_there_yet_is_waited_for_and_not_ordered_again(scene: Broken) -> None:
    scene.proxy.on(CERTIFICATE, problem(404, "malformed", "no such certificate"), times=3)

    assert issue(scene).status == 0

    scene.demand_whole()
    assert [step for step, _ in scene.orders()] == ["stored"]
    assert scene.proxy.count(CERTIFICATE) == 4


# --- a certificate that must not be used ------------------------------------------------------------------


def made_by_nobody(
    *names: str, begins: timedelta = timedelta(days=-1), ends: timedelta = timedelta(days=30)
) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    nobody = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    now = clock.now()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(nobody)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )


def chain(pem: str) -> Answer:
    return Answer(200, pem.encode(), "application/pem-certificate-chain")


UNFIT: dict[str, tuple[Callable[[str], str], str]] = {
    "of another name": (lambda name: made_by_nobody(f"other.{name}"), "does not name"),
    "expired": (lambda name: made_by_nobody(name, begins=timedelta(-9), ends=timedelta(-8)), "expired on"),
    "of another key": (made_by_nobody, "another key"),
    "not yet valid": (lambda name: made_by_nobody(name, begins=timedelta(9)), "not valid before"),
}


@some_of(
    "ca, flaw",
    ("alpha", "of another name"),
    ("beta", "expired"),
    ("beta", "of another key"),
    ("alpha", "not yet valid"),
    all=product(["alpha", "beta"], UNFIT),
)
def test_an_unfit_certificate_is_kept_and_never_used_and_waits_a_day_or_a_person(
    lab: ProjectLab, scene: Broken, flaw: str
) -> None:
    make, words = UNFIT[flaw]
    scene.proxy.on(CERTIFICATE, chain(make(scene.name)), times=None)

    # The backup serves at once where the primary's is unfit.
    result = issue(scene)

    assert result.status == 3, result
    for word in (scene.name, f"CA {scene.ca}", words, f"dualcert renew {scene.name}"):
        assert word in result.err, (word, result.err)
    view = result.json
    assert (view["primary"]["ca"], view["primary"]["state"]) == (scene.other, "serving")
    missing = scene.lineage(view)
    assert (missing["state"], missing["certificate"]) == ("waiting", None)
    assert instant(missing["renewal"]["next_try"]) > clock.now() + timedelta(hours=23)
    kept = scene.rows("SELECT flaw FROM certificate WHERE ca = ?", scene.ca)
    assert len(kept) == 1
    assert words in kept[0][0]

    assert issue(scene).status == 3
    assert len(scene.orders()) == 1, "a repeated issue does not spend another of five a week"

    scene.proxy.calm()
    assert scene.program.run("renew", scene.name).status == 0
    scene.demand_whole()
    assert len(scene.orders()) == 2
    assert lab.leftovers() == {}


def test_a_certificate_of_the_pairs_other_ca_is_never_taken_for_this_ones(
    lab: ProjectLab, program: Program, tmp_path: Path
) -> None:
    """Valid, for the names, trusted here, and still not the one that was ordered: both would fall together."""
    with broken(lab, program, "beta", tmp_path) as scene:
        scene.proxy.on(CERTIFICATE, Cut(None), times=None)
        demand_in_part(scene, issue(scene))
        scene.proxy.calm()
        exported = tmp_path / "exported"
        program.done("export", scene.name, "--to", str(exported), "--role", "primary")
        theirs = "".join(path.read_text() for path in sorted(exported.rglob("fullchain.pem")))
        scene.proxy.on(CERTIFICATE, chain(theirs), times=None)
        (config := program.config).write_text(
            config.read_text().replace(str(lab.beta.roots_pem), str(lab.alpha.roots_pem))
        )

        result = program.run("renew", scene.name, "--json")

        assert result.status == 3, result
        assert "another key" in result.err
        assert "same issuing key" in result.err
        assert result.json["primary"]["state"] == "serving"
        assert result.json["backup"]["certificate"] is None
        assert result.json["protection"] == "unprotected"


# --- two names for one CA ---------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_one_ca_under_two_names_is_refused_before_anything_is_served(
    lab: ProjectLab, scene: Broken, late: bool
) -> None:
    """Beta leads to alpha's CA. ``late``: alpha tells who it is only after beta's order was placed."""
    config = scene.program.config
    head, _, tail = config.read_text().partition("[ca.beta]\n")
    _, _, rest = tail.partition("[dns.lab]\n")
    profile = next(iter(lab.alpha.profiles))
    same = (
        f'[ca.beta]\ndirectory = "{lab.alpha.directory_url}"\nkeys = "backup"\nterms_agreed = true\n'
        f'ca_bundle = "{lab.alpha.api_ca_pem}"\ntrust_roots = "{lab.alpha.roots_pem}"\nprofile = "{profile}"\n'
    )
    config.write_text(f"{head}{same}\n[dns.lab]\n{rest}")
    if late:
        scene.proxy.on("/dir", Hang())
        threading.Thread(target=release_when_placed, args=(scene, "beta"), daemon=True).start()

    result = issue(scene)

    assert result.status == 1, result
    assert f"{scene.name}, CA alpha: alpha and beta share the CAA identity alpha.lab.test" in result.err
    assert "configure another" in result.err
    assert result.json["primary"]["certificate"] is None
    assert result.json["backup"]["certificate"] is None
    assert not (lab.live / scene.name).exists()
    assert lab.leftovers() == {}
    assert scene.rows("SELECT count(*) FROM certificate") == [(0,)]
    if late:
        # What had come too far to be stopped by the other's account was stopped before its CSR left.
        assert [step for step, _ in scene.orders("beta")] == ["abandoned"]


def release_when_placed(scene: Broken, ca: str) -> None:
    end = clock.monotonic() + 20
    while not any(step == "placed" for step, _ in scene.orders(ca)) and clock.monotonic() < end:
        clock.sleep(0.01)
    scene.proxy.release()


# --- a bug ------------------------------------------------------------------------------------------------


class Buggy:
    """A CA's client with a mistake in one method."""

    def __init__(self, real: Any, method: str) -> None:
        self._real, self._method = real, method

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            raise ZeroDivisionError("this was\nnot foreseen")
        return getattr(self._real, name)


@some_of(
    "ca, method",
    ("alpha", "new_order"),
    ("beta", "certificate"),
    all=product(["alpha", "beta"], ["new_order", "authorization", "finalize", "certificate"]),
)
def test_an_unforeseen_exception_is_that_cas_trouble_and_holds_up_nothing_else(
    lab: ProjectLab, scene: Broken, ca: str, method: str
) -> None:
    result = scene.program.run(
        "issue", scene.name, build=with_authority(ca, lambda real: Buggy(real, method))
    )

    assert result.status == 3, result
    told, where, again = result.err.splitlines()
    assert told == f"{scene.name}, CA {ca}: internal error: ZeroDivisionError: this was not foreseen"
    assert "-vv" in where
    assert "Next try at" in again
    view = scene.program.show(scene.name)
    assert scene.lineage(view, {"alpha": "beta", "beta": "alpha"}[ca])["certificate"] is not None
    assert scene.lineage(view, ca)["renewal"]["tries"] == 1
    assert scene.rows("SELECT kind, owner FROM work WHERE owner IS NOT NULL") == []
    assert scene.rows("SELECT name FROM lease") == []
    began = clock.monotonic()
    assert issue(scene).status == 0
    assert clock.monotonic() - began < 20
    scene.demand_whole()
    assert lab.leftovers() == {}


def test_the_traceback_of_an_unforeseen_exception_is_logged_at_vv(scene: Broken) -> None:
    built = with_authority("alpha", lambda real: Buggy(real, "new_order"))

    result = scene.program.run("issue", scene.name, "-vv", build=built)

    assert "Traceback" in result.err
    assert 'raise ZeroDivisionError("this was' in result.err
