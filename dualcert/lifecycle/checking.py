"""Whether everything is as it must be: many looks at once, each with a time limit, told as they end.

What cannot be looked at is a problem, never silently in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from queue import Empty, SimpleQueue

from dualcert.errors import ConfigurationError, DualcertError
from dualcert.lifecycle.pool import Pool
from dualcert.lifecycle.world import World

LIMIT = timedelta(seconds=45)
"""How long a look may take: a request to a CA and a change of DNS end within 30 s each."""

_AT_ONCE = 16


@dataclass(frozen=True)
class Finding:
    """What a look came to. ``detail`` says what was seen where nothing is wrong, and is told to people only.

    ``unusable``: as it is configured nothing works, or not this part.
    """

    subject: str
    problem: str | None = None
    remedy: str | None = None
    detail: str = ""
    unusable: bool = False

    @property
    def ok(self) -> bool:
        return self.problem is None


def trouble(subject: str, error: DualcertError) -> Finding:
    """What an error means for a subject."""
    reason = f"{error.name}: {error.reason}" if error.name else error.reason
    return Finding(subject, reason, error.remedy, unusable=isinstance(error, ConfigurationError))


@dataclass(frozen=True)
class CaExpected:
    """What is configured of a CA that only its client would notice. ``eab``: raises where the secret is not to be had;
    None where no external account is configured."""

    eab: Callable[[], object] | None
    profile: str | None
    trust_roots: Path | None


@dataclass(frozen=True)
class Scene:
    """What is looked at: a world in which nothing has been tried yet.

    ``database`` is what is wrong with it; only where that is None the world's store is touched. ``names`` are DNS names
    to try the DNS with in addition to those of pairs.
    """

    world: World
    database: DualcertError | None
    cas: Mapping[str, CaExpected]
    names: Sequence[str] = field(default=())


Look = Callable[[], Iterable[Finding]]


def looks(scene: Scene) -> list[tuple[str, Look]]:
    """Everything there is to look at, by subject."""
    from dualcert.lifecycle import checking_cas, checking_places

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
    except BaseException as error:  # noqa: BLE001 - carried to the thread that waits, which raises it
        return error
