"""The rfc2136 provider against BIND: the conformance suite, and what is its own."""

from __future__ import annotations

import base64
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Set
from contextlib import contextmanager, suppress

import dns.message
import dns.rcode
import dns.tsig
import pytest

from dualcert.clock import SystemClock
from dualcert.errors import DnsCredentialsRejected, DnsRefused, DnsUnreachable, ZoneNotFound
from dualcert.plugins.dns import rfc2136
from dualcert.plugins.dns.rfc2136 import Rfc2136Options, Rfc2136Provider
from dualcert.ports.dns import DnsProvider, TxtValue
from dualcert.ports.options import Secret
from dualcert.testing.dns import DnsProviderConformance
from tests.bindserver import KEY, STRANGER, BindServer, bind, free_port

ZONE = "example.test"
RECORDS = "alias CNAME target\n_acme-challenge.moved CNAME elsewhere.example.test.\n"
OTHER_SECRET = base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindServer]:
    with bind(tmp_path_factory.mktemp("bind"), {ZONE: RECORDS}) as running:
        yield running


class TestRfc2136(DnsProviderConformance):
    plugin = Rfc2136Provider
    no_throttling_because = "RFC 2136 knows no answer that asks for patience"

    @pytest.fixture(autouse=True)
    def _serve(self, server: BindServer) -> None:
        self.server = server

    def provider(self) -> DnsProvider:
        return self.server.provider()

    def zone(self) -> str:
        return ZONE

    def read(self, name: str) -> Set[str]:
        return self.server.read(name)

    def write_as_somebody_else(self, value: TxtValue) -> None:
        self.server.write(ZONE, value)

    def unknown_zone(self) -> str:
        return "nobody.test"

    def with_bad_credentials(self) -> DnsProvider:
        return self.server.provider(tsig_secret=Secret(OTHER_SECRET))

    def unreachable(self) -> DnsProvider:
        return self.server.provider(port=free_port())

    def throttled(self) -> DnsProvider | None:
        return None

    def secrets(self) -> Collection[str]:
        return [self.server.key, OTHER_SECRET]


VALUE = TxtValue(f"_acme-challenge.{ZONE}", "v" * 43)


def refused_value() -> TxtValue:
    return TxtValue(f"_acme-challenge.{secrets.token_hex(4)}.{ZONE}", "v" * 43)


def test_wrong_secret_is_named_as_such(server: BindServer) -> None:
    with pytest.raises(
        DnsCredentialsRejected, match="another secret under the name dualcert.*BADSIG"
    ) as caught:
        server.provider(tsig_secret=Secret(OTHER_SECRET)).apply(ZONE, {VALUE}, set())
    assert "tsig_secret" in (caught.value.remedy or "")
    assert server.address in caught.value.reason


def test_unknown_key_is_named_as_such(server: BindServer) -> None:
    with pytest.raises(DnsCredentialsRejected, match="knows no TSIG key nobody.*BADKEY"):
        server.provider(tsig_name="nobody").apply(ZONE, {VALUE}, set())


def test_other_algorithm_is_named_as_such(server: BindServer) -> None:
    with pytest.raises(DnsCredentialsRejected, match="of this algorithm"):
        server.provider(tsig_algorithm="hmac-sha512").apply(ZONE, {VALUE}, set())


def test_policy_refuses_and_the_missing_right_is_said(server: BindServer) -> None:
    value = refused_value()
    stranger = server.provider(tsig_name=STRANGER, tsig_secret=Secret(server.stranger))
    with pytest.raises(DnsCredentialsRejected, match="REFUSED") as caught:
        stranger.apply(ZONE, {value}, set())
    assert f"grant {STRANGER} zonesub TXT" in (caught.value.remedy or "")
    assert value.name in caught.value.reason
    assert server.read(value.name) == set()


def test_a_name_outside_the_zone(server: BindServer) -> None:
    with pytest.raises(ZoneNotFound, match="NOTZONE"):
        server.provider().apply(ZONE, {TxtValue("_acme-challenge.example.org", "v")}, set())


