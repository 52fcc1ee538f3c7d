"""The base of every plugin's options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Options:
    """A plugin's options are a frozen dataclass, one field per key of its table in ``dualcert.toml``.

    The field's type is what the value is checked against (``Secret`` where it may be ``{ env = ... }`` or
    ``{ file = ... }``, ``pathlib.Path`` where it is relative to the configuration file; docs/plugins.md lists them).
    Every field is made by :func:`option`: one without a default is required, and ``help`` is the sentence that help and
    error messages show. A ``ValueError`` from ``__post_init__`` becomes a configuration error that names the table.
    """

    summary: ClassVar[str] = ""


def option(help: str, **keywords: Any) -> Any:  # noqa: A002 - the word that every option parser uses
    """A dataclass field with its help text; ``default`` or ``default_factory`` as for ``dataclasses.field``."""
    required = "default" not in keywords and "default_factory" not in keywords
    return field(metadata={"help": help, "required": required}, **keywords)


class Secret:
    """A secret value: compared and revealed on purpose, never shown.

    ``reveal()`` gives the text, surrounding white space removed.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value.strip()

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")
