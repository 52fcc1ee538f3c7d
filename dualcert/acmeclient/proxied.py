"""HTTPS to a CA through a proxy, itself spoken to in TLS or not: urllib3's work. Imported where there is one."""

from __future__ import annotations

import ssl
from http.client import HTTPException
from urllib.parse import unquote_to_bytes, urlsplit

from urllib3 import BaseHTTPResponse, ProxyManager, Timeout, make_headers
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProxyError

from dualcert.acmeclient.http1 import AnswerTooLong, Reply, Request
from dualcert.acmeclient.unreachable import ConnectTimeout, ProxyFailed

_KEPT = 64


class Proxied:
    """The way through one proxy. Raises ValueError where its URL is none."""

    def __init__(self, url: str, context: ssl.SSLContext, proxy_context: ssl.SSLContext) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        user, _, place = parts.netloc.rpartition("@")
        # A header is latin-1 to urllib3, which so keeps the bytes that the URL stands for.
        secret = make_headers(proxy_basic_auth=unquote_to_bytes(user).decode("latin-1")) if user else {}
        if not parts.hostname:
            raise ValueError("no host")
        self._manager = ProxyManager(
            f"{parts.scheme}://{place}",
            proxy_headers=secret,
            proxy_ssl_context=proxy_context,
            ssl_context=context,
            maxsize=_KEPT,
            block=False,
            retries=False,
        )

    def request(self, request: Request, connecting: float, reading: float) -> Reply:
        """Raises one of ``unreachable.NO_ANSWER``, or AnswerTooLong; the times are in seconds."""
        try:
            response = self._manager.request(
                request.method,
                request.url,
                headers=request.headers,
                body=request.body,
                timeout=Timeout(connect=connecting, read=reading),
                redirect=False,
                preload_content=False,
            )
            try:
                return _read(response, request.limit)
            finally:
                response.close()  # its connection too, unless the answer was read to its end
        except ProxyError as error:
            raise ProxyFailed from _first(error)
        except HTTPError as error:
            raise _first(error) from error

    def close(self) -> None:
        self._manager.clear()


def _first(error: Exception) -> Exception:
    """What was raised first. urllib3 hands it on as a cause, or as an argument."""
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        return ConnectTimeout("timed out")
    inner = [each for each in (error.__cause__, *error.args) if isinstance(each, Exception)]
    if not isinstance(error, HTTPError):
        return error
    return _first(inner[0]) if inner else HTTPException(type(error).__name__)


def _read(response: BaseHTTPResponse, limit: int) -> Reply:
    if (response.length_remaining or 0) > limit:
        raise AnswerTooLong
    body = response.read(limit + 1)  # raises where the answer broke off
    if len(body) > limit:
        raise AnswerTooLong
    return Reply(response.status, {name.lower(): value for name, value in response.headers.items()}, body)
