from __future__ import annotations

from collections.abc import Sequence

import pytest

from dualcert.errors import DeployError
from dualcert.ports.singling import single_out

PAIRS = [f"p{number:02}" for number in range(100)]


class Target:
    """Whose answer is spoilt by some of its pairs. ``asked``: of which ones, each time."""

    def __init__(self, *spoilt: str) -> None:
        self.spoilt = set(spoilt)
        self.asked: list[Sequence[str]] = []

    def ask(self, pairs: Sequence[str]) -> dict[str, str]:
        self.asked.append(pairs)
        if bad := self.spoilt.intersection(pairs):
            raise DeployError(f"cannot read {min(bad)}")
        return {pair: f"of {pair}" for pair in pairs}


def never(_: DeployError) -> bool:
    return False


def test_where_all_is_well_there_is_one_question() -> None:
    target = Target()
    assert single_out(target.ask, PAIRS, never) == {pair: f"of {pair}" for pair in PAIRS}
    assert target.asked == [PAIRS]


def test_of_nothing_nothing_is_asked() -> None:
    target = Target()
    assert single_out(target.ask, [], never) == {}
    assert target.asked == []


@pytest.mark.parametrize("spoilt", [["p00"], ["p99"], ["p42"], ["p41", "p42"], ["p00", "p50", "p51", "p99"]])
def test_those_that_spoil_it_are_found_and_fail_alone(spoilt: list[str]) -> None:
    target = Target(*spoilt)
    found = single_out(target.ask, PAIRS, never)
    failed = {pair: str(said) for pair, said in found.items() if isinstance(said, DeployError)}
    assert failed == {pair: f"cannot read {pair}" for pair in spoilt}
    assert {found[pair] for pair in PAIRS if pair not in spoilt} == {
        f"of {pair}" for pair in PAIRS if pair not in spoilt
    }
    assert len(target.asked) <= 1 + 2 * 7 * len(spoilt)


def test_where_each_fails_nobody_asks_about_each() -> None:
    target = Target(*PAIRS)
    found = single_out(target.ask, PAIRS, never)
    assert found.keys() == set(PAIRS)
    assert all(isinstance(said, DeployError) for said in found.values())
    assert len(target.asked) <= 12


def test_what_is_enough_ends_it_and_keeps_what_is_known() -> None:
    target = Target("p00", "p99")
    found = single_out(target.ask, PAIRS, lambda error: len(target.asked) > 1 and "p99" in str(error))
    assert found["p49"] == "of p49"
    assert {pair for pair, said in found.items() if isinstance(said, DeployError)} == {"p00", *PAIRS[50:]}
