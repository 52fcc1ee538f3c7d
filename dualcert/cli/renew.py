"""``dualcert renew``"""

from __future__ import annotations

import click

from dualcert.cli.context import Context
from dualcert.cli.frame import Command, pass_context
from dualcert.cli.issue import conclude
from dualcert.cli.output import print_json, say
from dualcert.cli.progress import drive, duration
from dualcert.errors import EXIT_DONE, EXIT_FAILED, EXIT_PARTIAL, UsageProblem

_EPILOG = """
\b
Examples:
  dualcert renew --due                what a scheduled run does: every few hours is enough
  dualcert renew example.com          what this pair lacks, without waiting for the next try
  dualcert renew example.com --force  new certificates although nothing is due
"""


@click.command("renew", cls=Command, epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--due", is_flag=True, help="Everything that is due, in all pairs.")
@click.option("--force", is_flag=True, help="Order although nothing is due; needs a NAME.")
@click.option(
    "--timeout", default="5m", show_default=True, metavar="TIME", help="How long to wait for what is left."
)
@pass_context
def renew(context: Context, names: tuple[str, ...], due: bool, force: bool, timeout: str) -> int:
    """Renew what is due, refill what was emptied, finish what was interrupted.

    With --due nothing is hurried: a failed order is tried again when its time has come. With a NAME back-off is
    ignored. Where an order is under way in another process it is followed.
    """
    if bool(names) == due:
        raise UsageProblem("say either --due or at least one NAME", remedy="See dualcert renew --help.")
    if force and not names:
        raise UsageProblem("--force wants the NAME of each pair", remedy="See dualcert renew --help.")
    seconds = duration(timeout)
    return _named(context, names, force, seconds) if names else _due(context, seconds)


def _named(context: Context, names: tuple[str, ...], force: bool, seconds: float) -> int:
    from dualcert.lifecycle import inventory
    from dualcert.lifecycle.driver import Scope

    world = context.application.world
    pairs = [inventory.resolve(world, name) for name in names]
    for pair in pairs:
        inventory.renew(world, pair, force=force)
    drive(context, Scope(frozenset(pair.id for pair in pairs), inventory.ISSUING), seconds)
    worst = {conclude(context, pair.name) for pair in pairs}
    if worst == {EXIT_DONE}:
        return EXIT_DONE
    return EXIT_FAILED if worst == {EXIT_FAILED} else EXIT_PARTIAL


def _due(context: Context, seconds: float) -> int:
    from dualcert.lifecycle import renewal
    from dualcert.lifecycle.driver import Scope

    world = context.application.world
    opened = 0
    while count := renewal.open_due(world):
        opened += count
    before = renewal.outstanding(world)
    drive(context, Scope(), seconds)
    left = renewal.outstanding(world)
    failing = [one for one in left if one["tries"]]
    if context.json:
        print_json({"renewals_opened": opened, "steps_due": len(before), "left": left})
    else:
        say(f"{_counted(len(before))} due, {len(left)} left")
        for one in left:
            say(
                f"  {one['pair']} {one['ca'] or one['target'] or ''}: {one['step']}: {one['reason'] or 'under way'}"
            )
    if not left:
        return EXIT_DONE
    if failing and len(left) >= len(before):
        return EXIT_FAILED
    return EXIT_PARTIAL


def _counted(steps: int) -> str:
    return "1 step was" if steps == 1 else f"{steps or 'no'} steps were"
