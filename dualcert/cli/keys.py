"""``dualcert keys``"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dualcert.cli.completion import tables
from dualcert.cli.context import Context
from dualcert.cli.frame import REFUSED, Argument, Group, pass_context
from dualcert.cli.output import note, print_json, say
from dualcert.errors import EXIT_DONE, EXIT_PARTIAL, UsageProblem

if TYPE_CHECKING:
    from dualcert.lifecycle.rewrapping import Problem, Rotation

_NAMED = 20
"""How many keys that do not open are named for a person; ``--json`` names all."""


@click.group("keys", cls=Group)
def keys() -> None:
    """Look after the keys that encrypt all private keys.

    Every CA belongs to an isolation domain, [keys.DOMAIN] of the configuration: one key-encrypting key (KEK) wraps
    the private keys of its certificates and of its account.
    """


_ROTATE_EXAMPLES = """
dualcert keys rotate primary

# several machines on one database:
dualcert keys rotate primary --prepare    # on one of them; bring the new KEK to the others
dualcert keys rotate primary --keep-old   # on each: it wraps under the new KEK
dualcert keys rotate primary --finish     # on each: the old KEK goes
"""
_ROTATE_EXITS = {
    EXIT_PARTIAL: "A key could not be wrapped anew, or the old KEK had to stay; the same command goes on.",
    **REFUSED,
}


@keys.command(
    "rotate",
    short_help="Bring a domain's keys under a new KEK.",
    examples=_ROTATE_EXAMPLES,
    exits=_ROTATE_EXITS,
    see=("dualcert check", "docs/security.md"),
)
@click.argument(
    "domain", cls=Argument, metavar="DOMAIN", shell_complete=tables("keys"), help="The name of a [keys.NAME]."
)
@click.option("--prepare", is_flag=True, help="Only make the KEK that is to come; it wraps nothing yet.")
@click.option("--keep-old", is_flag=True, help="Keep the old KEK, for machines that still wrap under it.")
@click.option("--finish", is_flag=True, help="Make no new KEK: only finish what was begun, if anything was.")
@click.option("--new", is_flag=True, help="Make a new KEK even if the last rotation is not finished.")
@pass_context
def rotate(context: Context, domain: str, prepare: bool, keep_old: bool, finish: bool, new: bool) -> int:
    """Make a new KEK for an isolation domain, and wrap all its keys under it.

    A running daemon and other commands need not be stopped: they find the new KEK by themselves, and the old one
    opens as long as a key lies under it. At the end the old KEK's file is removed. Interrupted at any point, the same
    command goes on.

    Keep a copy of the new KEK, apart from the other domain's. A copy of the old one and of the database of before
    still open the keys of before: a KEK that has leaked is not healed by this alone (docs/security.md).
    """
    from dualcert.lifecycle import rewrapping
    from dualcert.lifecycle.rewrapping import Wish

    if prepare + finish + new > 1:
        raise UsageProblem("--prepare, --finish and --new contradict each other", remedy="Say one of them.")
    watched = _watched(context)
    progress = _Line(domain) if watched else _unseen
    wish = Wish(new=new, finish=finish, prepare=prepare, keep_old=keep_old)
    done = rewrapping.rotate(context.application.world, domain, wish, progress)
    if watched:
        note("")
    if context.json:
        print_json(asdict(done))
    else:
        _tell(done)
    if done.failed or (done.kept and not keep_old and not prepare):
        return EXIT_PARTIAL
    return EXIT_DONE


def _watched(context: Context) -> bool:
    return sys.stderr.isatty() and not context.json


class _Line:
    """One line on a terminal that counts."""

    def __init__(self, domain: str) -> None:
        self._domain = domain

    def __call__(self, done: int, total: int) -> None:
        sys.stderr.write(f"\r  {self._domain}: {done} of {total} keys")
        sys.stderr.flush()


def _unseen(done: int, total: int) -> None:
    """In a pipe nobody watches."""


def _tell(done: Rotation) -> None:
    if done.prepared is not None:
        say(f"{done.domain}: KEK {done.prepared} is made, and wraps nothing yet")
        say(
            "  bring it to the other machines (docs/security.md says how), then rotate with --keep-old on each"
        )
        return
    if done.made:
        say(f"{done.domain}: KEK {done.kek} wraps from now on (keep a copy, apart from the other domain's)")
    elif not done.rewrapped and not done.dropped and not done.failed:
        say(f"{done.domain}: nothing to do, all keys lie under KEK {done.kek}")
    else:
        say(
            f"{done.domain}: an earlier rotation is gone on with, and no new KEK was made: {done.kek} wraps as before"
        )
        say("  if that is the one that leaked, say --new")
    if done.rewrapped:
        say(f"{done.domain}: {_counted(done.rewrapped)} wrapped anew under KEK {done.kek}")
    for kek in done.dropped:
        say(f"{done.domain}: the old KEK {kek} is removed")
    for one in done.kept:
        note(f"{done.domain}: the old KEK {one.kek} stays: {one.reason}")
    for problem in done.problems[:_NAMED]:
        note(_named(problem))
    if done.failed:
        note(
            f"{done.domain}: {_counted(done.failed)} could not be wrapped anew\n"
            "  Bring back the KEK that is named, beside the new one, and run this again; or replace the certificates: "
            "dualcert renew NAME --force."
        )


def _named(problem: Problem) -> str:
    about = ", ".join(part for part in (problem.pair, problem.ca and f"CA {problem.ca}") if part)
    return f"{about or 'a key'}, {problem.key[:16]}: {problem.reason}"


def _counted(number: int) -> str:
    return "1 key" if number == 1 else f"{number} keys"
