"""kill -9 anywhere: what a process leaves behind when it dies between two steps, one more run makes whole."""

from __future__ import annotations

import json
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from dualcert.clock import SystemClock, to_microseconds
from dualcert.lab import LabOptions, LabServers
from dualcert.lab.https import fetch
from dualcert.ports.keys import KeyContext
from tests import rawdatabase
from tests.faults import AFTER, BEFORE, Death, Life, Nursery, Point
from tests.labfixture import ProjectLab
from tests.program import Program

CAS = ("alpha", "beta")
AT_ONCE = 20.0
"""Seconds. A lease lasts sixty: whoever waited for a dead process's lease would take longer."""


def spki(key: Any) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize()


@dataclass
class Scene:
    """A project whose commands die, and eyes for what they leave in database, files, DNS and CAs."""

    lab: ProjectLab
    program: Program
    nursery: Nursery
    lives: list[Life] = field(default_factory=list)
    """Of the pair at hand."""
    _names: int = 0

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        return rawdatabase.named_rows(self.program.config, query, *values)

    def new_pair(self) -> str:
        self._names += 1
        self.lives.clear()
        return f"k{self._names}.{self.lab.domain}"

    def forget_everything(self) -> None:
        """Back to an empty database: no account, no pair."""
        rawdatabase.empty(self.program.config)

    def run(self, *argv: str, death: Death | None = None) -> Life:
        """A command that is to be killed somewhere, or one that is not and comes to an end soon."""
        life = self.nursery.run(self.lab.config_path, *argv, death=death)
        self.lives.append(life)
        if death is None:
            assert life.seconds < AT_ONCE, "it waited for what the dead one held"
        else:
            assert life.killed or life.status == 0, life
        return life

    def count(self, what: str, *, done: bool = False) -> int:
        """How often something was begun, or done, by all processes of the pair at hand."""
        side = AFTER if done else BEFORE
        return sum(m.point.what == what and m.side == side for life in self.lives for m in life.marks)

    def done(self, *argv: str) -> Life:
        life = self.run(*argv)
        assert life.status == 0, life
        return life

    # --- what is there -----------------------------------------------------------------------------------

    def served(self, name: str) -> str | None:
        try:
            leaf = self.lab.handshake(name)
        except ssl.SSLError:
            return None
        return x509.load_der_x509_certificate(leaf).fingerprint(hashes.SHA256()).hex()

    def stored(self, name: str) -> set[str]:
        query = "SELECT sha256 FROM certificate c JOIN pair p ON p.id = c.pair_id WHERE p.name = ?"
        return {row["sha256"].hex() for row in self.rows(query, name)}

    def epoch(self, name: str) -> int | None:
        query = "SELECT epoch FROM pair_state s JOIN pair p ON p.id = s.pair_id WHERE p.name = ?"
        return next((row["epoch"] for row in self.rows(query, name)), None)

    def verified(self, name: str, epoch: int) -> bool:
        query = (
            "SELECT 1 FROM deployment d JOIN pair p ON p.id = d.pair_id "
            "WHERE p.name = ? AND d.epoch = ? AND d.verified_at IS NOT NULL"
        )
        return bool(self.rows(query, name, epoch))

    def account_keys(self) -> dict[str, bytes]:
        return {row["ca"]: row["spki"] for row in self.rows("SELECT ca, spki FROM account")}

    def revoked(self, ca: str, serial: str) -> bool:
        """As the CA says. Pebble knows serials without the zeros in front."""
        server = self.lab.alpha if ca == "alpha" else self.lab.beta
        url = f"{server.management_url}/cert-status-by-serial/{serial.lstrip('0')}"
        status, body = fetch(url, server.api_ca_pem)
        assert status == 200, (status, body)
        return bool(json.loads(body)["Status"] == "Revoked")

    # --- what must be so ---------------------------------------------------------------------------------

    def nothing_served_that_is_not_stored(self, name: str) -> None:
        served = self.served(name)
        assert served is None or served in self.stored(name)

    def is_whole(self, name: str) -> Any:
        """The pair is protected, nothing is owed to anybody, nothing is lost and nothing lies about."""
        pair = self.program.show(name)
        assert (pair["protection"], pair["primary"]["state"], pair["backup"]["state"]) == (
            "protected",
            "serving",
            "ready",
        ), pair
        assert self.served(name) == pair["primary"]["certificate"]["sha256"]
        assert self.rows("SELECT * FROM work") == []
        self.is_tidy(name)
        return pair

    def is_tidy(self, name: str) -> None:
        assert self.lab.leftovers() == {}
        for table in ("challenge_record", "lease", "revocation_request"):
            assert self.rows(f"SELECT * FROM {table}") == [], table
        self._keys_are_there()
        self._orders_are_few(name)
        self._folder_holds_one_version(name)
        accounts = self.rows("SELECT ca, url FROM account")
        assert sorted(row["ca"] for row in accounts if row["url"]) == list(CAS)

    def _keys_are_there(self) -> None:
        """Every order has left its public key's hash; every one that was not given up has a key that opens."""
        orders = self.rows("SELECT * FROM acme_order")
        attempts = {row["spki"] for row in orders}
        assert len(attempts) == len(orders), "a key was used twice"
        assert {row["spki"] for row in self.rows("SELECT spki FROM public_key")} == attempts
        keys = {row["spki"]: row for row in self.rows("SELECT * FROM wrapped_key")}
        with closing(self.program.application()) as application:
            for order in orders:
                if order["step"] == "abandoned":
                    assert order["url"] is None, "an order whose URL was known was given up"
                    continue
                key = keys[order["spki"]]
                context = KeyContext(key["domain"], key["spki"].hex())
                pem = application.world.protector(key["domain"]).unwrap(key["wrapped"], context)
                assert spki(load_pem_private_key(pem, None).public_key()) == order["spki"]
        for row in self.rows(
            "SELECT c.spki, l.der FROM certificate c JOIN leaf l ON l.certificate_id = c.id"
        ):
            assert spki(x509.load_der_x509_certificate(row["der"]).public_key()) == row["spki"]
            assert row["spki"] in keys

    def _orders_are_few(self, name: str) -> None:
        """At most one order more per CA, each written down before it left; and nothing was asked for twice."""
        query = "SELECT o.* FROM acme_order o JOIN pair p ON p.id = o.pair_id WHERE p.name = ?"
        orders = self.rows(query, name)
        assert {order["step"] for order in orders} <= {"stored", "abandoned"}
        for ca in CAS:
            mine = [order for order in orders if order["ca"] == ca]
            stored = [order for order in mine if order["step"] == "stored"]
            challenges = [url for order in stored for url in order["authorizations"].split()]
            assert self.count(f"ca {ca}: new_order", done=True) <= len(mine) <= len(stored) + 1
            assert self.count(f"ca {ca}: answer", done=True) <= len(challenges)
            assert self.count(f"ca {ca}: finalize", done=True) <= len(stored)

    def _folder_holds_one_version(self, name: str) -> None:
        served = self.lab.live / name
        versions = self.lab.live / ".versions" / name
        assert [path.name for path in versions.iterdir()] == [served.resolve().name]
        assert not list(self.lab.live.glob(".reload*"))
        leaf = x509.load_pem_x509_certificate((served / "cert.pem").read_bytes())
        key = load_pem_private_key((served / "privkey.pem").read_bytes(), None)
        assert spki(key.public_key()) == spki(leaf.public_key())


