"""One ACME request after another: nonces, limits, and what went wrong. It knows no ACME object.

A call, its nonce and its repetitions after badNonce share one deadline. It bounds connecting, the handshake
and every single read, so that a server that sends a byte now and then cannot hold a thread.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from re import compile as pattern

from dualcert.acmeclient import problems
from dualcert.acmeclient.connection import Connections, Deadline
from dualcert.acmeclient.http1 import AnswerTooLong, Reply, Request
from dualcert.acmeclient.problems import Subject
from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.acmeclient.signing import Signer
from dualcert.acmeclient.unreachable import NO_ANSWER, explain
from dualcert.acmeclient.unsent import before_it_leaves
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
    """A successful answer. ``date`` is what the CA's clock said, as it wrote it, ``at`` what ours said then."""

    url: str
    status: int
    content_type: str
    body: bytes
    location: str | None
    link: str | None
    retry_after: timedelta | None
    date: str | None = None
    at: datetime | None = None

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


class Transport:
    """All connections to one CA; shared by all threads."""

    def __init__(self, settings: AcmeCaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._connections = Connections(settings, clock)
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
        with before_it_leaves():
            nonce = self._nonce(new_nonce, deadline)
        for repetition in range(_BAD_NONCES + 1):
            body = signer.sign(url, nonce, payload)
            raw = self._exchange("POST", url, deadline, body, accept=accept, limit=limit)
            if not problems.is_bad_nonce(raw.status, _content_type(raw), raw.body):
                self._keep(raw)
                return self._answer(url, raw, subject)
            if repetition < _BAD_NONCES:
                # Not one of the kept ones: if the CA was restarted, they are all as stale as this one was.
                with before_it_leaves():
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

    def _keep(self, raw: Reply) -> None:
        nonce = _nonce_of(raw)
        if nonce is not None:
            self._nonces.append(nonce)

    def _answer(self, url: str, raw: Reply, subject: Subject) -> Answer:
        now = self._clock.now()
        wait = problems.retry_after(raw.headers.get("retry-after"), now)
        if HTTPStatus.OK <= raw.status < HTTPStatus.MULTIPLE_CHOICES:
            location, link = raw.headers.get("location"), raw.headers.get("link")
            date = raw.headers.get("date")
            return Answer(url, raw.status, _content_type(raw), raw.body, location, link, wait, date, now)
        if HTTPStatus.MULTIPLE_CHOICES <= raw.status < HTTPStatus.BAD_REQUEST:
            place = problems.plain(raw.headers.get("location") or "nowhere", 200)
            raise CaUnreachable(
                f"the CA sends us elsewhere: {place}",
                remedy=f"Redirects are not followed: set `directory` in [ca.{self._settings.name}] to match.",
                ca=self._settings.name,
            )
        raise problems.to_error(
            problems.Failure(
                ca=self._settings.name,
                status=raw.status,
                content_type=_content_type(raw),
                body=raw.body,
                retry_after=wait,
                subject=subject,
                link=raw.headers.get("link"),
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
    ) -> Reply:
        """One request and its whole answer. Raises CaUnreachable."""
        headers = {"User-Agent": self._settings.user_agent}
        if accept is not None:
            headers["Accept"] = accept
        if body is not None:
            headers["Content-Type"] = "application/jose+json"
        started = self._clock.monotonic()
        outcome: object = "no answer"
        try:
            raw = self._connections.request(Request(method, url, headers, body, limit), deadline)
            outcome = raw.status
            return raw
        except AnswerTooLong as error:
            raise CaServerError(
                f"the CA's answer is longer than {limit // 1024} KiB", ca=self._settings.name
            ) from error
        except NO_ANSWER as error:
            raise explain(error, url, self._settings) from error
        finally:
            _log.debug("%s %s: %s, %.3f s", method, url, outcome, self._clock.monotonic() - started)


def _content_type(raw: Reply) -> str:
    return raw.headers.get("content-type") or ""


def _nonce_of(raw: Reply) -> str | None:
    """The nonce of an answer; one with other characters is to be ignored (RFC 8555 section 6.5.1)."""
    value = raw.headers.get("replay-nonce")
    return value if value is not None and _NONCE.fullmatch(value) else None
