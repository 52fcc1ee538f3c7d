"""Writes the texts of ``ahead`` into a file for each database: ``make texts``.

A test demands that they are what SQLAlchemy writes.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import product
from typing import Any

from sqlalchemy import Select

from dualcert.store import ahead
from dualcert.store.address import BACKENDS
from dualcert.store.statements import BEGINNING, IDS, MARK, dialect_of, texts_of, title_of

_WIDTH = 110
_HEAD = "-- Made by `make texts` from dualcert/store/ahead.py; what is written here by hand is lost.\n"


def statements() -> Iterator[tuple[str, Select[Any]]]:
    """Each with its title, for all that may be chosen of it."""
    for name, build in inspect.getmembers(ahead, inspect.isfunction):
        if build.__module__ == ahead.__name__ and not name.startswith("_"):
            choices = inspect.signature(build).parameters
            for made in product((False, True), repeat=len(choices)):
                chosen = dict(zip(choices, made, strict=True))
                yield title_of(name, chosen), build(**chosen)


def content(dialect: str) -> str:
    """What the file of a database has to hold."""
    parts = [f"{BEGINNING}{title}\n{_text(statement, dialect)}\n" for title, statement in statements()]
    return "\n".join([_HEAD, *parts])


def _text(statement: Select[Any], dialect: str) -> str:
    written_as = dialect_of(dialect, named=True)
    binds = statement.compile(dialect=written_as).bind_names
    # Lists are written with as many places as there are values.
    values = {name: [0] if bind.expanding else 0 for bind, name in binds.items() if bind.required}
    text = str(
        statement.params(values).compile(dialect=written_as, compile_kwargs={"render_postcompile": True})
    )
    for bind, name in binds.items():
        if not bind.required:  # its value is the statement's own
            text = re.sub(rf"(:{name}\b|%\({name}\)s(::\w+)?)", f"{bind.effective_value:d}", text)
    text = text.replace(f"({IDS[dialect].format(1)})", f"({MARK})")
    if re.search(r"\bids_", text):
        raise TypeError(f"the list is one of numbers: {text}")
    return "\n".join([_folded(line) for line in text.splitlines()])


def _folded(line: str) -> str:
    return "\n    ".join(textwrap.wrap(line, _WIDTH, break_on_hyphens=False, break_long_words=False))


def main() -> None:
    for dialect in BACKENDS:
        texts_of(dialect).write_text(content(dialect))


if __name__ == "__main__":
    main()
