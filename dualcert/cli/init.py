"""``dualcert init``"""

from __future__ import annotations

from typing import Any

import click

from dualcert.cli.context import Context
from dualcert.cli.frame import Command, pass_context
from dualcert.cli.output import print_json, say

_EXAMPLES = """
dualcert init
dualcert --config /etc/dualcert/dualcert.toml init
"""


@click.command(
    "init", cls=Command, examples=_EXAMPLES, see=("dualcert check", "dualcert issue", "docs/configuration.md")
)
@pass_context
def init(context: Context) -> None:
    """Write a commented dualcert.toml, and make what it names.

    Where there is no configuration yet, one is written, with two public CAs' test environments filled in and the
    lines to edit marked; edit them and run the command again. Where there is one, it is kept as it stands, and what
    it names and is missing is made: the key of each isolation domain (mode 0600) and the database.

    Running it again is harmless: nothing that stands is changed.
    """
    from dualcert import bootstrap

    path = bootstrap.configuration_path(context.config)
    if not path.exists():
        edits = bootstrap.write_template(path)
        done: dict[str, Any] = {
            "configuration": {"path": path, "made": True},
            "edit": [{"line": edit.line, "key": edit.key, "what": edit.hint} for edit in edits],
            "keys": [],
            "database": None,
            "next": "edit these lines, then run `dualcert init` again: it makes the keys and the database",
        }
    else:
        done = _make(context)
    print_json(done) if context.json else _tell(done)


def _make(context: Context) -> dict[str, Any]:
    from dualcert import bootstrap

    settings = context.settings
    found, expected = bootstrap.current_revision(settings)
    following, keys = "dualcert issue NAME...", []
    if found is None or found >= expected:
        keys = bootstrap.create_missing_keys(settings)
    if found is None or found > expected:  # one that is newer is refused there
        revision = bootstrap.upgrade_database(settings)
    else:
        revision = found
        if found != expected:
            # Upgrading is a decision of its own: a database wants a copy first.
            following = "dualcert db upgrade (the database is of another revision; keep a copy of it)"
    return {
        "configuration": {"path": settings.path, "made": False},
        "edit": [],
        "keys": keys,
        "database": {"revision": revision, "made": found is None},
        "next": following,
    }


def _tell(done: dict[str, Any]) -> None:
    configuration, database = done["configuration"], done["database"]
    say(f"{'made ' if configuration['made'] else 'stood'}  configuration {configuration['path']}")
    for path in done["keys"]:
        say(f"made   key {path} (keep a copy, apart from the other domain's)")
    if database is not None:
        if not done["keys"]:
            say("stood  keys of all isolation domains")
        say(f"{'made ' if database['made'] else 'stood'}  database, revision {database['revision']}")
    for edit in done["edit"]:
        say(f"edit   line {edit['line']}, {edit['key']}: {edit['what']}")
    say(f"next   {done['next']}")
