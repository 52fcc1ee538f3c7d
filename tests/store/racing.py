"""Two processes that meet in the database: one has done its work and not committed yet when the other one comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dualcert.clock import Clock
from dualcert.dcv import Zones
from dualcert.lab.polling import wait_for
from dualcert.lifecycle.world import DnsBinding, Lazy, World
from dualcert.ports.options import Secret
from dualcert.store import Store, Transaction
from dualcert.testing.fakes_dns import FakeDnsOptions, FakeDnsProvider, FakeDnsServer
from tests.postgres import Postgres, name_in
from tests.store.building import BACKUP, PRIMARY
from tests.store.worlds import Setting, a_world, root_pem

_SECONDS = 20.0


class HaltingStore(Store):
    """Stands still before it commits its ``nth`` unit of work that writes, until it is told to go on."""

    def __init__(self, url: str, clock: Clock, actor: str) -> None:
        super().__init__(url, clock, actor)
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.nth = 0

    def begun(self, mode: str) -> Transaction:
        tx = super().begun(mode)
        if mode == "write":
            self.nth -= 1
            if self.nth == 0:
                commit = tx.commit

                def halt() -> None:
                    self.reached.set()
                    assert self.go_on.wait(_SECONDS)
                    commit()

                tx.commit = halt  # type: ignore[method-assign]
        return tx


Act = Callable[[World], Any]


@dataclass
class _Process:
    world: World
    act: Act
    result: Any = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.result = self.act(self.world)
        except Exception as error:  # noqa: BLE001 - what came of it is what a test looks at
            self.result = error


@dataclass
class Arena:
    """Two processes of one database; ``first`` and ``second`` see the same targets and CAs."""

    server: Postgres
    url: str
    clock: Clock
    setting: Setting
    folder: Path
    first: World = field(init=False)
    second: World = field(init=False)
    was_blocked: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        for ca in (PRIMARY, BACKUP):
            self.setting.trust_roots[ca] = self.folder / f"{ca}.pem"
            self.setting.trust_roots[ca].write_bytes(root_pem(ca))
        self._halting = HaltingStore(self.url, self.clock, "first")
        self.first = self._world(self._halting)
        self.second = self._world(Store(self.url, self.clock, "second"))

    def _world(self, store: Store) -> World:
        token = Secret("token")
        provider = FakeDnsProvider(FakeDnsOptions(server=FakeDnsServer(["example.com"], token), token=token))
        zone = DnsBinding("zone", Lazy(lambda: provider), Lazy(lambda: Zones([], (), self.clock)))
        return replace(a_world(store, self.clock, self.setting), dns={zone.name: zone})

    def race(self, first: Act, second: Act, *, nth: int = 1) -> tuple[Any, Any]:
        """What came of both: a value or an exception. The first one halts before its ``nth`` commit, the second comes
        and goes as far as it gets, then the first goes on."""
        halting = self._halting
        halting.nth = nth
        halting.reached.clear()
        halting.go_on.clear()
        one, other = _Process(self.first, first), _Process(self.second, second)
        one.thread.start()
        assert halting.reached.wait(_SECONDS), one.result
        other.thread.start()
        with self.server.connect(name_in(self.url)) as watching:

            def settled() -> bool:
                self.was_blocked = _waits(watching)
                return self.was_blocked or not other.thread.is_alive()

            assert wait_for(settled, _SECONDS)
        halting.go_on.set()
        for process in (one, other):
            process.thread.join(_SECONDS)
            assert not process.thread.is_alive()
        return one.result, other.result

    def let_go(self) -> None:
        """The first one goes on, although the second one neither waits for a lock nor has ended."""
        self._halting.go_on.set()

    def close(self) -> None:
        self.first.store.close()
        self.second.store.close()


def _waits(watching: Any) -> bool:
    """Whether a session waits for a lock of another one."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    [(number,)] = watching.execute(query)
    return bool(number)
