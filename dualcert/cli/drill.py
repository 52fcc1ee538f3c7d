"""``dualcert drill``"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from dualcert.cli.completion import pairs
from dualcert.cli.context import Context
from dualcert.cli.frame import Argument, Command, pass_context
from dualcert.cli.output import flush, note, print_json, say
from dualcert.errors import EXIT_DONE, EXIT_FAILED, UsageProblem

if TYPE_CHECKING:
    from dualcert.lifecycle.drill import Drilled, Reached
    from dualcert.lifecycle.world import World
    from dualcert.model.pair import Pair

_EXAMPLES = """
dualcert drill example.com
dualcert drill --sample 1%          # for a timer: another hundredth each night
dualcert drill --json | jq -r 'select(.ok | not) | .pair // .ca'
"""
_EXITS = {
    EXIT_DONE: "Every backup that was tried would serve, and the CAs were reached.",
    EXIT_FAILED: "One would not; each is named, with why.",
}


@click.command(
    "drill",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert check", "dualcert failover --dry-run", "docs/drill.md"),
)
@click.argument(
    "name",
    cls=Argument,
    metavar="[NAME]",
    required=False,
    shell_complete=pairs,
    help="A pair's name, or a name that it covers. Unsaid: all pairs.",
)
@click.option(
    "--sample", metavar="PERCENT", help="Only so many of all pairs, drawn anew each time; 1% or 0.5%."
)
@pass_context
def drill(context: Context, name: str | None, sample: str | None) -> int:
    """Prove today that backups would work; nothing is moved.

    The backup's key is opened and compared with its certificate; chain, names, dates, and all that is known of
    revocations and incidents are checked; then a TLS server on loopback shows it to a client that trusts the CA's
    roots. The CAs are asked for their directories. What passes counts as a proven backup for another 30 days; what
    does not is no backup to a mass failover until it passes.
    """
    from dualcert.lifecycle import drill as drills

    if name is not None and sample is not None:
        raise UsageProblem("NAME and --sample contradict each other", remedy="Say one of them.")
    world = context.application.world
    seen = _Seen(json=context.json)
    for pair in _chosen(world, name, sample):
        seen.pair(drills.rehearse(world, pair))
    for reached in drills.directories(world, world.cas):
        seen.ca(reached)
    return seen.conclude()


def _chosen(world: World, name: str | None, sample: str | None) -> Iterator[Pair]:
    from dualcert.lifecycle import drill as drills
    from dualcert.lifecycle import inventory

    if name is not None:
        return iter([inventory.resolve(world, name)])
    return drills.every(world) if sample is None else drills.sample(world, _share(sample))


def _share(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1
    if not 0 < percent <= 100:
        raise UsageProblem(
            "--sample takes a part of all pairs in percent", remedy="Write it like 1% or 0.5%."
        )
    return percent / 100


class _Seen:
    """What was tried, told as it comes, and counted."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._tried = 0
        self._bad = 0

    def pair(self, one: Drilled) -> None:
        self._count(bad=bool(one.problems))
        held = one.certificate
        if self._json:
            print_json(
                {
                    "pair": one.pair,
                    "ca": one.ca,
                    "ok": not one.problems,
                    "serial": held.serial if held else None,
                    "not_after": held.not_after if held else None,
                    "handshake": one.handshake,
                    "problems": list(one.problems),
                }
            )
        elif one.problems:
            say(f"PROBLEM  {one.pair}: the backup from {one.ca} would not serve: {'; '.join(one.problems)}")
        else:
            say(f"ok       {one.pair}: {one.ca}, {one.handshake}")
        flush()

    def ca(self, one: Reached) -> None:
        self._count(bad=one.problem is not None)
        if self._json:
            print_json({"ca": one.ca, "ok": one.problem is None, "problem": one.problem})
        elif one.problem is not None:
            say(f"PROBLEM  CA {one.ca}: {one.problem}")
        else:
            say(f"ok       CA {one.ca}: its directory answers")
        flush()

    def _count(self, *, bad: bool) -> None:
        self._tried += 1
        self._bad += bad

    def conclude(self) -> int:
        if self._bad:
            note(f"{self._bad} of {self._tried} failed; a new backup: dualcert renew NAME --force")
        return EXIT_FAILED if self._bad else EXIT_DONE
