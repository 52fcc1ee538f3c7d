"""The directory of a CA, fetched once a day."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import TYPE_CHECKING

from dualcert.acmeclient import answers
from dualcert.acmeclient.answers import Directory
from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.clock import Clock
from dualcert.errors import CaUnreachable, DualcertError

if TYPE_CHECKING:
    from dualcert.acmeclient.connection import Deadline
    from dualcert.acmeclient.transport import Transport

_log = logging.getLogger("dualcert.acmeclient")

_DAY = 24 * 3600.0
_AGAIN = 300.0
"""Seconds after which it is asked for again where it could not be had anew."""


class SharedDirectory:
    """What all threads of a client know of its CA's directory.

    Threads that come while it is fetched share the one request, and its failure: one by one they would hold each
    other up for a timeout each. A failure is forgotten at once.

    A day later, whoever comes first fetches it anew, for a CA may move, offer other profiles or ask for other terms; as
    long as that fails the old one is gone by.
    """

    def __init__(self, settings: AcmeCaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._directory: Future[Directory] | None = None
        self._old_at = 0.0

    def known(self, wire: Transport, deadline: Deadline) -> Directory:
        now = self._clock.monotonic()
        with self._lock:
            known = self._directory
            mine = known is None
            old = known is not None and known.done() and now >= self._old_at
            if known is None:
                known = self._directory = Future()
            if mine or old:
                self._old_at = now + (_AGAIN if old else _DAY)
        if mine:
            self._fetch(known, wire, deadline)
            return known.result()
        if old:
            return self._anew(known, wire, deadline)
        try:
            return known.result(timeout=deadline.left())
        except (TimeoutError, CancelledError):
            raise CaUnreachable(
                f"the CA's directory did not arrive in time ({self._settings.timeout:g} s)",
                remedy="It is tried again.",
                ca=self._settings.name,
            ) from None

    def _fetch(self, promise: Future[Directory], wire: Transport, deadline: Deadline) -> None:
        try:
            promise.set_result(self._ask(wire, deadline))
        except DualcertError as error:
            self._forget()
            promise.set_exception(error)
        except BaseException:
            self._forget()
            promise.cancel()
            raise

    def _anew(self, known: Future[Directory], wire: Transport, deadline: Deadline) -> Directory:
        try:
            found = self._ask(wire, deadline)
        except DualcertError as error:
            ca = self._settings.name
            _log.info("CA %s: its directory is a day old, and cannot be had anew: %s", ca, error.reason)
            return known.result()
        fresh: Future[Directory] = Future()
        fresh.set_result(found)
        with self._lock:
            self._directory = fresh
            self._old_at = self._clock.monotonic() + _DAY
        return found

    def _ask(self, wire: Transport, deadline: Deadline) -> Directory:
        name = self._settings.name
        answer = wire.get(self._settings.directory, deadline)
        read = answers.read_directory(name, answer.document(name))
        return replace(read, facts=replace(read.facts, date=answer.date, fetched_at=answer.at))

    def _forget(self) -> None:
        with self._lock:
            self._directory = None
