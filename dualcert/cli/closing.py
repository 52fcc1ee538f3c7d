"""``dualcert freeze``, ``thaw`` and ``distrust``"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import tables
from dualcert.cli.context import Context
from dualcert.cli.frame import REFUSED, Argument, Command, pass_context
from dualcert.cli.output import note, print_json, say
from dualcert.cli.progress import moment
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, UsageProblem
from dualcert.model.wording import many

if TYPE_CHECKING:
    from dualcert.store.standings import CaStanding

_SEE = ("dualcert incident", "dualcert pair move", "docs/ca-trouble.md")
_NAMED = 20

_FREEZE_EXAMPLES = "dualcert freeze alpha"
_THAW_EXAMPLES = "dualcert thaw alpha"
_DISTRUST_EXAMPLES = """
dualcert distrust alpha
dualcert distrust alpha --after 2026-03-01     # what it issued before is good
dualcert distrust alpha --lift
"""


@click.command("freeze", cls=Command, examples=_FREEZE_EXAMPLES, see=_SEE)
@click.argument("ca", cls=Argument, metavar="CA", shell_complete=tables("ca"), help="A [ca.X].")
@pass_context
def freeze(context: Context, ca: str) -> None:
    """Send no more orders to a CA.

    Renewals and refills there wait, and say so in show, list and check. Orders that the CA has already are brought to
    an end. A pair that it serves is moved to its backup when less than a tenth of the certificate's life is left.
    """
    from dualcert.lifecycle import closing

    world = context.application.world
    changed = closing.freeze(world, ca)
    _tell(
        context, closing.standing(world, ca), changed, "frozen: no order goes there", "it is frozen already"
    )


@click.command("thaw", cls=Command, examples=_THAW_EXAMPLES, exits=REFUSED, see=_SEE)
@click.argument("ca", cls=Argument, metavar="CA", shell_complete=tables("ca"), help="A [ca.X].")
@pass_context
def thaw(context: Context, ca: str) -> None:
    """Send orders to a CA again.

    What has waited is due at once, refills that an incident holds there too; dualcert renew --due or the daemon places
    it, as fast as the CA's budgets allow.
    """
    from dualcert.lifecycle import closing

    world = context.application.world
    changed = closing.thaw(world, ca)
    _tell(
        context, closing.standing(world, ca), changed, "orders go there again", "nothing was kept back there"
    )


@click.command(
    "distrust",
    cls=Command,
    examples=_DISTRUST_EXAMPLES,
    exits={
        EXIT_PARTIAL: "Distrusted, but pairs are named that could not be moved to a spare; say it again later."
    },
    see=_SEE,
)
@click.argument("ca", cls=Argument, metavar="CA", shell_complete=tables("ca"), help="A [ca.X].")
@click.option("--after", metavar="DATE", help="Only certificates whose notBefore is later; 2026-03-01, UTC.")
@click.option("--lift", is_flag=True, help="Rely on the CA again. What has moved away stays where it is.")
@pass_context
def distrust(context: Context, ca: str, after: str | None, lift: bool) -> int:
    """Rely on a CA no more.

    None of its certificates counts as a backup, or with --after none that it issued later; no order goes there. Its
    lineages are replaced by lineages of the CAs that `[defaults] spares` names: they are ordered, and swapped in when
    they are there. What serves goes on serving until then.
    """
    from dualcert.lifecycle import closing

    world = context.application.world
    if lift:
        if after is not None:
            raise UsageProblem("--lift and --after contradict each other", remedy="Say one of them.")
        changed = closing.lift(world, ca)
        _tell(context, closing.standing(world, ca), changed, "it is relied on again", "it was not distrusted")
        return EXIT_DONE
    changed = closing.distrust(world, ca, None if after is None else _date(after))
    moved, stuck = 0, []
    for one in closing.replace(world, ca):
        if one.problem is None:
            moved += 1
        else:
            stuck.append(f"{one.name}: {one.problem}")
    since = closing.standing(world, ca).distrust_after
    which = "its certificates are no backups"
    if since is not None:
        which = f"what it issued after {since:%Y-%m-%d %H:%M} UTC is no backup"
    told = f"{which}, and no order goes there"
    more = {"moved": moved, "not_moved": len(stuck)}
    _tell(context, closing.standing(world, ca), changed, told, "it is distrusted already", more)
    if moved and not context.json:
        say(
            f"  {many(moved, 'pair moves', 'pairs move')} to a spare; dualcert renew --due, or the daemon, orders there"
        )
    for problem in stuck[:_NAMED]:
        note(problem)
    if len(stuck) > _NAMED:
        note(f"and {len(stuck) - _NAMED} more stay for the same kinds of reasons")
    return EXIT_PARTIAL if stuck else EXIT_DONE


def _date(text: str) -> datetime:
    try:
        return moment(text)
    except ValueError:
        raise UsageProblem(f"--after {text} is no date", remedy="Write it like 2026-03-01.") from None


def _tell(
    context: Context,
    now: CaStanding,
    changed: bool,
    done: str,
    was: str,
    more: dict[str, Any] | None = None,
) -> None:
    if context.json:
        print_json(
            {
                "ca": now.ca,
                "changed": changed,
                "frozen_at": now.frozen_at,
                "frozen_by": now.frozen_by,
                "distrusted_at": now.distrusted_at,
                "distrusted_by": now.distrusted_by,
                "distrust_after": now.distrust_after,
                **(more or {}),
            }
        )
    else:
        say(f"{now.ca}: {done if changed else was}")
