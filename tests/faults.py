"""dualcert, wired as always, with every point at which it may die told apart; and a nursery of processes that do die.

A point is a request to a CA, a commit, a change of DNS, a call of a deployer, or one step of it in the file system. It
is known by what happens there (``ca alpha: new_order``) and by how often that has happened before in the process.
Two CAs take turns as they like, so what a name alone would not tell apart carries the kind of thread that did it.

Run as a module this is the nursery: a process that has everything imported and no threads yet, forks one child per
command, and says how it ended. A child costs a fraction of an interpreter's start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from dualcert.clock import SystemClock
from dualcert.errors import StoreUnavailable
from tests.warm import import_everything

if TYPE_CHECKING:
    from dualcert.bootstrap import Application
    from dualcert.lifecycle.world import CaBinding, DnsBinding, Lazy, TargetBinding
    from dualcert.ports.dns import TxtValue
    from dualcert.ports.keys import KeyProtector
    from dualcert.store import Store, Transaction

REPOSITORY = Path(__file__).parent.parent
_clock = SystemClock()

BEFORE, AFTER, UNHEARD = "before", "after", "unheard"
_PATIENCE = 60
"""Seconds that a child may take; one that takes longer is ended by SIGALRM."""

_REQUESTS = frozenset(
    {"register", "new_order", "order", "authorization", "answer", "finalize", "certificate", "revoke"}
)
_PLACEMENTS = frozenset({"deploy", "read_back", "purge", "remove"})
_KEK_CHANGES = frozenset({"new_kek", "drop_kek"})
_FILE_STEPS = ("mkdir", "symlink", "rename", "replace", "unlink", "rmdir")


class Point(NamedTuple):
    what: str
    number: int

    def __str__(self) -> str:
        return f"{self.what} #{self.number}"


class Mark(NamedTuple):
    """A point that a process has come to; ``side`` after: it is done; unheard: and nobody is told, which a commit
    alone can be."""

    point: Point
    side: str


@dataclass(frozen=True)
class Outage:
    """What befalls a process's surroundings at a point, while it waits there: ``begin``, ``seconds``, ``end``."""

    begin: Callable[[], None]
    end: Callable[[], None]
    seconds: float


@dataclass(frozen=True)
class Death:
    """Where a process ends itself, or is struck by an outage."""

    point: Point
    side: str

    def __str__(self) -> str:
        return f"{self.side} {self.point}"


# --- inside the child ------------------------------------------------------------------------------------


class Points:
    """Notes every point in a file as it is come to, and ends the process at one of them."""

    def __init__(self, log: Path, death: Death | None, *, survive: bool = False) -> None:
        self._survive = survive
        self._struck = log.with_suffix(".struck")
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._death = death
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def at(self, what: str) -> Iterator[Point]:
        """What happens inside is one point; after a failure there is no other side of it."""
        with self._lock:
            self._counts[what] += 1
            point = Point(what, self._counts[what])
        self._come_to(point, BEFORE)
        yield point
        self._come_to(point, AFTER)

    def _come_to(self, point: Point, side: str) -> None:
        os.write(self._log, (json.dumps([*point, side]) + "\n").encode())
        if self._death == Death(point, side):
            if not self._survive:
                os.kill(os.getpid(), signal.SIGKILL)
            self._struck.touch()
            while self._struck.exists():
                _clock.sleep(0.002)

    @contextmanager
    def commit(self, what: str, unit: AbstractContextManager[Transaction]) -> Iterator[Transaction]:
        """A unit of work: before is when all is written and nothing committed; one that fails is no point."""
        ending = self.at(what)
        with unit as tx:
            yield tx
            point = ending.__enter__()
        ending.__exit__(None, None, None)
        self._come_to(point, UNHEARD)
        if self._death == Death(point, UNHEARD):
            raise StoreUnavailable("the database could not be used: nothing was heard of a commit")


class Watched:
    """Something whose calls of certain names are points; all else is as it was."""

    def __init__(self, real: Any, about: str, calls: frozenset[str], points: Points) -> None:
        self._real, self._about, self._calls, self._points = real, about, calls, points

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in self._calls:
            return found

        def call(*arguments: Any, **keywords: Any) -> Any:
            with self._points.at(f"{self._about}: {name}"):
                return found(*arguments, **keywords)

        return call


class WatchedDns(Watched):
    """Publishing and withdrawing are told apart."""

    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        with self._points.at(f"{self._about}: {'add' if add else 'remove'}"):
            self._real.apply(zone, add, remove)


def watched(application: Application, points: Points) -> Application:
    """The application with its ports and its unit of work wrapped."""
    from dualcert.lifecycle.world import Lazy

    def ca(binding: CaBinding) -> CaBinding:
        real = binding.authority
        return replace(
            binding,
            authority=Lazy(lambda: cast("Any", Watched(real(), f"ca {binding.name}", _REQUESTS, points))),
        )

    def dns(binding: DnsBinding) -> DnsBinding:
        real = binding.provider
        provider = Lazy(lambda: cast("Any", WatchedDns(real(), f"dns {binding.name}", frozenset(), points)))
        return replace(binding, provider=provider)

    def target(binding: TargetBinding) -> TargetBinding:
        real = binding.deployer
        about = f"target {binding.name}"
        deployer = Lazy(lambda: cast("Any", Watched(real(), about, _PLACEMENTS, points)))
        return replace(binding, deployer=deployer)

    def protector(domain: str, real: Lazy[KeyProtector]) -> Lazy[KeyProtector]:
        return Lazy(lambda: cast("Any", Watched(real(), f"keys {domain}", _KEK_CHANGES, points)))

    world = application.world
    _watch_store(world.store, points)
    world = replace(
        world,
        cas={name: ca(one) for name, one in world.cas.items()},
        dns={name: dns(one) for name, one in world.dns.items()},
        targets={name: target(one) for name, one in world.targets.items()},
        protectors={name: protector(name, one) for name, one in world.protectors.items()},
    )
    return replace(application, world=world)


