"""What is PostgreSQL's own: how it is connected to, and what its errors mean."""

from __future__ import annotations

from typing import Any

from dualcert.errors import ConfigurationError, DualcertError, StoreError, StoreUnavailable
from dualcert.store.address import Address

# A server that has vanished is noticed in half a minute, also in the middle of a statement.
_CONNECTION = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "dualcert",
}

_SETTINGS = (
    # A process that stands still in the middle of a unit of work would keep the others waiting for ever; whoever
    # waits for a row waits for longer than that.
    "SET idle_in_transaction_session_timeout = '10s'",
    "SET lock_timeout = '15s'",
    # What is asked for all the time is looked up by index, and what is looked up is in memory. Left to what suits
    # a disk that turns, a thousand look-ups by number become one walk through the whole table.
    "SET random_page_cost = 1.1",
    # A statement that walks no table whole is over before it would have been compiled.
    "SET jit = off",
)
_SESSION = "; ".join(_SETTINGS)

# Of what goes wrong before there is a session, the driver tells nothing but the server's words.
_NO_DATABASE = ('database "', '" does not exist')
_NOT_LET_IN = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "authentication failed for user",
    'FATAL: role "',
)

_INSUFFICIENT_PRIVILEGE = "42501"
_PASSING = {
    "25006",  # read-only: the server stands by for another one now
    "25P03",  # we stood still inside a unit of work for too long
    "25P04",  # so long that the server's own limit was reached
}


def driver() -> Any:
    """Its module. Raises ``ConfigurationError`` where it is not installed."""
    try:
        import psycopg
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "`database` is on PostgreSQL, and its driver is not installed",
            remedy="Install dualcert[postgresql].",
        ) from error
    return psycopg


def conflict() -> type[Exception]:
    """What the driver raises where a row is there already."""
    found: type[Exception] = driver().errors.UniqueViolation
    return found


def connect(address: Address) -> Any:
    """Each statement outside of a transaction is one by itself. Raises the driver's exceptions."""
    connection = driver().connect(**{**address.for_libpq(), **_CONNECTION, "autocommit": True})
    try:
        connection.execute(_SESSION)
    except BaseException:
        connection.close()
        raise
    return connection


def shown(address: Address) -> str:
    """A URL without what may be secret: the password, and whatever else is given to the driver."""
    return str(address.only("host", "port"))


def explained(error: Exception, address: Address, dbapi: Any, *, reached: bool) -> DualcertError:
    """What an exception of the driver means. ``reached``: this database has let us in before.

    The rows that an error speaks of are not told: they hold wrapped keys.
    """
    state = getattr(error, "sqlstate", None)
    said = error.diag.message_primary if state and isinstance(error, dbapi.Error) else None
    words = " ".join((said or str(error)).split())
    name = shown(address)
    if state is None and not reached and (problem := _at_the_door(words, name, address)) is not None:
        return problem
    if isinstance(error, dbapi.OperationalError | dbapi.InterfaceError) or state in _PASSING:
        return StoreUnavailable(
            f"the database {name} could not be used: {words}",
            remedy="Nothing of this step was written; it is taken again when the database answers.",
        )
    if state == _INSUFFICIENT_PRIVILEGE:
        return ConfigurationError(
            f"the database {name} does not allow it: {words}",
            remedy="Let the database belong to the role that dualcert uses: "
            f"ALTER DATABASE {_identifier(address.database)} OWNER TO {_identifier(address.user)};",
        )
    if state is None and not reached:
        return ConfigurationError(f"`database`: {words}", remedy="Mend what stands behind the ? of the URL.")
    return StoreError(f"the database {name} refused a statement: {words}")


def _at_the_door(words: str, name: str, address: Address) -> DualcertError | None:
    if all(part in words for part in _NO_DATABASE):
        owner = f" OWNER {_identifier(address.user)}" if address.user else ""
        return ConfigurationError(
            f"the database {name} does not exist",
            remedy=f"Make it on its server, as an administrator: "
            f"CREATE DATABASE {_identifier(address.database)}{owner};",
        )
    if any(part in words for part in _NOT_LET_IN):
        return ConfigurationError(
            f"the server of the database {name} does not let us in: {words}",
            remedy="Mend user and password. A password may stand in the URL, which `database = { env = ... }` or "
            "{ file = ... } keeps out of the configuration, in $PGPASSWORD, or in ~/.pgpass.",
        )
    return None


def _identifier(name: str | None) -> str:
    plain = name is not None and name.isidentifier() and name.islower() and name.isascii()
    return str(name) if plain else '"' + (name or "NAME").replace('"', '""') + '"'
