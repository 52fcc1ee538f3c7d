"""``dualcert renew``"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import pairs
from dualcert.cli.context import Context
from dualcert.cli.frame import Argument, Command, pass_context
from dualcert.cli.issue import conclude
from dualcert.cli.output import cell, hanging, note, print_json, say
from dualcert.cli.progress import drive, duration, timeout_option
from dualcert.errors import EXIT_DONE, EXIT_FAILED, EXIT_PARTIAL, UsageProblem
from dualcert.model.wording import many, typed
from dualcert.model.work import BUDGET, FROZEN, HELD

if TYPE_CHECKING:
    from dualcert.lifecycle.world import World

_EXAMPLES = """
dualcert renew --due                # what a scheduled run does: every few hours is enough
dualcert renew example.com          # what this pair lacks, without waiting for the next try
dualcert renew example.com --force  # new certificates although nothing is due
"""
_EXITS = {
    EXIT_DONE: "Nothing is left to do.",
    EXIT_FAILED: "Something failed, and nothing was done; what is left is remembered.",
    EXIT_PARTIAL: "Done in part, or what is left only waits, for a CA's budget or another step; it is told what.",
}


@click.command(
    "renew",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert run", "dualcert show", "docs/renewal.md", "docs/budgets.md"),
)
@click.argument(
    "names",
    cls=Argument,
    nargs=-1,
    metavar="[NAME...]",
    shell_complete=pairs,
    help="Pairs, by their names or by names that they cover.",
)
@click.option("--due", is_flag=True, help="Everything that is due, in all pairs.")
@click.option("--force", is_flag=True, help="Order although nothing is due; needs a NAME.")
@timeout_option()
@pass_context
def renew(context: Context, names: tuple[str, ...], due: bool, force: bool, timeout: str) -> int:
    """Renew what is due, refill what was emptied, finish what was interrupted.

    A certificate is renewed when its CA suggests it, or after two thirds of its life (half of it under ten days),
    whichever is earlier; a pair's two are renewed together where they are due at about the same time. A primary that
    cannot be renewed is left for its backup before it expires.

    With --due nothing is hurried: a failed order is tried again when its time has come, which is waited for if it comes
    within --timeout. With a NAME back-off is ignored. Where an order is under way in another process it is followed.
    """
    if bool(names) == due:
        raise UsageProblem("say either --due or at least one NAME", remedy="See dualcert renew --help.")
    if force and not names:
        raise UsageProblem("--force wants the NAME of each pair", remedy="See dualcert renew --help.")
    seconds = duration(timeout)
    return _named(context, names, force, seconds) if names else run_due(context, seconds)


def _named(context: Context, names: tuple[str, ...], force: bool, seconds: float) -> int:
    from dualcert.lifecycle import inventory
    from dualcert.lifecycle.driver import Scope, patiently

    world = context.application.world
    pairs = [inventory.resolve(world, name) for name in names]
    for pair in pairs:
        patiently(world, seconds, partial(inventory.renew, world, pair, force=force))
    drive(context, Scope(frozenset(pair.id for pair in pairs), inventory.ISSUING), seconds)
    worst = {patiently(world, seconds, partial(conclude, context, pair.name, ordered=True)) for pair in pairs}
    if worst == {EXIT_DONE}:
        return EXIT_DONE
    return EXIT_FAILED if worst == {EXIT_FAILED} else EXIT_PARTIAL


def run_due(context: Context, seconds: float, *, once: bool = False) -> int:
    """Everything that is due. With ``once`` what other processes hold is left to them, and nothing is said where
    nothing is left: what cron prints, it mails."""
    from dualcert.lifecycle import proving, renewal
    from dualcert.lifecycle.driver import Scope, patiently
    from dualcert.lifecycle.incidents import opening

    world = context.application.world
    until = world.clock.now() + timedelta(seconds=seconds)
    patiently(world, seconds, lambda: opening.finish_closes(world))
    opened = patiently(world, seconds, lambda: _open_all(world))
    before = patiently(world, seconds, lambda: renewal.outstanding(world))
    drive(context, Scope(), seconds, follow=not once)
    # What was asked or has failed meanwhile may have made more due.
    while world.clock.now() < until and (more := patiently(world, seconds, lambda: _open_all(world))):
        opened += more
        drive(context, Scope(), (until - world.clock.now()).total_seconds(), follow=not once)
    destroyed = patiently(world, seconds, lambda: _destroy_ended(world))
    patiently(world, seconds, lambda: proving.prove_until(world, until))
    left = patiently(world, seconds, lambda: renewal.outstanding(world))
    not_asked = patiently(world, seconds, lambda: renewal.not_asked(world))
    if context.json:
        told = {"renewals_opened": opened, "steps_due": len(before), "left": left}
        print_json({**told, "not_asked": not_asked, "keys_destroyed": destroyed})
    elif left or not once:
        say(f"{_counted(len(before))} due, {len(left)} left")
        if destroyed:
            say(f"  destroyed: {many(destroyed, 'private key')} that nothing needs any more")
        say_left(world, left)
    for one in not_asked:
        note(f"CA {one['ca']} does not say when it would like renewals: {one['reason'] or 'under way'}")
    return _status(before, left)


def say_left(world: World, left: Sequence[Mapping[str, Any]]) -> None:
    """A line for each step that is not finished, and what a person may do about it."""
    from dualcert.lifecycle import closing
    from dualcert.lifecycle.incidents import refills

    now = world.clock.now()
    closed = {step["ca"] for step in left if step["waiting_for"] == FROZEN}
    reopening = {ca: closing.recorded(world, ca).reopening for ca in closed}
    held = {step["ca"] for step in left if step["waiting_for"] == HELD}
    letting_go = {ca: refills.letting_go_of(world, ca) for ca in held}
    for step in left:
        where = step["ca"] or step["target"] or ""
        say(f"  {step['pair']} {where}: {step['step']}: {hanging(step['reason'] or 'under way', 4)}")
        at = step["due_at"]
        if step["waiting_for"] == FROZEN:
            say(f"    When that is over: dualcert {reopening[step['ca']]}")
        elif step["waiting_for"] == HELD:
            say(f"    When {step['ca']} is to issue again: {letting_go[step['ca']]}")
        # What waits for a budget says until when by itself.
        elif at is not None and at > now and step["waiting_for"] != BUDGET:
            verb = "remove" if step["removed"] else "renew"
            say(f"    Next try at {cell(at)}; to try sooner: dualcert {verb} {typed(step['pair'])}")


def _status(before: Sequence[Mapping[str, Any]], left: Sequence[Mapping[str, Any]]) -> int:
    """A run that could do nothing has failed where something went wrong; it has not where everything that is left only
    waits, for a permit of its CA or for its turn: whoever comes next goes on with that."""
    if not left:
        return EXIT_DONE
    done = {*map(_subject, before)} - {*map(_subject, left)}
    # Having been asked to come back later counts as a try, and yet nothing has failed.
    failing = any(one["tries"] and one["waiting_for"] != BUDGET for one in left)
    return EXIT_FAILED if failing and not done else EXIT_PARTIAL


def _subject(step: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(step[key] for key in ("pair", "step", "ca", "target"))


def _open_all(world: World) -> int:
    from dualcert.lifecycle import renewal

    opened = 0
    while count := renewal.open_due(world):
        opened += count
    return opened


def _destroy_ended(world: World) -> int:
    from dualcert.lifecycle import destruction

    destroyed = 0
    while count := destruction.destroy_ended(world):
        destroyed += count
    return destroyed


def _counted(steps: int) -> str:
    return "1 step was" if steps == 1 else f"{steps or 'no'} steps were"
