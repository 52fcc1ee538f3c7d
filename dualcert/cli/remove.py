"""``dualcert remove``"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import pairs, tables
from dualcert.cli.context import Context
from dualcert.cli.failover import REASONS
from dualcert.cli.frame import REFUSED, Argument, Command, pass_context
from dualcert.cli.output import agreed, cell, note, print_json, say
from dualcert.cli.progress import drive, duration, timeout_option
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, Refused, UsageProblem
from dualcert.model.wording import typed

if TYPE_CHECKING:
    from dualcert.lifecycle.world import World
    from dualcert.model.pair import Pair
    from dualcert.store.removal import Former

_EXAMPLES = """
dualcert remove example.com
dualcert remove example.com --revoke --yes
dualcert remove example.com --leave web      # web is gone for good
"""
_EXITS = {
    EXIT_DONE: "Nothing of it is left anywhere.",
    EXIT_PARTIAL: "It is removed, but a target or a CA is still to be seen to; the same command goes on, and so does "
    "whatever runs dualcert renew --due.",
    **REFUSED,
}


@click.command(
    "remove",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert events", "dualcert pair set --no-targets"),
)
@click.argument(
    "name",
    cls=Argument,
    metavar="NAME",
    shell_complete=pairs,
    help="A pair's name, or a name that it covers.",
)
@click.option(
    "--revoke",
    is_flag=True,
    help="Revoke both certificates once they have left every target, or after a day.",
)
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    help="Why, for the CAs; implies --revoke. Unsaid: cessationOfOperation.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--leave",
    metavar="TARGET",
    multiple=True,
    shell_complete=tables("target"),
    help="Do not wait for this target any more: it is gone for good.",
)
@timeout_option()
@pass_context
def remove(
    context: Context,
    name: str,
    revoke: bool,
    reason: str | None,
    yes: bool,
    leave: tuple[str, ...],
    timeout: str,
) -> int:
    """End a pair: its files and keys leave every target, its orders are given up, its name is free.

    What happened stays: dualcert events NAME. Its keys stay wrapped in the database until their certificates end, so
    that these can still be revoked: the same command with --revoke does it at any time until then.
    """
    from dualcert.lifecycle import removal
    from dualcert.lifecycle.driver import Scope
    from dualcert.model.signal import Reason

    seconds = duration(timeout)
    why = Reason(reason) if reason else Reason.CESSATION_OF_OPERATION if revoke else None
    world = context.application.world
    pair, former = _find(world, name)
    if pair is not None:
        if not yes:
            _confirm(pair, revoke=why is not None)
        former = removal.remove(world, pair, why)
    elif former is not None:
        removal.go_on(world, former, why)
    else:
        raise AssertionError("neither a pair nor what is left of one")
    for target in leave:
        removal.give_up(world, former, target)
    drive(context, Scope(frozenset([former.pair_id]), removal.STEPS), seconds)
    return _conclude(context, former)


def _find(world: World, name: str) -> tuple[Pair | None, Former | None]:
    """The pair of this very name, or, where there is none, the last one that had it."""
    from dualcert.lifecycle import inventory, removal

    former = next(iter(removal.find(world, name)), None)
    try:
        pair = inventory.resolve(world, name)
    except UsageProblem:
        if former is None:
            raise
        return None, former
    if removal.is_called(pair, name):
        return pair, None
    if former is not None:
        return None, former
    # Said again after its own pair is gone, a name must not end another pair that happens to cover it.
    raise UsageProblem(
        f"no pair is called {name}; {pair.name} covers it",
        remedy=f"To end that one, say its own name: dualcert remove {typed(pair.name)}",
        name=name,
    )


def _confirm(pair: Pair, *, revoke: bool) -> None:
    if not sys.stdin.isatty():
        raise UsageProblem(
            "this ends the pair for good, and nobody can be asked",
            remedy="Say --yes as well.",
            name=pair.name,
        )
    where = ", ".join(pair.targets) or "no target"
    note(f"{pair.name} covers {', '.join(pair.names)} and is served from {where}.")
    note("Its certificates are revoked then." if revoke else "Its certificates stay valid until they end.")
    if not agreed("End this pair?"):
        raise Refused("nothing was changed", name=pair.name)


def _conclude(context: Context, former: Former) -> int:
    from dualcert.lifecycle import removal

    shown = removal.state_of(context.application.world, former)
    print_json(shown) if context.json else _tell(shown)
    for step in shown["unfinished"]:
        about = " ".join(part for part in (step["step"], step["target"], step["ca"]) if part)
        note(f"{former.name}: {about}: {step['reason'] or 'under way'}")
    return EXIT_PARTIAL if shown["unfinished"] else EXIT_DONE


def _tell(shown: dict[str, Any]) -> None:
    say(f"{shown['pair']} is removed ({cell(shown['removed_at'])})")
    for one in shown["certificates"]:
        what = "revoked" if one["revoked"] else f"valid until {cell(one['not_after'])}"
        say(f"  {one['ca']}, serial {cell(one['serial'])}: {what}")
