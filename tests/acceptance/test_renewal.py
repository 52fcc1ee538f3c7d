"""Renewals with real CAs, on a later day: by their suggestion, by the life of a certificate, and when one fails."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dualcert.bootstrap import Application
from dualcert.config import Settings
from dualcert.lab.pebble import PebbleServer
from dualcert.store import certificates, pairs
from tests.brokenca import NEW_ORDER, Broken, broken, rows
from tests.faultproxy import Answer, Cut, Fault, Seen, html, problem, too_many
from tests.labfixture import ProjectLab
from tests.program import Program, Result
from tests.shifted import ShiftedClock, built_on
from tests.years import dated

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
RENEWAL_INFO = "renewalInfo/"


@dataclass
class Later:
    """dualcert whose clock is put forward."""

    program: Program
    clock: ShiftedClock
    build: Callable[[Settings], Application]
    name: str

    def run(self, *arguments: str) -> Result:
        return self.program.run(*arguments, build=self.build)

    def done(self, *arguments: str) -> Result:
        result = self.run(*arguments)
        assert result.status == 0, (arguments, result)
        return result

    def due(self) -> Result:
        """What a scheduled run does, not waiting for what is tried again later."""
        return self.run("renew", "--due", "--timeout", "20s", "--json")

    def show(self) -> Any:
        return self.done("show", self.name, "--json").json

    def leaf(self, role: str) -> x509.Certificate:
        application = self.build_application()
        with closing(application), application.world.store.read() as tx:
            pair = pairs.by_name(tx, self.name)
            assert pair is not None
            state = pairs.state(tx, pair.id)
            number = state.serving if role == "primary" else state.standby
            assert number is not None
            return x509.load_der_x509_certificate(certificates.der_of(tx, number))

    def build_application(self) -> Application:
        from dualcert import bootstrap

        return self.build(bootstrap.load_settings(self.program.config))

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return rows(self.program, query, *values)

    def live_with_its_cas(self) -> None:
        """From now on the CAs date certificates by this clock, so that a later one ends later."""
        build = self.build

        def living(settings: Settings) -> Application:
            application = build(settings)
            return replace(application, world=dated(application.world, self.clock))

        self.build = living

    def ask_soon(self) -> None:
        """The first question to a CA is spread by chance over some hours; here it is due."""
        self.clock.advance(6 * HOUR)


@pytest.fixture
def later(program: Program, lab: ProjectLab, monkeypatch: pytest.MonkeyPatch) -> Later:
    clock = ShiftedClock()
    return Later(program, clock, built_on(clock, monkeypatch), lab.domain)


def set_renewal_info(pebble: PebbleServer, leaf: x509.Certificate, answer: dict[str, Any]) -> None:
    """Tell a Pebble what to answer about a certificate."""
    body = {"Certificate": leaf.public_bytes(Encoding.PEM).decode(), "ARIResponse": json.dumps(answer)}
    context = ssl.create_default_context(cafile=pebble.api_ca_pem)
    place = urlsplit(pebble.management_url).netloc
    with closing(http.client.HTTPSConnection(place, timeout=5, context=context)) as connection:
        connection.request(
            "POST",
            "/set-renewal-info/",
            json.dumps(body),
            {"Content-Type": "application/json", "User-Agent": "a test"},
        )
        response = connection.getresponse()
        assert response.status == 200, response.read()


def window(start: datetime, end: datetime, **more: Any) -> dict[str, Any]:
    return {"suggestedWindow": {"start": start.isoformat(), "end": end.isoformat()}, **more}


def serials(view: Any) -> dict[str, str]:
    return {view[role]["ca"]: view[role]["certificate"]["serial"] for role in ("primary", "backup")}


# --- what a CA suggests ----------------------------------------------------------------------------------


def test_a_ca_is_asked_and_the_earlier_time_is_shown(later: Later) -> None:
    later.done("issue", later.name)
    later.ask_soon()
    assert later.due().status == 0
    shown = later.show()
    asked = later.rows("SELECT ca, window_start, window_end, check_at - asked_at, failures FROM renewal_info")
    assert sorted(one[0] for one in asked) == ["alpha", "beta"]
    assert all(start < end and wait == 6 * 3600 * 1_000_000 for _, start, end, wait, _ in asked)
    for role in ("primary", "backup"):
        born = datetime.fromisoformat(shown[role]["certificate"]["not_before"])
        assert born + 58.9 * DAY < datetime.fromisoformat(shown[role]["renew_at"]) <= born + 60.1 * DAY
    assert later.rows("SELECT kind FROM work") == []


def test_a_window_that_is_moved_into_the_past_renews_at_once_and_alone(lab: ProjectLab, later: Later) -> None:
    before = later.done("issue", later.name, "--json").json
    later.clock.advance(10 * DAY)
    old = later.leaf("primary")
    now = later.clock.now()
    told = window(now - 2 * HOUR, now - HOUR, explanationURL="https://ca.test/incident")
    set_renewal_info(lab.alpha, old, told)

    assert later.due().status == 0

    after = later.show()
    assert serials(after)["alpha"] != serials(before)["alpha"]
    assert serials(after)["beta"] == serials(before)["beta"]
    assert after["protection"] == "protected"
    served = hashlib.sha256(lab.handshake(later.name)).hexdigest()
    assert served == after["primary"]["certificate"]["sha256"]
    causes = [one["cause"] for one in later.program.events(later.name) if one["kind"] == "order-due"]
    assert causes[-1] == "its CA suggests it: https://ca.test/incident"

    assert later.due().status == 0
    assert later.show() == after, "the successor is not renewed as it arrives"


def test_an_order_names_its_predecessor_to_the_ca(later: Later) -> None:
    later.done("issue", later.name)
    identifiers = dict(later.rows("SELECT ca, ari_id FROM renewal_info"))
    later.done("renew", later.name, "--force")
    named = later.rows("SELECT ca, replaces FROM acme_order ORDER BY id")
    assert sorted(named[:2]) == [("alpha", None), ("beta", None)]
    assert dict(named[2:]) == identifiers


def test_a_window_that_is_open_at_birth_does_not_loop(lab: ProjectLab, later: Later) -> None:
    config = later.program.config
    config.write_text(config.read_text().replace('profile = "classic"', 'profile = "hour"'))
    issued = later.done("issue", later.name, "--json").json
    now = later.clock.now()
    set_renewal_info(lab.alpha, later.leaf("primary"), window(now - HOUR, now + MINUTE / 60))
    for _ in range(5):
        later.clock.advance(MINUTE)
        assert later.due().status == 0
        assert serials(later.show()) == serials(issued)
    later.clock.advance(2 * MINUTE)
    assert later.due().status == 0
    after = serials(later.show())
    assert after["alpha"] != serials(issued)["alpha"], "a tenth of its life has passed"
    set_renewal_info(lab.alpha, later.leaf("primary"), window(now - HOUR, now + MINUTE / 60))
    for _ in range(4):
        later.clock.advance(MINUTE)
        assert later.due().status == 0
        assert serials(later.show()) == after


# --- a CA that does not say, or not what it should --------------------------------------------------------


@pytest.fixture
def alpha(lab: ProjectLab, later: Later, tmp_path: Path) -> Iterator[Broken]:
    """The primary's CA behind a proxy."""
    with broken(lab, later.program, "alpha", tmp_path) as scene:
        yield scene


