"""A pair with as many names as a certificate takes costs one change of DNS each way, and one wait for its servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import replace
from functools import partial
from typing import Any, cast

import dns.message
import dns.query
import pytest

from dualcert import bootstrap
from dualcert.bootstrap import Application
from dualcert.config import Settings
from dualcert.lifecycle.world import DnsBinding, Lazy
from dualcert.model.names import MAX_NAMES
from dualcert.policy import gathering
from dualcert.ports.dns import TxtValue
from tests.labfixture import ProjectLab
from tests.program import Program


class Counted:
    """Something of which certain calls are counted; all else is as it was."""

    def __init__(self, real: Any, counts: Counter[str]) -> None:
        self._real, self._counts = real, counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class CountedProvider(Counted):
    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        self._counts["changes that add"] += bool(add)
        self._counts["changes that remove"] += bool(remove)
        self._counts["values"] += len(add) + len(remove)
        self._real.apply(zone, add, remove)


class CountedZones(Counted):
    def look(self, wanted: Set[tuple[str, TxtValue]]) -> Any:
        self._counts["waits"] += 1
        return self._real.look(wanted)


def counting(counts: Counter[str], settings: Settings) -> Application:
    application = bootstrap.build(settings)

    def counted(binding: DnsBinding) -> DnsBinding:
        provider, zones = binding.provider, binding.zones
        return replace(
            binding,
            provider=Lazy(lambda: cast("Any", CountedProvider(provider(), counts))),
            zones=Lazy(lambda: cast("Any", CountedZones(zones(), counts))),
        )

    world = application.world
    world = replace(world, dns={name: counted(one) for name, one in world.dns.items()})
    return replace(application, world=world)


def zone_serial(lab: ProjectLab) -> int:
    """It grows by one with every update that BIND takes."""
    zone = next(z for z in lab.bind.zones if lab.domain.endswith(z.rstrip(".")))
    answer = dns.query.tcp(dns.message.make_query(zone, "SOA"), lab.bind.address, 5, lab.bind.port)
    return int(answer.answer[0][0].serial)


def test_a_hundred_names_in_one_zone_go_out_at_once_and_are_awaited_once(
    lab: ProjectLab, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two hundred authorizations: on a slow machine one CA may come long after the other, and still belongs to it.
    for name in ("GATHERING", "WITHDRAWAL_GATHERING"):
        monkeypatch.setattr(gathering, name, 100 * getattr(gathering, name))
    names = [f"n{number}.{lab.domain}" for number in range(MAX_NAMES)]
    counts = Counter[str]()

    before = zone_serial(lab)
    issued = program.run("issue", *names, "--timeout", "10m", build=partial(counting, counts))

    assert issued.status == 0, issued
    assert counts == {
        "changes that add": 1,
        "changes that remove": 1,
        "waits": 1,
        "values": 2 * 2 * MAX_NAMES,
    }
    assert lab.leftovers() == {}
    assert program.show(names[0])["protection"] == "protected"
    assert zone_serial(lab) == before + 2, "one message each way"
