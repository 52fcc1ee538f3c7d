from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcert.policy.due import PROOF_LASTS, renew_at, usable_until

BIRTH = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)

lives = st.timedeltas(timedelta(hours=1), timedelta(days=400))
moments = st.timedeltas(timedelta(0), timedelta(days=7000)).map(lambda passed: BIRTH + passed)


@pytest.mark.parametrize(
    ("life", "after"),
    [
        (timedelta(days=90), timedelta(days=60)),
        (timedelta(days=10), timedelta(days=20) / 3),
        (timedelta(days=10) - timedelta(microseconds=2), timedelta(days=5) - timedelta(microseconds=1)),
        (timedelta(days=6), timedelta(days=3)),
        (timedelta(hours=1), timedelta(minutes=30)),
    ],
)
def test_renewal_is_at_two_thirds_of_a_life_and_half_way_below_ten_days(
    life: timedelta, after: timedelta
) -> None:
    assert renew_at(BIRTH, BIRTH + life) == BIRTH + after


@given(birth=moments, life=lives)
def test_renewal_is_inside_the_second_half_of_a_life(birth: datetime, life: timedelta) -> None:
    at = renew_at(birth, birth + life)
    assert birth + life / 2 <= at < birth + life


@pytest.mark.parametrize(
    ("life", "margin"),
    [
        (timedelta(days=90), DAY),
        (timedelta(days=10), DAY),
        (timedelta(days=5), timedelta(hours=12)),
        (timedelta(hours=1), timedelta(minutes=6)),
    ],
)
def test_a_standby_is_trusted_until_a_day_or_a_tenth_before_its_end(
    life: timedelta, margin: timedelta
) -> None:
    end = BIRTH + life
    assert usable_until(BIRTH, end, proved_at=end) == end - margin


def test_a_standby_whose_key_was_not_opened_for_thirty_days_is_no_longer_trusted() -> None:
    assert timedelta(days=30) == PROOF_LASTS
    assert usable_until(BIRTH, BIRTH + timedelta(days=90), BIRTH + DAY) == BIRTH + timedelta(days=31)


@given(birth=moments, life=lives, proved=moments)
def test_trust_ends_before_the_certificate_and_before_its_proof(
    birth: datetime, life: timedelta, proved: datetime
) -> None:
    until = usable_until(birth, birth + life, proved)
    assert until < birth + life
    assert until <= proved + PROOF_LASTS


@given(birth=moments, life=lives, proved=moments, later=st.timedeltas(timedelta(0), timedelta(days=100)))
def test_a_newer_proof_never_shortens_trust(
    birth: datetime, life: timedelta, proved: datetime, later: timedelta
) -> None:
    end = birth + life
    assert usable_until(birth, end, proved + later) >= usable_until(birth, end, proved)
