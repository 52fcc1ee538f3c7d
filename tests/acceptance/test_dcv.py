"""Zone finding and propagation, against BIND."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest

from dualcert.clock import SystemClock
from dualcert.dcv import Location, Zones, addresses
from dualcert.errors import ConfigurationError, DnsUnreachable, InvalidName, ZoneNotFound
from dualcert.ports.dns import TxtValue
from tests.bindserver import BindServer, bind, free_port

ZONE = "example.test"
LONG = "\n".join(f"_acme-challenge.long{n} CNAME _acme-challenge.long{n + 1}" for n in range(12))
RECORDS = f"""
localhost A 127.0.0.1
_acme-challenge.here CNAME there.example.test.
_acme-challenge.away CNAME away.challenges.test.
_acme-challenge.twice CNAME hop.challenges.test.
_acme-challenge.lost CNAME lost.elsewhere.test.
_acme-challenge.loop CNAME loop2
loop2 CNAME _acme-challenge.loop
_acme-challenge.pingpong CNAME pong.challenges.test.
*.wild CNAME wild.challenges.test.
moved DNAME moved.challenges.test.
sub NS localhost.
apex A 127.0.0.1
{LONG}
"""
CHALLENGES = """
hop CNAME final.challenges.test.
pong CNAME _acme-challenge.pingpong.example.test.
"""
_clock = SystemClock()


@pytest.fixture(scope="module")
def authoritative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindServer]:
    """Knows both zones, and follows no CNAME out of one."""
    zones = {
        ZONE: RECORDS,
        "challenges.test": CHALLENGES,
        "inner.example.test": "",
        "localhost": "@ A 127.0.0.1",
    }
    with bind(tmp_path_factory.mktemp("authoritative"), zones) as server:
        yield server


@pytest.fixture(scope="module")
def recursive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindServer]:
    """Follows CNAMEs, and knows (as the root) that all else does not exist."""
    zones = {
        ZONE: RECORDS,
        "challenges.test": CHALLENGES,
        "inner.example.test": "",
        ".": "localhost A 127.0.0.1",
    }
    with bind(tmp_path_factory.mktemp("recursive"), zones, recursion=True) as server:
        yield server


@pytest.fixture(params=["authoritative", "recursive"])
def resolver(request: pytest.FixtureRequest) -> BindServer:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, BindServer)
    return server


def zones(*resolvers: BindServer | str, timeout: float = 5.0, nameservers: tuple[str, ...] = ()) -> Zones:
    named = [server.address if isinstance(server, BindServer) else server for server in resolvers]
    return Zones(named, nameservers, SystemClock(), timeout)


# --- where the record goes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "zone", "record"),
    [
        ("example.test", ZONE, "_acme-challenge.example.test"),
        ("*.example.test", ZONE, "_acme-challenge.example.test"),
        ("Deep.Below.Example.Test.", ZONE, "_acme-challenge.deep.below.example.test"),
        ("x.inner.example.test", "inner.example.test", "_acme-challenge.x.inner.example.test"),
        ("inner.example.test", "inner.example.test", "_acme-challenge.inner.example.test"),
        ("here.example.test", ZONE, "there.example.test"),
        ("away.example.test", "challenges.test", "away.challenges.test"),
        ("twice.example.test", "challenges.test", "final.challenges.test"),
        ("x.wild.example.test", "challenges.test", "wild.challenges.test"),
        ("x.moved.example.test", "challenges.test", "_acme-challenge.x.moved.challenges.test"),
    ],
)
def test_zone_and_record(resolver: BindServer, identifier: str, zone: str, record: str) -> None:
    assert zones(resolver).locate(identifier) == Location(zone, record)


@pytest.mark.parametrize("identifier", ["loop.example.test", "pingpong.example.test"])
def test_cnames_in_a_circle(resolver: BindServer, identifier: str) -> None:
    with pytest.raises(ZoneNotFound, match="circle") as caught:
        zones(resolver).locate(identifier)
    assert caught.value.name == f"_acme-challenge.{identifier}"
    assert " -> " in caught.value.reason


def test_too_many_cnames(resolver: BindServer) -> None:
    with pytest.raises(ZoneNotFound, match="more than 8 CNAMEs"):
        zones(resolver).locate("long0.example.test")
    assert zones(resolver).locate("long4.example.test").record == "_acme-challenge.long12.example.test"


def test_a_name_that_nobody_holds(recursive: BindServer) -> None:
    with pytest.raises(ZoneNotFound, match="no zone holds _acme-challenge.nobody.invalid"):
        zones(recursive).locate("nobody.invalid")


def test_a_name_that_the_server_does_not_hold(authoritative: BindServer) -> None:
    with pytest.raises(ZoneNotFound, match="REFUSED") as caught:
        zones(authoritative).locate("example.org")
    assert authoritative.address in caught.value.reason
    assert "resolver" in (caught.value.remedy or "")


def test_a_cname_to_what_the_server_does_not_hold_names_the_target(authoritative: BindServer) -> None:
    with pytest.raises(
        ZoneNotFound, match=r"lost\.elsewhere\.test \(reached from _acme-challenge\.lost\.example\.test"
    ):
        zones(authoritative).locate("lost.example.test")


def test_a_delegated_name_at_a_server_that_only_refers(authoritative: BindServer) -> None:
    with pytest.raises(ZoneNotFound, match=r"only refers to the servers of sub\.example\.test"):
        zones(authoritative).locate("www.sub.example.test")


def test_a_name_too_long_to_be_validated(authoritative: BindServer) -> None:
    with pytest.raises(InvalidName):
        zones(authoritative).locate(".".join(["a" * 63] * 4)[:-10])


def test_no_resolver_answers() -> None:
    closed = f"127.0.0.1:{free_port()}"
    with pytest.raises(DnsUnreachable, match="cannot be reached") as caught:
        zones(closed).locate(ZONE)
    assert closed in caught.value.reason


def test_a_silent_resolver_takes_its_time_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts TCP, by its backlog, and never answers
        silent = f"127.0.0.1:{listener.getsockname()[1]}"
        start = _clock.monotonic()
        with pytest.raises(DnsUnreachable, match=silent):
            zones(silent, timeout=0.5).locate(ZONE)
        assert _clock.monotonic() - start < 2


def test_the_next_resolver_helps_out(authoritative: BindServer, recursive: BindServer) -> None:
    closed = f"127.0.0.1:{free_port()}"
    assert zones(closed, authoritative).locate(ZONE).zone == ZONE
    with pytest.raises(ZoneNotFound, match="no zone holds"):
        zones(authoritative, recursive).locate("nobody.invalid")


def test_addresses_are_checked_before_they_are_used() -> None:
    with pytest.raises(ConfigurationError):
        zones("127.0.0.1:dns")
    with pytest.raises(ConfigurationError):
        zones(nameservers=("127.0.0.1:0",))


# --- how much is asked -----------------------------------------------------------------------------------------


class Counting:
    """A datagram relay in front of a server that counts the questions, and may change the answers."""

    def __init__(self, server: BindServer, change: Callable[[bytes], bytes] = lambda answer: answer) -> None:
        self._server = server
        self._change = change
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self.asked = 0
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Counting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._done.is_set():
            try:
                question, peer = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            self.asked += 1
            with socket.socket(type=socket.SOCK_DGRAM) as onward:
                onward.settimeout(5)
                onward.connect(("127.0.0.1", self._server.port))
                onward.send(question)
                self._socket.sendto(self._change(onward.recv(4096)), peer)


def test_one_question_finds_a_zone_and_none_a_second_time(resolver: BindServer) -> None:
    with Counting(resolver) as relay:
        seen = zones(relay.address)
        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(seen.locate, ["example.test", "*.example.test"] * 4))) == 1
        assert relay.asked == 1


def test_a_cname_into_another_zone_costs_two(authoritative: BindServer, recursive: BindServer) -> None:
    with Counting(authoritative) as relay:
        zones(relay.address).locate("away.example.test")
        assert relay.asked == 2
    with Counting(recursive) as relay:
        zones(relay.address).locate("away.example.test")
        assert relay.asked == 1


def test_values_are_looked_at_afresh(authoritative: BindServer) -> None:
    value = TxtValue("_acme-challenge.fresh.example.test", "v" * 43)
    with Counting(authoritative) as relay:
        seen = zones(authoritative, nameservers=(relay.address,))
        assert seen.missing([(ZONE, value)]) == {relay.address: {value}}
        authoritative.provider().apply(ZONE, {value}, set())
        assert seen.missing([(ZONE, value)]) == {}
        authoritative.provider().apply(ZONE, set(), {value})
        assert seen.missing([(ZONE, value)]) == {relay.address: {value}}
        assert relay.asked == 3


# --- resolvers with habits of their own ------------------------------------------------------------------------


def changed(what: Callable[[dns.message.Message], None]) -> Callable[[bytes], bytes]:
    def change(answer: bytes) -> bytes:
        message = dns.message.from_wire(answer)
        what(message)
        return message.to_wire()

    return change


@pytest.mark.parametrize(
    ("identifier", "location"),
    [
        ("a.b.c.example.test", Location(ZONE, "_acme-challenge.a.b.c.example.test")),
        ("x.inner.example.test", Location("inner.example.test", "_acme-challenge.x.inner.example.test")),
        ("away.example.test", Location("challenges.test", "away.challenges.test")),
    ],
)
def test_a_resolver_that_leaves_the_soa_out(
    resolver: BindServer, identifier: str, location: Location
) -> None:
    with Counting(resolver, changed(lambda message: message.authority.clear())) as relay:
        assert zones(relay.address).locate(identifier) == location


def test_a_zone_that_is_not_above_the_name_does_not_hold_it(authoritative: BindServer) -> None:
    """Somebody else's SOA beside a CNAME says nothing about the CNAME's target."""
    stray = dns.rrset.from_text(
        "inner.example.test.", 60, "IN", "SOA", "ns.invalid. hostmaster.invalid. 1 1 1 1 1"
    )

    def add(message: dns.message.Message) -> None:
        message.authority.insert(0, stray)

    with Counting(authoritative, changed(add)) as relay:
        assert zones(relay.address).locate("away.example.test").zone == "challenges.test"


def test_a_resolver_that_fails(authoritative: BindServer) -> None:
    with (
        Counting(authoritative, changed(lambda message: message.set_rcode(dns.rcode.SERVFAIL))) as relay,
        pytest.raises(DnsUnreachable, match="SERVFAIL"),
    ):
        zones(relay.address).locate(ZONE)


def test_nonsense_is_no_answer(authoritative: BindServer) -> None:
    def cut(answer: bytes) -> bytes:
        return answer[:6] + b"\0\7" + answer[8:]

    with (
        Counting(authoritative, cut) as relay,
        pytest.raises(DnsUnreachable, match="answers nonsense"),
    ):
        zones(relay.address).locate(ZONE)


def test_a_search_ends_however_long_the_way(authoritative: BindServer) -> None:
    class Hurrying(SystemClock):
        """An hour passes between any two looks at it."""

        hours = 0

        def monotonic(self) -> float:
            self.hours += 1
            return self.hours * 3600.0

    with pytest.raises(DnsUnreachable, match="took more than 20 s"):
        Zones([authoritative.address], (), Hurrying()).locate("away.example.test")


# --- who must show it ------------------------------------------------------------------------------------------


def test_name_servers_by_ns_records(recursive: BindServer, authoritative: BindServer) -> None:
    """Each zone here names localhost as its server."""
    assert zones(recursive).servers(ZONE) == ("127.0.0.1:53",)
    assert zones(authoritative).servers(ZONE) == ("127.0.0.1:53",)


def test_all_addresses_of_all_name_servers(tmp_path: Path) -> None:
    records = "@ NS a\n@ NS b\na A 127.0.0.2\na A 127.0.0.3\na AAAA ::1\na AAAA fe80::1\nb A 127.0.0.4\n"
    with bind(tmp_path, {ZONE: records, "localhost": "@ A 127.0.0.1"}) as server:
        found = zones(server).servers(ZONE)
    wanted = {f"127.0.0.{n}:53" for n in (1, 2, 3, 4)}
    assert set(found) - {"[::1]:53"} == wanted
    assert ("[::1]:53" in found) == bool(addresses.with_a_route(["[::1]:53"]))


def test_named_name_servers_are_not_looked_up() -> None:
    closed = f"127.0.0.1:{free_port()}"
    assert zones(closed, nameservers=("192.0.2.1:53", "192.0.2.2:53")).servers(ZONE) == (
        "192.0.2.1:53",
        "192.0.2.2:53",
    )


def test_a_name_server_without_an_address_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "system_resolvers", lambda: ())
    with (
        bind(tmp_path, {ZONE: "@ NS ns.elsewhere.invalid."}) as server,
        pytest.raises(DnsUnreachable, match="REFUSED") as caught,
    ):
        zones(server).servers(ZONE)
    assert "nameservers" in (caught.value.remedy or "")


def test_a_hidden_primary_need_not_know_its_secondaries(
    tmp_path: Path, recursive: BindServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's own resolver, here a BIND too, finds the addresses that the primary does not."""
    monkeypatch.setattr(addresses, "system_resolvers", lambda: (recursive.address,))
    with bind(tmp_path, {ZONE: ""}) as primary:
        assert primary.ask("localhost", "A").rcode() == dns.rcode.REFUSED
        assert zones(primary).servers(ZONE) == ("127.0.0.1:53",)


