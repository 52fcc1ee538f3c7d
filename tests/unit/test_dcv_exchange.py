"""Carrying questions: lost, forged, truncated and late answers, from real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

import dns.flags
import dns.message
import dns.rrset
import pytest

from dualcert.clock import SystemClock
from dualcert.dcv.exchange import exchange
from tests.bindserver import free_port

Udp = Callable[[bytes, int], Sequence[bytes]]
Tcp = Callable[[bytes], bytes | None]
_clock = SystemClock()


def ask(name: str = "_acme-challenge.example.test") -> bytes:
    return dns.message.make_query(name, "TXT", flags=0).to_wire()


def reply(question: bytes, text: str = "yes", *, truncated: bool = False) -> bytes:
    query = dns.message.from_wire(question)
    answer = dns.message.make_response(query)
    if truncated:
        answer.flags |= dns.flags.TC
    else:
        rrset = dns.rrset.from_text(query.question[0].name, 60, "IN", "TXT", f'"{text}"')
        answer.answer.append(rrset)
    return answer.to_wire()


@contextlib.contextmanager
def server(udp: Udp, tcp: Tcp | None = None) -> Iterator[str]:
    """``udp`` gets each datagram and its number, and returns what to send; ``tcp`` the same once, on one connection.

    ``tcp`` returning None keeps the connection open and silent.
    """
    port = free_port()
    done = threading.Event()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", port))
    datagrams.settimeout(0.05)
    listener = socket.create_server(("127.0.0.1", port)) if tcp else None

    def serve_udp() -> None:
        number = 0
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                question, peer = datagrams.recvfrom(4096)
                for answer in udp(question, number):
                    datagrams.sendto(answer, peer)
                number += 1

    def serve_tcp() -> None:
        assert listener is not None
        assert tcp is not None
        listener.settimeout(0.05)
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                stream, _ = listener.accept()
                with stream:
                    while head := stream.recv(2):
                        question = stream.recv(struct.unpack("!H", head)[0], socket.MSG_WAITALL)
                        answer = tcp(question)
                        if answer is None:
                            done.wait(30)
                            return
                        stream.sendall(struct.pack("!H", len(answer)) + answer)

    threads = [threading.Thread(target=serve_udp)] + ([threading.Thread(target=serve_tcp)] if tcp else [])
    for thread in threads:
        thread.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        done.set()
        for thread in threads:
            thread.join()
        datagrams.close()
        if listener:
            listener.close()


def text(answer: bytes | OSError) -> str:
    assert isinstance(answer, bytes), answer
    return str(dns.message.from_wire(answer).answer[0][0]).strip('"')


def test_a_lost_datagram_is_sent_again() -> None:
    with server(lambda question, number: [reply(question)] if number else []) as address:
        assert text(exchange({address: [ask()]}, 1.0)[address][0]) == "yes"


def test_foreign_answers_are_passed_over() -> None:
    """Another ID, another question, a question sent back, a few bytes: none of them is the answer."""

    def answers(question: bytes, _: int) -> list[bytes]:
        other_id = bytes([question[0] ^ 1]) + reply(question, "forged")[1:]
        other_name = question[:2] + reply(ask("_acme-challenge.example.tesu"), "forged")[2:]
        return [other_id, other_name, question, b"\0", reply(question)]

    with server(answers) as address:
        assert text(exchange({address: [ask()]}, 1.0)[address][0]) == "yes"


def test_a_server_may_change_the_case_of_the_question() -> None:
    def shout(question: bytes, _: int) -> list[bytes]:
        answer = reply(question)
        return [answer[:12] + answer[12 : len(question)].upper() + answer[len(question) :]]

    with server(shout) as address:
        assert text(exchange({address: [ask()]}, 1.0)[address][0]) == "yes"


def test_truncated_means_tcp() -> None:
    with server(
        lambda question, _: [reply(question, truncated=True)], lambda q: reply(q, "all of it")
    ) as address:
        start = _clock.monotonic()
        assert text(exchange({address: [ask()]}, 10.0)[address][0]) == "all of it"
        assert _clock.monotonic() - start < 5, "nothing is waited for"


def test_where_udp_is_silent_tcp_is_tried() -> None:
    with server(lambda *_: [], reply) as address:
        assert text(exchange({address: [ask()]}, 0.5)[address][0]) == "yes"


def test_many_questions_to_one_server_keep_their_order() -> None:
    names = [f"_acme-challenge.n{number}.example.test" for number in range(50)]

    def late(question: bytes, number: int) -> list[bytes]:
        name = dns.message.from_wire(question).question[0].name.to_text()
        return [reply(question, name, truncated=number % 7 == 0)]

    def whole(question: bytes) -> bytes:
        return reply(question, dns.message.from_wire(question).question[0].name.to_text())

    with server(late, whole) as address:
        answers = exchange({address: [ask(name) for name in names]}, 2.0)[address]
    assert [text(answer) for answer in answers] == [f"{name}." for name in names]


def test_silence_ends_in_time_and_does_not_touch_the_others() -> None:
    with (
        server(lambda *_: [], lambda _: None) as silent,
        server(lambda *_: [], lambda _: None) as silent_too,
        server(lambda question, _: [reply(question)]) as prompt,
    ):
        start = _clock.monotonic()
        answers = exchange({silent: [ask()], prompt: [ask()], silent_too: [ask()]}, 0.5)
        assert _clock.monotonic() - start < 1.5
    assert text(answers[prompt][0]) == "yes"
    assert isinstance(answers[silent][0], TimeoutError)
    assert isinstance(answers[silent_too][0], TimeoutError)


def test_a_silent_server_does_not_delay_anothers_tcp() -> None:
    with server(lambda *_: [], lambda _: None) as silent, server(lambda *_: [], reply) as willing:
        answers = exchange({silent: [ask()], willing: [ask()]}, 0.5)
    assert isinstance(answers[silent][0], TimeoutError)
    assert text(answers[willing][0]) == "yes"


def test_a_dripping_answer_ends_in_time() -> None:
    """Each octet comes well before a timeout of its own; all of them together do not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,))
        dripping.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        start = _clock.monotonic()
        (answer,) = exchange({address: [ask()]}, 0.5)[address]
        assert _clock.monotonic() - start < 1.5
        dripping.join()
    assert isinstance(answer, TimeoutError)


def drip(listener: socket.socket) -> None:
    stream, _ = listener.accept()
    with stream, contextlib.suppress(OSError):
        stream.sendall(struct.pack("!H", 100))
        for _ in range(50):
            stream.sendall(b"x")
            _clock.sleep(0.05)


def test_a_closed_port_is_known_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    start = _clock.monotonic()
    (answer,) = exchange({address: [ask()]}, 10.0)[address]
    assert isinstance(answer, ConnectionRefusedError)
    assert _clock.monotonic() - start < 5


@pytest.mark.parametrize("host", ["does-not-exist.invalid:53", "a..b:53"])
def test_an_unknown_host_is_an_answer_too(host: str) -> None:
    (answer,) = exchange({host: [ask()]}, 1.0)[host]
    assert isinstance(answer, OSError)


def test_nothing_asked_nothing_answered() -> None:
    assert exchange({}, 1.0) == {}
