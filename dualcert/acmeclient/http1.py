"""One HTTP/1.1 connection to a server: a request goes out in one piece, httptools reads what comes back.

http.client does the same in three times the time, most of it spent on headers as if they were an e-mail's.
"""

from __future__ import annotations

import select
import socket
import ssl
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead, InvalidURL, RemoteDisconnected
from re import compile as pattern

from httptools import HttpParserError, HttpResponseParser

_PIECE = 64 * 1024
_HEAD_LIMIT = 64 * 1024
_TARGET = pattern(r"/[!-~]*")


class AnswerTooLong(Exception):
    """The body of an answer is longer than it may be."""


@dataclass(frozen=True)
class Request:
    """``limit``: how many bytes the body of the answer may have."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    limit: int


@dataclass(frozen=True)
class Reply:
    """An answer with its whole body. The names of ``headers`` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Http1:
    """A TLS connection; for one thread at a time. ``stands`` after an answer: it may be used again."""

    def __init__(self, stream: socket.socket, host: str, context: ssl.SSLContext) -> None:
        """TLS on a connection that was made to ``host``; it is closed where that fails. OSError."""
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._stream = context.wrap_socket(stream, server_hostname=host)
        except BaseException:
            stream.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._stream, select.POLLIN)
        self.stands = True
        self.since = 0.0
        """When it was used last; whoever keeps it says so."""

    def exchange(self, request: Request, host: str, target: str) -> Reply:
        """Send, and read to the end; ``host`` and ``target`` are what the URL says.

        Raises OSError, HTTPException, AnswerTooLong.
        """
        if not _TARGET.fullmatch(target):
            raise InvalidURL("not a path")
        self.stands = False
        self._stream.sendall(_head(request, host, target) + (request.body or b""))
        answer = _Answer(request)
        while not answer.complete:
            piece = self._stream.recv(_PIECE)
            if not piece:
                answer.end()
                break
            answer.feed(piece)
        else:
            self.stands = answer.keeps_alive
        return Reply(answer.status, answer.headers, bytes(answer.body))

    def is_dropped(self) -> bool:
        """Whether the server has said something unasked, which can only be that it closes."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        self._stream.close()


def _head(request: Request, host: str, target: str) -> bytes:
    lines = [f"{request.method} {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if request.body is not None:
        lines.append(f"Content-Length: {len(request.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class _Answer:
    """What httptools tells of an answer while it comes."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._parser = HttpResponseParser(self)
        self._fed = 0
        self._length = 0
        self._head_ends = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self.keeps_alive = False

    def feed(self, piece: bytes) -> None:
        self._fed += len(piece)
        try:
            self._parser.feed_data(piece)
        except HttpParserError as error:
            raise HTTPException("not HTTP") from error
        if not self._head_ends and self._fed > _HEAD_LIMIT:
            raise HTTPException("endless headers")
        if max(self._length, len(self.body)) > self._request.limit:
            raise AnswerTooLong

    def end(self) -> None:
        """The server has closed. That ends an answer that told no length; any other has broken off."""
        if not self._fed:
            raise RemoteDisconnected("no answer")
        if not self._head_ends or self.headers.keys() & {"content-length", "transfer-encoding"}:
            raise IncompleteRead(bytes(self.body))

    # --- called by the parser ----------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        # One that comes several times is a list (RFC 9110 section 5.3): CAs send a Link for each alternate chain.
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
            return
        self._head_ends = True
        self.keeps_alive = self._parser.should_keep_alive()
        # The parser does not know to which method this is the answer: one to HEAD has no body, whatever it says.
        self.complete = self._request.method == "HEAD"
        length = self.headers.get("content-length", "0")
        self._length = int(length) if length.isdecimal() and not self.complete else 0

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = self._head_ends
