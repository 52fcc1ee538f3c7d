from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert import errors
from dualcert.clock import SystemClock, from_microseconds, rfc3339, rfc3339_of, to_microseconds
from dualcert.errors import CaRejected, DeployError, DualcertError, ResourceGone, printable, told

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


# --- text of strangers -----------------------------------------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("two\nlines", "two\nlines"),
        ("sur\udc80rogate", "sur\ufffdrogate"),
        ("a\0b\x1b[31mred\x07", "a\ufffdb\ufffd[31mred\ufffd"),
        ("a\tb\r\nc\u00a0d", "a\tb \nc d"),
        ("zürich 例", "zürich 例"),
        (None, "None"),
        (Mute(), "(Mute without a text)"),
    ],
)
def test_any_text_can_be_printed_and_stored(said: object, kept: str) -> None:
    assert printable(said) == kept
    assert printable(kept) == kept


@given(st.text())
def test_any_text_at_all_can_be_encoded_and_is_kept_as_it_is_the_second_time(text: str) -> None:
    kept = printable(text)
    assert "\0" not in kept.encode().decode()
    assert printable(kept) == kept


def test_a_text_without_an_end_is_cut() -> None:
    assert len(printable("x" * 5_000_000)) < 31_000
    assert len(told(RuntimeError("x" * 5_000_000))) < 1100


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
        (ValueError(), "ValueError"),
        (Mute(), "Mute: (Mute without a text)"),
        (SystemExit(0), "SystemExit: 0"),
    ],
)
def test_any_exception_is_told_in_one_line(error: BaseException, text: str) -> None:
    assert told(error) == text


def test_an_error_holds_what_can_be_printed_whoever_made_it() -> None:
    error = DeployError(None, remedy="\x1b]0;", name="a\0", ca="b\udc80")  # type: ignore[arg-type]
    assert str(error) == "a\ufffd, CA b\ufffd: None\n  \ufffd]0;"
    assert error.args == ("None",)
