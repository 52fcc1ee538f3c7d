from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert import errors
from dualcert.clock import SystemClock, from_microseconds, rfc3339, rfc3339_of, to_microseconds
from dualcert.errors import CaRejected, DualcertError, ResourceGone

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, DualcertError)]

# --- errors ----------------------------------------------------------------------------------------------


def test_an_error_says_to_what_it_happened_and_what_to_do() -> None:
    error = DualcertError("it hangs", remedy="Wait.", ca="alpha", name="example.com")
    assert str(error) == "example.com, CA alpha: it hangs\n  Wait."
    assert (error.reason, error.remedy, error.ca, error.name) == ("it hangs", "Wait.", "alpha", "example.com")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DualcertError("it hangs"), "it hangs"),
        (DualcertError("it hangs", ca="alpha"), "CA alpha: it hangs"),
        (DualcertError("it hangs", name="example.com"), "example.com: it hangs"),
        (DualcertError("it hangs", remedy="Wait."), "it hangs\n  Wait."),
        (DualcertError("CA alpha hangs", ca="alpha", name="example.com"), "example.com: CA alpha hangs"),
        (DualcertError("CA alphabet hangs", ca="alpha"), "CA alpha: CA alphabet hangs"),
    ],
)
def test_what_is_not_known_leaves_no_gap(error: DualcertError, text: str) -> None:
    assert str(error) == text


def test_every_kind_has_an_exit_status_and_a_sentence() -> None:
    assert len(ALL) > 25
    for kind in ALL:
        assert kind.exit_status in {1, 2, 3, 4}
        assert kind.__doc__


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("UsageProblem", 2),
        ("InvalidName", 2),
        ("ConfigurationError", 2),
        ("DatabaseRevisionError", 2),
        ("Refused", 4),
        ("CaUnreachable", 1),
        ("DnsRefused", 1),
        ("DeployError", 1),
        ("KeyUnreadable", 1),
        ("StoreUnavailable", 1),
    ],
)
def test_the_exit_status_belongs_to_the_kind(kind: str, status: int) -> None:
    assert getattr(errors, kind).exit_status == status


def test_a_refusal_of_a_ca_keeps_the_problem_and_when_to_come_back() -> None:
    wish = timedelta(seconds=30)
    error = CaRejected("no", problem="rejectedIdentifier", ca="alpha", retry_after=wish)
    assert (error.problem, error.retry_after) == ("rejectedIdentifier", wish)
    assert isinstance(ResourceGone("gone", problem="malformed"), CaRejected)


# --- the clock -------------------------------------------------------------------------------------------

instants = st.timedeltas(timedelta(days=-10_000), timedelta(days=100_000)).map(lambda passed: EPOCH + passed)


@given(instant=instants)
def test_an_instant_survives_the_database_to_the_microsecond(instant: datetime) -> None:
    assert from_microseconds(to_microseconds(instant)) == instant


@given(one=instants, other=instants)
def test_microseconds_are_in_the_order_of_instants(one: datetime, other: datetime) -> None:
    assert (to_microseconds(one) < to_microseconds(other)) == (one < other)


def test_microseconds_do_not_depend_on_the_zone_and_keep_the_last_digit() -> None:
    instant = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
    there = instant.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert to_microseconds(there) == to_microseconds(instant) == 1_772_366_400_000_001
    assert from_microseconds(0) == EPOCH
    assert from_microseconds(-1) == EPOCH - timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 3, 1, 12, tzinfo=UTC), "2026-03-01T12:00:00Z"),
        (datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC), "2026-03-01T12:00:00.500000Z"),
        (datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2))), "2026-03-01T10:00:00Z"),
    ],
)
def test_instants_are_written_as_rfc_3339_in_utc(instant: datetime, text: str) -> None:
    assert rfc3339(instant) == text


@given(instant=st.one_of(instants, instants.map(lambda instant: instant.replace(microsecond=0))))
def test_what_the_database_holds_is_written_like_its_instant(instant: datetime) -> None:
    assert rfc3339_of(to_microseconds(instant)) == rfc3339(instant)


def test_the_machines_clock_is_aware_and_its_seconds_only_grow() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    before = clock.monotonic()
    clock.sleep(0.002)
    assert clock.monotonic() - before >= 0.002
