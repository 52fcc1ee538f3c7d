"""``dualcert run`` as a process, with real CAs: it does what is due, and is stopped in every way there is."""

from __future__ import annotations

import json
import random
import signal
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import pytest

from tests.brokenca import FINALIZE, NEW_ORDER, Broken, broken, say_in
from tests.daemons import (
    Process,
    begin,
    change,
    clock,
    daemon,
    protected,
    rows,
    wait_for,
    wait_until_protected,
)
from tests.faultproxy import Hang
from tests.labfixture import ProjectLab
from tests.program import Program, finish

DAY = timedelta(days=1)
STOPS_WITHIN = 10.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def names(lab: ProjectLab) -> list[str]:
    return [f"p{number}.{lab.domain}" for number in range(4)]


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, lab: ProjectLab) -> Program:
    """dualcert over a project on SQLite, and on PostgreSQL."""
    program = Program(lab.config_path)
    if request.param == "postgresql":
        url = request.getfixturevalue("on_postgres")
        text = program.config.read_text()
        program.config.write_text(text.replace('"sqlite:///dualcert.db"', json.dumps(url)))
    program.done("init")
    return program


def nothing_is_held(program: Program) -> None:
    assert rows(program, "SELECT owner FROM work WHERE owner IS NOT NULL") == []
    assert rows(program, "SELECT owner FROM lease") == []


def stored_orders(program: Program) -> Counter[tuple[int, str]]:
    """How many orders of each pair and CA came to their end; every key was used for one."""
    ordered, different = rows(program, "SELECT count(spki), count(DISTINCT spki) FROM acme_order")[0]
    assert ordered == different
    found = rows(program, "SELECT pair_id, ca FROM acme_order WHERE step = 'stored'")
    return Counter((number, ca) for number, ca in found)


# --- what it does ----------------------------------------------------------------------------------------


def test_it_issues_what_a_command_left_and_says_so(
    lab: ProjectLab, program: Program, names: list[str], log: Path
) -> None:
    assert program.run("issue", names[0], "--timeout", "0").status == 1
    begin(program, *names[1:])
    with daemon(program, log, "--log-format", "json") as process:
        wait_until_protected(program, names)
        [beat] = rows(program, "SELECT owner, version FROM daemon")
        assert process.end(within=STOPS_WITHIN) == 0
    told = process.lines()
    assert told[0]["message"].startswith("started: dualcert ")
    assert beat[0] in told[0]["message"]
    assert [one["message"] for one in told[-2:]] == [
        "SIGTERM: stopping; 0 steps under way, 0 held",
        "stopped; nothing is held",
    ]
    for kind in ("placed", "stored"):
        said = [one for one in told if one["message"].startswith(f"{kind}: ")]
        assert {(one["pair"], one["ca"]) for one in said} == {
            (n, c) for n in names for c in ("alpha", "beta")
        }
        assert all(isinstance(one["work"], int) for one in said)
    deployed = [one for one in told if one["message"].startswith("deployed: ")]
    assert {(one["pair"], one["target"]) for one in deployed} == {(name, "web") for name in names}
    assert {one["level"] for one in told} == {"info"}
    assert rows(program, "SELECT owner FROM daemon") == []
    nothing_is_held(program)
    assert set(stored_orders(program).values()) == {1}
    assert lab.leftovers() == {}


def test_it_renews_what_is_due(program: Program, names: list[str], log: Path) -> None:
    before = {name: program.done("issue", name, "--json").json for name in names[:2]}
    with daemon(program, log, later=61 * DAY) as process:
        wait_for(lambda: set(stored_orders(program).values()) == {2})
        wait_until_protected(program, names[:2])
        assert process.end() == 0
    for name, was in before.items():
        now = program.show(name)
        for role in ("primary", "backup"):
            assert now[role]["ca"] == was[role]["ca"]
            assert now[role]["certificate"]["serial"] != was[role]["certificate"]["serial"]
        assert now["targets"][0]["observed_sha256"] == now["primary"]["certificate"]["sha256"]
    assert process.said("promoted") is False


def test_what_another_process_makes_due_is_begun_within_seconds(
    program: Program, names: list[str], log: Path
) -> None:
    with daemon(program, log) as process:
        process.wait_until_it_says("started")
        begin(program, names[0])
        wait_until_protected(program, names[:1])


def test_once_does_what_is_due_now_and_says_nothing(program: Program, names: list[str]) -> None:
    begin(program, *names[:2])
    done = program.run("run", "--once")
    assert (done.status, done.out, done.err) == (0, "", "")
    assert protected(program, names[:2])
    assert rows(program, "SELECT owner FROM daemon") == []


