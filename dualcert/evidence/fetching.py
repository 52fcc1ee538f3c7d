"""One HTTP request within limits of size and time, to addresses that were looked at first."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from dualcert.clock import Clock
from dualcert.errors import EvidenceRejected, SourceUnreachable
from dualcert.evidence.addresses import resolve

_CHUNK = 1 << 18
_REDIRECTS = 3
_MOVED = {301, 302, 303, 307, 308}
_ENVELOPE = 1 << 20
"""What may come around an answer, in bytes: headers, and how chunks are told apart."""


@dataclass(frozen=True)
class Limits:
    """``size`` in bytes of an answer; ``seconds`` for a whole request, ``pause`` in which nothing comes."""

    size: int = 64 << 20
    seconds: float = 90.0
    pause: float = 15.0


@dataclass(frozen=True)
class Fetched:
    """An answer. ``headers`` with lower-case names; one that holds what no header may hold is left out."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class _Metered(socket.socket):
    """What comes over it is counted, and has an end: one that sends a byte now and then keeps nobody waiting.

    Everything is read through it, headers too: whoever counts what a library has read counts when it is too late.
    """

    def meter(self, clock: Clock, limits: Limits, until: float) -> None:
        self._clock, self._limits, self._until = clock, limits, until
        self._taken = 0

    def patience(self) -> float:
        """Seconds to wait for what comes next. Raises ``SourceUnreachable`` where the time is over."""
        left = self._until - self._clock.monotonic()
        if left <= 0:
            raise SourceUnreachable(f"it took more than {self._limits.seconds:g} s")
        return min(self._limits.pause, left)

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(self.patience())
        try:
            came = super().recv_into(*arguments)
        except TimeoutError:
            self.patience()
            raise
        self._taken += came
        if self._taken > self._limits.size + _ENVELOPE:
            raise EvidenceRejected(f"it has more than {self._limits.size} bytes")
        return came


class Fetcher:
    """Fetches over plain HTTP: what is fetched is signed, and HTTPS would need a certificate to be checked first."""

    def __init__(self, clock: Clock, user_agent: str, *, private: bool, limits: Limits | None = None) -> None:
        self._clock = clock
        self._user_agent = user_agent
        self._private = private
        self._limits = limits or Limits()

    def get(self, place: str, headers: Mapping[str, str]) -> Fetched:
        """GET; a redirect is followed where its target may be fetched from as well. Raises ``EvidenceError``."""
        until = self._clock.monotonic() + self._limits.seconds
        for _ in range(_REDIRECTS + 1):
            answer = self._request("GET", place, headers, None, until)
            if answer.status not in _MOVED:
                return answer
            try:
                place = urljoin(place, answer.headers["location"])
            except (KeyError, ValueError):
                raise EvidenceRejected("it is moved to what is no place to be asked") from None
        raise EvidenceRejected(f"it is moved on more than {_REDIRECTS} times")

    def post(self, place: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        """POST; not redirected. Raises ``EvidenceError``."""
        return self._request("POST", place, headers, body, self._clock.monotonic() + self._limits.seconds)

    def _request(
        self, method: str, place: str, headers: Mapping[str, str], body: bytes | None, until: float
    ) -> Fetched:
        try:
            url = urlsplit(place)
            port = url.port or 80
            if url.scheme != "http" or not url.hostname or url.username is not None:
                raise EvidenceRejected(f"{place} is not an http URL")
            connection = http.client.HTTPConnection(url.hostname, port)
        except (ValueError, http.client.InvalidURL):
            raise EvidenceRejected(f"{place} is no place to be asked") from None
        connection.sock = self._connected(url.hostname, port, until)
        path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        sent = {
            "User-Agent": self._user_agent,
            "Connection": "close",
            "Accept-Encoding": "identity",
            **headers,
        }
        try:
            connection.request(method, path, body=body, headers=sent)
            with connection.getresponse() as response:
                came = ((name.lower(), value) for name, value in response.getheaders())
                told = {name: value for name, value in came if value.isprintable()}
                return Fetched(response.status, told, self._body(response))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceUnreachable(f"no answer: {str(error) or type(error).__name__}") from None
        finally:
            connection.close()

    def _connected(self, host: str, port: int, until: float) -> socket.socket:
        trouble = "nobody was asked"
        for family, place in resolve(host, port, private=self._private):
            connection = _Metered(family, socket.SOCK_STREAM)
            connection.meter(self._clock, self._limits, until)
            try:
                connection.settimeout(connection.patience())
                connection.connect(place)
            except OSError as error:
                connection.close()
                trouble = str(error)
            except SourceUnreachable:
                connection.close()
                raise
            else:
                return connection
        raise SourceUnreachable(f"{host}:{port} cannot be reached: {trouble}")

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        # getvalue() hands over the buffer itself: a large answer is in memory once.
        taken = io.BytesIO()
        if (response.length or 0) > self._limits.size:
            raise EvidenceRejected(f"it has {response.length} bytes, more than {self._limits.size}")
        while chunk := response.read(_CHUNK):
            taken.write(chunk)
            if taken.tell() > self._limits.size:
                raise EvidenceRejected(f"it has more than {self._limits.size} bytes")
        if response.length:
            raise SourceUnreachable(f"the answer was cut off, {response.length} bytes before its end")
        return taken.getvalue()
