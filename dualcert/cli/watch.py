"""``dualcert watch``"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.context import Context
from dualcert.cli.frame import Command, pass_context
from dualcert.cli.output import Column, note, print_columns, print_json, say
from dualcert.cli.progress import GRACE, drive, duration
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, UsageProblem
from dualcert.model.wording import many

if TYPE_CHECKING:
    from dualcert.lifecycle.watching.keys import Looked
    from dualcert.lifecycle.watching.rounds import Round
    from dualcert.lifecycle.watching.telling import Standing

_USUAL = "5m"
_TOLD_EACH = 10_000
_AWAY = 3600.0
"""How long the database may be away, in seconds, before watching is given up."""

_EXAMPLES = """
dualcert watch --once                # ask every source now, and act on what it says
dualcert watch --once --keys         # the same, and look for weaknesses in every key that is in use
dualcert watch                       # go on asking until it is told to stop
dualcert watch --once --json | jq '.sources[] | select(.state == "blind" or .not_answered > 0)'
"""
_EXITS = {
    EXIT_DONE: "Every source gave a good answer, and what follows from it is done. Certificates that name no source, "
    "`blind (no source)`, change nothing of that.",
    EXIT_PARTIAL: "A source is blind, the brake holds, a person is asked, or something that follows is not finished.",
}


@click.command(
    "watch",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert run", "dualcert failover", "docs/watching.md"),
)
@click.option("--once", is_flag=True, help="Ask every source once, now, then end.")
@click.option(
    "--keys",
    is_flag=True,
    help="With --once: also look at the key of every certificate, with badkeys. Takes about a millisecond for each.",
)
@click.option(
    "--timeout",
    metavar="TIME",
    help=f"With --once: how long to wait for what follows, such as deployments; {GRACE}  [default: 5m]",
)
@pass_context
def watch(context: Context, once: bool, keys: bool, timeout: str | None) -> int:
    """Ask the CAs what they have revoked, and turn to the backup where that concerns what serves.

    Asked are the CRLs and OCSP responders that certificates name, those of intermediates too, and what `[ca.NAME] crl`
    adds. An answer counts if the CA has signed it and it is fresh; a source without one is blind, never good. The
    daemon does the same by itself.

    A pair whose serving certificate is revoked is promoted to its backup, deployed, verified and refilled, unless
    `[watch] promote` says otherwise. Where that would be many pairs at once the brake holds: none of them turns, and
    an incident with a plan is opened.

    A key with a known weakness is as good as leaked. badkeys, where it is installed, looks at every key that enters;
    --keys looks at those that are there, because more becomes known. A weak one is blocked, and left in the same way.
    """
    if (timeout is not None or keys) and not once:
        option = "--keys" if keys else "--timeout"
        raise UsageProblem(f"{option} goes with --once", remedy="See dualcert watch --help.")
    if once:
        return _once(context, duration(timeout or _USUAL), keys=keys)
    _go_on(context)
    return EXIT_DONE


def _once(context: Context, seconds: float, *, keys: bool) -> int:
    from dualcert.lifecycle.driver import Scope, patiently
    from dualcert.lifecycle.promotion import AFTERMATH
    from dualcert.lifecycle.watching import asking, braked, places, telling, turning
    from dualcert.lifecycle.watching.rounds import Round
    from dualcert.model.work import WorkKind

    world = context.application.world
    looked = patiently(world, seconds, lambda: _look(context)) if keys else None

    done = Round()

    def ask() -> None:
        while places.register_older(world):
            pass
        braked.mind_what_is_closed(world)
        asking.ask_due(world, all_of_them=True, found=looked.turnings if looked else (), done=done)
        braked.run_in_waves(world)

    patiently(world, seconds, ask)
    if not done.decided.held:
        done.decided += patiently(world, seconds, lambda: braked.waiting(world))
    pairs = frozenset(done.decided.turning)
    if pairs:
        drive(context, Scope(pairs, (WorkKind.SIGNAL, *AFTERMATH)), seconds)
    turned = patiently(world, seconds, lambda: turning.outcomes(world, pairs))
    standings = patiently(world, seconds, lambda: telling.standings(world))
    waiting = patiently(world, seconds, lambda: telling.overdue(world))
    if context.json:
        print_json(_data(done, turned, standings, waiting, looked))
    else:
        _tell(done, turned, standings, waiting)
        if looked is not None:
            _tell_of_keys(looked)
    waits = done.decided.held or done.decided.asked
    unfinished = waits or any(not one["promoted"] for one in turned)
    above = looked is not None and looked.authorities
    return EXIT_PARTIAL if unfinished or above or any(one.blind for one in standings) else EXIT_DONE


def _look(context: Context) -> Looked:
    from dualcert.lifecycle.watching import keys

    def progress(number: int) -> None:
        if number % _TOLD_EACH == 0:
            note(f"{number} keys looked at")

    watched = sys.stderr.isatty() and not context.json
    return keys.look_at_all(context.application.world, *([progress] if watched else []))


def _data(
    done: Round,
    pairs: list[dict[str, Any]],
    standings: list[Standing],
    waiting: dict[str, int],
    looked: Looked | None,
) -> dict[str, Any]:
    decided = done.decided
    return {
        "asked": done.asked,
        "revoked": done.revoked,
        "turned": pairs,
        "ask": len(decided.asked),
        "held": decided.held,
        "incident": decided.incident,
        "why": decided.why,
        "command": decided.command,
        "not_asked_about": done.unasked + sum(waiting.values()),
        "keys": {"looked_at": looked.keys, "weak": looked.weak, "authorities": looked.authorities}
        if looked is not None
        else None,
        "sources": [one.told() for one in standings],
    }


_COLUMNS = (
    Column("CA", 12),
    Column("KIND", 10),
    Column("STATE", 17),
    Column("GOOD", 7),
    Column("CERTIFICATES", 12, right=True),
    Column("PLACE"),
)


def _tell(
    done: Round, pairs: list[dict[str, Any]], standings: list[Standing], waiting: dict[str, int]
) -> None:
    from dualcert.lifecycle.watching.telling import ago, left_out

    print_columns(
        _COLUMNS,
        (
            (
                one.source.ca,
                one.source.kind.value,
                one.state,
                ago(one.age) if one.age is not None else None,
                str(one.certificates),
                one.source.place or None,
            )
            for one in standings
        ),
    )
    for one in standings:
        if one.source.problem:
            note(f"{one.source.place}: {one.source.problem}")
        if one.blind_ones:
            note(f"{one.source.place}: no answer that counts for {many(one.blind_ones, 'certificate')}")
    if done.unasked:
        note(
            f"{many(done.unasked, 'certificate was', 'certificates were')} not asked about: there were too many for "
            "one round, and a sample by CA and hour of issuance was taken"
        )
    for ca, number in waiting.items():
        note(f"{ca}: {left_out(number)}")
    if done.revoked:
        say(f"{many(done.revoked, 'certificate of ours is', 'certificates of ours are')} revoked")
    for pair in pairs:
        say(f"{pair['pair']}: " + ("promoted" if pair["promoted"] else f"not promoted: {pair['problem']}"))
    decided = done.decided
    if decided.asked:
        waiting_pairs = many(len(decided.asked), "pair waits", "pairs wait")
        say(f"{waiting_pairs} for a person: dualcert events says which")
    if decided.held:
        say(f"the brake holds {many(decided.held, 'pair')}: {decided.why}")
        if decided.command:
            say(f"  {decided.command}")


def _tell_of_keys(looked: Looked) -> None:
    looked_at = many(looked.keys, "key was", "keys were")
    say(f"{looked_at} looked at, and {many(looked.weak, 'of them is', 'of them are')} weak")
    for one in looked.authorities:
        say(f"  {one}")
    if looked.weak:
        note("`dualcert events` says which, and how each is revoked (key-blocked)")


def _go_on(context: Context) -> None:
    """Until it is interrupted, which it may be at any point."""
    from dualcert.cli import logs
    from dualcert.lifecycle.driver import Scope, patiently
    from dualcert.lifecycle.promotion import AFTERMATH
    from dualcert.lifecycle.watching.job import IDLE, turn, waves
    from dualcert.lifecycle.watching.rounds import Round
    from dualcert.model.work import WorkKind

    # What goes on unseen is wanted in a journal without being asked for.
    logs.configure(context.verbosity + 1, context.log_format)
    world = context.application.world
    while True:
        more, done = patiently(world, _AWAY, partial(turn, world, Round()))
        if done.decided.turning:
            scope = Scope(frozenset(done.decided.turning), (WorkKind.SIGNAL, *AFTERMATH))
            drive(context, scope, duration(_USUAL))
        patiently(world, _AWAY, partial(waves, world))
        if not more:
            world.clock.sleep(IDLE)
