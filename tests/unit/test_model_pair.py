from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from dualcert.model.order import OPEN_STEPS, OrderStep
from dualcert.model.pair import KeyType, PairState, Protection, Role
from dualcert.model.work import WorkKind

STATE = PairState(
    pair_id=1,
    epoch=0,
    serving=10,
    standby=20,
    primary_lineage=100,
    backup_lineage=200,
    backup_ok_until=None,
    next_action_at=None,
)


def test_a_role_is_read_from_the_state_and_never_remembered() -> None:
    assert (STATE.role_of(100), STATE.certificate_of(100)) == (Role.PRIMARY, 10)
    assert (STATE.role_of(200), STATE.certificate_of(200)) == (Role.BACKUP, 20)


def test_nouns_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        STATE.epoch = 1  # type: ignore[misc]


def test_an_order_is_open_until_it_is_stored_or_abandoned() -> None:
    assert set(OrderStep) - set(OPEN_STEPS) == {OrderStep.STORED, OrderStep.ABANDONED}


@pytest.mark.parametrize("words", [KeyType, Protection, Role, WorkKind, OrderStep])
def test_words_that_are_stored_or_shown_are_lower_case(words: type[KeyType]) -> None:
    assert all(one.value == one.value.lower() and " " not in one.value for one in words)
