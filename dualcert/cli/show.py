"""``dualcert show``"""

from __future__ import annotations

from typing import Any

import click

from dualcert.cli.completion import pairs
from dualcert.cli.context import Context
from dualcert.cli.frame import Argument, Command, pass_context
from dualcert.cli.output import cell, print_json, say

_SHOW_EXAMPLES = """
dualcert show example.com
dualcert show example.com --json
"""
_OVER = ("revoked", "expired")
"""States of a certificate that is not renewed but replaced: when its life would have ended tells nothing."""


@click.command(
    "show", cls=Command, examples=_SHOW_EXAMPLES, see=("dualcert list", "dualcert events", "docs/renewal.md")
)
@click.argument(
    "name",
    cls=Argument,
    metavar="NAME",
    shell_complete=pairs,
    help="A pair's name, or a name that it covers.",
)
@pass_context
def show(context: Context, name: str) -> None:
    """Show one pair: its certificates, what they wait for, and what its targets were last seen to serve."""
    from dualcert.lifecycle import inventory, objecting, views

    world = context.application.world
    pair = inventory.resolve(world, name)
    view = views.describe(world, pair)
    if context.json:
        print_json(view)
        return
    print_pair(view)
    bad, way = objecting.exposure(world, pair)
    doubts, ways = objecting.doubts(world, pair)
    if bad is not None:
        say(f"exposed     what serves must not: {bad}")
        if not doubts:
            _print_lines(way)
    if doubts:
        say(f"no backup   {'; '.join(doubts)}")
        _print_lines(ways)


def print_pair(view: dict[str, Any]) -> None:
    """A pair for a person."""
    say(f"pair        {view['pair']}")
    say(f"names       {', '.join(view['names'])}")
    say(f"protection  {view['protection']}")
    say(f"epoch       {view['epoch']}")
    for role in ("primary", "backup"):
        _print_lineage(role, view[role])
    for target in view["targets"]:
        seen = "nothing seen yet"
        if target["observed_sha256"] is not None:
            seen = (
                f"{_whose(view, target['observed_sha256'])}, by {target['observed']} at {cell(target['at'])}"
            )
        say(f"target      {target['target']}: {seen}")
        if target["problem"]:
            _print_lines(target["problem"])
        if target["next_try"]:
            say(f"            next try at {cell(target['next_try'])}")


def _print_lineage(role: str, lineage: dict[str, Any]) -> None:
    say(f"{role:<11} {lineage['ca']}: {lineage['state']}")
    certificate, renewal = lineage["certificate"], lineage["renewal"]
    if certificate is not None:
        say(
            f"            serial {cell(certificate['serial'])}, {certificate['key_type']}, {certificate['issuer']}"
        )
        say(f"            valid  {cell(certificate['not_before'])} to {cell(certificate['not_after'])}")
        say(f"            sha256 {cell(certificate['sha256'])}")
    if lineage["renew_at"] is not None and lineage["state"] not in _OVER:
        say(f"            renews {cell(lineage['renew_at'])}")
    if renewal["state"] != "idle":
        times = "once" if renewal["tries"] == 1 else f"{renewal['tries']} times"
        tries = f", tried {times} since {cell(renewal['since'])}" if renewal["tries"] else ""
        again = "next try" if tries else "due"
        due = f", {again} at {cell(renewal['next_try'])}" if renewal["next_try"] else ""
        say(f"            {renewal['state']}{tries}{due}")
    if renewal["error"]:
        _print_lines(renewal["error"])


def _print_lines(text: str) -> None:
    for line in text.splitlines():
        say(f"            {line.strip()}")


def _whose(view: dict[str, Any], sha256: str) -> str:
    for role in ("primary", "backup"):
        certificate = view[role]["certificate"]
        if certificate is not None and certificate["sha256"] == sha256:
            return f"the {role}'s certificate"
    return f"another certificate ({sha256[:16]}...)"
