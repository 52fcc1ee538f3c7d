from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta

import pytest

from dualcert import errors
from dualcert.errors import (
    AccountProblem,
    AlreadyRevoked,
    CaBusy,
    CaError,
    CaRejected,
    CaServerError,
    CaUnreachable,
    CertificateUnfit,
    ChallengeFailed,
    ResourceGone,
)
from dualcert.policy.recovery import Recovery, about_account, is_overdue, lost_account, passing, recover


def rejected(problem: str) -> CaRejected:
    return CaRejected("no", problem=problem)


@pytest.mark.parametrize("error", [CaBusy("later"), CaUnreachable("nobody"), CaServerError("500")])
def test_a_placed_order_survives_trouble_of_the_ca_and_an_unanswered_one_does_not(error: CaError) -> None:
    assert recover(error, placed=True) is Recovery.SAME_ORDER
    assert recover(error, placed=False) is Recovery.NEW_ORDER


def test_an_order_that_is_not_ready_is_asked_what_it_is_now() -> None:
    assert recover(rejected("orderNotReady"), placed=True) is Recovery.SAME_ORDER
    assert recover(rejected("orderNotReady"), placed=False) is Recovery.NEW_ORDER
    assert passing(rejected("orderNotReady"))


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize(
    ("error", "recovery"),
    [
        (ChallengeFailed("wrong value"), Recovery.NEW_ORDER),
        (rejected("malformed"), Recovery.NEW_ORDER),
        (rejected("badCSR"), Recovery.NEW_ORDER),
        (rejected("badNonce"), Recovery.NEW_ORDER),
        (rejected("a problem nobody has heard of"), Recovery.NEW_ORDER),
        (ResourceGone("404", problem="malformed"), Recovery.NEW_ORDER_NOW),
        (AlreadyRevoked("so before", problem="alreadyRevoked"), Recovery.NEW_ORDER),
        (rejected("rejectedIdentifier"), Recovery.PERSON),
        (rejected("unsupportedIdentifier"), Recovery.PERSON),
        (rejected("userActionRequired"), Recovery.PERSON),
        (rejected("externalAccountRequired"), Recovery.PERSON),
        (rejected("invalidProfile"), Recovery.PERSON),
        (rejected("paused"), Recovery.PERSON),
        (rejected("caa"), Recovery.NEW_ORDER),
        (rejected("badPublicKey"), Recovery.NEW_ORDER),
        (AccountProblem("deactivated", problem="unauthorized"), Recovery.PERSON),
        (CertificateUnfit("another key"), Recovery.NEXT_DAY),
    ],
)
def test_what_the_ca_said_no_to_is_not_asked_again_unchanged(
    error: CaError, recovery: Recovery, placed: bool
) -> None:
    assert recover(error, placed=placed) is recovery


def test_only_an_answer_that_is_missing_a_5xx_or_an_early_finalize_may_be_over_in_a_second() -> None:
    assert passing(CaUnreachable("nobody"))
    assert passing(CaServerError("500"))
    assert passing(rejected("orderNotReady"))
    assert not passing(CaBusy("429"))
    assert not passing(rejected("malformed"))
    assert not passing(ChallengeFailed("wrong value"))


@pytest.mark.parametrize("problem", ["accountDoesNotExist", "unauthorized", "malformed"])
def test_a_refusal_may_be_about_another_key_or_account(problem: str) -> None:
    assert about_account(rejected(problem))
    assert lost_account(rejected(problem)) == (problem == "accountDoesNotExist")
    assert not about_account(ResourceGone("404", problem=problem))
    assert not about_account(rejected("rejectedIdentifier"))


def test_every_failure_at_a_ca_has_a_recovery() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, CaError) and kind is not CaError
    ]
    assert len(kinds) == 9
    for kind in kinds:
        error = kind("why", problem="malformed") if issubclass(kind, CaRejected) else kind("why")
        assert isinstance(recover(error, placed=True), Recovery)


def test_an_order_that_is_not_ready_yet_is_looked_at_again() -> None:
    assert recover(rejected("orderNotReady"), placed=True) is Recovery.SAME_ORDER
    assert recover(rejected("orderNotReady"), placed=False) is Recovery.NEW_ORDER


PLACED, HOUR = datetime(2026, 5, 4, 12, tzinfo=UTC), timedelta(hours=1)


@pytest.mark.parametrize(
    ("age", "kept", "overdue"),
    [
        (35.9, None, False),
        (36, None, True),
        (36, 7 * 24, True),
        (2.9, 1, False),  # clocks may be an hour apart
        (3, 1, True),
        (1.9, -30 * 24, False),  # or a month: it has its time nevertheless
        (2, -30 * 24, True),
    ],
)
def test_an_order_that_does_not_end_is_given_up_after_its_time(
    age: float, kept: float | None, overdue: bool
) -> None:
    expires = PLACED + kept * HOUR if kept is not None else None
    assert is_overdue(PLACED, PLACED + age * HOUR, expires) is overdue
