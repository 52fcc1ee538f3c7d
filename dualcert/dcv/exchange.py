"""Carries DNS questions to many servers at once, within a time that is never exceeded.

UDP first, sent again when nothing comes; TCP for what was truncated and where UDP stays silent. No EDNS: an answer that
does not fit into 512 octets takes the TCP way, and no middlebox has anything to trip over.
"""

from __future__ import annotations

import selectors
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from dualcert.clock import SystemClock
from dualcert.dcv.addresses import resolve

_HEADER = 12
_QR, _TC = 0x80, 0x02
_ERROR_RCODES = 0x0F
# Shares of the whole time at which an unanswered question is sent again, and after which UDP is given up.
_UDP_STEPS = (0.15, 0.35, 0.6)
_TCP_THREADS = 8

# Always the machine's clock: sockets wait in real time, whatever a test makes of the hour.
_clock = SystemClock()


def exchange(asked: Mapping[str, Sequence[bytes]], timeout: float) -> dict[str, list[bytes | OSError]]:
    """Ask each server (``HOST:PORT``) its questions (messages without additional records), all side by side.

    The answers stand in the questions' order; an OSError stands where none came within ``timeout`` seconds. Answers
    carry the right ID and question; more was not checked.
    """
    start = _clock.monotonic()
    talks = [_Talk(server, questions) for server, questions in asked.items()]
    try:
        _by_udp(talks, start, timeout)
    finally:
        for talk in talks:
            talk.hang_up()
    _by_tcp([talk for talk in talks if talk.open_questions()], start + timeout)
    return {talk.server: talk.outcome() for talk in talks}


class _Talk:
    """The questions to one server, and what has come back."""

    def __init__(self, server: str, questions: Sequence[bytes]) -> None:
        self.server = server
        self.questions = questions
        self.answers: list[bytes | None] = [None] * len(questions)
        self.error: OSError = TimeoutError("no answer in time")
        self.socket: socket.socket | None = None
        self._truncated: set[int] = set()

    def dial(self) -> bool:
        try:
            family, address = resolve(self.server, socket.SOCK_DGRAM)
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
            self.socket.setblocking(False)
            self.socket.connect(address)  # the kernel drops what others send, and reports a closed port
        except OSError as error:
            self.hang_up()
            self.error = error
            return False
        return True

    def hang_up(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def open_questions(self) -> list[int]:
        return [number for number, answer in enumerate(self.answers) if answer is None]

    def waits_for_udp(self) -> bool:
        return self.socket is not None and bool(set(self.open_questions()) - self._truncated)

    def send(self) -> None:
        for number in self.open_questions():
            if self.socket is None or number in self._truncated:
                continue
            try:
                self.socket.send(self.questions[number])
            except BlockingIOError:
                return  # the buffer is full: the next step sends it again
            except OSError as error:
                self.error = error
                self.hang_up()

    def receive(self) -> None:
        if self.socket is None:
            return
        try:
            answer = self.socket.recv(65535)
        except BlockingIOError:
            return
        except OSError as error:
            self.error = error
            self.hang_up()
            return
        for number in self.open_questions():
            if _answers(self.questions[number], answer):
                if answer[2] & _TC:
                    self._truncated.add(number)
                else:
                    self.answers[number] = answer
                return

    def by_tcp(self, deadline: float) -> None:
        try:
            family, address = resolve(self.server, socket.SOCK_STREAM)
            with socket.socket(family, socket.SOCK_STREAM) as stream:
                stream.settimeout(_left(deadline))
                stream.connect(address)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for number in self.open_questions():
                    self.answers[number] = _ask_stream(stream, self.questions[number], deadline)
        except OSError as error:
            self.error = error

    def outcome(self) -> list[bytes | OSError]:
        return [self.error if answer is None else answer for answer in self.answers]


def _by_udp(talks: Sequence[_Talk], start: float, timeout: float) -> None:
    with selectors.DefaultSelector() as selector:
        for talk in talks:
            if talk.dial() and talk.socket is not None:
                selector.register(talk.socket, selectors.EVENT_READ, talk)
        for step in _UDP_STEPS:
            waiting = [talk for talk in talks if talk.waits_for_udp()]
            for talk in waiting:
                talk.send()
            _collect(selector, waiting, start + step * timeout)


def _collect(selector: selectors.BaseSelector, waiting: Sequence[_Talk], until: float) -> None:
    while any(talk.waits_for_udp() for talk in waiting):
        left = until - _clock.monotonic()
        if left <= 0:
            return
        for key, _ in selector.select(left):
            talk: _Talk = key.data
            talk.receive()
            if talk.socket is None:
                selector.unregister(key.fileobj)


def _by_tcp(talks: Iterable[_Talk], deadline: float) -> None:
    talks = list(talks)
    if len(talks) == 1:
        talks[0].by_tcp(deadline)
    elif talks:
        with ThreadPoolExecutor(min(len(talks), _TCP_THREADS), thread_name_prefix="dns-look") as pool:
            list(pool.map(lambda talk: talk.by_tcp(deadline), talks))


def _ask_stream(stream: socket.socket, question: bytes, deadline: float) -> bytes:
    """One question and its answer, each after its length (RFC 1035 section 4.2.2)."""
    stream.settimeout(_left(deadline))
    stream.sendall(struct.pack("!H", len(question)) + question)
    (length,) = struct.unpack("!H", _read(stream, 2, deadline))
    answer = _read(stream, length, deadline)
    if not _answers(question, answer):
        raise ConnectionError("the answer belongs to another question")
    return answer


def _read(stream: socket.socket, length: int, deadline: float) -> bytes:
    data = b""
    while len(data) < length:
        stream.settimeout(_left(deadline))
        part = stream.recv(length - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return data


def _left(deadline: float) -> float:
    left = deadline - _clock.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _answers(question: bytes, answer: bytes) -> bool:
    """Same ID, a response, same question (servers may change its case); errors may leave the question out."""
    if len(answer) < _HEADER or answer[:2] != question[:2] or not answer[2] & _QR:
        return False
    if answer[4:6] == b"\0\0":
        return bool(answer[3] & _ERROR_RCODES)
    return answer[_HEADER : len(question)].lower() == question[_HEADER:].lower()
