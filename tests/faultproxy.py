"""A CA that misbehaves on demand: an HTTPS proxy before a real one, scripted request by request.

    with FaultProxy("https://127.0.0.1:14000/dir", folder=tmp_path) as proxy:
        proxy.on("/order-plz", too_many("120"))            # the next newOrder is answered with 429
        proxy.on("/certZ/", Cut(), times=2)                # the next two downloads break off
        proxy.on("/dir", Hang(), times=None)               # every look at the directory hangs
        ... directory = proxy.directory, ca_bundle = proxy.ca_bundle ...

The client may be this process or another: it needs the directory's URL and the bundle, which is a file. The ``Host``
of a request is passed on, so that the URLs which the CA makes lead through the proxy as well. At most ``in_flight``
requests are at the CA at once (Pebble locks up above four).
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import trustme

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Pass:
    """The CA's own answer, untouched."""


@dataclass(frozen=True)
class Answer:
    """An answer of the proxy's own; the CA does not see the request, unless it is to be passed on (``forward``) first.

    ``length`` is what Content-Length claims, if not the truth; None: the body comes in chunks and claims nothing.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = -1
    forward: bool = False


@dataclass(frozen=True)
class Hang:
    """No answer until ``release()``, then the CA's own. ``forward`` first: the CA has acted, and nobody hears of it."""

    forward: bool = False


@dataclass(frozen=True)
class Cut:
    """The CA's answer breaks off after so many bytes of its body; ``after=None``: before its first line."""

    after: int | None = 10


@dataclass(frozen=True)
class Dribble:
    """The CA's answer comes byte by byte, one each ``interval`` seconds; with ``head`` its head does so, too."""

    interval: float = 0.1
    head: bool = False


@dataclass(frozen=True)
class SpoilNonce:
    """The CA's answer with a nonce that the CA has never given (``nonce=None``: with none)."""

    nonce: str | None = "bm90LWEtbm9uY2U"


Fault = Pass | Answer | Hang | Cut | Dribble | SpoilNonce


def html(status: int) -> Answer:
    """What a load balancer says while its CA is away."""
    body = f"<html><head><title>{status}</title></head><body><h1>Maintenance</h1></body></html>".encode()
    return Answer(status, body, "text/html; charset=utf-8")


def problem(status: int, kind: str, detail: str = "as the test wants it", **more: Any) -> Answer:
    """A problem document; ``kind`` is the last part of its URN, ``more`` are further members."""
    document = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status, **more}
    return Answer(status, json.dumps(document).encode(), "application/problem+json")


def too_many(retry_after: str | None, status: int = 429) -> Answer:
    """429 (or 503) with a Retry-After as given: seconds or an HTTP date."""
    headers = (("Retry-After", retry_after),) if retry_after is not None else ()
    said = problem(status, "rateLimited", "too many requests")
    return Answer(status, said.body, said.content_type, headers)


