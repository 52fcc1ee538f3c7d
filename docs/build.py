"""Writes the two reference pages, commands.md and configuration.md, from the program's own help: `make docs`.

A test builds them again and compares, so a page that says something else than the program fails the build.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields
from datetime import timedelta
from importlib.metadata import EntryPoint, entry_points
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from dualcert.cli.commands import dualcert
from dualcert.cli.frame import EXITS, REFUSED, Manual, is_shared
from dualcert.config import schema
from dualcert.config.durations import DURATION_FORM, RATE_FORM
from dualcert.config.section import Section
from dualcert.ports.options import Options, Secret

FOLDER = Path(__file__).parent
MADE = "<!-- Made by `make docs` from the program's own help; what is written here by hand is lost. -->"

# --- commands ---------------------------------------------------------------------------------------------


def commands_page() -> str:
    top = click.Context(dualcert, info_name="dualcert", **dualcert.context_settings)
    parts = [
        MADE,
        "# Commands",
        *_description(dualcert),
        "`dualcert COMMAND --help` shows the same on the terminal. Upper-case words stand for something of your own, "
        "brackets for what may be left out, `...` for more of the same. A TIME is " + DURATION_FORM + ".",
        "## What all commands have in common",
        *_listed(_records(dualcert, top, shared=True)),
        "These stand before or after the command.",
        "Exit status, where a command says nothing else:",
        *_exits({**EXITS, 3: dualcert.exits[3], **REFUSED}),
        "130 follows on Ctrl-C, and 141 where nobody reads the output any more.",
        "An error says on stderr what happened, to which name and CA, and what to do next.",
    ]
    for name in dualcert.list_commands(top):
        parts += _command(dualcert.get_command(top, name), top, name, "##")
    return _page(parts)


def _command(command: click.Command | None, parent: click.Context, name: str, heading: str) -> Iterator[str]:
    assert isinstance(command, Manual)
    context = click.Context(command, parent=parent, info_name=name, **command.context_settings)
    yield f"{heading} {context.command_path}"
    if isinstance(command, click.Group):
        yield from _description(command)
        for inner in command.list_commands(context):
            yield from _command(command.get_command(context, inner), context, inner, f"{heading}#")
        return
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```"
    yield from _description(command)
    yield from _listed(_records(command, context, shared=False))
    yield "Exit status:"
    yield from _exits(command.exits)
    yield _fenced("sh", command.examples)
    if command.see:
        yield f"See also: {', '.join(_linked(one) for one in command.see)}."


def _description(command: click.Command) -> list[str]:
    return [_escaped(" ".join(paragraph.split())) for paragraph in cleandoc(command.help or "").split("\n\n")]


def _records(command: click.Command, context: click.Context, *, shared: bool) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        if is_shared(parameter) != shared:
            continue
        if isinstance(parameter, click.Argument):
            yield parameter.make_metavar(context), getattr(parameter, "help", None) or ""
        elif (record := parameter.get_help_record(context)) is not None:
            yield record


def _listed(records: Iterable[tuple[str, str]]) -> list[str]:
    lines = [f"- `{term}`: {_escaped(' '.join(text.split()))}" for term, text in records]
    return ["\n".join(lines)] if lines else []


def _exits(exits: dict[int, str]) -> list[str]:
    return ["\n".join(["| | |", "|---|---|", *(f"| {status} | {text} |" for status, text in exits.items())])]


def _linked(see: str) -> str:
    """A page as a link, a command line as a link to its section."""
    if see.startswith("docs/"):
        return f"[{see}]({see.removeprefix('docs/')})"
    words = [word for word in see.split() if word.islower() and not word.startswith("-")]
    if "COMMAND" in see:
        return f"`{see}`"
    names = words[:3] if words[1] in {"account", "pair", "keys", "db", "lab"} else words[:2]
    return f"[`{see}`](#{'-'.join(names)})"


# --- configuration ----------------------------------------------------------------------------------------

TABLES: dict[str, tuple[type[Section], str]] = {
    "keys.NAME": (
        schema.KeysSection,
        (
            "An isolation domain: a key that encrypts the private keys of the CAs that belong to it. There are two at "
            "least, and the two CAs of a pair are never in the same one."
        ),
    ),
    "ca.NAME": (
        schema.CaSection,
        (
            "A CA, and the account there. The rates are counted for all processes on one database "
            "([budgets](budgets.md)); one that is left out is not counted, and the CA's own word is obeyed anyway."
        ),
    ),
    "ca.NAME.eab": (schema.EabSection, "The external account that a CA's account is bound to."),
    "dns.NAME": (schema.DnsSection, "A DNS service that holds zones, and who is asked what stands in them."),
    "target.NAME": (schema.TargetSection, "Where certificates are served from. There may be none."),
    "defaults": (
        schema.DefaultsSection,
        "What a new pair takes. A pair that exists keeps what it was made with: `dualcert pair set` changes it.",
    ),
    "watch": (
        schema.WatchSection,
        "What is done about revocations that are seen ([watching](watching.md)). The table may be left out.",
    ),
}
PLUGINS = {
    "keys": ("protector", "dualcert.key_protectors"),
    "dns": ("provider", "dualcert.dns_providers"),
    "target": ("deployer", "dualcert.deployers"),
}
_TOP = """\
The configuration is one TOML file: the one that `--config` names, else `$DUALCERT_CONFIG`, else `./dualcert.toml`, else
`/etc/dualcert/dualcert.toml`. `dualcert init` writes one with comments; `dualcert check` says what is wrong in it. A
key that is listed neither here nor by the plugin that its table names is refused. NAME is yours: letters, digits, `-`,
`_` and `.`, at most 63.

