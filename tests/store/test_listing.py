"""What ``list`` says of a pair, as a line and in full, whatever it has come to; and which pairs it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import product
from typing import TypeVar

import pytest

from dualcert.clock import rfc3339
from dualcert.lifecycle.listing import Choice, described, listed
from dualcert.lifecycle.views import View, describe
from dualcert.lifecycle.world import World
from dualcert.model.deployment import How
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason
from dualcert.model.work import WorkKind
from dualcert.store import (
    Store,
    Transaction,
    certificates,
    claims,
    deployments,
    overview,
    pairs,
    promotion,
    revocations,
    work,
)
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_pair, give_role
from tests.store.worlds import Setting, a_world

FATES = (
    "none",
    "fit",
    "revoked",
    "blocked",
    "expired",
    "unproved",
    "for other names",
    "covering",
    "unwanted",
)
SEEN = ("no", "yes", "another", "with a problem")


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


T = TypeVar("T")


def all_of(pages: Iterable[list[T]]) -> list[T]:
    return [one for page in pages for one in page]


def hold(tx: Transaction, pair: Pair, ca: str, fate: str) -> bytes | None:
    """Give a lineage a certificate of this fate; its fingerprint."""
    if fate == "none":
        return None
    ended = tx.now - timedelta(seconds=1) if fate == "expired" else None
    names = ["other.example"] if fate in {"for other names", "covering"} else None
    held = a_certificate(tx, pair, ca, not_after=ended, names=names)
    give_role(tx, pair, held, tx.now - timedelta(seconds=1) if fate == "unproved" else None)
    if fate == "revoked":
        revocations.revoked(tx, held.id, "superseded", "a test")
    if fate == "covering":
        certificates.also_covers(tx, held.id, pair.names_digest)
    if fate == "unwanted":
        revocations.want(tx, held.id, pair.id, Reason.SUPERSEDED, tx.now, unverified=False)
    if fate == "blocked":
        certificates.block_key(tx, held.spki, "a test")
    return held.sha256


STATES = {"none": "", "revoked": "revoked", "blocked": "revoked", "expired": "expired"}


def expected(primary: str, backup: str, seen: str, *, ordering: bool) -> tuple[str, str, str]:
    """Protection and both states, by the words of the glossary."""
    if primary == backup == "none":
        protection = "pending"
    elif primary in {"revoked", "blocked", "expired"}:
        protection = "exposed"
    elif primary != "none" and backup in {"fit", "covering"} and seen == "yes":
        protection = "protected"
    else:
        protection = "unprotected"
    missing = "ordering" if ordering else "empty"
    return (
        protection,
        STATES.get(primary, "serving") or "empty",
        STATES.get(backup, "ready") or missing,
    )


def of_view(view: View) -> tuple[str, str, str]:
    return view["protection"], view["primary"]["state"], view["backup"]["state"]


def test_lines_and_views_say_what_is_the_case(store: Store, world: World) -> None:
    said = []
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
        said.append(expected(primary, backup, seen, ordering=number % 3 == 0))

    lines, views = all_of(listed(world)), all_of(described(world))

    assert [(one.protection, one.primary_state, one.backup_state) for one in lines] == said
    assert [of_view(view) for view in views] == said
    assert [one.pair for one in lines] == [view["pair"] for view in views]
    assert {one.protection for one in lines} == {"protected", "unprotected", "exposed", "pending"}
    with store.read() as tx:
        rows = overview.page(tx, "", 1000)
        assert {row.id for row in rows if row.usable} == promotion.usable(tx, [row.id for row in rows])


def test_a_view_has_everything_of_its_pair(store: Store, world: World) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.test", "*.example.test", targets=("web", "mail"))
        serving = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
        pairs.set_renew_at(tx, serving.lineage_id, tx.now + timedelta(days=60))
        deployments.observe(tx, pair.id, "web", serving.sha256, How.WIRE)
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=BACKUP)
        [row] = claims.claim(tx, "me", kinds=tuple(WorkKind), limit=1)
        work.put_back(tx, row, due_at=tx.now + timedelta(hours=1), reason="no answer", failed=True)
        now = tx.now

    view = describe(world, pair)

    assert view == {
        "pair": "example.test",
        "names": ["example.test", "*.example.test"],
        "protection": "unprotected",
        "epoch": 0,
        "primary": {
            "ca": PRIMARY,
            "state": "serving",
            "renew_at": rfc3339(now + timedelta(days=60)),
            "renewal": {"state": "idle", "since": None, "tries": 0, "error": None, "next_try": None},
            "certificate": {
                "serial": serving.serial.hex(),
                "sha256": serving.sha256.hex(),
                "spki_sha256": serving.spki.hex(),
                "not_before": rfc3339(serving.not_before),
                "not_after": rfc3339(serving.not_after),
                "key_type": "ec-p256",
                "issuer": f"CN={PRIMARY}",
            },
        },
        "backup": {
            "ca": BACKUP,
            "state": "failed",
            "renew_at": None,
            "renewal": {
                "state": "failing",
                "since": rfc3339(now),
                "tries": 1,
                "error": "no answer",
                "next_try": rfc3339(now + timedelta(hours=1)),
            },
            "certificate": None,
        },
        "targets": [
            {
                "target": "mail",
                "observed_sha256": None,
                "observed": None,
                "at": None,
                "problem": None,
                "next_try": None,
            },
            {
                "target": "web",
                "observed_sha256": serving.sha256.hex(),
                "observed": "wire",
                "at": rfc3339(now),
                "problem": None,
                "next_try": None,
            },
        ],
    }


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

    lines = all_of(listed(world))
    assert [line.primary for line in lines] == [PRIMARY] * 3 + [BACKUP] + [PRIMARY] * 3
    assert [view["epoch"] for view in all_of(described(world))] == [0, 0, 0, 1, 0, 0, 0]
    assert all_of(listed(world, limit=2, after=lines[2].pair)) == lines[3:5]
    assert [one["pair"] for one in all_of(described(world, limit=2, after=lines[2].pair))] == [
        one.pair for one in lines[3:5]
    ]


# --- which pairs -----------------------------------------------------------------------------------------


def names_of(world: World, choice: Choice, limit: int | None = None, after: str = "") -> list[str]:
    """By lines; the full views are asked too."""
    found = [line.pair for line in all_of(listed(world, limit, after, choice))]
    assert [view["pair"] for view in all_of(described(world, limit, after, choice))] == found
    return found


@pytest.fixture
def several(store: Store) -> None:
    """Pairs of different fates, names and ends."""
    with store.write() as tx:
        for name, fate, days in (
            ("a.example.test", "fit", 89),
            ("b.example.test", "none", 0),
            ("c.example.test", "revoked", 10),
            ("d.example.test", "expired", 0),
            ("e.example.test", "fit", 20),
        ):
            pair = a_pair(tx, name, targets=())
            if fate in {"none", "expired", "revoked"}:
                hold(tx, pair, PRIMARY, fate)
            else:
                give_role(tx, pair, a_certificate(tx, pair, PRIMARY, not_after=tx.now + timedelta(days=days)))
                hold(tx, pair, BACKUP, "fit")


@pytest.mark.usefixtures("several")
def test_pairs_are_chosen_by_their_protection(world: World) -> None:
    assert names_of(world, Choice(frozenset({"protected"}))) == ["a.example.test", "e.example.test"]
    assert names_of(world, Choice(frozenset({"exposed", "pending"}))) == [
        "b.example.test",
        "c.example.test",
        "d.example.test",
    ]


@pytest.mark.usefixtures("several")
def test_a_limit_counts_what_is_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dualcert.lifecycle.listing._PAGE", 2)
    protected = Choice(frozenset({"protected"}))
    assert names_of(world, protected, limit=2) == ["a.example.test", "e.example.test"]
    assert names_of(world, protected, limit=1) == ["a.example.test"]
    assert names_of(world, protected, limit=1, after="a.example.test") == ["e.example.test"]
    under = Choice(frozenset({"exposed"}), under="example.test")
    assert names_of(world, under, limit=1, after="c.example.test") == ["d.example.test"]


@pytest.mark.usefixtures("several")
def test_what_expires_soon_or_has_expired_is_found(world: World) -> None:
    assert names_of(world, Choice(expires_within=timedelta(days=30))) == ["d.example.test", "e.example.test"]
    assert names_of(world, Choice(expires_within=timedelta(days=19))) == ["d.example.test"]
    soon_and_well = Choice(frozenset({"protected"}), expires_within=timedelta(days=30))
    assert names_of(world, soon_and_well) == ["e.example.test"]


def test_a_replaced_certificate_that_ends_is_nobodys_concern(store: Store, world: World) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.test")
        give_role(tx, pair, a_certificate(tx, pair, PRIMARY, not_after=tx.now + timedelta(days=1)))
        give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
    assert names_of(world, Choice(expires_within=timedelta(days=30))) == []


def test_the_backup_may_be_what_expires(store: Store, world: World) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.test")
        hold(tx, pair, PRIMARY, "fit")
        give_role(tx, pair, a_certificate(tx, pair, BACKUP, not_after=tx.now + timedelta(days=1)))
    assert names_of(world, Choice(expires_within=timedelta(days=30))) == ["example.test"]


def test_pairs_are_chosen_by_ca(store: Store, world: World) -> None:
    with store.write() as tx:
        a_pair(tx, "one.example.test")
        a_pair(tx, "two.example.test", cas=(PRIMARY, "gamma"))
    assert names_of(world, Choice(ca=PRIMARY)) == ["one.example.test", "two.example.test"]
    assert names_of(world, Choice(ca="gamma")) == ["two.example.test"]
    assert names_of(world, Choice(ca="nobody")) == []
    assert names_of(world, Choice(ca="gamma", under="one.example.test")) == []


def test_pairs_are_chosen_by_what_their_names_lie_under(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dualcert.lifecycle.listing._PAGE", 2)
    with store.write() as tx:
        a_pair(tx, "example.test", "*.example.test")
        a_pair(tx, "www.example.test", "api.example.test")
        a_pair(tx, "other.test", "deep.under.example.test")
        a_pair(tx, "*.shop.example.test")
        a_pair(tx, "my-example.test")
        a_pair(tx, "example.test.other")
        a_pair(tx, "example-too.test", "x.example0.test", name="named")

    assert names_of(world, Choice(under="example.test")) == [
        "*.shop.example.test",
        "example.test",
        "other.test",
        "www.example.test",
    ]
    assert names_of(world, Choice(under="under.example.test")) == ["other.test"]
    assert names_of(world, Choice(under="example.test"), limit=2) == ["*.shop.example.test", "example.test"]
    assert names_of(world, Choice(under="example.test"), after="example.test") == [
        "other.test",
        "www.example.test",
    ]
    assert len(names_of(world, Choice(under="test"))) == 6
    assert names_of(world, Choice(under="nothing.test")) == []


def test_what_is_said_holds_together(store: Store, world: World) -> None:
    """Each pair has what it is named for: a CA, a certificate that ends soon, a name."""
    said = ("gamma", "soon", "under")
    with store.write() as tx:
        for has in product((False, True), repeat=3):
            words = "-".join(word for word, there in zip(said, has, strict=True) if there) or "none"
            of_gamma, soon, under = has
            pair = a_pair(
                tx,
                f"{words}.{'example' if under else 'other'}.test",
                cas=(PRIMARY, "gamma" if of_gamma else BACKUP),
                name=words,
                targets=(),
            )
            ends = tx.now + timedelta(days=1 if soon else 80)
            give_role(tx, pair, a_certificate(tx, pair, PRIMARY, not_after=ends))

    for wanted in product((False, True), repeat=3):
        of_gamma, soon, under = wanted
        choice = Choice(
            ca="gamma" if of_gamma else None,
            expires_within=timedelta(days=30) if soon else None,
            under="example.test" if under else None,
        )
        all_of_it = {word for word, asked in zip(said, wanted, strict=True) if asked}
        found = [one for one in names_of(world, Choice()) if all_of_it <= set(one.split("-"))]
        assert names_of(world, choice) == found
        assert len(found) == 2 ** (3 - len(all_of_it))
