"""What all commands have in common: global options on either side of the command, lazy loading, error mapping."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from dualcert.cli.context import Context
from dualcert.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_REFUSED,
    EXIT_USAGE,
    DualcertError,
    UsageProblem,
    is_strangers,
    printable,
    told,
)

# What a shell reports of a program that SIGINT or SIGPIPE has ended.
EXIT_INTERRUPTED: Final = 130
EXIT_NO_READER: Final = 141

CONTEXT_SETTINGS: Final[dict[str, Any]] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}

pass_context = click.make_pass_decorator(Context)
"""Hands a command the Context as its first argument."""


# --- global options --------------------------------------------------------------------------------------


class GlobalOption(click.Option):
    """An option that every command takes, before or after its name; it lands in the Context."""


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        # Without a Context somebody is only asking for completions.
        if value and (context := ctx.find_object(Context)) is not None:
            context.merge(name, value)

    return callback


def _global_options() -> list[click.Parameter]:
    return [
        GlobalOption(
            ["--config"],
            metavar="FILE",
            type=click.Path(),
            expose_value=False,
            callback=_store("config"),
            help="The configuration. Unsaid: $DUALCERT_CONFIG, ./dualcert.toml, /etc/dualcert/dualcert.toml.",
        ),
        GlobalOption(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_store("json"),
            help="Print data as JSON and nothing else: an object for one thing, JSON Lines for many.",
        ),
        GlobalOption(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_store("verbosity"),
            help="Log what is done; -vv logs everything.",
        ),
        GlobalOption(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_store("log_format"),
            help="How the log on stderr is written.",
        ),
    ]


def is_shared(parameter: click.Parameter) -> bool:
    """Whether every command has it: a global option, or ``--help``."""
    return isinstance(parameter, GlobalOption) or "--help" in parameter.opts


# --- the manual -------------------------------------------------------------------------------------------

EXITS: Final[Mapping[int, str]] = {
    EXIT_DONE: "Done.",
    EXIT_FAILED: "Failed; the error says what to do next.",
    EXIT_USAGE: "Usage or configuration: nothing was tried.",
}
"""What the exit statuses mean that every command may end with."""
REFUSED: Final = {EXIT_REFUSED: "Refused for safety: nothing was changed."}


class Argument(click.Argument):
    """An argument with a sentence about it."""

    def __init__(self, *args: Any, help: str, **kwargs: Any) -> None:  # noqa: A002 - as for options
        super().__init__(*args, **kwargs)
        self.help = help


class Manual(click.Command):
    """A command whose help is laid out like a page of a manual, everywhere in the same way.

    ``examples``: lines as they are typed. ``exits``: what its exit statuses mean where that is not ``EXITS``.
    ``see``: command lines and pages that have more.
    """

    def __init__(
        self,
        *args: Any,
        examples: str = "",
        exits: Mapping[int, str] | None = None,
        see: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        kwargs["context_settings"] = {**CONTEXT_SETTINGS, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        self.params.extend(_global_options())
        self.examples = examples.strip("\n").splitlines()
        self.exits = dict(sorted({**EXITS, **(exits or {})}.items()))
        self.see = tuple(see)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title, records in _parameters(self, ctx).items():
            _section(formatter, title, records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        if self.examples:
            _section(formatter, "Exit status", [(str(status), text) for status, text in self.exits.items()])
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}".rstrip() + "\n")
        if self.see:
            with formatter.section("See also"):
                formatter.write_text(", ".join(self.see))


def _show_help(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """As click does it, but where the output takes no more that is told as of any other output."""
    from dualcert.cli.output import write

    if value and not ctx.resilient_parsing:
        write(f"{ctx.get_help()}\n")
        ctx.exit()


def _parameters(command: click.Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    """What it takes, in sections: arguments, options of its own, and those that all commands have."""
    arguments: list[tuple[str, str]] = []
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        if isinstance(parameter, click.Argument):
            arguments.append((parameter.make_metavar(ctx), getattr(parameter, "help", None) or ""))
        elif (record := parameter.get_help_record(ctx)) is not None:
            (shared if is_shared(parameter) else own).append(record)
    return {
        "Arguments": arguments,
        "Options": own,
        "Global options, before or after the command": shared,
    }


def _section(formatter: click.HelpFormatter, title: str, records: list[tuple[str, str]]) -> None:
    if records:
        with formatter.section(title):
            formatter.write_dl(records)


class UnforeseenExit(Exception):
    """Something below a command has called ``sys.exit``."""


class Command(Manual):
    """A command with the global options. Its function returns its exit status, or None for done."""

    def invoke(self, ctx: click.Context) -> Any:
        if (context := ctx.find_object(Context)) is not None:
            context.start()
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            if not is_strangers(error):
                raise
            # The command has not come to its end, whatever status that would be.
            raise UnforeseenExit(f"sys.exit({printable(error)}) was called") from error


class Group(Manual, click.Group):
    """A group whose commands are such commands."""

    command_class = Command
    group_class = type


# --- lazy commands ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lazy:
    """Where a command is (``module:attribute``) and its line in the list of commands."""

    target: str
    help: str


class LazyGroup(Group):
    """A group that imports a command's module when the command is used, not for ``--help``."""

    def __init__(self, *args: Any, commands: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = commands

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._lazy)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return None
        module, _, attribute = lazy.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{lazy.target} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self._lazy and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.NoSuchCommand(args[0], possibilities=self._lazy, ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # click would end the process at once, with the status of a failure.
            raise _NoReader from error

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self._lazy.items()])


