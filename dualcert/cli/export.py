"""``dualcert export``"""

from __future__ import annotations

from pathlib import Path

import click

from dualcert.cli.completion import pairs
from dualcert.cli.context import Context
from dualcert.cli.frame import Argument, Command, pass_context
from dualcert.cli.output import note, print_json, say
from dualcert.errors import UsageProblem

_EXAMPLES = """
dualcert export example.com --to /tmp/example
dualcert export example.com --to backup --role backup --with-key
"""

_WITH_KEY = ("privkey.pem", "bundle.pem")


@click.command("export", cls=Command, examples=_EXAMPLES, see=("dualcert chain", "docs/security.md"))
@click.argument(
    "name",
    cls=Argument,
    metavar="NAME",
    shell_complete=pairs,
    help="A pair's name, or a name that it covers.",
)
@click.option(
    "--to", "folder", required=True, metavar="FOLDER", type=click.Path(), help="The folder to write into."
)
@click.option(
    "--role",
    type=click.Choice(["primary", "backup"]),
    default="primary",
    show_default=True,
    help="Whose certificate.",
)
@click.option("--with-key", is_flag=True, help="Write the private key too, unencrypted, mode 0600.")
@pass_context
def export(context: Context, name: str, folder: str, role: str, with_key: bool) -> None:
    """Write a certificate to PEM files: cert.pem, chain.pem, fullchain.pem.

    With --with-key also privkey.pem and bundle.pem (key, then full chain), readable by their owner alone.
    """
    from dualcert.lifecycle import exporting, inventory
    from dualcert.model.pair import Role

    if not folder:
        # As of a variable that is not set: keys would lie in whatever folder this is typed in.
        raise UsageProblem("--to names no folder", remedy="Say --to . for this one.")
    world = context.application.world
    pair = inventory.resolve(world, name)
    files = exporting.export(world, pair, Role(role), Path(folder), with_key=with_key)
    if not with_key and (old := [name for name in _WITH_KEY if (Path(folder) / name).exists()]):
        note(
            f"{' and '.join(old)} there are of an earlier export, perhaps of another certificate: --with-key"
        )
    if context.json:
        print_json({"pair": pair.name, "role": role, "files": files})
        return
    for path in files:
        say(str(path))
