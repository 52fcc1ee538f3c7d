"""``dualcert pair``"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dualcert.cli.completion import pairs, tables
from dualcert.cli.context import Context
from dualcert.cli.frame import REFUSED, Argument, Group, pass_context
from dualcert.cli.issue import conclude, note_under_way
from dualcert.cli.output import note, print_json, say
from dualcert.cli.progress import drive, duration, timeout_option
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, EXIT_REFUSED, Refused, UsageProblem
from dualcert.model.wording import many, typed

if TYPE_CHECKING:
    from dualcert.lifecycle.moving import Move


@click.group("pair", cls=Group)
def pair() -> None:
    """Change what a pair goes by.

    What it was made with is stored with it: the defaults of the configuration serve new pairs only.
    """


_SET_EXAMPLES = """
dualcert pair set example.com --target web --target mail
dualcert pair set example.com --key-type rsa-2048 && dualcert renew example.com --force
dualcert pair set example.com --dns corp
"""
_SET_EXITS = {
    EXIT_DONE: "Changed, and the pair is whole.",
    EXIT_PARTIAL: "Changed, but something is not finished; the same command, or dualcert renew NAME, goes on.",
}


@pair.command(
    "set",
    short_help="Change a pair's targets, DNS or type of key.",
    examples=_SET_EXAMPLES,
    exits=_SET_EXITS,
    see=("dualcert issue --replace-names", "dualcert show", "dualcert renew --force"),
)
@click.argument(
    "name",
    cls=Argument,
    metavar="NAME",
    shell_complete=pairs,
    help="A pair's name, or a name that it covers.",
)
@click.option(
    "--target",
    "targets",
    metavar="TARGET",
    multiple=True,
    shell_complete=tables("target"),
    help="A [target.X] to serve from; repeatable. These replace all that it has.",
)
@click.option("--no-targets", is_flag=True, help="Serve it nowhere: it is exported only.")
@click.option(
    "--dns", metavar="DNS", shell_complete=tables("dns"), help="The [dns.X] that holds the names' zones."
)
@click.option(
    "--key-type",
    type=click.Choice(["ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096"]),
    help="The kind of both private keys.",
)
@click.option("--primary", hidden=True)
@click.option("--backup", hidden=True)
@timeout_option()
@pass_context
def set_pair(
    context: Context,
    name: str,
    targets: tuple[str, ...],
    no_targets: bool,
    dns: str | None,
    key_type: str | None,
    primary: str | None,
    backup: str | None,
    timeout: str,
) -> int:
    """Change a pair's targets, its DNS, or the type of its keys.

    A target that is new to the pair serves it from now on; what it has at a target that is left out is removed there.
    DNS and type of key count from the next order on: dualcert renew NAME --force places it now.
    """
    from dualcert.lifecycle import inventory
    from dualcert.lifecycle.driver import Scope
    from dualcert.lifecycle.inventory import Changes
    from dualcert.model.pair import KeyType

    if primary is not None or backup is not None:
        raise UsageProblem(
            "a pair's CAs are not changed: each of its two lineages keeps its CA for life",
            remedy=f"To let the other of its CAs serve: dualcert failover {typed(name)} --to CA. For a third CA: "
            f"dualcert pair move {typed(name)} --ca OLD=NEW",
            name=name,
        )
    if no_targets and targets:
        raise UsageProblem(
            "--no-targets and --target contradict each other",
            remedy="Say --target for each that is to serve it, or --no-targets for none.",
            name=name,
        )
    if not (targets or no_targets or dns or key_type):
        raise UsageProblem("nothing is to be changed", remedy="See: dualcert pair set --help", name=name)
    seconds = duration(timeout)
    wanted = Changes(
        dns=dns,
        targets=() if no_targets else targets or None,
        key_type=KeyType(key_type) if key_type else None,
    )
    world = context.application.world
    found = inventory.resolve(world, name)
    said = inventory.change(world, found, wanted)
    if not context.json:
        note(f"{found.name}: {'; '.join(said) or 'it goes by that already'}")
    drive(context, Scope(frozenset([found.id]), inventory.ISSUING), seconds)
    return conclude(context, found.name)


_MOVE_EXAMPLES = """
dualcert pair move example.com --ca alpha=gamma
dualcert pair move --all --ca alpha=gamma
"""
_MOVE_EXITS = {
    EXIT_DONE: "Moved, and the new CA's certificate is in its place; with --all: every order is due.",
    EXIT_PARTIAL: "Moved, but something is not finished; the same command, or dualcert renew NAME, goes on. With "
    "--all: some pairs could not move, and are named.",
    **REFUSED,
}
_NAMED = 20


@pair.command(
    "move",
    short_help="Change one of a pair's two CAs.",
    examples=_MOVE_EXAMPLES,
    exits=_MOVE_EXITS,
    see=("dualcert distrust", "dualcert show", "docs/ca-trouble.md"),
)
@click.argument(
    "name",
    cls=Argument,
    metavar="[NAME]",
    required=False,
    shell_complete=pairs,
    help="A pair's name, or a name that it covers.",
)
@click.option("--ca", "cas", metavar="OLD=NEW", required=True, help="From which [ca.X] to which.")
@click.option("--all", "everyone", is_flag=True, help="All pairs that have the old CA.")
@timeout_option()
@pass_context
def move_pair(context: Context, name: str | None, cas: str, everyone: bool, timeout: str) -> int:
    """Change one of a pair's two CAs.

    The old CA's lineage is retired, and one of the new CA takes its role. What the role had stays there until the new
    certificate is stored, so nothing is served for want of another. The new CA must not fall together with the pair's
    other one. With --all the orders are only made due: dualcert renew --due or the daemon places them, as fast as the
    new CA's budgets allow.
    """
    from dualcert.lifecycle import inventory, moving
    from dualcert.lifecycle.driver import Scope
    from dualcert.lifecycle.moving import Move

    old, _, new = cas.partition("=")
    if not old or not new or (name is None) is not everyone:
        raise UsageProblem(
            "say --ca OLD=NEW, and either NAME or --all", remedy="See: dualcert pair move --help", name=name
        )
    seconds = duration(timeout)
    world = context.application.world
    wanted = Move(old, new, "by hand")
    moving.check(world, wanted)
    moving.demand_known(world, old)
    if name is None:
        return _move_all(context, wanted)
    found = inventory.resolve(world, name)
    moved = moving.move(world, found.id, wanted, moving.ask(world, [new]))
    if moved is None:
        moving.demand_there(world, found, wanted)
        inventory.renew(world, found, force=False)  # as a person asks: without back-off
    elif moved.problem is not None:
        raise Refused(moved.problem, remedy="Nothing was changed.", name=found.name, ca=new)
    drive(context, Scope(frozenset([found.id]), inventory.ISSUING), seconds)
    status = conclude(context, found.name)
    if status == EXIT_DONE and not moving.has_arrived(world, found.id, new):
        note_under_way(found.name, new)
        return EXIT_PARTIAL
    return status


def _move_all(context: Context, wanted: Move) -> int:
    from dualcert.lifecycle import moving

    world = context.application.world
    count, stuck = 0, []
    said = moving.ask(world, [wanted.new])
    for pair_id in moving.everyone(world, wanted.old):
        moved = moving.move(world, pair_id, wanted, said)
        if moved is not None and moved.problem is not None:
            stuck.append(f"{moved.name}: {moved.problem}")
        elif moved is not None:
            count += 1
    if context.json:
        print_json({"from": wanted.old, "to": wanted.new, "moved": count, "not_moved": len(stuck)})
    else:
        orders = "; dualcert renew --due, or the daemon, orders there" if count else ""
        say(f"{many(count, 'pair moves', 'pairs move')} from {wanted.old} to {wanted.new}{orders}")
    for problem in stuck[:_NAMED]:
        note(problem)
    if len(stuck) > _NAMED:
        note(f"and {len(stuck) - _NAMED} more")
    if stuck and not count:
        return EXIT_REFUSED
    return EXIT_PARTIAL if stuck else EXIT_DONE