# --- what they show --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laggard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindServer]:
    """A second server of the same zone that nobody transfers to: it shows what it is given by hand."""
    with bind(tmp_path_factory.mktemp("laggard"), {ZONE: RECORDS}) as server:
        yield server


def test_one_of_two_servers_lags(authoritative: BindServer, laggard: BindServer) -> None:
    first = TxtValue("_acme-challenge.lag.example.test", "1" * 43)
    second = TxtValue("_acme-challenge.lag.example.test", "2" * 43)
    seen = zones(authoritative, nameservers=(authoritative.address, laggard.address))
    wanted = [(ZONE, first), (ZONE, second)]
    authoritative.provider().apply(ZONE, {first, second}, set())
    assert seen.missing(wanted) == {laggard.address: {first, second}}
    laggard.provider().apply(ZONE, {first}, set())
    assert seen.missing(wanted) == {laggard.address: {second}}
    laggard.provider().apply(ZONE, {second}, set())
    assert seen.missing(wanted) == {}


def test_one_of_two_servers_is_down(authoritative: BindServer) -> None:
    value = TxtValue("_acme-challenge.down.example.test", "v" * 43)
    authoritative.provider().apply(ZONE, {value}, set())
    closed = f"127.0.0.1:{free_port()}"
    seen = zones(authoritative, nameservers=(authoritative.address, closed))
    assert seen.missing([(ZONE, value)]) == {closed: {value}}
    problems = {sight.server: sight.problem for sight in seen.look([(ZONE, value)])}
    assert problems[authoritative.address] is None
    assert "cannot be reached" in (problems[closed] or "")


