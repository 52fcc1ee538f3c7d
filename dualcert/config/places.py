"""Where the configuration is. Imports nothing heavy: the shell's completion looks there, too."""

from __future__ import annotations

import os
from pathlib import Path

ENVIRONMENT = "DUALCERT_CONFIG"
FILE_NAME = "dualcert.toml"
SYSTEM_FILE = Path("/etc/dualcert/dualcert.toml")


def file_named(text: str, base: Path) -> Path:
    """The path that a configuration in ``base`` names. Raises ValueError, whose text does not repeat it."""
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL character")
    try:
        return base / Path(text).expanduser()
    except RuntimeError:
        raise ValueError("names the home of a user whom this machine does not know") from None


def candidates(explicit: Path | None) -> tuple[Path, ...]:
    """Where a configuration is looked for, in this order; one that was named stands alone."""
    named = explicit or os.environ.get(ENVIRONMENT)
    if named:
        return (Path(named).absolute(),)
    return (Path.cwd() / FILE_NAME, SYSTEM_FILE)


def configuration_path(explicit: Path | None = None) -> Path:
    """The configuration that is in force, or, where there is none, the one that ``init`` would write."""
    places = candidates(explicit)
    return next((place for place in places if place.exists()), places[0])
