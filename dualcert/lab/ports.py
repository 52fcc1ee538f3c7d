"""Free ports on loopback that stay ours."""

from __future__ import annotations

import socket
import sys
from typing import Self

from dualcert.lab.errors import LabError

LOOPBACK = "127.0.0.1"
_TRIES = 50

# Linux lets a second socket bind a port that a first one holds without listening, if both set SO_REUSEADDR,
# as all servers of the lab do. So the reservation need not end when the server starts, and outlives it.
_HELD_WHILE_SERVED = sys.platform == "linux"


class Port:
    """One TCP port of 127.0.0.1 (its UDP twin was free too), kept from being handed to others."""

    def __init__(self, held: socket.socket) -> None:
        self._held: socket.socket | None = held
        self.number: int = held.getsockname()[1]

    @classmethod
    def reserve(cls) -> Self:
        for _ in range(_TRIES):
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((LOOPBACK, 0))
            if _udp_is_free(tcp.getsockname()[1]):
                return cls(tcp)
            tcp.close()
        raise LabError("no free port on 127.0.0.1", remedy="Close some programs that listen on loopback.")

    def make_way(self) -> None:
        """Called right before a server binds the port."""
        if not _HELD_WHILE_SERVED:
            self.close()

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def __str__(self) -> str:
        return f"{LOOPBACK}:{self.number}"


def _udp_is_free(number: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.bind((LOOPBACK, number))
        except OSError:
            return False
    return True
