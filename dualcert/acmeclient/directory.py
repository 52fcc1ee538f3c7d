"""The directory of a CA, fetched once."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import TYPE_CHECKING

from dualcert.acmeclient import answers
from dualcert.acmeclient.answers import Directory
from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.errors import CaUnreachable, DualcertError

if TYPE_CHECKING:
    from dualcert.acmeclient.connection import Deadline
    from dualcert.acmeclient.transport import Transport


class SharedDirectory:
    """What all threads of a client know of its CA's directory.

    Threads that come while it is fetched share the one request, and its failure: one by one they would hold each
    other up for a timeout each. A failure is forgotten at once.
    """

    def __init__(self, settings: AcmeCaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._directory: Future[Directory] | None = None

    def known(self, wire: Transport, deadline: Deadline) -> Directory:
        with self._lock:
            known = self._directory
            mine = known is None
            if known is None:
                known = self._directory = Future()
        if mine:
            self._fetch(known, wire, deadline)
            return known.result()
        try:
            return known.result(timeout=deadline.left())
        except (TimeoutError, CancelledError):
            raise CaUnreachable(
                f"the CA's directory did not arrive in time ({self._settings.timeout:g} s)",
                remedy="It is tried again.",
                ca=self._settings.name,
            ) from None

    def _fetch(self, promise: Future[Directory], wire: Transport, deadline: Deadline) -> None:
        name = self._settings.name
        try:
            answer = wire.get(self._settings.directory, deadline)
            read = answers.read_directory(name, answer.document(name))
            facts = replace(read.facts, date=answer.date, fetched_at=answer.at)
            promise.set_result(replace(read, facts=facts))
        except DualcertError as error:
            self._forget()
            promise.set_exception(error)
        except BaseException:
            self._forget()
            promise.cancel()
            raise

    def _forget(self) -> None:
        with self._lock:
            self._directory = None
