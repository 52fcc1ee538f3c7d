"""A pair with as many names as a certificate takes: what it costs in DNS is counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from bench.issuance import check, drive, fresh_name
from bench.results import Goal, Result, result
from bench.stage import Stage
from dualcert.lifecycle import inventory
from dualcert.lifecycle.inventory import PairRequest
from dualcert.lifecycle.world import DnsBinding, Lazy, World
from dualcert.model.names import MAX_NAMES
from dualcert.ports.dns import TxtValue

T = TypeVar("T")


def hundred(stage: Stage) -> list[Result]:
    """All in one zone, for both CAs at once."""
    with stage.project("names") as project, project.application() as application:
        counts = Counter[str]()
        world = _counting(application.world, counts)
        zone = fresh_name("hundred")
        pair = inventory.ensure(
            world, PairRequest(tuple(f"n{number}.{zone}" for number in range(MAX_NAMES)), targets=())
        )
        drive(world, pair)
        check(world, pair)
    one_each = Goal("1 each way", (counts["add"], counts["remove"]) == (1, 1))
    return [
        result(
            f"a pair with {MAX_NAMES} names in one zone: changes of DNS",
            counts["add"] + counts["remove"],
            "changes",
            goal=one_each,
        ),
        result(
            "  the same: waits for its servers", counts["look"], "waits", goal=Goal("1", counts["look"] == 1)
        ),
    ]


def _counting(world: World, counts: Counter[str]) -> World:
    def counted(binding: DnsBinding) -> DnsBinding:
        return replace(
            binding,
            provider=Lazy(partial(_watched, binding.provider, _Provider, counts)),
            zones=Lazy(partial(_watched, binding.zones, _Zones, counts)),
        )

    return replace(world, dns={name: counted(one) for name, one in world.dns.items()})


def _watched(
    make: Callable[[], Any], watcher: Callable[[Any, Counter[str]], Any], counts: Counter[str]
) -> Any:
    return watcher(make(), counts)


class _Watched:
    def __init__(self, real: Any, counts: Counter[str]) -> None:
        self._real, self._counts = real, counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Provider(_Watched):
    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        self._counts["add"] += bool(add)
        self._counts["remove"] += bool(remove)
        self._real.apply(zone, add, remove)


class _Zones(_Watched):
    def look(self, wanted: Set[tuple[str, TxtValue]]) -> Any:
        self._counts["look"] += 1
        return self._real.look(wanted)
