from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dualcert.errors import StoreError
from dualcert.model.pair import KeyType, PairState, Role
from dualcert.store import Store, certificates, pairs, renewals
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_full_pair, a_pair, give_role, lineage_of

# --- making and finding ----------------------------------------------------------------------------------


def test_a_pair_is_found_as_it_was_made(store: Store) -> None:
    with store.write() as tx:
        made = a_pair(tx, "example.com", "*.example.com", "www.example.org", targets=("web", "mail"))
    with store.read() as tx:
        assert pairs.by_id(tx, made.id) == made
        assert pairs.by_name(tx, "example.com") == made
        assert pairs.by_digest(tx, made.names_digest) == made
        assert pairs.by_ids(tx, [made.id]) == [made]
        assert pairs.names_of(tx, [made.id, 999]) == {made.id: "example.com"}
    assert made.names == ("example.com", "*.example.com", "www.example.org")
    assert made.targets == ("mail", "web")
    assert made.key_type is KeyType.EC_P256


def test_a_pair_may_have_no_target(store: Store) -> None:
    with store.write() as tx:
        made = a_pair(tx, targets=())
        assert pairs.by_id(tx, made.id) == made


def test_what_is_not_there_is_none(store: Store) -> None:
    with store.read() as tx:
        assert pairs.by_id(tx, 1) is None
        assert pairs.by_name(tx, "example.com") is None
        assert pairs.by_digest(tx, b"") is None
        assert pairs.by_ids(tx, []) == []
        assert pairs.lineage_at(tx, 1, PRIMARY) is None


