from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from dualcert.clock import to_microseconds
from dualcert.model.signal import Reason, RevocationRequest
from dualcert.store import Store, revocations, tables
from dualcert.testing.clock import FakeClock


def test_a_wanted_revocation_says_who_when_and_why(store: Store, clock: FakeClock) -> None:
    by = clock.now() + timedelta(hours=24)
    with store.write() as tx:
        revocations.want(tx, 10, 1, Reason.KEY_COMPROMISE, by, unverified=False)
    with store.read() as tx:
        assert revocations.wanted(tx, 1) == [
            RevocationRequest(10, 1, Reason.KEY_COMPROMISE, clock.now(), by, unverified=False, actor="tester")
        ]
        assert revocations.wanted(tx, 2) == []
        assert not revocations.is_revoked(tx, 10)


def test_asked_again_the_later_words_count(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        revocations.want(tx, 10, 1, Reason.SUPERSEDED, tx.now + timedelta(hours=24), unverified=False)
    clock.advance(60)
    with store.write() as tx:
        revocations.want(tx, 10, 1, Reason.KEY_COMPROMISE, tx.now + timedelta(hours=1), unverified=True)
        [found] = revocations.wanted(tx, 1)
    assert (found.reason, found.unverified, found.requested_at) == (
        Reason.KEY_COMPROMISE,
        True,
        clock.now(),
    )
    assert found.revoke_by == clock.now() + timedelta(hours=1)


def test_a_settled_request_is_gone_and_others_stay(store: Store) -> None:
    with store.write() as tx:
        for certificate in (10, 11):
            revocations.want(tx, certificate, 1, Reason.SUPERSEDED, tx.now, unverified=False)
        revocations.settle(tx, 10)
        assert [one.certificate_id for one in revocations.wanted(tx, 1)] == [11]


def test_the_first_that_is_known_of_a_revocation_stays_and_a_second_is_no_error(
    store: Store, clock: FakeClock
) -> None:
    first = clock.now()
    with store.write() as tx:
        assert revocations.revoked(tx, 10, "superseded", "accepted by the CA")
    clock.advance(60)
    with store.write() as tx:
        assert not revocations.revoked(tx, 10, "keyCompromise", "the CA's list")
        assert revocations.is_revoked(tx, 10)
        assert not revocations.is_revoked(tx, 11)
        row = tx.execute(select(tables.revocation)).one()
    assert (row.reason, row.source, row.at) == ("superseded", "accepted by the CA", to_microseconds(first))


def test_reasons_have_the_codes_of_the_crl() -> None:
    assert {one.value: one.code for one in Reason} == {
        "unspecified": 0,
        "keyCompromise": 1,
        "affiliationChanged": 3,
        "superseded": 4,
        "cessationOfOperation": 5,
    }
