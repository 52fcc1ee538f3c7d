"""What the daemon does beside its steps: each in a thread of its own, so that nothing due waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dualcert.errors import DualcertError, StoreUnavailable
from dualcert.lifecycle.world import World
from dualcert.onecpu import one_cpu

log = logging.getLogger(__name__)

_MISHAP_PAUSE = 60.0


class Job:
    """``look`` costs the caller no time; one round is under way at most.

    ``act`` takes one round and gives the seconds after which the next one may begin. A database that is away, or what
    nobody foresaw, is told under ``name``, and a round begins anew a minute later.
    """

    def __init__(self, world: World, name: str, act: Callable[[World], float]) -> None:
        self._world = world
        self._name = name
        self._act = act
        self._busy = False
        self._look_at = world.clock.monotonic()

    def look(self) -> None:
        """Begin a round if it is time and none is under way."""
        if self._busy or self._world.clock.monotonic() < self._look_at:
            return
        self._busy = True
        self._world.pools.get(self._name, 1).submit(self._round)

    def _round(self) -> None:
        pause = _MISHAP_PAUSE
        try:
            with one_cpu.elsewhere():  # millions of entries may be walked here, mostly by the database
                pause = self._act(self._world)
        except StoreUnavailable as error:
            log.warning("%s waits for the database: %s", self._name, error.reason)
        except DualcertError as error:
            log.error("%s has failed; again in %.0f s: %s", self._name, _MISHAP_PAUSE, error)  # noqa: TRY400
        except Exception:
            # It goes on; whatever this is, it is told again and again.
            log.exception("%s has failed; again in %.0f s", self._name, _MISHAP_PAUSE)
        finally:
            self._look_at = self._world.clock.monotonic() + pause
            self._busy = False
