from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dualcert.policy.promotion import StandbyFacts, objections

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
FIT = StandbyFacts(revoked=False, blocked=False, not_after=NOW + MOMENT, covers=True, ok_until=NOW + MOMENT)


def test_a_standby_that_nothing_speaks_against_may_serve() -> None:
    assert objections(FIT, NOW) == ()


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (None, "no backup certificate"),
        (replace(FIT, revoked=True), "revoked"),
        (replace(FIT, blocked=True), "blocked"),
        (replace(FIT, not_after=NOW), "expired on 2026-03-01 12:00 UTC"),
        (replace(FIT, covers=False), "does not cover"),
        (replace(FIT, distrusted=True), "CA is distrusted"),
        (replace(FIT, ok_until=None), "not proved usable"),
        (replace(FIT, ok_until=NOW), "not proved usable"),
    ],
)
def test_one_thing_against_it_is_enough_and_is_named(facts: StandbyFacts | None, word: str) -> None:
    [objection] = objections(facts, NOW)
    assert word in objection


def test_everything_that_speaks_against_it_is_said_at_once() -> None:
    facts = replace(FIT, revoked=True, blocked=True, not_after=NOW, covers=False)
    assert len(objections(facts, NOW)) == 4


def test_a_missing_proof_is_not_mentioned_beside_graver_things() -> None:
    [objection] = objections(replace(FIT, revoked=True, ok_until=None), NOW)
    assert "revoked" in objection
