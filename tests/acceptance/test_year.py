"""A season and a year of renewals, with CAs that fail for days; how time passes is told in ``tests/years.py``.

Chance decides when and how a CA fails, and all that dualcert draws. ``DUALCERT_TEST_SEED`` plays another year.
"""

from __future__ import annotations

import logging
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from dualcert.clock import from_microseconds
from dualcert.lab import LabOptions, LabServers
from tests.years import (
    DAY,
    HOUR,
    LIVES,
    LONGEST_PAUSE,
    MINUTE,
    PROFILES,
    SIDES,
    Months,
    Outage,
    months,
    outages,
)

SEED = int(os.environ.get("DUALCERT_TEST_SEED", "20260101"))
AT_ONCE = MINUTE
"""What is due at the same instant is done within this, while requests are failing, too."""


# --- what has happened, as the database tells it ------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """``life`` is a profile's name."""

    id: int
    ca: str
    begin: datetime
    end: datetime
    stored: datetime

    @property
    def side(self) -> str:
        return self.ca.partition("-")[0]

    @property
    def profile(self) -> str:
        return self.ca.partition("-")[2]

    @property
    def life(self) -> timedelta:
        return LIVES[self.profile]

    @property
    def last_tenth(self) -> timedelta:
        return min(self.life / 10, 3 * DAY)

    @property
    def latest_renewal(self) -> datetime:
        """Two thirds, or half of a short life; of what arrived late, the first tenth has to pass before."""
        share = self.life / 2 if self.life < 10 * DAY else self.life * 2 / 3
        born = max(self.begin, self.stored)
        return max(self.begin + share, born + (self.end - born) / 10)

    @property
    def earliest_renewal(self) -> datetime:
        """Jitter takes off a fiftieth or a day, and a CA suggests two thirds of the life or a day before, but nothing
        in the first tenth."""
        share = self.life / 2 if self.life < 10 * DAY else self.life * 2 / 3
        jittered = self.begin + share - min(self.life / 50, DAY)
        suggested = max(self.begin + self.life * 2 / 3 - DAY, self.begin + self.life / 10)
        return min(jittered, suggested)


Lineage = tuple[int, str]


def all_certificates(scene: Months) -> dict[int, tuple[Lineage, Certificate, bool]]:
    """By number: of which pair and CA, and whether it was fit to be used."""
    found = scene.rows("SELECT id, pair_id, ca, not_before, not_after, stored_at, flaw FROM certificate")
    return {
        number: ((pair, ca), Certificate(number, ca, *map(from_microseconds, (begin, end, at))), flaw is None)
        for number, pair, ca, begin, end, at, flaw in found
    }


@dataclass(frozen=True)
class Opening:
    """``joins``: its sibling was due, and took it along."""

    at: datetime
    joins: bool


def lineages(scene: Months) -> Iterator[tuple[list[Opening], list[Certificate]]]:
    """Of each: its orders as they were opened, and the certificates that came of them."""
    opened: dict[Lineage, list[Opening]] = defaultdict(list)
    due = "SELECT pair_id, ca, at, cause FROM event WHERE kind = 'order-due' ORDER BY id"
    for pair, ca, at, cause in scene.rows(due):
        joins = cause.startswith("it joins its sibling")
        opened[pair, ca].append(Opening(from_microseconds(at), joins))
    came: dict[Lineage, list[Certificate]] = defaultdict(list)
    for _, (lineage, one, fit) in sorted(all_certificates(scene).items()):
        if fit:
            came[lineage].append(one)
    assert opened.keys() == came.keys()
    return ((opened[lineage], came[lineage]) for lineage in opened)


# --- what must have been so --------------------------------------------------------------------------------


def every_key_was_used_once(scene: Months) -> None:
    [(orders, keys)] = scene.rows("SELECT count(*), count(DISTINCT spki) FROM acme_order")
    assert orders == keys
    sent = [key for ca in scene.cas for key in ca.keys]
    assert len(sent) == len(set(sent))
    assert len(sent) >= len(all_certificates(scene))


def every_order_was_placed_once(scene: Months) -> None:
    placed = {url for ca in scene.cas for url in ca.placed}
    known = [url for (url,) in scene.rows("SELECT url FROM acme_order WHERE url IS NOT NULL")]
    assert len(known) == len(set(known))
    assert set(known) == placed


def every_renewal_came_once_and_in_time(scene: Months, found: list[Outage]) -> None:
    for opened, came in lineages(scene):
        assert len(came) <= len(opened) <= len(came) + 1, (opened, came)
        for order, before in zip(opened[1:], came, strict=False):
            # A sibling takes along what is due soon.
            earliest = before.earliest_renewal - (before.last_tenth if order.joins else timedelta(0))
            assert earliest <= order.at <= before.latest_renewal + AT_ONCE, (order, before)
        for order, one in zip(opened, came, strict=False):
            last = latest_arrival(order.at, [each for each in found if each.side == one.side])
            assert one.stored <= last + AT_ONCE, (order, one)