def test_however_many_pairs_are_asked_for_by_name(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        assert pairs.names_of(tx, range(150_000)) == {pair.id: pair.name}


def test_a_new_pair_has_two_open_lineages_and_nothing_serves(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        made = a_pair(tx)
        primary, backup = pairs.lineages(tx, [made.id])
        assert pairs.state(tx, made.id) == PairState(
            made.id, 0, None, None, primary.id, backup.id, None, None
        )
    assert (primary.ca, primary.domain, backup.ca, backup.domain) == (PRIMARY, "one", BACKUP, "two")
    assert primary.opened_at == clock.now()
    assert primary.retired_at is None


@pytest.mark.parametrize(
    ("names", "name"), [(("example.org",), "example.com"), (("b.example.com", "a.example.com"), "other")]
)
def test_two_pairs_have_neither_a_name_nor_a_set_of_names_in_common(
    store: Store, names: tuple[str, ...], name: str
) -> None:
    with store.write() as tx:
        a_pair(tx, "example.com")
        a_pair(tx, "a.example.com", "b.example.com")
    with pytest.raises(StoreError, match="(?i)unique"), store.write() as tx:
        a_pair(tx, *names, name=name)
    with store.read() as tx:
        assert len(pairs.page(tx)) == 2


def test_a_name_is_covered_by_itself_and_by_the_wildcard_beside_it(store: Store) -> None:
    with store.write() as tx:
        a_pair(tx, "www.example.com", name="exact")
        a_pair(tx, "*.example.com", name="wild")
        a_pair(tx, "example.com", name="apex")
        a_pair(tx, "a.www.example.com", name="deeper")
        a_pair(tx, "www.example.com.au", name="longer")
    with store.read() as tx:
        found = {
            asked: [one.name for one in pairs.covering(tx, asked)]
            for asked in ("www.example.com", "mail.example.com", "example.com", "*.example.com", "a.b.c")
        }
    assert found == {
        "www.example.com": ["exact", "wild"],
        "mail.example.com": ["wild"],
        "example.com": ["apex"],
        "*.example.com": ["wild"],
        "a.b.c": [],
    }


def test_pages_are_in_the_order_of_names_and_leave_nothing_out(store: Store) -> None:
    expected = [f"{letter}.example.com" for letter in "abcdefg"]
    with store.write() as tx:
        for name in reversed(expected):
            a_pair(tx, name)
    seen: list[str] = []
    with store.read() as tx:
        while page := pairs.page(tx, after=seen[-1] if seen else "", limit=3):
            seen += [one.name for one in page]
    assert seen == expected


# --- other names -----------------------------------------------------------------------------------------


def test_fewer_names_leave_the_certificates_that_cover_them_in_use(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.com", "*.example.com")
        held = a_certificate(tx, pair)
        pairs.replace_names(tx, pair, ["www.example.com", "example.com"])
        now = pairs.by_id(tx, pair.id)
        assert now is not None
        assert now.names == ("www.example.com", "example.com")
        assert now.name == pair.name
        assert certificates.covers(tx, held, now.names_digest)
        assert pairs.covering(tx, "www.example.com") == [now]
        assert pairs.covering(tx, "mail.example.com") == []


def test_more_names_are_not_covered_by_the_certificates_that_are_there(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.com")
        held = a_certificate(tx, pair)
        pairs.replace_names(tx, pair, ["example.com", "www.example.com"])
        now = pairs.by_id(tx, pair.id)
        assert now is not None
        assert not certificates.covers(tx, held, now.names_digest)
        pairs.replace_names(tx, now, ["example.com"])
        assert certificates.covers(tx, held, pair.names_digest)


def test_names_taken_away_one_after_the_other_stay_covered(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "a.example.com", "b.example.com", "c.example.com")
        held = a_certificate(tx, pair)
        for names in (["a.example.com", "b.example.com"], ["a.example.com"]):
            pairs.replace_names(tx, pair, names)
            replaced = pairs.by_id(tx, pair.id)
            assert replaced is not None
            pair = replaced
        assert certificates.covers(tx, held, pair.names_digest)


def test_the_same_change_of_names_may_be_made_again(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.com", "www.example.com")
        a_certificate(tx, pair)
        for _ in range(2):
            pairs.replace_names(tx, pair, ["example.com"])


# --- which certificate holds which role ------------------------------------------------------------------


def test_a_certificate_takes_the_role_that_its_lineage_has(store: Store, clock: FakeClock) -> None:
    until = clock.now() + timedelta(days=20)
    with store.write() as tx:
        pair, serving, standby = a_full_pair(tx)
        state = pairs.state(tx, pair.id)
        assert (state.serving, state.standby, state.epoch) == (serving.id, standby.id, 0)
        assert state.backup_ok_until == until
        assert state.role_of(serving.lineage_id) is Role.PRIMARY
        assert state.role_of(standby.lineage_id) is Role.BACKUP
        assert state.certificate_of(serving.lineage_id) == serving.id
        assert state.certificate_of(standby.lineage_id) == standby.id


def test_a_new_serving_certificate_says_nothing_about_the_standby(store: Store) -> None:
    with store.write() as tx:
        pair, _, _ = a_full_pair(tx)
        before = pairs.state(tx, pair.id)
        newer = give_role(tx, pair, a_certificate(tx, pair), ok_until=tx.now)
        assert pairs.state(tx, pair.id) == replace(before, serving=newer.id)


@pytest.mark.parametrize("stale", [{"epoch": 7}, {"serving": 999}, {"standby": 999}, {"standby": None}])
def test_a_write_that_saw_another_state_changes_nothing(store: Store, stale: dict[str, int | None]) -> None:
    with store.write() as tx:
        pair, serving, _ = a_full_pair(tx)
        before = pairs.state(tx, pair.id)
        seen = replace(before, **stale)  # type: ignore[arg-type]
        assert not pairs.put_certificate(tx, seen, serving.lineage_id, 1000, tx.now)
        assert not pairs.set_backup_ok(tx, seen, None)
        assert pairs.state(tx, pair.id) == before


def test_a_state_that_is_empty_is_compared_as_well(store: Store) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        empty = pairs.state(tx, pair.id)
        give_role(tx, pair, a_certificate(tx, pair, BACKUP))
        assert not pairs.put_certificate(tx, empty, empty.primary_lineage, 1000, tx.now)
        assert not pairs.put_certificate(tx, empty, empty.backup_lineage, 1000, tx.now)


def test_what_another_pair_holds_is_not_touched(store: Store) -> None:
    with store.write() as tx:
        one, _, _ = a_full_pair(tx)
        other, _, _ = a_full_pair(tx)
        before = pairs.state(tx, other.id)
        assert pairs.set_backup_ok(tx, pairs.state(tx, one.id), None)
        assert pairs.state(tx, one.id).backup_ok_until is None
        assert pairs.states(tx, [other.id]) == {other.id: before}


# --- the renewal clock -----------------------------------------------------------------------------------


def test_due_pairs_come_the_longest_overdue_first(store: Store, clock: FakeClock) -> None:
    now = clock.now()
    with store.write() as tx:
        late, later, exact, future, never = (a_pair(tx) for _ in range(5))
        pairs.set_next_action(tx, later.id, now - timedelta(hours=1))
        pairs.set_next_action(tx, late.id, now - timedelta(hours=2))
        pairs.set_next_action(tx, exact.id, now)
        pairs.set_next_action(tx, future.id, now + timedelta(microseconds=1))
        pairs.set_next_action(tx, never.id, None)
        assert renewals.due(tx, 10) == [late.id, later.id, exact.id]
        assert renewals.due(tx, 2) == [late.id, later.id]


def test_a_lineage_keeps_when_it_is_to_be_renewed(store: Store, clock: FakeClock) -> None:
    at = clock.now() + timedelta(days=60, microseconds=1)
    with store.write() as tx:
        pair = a_pair(tx)
        pairs.set_renew_at(tx, lineage_of(tx, pair, BACKUP).id, at)
        assert lineage_of(tx, pair, BACKUP).renew_at == at
        assert lineage_of(tx, pair, PRIMARY).renew_at is None
