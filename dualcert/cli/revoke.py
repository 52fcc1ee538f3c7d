"""``dualcert revoke``"""

from __future__ import annotations

import click

from dualcert.cli.completion import pairs
from dualcert.cli.context import Context
from dualcert.cli.failover import REASONS
from dualcert.cli.frame import REFUSED, Argument, Command, pass_context
from dualcert.cli.output import note, print_json, say
from dualcert.cli.progress import drive, duration, timeout_option
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, UsageProblem
from dualcert.model.wording import typed

_EXAMPLES = """
dualcert revoke example.com --role backup
dualcert revoke example.com --role backup --reason keyCompromise
"""
_EXITS = {EXIT_PARTIAL: "The CA has not confirmed it yet; it is tried again.", **REFUSED}


@click.command(
    "revoke",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert failover --revoke", "dualcert remove --revoke"),
)
@click.argument(
    "name",
    cls=Argument,
    metavar="NAME",
    shell_complete=pairs,
    help="A pair's name, or a name that it covers.",
)
@click.option(
    "--role", required=True, type=click.Choice(["backup", "primary"]), help="Whose certificate: the backup's."
)
@click.option("--reason", type=click.Choice(REASONS), default="unspecified", show_default=True, help="Why.")
@timeout_option("How long to wait for the CA")
@pass_context
def revoke(context: Context, name: str, role: str, reason: str, timeout: str) -> int:
    """Revoke the backup's certificate at its CA.

    The serving certificate is revoked only after a failover: dualcert failover NAME --revoke. The backup's lineage is
    filled again, under a new key, at the next dualcert renew --due.
    """
    from dualcert.lifecycle import inventory, revocation, views
    from dualcert.lifecycle.driver import Scope
    from dualcert.model.signal import Reason
    from dualcert.model.work import WorkKind

    if role != "backup":
        raise UsageProblem(
            "the serving certificate is not revoked while it serves",
            remedy=f"Fail over first, then it is revoked: dualcert failover {typed(name)} --revoke",
            name=name,
        )
    seconds = duration(timeout)
    world = context.application.world
    pair = inventory.resolve(world, name)
    backup = revocation.revoke_backup(world, pair, Reason(reason))
    drive(context, Scope(frozenset([pair.id]), (WorkKind.REVOCATION,)), seconds)
    left = revocation.outstanding(world, pair, backup)
    if context.json:
        print_json(views.describe(world, pair))
    elif left is None:
        say(f"{pair.name}: the backup from {backup.ca}, serial {backup.serial.hex()}, is revoked")
    if left is not None:
        note(f"{pair.name}, CA {backup.ca}: the revocation is not finished: {left}")
        return EXIT_PARTIAL
    return EXIT_DONE
