"""What systemd wants to hear of a service: sd_notify(3), by hand."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

from dualcert.clock import Clock

log = logging.getLogger(__name__)


class Notifier:
    """Speaks to ``$NOTIFY_SOCKET``; without one it is silent. The variables are taken away from child processes."""

    def __init__(self, clock: Clock, environment: MutableMapping[str, str] = os.environ) -> None:
        self._clock = clock
        path = environment.pop("NOTIFY_SOCKET", "")
        # An abstract socket's name begins with a zero byte, which no variable can hold.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        microseconds = environment.pop("WATCHDOG_USEC", "")
        ours = environment.pop("WATCHDOG_PID", "") in {"", str(os.getpid())}
        # Twice as often as it is demanded, as the manual says.
        self._every = int(microseconds) / 2_000_000 if ours and microseconds.isdigit() else None
        self._next = clock.monotonic()

    def ready(self) -> None:
        self._tell("READY=1")

    def alive(self) -> None:
        if self._every is not None and self._clock.monotonic() >= self._next:
            self._next = self._clock.monotonic() + self._every
            self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        self._tell(f"STATUS={text}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.connect(self._address)
                to.sendall(message.encode())
        except OSError as error:
            log.warning("systemd was not told %r: %s", message, error.strerror)