@dataclass
class Rule:
    """A fault for requests whose path contains ``path``; ``hits`` counts them."""

    path: str
    fault: Fault
    method: str | None
    times: int | None
    skip: int
    hits: int = 0

    def takes(self, method: str, path: str) -> bool:
        if self.path not in path or (self.method is not None and self.method != method):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        return self.times is None or self.hits < self.times


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    fault: Fault
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class FaultProxy:
    """See the module. ``upstream`` is the URL of the CA's directory (its own TLS is not verified), ``folder`` where
    the roots are written that trust the proxy."""

    def __init__(self, upstream: str, *, folder: Path, in_flight: int = 4) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 443)
        self.in_flight = threading.BoundedSemaphore(in_flight)
        self.ca_bundle = folder / "faultproxy-roots.pem"
        self._directory = parts.path
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._seen: list[Seen] = []
        self._open: set[socket.socket] = set()
        self._connections = 0
        self._released = threading.Event()
        self.stopped = threading.Event()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_bundle))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self._server = _Server(self, context)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    # --- for tests ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    @property
    def directory(self) -> str:
        return self.url + self._directory

    def on(
        self, path: str, fault: Fault, *, method: str | None = None, times: int | None = 1, skip: int = 0
    ) -> Rule:
        """Answer the next ``times`` requests (None: all) with ``path`` in their path by ``fault``.

        The first ``skip`` of them pass. Where several rules take a request, the one made last does.
        """
        rule = Rule(path, fault, method, times, skip)
        with self._lock:
            self._rules.insert(0, rule)
        return rule

    def calm(self) -> None:
        """Forget all rules and release what hangs."""
        with self._lock:
            self._rules.clear()
        self.release()

    def release(self) -> None:
        """Let what hangs now go on; what hangs later waits for the next release."""
        with self._lock:
            released, self._released = self._released, threading.Event()
        released.set()

    @property
    def seen(self) -> list[Seen]:
        """All requests so far, in the order in which they came."""
        with self._lock:
            return list(self._seen)

    def hang_up(self) -> None:
        """Close all connections that are open now."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _shut(connection)

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        with self._lock:
            return self._connections

    def count(self, path: str) -> int:
        """How many requests came with ``path`` in their path."""
        return sum(path in request.path for request in self.seen)

    def forget(self) -> None:
        """Start the list of requests anew."""
        with self._lock:
            self._seen.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop at once: what hangs or dribbles is cut off."""
        self.stopped.set()
        self.release()
        self._server.shutdown()
        self._thread.join()
        self.hang_up()
        self._server.server_close()

    # --- for the connections ----------------------------------------------------------------------------------

    def choose(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Fault:
        with self._lock:
            rule = next((rule for rule in self._rules if rule.takes(method, path)), None)
            fault = rule.fault if rule else Pass()
            if rule:
                rule.hits += 1
            self._seen.append(Seen(method, path, fault, headers, body))
            return fault

    def wait_for_release(self) -> None:
        with self._lock:
            released = self._released
        if not self.stopped.is_set():
            released.wait()

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
            self._connections += 1

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = False  # server_close waits for them

    def __init__(self, proxy: FaultProxy, context: ssl.SSLContext) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Connection)
        # The handshake happens at the first read, in the connection's thread: a slow client blocks nobody.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or that did not trust us, is part of the play."""


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: int | None = -1


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        self._upstream: http.client.HTTPSConnection | None = None
        self.server.proxy.opened(self.request)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.proxy.closed(self.request)
            if self._upstream is not None:
                self._upstream.close()

    def log_message(self, *_: Any) -> None:
        """``proxy.seen`` is the log."""

    def handle_one(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.choose(self.command, self.path, dict(self.headers), body)
        match fault:
            case Answer():
                if fault.forward:
                    self._forward(body)
                headers = [("Content-Type", fault.content_type), *fault.headers]
                self._reply(_Reply(fault.status, headers, fault.body, fault.length))
            case Hang():
                early = self._forward(body) if fault.forward else None
                proxy.wait_for_release()
                self._reply(early or self._forward(body))
            case Cut(after=None):
                self._forward(body)
                self.close_connection = True
            case Cut():
                self._cut(self._forward(body), fault.after or 0)
            case Dribble():
                self._dribble(self._forward(body), fault)
            case SpoilNonce():
                self._reply(_spoiled(self._forward(body), fault.nonce))
            case Pass():
                self._reply(self._forward(body))

    do_GET = do_HEAD = do_POST = handle_one  # noqa: N815 - the names are http.server's

    def _forward(self, body: bytes) -> _Reply:
        """The CA's answer; a 502 where it gives none."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        with self.server.proxy.in_flight:
            for _ in range(2):  # a kept connection may have been closed by the CA meanwhile
                try:
                    connection = self._connect()
                    connection.request(self.command, self.path, body or None, headers)
                    response = connection.getresponse()
                    return _Reply(response.status, response.getheaders(), response.read())
                except (OSError, http.client.HTTPException):
                    if self._upstream is not None:
                        self._upstream.close()
                        self._upstream = None
        return _Reply(502, [("Content-Type", "text/plain")], b"the CA behind the proxy does not answer")

    def _connect(self) -> http.client.HTTPSConnection:
        if self._upstream is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            host, port = self.server.proxy.upstream
            self._upstream = http.client.HTTPSConnection(host, port, context=context, timeout=60)
            self._upstream.connect()
            self._upstream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._upstream

    def _head(self, reply: _Reply) -> bytes:
        kept = [(name, value) for name, value in reply.headers if name.lower() not in _HOP_BY_HOP]
        lines = [f"HTTP/1.1 {reply.status} {self.responses.get(reply.status, ('',))[0]}"]
        length = len(reply.body) if reply.length == -1 else reply.length
        framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        lines += [f"{name}: {value}" for name, value in [*kept, framing]]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _reply(self, reply: _Reply) -> None:
        body = _chunked(reply.body) if reply.length is None else reply.body
        self.wfile.write(self._head(reply) + (b"" if self.command == "HEAD" else body))
        self.wfile.flush()
        if reply.length not in {None, -1}:
            self.close_connection = True  # nobody can tell where the next answer would begin

    def _cut(self, reply: _Reply, after: int) -> None:
        self.wfile.write(self._head(reply) + reply.body[:after])
        self.wfile.flush()
        self.close_connection = True

    def _dribble(self, reply: _Reply, fault: Dribble) -> None:
        head = self._head(reply)
        slow = head + reply.body if fault.head else reply.body
        if not fault.head:
            self.wfile.write(head)
        for byte in _bytes(slow):
            self.wfile.write(byte)
            self.wfile.flush()
            if self.server.proxy.stopped.wait(fault.interval):
                self.close_connection = True
                return


def _chunked(data: bytes) -> bytes:
    pieces = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def _bytes(data: bytes) -> Iterable[bytes]:
    return (data[index : index + 1] for index in range(len(data)))


def _spoiled(reply: _Reply, nonce: str | None) -> _Reply:
    headers = [(name, value) for name, value in reply.headers if name.lower() != "replay-nonce"]
    return _Reply(
        reply.status, headers + ([("Replay-Nonce", nonce)] if nonce is not None else []), reply.body
    )


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the client was faster
