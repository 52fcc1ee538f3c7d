"""HTTPS to one CA: connections that are kept, TLS, and a deadline that holds for all of a call."""

from __future__ import annotations

import socket
import ssl
import threading
import weakref
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from dualcert.acmeclient.http1 import Http1, Reply, Request
from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.acmeclient.unreachable import ConnectTimeout, NotConnected
from dualcert.clock import Clock
from dualcert.errors import ConfigurationError

if TYPE_CHECKING:
    from dualcert.acmeclient.proxied import Proxied

_KEPT = 64  # idle connections to one server; more than threads ever talk to it
# Whatever lies between may forget an idle connection without a word, and then a request on it has no answer: balancers
# and gateways do after a minute, the hastiest a little sooner.
_IDLE = 30.0
_HTTPS = 443
_CONNECTING = 3  # a name's addresses are tried one after another, each for a third of the time

# The deadline of the call that this thread is making: a connection is lent to one call after another.
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


class _DeadlineSocket(ssl.SSLSocket):
    """Gives each read what is left of the call; to wait for every byte the whole time anew.

    Writing needs none of it: a request is too short to fill a socket's buffer.
    """

    def do_handshake(self, block: bool = False) -> None:
        try:
            self.settimeout(_call.deadline.left())
            super().do_handshake(block)
        except TimeoutError as error:
            raise ConnectTimeout("timed out") from error

    def read(self, *arguments: Any, **keywords: Any) -> Any:
        self.settimeout(_call.deadline.left())
        return super().read(*arguments, **keywords)


class Connections:
    """The connections to one CA, kept for the next call; shared by all threads.

    Raises ConfigurationError where the roots to trust or the environment's proxy are of no use.
    """

    def __init__(self, settings: AcmeCaSettings, clock: Clock) -> None:
        self._clock = clock
        self._connecting = settings.timeout / _CONNECTING
        self._context = _trust(settings)
        self._idle: dict[str, deque[Http1]] = defaultdict(lambda: deque(maxlen=_KEPT))
        weakref.finalize(self, _close_all, self._idle)
        self._environment = getproxies_environment()
        proxy = self._environment.get("https") or self._environment.get("all")
        self._proxied = _through(proxy, self._context, settings) if proxy else None
        self._proxied_since = 0.0

    def request(self, request: Request, deadline: Deadline) -> Reply:
        """Send a request and read its whole answer.

        Raises one of ``unreachable.NO_ANSWER``, or AnswerTooLong.
        """
        _call.deadline = deadline
        place = urlsplit(request.url)
        if self._proxied is not None and not proxy_bypass(place.netloc, self._environment):
            return self._by_proxy(self._proxied, request, deadline)
        try:
            connection = self._lent(place, deadline)
        except OSError as error:
            raise NotConnected from error
        target = f"{place.path or '/'}?{place.query}" if place.query else place.path or "/"
        try:
            return connection.exchange(request, place.netloc.rpartition("@")[2], target)
        finally:
            if connection.stands:
                connection.since = self._clock.monotonic()
                self._idle[place.netloc].append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close what is idle; the next call opens anew."""
        _close_all(self._idle)
        if self._proxied is not None:
            self._proxied.close()

    def _by_proxy(self, proxied: Proxied, request: Request, deadline: Deadline) -> Reply:
        if self._is_old(self._proxied_since):
            proxied.close()
        left = deadline.left()
        try:
            return proxied.request(request, min(left, self._connecting), left)
        finally:
            self._proxied_since = self._clock.monotonic()

    def _is_old(self, since: float) -> bool:
        return self._clock.monotonic() - since > _IDLE

    def _lent(self, place: SplitResult, deadline: Deadline) -> Http1:
        """A connection that stands, or one made anew."""
        idle = self._idle[place.netloc]
        while True:
            try:
                connection = idle.pop()
            except IndexError:
                return self._connected(place, deadline)
            if not self._is_old(connection.since) and not connection.is_dropped():
                return connection
            connection.close()

    def _connected(self, place: SplitResult, deadline: Deadline) -> Http1:
        host = place.hostname or ""
        try:
            return Http1(self._dialled((host, place.port or _HTTPS), deadline), host, self._context)
        except TimeoutError as error:
            raise ConnectTimeout("timed out") from error
        except UnicodeError as error:  # an empty label, or one of more than 63 characters
            raise socket.gaierror(socket.EAI_NONAME, "it cannot be the name of a host") from error

    def _dialled(self, place: tuple[str, int], deadline: Deadline) -> socket.socket:
        """The first of the name's addresses that answers; all of them together have the time of the call."""
        problem = OSError("no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(*place, type=socket.SOCK_STREAM):
            timeout = min(deadline.left(), self._connecting)
            try:
                stream = socket.socket(family, kind, protocol)
            except OSError as error:  # a family that this machine does not speak
                problem = error
                continue
            try:
                stream.settimeout(timeout)
                stream.connect(address)
            except OSError as error:
                stream.close()
                problem = error
            else:
                return stream
        raise problem


def _close_all(connections: dict[str, deque[Http1]]) -> None:
    for idle in connections.values():
        while idle:
            idle.pop().close()


def _through(url: str, context: ssl.SSLContext, settings: AcmeCaSettings) -> Proxied:
    """Through the proxy that the environment names (``https_proxy``, ``all_proxy``)."""
    from dualcert.acmeclient.proxied import Proxied

    try:
        return Proxied(url, context, _context(None))
    except ValueError:  # its words may quote the URL, in which a password may stand
        raise ConfigurationError(
            "the proxy that the environment names is no http or https URL",
            remedy="Set `https_proxy` to http://HOST:PORT, or name this CA's server in `no_proxy`.",
            ca=settings.name,
        ) from None


def _trust(settings: AcmeCaSettings) -> ssl.SSLContext:
    try:
        return _context(settings.ca_bundle)
    except OSError as error:  # SSLError is one
        where = settings.ca_bundle or "this machine's trust store"
        raise ConfigurationError(
            f"{where} holds no certificates that can be read: {error.strerror or error}",
            remedy=f"Set `ca_bundle` in [ca.{settings.name}] to a PEM file with the roots of the CA's HTTPS.",
            ca=settings.name,
        ) from error


def _context(bundle: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=bundle or _public_roots())
    context.sslsocket_class = _DeadlineSocket
    return context


def _public_roots() -> str | None:
    """The file to trust; None for the system's own."""
    system = ssl.get_default_verify_paths()
    if system.cafile or (system.capath and any(Path(system.capath).iterdir())):
        return None
    import certifi  # for slim containers, which come without roots

    return certifi.where()
