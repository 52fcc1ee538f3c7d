"""Whether everything is as it must be: many looks at once, each with a time limit, told as they end.

What cannot be looked at is a problem, never silently in order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from queue import Empty, SimpleQueue

from dualcert.errors import DualcertError, told
from dualcert.lifecycle import checking_cas, checking_places
from dualcert.lifecycle.findings import Finding, Look, Scene, trouble
from dualcert.lifecycle.plugged import WHERE
from dualcert.lifecycle.pool import Pool

log = logging.getLogger(__name__)

LIMIT = timedelta(seconds=45)
"""How long a look may take: a request to a CA and a change of DNS end within 30 s each."""

_AT_ONCE = 16


def looks(scene: Scene) -> list[tuple[str, Look]]:
    """Everything there is to look at, by subject."""
    return [*checking_cas.looks(scene), *checking_places.looks(scene)]


def run(scene: Scene, limit: timedelta = LIMIT) -> Iterator[Finding]:
    """Look at everything at once; findings come as the looks end."""
    pool = Pool("check", _AT_ONCE)
    try:
        yield from _gathered(scene, pool, limit)
    finally:
        pool.close()


def _gathered(scene: Scene, pool: Pool, limit: timedelta) -> Iterator[Finding]:
    clock = scene.world.clock
    waiting = dict(looks(scene))
    ended: SimpleQueue[tuple[str, list[Finding] | BaseException]] = SimpleQueue()
    for subject, look in waiting.items():
        pool.submit(lambda subject=subject, look=look: ended.put((subject, _taken(subject, look))))  # type: ignore[misc]
    deadline = clock.monotonic() + limit.total_seconds()
    while waiting:
        try:
            subject, found = ended.get(timeout=max(0.0, deadline - clock.monotonic()))
        except Empty:
            break
        del waiting[subject]
        if isinstance(found, BaseException):
            raise found
        yield from found
    for subject in waiting:
        yield Finding(
            subject,
            f"it could not be looked at within {limit.total_seconds():g} s",
            "See what keeps it from answering, then run dualcert check again.",
        )


def _taken(subject: str, look: Look) -> list[Finding] | BaseException:
    try:
        return list(look())
    except DualcertError as error:
        return [trouble(subject, error)]
    except KeyboardInterrupt as error:
        return error
    except BaseException as error:
        log.debug("%s could not be looked at", subject, exc_info=error)
        return [Finding(subject, f"internal error: {told(error)}", WHERE)]
