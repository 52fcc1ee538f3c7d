"""What is PostgreSQL's own: who is let in, what is counted as HOT, what two connections do to each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import null, text, update

from dualcert.errors import ConfigurationError, DualcertError, StoreError, StoreUnavailable
from dualcert.model.events import EventKind
from dualcert.model.work import WorkKind
from dualcert.store import (
    Store,
    Transaction,
    claims,
    events,
    keys,
    migrations,
    pairs,
    promotion,
    tables,
    work,
)
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres, name_in
from tests.program import REPOSITORY
from tests.store.building import PRIMARY, a_full_pair

PASSWORD = "pass/word:of@the?role"


@contextmanager
def opened(url: str) -> Iterator[Store]:
    store = Store(url, FakeClock(), "tester")
    try:
        yield store
    finally:
        store.close()


# --- who is let in ---------------------------------------------------------------------------------------


@pytest.fixture
def role(server: Postgres) -> str:
    """A role that may log in, and nothing else."""
    names = {name for (name,) in server.execute("SELECT rolname FROM pg_roles")}
    if "dualcert" not in names:
        server.execute(f"CREATE ROLE dualcert LOGIN PASSWORD '{PASSWORD}'")
    return "dualcert"


def refusal(url: str) -> DualcertError:
    """What whoever comes to upgrade is told."""
    with pytest.raises((StoreError, ConfigurationError)) as caught, opened(url) as store:
        migrations.upgrade(store)
    assert "word:of" not in str(caught.value)
    assert "word%3Aof" not in str(caught.value)
    return caught.value


def test_a_role_that_owns_its_database_makes_the_tables_over_tcp_with_a_password(
    server: Postgres, role: str, bare_postgres: str
) -> None:
    server.execute(f"ALTER DATABASE {name_in(bare_postgres)} OWNER TO {role}")
    with opened(server.url_of(role, PASSWORD, name_in(bare_postgres))) as store:
        migrations.upgrade(store)
        with store.write() as tx:
            events.record(tx, EventKind.CREATED, "a test")
        with store.read() as tx:
            assert events.last(tx) == 1


def test_a_password_may_come_from_the_environment(
    server: Postgres, role: str, bare_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with opened(server.url_of(role, None, name_in(bare_postgres))) as store:
        assert migrations.current(store) is None


_CUT_OFF = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"


@pytest.mark.parametrize("look", [Store.read, Store.glance, Store.write])
def test_connections_that_have_died_while_they_were_idle_are_no_outage(
    server: Postgres, on_postgres: str, look: Callable[[Store], AbstractContextManager[Transaction]]
) -> None:
    with opened(on_postgres) as store:
        with store.read() as one, store.read() as other:
            assert events.last(one) == events.last(other) == 0
        server.execute(_CUT_OFF.format(name_in(on_postgres)))
        with look(store) as tx:
            assert events.last(tx) == 0


def test_a_glance_at_a_server_that_is_gone_says_so(server: Postgres, on_postgres: str) -> None:
    with opened(on_postgres) as store:
        with store.read() as tx:
            assert events.last(tx) == 0
        server.stop()
        with pytest.raises(StoreUnavailable), store.glance() as tx:
            events.last(tx)
        server.start()
        with store.glance() as tx:
            assert events.last(tx) == 0


def statements_of_the_page() -> list[str]:
    """What docs/postgresql.md tells to type, statement by statement."""
    page = (REPOSITORY / "docs" / "postgresql.md").read_text()
    blocks = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    return [one.strip() for block in blocks for one in block.split(";") if one.strip()]


def test_the_roles_of_the_documentation_can_do_what_they_are_for_and_no_more(server: Postgres) -> None:
    role, database, daily, connect, tables_for, sequences_for = statements_of_the_page()
    server.execute(role.replace(" dualcert ", " owner_of_the_page "))
    server.execute(
        database.replace("DATABASE dualcert OWNER dualcert", "DATABASE page OWNER owner_of_the_page")
    )
    server.execute(daily)
    server.execute(connect.replace("DATABASE dualcert", "DATABASE page"))
    owner = server.url_of("owner_of_the_page", "choose one", "page")
    worker = server.url_of("dualcert_daily", "choose another", "page")
    with psycopg.connect(owner, autocommit=True) as connection:
        for statement in (tables_for, sequences_for):
            connection.execute(statement.encode())
    with opened(owner) as store:
        migrations.upgrade(store)
    with opened(worker) as store:
        migrations.require(store)
        with store.write() as tx:
            pair, _, _ = a_full_pair(tx)
            pairs.lock(tx, [pair.id])
            assert promotion.swap(tx, pairs.state(tx, pair.id))
            work.schedule(tx, WorkKind.REFILL, pair.id, tx.now, ca=PRIMARY)
            [row] = claims.claim(tx, "me", kinds=tuple(WorkKind), limit=1)
            work.finish(tx, row)
            keys.wait_for_writers(tx)
        with pytest.raises(ConfigurationError, match="permission denied|must be owner"), store.write() as tx:
            tx.execute(text("ALTER TABLE pair ADD COLUMN more text"))
    server.drop("page")


def test_a_database_that_does_not_exist_is_not_made_and_the_command_that_makes_it_is_told(
    server: Postgres, role: str
) -> None:
    error = refusal(server.url_of(role, PASSWORD, "nowhere"))
    assert isinstance(error, ConfigurationError)
    assert "does not exist" in error.reason
    assert "CREATE DATABASE nowhere OWNER dualcert;" in str(error.remedy)
    assert server.execute("SELECT 1 FROM pg_database WHERE datname = 'nowhere'") == []


def test_a_role_that_may_not_log_in_is_a_matter_of_configuration(
    server: Postgres, role: str, bare_postgres: str
) -> None:
    server.execute(f"ALTER ROLE {role} NOLOGIN")
    try:
        error = refusal(server.url_of(role, PASSWORD, name_in(bare_postgres)))
    finally:
        server.execute(f"ALTER ROLE {role} LOGIN")
    assert isinstance(error, ConfigurationError), error
    assert "is not permitted to log in" in error.reason


def test_who_is_not_the_owner_is_told_how_to_become_it(
    server: Postgres, role: str, bare_postgres: str
) -> None:
    name = name_in(bare_postgres)
    error = refusal(server.url_of(role, PASSWORD, name))
    assert isinstance(error, ConfigurationError)
    assert "permission denied for schema public" in error.reason
    assert f"ALTER DATABASE {name} OWNER TO dualcert;" in str(error.remedy)


def test_a_wrong_password_or_user_is_a_matter_of_configuration(
    server: Postgres, role: str, bare_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    name = name_in(bare_postgres)
    for url in (
        server.url_of(role, f"not the {PASSWORD}", name),
        server.url_of("a stranger", PASSWORD, name),
        server.url_of(role, None, name),
    ):
        error = refusal(url)
        assert isinstance(error, ConfigurationError), error
        assert "does not let us in" in error.reason
        assert "PGPASSWORD" in str(error.remedy)


def test_a_server_that_is_not_there_is_unavailable(server: Postgres, role: str, bare_postgres: str) -> None:
    name = name_in(bare_postgres)
    unknown = refusal(f"postgresql://dualcert:pass%2Fword%3Aof@nowhere.invalid/{name}")
    server.stop()
    stopped = refusal(server.url_of(role, PASSWORD, name))
    assert isinstance(unknown, StoreUnavailable)
    assert "nowhere.invalid" in unknown.reason
    assert isinstance(stopped, StoreUnavailable)
    assert "Connection refused" in stopped.reason


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("postgresql://dualcert:pass%2Fword%3Aof@127.0.0.1/name?nonsense=1", "nonsense"),
        ("postgresql://dualcert@127.0.0.1:word:of/name", "not a database URL"),
    ],
)
def test_what_stands_in_a_url_and_means_nothing_is_told_without_its_secrets(url: str, word: str) -> None:
    error = refusal(url)
    assert isinstance(error, ConfigurationError)
    assert word in error.reason


def test_an_error_shows_nothing_of_the_row_it_is_about(store: Store, server: Postgres) -> None:
    def spoil(tx: Transaction) -> None:
        a_full_pair(tx)
        tx.execute(update(tables.wrapped_key).values(domain=null()))

    with pytest.raises(StoreError, match="not-null") as caught, store.write() as tx:
        spoil(tx)
    for rest in ("DETAIL", "UPDATE", b"wrapped key".hex()):
        assert rest not in str(caught.value)


# --- what the server counts ------------------------------------------------------------------------------


def test_promotions_are_hot(fresh_postgres: str) -> None:
    """A promotion writes no index: its row stays on its page, which is half empty for that."""
    with opened(fresh_postgres) as store:
        with store.write() as tx:
            made = [a_full_pair(tx)[0] for _ in range(60)]
            for pair in made:
                pairs.set_next_action(tx, pair.id, tx.now + timedelta(days=60))
        before = updates(store)
        for _ in range(3):
            for pair in made:
                with store.write() as tx:
                    pairs.lock(tx, [pair.id])
                    assert promotion.swap(tx, pairs.state(tx, pair.id), opened=True)
        after = updates(store)
    assert (after[0] - before[0], after[1] - before[1]) == (180, 180)


def test_the_renewal_clock_is_what_would_break_it(fresh_postgres: str, clock: FakeClock) -> None:
    with opened(fresh_postgres) as store:
        with store.write() as tx:
            pair, _, _ = a_full_pair(tx)
        before = updates(store)
        with store.write() as tx:
            pairs.set_next_action(tx, pair.id, clock.now() + timedelta(days=7))
        after = updates(store)
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


def updates(store: Store) -> tuple[int, int]:
    """Of rows of `pair_state` that were updated: all, and those that were HOT."""
    with store.write() as tx:
        # This session has done it all, and tells the server what it has done when this unit ends.
        tx.execute(text("SELECT pg_stat_force_next_flush()"))
    query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'pair_state'"
    with store.read() as tx:
        row = tx.execute(text(query)).one()
    return row.n_tup_upd, row.n_tup_hot_upd
