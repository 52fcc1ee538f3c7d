"""HTTPS to one CA: urllib3's pool, proxies and TLS, and a deadline that holds for all of a call."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout, make_headers

from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.acmeclient.unreachable import ConnectTimeout
from dualcert.clock import Clock
from dualcert.errors import ConfigurationError

_KEPT = 64  # idle connections to one server; more than threads ever talk to it
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
    """Gives each read what is left of the call; urllib3 would give every byte the whole time anew.

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

    def __init__(self, settings: AcmeCaSettings) -> None:
        self._connecting = settings.timeout / _CONNECTING
        options: dict[str, Any] = {
            "ssl_context": _trust(settings),
            "maxsize": _KEPT,
            "block": False,
            "retries": False,
        }
        self._direct = PoolManager(**options)
        self._proxies = getproxies_environment()
        proxy = self._proxies.get("https") or self._proxies.get("all")
        self._proxied = _proxied(proxy, settings, options) if proxy else None

    def request(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, deadline: Deadline
    ) -> BaseHTTPResponse:
        """Send a request and read the head of its answer; the body is read by this thread, then it is closed.

        Raises OSError or urllib3's HTTPError.
        """
        _call.deadline = deadline
        left = deadline.left()
        return self._way_to(url).request(
            method,
            url,
            headers=headers,
            body=body,
            timeout=Timeout(connect=min(left, self._connecting), read=left),
            redirect=False,
            preload_content=False,
        )

    def close(self) -> None:
        """Close what is idle; the next call opens anew."""
        for manager in (self._direct, self._proxied):
            if manager is not None:
                manager.clear()

    def _way_to(self, url: str) -> PoolManager:
        if self._proxied is None or proxy_bypass(urlsplit(url).netloc, self._proxies):
            return self._direct
        return self._proxied


def _proxied(url: str, settings: AcmeCaSettings, options: dict[str, Any]) -> ProxyManager:
    """Through the proxy that the environment names (``https_proxy``, ``all_proxy``)."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        user, _, place = parts.netloc.rpartition("@")
        # A header is latin-1 to urllib3, which so keeps the bytes that the URL stands for.
        secret = make_headers(proxy_basic_auth=unquote_to_bytes(user).decode("latin-1")) if user else {}
        if not parts.hostname:
            raise ValueError("no host")
        return ProxyManager(
            f"{parts.scheme}://{place}", proxy_headers=secret, proxy_ssl_context=_context(None), **options
        )
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
