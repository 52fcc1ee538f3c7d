"""Calls of plugins: what one raises that its port does not know is an error of its table's, and of nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from dualcert.errors import ConfigurationError, DualcertError, KeyProblem, is_strangers, printable, told

if TYPE_CHECKING:
    from dualcert.ports.keys import KeyProtector

log = logging.getLogger(__name__)

E = TypeVar("E", bound=DualcertError)

WHERE = "The log says where, with -vv."
"""What to do about an exception that nobody foresaw."""


@contextmanager
def called(table: str, known: type[DualcertError]) -> Iterator[None]:
    """Inside, a plugin is called. Raises ``known``, which is what its port says that it raises, or ConfigurationError.

    Whatever else it raised becomes a ``known`` that names the table: the step fails as any other does, with a pause of
    its own, and whoever shares a batch with it is not concerned.
    """
    try:
        yield
    except (known, ConfigurationError) as error:
        if is_whole(error):
            raise
        raise unforeseen(table, known, error) from error
    except BaseException as error:
        if not is_strangers(error):
            raise
        raise unforeseen(table, known, error) from error


@contextmanager
def protecting(domain: str) -> Iterator[None]:
    """The same of a protector of keys. Raises ``KeyProblem``, which is one key's trouble.

    What a stranger's exception says may quote the key: its type is told, and the rest is for the log, unless there is
    a key in it.
    """
    try:
        yield
    except BaseException as error:
        quotes = _quotes_a_key(error)
        known = isinstance(error, KeyProblem | ConfigurationError) and is_whole(error) and not quotes
        if known or not is_strangers(error):
            raise
        if not quotes:
            log.debug("the plugin of [keys.%s] has failed", domain, exc_info=error)
        said = f"the plugin of [keys.{domain}] failed unforeseen: {type(error).__name__}"
        raise KeyProblem(said, remedy=WHERE) from (None if quotes else error)


def kek_of(domain: str, protector: KeyProtector) -> str:
    """The id of the KEK that wraps now. Raises ``KeyProblem`` where the protector has none that can be stored."""
    with protecting(domain):
        found: object = protector.key_id
    if not isinstance(found, str) or not found or printable(found) != found:
        raise KeyProblem(
            f"the plugin of [keys.{domain}] names its KEK by {found!r}",
            remedy="That is a defect of the plugin.",
        )
    return found


def _quotes_a_key(error: BaseException | None) -> bool:
    seen = set[int]()
    while error is not None and id(error) not in seen:  # one may be its own cause
        if "PRIVATE KEY" in printable(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def is_whole(error: DualcertError) -> bool:
    """Whether it can be told, stored and gone by: a class of a plugin's own may lack what its base would have set."""
    try:
        wish: object = error.retry_after
        texts = (error.reason, str(error))
    except Exception:  # noqa: BLE001 - whatever a stranger's method raises
        return False
    return (wish is None or isinstance(wish, timedelta)) and all(printable(one) == one for one in texts)


def unforeseen(table: str, known: type[E], error: BaseException) -> E:
    """What a table's plugin raised, or gave back, and nobody foresaw, as an error that is known."""
    log.debug("the plugin of [%s] has failed", table, exc_info=error)
    made = known(f"the plugin of [{table}] failed unforeseen: {told(error)}", remedy=WHERE)
    made.unforeseen = True
    return made
