"""What a shell offers at the Tab key: names of tables from the configuration, names of pairs from the database.

Whoever presses Tab has not asked for anything yet. What cannot be had at once, or at all, is not offered, and nothing
is said about it: the command itself will.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from dualcert.cli.context import Context
from dualcert.errors import DualcertError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[str]]

VARIABLE: Final = "_DUALCERT_COMPLETE"
_MOST: Final = 100
_PATIENCE: Final = 3.0
"""Seconds after which a database that does not answer is not waited for any longer."""


def prepare() -> None:
    """If a shell asks: have bash get a script of ours, and keep stderr off the line that somebody is typing."""
    wish = os.environ.get(VARIABLE, "")
    if wish.startswith("bash_"):
        from click.shell_completion import add_completion_class

        from dualcert.cli.bash import Bash

        add_completion_class(Bash)
    if wish.endswith("_complete"):
        import logging

        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
        logging.disable()


def tables(kind: str) -> Complete:
    """Completes the names of tables, ``[KIND.NAME]``, as they stand in the file, be the rest of it right or wrong."""

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        found = _document(ctx).get(kind, {})
        return [name for name in found if name.startswith(incomplete)] if isinstance(found, dict) else []

    return complete


def _document(ctx: click.Context) -> dict[str, Any]:
    import tomllib

    from dualcert.config import places

    context = ctx.find_object(Context)
    try:
        path = places.configuration_path(context.config if context is not None else None)
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, not readable, no UTF-8, no TOML
        return {}


def files(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Has the shell complete a file, where ``-`` or what is read line by line keeps the option from being a path."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def pairs(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the names of pairs: a hundred at most, of a database that answers."""
    context = ctx.find_object(Context)
    if context is None:
        return []
    try:
        return _pairs(context, incomplete)
    except DualcertError:
        return []


def _pairs(context: Context, incomplete: str) -> list[str]:
    import threading

    from dualcert import bootstrap  # noqa: F401 - what takes its time however fast the database is
    from dualcert.lifecycle import inventory
    from dualcert.lifecycle.listing import listed

    # A server that is away is waited for longer than a person at a prompt likes; nothing can be lost here.
    giving_up = threading.Timer(_PATIENCE, os._exit, (0,))
    giving_up.daemon = True
    giving_up.start()
    try:
        world = context.application.world
        found: list[str] = []
        if incomplete:
            # Pages begin after a name; that name may be one itself.
            with suppress(DualcertError):
                found = [name for name in [inventory.resolve(world, incomplete).name] if name == incomplete]
        for page in listed(world, _MOST, incomplete):
            found += [line.pair for line in page if line.pair.startswith(incomplete)]
        return found
    finally:
        context.close()
        giving_up.cancel()