def test_a_txt_beside_a_cname_is_refused_not_swallowed(server: BindServer) -> None:
    """BIND itself would answer NOERROR and store nothing."""
    beside = TxtValue(f"_acme-challenge.moved.{ZONE}", "v" * 43)
    innocent = refused_value()
    with pytest.raises(DnsRefused, match="a CNAME stands at") as caught:
        server.provider().apply(ZONE, {beside, innocent}, set())
    assert beside.name in caught.value.reason
    assert server.read(innocent.name) == set(), "the change is all or nothing"
    server.provider().apply(ZONE, set(), {beside})  # nothing can be there, so withdrawing it is no failure


def test_clock_too_far_away(server: BindServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """dnspython signs with the machine's clock; here that clock is an hour ahead of BIND's."""
    now = SystemClock().now().timestamp()
    with monkeypatch.context() as patch:
        patch.setattr("dns.message.time.time", lambda: now + 3600)
        with pytest.raises(DnsCredentialsRejected, match="BADTIME") as caught:
            server.provider().apply(ZONE, {VALUE}, set())
    assert "NTP" in (caught.value.remedy or "")


def test_what_was_added_lives_a_minute(server: BindServer) -> None:
    value = refused_value()
    server.provider().apply(ZONE, {value}, set())
    assert [rrset.ttl for rrset in server.ask(value.name, "TXT").answer] == [60]
    server.provider().apply(ZONE, set(), {value})


def test_one_call_is_one_change_of_the_zone(server: BindServer) -> None:
    def serial() -> int:
        return int(server.ask(ZONE, "SOA").answer[0][0].serial)

    values = {TxtValue(f"_acme-challenge.n{number}.{ZONE}", "v" * 43) for number in range(50)}
    before = serial()
    server.provider().apply(ZONE, values, set())
    assert serial() == before + 1
    server.provider().apply(ZONE, set(), values)
    assert serial() == before + 2


def test_more_than_one_message_can_hold(server: BindServer) -> None:
    label = "l" * 60
    values = {
        TxtValue(f"_acme-challenge.{label}.{label}.n{n}.{ZONE}", f"{n:03}" + "v" * 252) for n in range(200)
    }
    server.provider().apply(ZONE, values, set())
    assert all(server.read(value.name) == {value.value} for value in values)
    server.provider().apply(ZONE, set(), values)
    assert not any(server.read(value.name) for value in values)


def test_what_is_added_and_removed_at_once_is_there(server: BindServer) -> None:
    value = refused_value()
    for _ in range(2):
        server.provider().apply(ZONE, {value}, {value})
        assert server.read(value.name) == {value.value}
    server.provider().apply(ZONE, set(), {value})


def test_a_value_too_long_for_a_string(server: BindServer) -> None:
    with pytest.raises(DnsRefused, match="256 octets"):
        server.provider().apply(ZONE, {TxtValue(VALUE.name, "v" * 256)}, set())


@pytest.mark.parametrize("algorithm", ["hmac-sha224", "hmac-sha384", "hmac-sha512"])
def test_other_algorithms(algorithm: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with bind(tmp_path_factory.mktemp("bind"), {ZONE: ""}, algorithm=algorithm) as other:
        other.provider().apply(ZONE, {VALUE}, set())
        assert other.read(VALUE.name) == {VALUE.value}


def test_host_names_serve_as_server(server: BindServer) -> None:
    value = refused_value()
    provider = server.provider(server="localhost")
    provider.apply(ZONE, {value}, set())
    provider.apply(ZONE, set(), {value})
    assert provider.default_resolvers() == (f"localhost:{server.port}",)
    assert server.provider(server="::1", port=53).default_resolvers() == ("[::1]:53",)


# --- servers that misbehave ------------------------------------------------------------------------------------


@contextmanager
def impostor(
    reply: Callable[[bytes], bytes | None], go_on: Callable[[socket.socket], None] = lambda _: None
) -> Iterator[int]:
    """Takes one message over TCP and gives what ``reply`` makes of it; None: nothing, ever, but what ``go_on`` does."""
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        stream, _ = listener.accept()
        with stream:
            (length,) = struct.unpack("!H", stream.recv(2, socket.MSG_WAITALL))
            answer = reply(stream.recv(length, socket.MSG_WAITALL))
            if answer is None:
                with suppress(OSError):
                    go_on(stream)
                done.wait(30)
            else:
                stream.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join()


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def response(query: bytes, rcode: int = 0, *, key: dns.tsig.Key | None = None) -> bytes:
    asked = dns.message.from_wire(query, keyring=False)
    answer = dns.message.make_response(asked) if key is None else dns.message.Message(id=asked.id)
    answer.flags = asked.flags | dns.flags.QR
    answer.set_rcode(dns.rcode.Rcode.make(rcode))
    answer.tsig = None
    if key is not None:
        answer.use_tsig(key)
    return framed(answer.to_wire())


def test_a_server_that_never_answers(server: BindServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rfc2136, "_SECONDS", 0.3)
    with impostor(lambda _: None) as port, pytest.raises(DnsUnreachable, match="no answer within 0.3 s"):
        server.provider(port=port).apply(ZONE, {VALUE}, set())


def test_a_dripping_answer_ends_in_time(server: BindServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each octet comes well before a timeout of its own; all of them together do not."""
    monkeypatch.setattr(rfc2136, "_SECONDS", 0.5)
    clock = SystemClock()

    def drip(stream: socket.socket) -> None:
        stream.sendall(b"\1\0")
        for _ in range(50):
            stream.sendall(b"x")
            clock.sleep(0.05)

    start = clock.monotonic()
    with (
        impostor(lambda _: None, drip) as port,
        pytest.raises(DnsUnreachable, match=r"no answer within 0.5 s"),
    ):
        server.provider(port=port).apply(ZONE, {VALUE}, set())
    assert clock.monotonic() - start < 2


def test_a_server_that_hangs_up(server: BindServer) -> None:
    with impostor(lambda _: b"\0") as port, pytest.raises(DnsUnreachable, match="closed before the answer"):
        server.provider(port=port).apply(ZONE, {VALUE}, set())


def test_an_unsigned_success_is_not_believed(server: BindServer) -> None:
    with (
        impostor(response) as port,
        pytest.raises(DnsCredentialsRejected, match="not signed with key dualcert"),
    ):
        server.provider(port=port).apply(ZONE, {VALUE}, set())


def test_a_success_signed_by_another_secret_is_not_believed(server: BindServer) -> None:
    forged = dns.tsig.Key(KEY, OTHER_SECRET)
    with (
        impostor(lambda query: response(query, key=forged)) as port,
        pytest.raises(DnsCredentialsRejected, match="signature was not made with key dualcert"),
    ):
        server.provider(port=port).apply(ZONE, {VALUE}, set())


@pytest.mark.parametrize(
    ("rcode", "kind"),
    [
        (dns.rcode.REFUSED, DnsCredentialsRejected),
        (dns.rcode.NOTIMP, DnsRefused),
        (dns.rcode.SERVFAIL, DnsRefused),
        (dns.rcode.NOTAUTH, ZoneNotFound),
    ],
)
def test_an_unsigned_refusal_is_believed(
    server: BindServer, rcode: dns.rcode.Rcode, kind: type[Exception]
) -> None:
    with impostor(lambda query: response(query, rcode)) as port, pytest.raises(kind, match=rcode.name):
        server.provider(port=port).apply(ZONE, {VALUE}, set())


@pytest.mark.parametrize("nonsense", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 12])
def test_nonsense_is_no_answer(server: BindServer, nonsense: bytes) -> None:
    with (
        impostor(lambda _: framed(nonsense)) as port,
        pytest.raises(DnsUnreachable, match="no answer to the update"),
    ):
        server.provider(port=port).apply(ZONE, {VALUE}, set())


# --- options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tsig_secret": Secret("not base64!")}, "tsig_secret is not base64"),
        ({"tsig_secret": Secret("")}, "tsig_secret is not base64"),
        ({"tsig_name": "two words"}, "tsig_name"),
        ({"tsig_name": "a..b"}, "tsig_name"),
        ({"server": "127.0.0.1 53"}, "server"),
        ({"server": ""}, "server"),
        ({"port": 70000}, "port"),
    ],
)
def test_options_are_checked_early(changes: dict[str, object], match: str) -> None:
    given: dict[str, object] = {"server": "127.0.0.1", "tsig_name": KEY, "tsig_secret": Secret(OTHER_SECRET)}
    with pytest.raises(ValueError, match=match) as caught:
        Rfc2136Options(**{**given, **changes})  # type: ignore[arg-type]
    assert caught.value.__context__ is None, "what was being decoded does not travel with the error"
    assert "not base64!" not in str(caught.value)
