"""A TLS server that presents whatever placement it is given, from the next handshake on."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualcert.ports.deploy import Placement


class TlsServer:
    def __init__(self, folder: Path, address: str, port: int) -> None:
        self._file = folder / f"{address}.pem"
        self._listening = socket.create_server((address, port))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def present(self, placement: Placement) -> None:
        self._file.write_text(placement.private_key.decode() + placement.certificate)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            with plain:
                self._answer(plain)

    def _answer(self, plain: socket.socket) -> None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._file)
            with context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(1)
        except OSError:
            return


@contextmanager
def tls_servers(folder: Path, *addresses: str) -> Iterator[list[TlsServer]]:
    """One at each address, all at the same port."""
    servers: list[TlsServer] = []
    try:
        for address in addresses:
            servers.append(TlsServer(folder, address, servers[0].port if servers else 0))
        yield servers
    finally:
        for server in servers:
            server.close()
