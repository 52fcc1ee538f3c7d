"""What a certificate names is fetched from public addresses, within limits, and nowhere else."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from dualcert.clock import SystemClock
from dualcert.errors import EvidenceRejected, SourceUnreachable
from dualcert.evidence import Fetcher, Limits
from dualcert.evidence.addresses import is_public
from tests.revocations import Publisher, Told, publishing


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as server:
        yield server


def fetcher(*, private: bool = True, **limits: Any) -> Fetcher:
    return Fetcher(SystemClock(), "test", private=private, limits=Limits(**limits))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_only_addresses_that_anybody_may_have_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


def test_a_loopback_address_is_not_asked_unless_that_is_allowed(publisher: Publisher) -> None:
    place = publisher.put("/", b"here")
    with pytest.raises(EvidenceRejected, match="no public address"):
        fetcher(private=False).get(place, {})
    assert publisher.asked == []
    assert fetcher().get(place, {}).body == b"here"


def test_a_name_is_looked_up_once_and_what_was_looked_at_is_what_is_connected_to(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name whose second look-up gives another address leads nowhere else."""
    publisher.put("/list", b"here")
    port = int(publisher.url.rpartition(":")[2])
    answers = iter(["127.0.0.1"])

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert fetcher().get(f"http://crl.example:{port}/list", {}).body == b"here"
    with pytest.raises(StopIteration):
        next(answers)


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in ("1.1.1.1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(EvidenceRejected, match=r"10\.0\.0\.1"):
        fetcher(private=False).get("http://crl.example/", {})


@pytest.mark.parametrize(
    "place",
    [
        "https://crl.example/",
        "file:///etc/passwd",
        "ldap://crl.example/",
        "http://",
        "http://a@b/",
        "http://a:x/",
        "http://[::1",
        "http://[1.2.3.4]/",
        "http://a b/",
        "http://a\0b/",
    ],
)
def test_nothing_but_plain_http_is_fetched(place: str) -> None:
    with pytest.raises(EvidenceRejected):
        fetcher().get(place, {})


def test_what_is_too_large_is_not_read_whether_it_says_so_or_not(publisher: Publisher) -> None:
    place = publisher.put("/", b"x" * 5000)
    with pytest.raises(EvidenceRejected, match="more than 1000"):
        fetcher(size=1000).get(place, {})
    assert len(fetcher(size=5000).get(place, {}).body) == 5000


def test_an_answer_that_says_no_length_is_cut_at_the_limit() -> None:
    with (
        raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000) as place,
        pytest.raises(EvidenceRejected, match="1000"),
    ):
        fetcher(size=1000).get(place, {})


def test_an_answer_that_is_cut_off_is_none() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
    with raw(cut) as place, pytest.raises(SourceUnreachable):
        fetcher().get(place, {})


def test_who_says_nothing_is_left() -> None:
    with raw(b"", silent=True) as place, pytest.raises(SourceUnreachable, match="timed out"):
        fetcher(pause=0.2).get(place, {})


def test_a_redirect_is_followed_by_the_same_rules(publisher: Publisher) -> None:
    publisher.put("/there", b"here")
    publisher.at["/moved"] = Told(b"", 302, {"Location": "/there"})
    publisher.at["/away"] = Told(b"", 302, {"Location": "https://crl.example/"})
    publisher.at["/round"] = Told(b"", 302, {"Location": "/round"})
    assert fetcher().get(f"{publisher.url}/moved", {}).body == b"here"
    with pytest.raises(EvidenceRejected, match="no(t an)? http"):
        fetcher().get(f"{publisher.url}/away", {})
    with pytest.raises(EvidenceRejected, match="moved on"):
        fetcher().get(f"{publisher.url}/round", {})


@pytest.mark.parametrize("to", [b"http://[::1", b"//[", b"http://a b/", b"http://a\0b/"])
def test_a_redirect_to_what_is_no_place_is_refused(to: bytes) -> None:
    moved = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + to + b"\r\n\r\n"
    with raw(moved) as place, pytest.raises(EvidenceRejected):
        fetcher().get(place, {})


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-More: 1\r\n" * 90 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200,
    ],
    ids=["headers", "a body", "chunks"],
)
def test_who_says_a_little_at_a_time_is_left_when_the_time_is_over(answer: bytes) -> None:
    server = raw(answer, slowly=True)
    with server as place, pytest.raises(SourceUnreachable, match=r"more than 0\.5 s"):
        fetcher(seconds=0.5, pause=0.4).get(place, {})
    assert server.said < len(answer)


def test_an_answer_that_lies_about_its_length_is_cut_all_the_same() -> None:
    chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * (8 << 20)
    with raw(chunk) as place, pytest.raises(EvidenceRejected, match="1000"):
        fetcher(size=1000).get(place, {})


class raw:  # noqa: N801
    """A server that answers one connection with these bytes, ``slowly`` one at a time."""

    def __init__(self, answer: bytes, *, silent: bool = False, slowly: bool = False) -> None:
        self._answer, self._silent, self._slowly = answer, silent, slowly
        self.said = 0

    def __enter__(self) -> str:
        import threading

        self._socket = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/"

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        # Whoever has had enough hangs up.
        with connection, suppress(ConnectionError):
            connection.recv(65536)
            if self._silent:
                self._ended.wait(10)
            if not self._slowly:
                connection.sendall(self._answer)
                return
            for one in self._answer:
                if self._ended.wait(0.02):
                    return
                connection.sendall(bytes([one]))
                self.said += 1

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()