def latest_arrival(opened: datetime, of_its_ca: list[Outage]) -> datetime:
    """At once, but for outages: after one it is tried again within the longest pause. What it then finds may be an
    order that is gone, or a certificate that is too old, and another pause or a day follows, into the next outage."""
    last = opened
    for one in of_its_ca:
        if one.begin <= last + AT_ONCE and opened < one.end + 2 * LONGEST_PAUSE:
            last = max(last, one.end + 2 * LONGEST_PAUSE)
    return last


def every_primary_that_was_left_could_not_be_renewed(scene: Months, found: list[Outage]) -> set[str]:
    """The profiles of those that were left."""
    known = all_certificates(scene)
    left = set()
    for at, number, cause in scene.rows("SELECT at, previous_id, cause FROM event WHERE kind = 'promoted'"):
        when, (_, one, _) = from_microseconds(at), known[number]
        assert cause.startswith(f"the certificate of {one.ca} expires on "), cause
        assert one.end - one.last_tenth <= when <= one.end - one.last_tenth / 2 + AT_ONCE, (when, one)
        assert any(
            each.side == one.side and each.begin <= when <= each.end + LONGEST_PAUSE for each in found
        ), (when, one)
        left.add(one.profile)
    return left


def everything_is_whole(scene: Months) -> None:
    now = scene.clock.now()
    held = scene.rows(
        "SELECT serving.not_after, standby.not_after FROM pair_state "
        "JOIN certificate AS serving ON serving.id = serving JOIN certificate AS standby ON standby.id = standby"
    )
    assert len(held) == len(scene.served)
    assert all(from_microseconds(end) > now for pair in held for end in pair)
    assert scene.rows("SELECT * FROM work") == []
    scene.look()
    for name, one in scene.served.items():
        assert x509.load_der_x509_certificate(scene.lab.handshake(name)).serial_number == one.serial


# --- the seasons -------------------------------------------------------------------------------------------


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Months]:
    caplog.set_level(logging.CRITICAL, logger="dualcert")  # thousands of failures are told otherwise
    options = LabOptions(alpha_profiles=PROFILES, beta_profiles=PROFILES, authz_reuse=50)
    chance = random.Random(f"{SEED}: draws")
    with (
        LabServers.start(tmp_path / "servers", options) as servers,
        months(servers, tmp_path, monkeypatch, chance) as scene,
    ):
        yield scene


def plan_hours(scene: Months, one: Outage, primaries: tuple[str, ...]) -> None:
    """Pairs of an hour's certificates are made while all is well, and removed while a CA fails."""
    for side in primaries:
        name = f"hour-{side}-{one.begin:%m%d}.example.test"
        scene.plan_pair(one.begin - 3 * HOUR, name, "hour", side)
        scene.plan(one.begin + 9 * HOUR, lambda name=name: scene.end_pair(name))  # type: ignore[misc]


def play(scene: Months, found: list[Outage], end: datetime) -> set[str]:
    # Shown where the test fails.
    print(f"DUALCERT_TEST_SEED={SEED}, begun {scene.begin}", *found, sep="\n")  # noqa: T201
    scene.plan_outages(found)
    scene.pass_until(end)
    every_key_was_used_once(scene)
    every_order_was_placed_once(scene)
    every_renewal_came_once_and_in_time(scene, found)
    everything_is_whole(scene)
    return every_primary_that_was_left_could_not_be_renewed(scene, found)


@pytest.mark.timeout(300)  # two months and a half, on a busy machine
def test_through_a_season_of_failing_cas_everything_is_renewed_in_time_and_always_served(
    scene: Months,
) -> None:
    chance, end = random.Random(f"{SEED}: season"), scene.begin + 75 * DAY
    for number, profile in enumerate(("week", "week", "month", "month", "month")):
        scene.plan_pair(
            scene.begin + chance.uniform(0, 2) * DAY, f"p{number}.example.test", profile, SIDES[number % 2]
        )
    found = outages(chance, scene.begin + 2 * DAY, end, lengths=(6.5, 3.5))
    plan_hours(scene, found[0], (found[0].side,))
    left = play(scene, found, end)
    assert left >= {"week", "hour"}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_through_a_year_of_failing_cas_fifty_pairs_are_renewed_in_time_and_always_served(
    scene: Months,
) -> None:
    chance, end = random.Random(f"{SEED}: year"), scene.begin + 365 * DAY
    for number in range(44):
        profile = "week" if number < 4 else "month"
        scene.plan_pair(
            scene.begin + chance.uniform(0, 29) * DAY, f"p{number}.example.test", profile, SIDES[number % 2]
        )
    found = outages(chance, scene.begin + 29 * DAY, end, lengths=(6.5, 3.5, 17, 17))
    for one in chance.sample(found, 3):
        plan_hours(scene, one, SIDES)
    left = play(scene, found, end)
    assert left == LIVES.keys()
