"""One ACME request after another: nonces, limits, and what went wrong. It knows no ACME object.

A call, its nonce and its repetitions after badNonce share one deadline. It bounds connecting, the handshake
and every single read, so that a server that sends a byte now and then cannot hold a thread.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from re import compile as pattern

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from dualcert.acmeclient import problems
from dualcert.acmeclient.connection import Connections, Deadline
from dualcert.acmeclient.problems import Subject
from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.acmeclient.signing import Signer
from dualcert.acmeclient.unreachable import explain
from dualcert.clock import Clock
from dualcert.errors import CaServerError, CaUnreachable

JSON_LIMIT = 256 * 1024
CERTIFICATE_LIMIT = 1024 * 1024

_log = logging.getLogger("dualcert.acmeclient")
_NONCE = pattern(r"[A-Za-z0-9_-]{1,512}")
_BAD_NONCES = 10
_KEPT_NONCES = 64


@dataclass(frozen=True)
class Answer:
    """A successful answer."""

    url: str
    status: int
    content_type: str
    body: bytes
    location: str | None
    link: str | None
    retry_after: timedelta | None

    def document(self, ca: str) -> object:
        """The body as JSON. Raises CaUnreachable where it is none: then no ACME CA has answered."""
        value = problems.decode(self.body) if problems.is_json(self.content_type) else None
        if value is None:
            kind = problems.plain(self.content_type, 60) or "no content type"
            raise CaUnreachable(
                f"what answered is not an ACME CA: status {self.status}, {kind} where JSON was due",
                remedy=f"Look at `directory` in [ca.{ca}], and at proxies on the way.",
                ca=ca,
            )
        return value


@dataclass(frozen=True)
class _Raw:
    response: BaseHTTPResponse
    body: bytes

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def content_type(self) -> str:
        return self.header("Content-Type") or ""

    def header(self, name: str) -> str | None:
        return self.response.headers.get(name)


class Transport:
    """All connections to one CA; shared by all threads."""

    def __init__(self, settings: AcmeCaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._connections = Connections(settings)
        self._nonces: deque[str] = deque(maxlen=_KEPT_NONCES)

    def deadline(self) -> Deadline:
        """The deadline of a call that begins now."""
        return Deadline(self._clock, self._settings.timeout)

    def get(self, url: str, deadline: Deadline) -> Answer:
        """An unsigned GET, which only the directory takes."""
        return self._answer(url, self._exchange("GET", url, deadline), Subject.OTHER)

    def post(
        self,
        url: str,
        payload: bytes,
        signer: Signer,
        new_nonce: str,
        deadline: Deadline,
        *,
        subject: Subject = Subject.OTHER,
        accept: str | None = None,
        limit: int = JSON_LIMIT,
    ) -> Answer:
        """A signed request. ``new_nonce`` is where a nonce is had when none is kept."""
        nonce = self._nonce(new_nonce, deadline)
        for repetition in range(_BAD_NONCES + 1):
            body = signer.sign(url, nonce, payload)
            raw = self._exchange("POST", url, deadline, body, accept=accept, limit=limit)
            if not problems.is_bad_nonce(raw.status, raw.content_type, raw.body):
                self._keep(raw)
                return self._answer(url, raw, subject)
            if repetition < _BAD_NONCES:
                # Not one of the kept ones: if the CA was restarted, they are all as stale as this one was.
                nonce = _nonce_of(raw) or self._fetch_nonce(new_nonce, deadline)
        raise CaServerError(
            f"the CA rejected {_BAD_NONCES + 1} fresh nonces one after another",
            remedy="The same request may work later; it is tried again.",
            ca=self._settings.name,
        )

    def close(self) -> None:
        """Close the connections of all threads."""
        self._connections.close()

    def _nonce(self, new_nonce: str, deadline: Deadline) -> str:
        try:
            return self._nonces.pop()  # the youngest: a CA forgets the oldest first
        except IndexError:
            return self._fetch_nonce(new_nonce, deadline)

    def _fetch_nonce(self, new_nonce: str, deadline: Deadline) -> str:
        raw = self._exchange("HEAD", new_nonce, deadline)
        nonce = _nonce_of(raw)
        if nonce is not None:
            return nonce
        self._answer(new_nonce, raw, Subject.OTHER)  # raises where the answer is no success
        raise CaServerError("the CA gave no nonce where it was asked for one", ca=self._settings.name)

    def _keep(self, raw: _Raw) -> None:
        nonce = _nonce_of(raw)
        if nonce is not None:
            self._nonces.append(nonce)

    def _answer(self, url: str, raw: _Raw, subject: Subject) -> Answer:
        wait = problems.retry_after(raw.header("Retry-After"), self._clock.now())
        if HTTPStatus.OK <= raw.status < HTTPStatus.MULTIPLE_CHOICES:
            location, link = raw.header("Location"), raw.header("Link")
            return Answer(url, raw.status, raw.content_type, raw.body, location, link, wait)
        if HTTPStatus.MULTIPLE_CHOICES <= raw.status < HTTPStatus.BAD_REQUEST:
            place = problems.plain(raw.header("Location") or "nowhere", 200)
            raise CaUnreachable(
                f"the CA sends us elsewhere: {place}",
                remedy=f"Redirects are not followed: set `directory` in [ca.{self._settings.name}] to match.",
                ca=self._settings.name,
            )
        raise problems.to_error(
            problems.Failure(
                ca=self._settings.name,
                status=raw.status,
                content_type=raw.content_type,
                body=raw.body,
                retry_after=wait,
                subject=subject,
            )
        )

    def _exchange(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        body: bytes | None = None,
        *,
        accept: str | None = None,
        limit: int = JSON_LIMIT,
    ) -> _Raw:
        """One request and its whole answer. Raises CaUnreachable."""
        headers = {"User-Agent": self._settings.user_agent}
        if accept is not None:
            headers["Accept"] = accept
        if body is not None:
            headers["Content-Type"] = "application/jose+json"
        started = self._clock.monotonic()
        outcome: object = "no answer"
        try:
            response = self._connections.request(method, url, headers, body, deadline)
            raw = _Raw(response, self._read(limit, response))
            outcome = raw.status
            return raw
        except (OSError, HTTPError) as error:
            raise explain(error, url, self._settings) from error
        finally:
            _log.debug("%s %s: %s, %.3f s", method, url, outcome, self._clock.monotonic() - started)

    def _read(self, limit: int, response: BaseHTTPResponse) -> bytes:
        try:
            if (response.length_remaining or 0) <= limit:
                body = response.read(limit + 1)  # raises where the answer broke off
                if len(body) <= limit:
                    return body
            raise CaServerError(f"the CA's answer is longer than {limit // 1024} KiB", ca=self._settings.name)
        finally:
            response.close()  # its connection too, unless the answer was read to its end


def _nonce_of(raw: _Raw) -> str | None:
    """The nonce of an answer; one with other characters is to be ignored (RFC 8555 section 6.5.1)."""
    value = raw.header("Replay-Nonce")
    return value if value is not None and _NONCE.fullmatch(value) else None
