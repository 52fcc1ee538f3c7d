"""Challenge names, server addresses and what is remembered: no network."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from dualcert.dcv import addresses, challenge_name, wire
from dualcert.dcv.names import is_under, parents
from dualcert.dcv.remembered import Remembered
from dualcert.errors import ConfigurationError, InvalidName


class MovedClock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.mark.parametrize(
    "identifier", ["example.com", "*.example.com", "Example.COM", "example.com.", "*.example.com."]
)
def test_wildcard_and_apex_share_a_record(identifier: str) -> None:
    assert challenge_name(identifier) == "_acme-challenge.example.com"


def test_a_name_too_long_for_its_prefix() -> None:
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 45])
    assert len(challenge_name(longest)) == 253
    with pytest.raises(InvalidName, match="254 characters"):
        challenge_name(f"{longest}d")


def test_parents_end_below_the_root() -> None:
    assert list(parents("a.b.c")) == ["b.c", "c"]
    assert list(parents("c")) == []


def test_is_under_needs_whole_labels() -> None:
    assert is_under("a.example.com", "example.com")
    assert is_under("example.com", "example.com")
    assert is_under("example.com", ".")
    assert not is_under("badexample.com", "example.com")


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [
        ("192.0.2.1:5353", "192.0.2.1", 5353),
        ("192.0.2.1", "192.0.2.1", 53),
        ("[2001:db8::1]:5353", "2001:db8::1", 5353),
        ("[2001:db8::1]", "2001:db8::1", 53),
        ("2001:db8::1", "2001:db8::1", 53),
        ("ns.example.com:53", "ns.example.com", 53),
    ],
)
def test_addresses(server: str, host: str, port: int) -> None:
    assert addresses.split(server) == (host, port)
    assert addresses.split(addresses.join(host, port)) == (host, port)


@pytest.mark.parametrize("server", ["", ":53", "host:", "host:dns", "host:0", "host:65536", "host:٥٣"])
def test_what_is_no_address(server: str) -> None:
    with pytest.raises(ConfigurationError, match="not the address"):
        addresses.split(server)


def test_system_resolvers(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\nnameserver\nnameserver ::1 # v6\n"
    )
    assert addresses.system_resolvers(path) == ("192.0.2.1:53", "[::1]:53")
    path.write_text("".join(f"nameserver 192.0.2.{n}\n" for n in range(5)))
    assert len(addresses.system_resolvers(path)) == 3
    path.write_text("options edns0\n")
    assert addresses.system_resolvers(path) == ("127.0.0.1:53",)
    assert addresses.system_resolvers(tmp_path / "absent") == ("127.0.0.1:53",)


def test_an_address_without_a_route_is_left_out() -> None:
    """No machine has a route into 0:..:0/8 space that is not its own, nor a socket for a scope that does not exist."""
    reachable = ("127.0.0.1:53",)
    assert addresses.with_a_route([*reachable, "[fe80::1%4294967294]:53"]) == reachable


def test_findings_are_remembered_for_their_time() -> None:
    clock = MovedClock()
    remembered: Remembered[int] = Remembered(clock, 60)
    looks = iter(range(10))
    assert remembered.get("a", lambda: next(looks)) == 0
    clock.seconds = 59.9
    assert remembered.get("a", lambda: next(looks)) == 0
    assert remembered.get("b", lambda: next(looks)) == 1
    clock.seconds = 60
    assert remembered.get("a", lambda: next(looks)) == 2


def test_failures_are_not_remembered() -> None:
    remembered: Remembered[int] = Remembered(MovedClock(), 60)

    def fail() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        remembered.get("a", fail)
    assert remembered.get("a", lambda: 1) == 1


def test_threads_share_one_look() -> None:
    remembered: Remembered[int] = Remembered(MovedClock(), 60)
    looks: list[int] = []
    together = threading.Barrier(8, timeout=10)
    second_look = threading.Event()

    def look() -> int:
        looks.append(1)
        if len(looks) > 1:
            second_look.set()
        second_look.wait(0.2)  # long enough for a second one to come in, if it can
        return len(looks)

    def ask(_: int) -> int:
        together.wait()
        return remembered.get("a", look)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {1}


def test_memory_does_not_grow_for_ever() -> None:
    clock = MovedClock()
    remembered: Remembered[int] = Remembered(clock, 60)
    for number in range(5000):
        clock.seconds += 1
        remembered.get(str(number), lambda: 1)
    assert len(remembered._found) <= 1001
    assert len(remembered._looking) <= 1001


def test_addresses_of_other_networks_than_the_internet_are_none() -> None:
    """RFC 1035 section 3.2.4: a record of another class has another meaning, or none that is known."""
    answer = dns.message.make_response(dns.message.make_query("ns.example.com", "A"))
    for kind, text in (("IN", "192.0.2.1"), ("HS", r"\# 4 c0000202")):
        answer.answer.append(dns.rrset.from_text("ns.example.com.", 60, kind, "A", text))
    assert wire.Answer(answer.to_wire()).addresses() == ["192.0.2.1"]