def test_once_leaves_to_others_what_they_hold(program: Program, names: list[str]) -> None:
    program.done("issue", names[0])
    begin(program, names[1])
    elsewhere = "another-host|boot/pid|1|1|1"
    change(program, f"UPDATE work SET owner = '{elsewhere}' WHERE ca = 'alpha'")
    change(program, f"INSERT INTO lease VALUES ('engine:{elsewhere}', '{elsewhere}', {2**52})")
    began = clock.monotonic()
    done = program.run("run", "--once", "--json")
    assert clock.monotonic() - began < 30
    assert done.status == 3, done
    assert {(one["pair"], one["ca"]) for one in done.json["left"]} >= {(names[1], "alpha")}
    assert rows(program, "SELECT owner FROM work WHERE ca = 'alpha'") == [(elsewhere,)]
    assert stored_orders(program)[2, "beta"] == 1


def test_a_timeout_goes_with_once(program: Program) -> None:
    refused = program.run("run", "--timeout", "5m")
    assert refused.status == 2
    assert "--once" in refused.err


# --- how it ends -----------------------------------------------------------------------------------------


@pytest.fixture
def scene(lab: ProjectLab, program: Program, tmp_path: Path) -> Iterator[Broken]:
    with broken(lab, program, "alpha", tmp_path) as scene:
        yield scene


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("path", "lost"), [(NEW_ORDER, [("abandoned", None)]), (FINALIZE, [])])
def test_a_signal_in_the_middle_of_an_order_ends_it_soon_and_leaves_it_resumable(
    lab: ProjectLab, scene: Broken, log: Path, path: str, lost: list[tuple[str, None]], number: int
) -> None:
    program = scene.program
    scene.proxy.on(path, Hang(forward=True))
    begin(program, scene.name)
    with daemon(program, log) as process:
        wait_for(lambda: scene.proxy.count(path))
        began = clock.monotonic()
        assert process.end(number, within=30) == 0
        assert clock.monotonic() - began < STOPS_WITHIN
    assert process.said(f"{signal.Signals(number).name}: stopping; ")
    assert process.said("taken up by whoever comes next")
    nothing_is_held(program)
    assert rows(program, "SELECT owner FROM daemon") == []
    scene.proxy.release()

    assert program.run("renew", "--due").status == 0

    scene.demand_whole()
    assert [(step,) for step, _ in scene.orders()] == [(step,) for step, _ in lost] + [("stored",)]
    assert lab.leftovers() == {}


def test_a_step_that_ends_in_time_is_not_lost(scene: Broken, log: Path) -> None:
    scene.proxy.on(NEW_ORDER, Hang())
    begin(scene.program, scene.name)
    with daemon(scene.program, log) as process:
        wait_for(lambda: scene.proxy.count(NEW_ORDER))
        process.send(signal.SIGTERM)
        process.wait_until_it_says("SIGTERM: stopping")
        scene.proxy.release()
        assert process.popen.wait(STOPS_WITHIN) == 0
    assert process.said("stopped; nothing is held")
    assert scene.rows("SELECT step, url IS NOT NULL FROM acme_order WHERE ca = 'alpha'") == [("placed", 1)]

    assert scene.program.run("renew", "--due").status == 0

    scene.demand_whole()
    # Not by what reached the CA: one request in twenty is sent again for its nonce.
    assert scene.rows("SELECT count(*) FROM acme_order WHERE ca = 'alpha'") == [(1,)]


def test_a_second_signal_ends_it_at_once(scene: Broken, log: Path) -> None:
    scene.proxy.on(NEW_ORDER, Hang())
    begin(scene.program, scene.name)
    with daemon(scene.program, log) as process:
        wait_for(lambda: scene.proxy.count(NEW_ORDER))
        process.send(signal.SIGTERM)
        process.wait_until_it_says("SIGTERM: stopping")
        assert process.end(signal.SIGINT, within=5) == 128 + signal.SIGINT
    scene.proxy.release()
    assert scene.program.run("renew", "--due").status == 0
    scene.demand_whole()


def test_a_hangup_is_told_what_it_does_not_do(program: Program, log: Path) -> None:
    with daemon(program, log) as process:
        process.wait_until_it_says("started")
        process.send(signal.SIGHUP)
        process.wait_until_it_says("the configuration is read at the start only")
        assert process.end(within=STOPS_WITHIN) == 0


