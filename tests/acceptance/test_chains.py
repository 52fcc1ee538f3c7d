"""Chains: all that a CA offers are kept, one is served, and another one takes its place without an order."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dualcert.lab import LabServers
from dualcert.lab.https import fetch
from dualcert.lifecycle import chains, deployment, inspection
from dualcert.lifecycle.chains import root_of
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.world import Lazy
from dualcert.model.pair import Role
from dualcert.model.work import WorkKind
from dualcert.ports.deploy import Deployer
from dualcert.store import chains as stored_chains
from dualcert.store import work
from tests.brokenca import CERTIFICATE, ORDER, broken, change, rows, say_in
from tests.faultproxy import Answer, Cut, problem
from tests.labfixture import ProjectLab
from tests.program import Program


@dataclass(frozen=True)
class Scene:
    """Alpha is a CA with three roots; ``roots`` are their common names, the default's first."""

    lab: ProjectLab
    program: Program
    name: str
    roots: tuple[str, ...]

    def served(self) -> str:
        """The root that the chain leads to which the target serves."""
        return root_of((self.lab.live / self.name / "fullchain.pem").read_text())

    def shown(self) -> Any:
        return self.program.done("chain", self.name, "--json").json["primary"]

    def in_use(self) -> str:
        [root] = [one["root"] for one in self.shown()["chains"] if one["in_use"]]
        return str(root)

    def orders(self) -> int:
        return int(rows(self.program, "SELECT count(*) FROM acme_order")[0][0])

    def kinds(self) -> list[str]:
        return [one["kind"] for one in self.program.events(self.name)]


@pytest.fixture(scope="module")
def three_roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LabServers, tuple[str, ...]]]:
    with LabServers.start(tmp_path_factory.mktemp("chains") / "lab") as servers:
        alpha = servers.alpha
        alpha.process._environment["PEBBLE_ALTERNATE_ROOTS"] = "2"
        alpha.restart()
        urls = [f"{alpha.management_url}/roots/{number}" for number in range(3)]
        roots = [fetch(url, alpha.api_ca_pem)[1].decode() for url in urls]
        alpha.roots_pem.write_text("".join(roots))
        yield servers, tuple(root_of(pem) for pem in roots)


@pytest.fixture
def scene(three_roots: tuple[LabServers, tuple[str, ...]], template: Path, tmp_path: Path) -> Iterator[Scene]:
    servers, roots = three_roots
    domain = f"t-{secrets.token_hex(6)}.example.test"
    with ProjectLab.on(servers, tmp_path / "project", domain=domain) as lab:
        program = Program(lab.config_path)
        shutil.copy(template, lab.directory)
        program.done("init")
        yield Scene(lab, program, domain, roots)


def prefer(scene: Scene, root: str) -> None:
    lines = [
        line
        for line in scene.program.config.read_text().splitlines()
        if not line.startswith("preferred_chain")
    ]
    scene.program.config.write_text("\n".join(lines) + "\n")
    say_in(scene.program.config, "ca.alpha", f'preferred_chain = "{root}"')


def test_every_chain_is_kept_and_the_default_is_served(scene: Scene) -> None:
    scene.program.done("issue", scene.name)

    shown = scene.shown()

    assert {one["root"] for one in shown["chains"]} == set(scene.roots)
    assert [one["in_use"] for one in shown["chains"]] == [True, False, False]
    assert (scene.in_use(), scene.served(), shown["preferred"]) == (scene.roots[0], scene.roots[0], None)
    other = scene.program.done("chain", scene.name, "--json").json["backup"]
    assert [one["in_use"] for one in other["chains"]] == [True]
    # One chain is named by its certificate: no row beside it.
    assert rows(scene.program, "SELECT count(DISTINCT certificate_id), count(*) FROM certificate_chain") == [
        (1, 3)
    ]
    text = scene.program.done("chain", scene.name).out
    assert f"* {scene.roots[0]}" in text
    assert f"  {scene.roots[1]}" in text


def test_the_preferred_chain_is_served_from_the_beginning(scene: Scene) -> None:
    prefer(scene, scene.roots[2])

    scene.program.done("issue", scene.name)

    assert (scene.in_use(), scene.served()) == (scene.roots[2], scene.roots[2])