def _watch_store(store: Store, points: Points) -> None:
    write = store.write

    def watched_write() -> AbstractContextManager[Transaction]:
        # Named for who writes: `ordering._place`, `engine.claim`.
        caller = sys._getframe(1)
        who = f"{caller.f_globals['__name__'].rpartition('.')[2]}.{caller.f_code.co_name}"
        return points.commit(f"commit {_thread()}: {who}", write())

    store.write = watched_write  # type: ignore[method-assign]


def _thread() -> str:
    """`main`, or the pool that a thread belongs to: `ca-alpha`, `dns`, `deploy`."""
    if threading.current_thread() is threading.main_thread():
        return "main"
    return threading.current_thread().name.rpartition("-")[0] or threading.current_thread().name


def _watch_files(points: Points) -> None:
    """What the threads that deploy do in the file system. Only in a child that does nothing else any more."""
    for name in _FILE_STEPS:
        setattr(os, name, _watched_step(name, getattr(os, name), points))


def _watched_step(name: str, real: Callable[..., None], points: Points) -> Callable[..., None]:
    def step(*arguments: Any, **keywords: Any) -> None:
        if _thread() != "deploy":
            return real(*arguments, **keywords)
        with points.at(f"files: {name}"):
            return real(*arguments, **keywords)

    return step


def _live(order: dict[str, Any]) -> int:
    """The life of a child: one command, its output and its points in files."""
    from dualcert import bootstrap, cli
    from dualcert.store import sqlite

    for stream, path in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
    death = order["death"]
    where = Death(Point(death[0], death[1]), death[2]) if death else None
    points = Points(Path(order["log"]), where, survive=order["survive"])
    if order["survive"]:
        sqlite.BUSY_TIMEOUT_MS = (
            100  # a locked database is away soon, and not only after a quarter of a minute
        )
    _watch_files(points)
    return cli.main(order["argv"], build=lambda settings: watched(bootstrap.build(settings), points))


# --- the nursery -----------------------------------------------------------------------------------------


def _nurse() -> None:
    import_everything()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                signal.alarm(_PATIENCE)
                status = _live(order)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(order["number"], status, flush=True)  # noqa: T201 - the answer


# --- outside ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """How a command ended: its exit status, or the negative number of the signal; and what it came to before."""

    argv: tuple[str, ...]
    status: int
    out: str
    err: str
    marks: tuple[Mark, ...] = field(repr=False)
    seconds: float

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def deaths(self, side: str) -> list[Death]:
        """To die before, or after, everything that was come to here."""
        return [Death(mark.point, side) for mark in self.marks if mark.side == side]


class Nursery:
    """Runs commands, each in a process of its own."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._numbers = count(1)
        scratch.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, config: Path, *argv: str, death: Death | None = None, outage: Outage | None = None) -> Life:
        """With an ``outage`` the process does not die at the point: it goes on when the outage has begun."""
        number = next(self._numbers)
        paths = {name: self._scratch / f"{number}.{name}" for name in ("out", "err", "log")}
        order = {
            "number": number,
            **{name: str(path) for name, path in paths.items()},
            "argv": ["--config", str(config), *argv],
            "death": [*death.point, death.side] if death else None,
            "survive": outage is not None,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began = _clock.monotonic()
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        with _striking(paths["log"].with_suffix(".struck"), outage):
            status = self._answer_to(number)
        return Life(
            argv,
            status,
            paths["out"].read_text(),
            paths["err"].read_text(),
            _marks(paths["log"]),
            _clock.monotonic() - began,
        )

    def _answer_to(self, wanted: int) -> int:
        """Whatever a test did not wait for, as it had been given up, is not taken for the answer to another."""
        assert self._process.stdout is not None
        while True:
            number, status = map(int, self._process.stdout.readline().split())
            if number == wanted:
                return status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=_PATIENCE + 10)


@contextmanager
def _striking(struck: Path, outage: Outage | None) -> Iterator[None]:
    """Meanwhile: when the process says that it is at the point, the outage begins, and it goes on."""
    if outage is None:
        yield
        return
    over = threading.Event()

    def strike() -> None:
        while not over.wait(0.002):
            if struck.exists():
                outage.begin()
                struck.unlink()
                over.wait(outage.seconds)
                outage.end()
                return

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _marks(log: Path) -> tuple[Mark, ...]:
    if not log.exists():
        return ()
    found: Sequence[list[Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    return tuple(Mark(Point(what, number), side) for what, number, side in found)


if __name__ == "__main__":
    _nurse()
