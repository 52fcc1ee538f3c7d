"""Every command there is: where it lives, and its line in ``dualcert --help``."""

from __future__ import annotations

from typing import Final

import click

from dualcert.cli.frame import REFUSED, Lazy, LazyGroup
from dualcert.errors import EXIT_PARTIAL

COMMANDS: Final = {
    "init": Lazy("dualcert.cli.init:init", "Write a configuration; make keys and database."),
    "check": Lazy("dualcert.cli.check:check", "Look whether everything is as it must be."),
    "issue": Lazy("dualcert.cli.issue:issue", "Get both certificates for a set of names."),
    "renew": Lazy("dualcert.cli.renew:renew", "Renew, refill and finish what is due."),
    "run": Lazy("dualcert.cli.run:run", "Keep all pairs in order: the daemon."),
    "watch": Lazy("dualcert.cli.watch:watch", "Ask the CAs what they have revoked."),
    "failover": Lazy("dualcert.cli.failover:failover", "Serve the backup's certificate now."),
    "revoke": Lazy("dualcert.cli.revoke:revoke", "Revoke a backup's certificate at its CA."),
    "drill": Lazy("dualcert.cli.drill:drill", "Prove that backups would work."),
    "compromise": Lazy(
        "dualcert.cli.compromise:compromise", "A key has leaked: replace and revoke all it touched."
    ),
    "incident": Lazy("dualcert.cli.incident:incident", "Get many certificates out of service in time."),
    "freeze": Lazy("dualcert.cli.closing:freeze", "Send no more orders to a CA."),
    "thaw": Lazy("dualcert.cli.closing:thaw", "Send orders to a CA again."),
    "distrust": Lazy("dualcert.cli.closing:distrust", "Rely on a CA no more; move its pairs to spares."),
    "pair": Lazy("dualcert.cli.pair:pair", "Change a pair: its targets, its DNS, its keys."),
    "remove": Lazy("dualcert.cli.remove:remove", "End a pair."),
    "list": Lazy("dualcert.cli.list:list_pairs", "List the pairs."),
    "show": Lazy("dualcert.cli.show:show", "Show one pair: certificates, targets, work."),
    "events": Lazy("dualcert.cli.events:events", "Show what happened, and why; verify its seals."),
    "export": Lazy("dualcert.cli.export:export", "Write a certificate to PEM files."),
    "chain": Lazy("dualcert.cli.chain:chain", "Show a certificate's chains, or serve another one."),
    "account": Lazy("dualcert.cli.account:account", "Look at the accounts at CAs; change, end or make them."),
    "keys": Lazy("dualcert.cli.keys:keys", "Bring a domain's keys under a new KEK."),
    "db": Lazy("dualcert.cli.db:db", "Look at the database's revision; upgrade it."),
    "lab": Lazy("dualcert.cli.lab:lab", "Two CAs, DNS and a web server on loopback, to rehearse with."),
}


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        from dualcert.cli.output import say

        say(f"dualcert {version('dualcert')}")
        ctx.exit()


_EXAMPLES = """
dualcert init                                # write dualcert.toml; edit it, then run init again
dualcert issue example.com '*.example.com'
dualcert failover example.com                # the backup serves
"""
_EXITS = {
    EXIT_PARTIAL: "Done in part. The rest is remembered; the same command goes on.",
    **REFUSED,
}


@click.group(
    "dualcert",
    cls=LazyGroup,
    commands=COMMANDS,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert COMMAND --help", "docs/README.md"),
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def dualcert() -> None:
    """Keep two certificates for every set of names, from two CAs, under two keys.

    One serves, the other stands ready. When a CA revokes, a key leaks or a renewal fails for good, nothing is
    ordered in a hurry: the backup is promoted.
    """
