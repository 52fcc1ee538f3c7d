"""Secrets in the configuration: the text itself, ``{ env = "NAME" }`` or ``{ file = "PATH" }``."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualcert.config.places import file_named
from dualcert.errors import ConfigurationError
from dualcert.ports.options import Secret

SECRET_FORM = 'write the text itself, { env = "NAME" } or { file = "PATH" }'  # noqa: S105 - advice, no secret

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LONGEST = 64 * 1024


@dataclass(frozen=True)
class SecretSource:
    """Where a secret is to be found; exactly one is set. A ``file`` is absolute."""

    text: str | None = field(default=None, repr=False)
    env: str | None = None
    file: Path | None = None


SecretResolver = Callable[[SecretSource, str], Secret]


def secret_source(value: Any, base: Path) -> SecretSource:
    """What a value of the file says. Raises ValueError, whose text never repeats the value."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("the secret is empty")
        return SecretSource(text=value)
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"env", "file"}:
        raise ValueError("is not a secret")
    (kind, name), *_ = value.items()
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f'"{kind}" of a secret must be a text that is not empty')
    if kind == "env":
        return SecretSource(env=name)
    return SecretSource(file=file_named(name, base))


def resolve_secret(source: SecretSource, where: str) -> Secret:
    """The secret itself. ``where`` is what a ConfigurationError names: file and key."""
    if source.text is not None:
        return Secret(source.text)
    if source.env is not None:
        value = os.environ.get(source.env)
        if not (value or "").strip():
            raise ConfigurationError(
                f"{where}: the environment variable {source.env} is not set",
                remedy=f"set {source.env} for dualcert, or name another source: {SECRET_FORM}",
            )
        return Secret(value or "")
    if source.file is None:
        raise ConfigurationError(f"{where}: no secret is named", remedy=SECRET_FORM)
    return Secret(_read(source.file, where))


def _read(file: Path, where: str) -> str:
    try:
        with file.open("rb") as stream:
            # Asked of the open file: a path could be exchanged between the question and the reading.
            if os.fstat(stream.fileno()).st_mode & _OTHERS:
                raise ConfigurationError(
                    f"{where}: others can read the secret file {file}", remedy=f"run: chmod 600 {file}"
                )
            text = stream.read(_LONGEST).decode()
    except OSError as error:
        raise ConfigurationError(
            f"{where}: the secret file {file} cannot be read: {error.strerror}",
            remedy="create it with mode 0600, readable by the user that runs dualcert",
        ) from None
    except UnicodeDecodeError:
        # The exception itself holds the bytes that were read.
        raise ConfigurationError(
            f"{where}: the secret file {file} is not text",
            remedy="write the secret as text, as its issuer gave it",
        ) from None
    if not text.strip():
        raise ConfigurationError(
            f"{where}: the secret file {file} is empty", remedy="write the secret into it"
        )
    return text


class DeferredSecret(Secret):
    """A secret that is looked up when it is revealed, not before.

    A command that does not need it (a failover calls no CA) works although its source is missing just then, or is a
    file that others can read.
    ``reveal()`` raises ConfigurationError.
    """

    __slots__ = ("_source", "_where")

    def __init__(self, source: SecretSource, where: str) -> None:
        super().__init__("")
        self._source = source
        self._where = where

    def reveal(self) -> str:
        return resolve_secret(self._source, self._where).reveal()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeferredSecret) and other._source == self._source

    def __hash__(self) -> int:
        return hash(self._source)
