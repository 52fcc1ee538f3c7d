"""Measure everything, print the table, write ``results.json``. Names of parts as arguments measure these alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from bench import commands, failovers, issuance, sealing, watching
from bench.results import FILE, Result, table, write
from bench.stage import Stage, dualcert, run, set_up
from dualcert.cli import collect_seldom

_PARTS: dict[str, Callable[[Stage, float], list[Result]]] = {
    "pair": lambda stage, effort: issuance.one_pair(stage, _rounds(60, effort)),
    "four": lambda stage, effort: issuance.four_at_once(stage, _rounds(5, effort)),
    "issue": lambda stage, effort: commands.issue(stage, _rounds(11, effort)),
    "failover": lambda stage, effort: failovers.commands(stage, _rounds(10, effort)),
    "promotion": lambda stage, effort: failovers.in_process(stage, _rounds(60, effort)),
    "sealing": lambda stage, effort: sealing.seal_and_verify(stage, _rounds(3, effort)),
    "watching": lambda stage, effort: watching.a_million(stage, _rounds(3, effort)),
    "small": lambda stage, effort: commands.small(stage, _rounds(9, effort)),
}

_NOTES = """\
Medians; what is compared took turns within this run. The CAs are asked directly, not through the limiter in front of
them: never more than four requests are under way at one. Pebble runs without retryAfter, sleeps and rejected nonces
and reuses no authorization. The floor is the faster one of its two ways; it neither checks nor deploys anything.
"""


def _rounds(usual: int, effort: float) -> int:
    return max(2, round(usual * effort))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(_PARTS)}; unsaid: all")
    parser.add_argument(
        "--effort", type=float, default=1.0, help="how many rounds, as a multiple of the usual"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(_PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    collect_seldom()  # as the commands do
    run([*dualcert(), "--help"])  # compiles what is not compiled yet
    results: list[Result] = []
    with set_up() as stage:
        for name in chosen.parts or _PARTS:
            began = time.perf_counter()
            results += _PARTS[name](stage, chosen.effort)
            print(f"{name}: measured in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print(f"{table(results)}\n{_NOTES}")
    if not chosen.parts:
        write(results)
        print(f"written to {FILE.relative_to(FILE.parents[1])}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
