from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.policy.waves import LEAST, Tally, allowed, drifting, ends, failing, share, waves


@pytest.mark.parametrize(
    ("text", "expected"), [("1%", "1/100"), (" 0.5 %", "1/200"), ("100%", "1"), ("0%", "0")]
)
def test_a_percentage_is_read_exactly(text: str, expected: str) -> None:
    assert share(text) == Fraction(expected)


@pytest.mark.parametrize("text", ["1", "%", "-1%", "101%", "one%", "1.2.3%", "1e2%", ""])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"%"):
        share(text)


@pytest.mark.parametrize("text", ["10%,1%,100%", "1%,1%,100%", "0%,100%", "1%,10%", "1%,,100%", ""])
def test_waves_grow_and_the_last_one_is_all(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        waves(text)


def test_the_end_of_a_wave_is_rounded_up() -> None:
    assert ends(waves("1%,10%,100%"), 1001) == [11, 101, 1001]
    assert ends(waves("1%,10%,100%"), 3) == [1, 1, 3]
    assert ends(waves("100%"), 0) == [0]


@given(limit=st.fractions(0, 1), of=st.integers(0, 10**7))
def test_a_limit_is_rounded_up_and_means_at_least_three(limit: Fraction, of: int) -> None:
    found = allowed(limit, of)
    assert found >= LEAST
    assert found >= limit * of
    assert found == LEAST or found - 1 < limit * of


@pytest.mark.parametrize(("many", "stops"), [(3, False), (4, True)])
def test_it_stops_above_the_limit_and_not_at_it(many: int, stops: bool) -> None:
    assert (drifting(Tally(100, many, 0), share("2%")) is not None) is stops
    assert (failing(Tally(100, 0, many), share("1%")) is not None) is stops
    assert drifting(Tally(1000, 20, 0), share("2%")) is None
    assert drifting(Tally(1000, 21, 0), share("2%")) is not None
