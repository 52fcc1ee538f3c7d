"""``dualcert issue``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import pairs, tables
from dualcert.cli.context import Context
from dualcert.cli.frame import Argument, Command, pass_context
from dualcert.cli.output import is_terminal, note, print_json, say
from dualcert.cli.progress import drive, duration, timeout_option
from dualcert.errors import EXIT_DONE, EXIT_FAILED, EXIT_PARTIAL
from dualcert.model.wording import typed

if TYPE_CHECKING:
    from dualcert.lifecycle.world import World

_EXAMPLES = """
dualcert issue example.com '*.example.com'
dualcert issue shop.example.com --primary alpha --backup beta --key-type rsa-2048
dualcert issue example.com www.example.com --replace-names
"""
_EXITS = {
    EXIT_DONE: "Both certificates are there and the primary serves.",
    EXIT_FAILED: "None is there yet. The same command goes on where it stopped.",
    EXIT_PARTIAL: "Something of it is there, and the rest is remembered. The same command goes on where it stopped.",
}


@click.command(
    "issue",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert check --name", "dualcert show", "dualcert renew", "dualcert pair set"),
)
@click.argument(
    "names",
    cls=Argument,
    nargs=-1,
    required=True,
    metavar="NAME...",
    shell_complete=pairs,
    help="The DNS names that both certificates cover; *.example.com for a wildcard.",
)
@click.option(
    "--name", metavar="PAIR", help="What to call the pair. Unsaid: its first name that is no wildcard."
)
@click.option("--primary", metavar="CA", shell_complete=tables("ca"), help="The CA whose certificate serves.")
@click.option(
    "--backup", metavar="CA", shell_complete=tables("ca"), help="The CA whose certificate stands ready."
)
@click.option(
    "--dns", metavar="DNS", shell_complete=tables("dns"), help="The [dns.X] that holds the names' zones."
)
@click.option(
    "--target",
    "targets",
    metavar="TARGET",
    multiple=True,
    shell_complete=tables("target"),
    help="A [target.X] to serve from; repeatable.",
)
@click.option(
    "--key-type",
    type=click.Choice(["ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096"]),
    help="The kind of both private keys.",
)
@click.option("--replace-names", is_flag=True, help="Give an existing pair these names.")
@timeout_option()
@pass_context
def issue(
    context: Context,
    names: tuple[str, ...],
    name: str | None,
    primary: str | None,
    backup: str | None,
    dns: str | None,
    targets: tuple[str, ...],
    key_type: str | None,
    replace_names: bool,
    timeout: str,
) -> int:
    """Make a pair for a set of names, and get both its certificates.

    Orders are placed with both CAs at once, proved by DNS-01, stored, and the primary's certificate is deployed. The
    options are stored with the pair. For a pair that exists already the command takes up what is unfinished, or does
    nothing where it is whole.
    """
    from dualcert.lifecycle import inventory
    from dualcert.lifecycle.driver import Scope, patiently
    from dualcert.lifecycle.inventory import PairRequest
    from dualcert.model.pair import KeyType

    seconds = duration(timeout)
    request = PairRequest(
        names=inventory.check_names(names),
        name=name,
        primary=primary,
        backup=backup,
        dns=dns,
        targets=targets or None,
        key_type=KeyType(key_type) if key_type else None,
        replace_names=replace_names,
    )
    world = context.application.world
    pair = patiently(world, seconds, lambda: inventory.ensure(world, request))
    drive(context, Scope(frozenset([pair.id]), inventory.ISSUING), seconds)
    return patiently(world, seconds, lambda: conclude(context, pair.name))


def conclude(context: Context, name: str, *, ordered: bool = False) -> int:
    """Show what the pair has come to; the exit status that this means.

    ``ordered``: orders were asked for, and a pair that is whole by its old certificates is not all that was wanted.
    """
    from dualcert.cli.show import print_pair
    from dualcert.lifecycle import inventory, views

    world = context.application.world
    view = views.describe(world, inventory.resolve(world, name))
    print_json(view) if context.json else print_pair(view)
    trouble = [view[role] for role in ("primary", "backup") if view[role]["renewal"]["error"]]
    for lineage in trouble:
        _note_trouble(world, name, lineage["ca"], lineage["renewal"])
    under_way = [view[role] for role in ("primary", "backup") if ordered and _is_under_way(view[role])]
    for lineage in under_way:
        note_under_way(name, lineage["ca"])
    for target in view["targets"]:
        if target["problem"]:
            note(f"{name}, target {target['target']}: {target['problem'].removeprefix(f'{name}: ')}")
        if target["next_try"]:
            note(f"  Next try at {target['next_try']}; to try sooner: dualcert renew {typed(name)}")
    if not trouble and not under_way and not context.json and is_terminal() and views.whole(view):
        say(f"{name} is protected")
    status = _status(view, len(trouble))
    return EXIT_PARTIAL if status == EXIT_DONE and under_way else status


def _is_under_way(lineage: dict[str, Any]) -> bool:
    """Whether there is an order, with which nothing is wrong."""
    return lineage["renewal"]["state"] == "ordering" and not lineage["renewal"]["error"]


def note_under_way(name: str, ca: str) -> None:
    note(f"{name}, CA {ca}: the order is under way; to go on with it: dualcert renew {typed(name)}")


def _note_trouble(world: World, name: str, ca: str, renewal: dict[str, Any]) -> None:
    from dualcert.lifecycle import closing

    standing = closing.recorded(world, ca)
    said = renewal["error"].removeprefix(f"{name}, ").removeprefix(f"CA {ca}: ")
    note(f"{name}, CA {ca}: {said}")
    at = renewal["next_try"]
    if standing.closed is not None and standing.closed in said:
        note(f"  When that is over: dualcert {standing.reopening}")
    elif at:
        note(f"  Next try at {at}; to ask sooner: dualcert renew {typed(name)}")
    elif renewal["state"] == "waiting":
        note(f"  It waits for a person; when that is mended: dualcert renew {typed(name)}")


def _status(view: dict[str, object], troubled: int) -> int:
    """``troubled``: of how many lineages the order does not get on, be it the first one or a renewal."""
    from dualcert.lifecycle import views

    if views.whole(view):
        return (EXIT_DONE, EXIT_PARTIAL, EXIT_FAILED)[troubled]
    there = [role for role in ("primary", "backup") if view[role]["certificate"] is not None]  # type: ignore[index]
    return EXIT_PARTIAL if there else EXIT_FAILED
