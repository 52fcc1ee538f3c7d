"""A line of ``list`` says of a pair what its full view says, whatever the pair has come to."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from dualcert.lifecycle.listing import Listed, listed
from dualcert.lifecycle.views import describe_all
from dualcert.lifecycle.world import World
from dualcert.model.deployment import How
from dualcert.model.pair import Pair
from dualcert.model.work import WorkKind
from dualcert.store import Store, Transaction, certificates, deployments, pairs, promotion, revocations, work
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_pair, give_role
from tests.store.worlds import Setting, a_world

FATES = ("none", "fit", "revoked", "blocked", "expired", "unproved", "for other names")
SEEN = ("no", "yes", "another", "with a problem")


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


def hold(tx: Transaction, pair: Pair, ca: str, fate: str) -> bytes | None:
    """Give a lineage a certificate of this fate; its fingerprint."""
    if fate == "none":
        return None
    ended = tx.now - timedelta(seconds=1) if fate == "expired" else None
    names = ["other.example"] if fate == "for other names" else None
    held = a_certificate(tx, pair, ca, not_after=ended, names=names)
    give_role(tx, pair, held, tx.now - timedelta(seconds=1) if fate == "unproved" else None)
    if fate == "revoked":
        revocations.revoked(tx, held.id, "superseded", "a test")
    if fate == "blocked":
        certificates.block_key(tx, held.spki, "a test")
    return held.sha256


def of_view(view: dict[str, Any]) -> Listed:
    primary, backup = view["primary"], view["backup"]
    expires = primary["certificate"]["not_after"] if primary["certificate"] else None
    return Listed(
        view["pair"],
        view["protection"],
        primary["ca"],
        primary["state"],
        backup["ca"],
        backup["state"],
        expires,
    )


def test_lines_and_views_say_the_same(store: Store, world: World) -> None:
    for number, (primary, backup, seen) in enumerate(product(FATES, FATES, SEEN)):
        with store.write() as tx:
            pair = a_pair(tx, f"host-{number:03}.example.test")
            sha256 = hold(tx, pair, PRIMARY, primary)
            hold(tx, pair, BACKUP, backup)
            if seen != "no":
                shown = sha256 if seen != "another" else bytes(32)
                problem = "no answer" if seen == "with a problem" else None
                deployments.observe(tx, pair.id, "web", shown, How.WIRE, problem)
            if number % 3 == 0:
                work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=BACKUP)

    lines = list(listed(world))

    assert lines == [of_view(view) for view in describe_all(world)]
    assert {line.protection for line in lines} == {"protected", "unprotected", "exposed", "pending"}


def test_a_promotion_and_pages_change_nothing_about_it(store: Store, world: World) -> None:
    for number in range(7):
        with store.write() as tx:
            pair = a_pair(tx, f"host-{number}.example.test", targets=())
            hold(tx, pair, PRIMARY, "fit")
            hold(tx, pair, BACKUP, "fit")
    with store.write() as tx:
        moved = pairs.by_name(tx, "host-3.example.test")
        assert moved is not None
        assert promotion.swap(tx, pairs.state(tx, moved.id))

    lines = list(listed(world))
    assert lines == [of_view(view) for view in describe_all(world)]
    assert [line.primary for line in lines] == [PRIMARY] * 3 + [BACKUP] + [PRIMARY] * 3
    assert [line.pair for line in listed(world, limit=2, after=lines[2].pair)] == [
        one.pair for one in lines[3:5]
    ]