# --- several ---------------------------------------------------------------------------------------------


def test_two_daemons_and_a_command_share_the_work_without_a_second_order(
    lab: ProjectLab, either: Program, tmp_path: Path
) -> None:
    # Slow enough that not all are done before each daemon has come round, which it does once a second.
    for ca in ("alpha", "beta"):
        say_in(either.config, f"ca.{ca}", "max_concurrency = 1")
    names = [f"p{number}.{lab.domain}" for number in range(60)]
    with daemon(either, tmp_path / "one") as one, daemon(either, tmp_path / "two") as two:
        one.wait_until_it_says("started")
        two.wait_until_it_says("started")
        begin(either, *names)
        with either.start("renew", "--due") as command:
            try:
                ended = finish(command, 90)
            finally:
                command.kill()
        wait_until_protected(either, names)
        assert one.end() == two.end() == 0
    assert ended.status == 0, ended
    assert rows(either, "SELECT step, count(*) FROM acme_order GROUP BY step") == [("stored", 120)]
    assert set(stored_orders(either).values()) == {1}
    assert one.said("stored: ")
    assert two.said("stored: ")
    placed = rows(
        either, "SELECT pair_id, ca, count(*) FROM event WHERE kind = 'placed' GROUP BY pair_id, ca"
    )
    assert {count for _, _, count in placed} == {1}
    nothing_is_held(either)
    assert lab.leftovers() == {}


