from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dualcert.policy.urgency import SOON, Need, is_urgent, needed_by

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Need(NOW, None), NOW + 3 * DAY),
        (Need(NOW, None, usable_until=NOW + 60 * DAY), NOW + 3 * DAY),
        (Need(NOW, NOW + 20 * DAY), NOW + 20 * DAY),
        (Need(NOW, NOW + 20 * DAY, usable_until=NOW + 60 * DAY), NOW + 20 * DAY),
        (Need(NOW, NOW + 20 * DAY, struck_at=NOW + DAY), NOW + DAY),
        (Need(NOW, NOW + 20 * DAY, struck_at=NOW + DAY, usable_until=NOW + 60 * DAY), NOW + 60 * DAY),
        (Need(NOW, NOW + 20 * DAY, struck_at=NOW + 30 * DAY), NOW + 20 * DAY),
        (Need(NOW, NOW - DAY), NOW - DAY),
    ],
    ids=[
        "serves nothing yet",
        "serves nothing yet, although it could",
        "expires",
        "expires beside a usable backup",
        "is struck and has no backup",
        "is struck and turns to its backup",
        "expires before the deadline",
        "has expired",
    ],
)
def test_an_order_is_needed_by_the_time_at_which_its_pair_would_serve_no_good_certificate(
    need: Need, expected: datetime
) -> None:
    assert needed_by(need) == expected


def test_three_days_are_soon() -> None:
    assert is_urgent(NOW + SOON, NOW)
    assert is_urgent(NOW - DAY, NOW)
    assert not is_urgent(NOW + SOON + timedelta(microseconds=1), NOW)