def test_silent_servers_are_waited_for_side_by_side(authoritative: BindServer) -> None:
    value = TxtValue("_acme-challenge.silent.example.test", "v" * 43)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        silent = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in (one, two)]
        with socket.socket(type=socket.SOCK_DGRAM) as mute:
            mute.bind(one.getsockname())
            seen = zones(authoritative, nameservers=(*silent, authoritative.address), timeout=0.5)
            start = _clock.monotonic()
            sights = {sight.server: sight for sight in seen.look([(ZONE, value)])}
            assert _clock.monotonic() - start < 1.5
    assert all(sights[server].problem == "does not answer" for server in silent)
    assert sights[authoritative.address].problem is None


def test_more_values_than_a_datagram_holds(authoritative: BindServer) -> None:
    values = {TxtValue("_acme-challenge.many.example.test", f"{n:043}") for n in range(40)}
    authoritative.provider().apply(ZONE, values, set())
    seen = zones(authoritative, nameservers=(authoritative.address,))
    assert seen.missing([(ZONE, value) for value in values]) == {}
    gone = min(values)
    authoritative.provider().apply(ZONE, set(), {gone})
    assert seen.missing([(ZONE, value) for value in values]) == {authoritative.address: {gone}}


def test_many_names_in_one_look(authoritative: BindServer) -> None:
    values = [TxtValue(f"_acme-challenge.n{n}.example.test", f"{n:043}") for n in range(100)]
    authoritative.provider().apply(ZONE, set(values), set())
    seen = zones(authoritative, nameservers=(authoritative.address,))
    assert seen.missing([(ZONE, value) for value in values]) == {}