def as_json(document: object) -> Answer:
    return Answer(200, json.dumps(document).encode(), "application/json")


BACKWARDS = {"suggestedWindow": {"start": "2026-05-02T00:00:00Z", "end": "2026-05-01T00:00:00Z"}}
NOWHERE = {"suggestedWindow": {"start": "0001-01-01T00:00:00+01:00", "end": "9999-12-31T23:59:59-01:00"}}


@pytest.mark.parametrize(
    "fault",
    [
        html(500),
        too_many("3600"),
        Cut(after=None),
        problem(404, "malformed"),
        as_json({}),
        as_json([]),
        as_json(BACKWARDS),
        as_json(NOWHERE),
        as_json({"suggestedWindow": {"start": "soon", "end": "later"}}),
        Answer(200, b"\xff\xfe", "application/json"),
    ],
)
def test_a_ca_that_does_not_say_delays_no_renewal(later: Later, alpha: Broken, fault: Fault) -> None:
    before = later.done("issue", later.name, "--json").json
    alpha.proxy.on(RENEWAL_INFO, fault, times=None)
    later.ask_soon()
    assert later.due().status == 0
    assert alpha.proxy.count(RENEWAL_INFO) == 1
    [(failures, said)] = later.rows("SELECT failures, problem FROM renewal_info WHERE ca = 'alpha'")
    assert failures == 1
    assert said
    later.clock.advance(60 * DAY)
    assert later.due().status == 0
    after = later.show()
    assert serials(after)["alpha"] != serials(before)["alpha"]


def test_a_scheduled_run_tells_of_a_ca_that_does_not_say_and_is_done_all_the_same(
    later: Later, alpha: Broken
) -> None:
    later.done("issue", later.name)
    alpha.proxy.on(RENEWAL_INFO, Cut(after=None), times=None)
    later.ask_soon()
    result = later.due()
    assert result.status == 0
    assert (result.json["left"], [one["ca"] for one in result.json["not_asked"]]) == ([], ["alpha"])
    told = later.run("renew", "--due", "--timeout", "20s")
    assert told.status == 0
    assert "CA alpha does not say when it would like renewals" in told.err


def replaced(seen: Seen) -> str | None:
    """What a newOrder named as its predecessor."""
    from base64 import urlsafe_b64decode

    text = json.loads(seen.body)["payload"]
    payload = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    found: str | None = payload.get("replaces")
    return found


