"""``dualcert db``"""

from __future__ import annotations

import click

from dualcert.cli.context import Context
from dualcert.cli.frame import Group, pass_context
from dualcert.cli.output import print_json, say
from dualcert.errors import EXIT_DONE, EXIT_FAILED


@click.group("db", cls=Group)
def db() -> None:
    """Look at the database's revision, and upgrade it.

    The database is the one that the configuration names. Every other command refuses a database whose revision is
    not the one that this dualcert was made for.
    """


_UPGRADE_EXAMPLES = """
cp dualcert.db dualcert.db.before && dualcert db upgrade
"""


@db.command("upgrade", examples=_UPGRADE_EXAMPLES, see=("dualcert db current", "docs/postgresql.md"))
@pass_context
def upgrade(context: Context) -> None:
    """Bring the database to this dualcert's revision.

    A database that does not exist is made. One that is of this revision already is left as it is. Keep a copy: there
    is no way back to an older revision. Stop other dualcert processes first.
    """
    from dualcert import bootstrap

    before, _ = bootstrap.current_revision(context.settings)
    after = bootstrap.upgrade_database(context.settings)
    if context.json:
        print_json({"before": before, "after": after})
    elif before == after:
        say(f"nothing to do: the database is of revision {after}")
    else:
        say(f"upgraded from {before or 'nothing'} to {after}")


_CURRENT_EXAMPLES = """
dualcert db current || dualcert db upgrade
"""


@db.command(
    "current",
    short_help="Show the revision that is there and the one needed.",
    examples=_CURRENT_EXAMPLES,
    exits={EXIT_FAILED: "The two differ, or there is no database yet."},
    see=("dualcert db upgrade",),
)
@pass_context
def current(context: Context) -> int:
    """Show the database's revision, and the one that this dualcert needs."""
    from dualcert import bootstrap

    found, expected = bootstrap.current_revision(context.settings)
    if context.json:
        print_json({"found": found, "expected": expected})
    else:
        say(f"found     {found or '- (no database yet)'}")
        say(f"expected  {expected}")
        if found is None or found < expected:
            say("next      dualcert db upgrade")
        elif found > expected:
            say("next      install the dualcert that made this revision, or a newer one")
    return EXIT_DONE if found == expected else EXIT_FAILED
