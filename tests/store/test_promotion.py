"""One rule in two languages: the SQL predicate and the policy that puts it into words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update

from dualcert.model.certificate import Certificate
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason
from dualcert.policy.due import usable_until
from dualcert.policy.promotion import StandbyFacts, objections
from dualcert.store import (
    Store,
    Transaction,
    certificates,
    incident_members,
    incidents,
    pairs,
    promotion,
    revocations,
    standings,
    tables,
)
from dualcert.store.columns import micros
from dualcert.testing.clock import FakeClock
from tests.store.building import (
    BACKUP,
    PRIMARY,
    a_certificate,
    a_full_pair,
    a_pair,
    give_role,
    lineage_of,
    undone,
)
from tests.store.overhearing import overheard

ANOTHER = ("another.example.com",)
MOMENT = timedelta(microseconds=1)
_borders = st.sampled_from([-timedelta(days=1), -MOMENT, timedelta(0), MOMENT, timedelta(days=1)])
offsets = _borders | st.timedeltas(-timedelta(days=60), timedelta(days=60))


@dataclass(frozen=True)
class Held:
    """A certificate of the pair; instants are relative to now."""

    revoked: bool
    revocation_wanted: bool
    blocked: bool
    named: str
    coverage: str
    not_after: timedelta
    life: timedelta
    proved: timedelta
    key_kept: bool
    distrust: str = "none"


@dataclass(frozen=True)
class Situation:
    standby: Held | None
    serving: Held | None
    ok_until: timedelta | None


FIT = Held(
    revoked=False,
    revocation_wanted=False,
    blocked=False,
    named="never",
    coverage="same",
    not_after=timedelta(days=60),
    life=timedelta(days=90),
    proved=timedelta(0),
    key_kept=True,
)
holdings = st.builds(
    Held,
    revoked=st.sampled_from([False, False, True]),
    revocation_wanted=st.sampled_from([False, False, True]),
    blocked=st.sampled_from([False, False, True]),
    named=st.sampled_from(["never", "never", "by an open incident", "by a closed one", "by both"]),
    coverage=st.sampled_from(["same", "same", "remembered", "of another pair", "none"]),
    not_after=offsets,
    life=st.timedeltas(timedelta(hours=1), timedelta(days=400)),
    proved=st.timedeltas(-timedelta(days=60), timedelta(0)),
    key_kept=st.sampled_from([True, True, True, False]),
    distrust=st.sampled_from(["none", "none", "none", "of all", "of what begins later", "of it"]),
)
situations = st.builds(
    Situation, standby=st.none() | holdings, serving=st.none() | holdings, ok_until=st.none() | offsets
)


def build(tx: Transaction, situation: Situation) -> tuple[Pair, Certificate | None, Certificate | None]:
    a_pair(tx, *ANOTHER)
    pair = a_pair(tx)
    found = []
    for ca, held in ((PRIMARY, situation.serving), (BACKUP, situation.standby)):
        found.append(None if held is None else _certificate(tx, pair, ca, held))
    serving, standby = found
    if standby is not None:
        until = None if situation.ok_until is None else tx.now + situation.ok_until
        assert pairs.set_backup_ok(tx, pairs.state(tx, pair.id), until)
    return pair, serving, standby


def _certificate(tx: Transaction, pair: Pair, ca: str, held: Held) -> Certificate:
    not_after = tx.now + held.not_after
    names = {"same": pair.names, "of another pair": ANOTHER}.get(held.coverage, ("elsewhere.net", pair.name))
    made = a_certificate(tx, pair, ca, names=names, not_before=not_after - held.life, not_after=not_after)
    give_role(tx, pair, made)
    if held.coverage == "remembered":
        values = {"certificate_id": made.id, "names_digest": pair.names_digest}
        tx.execute(tables.coverage.insert().values(**values))
    if held.revoked:
        revocations.revoked(tx, made.id, "superseded", "a test")
    if held.revocation_wanted:
        revocations.want(tx, made.id, pair.id, Reason.SUPERSEDED, tx.now, unverified=False)
    if held.blocked:
        certificates.block_key(tx, made.spki, "a test")
    for closed in {"by an open incident": [False], "by a closed one": [True], "by both": [True, False]}.get(
        held.named, []
    ):
        number = incidents.create(
            tx, title="a test", cause="a test", selector="", ca=None, deadline=tx.now + timedelta(days=1)
        )
        assert incident_members.add_certificates(tx, number, [made.id]) == 1
        assert not closed or incidents.close(tx, number)
    if held.distrust != "none":
        after = {"of what begins later": made.not_before, "of it": made.not_before - MOMENT}.get(
            held.distrust
        )
        standings.distrust(tx, ca, after)
    of_its_key = tables.wrapped_key.c.spki == made.spki
    tx.execute(update(tables.wrapped_key).where(of_its_key).values(proved_at=micros(tx.now + held.proved)))
    if not held.key_kept:
        tx.execute(delete(tables.wrapped_key).where(of_its_key))
    return made


def facts(tx: Transaction, pair: Pair, ok_until: datetime | None) -> StandbyFacts | None:
    """As the lifecycle gathers them."""
    standing = certificates.standing(tx, pairs.state(tx, pair.id).standby)
    if standing is None:
        return None
    standby = standing.certificate
    covers = certificates.covers(tx, standby, pair.names_digest)
    wanted = revocations.is_wanted(tx, standby.id)
    serving = certificates.standing(tx, pairs.state(tx, pair.id).serving)
    return StandbyFacts(
        standing.revoked,
        standing.blocked,
        standby.not_after,
        covers,
        ok_until,
        wanted,
        incidents.naming(tx, standby.id) is not None,
        serving is None or serving.bad(tx.now) is not None,
        not standings.counts(standings.get(tx, standby.ca), standby.not_before),
    )


def expected_trust(tx: Transaction, serving: Certificate | None, held: Held | None) -> datetime | None:
    if serving is None or held is None or not held.key_kept:
        return None
    if (
        held.revoked
        or held.revocation_wanted
        or held.blocked
        or "open" in held.named
        or held.named == "by both"
    ):
        return None
    return usable_until(serving.not_before, serving.not_after, tx.now + held.proved)


def looked_at(situations: int) -> settings:
    """A situation says enough as it is: making it smaller takes minutes."""
    return settings(
        max_examples=situations,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )


opened_or_not = pytest.mark.parametrize(
    "opened", [False, True], ids=["as proved once", "key opened just now"]
)


@opened_or_not
@looked_at(120)
@example(situation=Situation(FIT, FIT, MOMENT))
@example(situation=Situation(FIT, FIT, timedelta(0)))
@example(situation=Situation(FIT, FIT, None))
@example(situation=Situation(replace(FIT, not_after=MOMENT), FIT, MOMENT))
@example(situation=Situation(replace(FIT, not_after=timedelta(0)), FIT, MOMENT))
@example(situation=Situation(replace(FIT, coverage="of another pair"), FIT, MOMENT))
@example(situation=Situation(FIT, replace(FIT, revoked=True), MOMENT))
@example(situation=Situation(replace(FIT, revocation_wanted=True), FIT, MOMENT))
@example(situation=Situation(FIT, replace(FIT, blocked=True), MOMENT))
@example(situation=Situation(replace(FIT, distrust="of it"), FIT, MOMENT))
@example(situation=Situation(replace(FIT, distrust="of what begins later"), FIT, MOMENT))
@example(situation=Situation(FIT, replace(FIT, distrust="of all"), MOMENT))
@given(situation=situations)
def test_sql_promotes_exactly_where_the_policy_has_no_objection(
    store: Store, opened: bool, situation: Situation
) -> None:
    sql_and_policy_agree(store, opened, situation)


@pytest.mark.long
@opened_or_not
@looked_at(1000)
@given(situation=situations)
def test_whatever_the_situation(store: Store, opened: bool, situation: Situation) -> None:
    sql_and_policy_agree(store, opened, situation)


def sql_and_policy_agree(store: Store, opened: bool, situation: Situation) -> None:
    with undone(store) as tx:
        pair, serving, standby = build(tx, situation)
        before = pairs.state(tx, pair.id)
        ok_until = standby.not_after if opened and standby is not None else before.backup_ok_until
        may_serve = not objections(facts(tx, pair, ok_until), tx.now)
        if not opened:
            assert promotion.usable(tx, [pair.id]) == ({pair.id} if may_serve else set())
        assert promotion.swap(tx, before, opened=opened) is may_serve
        after = pairs.state(tx, pair.id)
        if not may_serve:
            assert after == before
            return
        assert after == replace(
            before,
            epoch=before.epoch + 1,
            serving=before.standby,
            standby=before.serving,
            primary_lineage=before.backup_lineage,
            backup_lineage=before.primary_lineage,
            backup_ok_until=expected_trust(tx, serving, situation.serving),
        )


def test_a_life_that_no_ten_divides_leaves_a_whole_number_in_the_row(store: Store, database: Path) -> None:
    held = replace(FIT, life=timedelta(days=3, microseconds=7), not_after=timedelta(days=2))
    with store.write() as tx:
        pair, serving, _ = build(tx, Situation(held, held, timedelta(days=1)))
        assert serving is not None
        assert promotion.swap(tx, pairs.state(tx, pair.id))
        kept = tx.execute(select(func.typeof(tables.pair_state.c.backup_ok_until))).all()
        assert {row[0] for row in kept} == {"integer", "null"}
        until = usable_until(serving.not_before, serving.not_after, tx.now)
        assert pairs.state(tx, pair.id).backup_ok_until == until


def test_usable_answers_for_many_pairs_at_once(store: Store) -> None:
    with store.write() as tx:
        good, bad, empty = (a_full_pair(tx)[0] for _ in range(2)), a_full_pair(tx), a_pair(tx)
        usable = [pair.id for pair in good]
        revocations.revoked(tx, bad[2].id, "superseded", "a test")
        assert promotion.usable(tx, [*usable, bad[0].id, empty.id, 999]) == set(usable)
        assert promotion.usable(tx, []) == set()


def test_a_promotion_does_not_touch_the_renewal_clock(store: Store, clock: FakeClock) -> None:
    at = clock.now() + timedelta(days=60)
    with store.write() as tx:
        pair, _, _ = a_full_pair(tx)
        pairs.set_next_action(tx, pair.id, at)
        assert promotion.swap(tx, pairs.state(tx, pair.id))
        assert pairs.state(tx, pair.id).next_action_at == at


def test_the_statement_of_a_promotion_does_not_name_the_renewal_clock(store: Store) -> None:
    with store.write() as tx:
        pair, _, _ = a_full_pair(tx)
        state = pairs.state(tx, pair.id)
        with overheard(tx) as said:
            promotion.swap(tx, state)
    [statement] = said
    assert "next_action_at" not in statement


@pytest.mark.parametrize("stale", [{"epoch": 1}, {"serving": None}, {"serving": 999}, {"standby": 999}])
@pytest.mark.parametrize("opened", [False, True])
def test_a_promotion_that_saw_another_state_changes_nothing(
    store: Store, stale: dict[str, int | None], opened: bool
) -> None:
    with store.write() as tx:
        pair, _, _ = a_full_pair(tx)
        before = pairs.state(tx, pair.id)
        assert not promotion.swap(tx, replace(before, **stale), opened=opened)  # type: ignore[arg-type]
        assert pairs.state(tx, pair.id) == before


def test_of_two_that_saw_the_same_state_one_promotes(store: Store) -> None:
    with store.write() as tx:
        pair, _, _ = a_full_pair(tx)
        seen = pairs.state(tx, pair.id)
        assert promotion.swap(tx, seen)
        assert not promotion.swap(tx, seen)
        assert pairs.state(tx, pair.id).epoch == 1


def test_there_and_back_again(store: Store) -> None:
    with store.write() as tx:
        pair, _serving, standby = a_full_pair(tx)
        before = pairs.state(tx, pair.id)
        assert promotion.swap(tx, before)
        assert promotion.swap(tx, pairs.state(tx, pair.id))
        after = pairs.state(tx, pair.id)
        expected = usable_until(standby.not_before, standby.not_after, tx.now)
        assert after == replace(before, epoch=2, backup_ok_until=expected)


def test_what_arrives_after_a_promotion_is_stored_into_its_lineage_in_the_role_that_it_has_now(
    store: Store,
) -> None:
    with store.write() as tx:
        pair, _serving, standby = a_full_pair(tx)
        assert promotion.swap(tx, pairs.state(tx, pair.id))
        newer = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
        state = pairs.state(tx, pair.id)
        assert (state.serving, state.standby) == (standby.id, newer.id)
        assert state.primary_lineage == lineage_of(tx, pair, BACKUP).id