# --- running, and what becomes of errors -----------------------------------------------------------------


class _NoReader(Exception):
    """Nobody reads stdout any more."""


def run(group: click.Group, arguments: Sequence[str], context: Context) -> int:
    """Run a command line to its exit status. Errors become text on stderr, never a traceback."""
    try:
        try:
            status = _invoke(group, arguments, context)
        finally:
            context.close()
        _flush()
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was begun is remembered, the same command goes on with it", err=True)
        return EXIT_INTERRUPTED
    except (_NoReader, BrokenPipeError):
        _forget_stdout()
        return EXIT_NO_READER
    except Exception as error:  # noqa: BLE001 - the one place where every error ends, as a text and a status
        return _report(error)
    return status


def _invoke(group: click.Group, arguments: Sequence[str], context: Context) -> int:
    _check_readable(arguments)
    outcome = group.main(list(arguments), prog_name="dualcert", standalone_mode=False, obj=context)
    return outcome if isinstance(outcome, int) else EXIT_DONE


def _check_readable(arguments: Sequence[str]) -> None:
    """Bytes that are no text in this locale would fail only where they are stored or shown, maybe half way through."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise UsageProblem(
                f"{shown} cannot be read as text",
                remedy="Type it in UTF-8, in a locale such as LC_ALL=C.UTF-8.",
            ) from None


def _report(error: Exception) -> int:
    import logging

    from dualcert.cli.output import OutputFailed

    log = logging.getLogger(__name__)
    if isinstance(error, OutputFailed):
        _forget_stdout()
    if isinstance(error, DualcertError):
        click.echo(f"error: {error}", err=True)
        log.debug("the command failed", exc_info=error)
        return error.exit_status
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code if isinstance(error, click.UsageError) else EXIT_USAGE
    hint = "" if log.isEnabledFor(logging.DEBUG) else "; run with -vv for the traceback"
    click.echo(f"internal error: {told(error)}{hint}", err=True)
    log.debug("internal error", exc_info=error)
    return EXIT_FAILED


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from dualcert.cli.output import output_failed

        raise output_failed(error) from None


def _forget_stdout() -> None:
    """Nobody reads any more: what is still buffered must not fail again when the interpreter ends."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
