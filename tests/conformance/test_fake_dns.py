"""The provider in memory passes the suite of the real ones, with and without a capacity."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Set
from datetime import timedelta
from typing import ClassVar

import pytest

from dualcert.errors import DnsRefused, DnsUnreachable
from dualcert.ports.dns import DnsProvider, TxtValue
from dualcert.ports.options import Secret
from dualcert.testing.dns import DnsProviderConformance
from dualcert.testing.fakes_dns import FakeDnsOptions, FakeDnsProvider, FakeDnsServer

ZONE = "example.test"


class TestFakeDns(DnsProviderConformance):
    plugin = FakeDnsProvider
    capacity: ClassVar[int | None] = None

    @pytest.fixture(autouse=True)
    def _server(self) -> None:
        self.token = Secret(secrets.token_hex(16))
        self.other = Secret(secrets.token_hex(16))
        self.server = FakeDnsServer([ZONE], self.token, self.capacity)

    def provider(self) -> DnsProvider:
        return FakeDnsProvider(FakeDnsOptions(server=self.server, token=self.token))

    def zone(self) -> str:
        return ZONE

    def read(self, name: str) -> Set[str]:
        return self.server.read(name)

    def write_as_somebody_else(self, value: TxtValue) -> None:
        self.server.write(value)

    def unknown_zone(self) -> str:
        return "nobody.test"

    def with_bad_credentials(self) -> DnsProvider:
        return FakeDnsProvider(FakeDnsOptions(server=self.server, token=self.other))

    def unreachable(self) -> DnsProvider:
        silent = FakeDnsServer([ZONE], self.token)
        silent.reachable = False
        return FakeDnsProvider(FakeDnsOptions(server=silent, token=self.token))

    def throttled(self) -> DnsProvider | None:
        busy = FakeDnsServer([ZONE], self.token)
        busy.throttled_for = timedelta(seconds=7)
        return FakeDnsProvider(FakeDnsOptions(server=busy, token=self.token))

    def secrets(self) -> Collection[str]:
        return [self.token.reveal(), self.other.reveal()]


class TestFakeDnsThatHoldsTwo(TestFakeDns):
    capacity = 2


def test_beyond_its_capacity_it_refuses() -> None:
    token = Secret("token")
    server = FakeDnsServer([ZONE], token, capacity=1)
    provider = FakeDnsProvider(FakeDnsOptions(server=server, token=token))
    first, second = TxtValue(f"a.{ZONE}", "1"), TxtValue(f"a.{ZONE}", "2")
    provider.apply(ZONE, {first}, set())
    with pytest.raises(DnsRefused):
        provider.apply(ZONE, {second}, set())
    provider.apply(ZONE, {second}, {first})
    assert server.read(first.name) == {"2"}


def test_faults_come_once_and_lost_answers_after_the_change() -> None:
    token = Secret("token")
    server = FakeDnsServer([ZONE], token)
    provider = FakeDnsProvider(FakeDnsOptions(server=server, token=token))
    value = TxtValue(f"a.{ZONE}", "1")
    server.faults.append(DnsRefused("no"))
    with pytest.raises(DnsRefused):
        provider.apply(ZONE, {value}, set())
    assert server.read(value.name) == set()
    server.lost_answers = 1
    with pytest.raises(DnsUnreachable):
        provider.apply(ZONE, {value}, set())
    assert server.read(value.name) == {"1"}
    provider.apply(ZONE, {value}, set())
    assert server.changes == 2


def test_the_suite_lets_no_case_be_replaced() -> None:
    with pytest.raises(TypeError, match="replaces essential cases: test_bad_credentials"):
        type("Lax", (TestFakeDns,), {"test_bad_credentials": None})


def test_the_suite_asks_for_every_answer() -> None:
    unanswered = type("Lazy", (DnsProviderConformance,), {})
    with pytest.raises(TypeError, match="abstract"):
        unanswered()


# --- what the suite must notice --------------------------------------------------------------------------

Values = Set[TxtValue]


def letter_case_is_nothing(there: Values, add: Values, remove: Values) -> tuple[Values, Values]:
    removed = {(one.name, one.value.lower()) for one in remove}
    gone = {one for one in there if (one.name, one.value.lower()) in removed}
    kept = {(one.name, one.value.lower()) for one in there - gone}
    return {one for one in add if (one.name, one.value.lower()) not in kept}, gone


def a_value_goes_from_every_name(there: Values, add: Values, remove: Values) -> tuple[Values, Values]:
    return add, {one for one in there if one.value in {gone.value for gone in remove}}


def an_exchange_replaces_all(there: Values, add: Values, remove: Values) -> tuple[Values, Values]:
    return add, remove | _beside(there, add) if add and remove else remove


def several_replace_all(there: Values, add: Values, remove: Values) -> tuple[Values, Values]:
    return add, remove | _beside(there, add) if len(add) > 1 else remove


def several_take_all_with_them(there: Values, add: Values, remove: Values) -> tuple[Values, Values]:
    return add, remove | _beside(there, remove) if len(remove) > 1 else remove


def one_that_is_there_is_all_that_is_there(
    there: Values, add: Values, remove: Values
) -> tuple[Values, Values]:
    return set() if add & there else add, remove


def one_that_is_absent_is_all_that_is_absent(
    there: Values, add: Values, remove: Values
) -> tuple[Values, Values]:
    return add, set() if remove - there else remove


def _beside(there: Values, values: Values) -> set[TxtValue]:
    return {one for one in there if one.name in {value.name for value in values}}


@pytest.mark.parametrize(
    ("wrong", "case"),
    [
        (letter_case_is_nothing, "values_are_kept_to_the_letter"),
        (a_value_goes_from_every_name, "apex_and_wildcard_of_two_cas_together"),
        (an_exchange_replaces_all, "what_others_wrote_stays"),
        (several_replace_all, "what_others_wrote_stays"),
        (several_take_all_with_them, "what_others_wrote_stays"),
        (one_that_is_there_is_all_that_is_there, "adding_twice_is_harmless"),
        (one_that_is_absent_is_all_that_is_absent, "removing_what_is_absent_is_harmless"),
    ],
)
def test_the_suite_notices(
    wrong: Callable[[Values, Values, Values], tuple[Values, Values]], case: str
) -> None:
    token = Secret("token")
    server = FakeDnsServer([ZONE], token)
    names = [f"_acme-challenge.a.{ZONE}", f"_acme-challenge.www.a.{ZONE}"]

    class Wrong(FakeDnsProvider):
        def apply(self, zone: str, add: Values, remove: Values) -> None:
            there = {TxtValue(name, text) for name in names for text in server.read(name)}
            super().apply(zone, *wrong(there, add, remove))

    class Suite(TestFakeDns):
        visible_within = 0.0

        def provider(self) -> DnsProvider:
            return Wrong(FakeDnsOptions(server=server, token=token))

        def read(self, name: str) -> Set[str]:
            return server.read(name)

        def write_as_somebody_else(self, value: TxtValue) -> None:
            server.write(value)

    with pytest.raises(AssertionError):
        getattr(Suite(), f"test_{case}")(names[0])
