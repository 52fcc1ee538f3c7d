"""A database's URL means what it means to SQLAlchemy."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from dualcert.errors import ConfigurationError
from dualcert.store import address

POSTGRESQL = PGDialect_psycopg()  # type: ignore[no-untyped-call]

URLS = [
    "sqlite:///dualcert.db",
    "sqlite:////var/lib/dualcert/dualcert.db",
    "sqlite:////a folder/it's 100%25 @home:1.db",
    "sqlite://",
    "postgresql://host/name",
    "postgresql://user@host/name",
    "postgresql://user@host:5433/name",
    "postgresql://user:@host/name",
    "postgresql://us%40er:pass%2Fword%3Aof%40the%3Frole@host/na%20me",
    "postgresql://user:secret@[::1]:5432/name",
    "postgresql:///name?host=/run/postgresql",
    "postgresql://user@/name?host=/tmp/a%20b&port=5433",
    "postgresql://host/name?sslmode=verify-full&sslrootcert=/etc/ca.pem",
    "postgresql://user:secret@/name?host=one:5432&host=two:5433",
    "postgresql:///name?host=one:5432&host=two",
    "postgresql:///name?host=one:5432",
    "postgresql:///name?host=one,two&port=5432,5433",
    "postgresql:///name?host=one&host=two&port=1&port=2",
    "postgresql:///name?host=one&host=two",
    "postgresql://host",
    "postgresql://",
]


def means_the_same(url: str) -> None:
    ours, theirs = address.parse(url), make_url(url)
    assert str(ours) == str(theirs)
    assert repr(ours) == str(ours)
    assert ours.password == theirs.password
    assert ours.database == theirs.database
    assert str(ours.only("host")) == str(
        theirs.set(query={name: value for name, value in theirs.query.items() if name == "host"})
    )


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_taken_apart_and_shown(url: str) -> None:
    means_the_same(url)


@pytest.mark.parametrize(
    "url", [one for one in URLS if one.startswith("postgresql") and "host=one&host" not in one]
)
def test_the_driver_is_given_the_same(url: str) -> None:
    _, options = POSTGRESQL.create_connect_args(make_url(url))  # type: ignore[no-untyped-call]
    assert address.parse(url).for_libpq() == dict(options)


TEXTS = st.text(min_size=1, max_size=8).map(lambda text: quote(text, safe=""))


@given(user=TEXTS, password=TEXTS, database=TEXTS, value=TEXTS)
def test_whatever_is_said_in_it(user: str, password: str, database: str, value: str) -> None:
    means_the_same(f"postgresql://{user}:{password}@host/{database}?application_name={value}")
    means_the_same(f"sqlite:///{database}/{value}")


def test_it_does_not_show_a_password() -> None:
    shown = str(address.parse("postgresql://user:secret@host/name"))
    assert "secret" not in shown
    assert shown == "postgresql://user:***@host/name"


@pytest.mark.parametrize(
    "url", ["secret", "postgresql//user:secret@host", "postgresql://user@host:secret/name"]
)
def test_what_is_none_is_refused_without_its_words(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        address.parse(url)
    assert "secret" not in str(caught.value)
