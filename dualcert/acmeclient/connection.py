"""HTTPS connections that end with their call's deadline, on nothing but the standard library.

requests and urllib3 take as long for one request as the CA itself, and longer to import than anything else here.
"""

from __future__ import annotations

import http.client
import os
import select
import ssl
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.acmeclient.unreachable import ConnectTimeout
from dualcert.clock import Clock
from dualcert.errors import ConfigurationError

_Place: TypeAlias = tuple[str, int]
Reader: TypeAlias = Callable[[http.client.HTTPResponse], bytes]

_HTTPS = 443
_PROXY = 8080
_IDLE = 32
_CONNECTING = 3  # a name's addresses are tried one after another, each for a third of the time

# The deadline of the call that this thread is making; a socket has no other way to learn it while it shakes hands.
_call = threading.local()


class Deadline:
    """An end on the monotonic clock, so many seconds from now."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left. Raises TimeoutError where there are none."""
        left = self._end - self._clock.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


@dataclass(frozen=True)
class Request:
    """What to send; ``url`` is https."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None = None


class _DeadlineSocket(ssl.SSLSocket):
    """Gives each operation only what is left of the call's deadline."""

    def _bound(self) -> None:
        deadline: Deadline | None = getattr(_call, "deadline", None)
        if deadline is not None:
            self.settimeout(deadline.left())

    def do_handshake(self, block: bool = False) -> None:
        self._bound()
        super().do_handshake(block)

    def recv_into(self, *arguments: Any, **keywords: Any) -> int:
        self._bound()
        return super().recv_into(*arguments, **keywords)

    def sendall(self, *arguments: Any, **keywords: Any) -> None:
        self._bound()
        super().sendall(*arguments, **keywords)


class Connection(http.client.HTTPSConnection):
    """One connection, used by one thread at a time."""

    _held: bytearray | None = None

    def ask(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Send a request and read the head of its answer."""
        # http.client writes head and body one by one, and the server would wake up twice.
        self._held = bytearray()
        self.request(method, target, body, headers)
        whole, self._held = bytes(self._held), None
        self.send(whole)
        return self.getresponse()

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)
        else:
            self._held += data

    def is_stale(self) -> bool:
        """Whether the server has closed the idle connection, or sent what nobody asked for."""
        if self.sock is None:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def __del__(self) -> None:
        self.close()


class Connections:
    """The open connections to one CA, lent to one call after another; shared by all threads."""

    def __init__(self, settings: AcmeCaSettings) -> None:
        self._settings = settings
        self._context = _trust(settings)
        self._idle: dict[_Place, deque[Connection]] = {}

    def exchange(
        self, request: Request, deadline: Deadline, read: Reader
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """One request and its answer, whose body ``read`` reads.

        Raises OSError or HTTPException where no whole answer came.
        """
        parts = urlsplit(request.url)
        place = (parts.hostname or "", parts.port or _HTTPS)
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        kept = False
        _call.deadline = deadline
        connection = self._lend(place, deadline)
        try:
            response = connection.ask(request.method, target, request.body, request.headers)
            body = read(response)
            kept = response.isclosed() and connection.sock is not None  # read to its end, and not for closing
            return response, body
        finally:
            _call.deadline = None
            if kept:
                self._idle.setdefault(place, deque(maxlen=_IDLE)).append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close what is idle; the next call opens anew."""
        for connections in list(self._idle.values()):
            while connections:
                connections.pop().close()

    def _lend(self, place: _Place, deadline: Deadline) -> Connection:
        idle = self._idle.get(place)
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                break
            if not connection.is_stale():
                return connection
            connection.close()
        return self._open(place, deadline)

    def _open(self, place: _Place, deadline: Deadline) -> Connection:
        seconds = min(deadline.left(), self._settings.timeout / _CONNECTING)
        proxy = _proxy_of(place)
        connection = Connection(*(proxy.place if proxy else place), timeout=seconds, context=self._context)
        if proxy:
            connection.set_tunnel(*place, headers=proxy.headers)
        try:
            connection.connect()
        except TimeoutError as error:
            connection.close()
            raise ConnectTimeout("timed out") from error
        except BaseException:
            connection.close()
            raise
        return connection


@dataclass(frozen=True)
class _Proxy:
    place: _Place
    headers: dict[str, str] = field(repr=False)


def _proxy_of(place: _Place) -> _Proxy | None:
    """The proxy that the environment names for a server (``https_proxy``, ``all_proxy``, ``no_proxy``)."""
    if not any(name.lower() in {"https_proxy", "all_proxy"} for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    url = proxies.get("https") or proxies.get("all")
    if not url or proxy_bypass(f"{place[0]}:{place[1]}", proxies):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise OSError(f"a proxy of the kind {parts.scheme!r} is not supported, only http")
    headers = {}
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
    return _Proxy((parts.hostname, parts.port or _PROXY), headers)


def _trust(settings: AcmeCaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=_roots(settings))
    except OSError as error:  # SSLError is one
        where = settings.ca_bundle or "this machine's trust store"
        raise ConfigurationError(
            f"{where} holds no certificates that can be read: {error.strerror or error}",
            remedy=f"Set `ca_bundle` in [ca.{settings.name}] to a PEM file with the roots of the CA's HTTPS.",
            ca=settings.name,
        ) from error
    context.sslsocket_class = _DeadlineSocket
    return context


def _roots(settings: AcmeCaSettings) -> str | None:
    """The file to trust; None for the system's own."""
    if settings.ca_bundle is not None:
        return str(settings.ca_bundle)
    system = ssl.get_default_verify_paths()
    if system.cafile or (system.capath and any(Path(system.capath).iterdir())):
        return None
    import certifi  # for slim containers, which come without roots

    return certifi.where()
