"""Brings a database to the revision that this program is written for, and refuses any other."""

from __future__ import annotations

from pathlib import Path

import dualcert
from dualcert.errors import ConfigurationError, DatabaseRevisionError
from dualcert.store.database import Store
from dualcert.store.statements import written

REVISION = "0008"
"""The newest revision in ``migrations/``, known without importing Alembic (which takes most of a second)."""


def script_location() -> Path:
    """The folder of the migrations: inside an installed package, or beside it in a checkout."""
    package = Path(dualcert.__file__).parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigurationError(
        "the database migrations are missing from this installation", remedy="Install dualcert again."
    )


def current(store: Store) -> str | None:
    """The revision of the database; None where it is empty."""
    with store.read() as tx:
        if not tx.execute(written("has_revision")).scalar():
            return None
        found: str | None = tx.execute(written("revision")).scalar()
        return found


def require(store: Store) -> None:
    """Raise ``DatabaseRevisionError`` unless the database is of this program's revision."""
    found = current(store)
    if found == REVISION:
        return
    if found is None:
        raise DatabaseRevisionError(
            f"the database {store.shown} is empty", remedy="Run `dualcert db upgrade` (or `dualcert init`)."
        )
    if found > REVISION:
        raise DatabaseRevisionError(
            f"the database is of revision {found}, newer than this program's {REVISION}",
            remedy="Install the dualcert that upgraded it (see `dualcert db current`), or a newer one.",
        )
    raise DatabaseRevisionError(
        f"the database is of revision {found}, older than this program's {REVISION}",
        remedy="Run `dualcert db upgrade`.",
    )


def upgrade(store: Store) -> str:
    """Bring the database up; the revision that it has then. Refuses one that is newer."""
    found = current(store)
    if found is not None and found > REVISION:
        require(store)
    if found != REVISION:
        _run(store)
    return REVISION


def _run(store: Store) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import text

    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    with store.write() as tx:
        if tx.others_write:
            # Whoever else upgrades waits, for as long as it takes, and finds that it is done.
            tx.execute(text("SET LOCAL lock_timeout = 0"))
        tx.alone("migrations")
        config.attributes["connection"] = tx.connection
        command.upgrade(config, "head")
