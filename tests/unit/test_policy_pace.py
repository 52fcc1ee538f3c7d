"""How many at a time: short units on a slow machine, large ones on a fast one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dualcert.policy.pace import LEAST, LONG, SHORT, next_size

MOST = 5000


def sizes(each: float, units: int = 20) -> list[int]:
    """Of units that follow each other on a machine that takes so many seconds for one row."""
    found = [MOST // 2]
    for _ in range(units):
        found.append(next_size(found[-1], found[-1] * each, MOST))
    return found


def test_a_fast_machine_takes_on_as_many_as_are_allowed() -> None:
    assert sizes(0.00001)[-1] == MOST


@given(each=st.floats(0.00004, 0.0007))
def test_a_slower_one_comes_to_units_that_are_neither_long_nor_short(each: float) -> None:
    assert SHORT <= sizes(each)[-1] * each <= LONG


def test_however_slow_it_is_some_are_taken_on() -> None:
    assert sizes(1.0)[-1] == min(sizes(1.0)) >= LEAST // 2
    assert next_size(3, 10.0, MOST) == 3
