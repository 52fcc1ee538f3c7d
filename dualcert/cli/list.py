"""``dualcert list``"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from dualcert.cli.completion import pairs, tables
from dualcert.cli.context import Context
from dualcert.cli.frame import Command, pass_context
from dualcert.cli.output import Column, Table, is_terminal, note, print_json_lines
from dualcert.cli.progress import duration
from dualcert.errors import UsageProblem

if TYPE_CHECKING:
    from dualcert.lifecycle.listing import Choice, Listed

_ON_A_TERMINAL = 200
_PROTECTIONS = ("protected", "unprotected", "exposed", "pending")

_EXAMPLES = """
dualcert list
dualcert list --protection exposed --protection unprotected
dualcert list --under example.com --expires-within 30d
dualcert list --json | jq -r 'select(.protection != "protected") | .pair'
"""

_COLUMNS = (
    Column("PAIR", 40),
    Column("PROTECTION", 11),
    Column("PRIMARY", 22),
    Column("BACKUP", 22),
    Column("EXPIRES", 20),
)


@click.command("list", cls=Command, examples=_EXAMPLES, see=("dualcert show", "dualcert check"))
@click.option(
    "--protection",
    type=click.Choice(_PROTECTIONS),
    multiple=True,
    help="Only pairs in this state; several are alternatives.",
)
@click.option(
    "--ca",
    metavar="CA",
    shell_complete=tables("ca"),
    help="Only pairs that have, or wait for, a certificate of this CA.",
)
@click.option(
    "--expires-within",
    metavar="TIME",
    help="Only pairs of which a certificate in use, serving or backup, is over by then, or is already.",
)
@click.option("--under", metavar="NAME", help="Only pairs with this name, or with a name below it.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="How many at most. Unsaid: 200 on a terminal, all in a pipe."
)
@click.option(
    "--after", default="", metavar="PAIR", shell_complete=pairs, help="Begin after this pair: the next page."
)
@pass_context
def list_pairs(
    context: Context,
    protection: tuple[str, ...],
    ca: str | None,
    expires_within: str | None,
    under: str | None,
    limit: int | None,
    after: str,
) -> None:
    """List the pairs in the order of their names: all, or those that every filter lets through."""
    most = limit if limit is not None or not is_terminal() else _ON_A_TERMINAL
    choice = _choice(protection, ca, expires_within, under)
    world = context.application.world
    from dualcert.lifecycle.listing import Choice, described, listed

    if ca is not None and ca not in world.cas and not any(listed(world, 1, choice=Choice(ca=ca))):
        raise UsageProblem(
            f"no pair has a certificate of a CA {ca}, and [ca.{ca}] is not configured",
            remedy=f"There is: {', '.join(sorted(world.cas))}.",
        )
    shown = _Shown()
    if context.json:
        for views in described(world, most, after, choice):
            print_json_lines(views)
            shown.take(len(views), views[-1]["pair"])
    else:
        table = Table(_COLUMNS)
        for lines in listed(world, most, after, choice):
            table.add([_row(line) for line in lines])
            shown.take(len(lines), lines[-1].pair)
    if shown.count == most and is_terminal():
        note(f"the first {most}; more: the same command with --after {shown.last}")


class _Shown:
    """How many were shown, and which one was the last."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""

    def take(self, count: int, last: str) -> None:
        self.count += count
        self.last = last


def _row(line: Listed) -> tuple[str, ...]:
    pair, protection, primary, primary_state, backup, backup_state, expires = line
    return pair, protection, f"{primary}: {primary_state}", f"{backup}: {backup_state}", expires or "-"


def _choice(
    protection: tuple[str, ...], ca: str | None, expires_within: str | None, under: str | None
) -> Choice:
    from dualcert.lifecycle.listing import Choice

    within = None
    if expires_within is not None:
        within = timedelta(seconds=duration(expires_within, "--expires-within"))
    return Choice(frozenset(protection), ca, within, None if under is None else _suffix(under))


def _suffix(text: str) -> str:
    """A name in its stored form; other than a certificate's it may have a single label."""
    from dualcert.model import names

    if not text.strip("."):
        raise UsageProblem("--under takes a name", remedy="Write it like example.com.")
    if "." in text.strip("."):
        return names.normalise(text).removeprefix("*.")
    return names.normalise(f"x.{text}").removeprefix("x.")