@pytest.fixture
def scene(lab: ProjectLab, program: Program, nursery: Nursery) -> Scene:
    return Scene(lab, program, nursery)


@contextmanager
def killed(death: Death) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        error.add_note(f"where the process was killed: {death}")
        raise


# --- one death, and the run after it ---------------------------------------------------------------------


def issue_dies(scene: Scene, death: Death, *, then: str = "issue") -> bool:
    """Whether the process came to the point at all: two CAs take turns as they like."""
    scene.forget_everything()
    name = scene.new_pair()
    command: tuple[str, ...] = ("issue", name, f"*.{name}", "--json")

    died = scene.run(*command, death=death).killed

    scene.nothing_served_that_is_not_stored(name)
    accounts = scene.account_keys()
    assert {ca for ca in CAS if scene.count(f"ca {ca}: register")} <= accounts.keys()
    if then == "renew" and scene.epoch(name) is not None:
        command = ("renew", "--due")
    scene.done(*command)
    pair = scene.is_whole(name)
    assert (pair["epoch"], pair["primary"]["ca"], pair["backup"]["ca"]) == (0, "alpha", "beta")
    assert accounts.items() <= scene.account_keys().items(), "an account was made and forgotten"
    return died


def failover_dies(scene: Scene, death: Death, *, then: str = "failover") -> bool:
    name = scene.new_pair()
    command = ("failover", name, "--revoke", "--json")
    before = scene.done("issue", name, "--json").json
    old, new = (before[role]["certificate"] for role in ("primary", "backup"))

    died = scene.run(*command, death=death).killed

    assert scene.served(name) in {old["sha256"], new["sha256"]}
    if scene.revoked("alpha", old["serial"]):
        assert scene.verified(name, 1), "revoked before the new certificate was seen"
    finished = scene.verified(name, 1) and not scene.rows("SELECT * FROM revocation_request")
    renewing = then == "renew" and scene.epoch(name) == 1
    after = scene.run(*(("renew", "--due") if renewing else command))
    assert after.status == (4 if finished and not renewing else 0), after
    moved = scene.program.show(name)
    assert (moved["epoch"], moved["primary"]["ca"], moved["backup"]["ca"]) == (1, "beta", "alpha")
    assert scene.served(name) == moved["primary"]["certificate"]["sha256"] == new["sha256"]
    assert scene.revoked("alpha", old["serial"])
    assert not scene.revoked("beta", new["serial"])
    revoked_after_verified(scene)
    scene.is_tidy(name)

    scene.done("renew", "--due")
    pair = scene.is_whole(name)
    assert (pair["epoch"], pair["primary"]["certificate"]["sha256"]) == (1, new["sha256"])
    return died


