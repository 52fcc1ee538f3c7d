"""``dualcert failover``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import pairs, tables
from dualcert.cli.context import Context
from dualcert.cli.frame import REFUSED, Argument, Command, pass_context
from dualcert.cli.output import note, print_json, say
from dualcert.cli.progress import drive, duration, timeout_option, until
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, Refused
from dualcert.model.wording import typed

if TYPE_CHECKING:
    from datetime import datetime

    from dualcert.lifecycle.promotion import Turn, Wish

REASONS = ("unspecified", "keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation")

_EXAMPLES = """
dualcert failover example.com
dualcert failover example.com --revoke --reason keyCompromise
dualcert failover example.com --to alpha        # back again
dualcert failover example.com --dry-run
"""
_EXITS = {
    EXIT_DONE: "Promoted, and seen at every target; or that CA serves already.",
    EXIT_PARTIAL: "Promoted, but something is not finished; the same command goes on.",
    **REFUSED,
}
_OTHERWISE = (
    "With --revoke in its place, a time that was said before stands; --revoke-unverified waits for nothing."
)


@click.command(
    "failover",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert show", "dualcert revoke", "dualcert renew --due", "docs/security.md"),
)
@click.argument(
    "name",
    cls=Argument,
    metavar="NAME",
    shell_complete=pairs,
    help="A pair's name, or a name that it covers.",
)
@click.option(
    "--to",
    metavar="CA",
    shell_complete=tables("ca"),
    help="The CA that is to serve. Unsaid: the one that stands by.",
)
@click.option(
    "--reason", type=click.Choice(REASONS), help="Why: for the events, and for the CA. Unsaid: superseded."
)
@click.option(
    "--revoke", is_flag=True, help="Revoke what served, once the new certificate was seen everywhere."
)
@click.option(
    "--revoke-unverified", is_flag=True, help="Revoke without having seen the new one; implies --revoke."
)
@click.option(
    "--revoke-by",
    metavar="TIME",
    help="Until when to wait for that: so long from now, or a time; implies --revoke. Unsaid: 24h.",
)
@click.option("--dry-run", is_flag=True, help="Check, and say what would be done.")
@timeout_option()
@pass_context
def failover(
    context: Context,
    name: str,
    to: str | None,
    reason: str | None,
    revoke: bool,
    revoke_unverified: bool,
    revoke_by: str | None,
    dry_run: bool,
    timeout: str,
) -> int:
    """Serve the backup's certificate now.

    The backup's key is opened and its certificate checked; then it is promoted, deployed to every target of the pair
    and looked at with a handshake. No CA is needed for that. Only after it was seen everywhere is the replaced
    certificate revoked (--revoke), or a day later all the same (--revoke-by); its lineage is filled again at the next
    `dualcert renew --due`.

    This states a goal: away from the CA that serves now. Typed again within a day it finishes what is unfinished; if
    nothing is, it refuses for an hour (exit status 4); --to CA is the way back. What must not serve is always left.
    """
    from dualcert.lifecycle import inventory, promotion
    from dualcert.lifecycle.driver import Scope, patiently
    from dualcert.lifecycle.engine import Engine
    from dualcert.lifecycle.promotion import Wish
    from dualcert.model.signal import Reason

    seconds = duration(timeout)
    world = context.application.world
    began = world.clock.now()
    within = None if revoke_by is None else until(revoke_by, "--revoke-by", began, _OTHERWISE)
    pair = patiently(world, seconds, lambda: inventory.resolve(world, name))
    wish = Wish(
        to=to,
        reason=Reason(reason) if reason else Reason.SUPERSEDED,
        revoke=revoke or revoke_unverified or within is not None,
        revoke_unverified=revoke_unverified,
        revoke_within=within,
        dry_run=dry_run,
    )
    try:
        turn = patiently(world, seconds, lambda: promotion.failover(world, pair, wish))
    except Refused:
        # Whoever finished it may have been killed right after.
        if not dry_run:
            Engine(world).take_from_the_dead()
        raise
    if turn.changed and not dry_run:
        drive(context, Scope(frozenset([pair.id]), promotion.AFTERMATH), seconds)
    return patiently(world, seconds, lambda: _conclude(context, turn, wish, began))


def _conclude(context: Context, turn: Turn, wish: Wish, began: datetime) -> int:
    from dualcert.lifecycle import outcome

    result = outcome.of_failover(context.application.world, turn, dry_run=wish.dry_run, began=began)
    print_json(result.shown) if context.json else _tell(result.shown, turn)
    if turn.taken_up and turn.changed and wish.to is None:
        note(_not_promoted(turn, dry_run=wish.dry_run))
    for problem in result.problems:
        note(problem)
    if wish.dry_run or not turn.changed:
        return EXIT_DONE
    unseen = [one for one in result.shown["targets"] if not one["verified"]]
    unrevoked = wish.revoke and not result.shown["revoked"]
    return EXIT_PARTIAL if unseen or result.problems or unrevoked else EXIT_DONE


def _tell(shown: dict[str, Any], turn: Turn) -> None:
    old, new = shown["from"], shown["to"]
    if shown["dry_run"] and not turn.taken_up:
        say(f"{shown['pair']}: would move from {old['ca']} to {new['ca']}, serial {_hex(new['serial'])}")
        say("the backup's key opens and its certificate may serve; nothing was changed")
        return
    if not turn.changed:
        say(f"{shown['pair']}: {new['ca']} serves already; nothing was done")
        return
    if shown["dry_run"]:
        say(f"{shown['pair']}: {new['ca']} serves already; what is unfinished would be finished")
        return
    say(f"{shown['pair']}: {new['ca']} serves (epoch {shown['epoch']}), serial {_hex(new['serial'])}")
    for target in shown["targets"]:
        seen = (
            f"seen by {target['verified']} after {target['seconds']} s"
            if target["verified"]
            else "NOT seen yet"
        )
        say(f"  target {target['target']}: {seen}")
    if old["serial"] is not None:
        say(
            f"  {old['ca']}, serial {_hex(old['serial'])}: {'revoked' if shown['revoked'] else 'not revoked'}"
        )
    if shown["refill"]:
        say(f"  refill of {old['ca']}: {shown['refill']}")


def _not_promoted(turn: Turn, *, dry_run: bool) -> str:
    """That an earlier failover was gone on with, for whoever wanted to leave what serves now."""
    name = turn.pair.name
    nothing = f"nothing {'would be' if dry_run else 'was'} promoted"
    return (
        f"{name}: {nothing}: the failover from {turn.from_ca} to {turn.to_ca} is not finished, and is gone on with"
        f"\n  To leave {turn.to_ca}: dualcert failover {typed(name)} --to {turn.from_ca}"
    )


def _hex(serial: bytes | None) -> str:
    return "-" if serial is None else serial.hex()
