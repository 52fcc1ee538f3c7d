"""The rfc2136 provider against Knot and PowerDNS: the conformance suite, and what else must hold on each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dualcert.clock import SystemClock
from dualcert.errors import DnsCredentialsRejected, DnsRefused, ZoneNotFound
from dualcert.ports.dns import TxtValue
from dualcert.ports.options import Secret
from tests.bindserver import STRANGER, BindServer
from tests.conformance import test_rfc2136
from tests.conformance.test_rfc2136 import OTHER_SECRET, RECORDS, VALUE, ZONE, refused_value
from tests.knotserver import knot
from tests.pdnsserver import pdns

START: Mapping[str, Callable[[Path, Mapping[str, str]], AbstractContextManager[BindServer]]] = {
    "knot": knot,
    "pdns": pdns,
}


@pytest.fixture(scope="module", params=sorted(START))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BindServer]:
    with START[request.param](tmp_path_factory.mktemp(request.param), {ZONE: RECORDS}) as running:
        yield running


@pytest.fixture
def kind(request: pytest.FixtureRequest, server: BindServer) -> str:
    return str(request.node.callspec.params["server"])


class TestRfc2136OnOthers(test_rfc2136.TestRfc2136):
    @pytest.fixture(autouse=True)
    def _serve(self, server: BindServer) -> None:
        self.server = server


def test_a_wrong_secret_is_named_as_such_where_the_server_tells(server: BindServer, kind: str) -> None:
    """PowerDNS refuses without a signature, whatever is wrong with the key: then all that it may be is said."""
    with pytest.raises(DnsCredentialsRejected) as caught:
        server.provider(tsig_secret=Secret(OTHER_SECRET)).apply(ZONE, {VALUE}, set())
    said = {"knot": "another secret under the name dualcert", "pdns": "has another secret for it"}
    assert said[kind] in caught.value.reason
    assert "tsig_secret" in (caught.value.remedy or "")


def test_a_key_without_the_right_is_refused_and_how_to_give_it_is_said(server: BindServer, kind: str) -> None:
    value = refused_value()
    stranger = server.provider(tsig_name=STRANGER, tsig_secret=Secret(server.stranger))
    with pytest.raises(DnsCredentialsRejected, match=STRANGER) as caught:
        stranger.apply(ZONE, {value}, set())
    said = {"knot": "acl", "pdns": "TSIG-ALLOW-DNSUPDATE"}
    assert said[kind] in (caught.value.remedy or "")
    assert server.read(value.name) == set()


def test_a_clock_too_far_away_is_named_where_the_server_tells(
    server: BindServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SystemClock().now().timestamp()
    with monkeypatch.context() as patch:
        patch.setattr("dns.message.time.time", lambda: now + 3600)
        with pytest.raises(DnsCredentialsRejected) as caught:
            server.provider().apply(ZONE, {VALUE}, set())
    said = {"knot": "five minutes (BADTIME)", "pdns": "clocks"}
    assert said[kind] in caught.value.reason


def test_a_name_outside_the_zone(server: BindServer) -> None:
    with pytest.raises(ZoneNotFound, match="NOTZONE"):
        server.provider().apply(ZONE, {TxtValue("_acme-challenge.example.org", "v")}, set())


def test_a_txt_beside_a_cname_is_refused_not_swallowed(server: BindServer) -> None:
    """Knot itself would answer NOERROR and store nothing."""
    beside, innocent = TxtValue(f"_acme-challenge.moved.{ZONE}", "v" * 43), refused_value()
    with pytest.raises(DnsRefused, match="a CNAME stands at") as caught:
        server.provider().apply(ZONE, {beside, innocent}, set())
    assert beside.name in caught.value.reason
    assert server.read(innocent.name) == set(), "the change is all or nothing"
    server.provider().apply(ZONE, set(), {beside})


def test_one_call_is_one_change_of_the_zone(server: BindServer) -> None:
    def serial() -> int:
        return int(server.ask(ZONE, "SOA").answer[0][0].serial)

    values = {TxtValue(f"_acme-challenge.n{number}.{ZONE}", "v" * 43) for number in range(50)}
    before = serial()
    server.provider().apply(ZONE, values, set())
    assert serial() == before + 1
    server.provider().apply(ZONE, set(), values)
    assert serial() == before + 2


def test_what_is_added_and_removed_at_once_is_there(server: BindServer) -> None:
    value = refused_value()
    for _ in range(2):
        server.provider().apply(ZONE, {value}, {value})
        assert server.read(value.name) == {value.value}
    server.provider().apply(ZONE, set(), {value})
