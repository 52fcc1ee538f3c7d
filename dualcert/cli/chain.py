"""``dualcert chain``"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from dualcert.cli.completion import pairs
from dualcert.cli.context import Context
from dualcert.cli.frame import Argument, Command, pass_context
from dualcert.cli.output import note, print_json, print_json_lines, say
from dualcert.cli.progress import drive, duration, timeout_option
from dualcert.errors import EXIT_DONE, EXIT_FAILED, EXIT_PARTIAL, EXIT_REFUSED, DualcertError, UsageProblem
from dualcert.model.wording import many, typed

if TYPE_CHECKING:
    from dualcert.lifecycle.chains import Switched
    from dualcert.model.pair import Pair

_TOGETHER = 100  # more pairs than that are driven with all others

_EXAMPLES = """
dualcert chain example.com                        # which chains are known, and which one is served
dualcert chain example.com --to "ISRG Root X1"    # serve the one to this root
dualcert chain example.com --preferred            # serve those that `preferred_chain` names
dualcert chain --all --preferred                  # after `preferred_chain` was changed
"""
_EXITS = {
    EXIT_PARTIAL: "The chain is chosen, but a target does not show it yet; the same command goes on.",
    EXIT_REFUSED: "Refused for safety: the chain leads to no trusted root, or to the other certificate's only one.",
}


@click.command(
    "chain", cls=Command, examples=_EXAMPLES, exits=_EXITS, see=("dualcert show", "docs/accounts.md")
)
@click.argument(
    "name",
    cls=Argument,
    metavar="[NAME]",
    required=False,
    shell_complete=pairs,
    help="A pair's name, or a name that it covers.",
)
@click.option("--to", metavar="ROOT", help="Use the chain to the root with this common name.")
@click.option("--preferred", is_flag=True, help="Use the chains that `preferred_chain` of each CA names.")
@click.option(
    "--role",
    type=click.Choice(["primary", "backup"]),
    help="Whose certificate --to means. Unsaid: the primary's.",
)
@click.option("--all", "every", is_flag=True, help="All pairs; needs --preferred.")
@timeout_option("How long to wait for the targets")
@pass_context
def chain(
    context: Context,
    name: str | None,
    to: str | None,
    preferred: bool,
    role: str | None,
    every: bool,
    timeout: str,
) -> int:
    """Show the chains of a pair's certificates, or serve one with another chain.

    A CA may offer several chains for one certificate, each to another root. All of them are kept when a certificate
    arrives; a new one takes the chain that `preferred_chain` in [ca.NAME] names. Here a certificate that is there
    already gets another chain: no order is placed, its key stays, and its targets are written anew. A chain that is not
    kept is fetched from the CA.
    """
    _check(name, to, preferred, role, every)
    if every:
        return _all(context, duration(timeout))
    from dualcert.lifecycle import inventory

    pair = inventory.resolve(context.application.world, name or "")
    return _one(context, pair, to, preferred, role, duration(timeout))


def _check(name: str | None, to: str | None, preferred: bool, role: str | None, every: bool) -> None:
    wrong = None
    if bool(name) == every:
        wrong = "say either a NAME or --all"
    elif every and not preferred:
        wrong = "--all needs --preferred"
    elif to and preferred:
        wrong = "--to and --preferred contradict each other"
    elif role and not to:
        wrong = "--role belongs to --to"
    if wrong:
        raise UsageProblem(wrong, remedy="See dualcert chain --help.")


def _one(
    context: Context, pair: Pair, to: str | None, preferred: bool, role: str | None, seconds: float
) -> int:
    from dualcert.lifecycle import chains
    from dualcert.model.pair import Role

    world = context.application.world
    done: list[Switched] = []
    failed: list[DualcertError] = []
    if to:
        whose = Role(role) if role else Role.PRIMARY
        switched = chains.switch(world, pair, whose, to)
        if switched is None:
            raise UsageProblem(
                f"there is no {whose.value} certificate",
                remedy=f"See dualcert show {typed(pair.name)}",
                name=pair.name,
            )
        done = [switched]
    elif preferred:
        done, failed = chains.switch_both(world, pair)
    left = _deploy(context, [pair.id], seconds) if any(one.changed for one in done) else []
    view = chains.describe(world, pair)
    if context.json:
        print_json(view)
    elif to or preferred:
        _tell_switched(pair.name, done)
    else:
        _tell(view)
    return _conclude(failed, left, bool(done))


def _all(context: Context, seconds: float) -> int:
    from dualcert.lifecycle import chains

    world = context.application.world
    failed: list[DualcertError] = []
    changed: list[int] = []

    def each() -> Iterable[dict[str, Any]]:
        for pair in chains.all_pairs(world):
            done, problems = chains.switch_both(world, pair)
            failed.extend(problems)
            if any(one.changed for one in done):
                changed.append(pair.id)
                if not context.json:
                    _tell_switched(pair.name, done)
                yield chains.describe(world, pair)

    if context.json:
        print_json_lines(each())
    else:
        for _ in each():
            pass
        say(f"{len(changed)} pair{'s have' if len(changed) != 1 else ' has'} another chain")
    left = _deploy(context, changed, seconds) if changed else []
    return _conclude(failed, left, bool(changed))


def _deploy(context: Context, ids: list[int], seconds: float) -> list[str]:
    """Bring the chains out; what is not finished."""
    from dualcert.lifecycle import chains
    from dualcert.lifecycle.driver import Scope

    drive(context, Scope(frozenset(ids) if len(ids) <= _TOGETHER else None, chains.AFTERMATH), seconds)
    return chains.outstanding(context.application.world, ids)


def _conclude(failed: list[DualcertError], left: list[str], some: bool) -> int:
    for error in failed:
        note(f"error: {error}")
    for text in left:
        note(text)
    if failed:
        return EXIT_PARTIAL if some else EXIT_FAILED
    return EXIT_PARTIAL if left else EXIT_DONE


def _tell_switched(name: str, done: list[Switched]) -> None:
    for one in done:
        if one.changed:
            say(f"{name}: {one.ca}'s certificate has the chain to {one.now} (before: {one.before})")
        else:
            say(f"{name}: {one.ca}'s certificate has the chain to {one.now} already")
    if not done:
        say(f"{name}: no `preferred_chain` is configured for its CAs; nothing was done")


def _tell(view: dict[str, Any]) -> None:
    say(view["pair"])
    for role in ("primary", "backup"):
        one = view[role]
        if one is None:
            say(f"  {role}: no certificate")
            continue
        wish = f", preferred: {one['preferred']}" if one["preferred"] else ""
        say(f"  {role}: {one['ca']}, serial {one['serial'].hex()}{wish}")
        for each in one["chains"]:
            mark = "*" if each["in_use"] else " "
            length = many(each["certificates"], "certificate")
            say(f"    {mark} {each['root']}  ({length}, {each['sha256'].hex()[:16]})")
