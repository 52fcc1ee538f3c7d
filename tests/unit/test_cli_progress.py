"""Times as they are typed on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click
import pytest

from dualcert.cli.commands import dualcert
from dualcert.cli.progress import duration, moment, until
from dualcert.errors import UsageProblem
from dualcert.lifecycle import driver


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300.0), ("90s", 90.0), ("7", 7.0), ("0", 0.0)])
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-1", "1e999", "", "soon", "5 minutes", "٣", "9999999d", "9" * 12, "9" * 400]
)
def test_what_is_no_time_is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(UsageProblem, match="--longest"):
        duration(text, "--longest")


@pytest.mark.parametrize("text", ["2026-03-01T12:00Z", "2026-03-01T13:00+01:00", "2026-03-01 12:00"])
def test_a_moment_is_utc_unless_it_says_otherwise(text: str) -> None:
    expected = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert moment(text) == expected
    assert until(text, "--by", expected - timedelta(hours=1), "") == timedelta(hours=1)


@pytest.mark.parametrize(
    "text", ["", "noon", "2026-13-01", "9999-12-31T23:59-23:00", "0001-01-01T00:00+23:00"]
)
def test_what_is_no_moment_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        moment(text)


def test_until_takes_a_span_as_well() -> None:
    assert until("90s", "--by", datetime(2026, 3, 1, tzinfo=UTC), "") == timedelta(seconds=90)
    with pytest.raises(UsageProblem, match="--by noon") as refused:
        until("noon", "--by", datetime(2026, 3, 1, tzinfo=UTC), "")
    assert "24h or 20" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2020-01-01", "2020-01-01 00:00:00 UTC is over"),
        ("2026-03-01T13:00+01:00", "2026-03-01 12:00:00 UTC is over"),
        ("0", "no time at all"),
        ("0s", "no time at all"),
    ],
)
def test_until_takes_no_time_that_is_over(text: str, says: str) -> None:
    with pytest.raises(UsageProblem) as refused:
        until(text, "--by", datetime(2026, 3, 1, 12, tzinfo=UTC), "Or say nothing.")
    assert f"--by {text}: " in refused.value.reason
    assert says in refused.value.reason
    if text != "0s":
        assert refused.value.remedy == "Write a time to come, like 24h. Or say nothing."


def _commands(group: click.Group) -> Iterator[click.Command]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command)
        else:
            yield command


def test_every_timeout_says_how_long_steps_under_way_may_take_beyond_it() -> None:
    told = {
        command.name: getattr(parameter, "help", "")
        for command in _commands(dualcert)
        for parameter in command.params
        if parameter.name == "timeout"
    }
    assert len(told) > 8
    assert not [name for name, text in told.items() if f"up to {driver.GRACE:.0f} s more" not in text]