def test_servers_that_do_not_hold_the_zone_show_nothing(authoritative: BindServer) -> None:
    seen = zones(authoritative, nameservers=(authoritative.address,))
    foreign = TxtValue("_acme-challenge.example.org", "v")
    below = TxtValue("_acme-challenge.sub.example.test", "v")
    beside = TxtValue("_acme-challenge.here.example.test", "v")
    said = {
        value: sight.problem
        for value in (foreign, below, beside)
        for sight in seen.look([("any", value)])
        if sight.missing == {value}
    }
    assert said[foreign] == "answers REFUSED for _acme-challenge.example.org"
    assert said[below] == "only refers to the servers of sub.example.test"
    assert said[beside] == "has a CNAME at _acme-challenge.here.example.test, to there.example.test"


def test_a_value_at_the_end_of_a_cname_is_not_at_its_start(authoritative: BindServer) -> None:
    there = TxtValue("there.example.test", "v" * 43)
    here = TxtValue("_acme-challenge.here.example.test", there.value)
    authoritative.provider().apply(ZONE, {there}, set())
    seen = zones(authoritative, nameservers=(authoritative.address,))
    assert seen.missing([(ZONE, here), (ZONE, there)]) == {authoritative.address: {here}}


def test_a_value_of_somebody_else_survives_ours(authoritative: BindServer) -> None:
    name = "_acme-challenge.shared.example.test"
    ours, theirs = TxtValue(name, "o" * 43), TxtValue(name, "t" * 43)
    authoritative.write(ZONE, theirs)
    authoritative.provider().apply(ZONE, {ours}, set())
    seen = zones(authoritative, nameservers=(authoritative.address,))
    assert seen.missing([(ZONE, ours), (ZONE, theirs)]) == {}
    authoritative.provider().apply(ZONE, set(), {ours})
    assert seen.missing([(ZONE, ours), (ZONE, theirs)]) == {authoritative.address: {ours}}


def test_nothing_wanted_nothing_missing(authoritative: BindServer) -> None:
    assert zones(authoritative).missing([]) == {}
