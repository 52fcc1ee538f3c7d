"""Statements whose texts were written ahead, and what is laid over a connection when others come."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from dualcert.errors import Refused
from dualcert.model.events import EventKind
from dualcert.store import Store, events, overview, pairs
from dualcert.store.address import BACKENDS
from dualcert.store.statements import texts, texts_of, written
from dualcert.store.writing import content, statements
from tests.store.building import a_pair


@pytest.mark.parametrize("dialect", BACKENDS)
def test_what_was_written_ahead_is_what_sqlalchemy_writes(dialect: str) -> None:
    assert texts_of(dialect).read_text() == content(dialect), "make texts"


@pytest.mark.parametrize("dialect", BACKENDS)
def test_every_statement_is_found_by_its_title(dialect: str) -> None:
    titles = [title for title, _ in statements()]
    assert [*texts(dialect)] == titles
    assert "page(expiring, of_ca)" in titles


def test_a_list_has_as_many_places_as_values(store: Store) -> None:
    with store.write() as tx:
        made = [a_pair(tx, f"{name}.example.test").id for name in ("a", "b", "c")]
    with store.read() as tx:
        for ids in (made, made[:1], made[1:], made):
            assert [line.id for line in overview.of_pairs(tx, ids)] == ids
        assert overview.of_pairs(tx, []) == []
        assert tx.execute(written("names"), {"ids": []}).all() == []


# --- a connection of the driver's, and SQLAlchemy's over it -------------------------------------------------


def mixed(store: Store, *, then: Exception | None) -> None:
    """A unit of work that goes to the driver first, and comes to SQLAlchemy half way."""
    with store.write() as tx:
        a_pair(tx, "one.example.test")
        tx.connection.execute(text("UPDATE pair SET dns = 'changed'"))
        events.record(tx, EventKind.CREATED, "a test")
        if then is not None:
            raise then


def test_a_unit_that_comes_to_sqlalchemy_half_way_leaves_nothing_when_it_fails(store: Store) -> None:
    with pytest.raises(Refused):
        mixed(store, then=Refused("half way"))
    with store.read() as tx:
        assert pairs.page(tx) == []
        assert events.last(tx) == 0


def test_it_is_still_whole_when_it_ends_well(store: Store) -> None:
    mixed(store, then=None)
    with store.read() as tx:
        [pair] = pairs.page(tx)
        assert (pair.name, pair.dns) == ("one.example.test", "changed")
        assert events.last(tx) == 1


def test_a_look_that_comes_to_sqlalchemy_half_way_is_one_look(store: Store) -> None:
    with store.read() as looking:
        assert overview.page(looking, "", 10) == []
        with store.write() as tx:
            a_pair(tx, "one.example.test")
        assert looking.connection.execute(text("SELECT count(*) FROM pair")).scalar() == 0
        assert overview.page(looking, "", 10) == []
