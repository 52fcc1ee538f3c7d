"""One mass promotion by the product in a process of its own: from a file of serials to committed work rows.

``python -m bench.masses --config FILE --serials FILE`` opens an incident, plans it and promotes, and stops before
anything is deployed. It tells each step in a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from dualcert import bootstrap
from dualcert.cli import collect_seldom
from dualcert.lifecycle.incidents import open_incident, plan, reading, running
from dualcert.lifecycle.incidents.opening import Selection
from dualcert.lifecycle.incidents.running import Progress, Terms
from dualcert.lifecycle.world import World
from dualcert.store import Store, Transaction

CA = "alpha"
_TERMS = Terms(waves="100%", max_failures="100%", max_drift="100%")


class _Promoted(BaseException):
    """Every row has had its turn; what follows is not measured."""


def mass(world: World, serials: Path) -> Iterator[dict[str, Any]]:
    """Steps, each with its seconds."""
    began = time.perf_counter()

    def step(name: str, **more: Any) -> dict[str, Any]:
        nonlocal began
        began, before = time.perf_counter(), began
        return {"step": name, "seconds": began - before, **more}

    with serials.open("rb") as file:
        chosen = Selection("a bench", reading.serials(reading.opened(file)), ca=CA)
        deadline = world.clock.now() + timedelta(hours=24)
        incident = open_incident(world, "a bench", "a bench", deadline, CA, chosen)
    yield step("open", members=incident.members)
    made = plan(world, incident.id)
    yield step("plan", usable=made.counts.usable)
    turned = 0

    def hear(progress: Progress) -> None:
        nonlocal turned
        turned = progress.turned
        if turned == progress.total:
            raise _Promoted

    try:
        running.run(world, incident.id, made.hash, _TERMS, hear)
    except _Promoted:
        yield step("run", turned=turned)
    else:
        raise RuntimeError("there was nothing to promote")


def _timed(store: Store) -> list[float]:
    """How long units of work last from here on, in seconds, once they have begun."""
    found: list[float] = []
    write = store.write

    @contextmanager
    def timed(unit: AbstractContextManager[Transaction]) -> Iterator[Transaction]:
        began = 0.0
        try:
            with unit as tx:
                began = time.perf_counter()
                yield tx
        finally:
            found.append(time.perf_counter() - began)

    store.write = lambda: timed(write())  # type: ignore[method-assign]
    return found


def _peak() -> int:
    """In KB. What getrusage() tells begins with the peak of whoever started this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.masses", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--serials", type=Path, required=True)
    chosen = parser.parse_args()
    collect_seldom()  # as the commands do
    with closing(bootstrap.build(bootstrap.load_settings(chosen.config))) as application:
        world = application.world
        units = _timed(world.store)
        for told in mass(world, chosen.serials):
            longest, units[:] = max(units), []
            print(json.dumps({**told, "longest": longest, "cpu": time.process_time()}), flush=True)
    print(json.dumps({"step": "end", "memory": _peak() / 1e3}), flush=True)


if __name__ == "__main__":
    main()