def revoked_after_verified(scene: Scene) -> None:
    kinds = [one["kind"] for one in scene.program.events(scene.lives[0].argv[1])]
    assert kinds.count("promoted") == 1
    assert "verified" in kinds[kinds.index("promoted") : kinds.index("revoked")]


def refill_dies(scene: Scene, death: Death) -> bool:
    name = scene.new_pair()
    scene.done("issue", name)
    scene.done("failover", name, "--revoke")

    died = scene.run("renew", "--due", death=death).killed

    scene.nothing_served_that_is_not_stored(name)
    scene.done("renew", "--due")
    pair = scene.is_whole(name)
    assert (pair["epoch"], pair["primary"]["ca"], pair["backup"]["ca"]) == (1, "beta", "alpha")
    return died


# --- a spread: every step of an order, a promotion and a refill ------------------------------------------


def both(what: str, number: int = 1) -> list[Death]:
    return [Death(Point(what, number), side) for side in (BEFORE, AFTER)]


def after(what: str, number: int = 1) -> Death:
    return Death(Point(what, number), AFTER)


OF_ISSUE = [
    *both("commit main: inventory.ensure"),
    *both("ca beta: register"),
    *both("ca alpha: new_order"),
    *both("ca beta: authorization", 2),
    *both("dns lab: add"),
    *both("ca beta: answer"),
    *both("ca alpha: finalize"),
    *both("ca beta: certificate"),
    *both("dns lab: remove"),
    *both("files: rename"),
    *both("target web: read_back"),
]

OF_FAILOVER = [
    *both("commit main: promotion._turned"),
    *both("files: rename"),
    *both("target web: purge"),
    *both("ca alpha: revoke"),
]

OF_REFILL = [
    after("ca alpha: new_order"),
    after("dns lab: add"),
    after("ca alpha: finalize"),
]


@pytest.mark.parametrize("death", OF_ISSUE, ids=str)
def test_whatever_step_of_an_issuance_a_process_dies_at_the_next_run_makes_the_pair_whole(
    scene: Scene, death: Death
) -> None:
    assert issue_dies(scene, death)


@pytest.mark.parametrize("death", OF_FAILOVER, ids=str)
def test_a_failover_that_died_is_finished_by_the_next_and_never_reversed(scene: Scene, death: Death) -> None:
    assert failover_dies(scene, death)


@pytest.mark.parametrize("death", OF_REFILL, ids=str)
def test_a_refill_that_died_is_taken_up_by_the_next_scheduled_run(scene: Scene, death: Death) -> None:
    assert refill_dies(scene, death)


def test_a_challenge_that_the_ca_is_still_looking_at_is_not_answered_again(
    nursery: Nursery, tmp_path: Path
) -> None:
    with (
        LabServers.start(tmp_path / "lab", LabOptions(va_sleep=True)) as servers,
        ProjectLab.on(servers, tmp_path / "project") as lab,
    ):
        program = Program(lab.config_path)
        program.done("init")

        assert issue_dies(Scene(lab, program, nursery), after("ca beta: answer"))


# --- everything ------------------------------------------------------------------------------------------

FEW = 0.1
"""Of the points of a clean run: two CAs take turns as they like, so a few are not come to another time."""