@pytest.mark.parametrize(
    "fault",
    [problem(409, "alreadyReplaced"), problem(400, "malformed"), problem(403, "unauthorized"), html(500)],
)
def test_where_the_predecessor_is_refused_the_order_is_placed_without_it_in_the_same_attempt(
    later: Later, alpha: Broken, fault: Fault
) -> None:
    before = later.done("issue", later.name, "--json").json
    alpha.proxy.forget()
    alpha.proxy.on(NEW_ORDER, fault)
    later.done("renew", later.name, "--force")
    placed = [replaced(one) for one in alpha.proxy.seen if NEW_ORDER in one.path and one.method == "POST"]
    assert (len(placed), placed[0] is None, placed[-1]) == (2, False, None)
    steps = later.rows("SELECT step, replaces FROM acme_order WHERE ca = 'alpha' ORDER BY id")
    assert steps == [("stored", None), ("stored", None)], "one attempt, under one key"
    assert serials(later.show())["alpha"] != serials(before)["alpha"]


def test_the_predecessor_is_named_again_where_the_order_that_carried_it_died(
    later: Later, alpha: Broken
) -> None:
    later.done("issue", later.name)
    [(identifier,)] = later.rows("SELECT ari_id FROM renewal_info WHERE ca = 'alpha'")
    alpha.proxy.forget()
    alpha.proxy.on(NEW_ORDER, Cut(after=None))
    later.done("renew", later.name, "--force")
    placed = [replaced(one) for one in alpha.proxy.seen if NEW_ORDER in one.path and one.method == "POST"]
    assert placed[:2] == [identifier, identifier]
    steps = later.rows("SELECT step FROM acme_order WHERE ca = 'alpha' ORDER BY id")
    assert steps == [("stored",), ("abandoned",), ("stored",)]


# --- a primary that cannot be renewed ---------------------------------------------------------------------


def test_a_primary_that_cannot_be_renewed_is_left_before_it_expires(
    lab: ProjectLab, later: Later, alpha: Broken
) -> None:
    later.live_with_its_cas()
    issued = later.done("issue", later.name, "--json").json
    alpha.proxy.on("/", html(503), times=None)
    later.clock.advance(60 * DAY)
    assert later.due().status == 3
    renewed = later.show()
    assert serials(renewed)["beta"] != serials(issued)["beta"]
    assert (renewed["primary"]["state"], renewed["primary"]["renewal"]["state"]) == ("serving", "failing")

    later.clock.advance(26.5 * DAY)
    later.due()
    assert later.show()["primary"]["ca"] == "alpha", "there are three days and a half left"
    later.clock.advance(DAY)
    later.due()

    after = later.show()
    assert after["primary"]["ca"] == "beta"
    assert after["backup"]["renewal"]["state"] == "failing"
    assert hashlib.sha256(lab.handshake(later.name)).hexdigest() == after["primary"]["certificate"]["sha256"]
    [promoted] = [one for one in later.program.events(later.name) if one["kind"] == "promoted"]
    assert promoted["cause"].startswith("the certificate of alpha expires on ")
    assert "cannot be renewed" in promoted["cause"]

    alpha.proxy.calm()
    later.done("renew", later.name)
    assert later.show()["primary"]["ca"] == "beta", "nobody turns back by himself"
    assert serials(later.show())["alpha"] != serials(issued)["alpha"]
    assert len([one for one in later.program.events(later.name) if one["kind"] == "promoted"]) == 1


# --- what a scheduled run says of what is left --------------------------------------------------------------


def test_a_scheduled_run_has_not_failed_where_all_that_is_left_waits_for_its_ca(
    later: Later, alpha: Broken
) -> None:
    later.done("issue", later.name)
    alpha.proxy.on(NEW_ORDER, too_many("3600"), times=None)
    later.clock.advance(60 * DAY)
    for tries in ("the other CA's is done", "nothing is done, and nothing has failed"):
        result = later.due()
        assert result.status == 3, (tries, result)
        [left] = result.json["left"]
        assert (left["ca"], left["waiting_for"]) == ("alpha", "budget")
    assert alpha.proxy.count(NEW_ORDER) == 2, "once when it was issued, once when it was due"


def test_a_scheduled_run_has_failed_where_it_did_nothing_and_something_goes_wrong(
    later: Later, alpha: Broken
) -> None:
    later.done("issue", later.name)
    alpha.proxy.on(NEW_ORDER, html(503), times=None)
    later.clock.advance(60 * DAY)
    assert later.due().status == 3, "the other CA's is done"
    result = later.due()
    assert (result.status, [one["waiting_for"] for one in result.json["left"]]) == (1, [None])
    later.clock.advance(HOUR)
    assert later.due().status == 1


def test_a_refill_that_is_due_is_shown_to_wait(later: Later) -> None:
    later.done("issue", later.name)
    later.done("revoke", later.name, "--role", "backup")
    shown = later.show()["backup"]
    assert (shown["state"], shown["renewal"]["state"]) == ("revoked", "waiting")
    assert datetime.fromisoformat(shown["renewal"]["next_try"]) <= later.clock.now()


def test_renewing_by_name_does_not_wait_for_the_next_try(later: Later, alpha: Broken) -> None:
    later.done("issue", later.name)
    alpha.proxy.on(NEW_ORDER, problem(400, "rejectedIdentifier"), times=None)
    later.clock.advance(60 * DAY)
    assert later.due().status == 3
    alpha.proxy.calm()
    assert later.due().json["left"] != [], "it waits for its next try"
    later.done("renew", later.name)
    assert later.show()["primary"]["renewal"]["state"] == "idle"
