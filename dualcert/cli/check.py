"""``dualcert check``"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from dualcert.cli.context import Context
from dualcert.cli.frame import Command, pass_context
from dualcert.cli.output import flush, hanging, note, print_json, say
from dualcert.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, ConfigurationError

if TYPE_CHECKING:
    from dualcert.lifecycle.findings import Finding

_EXAMPLES = """
dualcert check
dualcert check --name www.example.com      # tries the DNS rights before the first issue
dualcert check --json | jq -r 'select(.ok | not) | .subject + ": " + .problem'
"""
_EXITS = {
    EXIT_DONE: "Nothing is wrong.",
    EXIT_FAILED: "Something is.",
    EXIT_USAGE: "With this configuration nothing works, or part of it does not.",
}


@click.command(
    "check",
    cls=Command,
    examples=_EXAMPLES,
    exits=_EXITS,
    see=("dualcert list --protection exposed", "docs/configuration.md", "docs/daemon.md"),
)
@click.option(
    "--name",
    "names",
    metavar="NAME",
    multiple=True,
    help="A DNS name to try the default DNS with, although no pair has it yet; repeatable.",
)
@pass_context
def check(context: Context, names: tuple[str, ...]) -> int:
    """Look whether everything is as it must be, and say what to mend.

    Configuration, and that pairs find in it what they need; the database, and that it can be written; the keys, and
    that they open what they should; clocks; each CA's directory, profile and account (none is registered for it),
    and that the CAs are independent; in each zone that a pair needs, that a TXT value can be added and removed, and
    that its name servers answer; targets and what their endpoints serve; what is late, what fails and when it is
    tried again, and pairs that serve what must not be served.

    The value that is tried stands for a moment at the _acme-challenge name of a pair, and no CA takes it for an answer.
    """
    seen = _Seen(json=context.json)
    for finding in _findings(context, names):
        seen.tell(finding)
    return seen.conclude()


def _findings(context: Context, names: tuple[str, ...]) -> Iterator[Finding]:
    from dualcert import bootstrap
    from dualcert.lifecycle import checking, inventory
    from dualcert.lifecycle.findings import Finding

    try:
        settings = context.settings
    except ConfigurationError as error:
        yield from _unusable(error)
        return
    yield Finding("configuration", detail=str(settings.path))
    wanted = [name.removeprefix("*.") for name in inventory.check_names(names)] if names else []
    scene = bootstrap.examine(settings, wanted)
    try:
        yield from checking.run(scene)
    finally:
        scene.world.store.close()


def _unusable(error: ConfigurationError) -> Iterator[Finding]:
    """Everything that is wrong in the file, each by itself."""
    from dualcert.bootstrap import configuration_problems
    from dualcert.lifecycle.findings import Finding

    for place, reason, remedy in configuration_problems(error):
        subject = f"configuration, {place}" if place else "configuration"
        yield Finding(subject, reason, remedy, unusable=True)


class _Seen:
    """Findings as they come, told and counted."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._problems = 0
        self._unusable = False
        self._fine = 0

    def tell(self, finding: Finding) -> None:
        self._problems += not finding.ok
        self._fine += finding.ok
        self._unusable |= finding.unusable
        if self._json:
            told = {"ok": finding.ok, "problem": finding.problem, "remedy": finding.remedy}
            print_json({"subject": finding.subject, **told})
        elif finding.problem is None:
            say(
                f"ok       {finding.subject}: {finding.detail}"
                if finding.detail
                else f"ok       {finding.subject}"
            )
            if finding.remedy:
                say(f"         {finding.remedy}")
        else:
            say(f"PROBLEM  {finding.subject}: {hanging(finding.problem, 9)}")
            if finding.remedy:
                say(f"         {hanging(finding.remedy, 9)}")
        flush()

    def conclude(self) -> int:
        if self._problems:
            note(f"{self._problems} of {self._problems + self._fine} looks found something to mend")
        return EXIT_USAGE if self._unusable else EXIT_FAILED if self._problems else EXIT_DONE