def each(deaths: Sequence[Death], dies: Callable[[Death], bool]) -> list[str]:
    """Every death in turn; those that did not come about, because the process never came to the point."""
    missed = []
    for death in deaths:
        with killed(death):
            if not dies(death):
                missed.append(str(death))
    return missed


@pytest.mark.long
@pytest.mark.parametrize("side", [BEFORE, AFTER])
@pytest.mark.parametrize("then", ["issue", "renew"])
def test_every_point_of_an_issuance(scene: Scene, side: str, then: str) -> None:
    name = scene.new_pair()
    clean = scene.done("issue", name, f"*.{name}")

    deaths = clean.deaths(side)
    assert len(deaths) > 50
    missed = each(deaths, lambda death: issue_dies(scene, death, then=then))
    assert len(missed) < FEW * len(deaths), missed


@pytest.mark.long
@pytest.mark.parametrize("side", [BEFORE, AFTER])
@pytest.mark.parametrize("then", ["failover", "renew"])
def test_every_point_of_a_failover(scene: Scene, side: str, then: str) -> None:
    name = scene.new_pair()
    scene.done("issue", name)
    clean = scene.done("failover", name, "--revoke")
    scene.done("renew", "--due")

    deaths = clean.deaths(side)
    assert len(deaths) > 20
    missed = each(deaths, lambda death: failover_dies(scene, death, then=then))
    assert len(missed) < FEW * len(deaths), missed


@pytest.mark.long
@pytest.mark.parametrize("side", [BEFORE, AFTER])
def test_every_point_of_a_refill(scene: Scene, side: str) -> None:
    scene.done("issue", scene.new_pair())
    for _ in range(2):  # what is done once a week, the keys of backups opened: done, and the next week begun
        scene.done("renew", "--due")
    # An order is looked at as often as its CA takes time, and one of a hundred finds its names validated already.
    passed = Counter(death for _ in range(3) for death in refilled(scene).deaths(side))
    deaths = [death for death, runs in passed.items() if runs > 1]

    assert len(deaths) > 20
    missed = each(deaths, lambda death: refill_dies(scene, death))
    assert len(missed) < FEW * len(deaths), missed


def refilled(scene: Scene) -> Life:
    name = scene.new_pair()
    scene.done("issue", name)
    scene.done("failover", name, "--revoke")
    return scene.done("renew", "--due")


# --- leases of the dead ----------------------------------------------------------------------------------


def test_what_a_dead_process_held_is_free_at_once(scene: Scene) -> None:
    name = scene.new_pair()
    assert scene.run("issue", name, death=after("ca alpha: new_order")).killed
    in_half_a_minute = to_microseconds(SystemClock().now() + timedelta(seconds=30))
    living = "SELECT owner FROM lease WHERE until > ?"
    held = scene.rows(f"SELECT * FROM work WHERE owner IN ({living})", in_half_a_minute)
    assert held

    scene.done("issue", name)

    scene.is_whole(name)


def test_what_a_process_of_another_machine_held_is_not_taken_from_it(scene: Scene) -> None:
    name = scene.new_pair()
    assert scene.run("issue", name, death=after("ca alpha: new_order")).killed
    [owner] = {row["owner"] for row in scene.rows("SELECT owner FROM work WHERE owner IS NOT NULL")}
    elsewhere = "elsewhere|" + owner.partition("|")[2]
    for change in (
        "UPDATE work SET owner = ? WHERE owner = ?",
        "UPDATE lease SET owner = ? WHERE owner = ?",
        "UPDATE lease SET name = 'engine:' || ? WHERE name = 'engine:' || ?",
    ):
        rawdatabase.change(scene.program.config, change, elsewhere, owner)
    before = scene.rows("SELECT id, step FROM acme_order")

    result = scene.program.run("issue", name, "--timeout", "1")

    assert result.status == 1
    assert scene.rows("SELECT id, step FROM acme_order") == before


def test_a_killed_process_that_nobody_has_waited_for_yet_is_dead_too(scene: Scene) -> None:
    name = scene.new_pair()
    clock = SystemClock()
    process = scene.program.start("issue", name)
    try:
        deadline = clock.monotonic() + AT_ONCE
        while not scene.rows("SELECT 1 FROM work WHERE owner IS NOT NULL"):
            assert clock.monotonic() < deadline
            clock.sleep(0.001)
        process.kill()

        scene.done("issue", name)

        scene.is_whole(name)
    finally:
        process.kill()
        process.communicate()
