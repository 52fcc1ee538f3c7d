"""What every DNS provider must do, as a pytest class to subclass.

    class TestMyProvider(DnsProviderConformance):
        plugin = MyProvider

        @pytest.fixture(autouse=True)
        def _service(self, my_service):
            self.service = my_service

        def provider(self):
            return MyProvider(MyOptions(...))
        ...

Answer the abstract methods; the cases cannot be replaced or removed. Needs ``dualcert[testing]``.
"""

from __future__ import annotations

import secrets
import string
import traceback
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass
from typing import Any, ClassVar

import pytest

from dualcert.clock import SystemClock
from dualcert.errors import DnsCredentialsRejected, DnsError, DnsThrottled, DnsUnreachable, ZoneNotFound
from dualcert.ports.dns import DnsProvider, TxtValue
from dualcert.ports.options import Options

_MOST_SECONDS = 30.0
_PAUSE = 0.02
_THREADS = 8
_ALPHABET = string.ascii_letters + string.digits + "-_"


class DnsProviderConformance(ABC):
    """Everything that ``dualcert.ports.dns.DnsProvider`` promises, tried on a real service or its test server."""

    plugin: ClassVar[type[Any]]
    """The class under test."""

    visible_within: ClassVar[float] = 10.0
    """Seconds until ``read`` shows an accepted change."""

    no_throttling_because: ClassVar[str] = ""
    """Where the protocol has no way to ask for patience: a sentence that says so. Otherwise empty."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        replaced = [
            name for name in vars(cls) if name in vars(DnsProviderConformance) and name.startswith("test_")
        ]
        if replaced:
            raise TypeError(f"{cls.__name__} replaces essential cases: {', '.join(sorted(replaced))}")

    # --- what the author of a plugin answers ---------------------------------------------------------------

    @abstractmethod
    def provider(self) -> DnsProvider:
        """A provider with valid credentials; each call may make a new one."""

    @abstractmethod
    def zone(self) -> str:
        """A zone that it holds. Only names that begin with ``_acme-challenge.`` and a random label are touched."""

    @abstractmethod
    def read(self, name: str) -> Set[str]:
        """The TXT values at ``name``, asked of the authoritative server itself and not through the plugin."""

    @abstractmethod
    def write_as_somebody_else(self, value: TxtValue) -> None:
        """Add a value by other means than the plugin; whatever it is, the suite takes it away again."""

    @abstractmethod
    def unknown_zone(self) -> str:
        """A zone that the service does not hold."""

    @abstractmethod
    def with_bad_credentials(self) -> DnsProvider:
        """A provider whose credentials the service rejects."""

    @abstractmethod
    def unreachable(self) -> DnsProvider:
        """A provider whose service does not answer."""

    @abstractmethod
    def throttled(self) -> DnsProvider | None:
        """A provider whose service asks for patience; None only with ``no_throttling_because``."""

    @abstractmethod
    def secrets(self) -> Collection[str]:
        """Every secret that the providers above were given."""

    # --- helpers -------------------------------------------------------------------------------------------

    @pytest.fixture
    def record(self) -> Iterator[str]:
        """A name of this test's own; emptied afterwards."""
        zone = self.zone()
        name = f"_acme-challenge.t{secrets.token_hex(6)}.{zone}"
        yield name
        left = {TxtValue(name, text) for text in self.read(name)}
        if left:
            self.provider().apply(zone, set(), left)

    def expect(self, name: str, values: Collection[TxtValue]) -> None:
        """``name`` shows exactly these values, at the latest after ``visible_within``."""
        clock = SystemClock()
        deadline = clock.monotonic() + self.visible_within
        wanted = {value.value for value in values if value.name == name}
        while (shown := set(self.read(name))) != wanted and clock.monotonic() < deadline:
            clock.sleep(_PAUSE)
        assert shown == wanted

    def fail(self, kind: type[DnsError], provider: DnsProvider, zone: str, name: str) -> DnsError:
        """A change fails with ``kind``, in time, naming the zone, without showing a secret."""
        clock = SystemClock()
        start = clock.monotonic()
        with pytest.raises(kind) as caught:
            provider.apply(zone, {_value(name)}, set())
        assert clock.monotonic() - start < _MOST_SECONDS, "a call ends within 30 seconds"
        assert zone in str(caught.value), "an error names the zone"
        self.hide(repr(provider), repr(caught.value), *traceback.format_exception(caught.value))
        return caught.value

    def hide(self, *texts: str) -> None:
        for secret in self.secrets():
            assert secret, "an empty secret proves nothing"
            assert not any(secret in text for text in texts), "a secret is shown"

    def test_it_is_the_plugin(self) -> None:
        for provider in (self.provider(), self.with_bad_credentials(), self.unreachable(), self.throttled()):
            assert provider is None or isinstance(provider, self.plugin)
        options_class: type = self.plugin.options_class
        assert issubclass(options_class, Options)
        assert is_dataclass(options_class)

    # --- exact ---------------------------------------------------------------------------------------------

    def test_two_values_under_one_name_coexist_and_one_can_go(self, record: str) -> None:
        provider, zone = self.provider(), self.zone()
        first, second = _value(record), _value(record)
        provider.apply(zone, {first}, set())
        provider.apply(zone, {second}, set())
        self.expect(record, {first, second})
        provider.apply(zone, set(), {first})
        self.expect(record, {second})

    def test_what_others_wrote_stays(self, record: str) -> None:
        """Whatever we add, exchange or remove beside it, one value at a time or several."""
        provider, zone = self.provider(), self.zone()
        theirs, newer = _value(record), _value(record)
        ours = {_value(record) for _ in range(min(2, (provider.capacity or 3) - 1))}
        self.write_as_somebody_else(theirs)
        provider.apply(zone, ours, set())
        self.expect(record, ours | {theirs})
        provider.apply(zone, {newer}, ours)
        self.expect(record, {newer, theirs})
        provider.apply(zone, set(), ours | {newer})
        self.expect(record, {theirs})

    def test_one_call_adds_and_removes(self, record: str) -> None:
        provider, zone = self.provider(), self.zone()
        old, new = _value(record), _value(record)
        provider.apply(zone, {old}, set())
        provider.apply(zone, {new}, {old})
        self.expect(record, {new})

    def test_apex_and_wildcard_of_two_cas_together(self, record: str) -> None:
        """Four values at one name and one of the same text at another in one call, as far as they fit."""
        provider, zone = self.provider(), self.zone()
        other = record.replace("_acme-challenge.", "_acme-challenge.www.")
        values = {_value(record) for _ in range(min(4, provider.capacity or 4))}
        twin = min(values)
        elsewhere = TxtValue(other, twin.value)
        provider.apply(zone, values | {elsewhere}, set())
        self.expect(record, values)
        self.expect(other, {elsewhere})
        provider.apply(zone, set(), {twin})
        self.expect(record, values - {twin})
        self.expect(other, {elsewhere})
        provider.apply(zone, set(), values | {elsewhere})
        self.expect(record, set())
        self.expect(other, set())

    def test_values_are_kept_to_the_letter(self, record: str) -> None:
        """Case, hyphens and underscores of base64url, and what quoting may trip over."""
        provider, zone = self.provider(), self.zone()
        values = [
            TxtValue(record, text)
            for text in ("-_aA" + "z" * 39, "-_Aa" + "z" * 39, 'a "b" \\ ;c', "x" * 255)
        ]
        for value in values:
            provider.apply(zone, {value}, set())
            self.expect(record, {value})
            provider.apply(zone, set(), {value})
            self.expect(record, set())
        first, second, *_ = values
        provider.apply(zone, {first}, set())
        provider.apply(zone, {second}, set())
        self.expect(record, {first, second})
        provider.apply(zone, set(), {first})
        self.expect(record, {second})

    # --- idempotent ----------------------------------------------------------------------------------------

    def test_adding_twice_is_harmless(self, record: str) -> None:
        """One that is there already keeps none that comes with it from being added."""
        provider, zone = self.provider(), self.zone()
        value, another = _value(record), _value(record)
        provider.apply(zone, {value}, set())
        provider.apply(zone, {value}, set())
        self.expect(record, {value})
        provider.apply(zone, {value, another}, set())
        self.expect(record, {value, another})
        provider.apply(zone, set(), {value, another})
        self.expect(record, set())

    def test_removing_what_is_absent_is_harmless(self, record: str) -> None:
        """One that is absent keeps none that is named with it from being removed."""
        provider, zone = self.provider(), self.zone()
        value = _value(record)
        provider.apply(zone, set(), {_value(record)})
        provider.apply(zone, {value}, {_value(record)})
        provider.apply(zone, set(), {_value(record)})
        self.expect(record, {value})
        provider.apply(zone, set(), {value, _value(record)})
        self.expect(record, set())

    def test_changing_nothing_is_harmless(self, record: str) -> None:
        self.provider().apply(self.zone(), set(), set())
        self.expect(record, set())

    # --- safe together -------------------------------------------------------------------------------------

    def test_nothing_is_lost_between_threads(self, record: str) -> None:
        """Each thread adds its value, by one provider object or by its own, and every second one takes it back."""
        shared, zone = self.provider(), self.zone()
        count = min(_THREADS, shared.capacity or _THREADS)
        values = [_value(record) for _ in range(count)]
        providers = [shared if number % 2 else self.provider() for number in range(count)]
        with ThreadPoolExecutor(_THREADS) as pool:
            pairs = zip(providers, values, strict=True)
            list(pool.map(lambda pair: pair[0].apply(zone, {pair[1]}, set()), pairs))
        self.expect(record, values)
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda value: shared.apply(zone, set(), {value}), values[::2]))
        self.expect(record, values[1::2])

    def test_capacity_is_true(self, record: str) -> None:
        """As many values as it states stand at one name at once; ten where it states no limit."""
        provider, zone = self.provider(), self.zone()
        assert provider.capacity is None or provider.capacity >= 1
        values = {_value(record) for _ in range(provider.capacity or 10)}
        for value in values:
            provider.apply(zone, {value}, set())
        self.expect(record, values)

    # --- typed errors --------------------------------------------------------------------------------------

    def test_bad_credentials(self, record: str) -> None:
        self.fail(DnsCredentialsRejected, self.with_bad_credentials(), self.zone(), record)
        self.expect(record, set())

    def test_unknown_zone(self) -> None:
        zone = self.unknown_zone()
        self.fail(ZoneNotFound, self.provider(), zone, f"_acme-challenge.{zone}")

    def test_unreachable(self, record: str) -> None:
        self.fail(DnsUnreachable, self.unreachable(), self.zone(), record)

    def test_throttling(self, record: str) -> None:
        provider = self.throttled()
        if provider is None:
            assert self.no_throttling_because, "say in no_throttling_because why there is no throttling"
            return
        error = self.fail(DnsThrottled, provider, self.zone(), record)
        assert error.retry_after is not None, "a throttled caller learns when to come back"
        assert error.retry_after.total_seconds() > 0

    def test_secrets_are_hidden(self) -> None:
        for provider in (self.provider(), self.with_bad_credentials()):
            options = getattr(provider, "_options", None)
            self.hide(repr(provider), str(provider), repr(options), str(vars(provider)))

    def test_default_resolvers_are_addresses(self) -> None:
        for address in self.provider().default_resolvers():
            host, _, port = address.rpartition(":")
            assert host
            assert 0 < int(port) < 65536


def _value(name: str) -> TxtValue:
    """A value like those of RFC 8555 section 8.4: 43 characters of base64url."""
    return TxtValue(name, "".join(secrets.choice(_ALPHABET) for _ in range(43)))
