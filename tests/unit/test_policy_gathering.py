from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.policy.gathering import fitting, publish_at, withdraw_at

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_values_go_out_at_once_when_every_order_has_been_answered() -> None:
    assert publish_at(NOW, NOW - seconds(1), 0) == NOW


@pytest.mark.parametrize(("known_for", "wait"), [(0, 3), (2.5, 0.5), (3, 0), (60, 0)])
def test_a_late_ca_is_waited_for_until_three_seconds_after_the_first_value(
    known_for: float, wait: float
) -> None:
    assert publish_at(NOW, NOW - seconds(known_for), 1) == NOW + seconds(wait)


def test_values_are_withdrawn_at_once_unless_others_of_the_pair_are_still_needed() -> None:
    assert withdraw_at(NOW, 0) == NOW
    assert withdraw_at(NOW, 1) == NOW + seconds(10)


def test_everything_fits_where_the_provider_states_no_capacity() -> None:
    assert fitting({"a": 99}, [(1, "a"), (2, "a"), (3, "b")], None) == {1, 2, 3}


def test_what_does_not_fit_beside_what_stands_there_waits_its_turn() -> None:
    assert fitting({"a": 1}, [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "b")], 2) == {1, 3, 4}
    assert fitting({"a": 2}, [(1, "a")], 2) == frozenset()
    assert fitting({"a": 3}, [(1, "a")], 2) == frozenset()


@given(
    known=st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
    owners=st.lists(st.sampled_from("abc"), max_size=12),
    capacity=st.integers(1, 5),
)
def test_no_name_ever_holds_more_than_the_capacity_and_no_room_is_wasted(
    known: dict[str, int], owners: list[str], capacity: int
) -> None:
    wanted = list(enumerate(owners))
    chosen = fitting(known, wanted, capacity)
    for owner in "abc":
        new = [number for number, name in wanted if name == owner]
        room = max(0, capacity - known.get(owner, 0))
        assert [number for number in new if number in chosen] == new[:room]
