"""A question about many pairs, where one of them may spoil the answer for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from dualcert.errors import DeployError

T = TypeVar("T")

_IN_A_ROW = 3
"""So many pairs that fail by themselves, one after the other, and it is not they who are to blame."""


def single_out(
    ask: Callable[[Sequence[str]], Mapping[str, T]],
    pairs: Sequence[str],
    enough: Callable[[DeployError], bool],
) -> dict[str, T | DeployError]:
    """What is said of each pair; who spoils it for the others is found by halving, and has the error alone.

    A target of which nothing can be learned is left alone soon: after three pairs in a row that failed by themselves,
    or after a failure that is ``enough``. All that were not answered for by then have that error.
    """
    found: dict[str, T | DeployError] = {}
    waiting = [pairs] if pairs else []
    failed = 0
    while waiting:
        part = waiting.pop()
        try:
            found.update(ask(part))
        except DeployError as error:
            alone = len(part) == 1
            failed += alone
            if failed == _IN_A_ROW or enough(error):
                found.update((pair, error) for some in (part, *waiting) for pair in some)
                break
            if alone:
                found[part[0]] = error
            else:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
        else:
            failed = 0
    return found
