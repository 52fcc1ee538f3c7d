"""A plugin's table, checked against the plugin's own options class."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dualcert.config.durations import DURATION_FORM, parse_duration
from dualcert.config.places import file_named
from dualcert.config.problems import InvalidConfiguration, Problem, unknown_key
from dualcert.config.secrets import SECRET_FORM, SecretResolver, resolve_secret, secret_source
from dualcert.config.settings import CORE_KEYS, PLUGIN_KEY, PluginTable
from dualcert.errors import ConfigurationError
from dualcert.ports.options import Options, Secret

_O = TypeVar("_O", bound=Options)


class _Unfit(Exception):
    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def bind(options_class: type[_O], table: PluginTable, *, resolve: SecretResolver = resolve_secret) -> _O:
    """The plugin's options from its table. Paths become absolute; secrets are looked up now.

    A field may be annotated str, int, float, bool, Path, Secret, timedelta, Literal, tuple[X, ...] of those,
    and any of them ``| None``. A float with ``metadata["duration"]`` takes ``"30s"`` or a number of seconds.
    Raises InvalidConfiguration with all that is wrong.
    """
    hints = get_type_hints(options_class)
    known = {item.name: item for item in fields(options_class)}
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for key, raw in table.raw.items():
        line = table.lines.get(key, table.line)
        if key not in known:
            problems.append(unknown_key(table.section, key, (*known, *CORE_KEYS[table.kind]), line))
            continue
        reader = _Reader(table, key, bool(known[key].metadata.get("duration")), resolve)
        try:
            values[key] = reader.read(hints[key], raw)
        except _Unfit as unfit:
            remedy = _with_help(unfit.remedy, known[key])
            problems.append(Problem(f"{table.section}.{key}", unfit.reason, remedy, line))
    for key, item in known.items():
        if _is_required(item) and key not in table.raw:
            reason = f'is missing: {PLUGIN_KEY[table.kind]} "{table.plugin}" needs it'
            problems.append(
                Problem(f"{table.section}.{key}", reason, _with_help(f"write {key} = ...", item), table.line)
            )
    if problems:
        raise InvalidConfiguration(table.file, problems)
    try:
        return options_class(**values)
    except ValueError as error:
        reason = str(error)
    raise InvalidConfiguration(
        table.file, [Problem(table.section, reason, f"correct the table [{table.section}]", table.line)]
    )


def _is_required(item: Field[Any]) -> bool:
    """Whoever wrote the plugin may have left out ``option``."""
    bare = item.default is MISSING and item.default_factory is MISSING
    return item.init and bool(item.metadata.get("required", bare))


def _with_help(remedy: str, item: Field[Any]) -> str:
    text = item.metadata.get("help", "")
    return f"{remedy} ({item.name}: {text})" if text else remedy


class _Reader:
    """Reads one key's value by the type that its field is annotated with."""

    def __init__(self, table: PluginTable, key: str, duration: bool, resolve: SecretResolver) -> None:
        self._table = table
        self._where = f"{table.file}, {table.section}.{key}"
        self._duration = duration
        self._resolve = resolve

    def read(self, hint: Any, raw: Any) -> Any:
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            inner, *others = (choice for choice in get_args(hint) if choice is not type(None))
            if others:
                raise _no_option(self._where, hint)
            return self.read(inner, raw)
        if origin is tuple:
            if not isinstance(raw, list):
                raise _Unfit("must be a list in brackets", 'write it as ["...", "..."]')
            inner = get_args(hint)[0]
            # Within a list an empty text may be meant: an empty word of a command.
            return tuple("" if inner is str and item == "" else self.read(inner, item) for item in raw)
        if origin is Literal:
            return _one_of(get_args(hint), raw)
        if self._duration and hint is float:
            return raw * 1.0 if _is_number(raw) else self._read_duration(raw).total_seconds()
        readers: Mapping[Any, Callable[[Any], Any]] = {
            str: _text,
            int: _integer,
            float: _number,
            bool: _boolean,
            Path: self._path,
            Secret: self._secret,
            timedelta: self._read_duration,
        }
        if hint not in readers:
            raise _no_option(self._where, hint)
        return readers[hint](raw)

    def _path(self, raw: Any) -> Path:
        try:
            return file_named(_text(raw), self._table.file.parent)
        except ValueError as error:
            raise _Unfit(str(error), "write a path, as it is or relative to the configuration file") from None

    def _secret(self, raw: Any) -> Secret:
        try:
            source = secret_source(raw, self._table.file.parent)
        except ValueError as error:
            raise _Unfit(str(error), SECRET_FORM) from None
        try:
            return self._resolve(source, self._where)
        except ConfigurationError as error:
            # The problem that it becomes names file and key again.
            reason = error.reason.removeprefix(f"{self._where}: ")
            raise _Unfit(reason, error.remedy or SECRET_FORM) from None

    def _read_duration(self, raw: Any) -> timedelta:
        try:
            return parse_duration(_text(raw))
        except ValueError as error:
            raise _Unfit(str(error).partition(":")[0], f"write {DURATION_FORM}") from None


def _no_option(where: str, hint: object) -> ConfigurationError:
    return ConfigurationError(
        f"{where}: the plugin wants {getattr(hint, '__name__', hint)} there, which no key of the file can be",
        remedy="That is a defect of the plugin: mend or reinstall what brings it.",
    )


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise _Unfit("must be a text in quotes that is not empty", 'write it as "..."')
    return raw


def _is_number(raw: Any) -> bool:
    """One that a float can hold: TOML has integers of any length, infinities, and what is not a number."""
    return isinstance(raw, int | float) and not isinstance(raw, bool) and abs(raw) <= sys.float_info.max


def _integer(raw: Any) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise _Unfit("must be a whole number", "write the number without quotes")
    return raw


def _number(raw: Any) -> float:
    if not _is_number(raw):
        raise _Unfit("must be a number", "write the number without quotes")
    return float(raw)


def _boolean(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise _Unfit("must be true or false", "write true or false, without quotes")
    return raw


def _one_of(choices: tuple[Any, ...], raw: Any) -> Any:
    if raw not in choices or type(raw) is not type(choices[choices.index(raw)]):
        raise _Unfit(f'"{raw}" is not known', f"write one of {', '.join(map(str, choices))}")
    return raw