Paths are relative to the file. A *secret* is `{ file = "PATH" }`, which nobody else may be able to read,
`{ env = "NAME" }`, or the text itself.

Listed are the plugins that dualcert brings; what others take, their authors say ([plugins](plugins.md))."""
_DATABASE = """\
`"sqlite:///PATH"`, or `"postgresql://user@host/name"` for several machines ([PostgreSQL](postgresql.md)), or where that
text stands: `{ file = ... }` or `{ env = ... }`. Required; `dualcert init` and `dualcert db upgrade` make it."""


def configuration_page() -> str:
    forms = f"A *duration* is {DURATION_FORM}; a *rate* is {RATE_FORM}."
    parts = [MADE, "# Configuration", _TOP, forms, "## `database`", _DATABASE]
    for title, (section, about) in TABLES.items():
        parts += [f"## `[{title}]`", about, _keys(section)]
        kind = title.partition(".")[0]
        if title == f"{kind}.NAME" and kind in PLUGINS:
            for point in plugins(kind):
                parts += _plugin(PLUGINS[kind][0], point)
    return _page(parts)


def plugins(kind: str) -> list[EntryPoint]:
    """dualcert's own; other packages document theirs."""
    found = entry_points(group=PLUGINS[kind][1])
    return sorted(
        (point for point in found if point.value.startswith("dualcert.")), key=lambda point: point.name
    )


def _keys(section: type[Section]) -> str:
    return _table(
        (name, key.kind, "**required**" if key.required else _value(key.default), key.help, key.example)
        for name, key in section.fields.items()
    )


def _plugin(key: str, point: EntryPoint) -> Iterator[str]:
    options: type[Options] = point.load().options_class
    hints = get_type_hints(options)
    yield f'### `{key} = "{point.name}"`'
    yield f"{options.summary[:1].upper()}{options.summary[1:]}."
    yield _table(
        (item.name, _type(hints[item.name], item), _default(item), _sentence(item.metadata["help"]), "")
        for item in fields(options)
    )


def _table(rows: Iterable[tuple[str, str, str, str, str]]) -> str:
    lines = ["| key | is | unsaid | |", "|---|---|---|---|"]
    for name, kind, unsaid, text, example in rows:
        shown = f" Example: `{example}`" if example else ""
        lines.append(f"| `{name}` | {kind} | {unsaid} | {_escaped(text)}{shown} |")
    return "\n".join(lines)


def _type(hint: Any, item: Field[Any]) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        [inner] = [choice for choice in get_args(hint) if choice is not type(None)]
        return _type(inner, item)
    if origin is tuple:
        return f"list of {_type(get_args(hint)[0], item)}"
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if item.metadata.get("duration"):
        return "duration, or a number of seconds"
    return {
        str: "text",
        int: "number",
        float: "number",
        bool: "true or false",
        Path: "path",
        Secret: "secret",
        timedelta: "duration",
    }[hint]


def _default(item: Field[Any]) -> str:
    if item.default_factory is not MISSING:
        return _value(item.default_factory())
    return "**required**" if item.default is MISSING else _value(item.default)


def _value(value: Any) -> str:
    """A default as it would stand in the file."""
    if value is None:
        return ""
    if isinstance(value, timedelta):
        minutes, rest = divmod(int(value.total_seconds()), 60)
        return f'`"{value.total_seconds():.0f}s"`' if rest else f'`"{minutes}m"`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(map(repr, value))}]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`"


# --- pages ------------------------------------------------------------------------------------------------


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _escaped(text: str) -> str:
    """Text in which Markdown finds nothing to do outside of backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<])", r"\\\1", part) for part in parts)


def _fenced(language: str, lines: Iterable[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """What belongs into which file."""
    return {
        FOLDER / "commands.md": commands_page(),
        FOLDER / "configuration.md": configuration_page(),
    }


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text)
