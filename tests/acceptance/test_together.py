"""Several at work on one pair, in threads and in processes, stopped and overtaken: everything happens once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dualcert import bootstrap, cli
from dualcert.bootstrap import Application
from dualcert.config import Settings
from dualcert.errors import DeployError, DualcertError
from dualcert.lifecycle import engine
from dualcert.lifecycle.world import Lazy
from dualcert.model.work import PERSON, WorkKind
from dualcert.store import claims, work
from tests import rawdatabase
from tests.brokenca import (
    AUTHORIZATION,
    CERTIFICATE,
    FINALIZE,
    NEW_ORDER,
    Broken,
    broken,
    change,
    clock,
    rows,
    with_world,
)
from tests.crowd import Call, crowd
from tests.faultproxy import Hang
from tests.labfixture import ProjectLab
from tests.program import Program

_PATIENCE = 30.0
REVOKE = "/revoke-cert"


@pytest.fixture
def name(lab: ProjectLab) -> str:
    return lab.domain


def served(lab: ProjectLab, name: str) -> str:
    return hashlib.sha256(lab.handshake(name)).hexdigest()


def happened(program: Program, name: str) -> Counter[tuple[str, str | None]]:
    return Counter((one["kind"], one["ca"]) for one in program.events(name))


def wait_for(what: Callable[[], object]) -> None:
    end = clock.monotonic() + _PATIENCE
    while not what():
        assert clock.monotonic() < end
        clock.sleep(0.02)


def expire_leases(program: Program) -> None:
    """As the passing of a minute would, in which nobody renewed them."""
    assert change(program, "UPDATE lease SET until = 1") > 0


@contextmanager
def overdue(program: Program) -> Iterator[None]:
    """Whoever holds leases now does not renew them, as far as anybody can see: who lives would with his next claim."""
    owners = sorted({owner for (owner,) in rows(program, "SELECT owner FROM lease")})
    assert owners
    over = threading.Event()

    def expire() -> None:
        while not over.is_set():
            for owner in owners:
                change(program, "UPDATE lease SET until = 1 WHERE owner = ? AND until > 1", owner)
            over.wait(0.02)

    thread = threading.Thread(target=expire)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- one failover ----------------------------------------------------------------------------------------


class Shared(Application):
    """An application of several commands: the first that ends does not close it."""

    def close(self) -> None:
        pass


def in_threads(program: Program, count: int, *arguments: str, shared: bool) -> tuple[list[int], str]:
    """Run a command in many threads at once; the exit statuses, and what was said on stderr."""
    one = bootstrap.build(bootstrap.load_settings(program.config))
    build: Callable[[Settings], Application] = bootstrap.build
    if shared:
        build = lambda _: Shared(one.settings, one.world)  # noqa: E731
    statuses: list[int] = []
    together = threading.Barrier(count)

    def act() -> None:
        together.wait(_PATIENCE)
        statuses.append(cli.main(["--config", str(program.config), *arguments], build=build))

    threads = [threading.Thread(target=act) for _ in range(count)]
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    one.close()
    assert len(statuses) == count
    return statuses, said.getvalue()


def demand_one_failover(
    lab: ProjectLab, program: Program, before: Any, statuses: list[int], said: str, *, revoked: bool = False
) -> None:
    name = before["pair"]
    assert 0 in statuses
    assert set(statuses) <= {0, 4}, (statuses, said)
    assert "Traceback" not in said
    assert "internal error" not in said
    view = program.show(name)
    assert (view["epoch"], view["primary"]["ca"], view["backup"]["ca"]) == (1, "beta", "alpha")
    assert served(lab, name) == before["backup"]["certificate"]["sha256"]
    counts = happened(program, name)
    assert counts["promoted", "beta"] == 1
    assert counts["promoted", "alpha"] == 0
    assert counts["revoked", "alpha"] == revoked
    assert counts["revoked", "beta"] == 0
    assert rows(program, "SELECT kind FROM work WHERE kind != 'refill'") == []
    assert rows(program, "SELECT * FROM lease") == []


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("revoke", [(), ("--revoke",)])
def test_twenty_threads_fail_a_pair_over_once(
    lab: ProjectLab, program: Program, name: str, shared: bool, revoke: tuple[str, ...]
) -> None:
    before = program.done("issue", name, "--json").json

    statuses, said = in_threads(program, 20, "failover", name, *revoke, shared=shared)

    demand_one_failover(lab, program, before, statuses, said, revoked=bool(revoke))


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(8, 1.0), *(pytest.param(20, spread, marks=pytest.mark.long) for spread in (0.0, 5.0))],
)
def test_many_processes_fail_a_pair_over_once(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path, count: int, seconds: float
) -> None:
    before = program.done("issue", name, "--json").json
    calls = [Call(("failover", name, "--revoke"), seconds * number / count) for number in range(count)]

    ended = crowd(program, calls, tmp_path)

    said = "".join(one.err for one in ended)
    demand_one_failover(lab, program, before, [one.status for one in ended], said, revoked=True)
    for one in ended:
        if one.status == 4:
            assert f"dualcert failover {name} --to alpha" in one.err


def test_a_failover_there_and_one_back_at_once_end_where_somebody_wanted(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path
) -> None:
    program.done("issue", name)
    calls = [
        Call(("failover", name, "--to", ca), 0.02 * number) for number in range(4) for ca in ("beta", "alpha")
    ]

    ended = crowd(program, calls, tmp_path)

    assert {one.status for one in ended} <= {0, 3}, ended
    view = program.show(name)
    assert view["protection"] == "protected"
    assert served(lab, name) == view["primary"]["certificate"]["sha256"]
    assert view["epoch"] == sum(happened(program, name)["promoted", ca] for ca in ("alpha", "beta"))
    assert view["primary"]["ca"] == ("beta" if view["epoch"] % 2 else "alpha")


# --- one issuance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4])
def test_two_processes_that_issue_one_pair_place_one_order_per_ca(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path, delay: float
) -> None:
    calls = [
        Call(("issue", name, f"*.{name}", "--json")),
        Call(("issue", name, f"*.{name}", "--json"), delay),
    ]

    one, other = crowd(program, calls, tmp_path)

    assert (one.status, other.status) == (0, 0), (one, other)
    for role in ("primary", "backup"):
        assert one.json[role]["certificate"] == other.json[role]["certificate"]
    assert rows(program, "SELECT ca, step FROM acme_order ORDER BY ca") == [
        ("alpha", "stored"),
        ("beta", "stored"),
    ]
    counts = happened(program, name)
    for ca in ("alpha", "beta"):
        assert (
            counts["placed", ca]
            == counts["account-registered", ca] + (1 - counts["account-registered", ca])
            == 1
        )
        assert counts["stored", ca] == 1
    assert counts["created", None] == 1
    assert lab.leftovers() == {}


def test_two_pairs_are_issued_at_once_by_two_processes(
    lab: ProjectLab, program: Program, name: str, tmp_path: Path
) -> None:
    names = [f"{label}.{name}" for label in ("one", "two")]

    ended = crowd(program, [Call(("issue", each, "--json")) for each in names], tmp_path)

    assert [one.status for one in ended] == [0, 0], ended
    for each in names:
        view = program.show(each)
        assert view["protection"] == "protected"
        assert served(lab, each) == view["primary"]["certificate"]["sha256"]
    assert rows(program, "SELECT count(*) FROM acme_order") == [(4,)]
    assert rows(program, "SELECT count(*) FROM account") == [(2,)]
    assert lab.leftovers() == {}


# --- stopped, overtaken, and on again --------------------------------------------------------------------


@dataclass
class Gate:
    """Where a call of a certain name waits before it does what it does."""

    method: str
    fault: DualcertError | None = None
    """What the call that waited raises then; unsaid, it does what it does."""
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def pass_through(self) -> None:
        """The first one waits, all others do not."""
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(_PATIENCE)
            if self.fault is not None:
                raise self.fault


class Gated:
    """A real part, of which one method waits at a gate."""

    def __init__(self, real: Any, gate: Gate) -> None:
        self._real, self._gate = real, gate

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self._gate.method:
            return real

        def waiting(*arguments: Any, **keywords: Any) -> Any:
            self._gate.pass_through()
            return real(*arguments, **keywords)

        return waiting


def before_target(gate: Gate) -> Callable[[Settings], Application]:
    def change(world: Any) -> Any:
        binding = world.targets["web"]
        real = binding.deployer
        gated: Lazy[Any] = Lazy(lambda: Gated(real(), gate))
        return replace(world, targets={**world.targets, "web": replace(binding, deployer=gated)})

    return with_world(change)


def before_dns(gate: Gate) -> Callable[[Settings], Application]:
    def change(world: Any) -> Any:
        binding = world.dns["lab"]
        real = binding.provider
        gated: Lazy[Any] = Lazy(lambda: Gated(real(), gate))
        return replace(world, dns={"lab": replace(binding, provider=gated)})

    return with_world(change)


@dataclass
class Aside:
    statuses: list[int] = field(default_factory=list)

    @property
    def status(self) -> int:
        return self.statuses[0]


@contextmanager
def held_up(
    program: Program, gate: Gate, build: Callable[[Settings], Application], *arguments: str
) -> Iterator[Aside]:
    """A command that stands at its gate inside the block; after it the gate has opened and the command has ended."""
    aside = Aside()
    thread = threading.Thread(
        target=lambda: aside.statuses.append(
            cli.main(["--config", str(program.config), *arguments], build=build)
        )
    )
    thread.start()
    try:
        assert gate.reached.wait(_PATIENCE)
        yield aside
    finally:
        gate.opened.set()
        thread.join(_PATIENCE)
    assert aside.statuses, "it has ended"


def make_deployment_due(program: Program) -> None:
    application = program.application()
    with application.world.store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, 1, tx.now, target="web")
    application.close()


def demand_epoch_1(lab: ProjectLab, program: Program, before: Any) -> None:
    name = before["pair"]
    view = program.show(name)
    assert (view["epoch"], view["primary"]["ca"]) == (1, "beta")
    assert served(lab, name) == before["backup"]["certificate"]["sha256"]
    assert view["targets"][0]["observed_sha256"] == before["backup"]["certificate"]["sha256"]
    assert view["targets"][0]["problem"] is None
    # The replaced key has left, and nothing has brought it back.
    versions = list((lab.live / ".versions" / name).iterdir())
    assert [version.name.split("-")[0] for version in versions] == ["1"]
    assert rows(program, "SELECT kind FROM work WHERE kind != 'refill'") == []
    assert rows(program, "SELECT * FROM lease") == []
    assert happened(program, name)["promoted", "beta"] == 1


@pytest.mark.parametrize("method", ["deploy", "read_back"])
def test_a_slow_deployment_that_was_overtaken_by_a_failover_changes_nothing(
    lab: ProjectLab, program: Program, name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The failover gives a holder who lives no time to prolong a lease that has just ended.
    monkeypatch.setattr(engine, "_OTHERS_NOTICE", 0.0)
    before = program.done("issue", name, "--json").json
    make_deployment_due(program)
    gate = Gate(method)

    with held_up(program, gate, before_target(gate), "renew", "--due") as slow:
        with overdue(program):
            assert program.run("failover", name).status == 0
        assert served(lab, name) == before["backup"]["certificate"]["sha256"]

    assert slow.status == 0
    demand_epoch_1(lab, program, before)
    assert happened(program, name)["failed", None] == 0


@pytest.mark.parametrize("method", ["deploy", "read_back"])
def test_a_slow_deployment_that_holds_its_lease_ends_with_what_serves_by_then(
    lab: ProjectLab, program: Program, name: str, method: str
) -> None:
    before = program.done("issue", name, "--json").json
    make_deployment_due(program)
    gate = Gate(method)

    with held_up(program, gate, before_target(gate), "renew", "--due") as slow:
        late = program.run("failover", name, "--timeout", "1s")
        assert late.status == 3, late
        assert "target web" in late.err
        assert program.show(name)["epoch"] == 1, "a promotion waits for nobody"

    assert slow.status in {0, 3}
    program.run("renew", "--due", "--timeout", "1m")
    demand_whole_again(lab, program, before)


def demand_whole_again(lab: ProjectLab, program: Program, before: Any) -> None:
    view = program.show(before["pair"])
    assert (view["epoch"], view["primary"]["ca"], view["protection"]) == (1, "beta", "protected")
    assert served(lab, before["pair"]) == before["backup"]["certificate"]["sha256"]
    assert happened(program, before["pair"])["promoted", "beta"] == 1


def test_a_slow_deployment_that_fails_after_a_failover_does_not_hold_up_the_new_one(
    lab: ProjectLab, program: Program, name: str
) -> None:
    """Its failure is about what served before; what was wanted meanwhile is due at once and not after a pause."""
    before = program.done("issue", name, "--json").json
    make_deployment_due(program)
    gate = Gate("deploy", fault=DeployError("the disk is full"))

    with held_up(program, gate, before_target(gate), "renew", "--due") as slow:
        assert program.run("failover", name, "--timeout", "1s").status == 3

    assert slow.status in {0, 3}
    assert happened(program, name)["failed", None] == 1
    assert served(lab, name) == before["backup"]["certificate"]["sha256"]
    assert rows(program, "SELECT kind FROM work WHERE kind = 'deployment'") == []


def test_a_change_of_dns_that_comes_after_everything_is_over_leaves_nothing_behind(
    lab: ProjectLab, program: Program, name: str
) -> None:
    gate = Gate("apply")

    with held_up(program, gate, before_dns(gate), "issue", name) as slow:
        with overdue(program):
            assert program.run("issue", name).status == 0
        assert lab.leftovers() == {}

    assert slow.status == 0
    assert lab.leftovers() == {}
    assert rows(program, "SELECT * FROM challenge_record") == []
    assert rows(program, "SELECT step FROM acme_order") == [("stored",), ("stored",)]
    assert program.show(name)["protection"] == "protected"


def stop(program: Program, process: subprocess.Popen[str]) -> None:
    """Stop a process, but not inside a transaction: that would keep the others from writing."""

    def stands_still() -> bool:
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    def stopped() -> bool:
        process.send_signal(signal.SIGSTOP)
        wait_for(stands_still)  # on another processor a thread goes on for a moment
        if rawdatabase.somebody_writes(program.config):
            process.send_signal(signal.SIGCONT)
            return False
        return True

    wait_for(stopped)


@pytest.fixture
def scene(lab: ProjectLab, program: Program, tmp_path: Path) -> Iterator[Broken]:
    with broken(lab, program, "alpha", tmp_path) as scene:
        yield scene


@pytest.mark.parametrize("path", [NEW_ORDER, AUTHORIZATION, FINALIZE, CERTIFICATE])
def test_a_process_stopped_beyond_its_lease_does_nothing_that_another_has_done(
    lab: ProjectLab, scene: Broken, path: str
) -> None:
    program, name = scene.program, scene.name
    scene.proxy.on(path, Hang(forward=True))
    with program.start("issue", name, "--json") as stopped:
        try:
            wait_for(
                lambda: scene.proxy.count(path) and not scene.rows("SELECT 1 FROM work WHERE ca = 'beta'")
            )
            stop(program, stopped)
            expire_leases(program)

            other = program.run("issue", name, "--json")

            assert other.status == 0, other
            scene.proxy.release()
            stopped.send_signal(signal.SIGCONT)
            out, err = stopped.communicate(timeout=_PATIENCE)
        finally:
            stopped.kill()
    assert stopped.returncode == 0, (out, err)
    assert err == ""
    view = scene.demand_whole()
    assert view == other.json
    lost = [("abandoned",)] if path == NEW_ORDER else []
    assert [(step,) for step, _ in scene.orders()] == [*lost, ("stored",)]
    counts = happened(program, name)
    assert counts["stored", "alpha"] == counts["stored", "beta"] == 1
    assert scene.rows("SELECT count(*) FROM certificate") == [(2,)]
    assert lab.leftovers() == {}


def test_a_process_stopped_in_a_revocation_finds_it_done(lab: ProjectLab, scene: Broken) -> None:
    program, name = scene.program, scene.name
    before = program.done("issue", name, "--json").json
    scene.proxy.on(REVOKE, Hang(forward=True))
    with program.start("failover", name, "--revoke", "--json") as stopped:
        try:
            wait_for(lambda: scene.proxy.count(REVOKE))
            stop(program, stopped)
            expire_leases(program)

            other = program.run("failover", name, "--json")

            assert other.status == 0, other
            assert other.json["revoked"] is True
            scene.proxy.release()
            stopped.send_signal(signal.SIGCONT)
            out, err = stopped.communicate(timeout=_PATIENCE)
        finally:
            stopped.kill()
    assert stopped.returncode == 0, (out, err)
    demand_one_failover(lab, program, before, [0], err, revoked=True)


# --- what is made due while somebody holds it ------------------------------------------------------------


@pytest.mark.parametrize("put_back_at", [timedelta(minutes=5), None])
def test_what_was_made_due_while_it_was_held_is_due_when_it_is_put_back(
    program: Program, name: str, put_back_at: timedelta | None
) -> None:
    """Whoever made it due knew more than the step that ends: its pause, and its waiting for a person, are void."""
    program.done("issue", name)
    make_deployment_due(program)
    application = program.application()
    store = application.world.store
    with store.write() as tx:
        [row] = claims.claim(tx, "one|of|us", kinds=[WorkKind.DEPLOYMENT], limit=1)
    with store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, row.pair_id, tx.now, target=row.target)
    with store.write() as tx:
        assert claims.claim(tx, "another", kinds=[WorkKind.DEPLOYMENT], limit=1) == [], (
            "it is held all the same"
        )
        at = None if put_back_at is None else tx.now + put_back_at
        work.put_back(tx, row, due_at=at, reason="failed", waiting_for=None if at else PERSON, failed=True)

    with store.write() as tx:
        [again] = claims.claim(tx, "another", kinds=[WorkKind.DEPLOYMENT], limit=1)

    assert (again.attempts, again.reason, again.waiting_for) == (1, "failed", None)
    application.close()