def test_a_chain_that_the_ca_does_not_offer_is_a_wish_only(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    prefer(scene, "No Such Root")

    scene.program.done("issue", scene.name)

    assert scene.served() == scene.roots[0]
    assert "offers no chain to 'No Such Root'" in caplog.text


def test_a_certificate_gets_another_chain_without_an_order(scene: Scene) -> None:
    before = scene.program.done("issue", scene.name, "--json").json
    serial = before["primary"]["certificate"]["serial"]
    orders = scene.orders()

    scene.program.done("chain", scene.name, "--to", scene.roots[1])

    assert (scene.in_use(), scene.served()) == (scene.roots[1], scene.roots[1])
    after = scene.program.show(scene.name)
    assert after["primary"]["certificate"]["serial"] == serial
    assert (after["protection"], scene.orders()) == ("protected", orders)
    assert "chain-replaced" in scene.kinds()
    key, leaf = (scene.lab.live / scene.name / file for file in ("privkey.pem", "cert.pem"))
    assert "PRIVATE KEY" in key.read_text()
    assert x509.load_pem_x509_certificate(leaf.read_bytes()).serial_number == int(serial, 16)
    assert len(scene.lab.handshake(scene.name)) > 0

    scene.program.done("chain", scene.name, "--to", scene.roots[0])
    assert scene.served() == scene.roots[0]


def test_asking_for_the_chain_in_use_does_nothing(scene: Scene) -> None:
    scene.program.done("issue", scene.name)
    before = scene.kinds()

    result = scene.program.done("chain", scene.name, "--to", scene.roots[0])

    assert "already" in result.out
    assert scene.kinds() == before


def test_a_changed_preference_is_carried_out_for_one_pair_and_for_all(scene: Scene) -> None:
    second = f"second.{scene.name}"
    for name in (scene.name, second):
        scene.program.done("issue", name)
    assert "no `preferred_chain` is configured" in scene.program.done("chain", scene.name, "--preferred").out
    prefer(scene, scene.roots[1])

    scene.program.done("chain", scene.name, "--preferred")
    assert scene.served() == scene.roots[1]
    changed = scene.program.done("chain", "--all", "--preferred", "--json").lines

    assert [one["pair"] for one in changed] == [second]
    assert root_of((scene.lab.live / second / "fullchain.pem").read_text()) == scene.roots[1]
    assert scene.program.done("chain", "--all", "--preferred", "--json").lines == []


def test_the_backups_chain_changes_and_nothing_is_deployed(scene: Scene) -> None:
    scene.program.done("issue", scene.name)
    scene.program.done("failover", scene.name)
    served = scene.served()
    deployed = scene.kinds().count("verified")

    result = scene.program.done(
        "chain", scene.name, "--to", scene.roots[1], "--role", "backup", "--json"
    ).json

    assert [one["root"] for one in result["backup"]["chains"] if one["in_use"]] == [scene.roots[1]]
    assert (scene.served(), scene.kinds().count("verified")) == (served, deployed)
    scene.program.done("failover", scene.name, "--to", "alpha")
    assert scene.served() == scene.roots[1]


def test_a_chain_that_is_not_kept_is_fetched_from_the_ca(scene: Scene) -> None:
    """As of a certificate that came when chains were not kept."""
    scene.program.done("issue", scene.name)
    change(scene.program, "DELETE FROM certificate_chain")
    assert [one["root"] for one in scene.shown()["chains"]] == [scene.roots[0]]
    orders = scene.orders()

    scene.program.done("chain", scene.name, "--to", scene.roots[2])

    assert (scene.served(), scene.orders()) == (scene.roots[2], orders)
    assert len(scene.shown()["chains"]) == 3


def test_a_root_that_the_ca_does_not_lead_to_is_refused_with_those_that_there_are(scene: Scene) -> None:
    scene.program.done("issue", scene.name)

    result = scene.program.run("chain", scene.name, "--to", "No Such Root")

    assert result.status == 2
    for word in (scene.name, "CA alpha", "No Such Root", *scene.roots):
        assert word in result.err, word
    assert scene.served() == scene.roots[0]


def test_a_certificate_that_the_ca_has_forgotten_keeps_its_chain(scene: Scene, tmp_path: Path) -> None:
    with broken(scene.lab, scene.program, "alpha", tmp_path) as behind:
        scene.program.done("issue", scene.name)
        change(scene.program, "DELETE FROM certificate_chain")
        behind.proxy.on(ORDER, problem(404, "malformed", "no such order"))

        result = scene.program.run("chain", scene.name, "--to", scene.roots[1])

        assert result.status == 1
        assert "does not hand this certificate out any more" in result.err
        assert f"dualcert renew {scene.name} --force" in result.err
        behind.proxy.on(CERTIFICATE, Cut(None), times=None)
        assert scene.program.run("chain", scene.name, "--to", scene.roots[1]).status == 1
        behind.proxy.calm()
        assert scene.program.run("chain", scene.name, "--to", scene.roots[1]).status == 0
        assert scene.served() == scene.roots[1]


def test_a_chain_to_a_root_that_nobody_trusts_is_refused(scene: Scene) -> None:
    scene.program.done("issue", scene.name)
    trusted = scene.lab.alpha.roots_pem.read_text()
    only = scene.program.config.parent / "only.pem"
    only.write_text(x509_pem(trusted, 0))
    config = scene.program.config
    config.write_text(config.read_text().replace(str(scene.lab.alpha.roots_pem), str(only)))

    result = scene.program.run("chain", scene.name, "--to", scene.roots[1])

    assert result.status == 4
    assert "does not lead to a trusted root" in result.err
    assert (scene.in_use(), scene.served()) == (scene.roots[0], scene.roots[0])


def x509_pem(text: str, number: int) -> str:
    return x509.load_pem_x509_certificates(text.encode())[number].public_bytes(Encoding.PEM).decode()


def test_a_chain_to_the_root_of_the_pairs_other_certificate_is_refused(scene: Scene) -> None:
    """Both certificates would fall together with that root."""
    scene.program.done("issue", scene.name)
    application = scene.program.application()
    try:
        world = application.world
        pair = next(iter(chains.all_pairs(world)))
        with world.store.read() as tx:
            mine = chains._certificate_of(tx, pair, Role.PRIMARY)
            assert mine
            kept = stored_chains.known(tx, mine)
        other = list(kept.values())[1]
        root = next(
            one
            for one in x509.load_pem_x509_certificates(scene.lab.alpha.roots_pem.read_bytes())
            if one.subject == x509.load_pem_x509_certificates(other.encode())[-1].issuer
        )
        change(
            scene.program,
            "UPDATE certificate SET root_key = ? WHERE ca = 'beta'",
            inspection._spki(root),
        )
        result = scene.program.run("chain", scene.name, "--to", root_of(other))
    finally:
        application.close()

    assert result.status == 4
    assert "root" in result.err
    assert scene.served() == scene.roots[0]


def test_a_chain_that_changes_during_a_deployment_is_deployed_after_it(scene: Scene) -> None:
    scene.program.done("issue", scene.name)
    application = scene.program.application()
    try:
        world = application.world
        [pair] = chains.all_pairs(world)
        engine = Engine(world)
        with world.store.write() as tx:
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target=pair.targets[0])
        [[row]] = engine.claim([WorkKind.DEPLOYMENT], 1)
        deployer = world.target(pair.targets[0]).deployer

        class Slow:
            """Between what was read and what is written, the chain is replaced."""

            def __getattr__(self, name: str) -> Any:
                return getattr(deployer(), name)

            def deploy(self, placements: Any) -> Any:
                chains.switch(world, pair, Role.PRIMARY, scene.roots[1])
                return deployer().deploy(placements)

        slow = replace(world.target(pair.targets[0]), deployer=Lazy(lambda: cast("Deployer", Slow())))
        world = replace(world, targets={**world.targets, pair.targets[0]: slow})
        [outcome] = deployment.deploy(world, [row], engine.owner)
        assert scene.served() == scene.roots[0]
        assert "chain" in getattr(outcome, "reason", "")
    finally:
        application.close()
    change(scene.program, "UPDATE work SET owner = NULL")
    scene.program.done("renew", "--due")
    assert scene.served() == scene.roots[1]


@pytest.mark.parametrize(
    "arguments",
    [(), ("NAME", "--all"), ("--all",), ("NAME", "--to", "x", "--preferred"), ("NAME", "--role", "backup")],
)
def test_what_contradicts_itself_is_a_usage_problem(scene: Scene, arguments: tuple[str, ...]) -> None:
    assert scene.program.run("chain", *arguments).status == 2


def test_an_alternate_of_another_certificate_is_not_kept(scene: Scene, tmp_path: Path) -> None:
    with broken(scene.lab, scene.program, "alpha", tmp_path) as behind:
        scene.program.done("issue", f"other.{scene.name}")
        scene.program.done("chain", f"other.{scene.name}", "--to", scene.roots[1])
        strange = (scene.lab.live / f"other.{scene.name}" / "fullchain.pem").read_bytes()
        behind.proxy.on("/alternate/", Answer(200, strange, "application/pem-certificate-chain"), times=None)
        scene.program.done("issue", scene.name)
    assert [one["root"] for one in scene.shown()["chains"]] == [scene.roots[0]]