def stop(program: Program, process: Process) -> None:
    """Stop a process, but not inside a transaction: nobody could write what it has locked before it goes on."""
    postgres = "postgresql" in program.config.read_text()

    def stands_still() -> bool:
        tasks = Path(f"/proc/{process.popen.pid}/task").iterdir()
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    def holds_locks() -> bool:
        if postgres:
            query = "SELECT 1 FROM pg_stat_activity WHERE state ~ '^idle in' AND datname = current_database()"
            return bool(rows(program, query))
        with closing(sqlite3.connect(program.config.parent / "dualcert.db", timeout=0.2)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    def stopped() -> bool:
        process.send(signal.SIGSTOP)
        wait_for(stands_still)
        if holds_locks():
            process.send(signal.SIGCONT)
            return False
        return True

    wait_for(stopped)


@pytest.mark.parametrize("path", [NEW_ORDER, FINALIZE])
def test_a_daemon_stopped_beyond_its_lease_writes_nothing_when_it_goes_on(
    lab: ProjectLab, either: Program, tmp_path: Path, path: str
) -> None:
    with broken(lab, either, "alpha", tmp_path) as scene:
        scene.proxy.on(path, Hang(forward=True))
        begin(either, scene.name)
        with daemon(either, tmp_path / "one") as stopped, ExitStack() as stack:
            wait_for(
                lambda: scene.proxy.count(path) and not rows(either, "SELECT 1 FROM work WHERE ca = 'beta'")
            )
            stop(either, stopped)
            change(either, "UPDATE lease SET until = 1")
            other = stack.enter_context(daemon(either, tmp_path / "two"))
            wait_until_protected(either, [scene.name])
            whole = either.show(scene.name)

            scene.proxy.release()
            stopped.send(signal.SIGCONT)

            # Its step has come to its end when it takes on something new.
            wait_for(lambda: rows(either, "SELECT count(*) FROM daemon") == [(2,)])
            assert stopped.end(within=STOPS_WITHIN) == 0
            assert other.end(within=STOPS_WITHIN) == 0
        assert either.show(scene.name) == whole
        lost = [("abandoned",)] if path == NEW_ORDER else []
        steps = rows(either, "SELECT step FROM acme_order WHERE ca = 'alpha' ORDER BY id")
        assert steps == [*lost, ("stored",)]
        assert rows(either, "SELECT count(*) FROM certificate") == [(2,)]
        assert not stopped.said("error")
    assert lab.leftovers() == {}


# --- kill -9 ---------------------------------------------------------------------------------------------


def die_at_random(lab: ProjectLab, program: Program, folder: Path, kills: int, seed: int) -> None:
    """Pairs are added all the time, one daemon after another is killed somewhere, and the last one makes all whole."""
    chance = random.Random(seed)
    names: list[str] = []
    for number in range(kills):
        fresh = [f"k{number}-{each}.{lab.domain}" for each in range(chance.randrange(1, 3))]
        begin(program, *fresh)
        names += fresh
        if number % 4 == 3:
            program.run("failover", chance.choice(names), "--revoke", "--timeout", "0")
        with daemon(program, folder / "log") as process:
            process.wait_until_it_says("started")
            clock.sleep(chance.uniform(0, 1.5))
            process.kill()
    with daemon(program, folder / "log") as process:
        process.wait_until_it_says("started")
        wait_until_protected(program, names, 60 + 5 * kills)
        # Where everything was whole before it began, it may not have looked yet who has died, or said that it lives.
        wait_for(
            lambda: [int(owner.split("|")[2]) for (owner,) in rows(program, _DAEMONS)] == [process.popen.pid]
        )
        wait_for(lambda: not rows(program, _LEFT_BY_OTHERS))
        assert process.end(within=STOPS_WITHIN) == 0
    demand_everything_whole(lab, program, kills)


def demand_everything_whole(lab: ProjectLab, program: Program, kills: int) -> None:
    nothing_is_held(program)
    assert rows(program, "SELECT owner FROM daemon") == []
    assert rows(program, "SELECT * FROM challenge_record") == []
    assert lab.leftovers() == {}
    # One certificate for each order that was wanted, and one order for each certificate; what a process that died had
    # asked for and not heard of is given up, unless its URL is known.
    wanted = rows(program, "SELECT pair_id, ca, count(*) FROM event WHERE kind = 'order-due' GROUP BY 1, 2")
    certificates = rows(program, "SELECT pair_id, ca, count(*) FROM certificate GROUP BY 1, 2")
    assert sorted(certificates) == sorted(rows(program, _STORED))
    known_and_lost = "SELECT count(*) FROM acme_order WHERE step = 'abandoned' AND url IS NOT NULL"
    assert rows(program, known_and_lost) == [(0,)]
    [(abandoned,)] = rows(program, "SELECT count(*) FROM acme_order WHERE step = 'abandoned'")
    assert abandoned <= 8 * kills
    assert len(certificates) == 2 * rows(program, "SELECT count(*) FROM pair")[0][0]
    refills = {(pair, ca): count for pair, ca, count in wanted}
    for pair, ca, count in certificates:
        assert count <= 1 + refills.get((pair, ca), 0), "an order was placed twice"
    assert set(rows(program, "SELECT step FROM acme_order")) <= {("stored",), ("abandoned",)}


_DAEMONS = "SELECT owner FROM daemon"
_LEFT_BY_OTHERS = "SELECT owner FROM lease WHERE owner NOT IN (SELECT owner FROM daemon)"
_STORED = "SELECT pair_id, ca, count(*) FROM acme_order WHERE step = 'stored' GROUP BY 1, 2"


def test_killed_five_times_on_each_database_and_everything_is_whole(
    lab: ProjectLab, either: Program, tmp_path: Path
) -> None:
    die_at_random(lab, either, tmp_path, 5, seed=10)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_killed_a_hundred_times_on_each_database_and_everything_is_whole(
    lab: ProjectLab, either: Program, tmp_path: Path, seed: int
) -> None:
    die_at_random(lab, either, tmp_path, 10, seed)


def test_a_successor_on_the_same_machine_takes_over_at_once(scene: Broken, tmp_path: Path) -> None:
    scene.proxy.on(FINALIZE, Hang(forward=True))
    begin(scene.program, scene.name)
    with daemon(scene.program, tmp_path / "one") as first:
        wait_for(lambda: scene.proxy.count(FINALIZE))
        first.kill()
    scene.proxy.release()
    began = clock.monotonic()
    with daemon(scene.program, tmp_path / "two"):
        wait_until_protected(scene.program, [scene.name])
    assert clock.monotonic() - began < 45, "a lease lasts a minute"
    assert scene.rows("SELECT count(*) FROM acme_order WHERE ca = 'alpha'") == [(1,)]
    assert rows(scene.program, "SELECT count(*) FROM daemon") <= [(1,)]


# --- systemd ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_how_it_goes(program: Program, tmp_path: Path, abstract: bool) -> None:
    path = f"@{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        box.bind("\0" + path[1:] if abstract else path)
        box.settimeout(30)
        told = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"}
        with daemon(program, tmp_path / "log", environment=told) as process:
            assert box.recv(1000) == b"READY=1"
            heard = Counter(box.recv(1000) for _ in range(4))
            assert heard[b"WATCHDOG=1"] == 3
            assert heard[b"STATUS=0 steps under way, 0 held"] == 1
            process.send(signal.SIGTERM)
            while (last := box.recv(1000)) == b"WATCHDOG=1":
                pass
            assert last == b"STOPPING=1"
            assert process.popen.wait(STOPS_WITHIN) == 0
