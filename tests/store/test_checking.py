"""Looks that hang, and looks that break: ``check`` comes to its end, and hides neither."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from dualcert.errors import CaUnreachable
from dualcert.lifecycle import checking
from dualcert.lifecycle.findings import CaExpected, Finding, Scene
from dualcert.ports.ca import CertificateAuthority
from dualcert.store import Store, work
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY
from tests.store.worlds import Setting, a_world

EXPECTED = {name: CaExpected(None, None, None) for name in (PRIMARY, BACKUP)}


def scene(store: Store, clock: FakeClock, setting: Setting) -> Scene:
    return Scene(a_world(store, clock, setting), None, EXPECTED)


@pytest.fixture(autouse=True)
def ended(store: Store) -> Iterator[None]:
    """The looks that nobody waited for end before the database is closed."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("check-"):
            thread.join(timeout=10)


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Whoever waits for it waits until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_what_does_not_answer_in_time_is_a_problem_and_the_others_are_told(
    store: Store, clock: FakeClock, hanging: threading.Event
) -> None:
    def meet(ca: str) -> CertificateAuthority:
        if ca == PRIMARY:
            hanging.wait()
        raise CaUnreachable("nobody there", ca=ca)

    found = list(checking.run(scene(store, clock, Setting(meet=meet)), timedelta(seconds=1)))

    late = {one.subject for one in found if one.problem is not None and "within 1 s" in one.problem}
    assert late == {f"ca.{PRIMARY}", f"clock of ca.{PRIMARY}", "independence"}
    answered = {one.subject: one.problem for one in found}
    assert answered[f"ca.{BACKUP}"] == "nobody there"
    assert answered["database"] is None


def test_a_fault_of_our_own_ends_it_and_is_not_told_as_a_finding(store: Store, clock: FakeClock) -> None:
    def meet(ca: str) -> CertificateAuthority:
        raise ZeroDivisionError(ca)

    with pytest.raises(ZeroDivisionError):
        list(checking.run(scene(store, clock, Setting(meet=meet))))


def test_looking_at_a_database_leaves_nothing_in_it(store: Store, clock: FakeClock) -> None:
    def meet(ca: str) -> CertificateAuthority:
        raise CaUnreachable("nobody there", ca=ca)

    found = list(checking.run(scene(store, clock, Setting(meet=meet))))

    assert Finding("database", detail=next(one.detail for one in found if one.subject == "database")) in found
    assert next(one for one in found if one.subject == "work").ok
    with store.read() as tx:
        assert work.unfinished(tx, 10) == []
