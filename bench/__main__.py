"""Measure everything, print the table, write ``results.json``. Names of parts as arguments measure these alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bench import commands, daemon, failovers, incidents, issuance, names, renewing, sealing, watching, wire
from bench.databases import Databases
from bench.results import FILE, Result, table, write
from bench.stage import Stage, Stages, dualcert, run
from dualcert.cli import collect_seldom

_ON_SERVERS: dict[str, Callable[[Stage, float], list[Result]]] = {
    "pair": lambda stage, effort: issuance.one_pair(stage, _rounds(60, effort)),
    "four": lambda stage, effort: issuance.four_at_once(stage, _rounds(5, effort)),
    "issue": lambda stage, effort: commands.issue(stage, _rounds(11, effort)),
    "failover": lambda stage, effort: failovers.commands(stage, _rounds(10, effort)),
    "promotion": lambda stage, effort: failovers.in_process(stage, _rounds(60, effort)),
    "sealing": lambda stage, effort: sealing.seal_and_verify(stage, _rounds(3, effort)),
    "watching": lambda stage, effort: watching.a_million(stage, _rounds(3, effort)),
    "small": lambda stage, effort: commands.small(stage, _rounds(9, effort)),
    "names": lambda stage, _: names.hundred(stage),
    "renewing": lambda stage, effort: renewing.renewing(stage, _rounds(1000, effort)),
    "wire": lambda stage, effort: wire.incident(stage, _rounds(1000, effort)),
}

_ON_DATABASES: dict[str, Callable[[Databases, float], list[Result]]] = {
    "tick": lambda databases, effort: daemon.ticks(databases, _rounds(300, effort)),
    "claim": lambda databases, effort: daemon.claiming(databases, _rounds(15, effort)),
    "memory": lambda databases, _: daemon.memory(databases),
    "incident": lambda databases, _: incidents.masses(databases),
}
"""In this order: an incident leaves nothing for the others to measure on."""

_WHEN_NAMED: dict[str, Callable[[float], Iterator[Result]]] = {
    "giant": lambda effort: incidents.full_size(max(100_000, round(_GIANT * min(1.0, effort)))),
}
"""What takes longer, and more room, than all the others together."""

_LARGE = 1_000_000
_GIANT = 10_000_000

_NOTES = """\
Medians; what is compared took turns within this run. The CAs are asked directly, not through the limiter in front of
them: never more than four requests are under way at one. Pebble runs without retryAfter, sleeps and rejected nonces
and reuses no authorization. The floor is the faster one of its two ways; it neither checks nor deploys anything. The
pairs of a large inventory, and those that are renewed, were written straight into the tables.
"""


_HELP = "one of {}; unsaid: all of these; or {}, with 10,000,000 pairs: half an hour, 60 GB of disk"


def _rounds(usual: int, effort: float) -> int:
    return max(2, round(usual * effort))


def _measured(parts: Sequence[str], effort: float) -> Iterator[list[Result]]:
    with Stages() as stages, Databases(max(50_000, round(_LARGE * min(1.0, effort)))) as databases:
        for name in parts:
            began = time.perf_counter()
            if name in _ON_SERVERS:
                part = _ON_SERVERS[name]
                yield stages.measure(name, lambda stage: part(stage, effort))  # noqa: B023 - called at once
            elif name in _WHEN_NAMED:
                for one in _WHEN_NAMED[name](effort):
                    print(one.name, file=sys.stderr)
                    yield [one]  # what comes next may take many minutes
            else:
                yield _ON_DATABASES[name](databases, effort)
            print(f"{name}: measured in {time.perf_counter() - began:.0f} s", file=sys.stderr)


@contextmanager
def _told(results: Sequence[Result]) -> Iterator[None]:
    """The table is printed in any case: what has been measured is not lost to what could not be."""
    try:
        yield
    finally:
        print(f"{table(results)}\n{_NOTES}")


def main() -> int:
    usual = [*_ON_SERVERS, *_ON_DATABASES]
    every = [*usual, *_WHEN_NAMED]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=_HELP.format(", ".join(usual), ", ".join(_WHEN_NAMED))
    )
    parser.add_argument(
        "--effort", type=float, default=1.0, help="how many rounds, as a multiple of the usual"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(every):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    collect_seldom()  # as the commands do
    run([*dualcert(), "--help"])  # compiles what is not compiled yet
    results: list[Result] = []
    with _told(results):
        for found in _measured([one for one in every if one in (chosen.parts or usual)], chosen.effort):
            results += found
    if not chosen.parts:
        write(results)
        print(f"written to {FILE.relative_to(FILE.parents[1])}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
