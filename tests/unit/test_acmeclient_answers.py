"""What is read from a CA's answers, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dualcert.acmeclient.answers import read_account, read_authorization, read_directory, read_order
from dualcert.acmeclient.links import is_https, linked
from dualcert.errors import CaServerError

URL = "https://ca.example.test/1"
ORDER: dict[str, Any] = {
    "status": "pending",
    "identifiers": [{"type": "dns", "value": "a.example.test"}],
    "authorizations": ["https://ca.example.test/a"],
    "finalize": "https://ca.example.test/f",
}
TOKEN = "A" * 22
CHALLENGE: dict[str, Any] = {
    "type": "dns-01",
    "url": "https://ca.example.test/c",
    "token": TOKEN,
    "status": "pending",
}
AUTHORIZATION: dict[str, Any] = {
    "status": "pending",
    "identifier": {"type": "dns", "value": "A.example.test"},
    "challenges": [CHALLENGE],
}
DIRECTORY: dict[str, Any] = {
    "newNonce": "https://ca.example.test/n",
    "newAccount": "https://ca.example.test/acc",
    "newOrder": "https://ca.example.test/o",
    "revokeCert": "https://ca.example.test/r",
}


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-23T04:05:56Z", datetime(2026, 11, 23, 4, 5, 56, tzinfo=UTC)),
        ("2026-11-23T04:05:56.123456789Z", datetime(2026, 11, 23, 4, 5, 56, 123456, tzinfo=UTC)),
        ("2026-11-23T09:35:56+05:30", datetime(2026, 11, 23, 4, 5, 56, tzinfo=UTC)),
    ],
)
def test_expiry_is_read_as_utc(text: str, instant: datetime) -> None:
    order = read_order("alpha", {**ORDER, "expires": text}, URL, None)
    assert order.expires == instant
    assert order.expires.utcoffset() == timedelta(0)


def test_a_status_that_is_new_to_us_is_passed_on() -> None:
    assert read_order("alpha", {**ORDER, "status": "on-hold"}, URL, None).status == "on-hold"
    expired = {**AUTHORIZATION, "status": "expired"}
    assert read_authorization("alpha", expired, URL, None, str.lower).status == "expired"


@pytest.mark.parametrize(
    "change",
    [
        {"status": None},
        {"status": 7},
        {"finalize": None},
        {"finalize": "http://ca.example.test/f"},
        {"finalize": "https://[1]/f"},
        {"expires": "0001-01-01T00:00:00+01:00"},
        {"expires": "9999-12-31T23:59:59-01:00"},
        {"authorizations": "https://ca.example.test/a"},
        {"authorizations": ["ftp://ca.example.test/a"]},
        {"certificate": "http://ca.example.test/c"},
        {"expires": "tomorrow"},
        {"expires": "2026-11-23T04:05:56"},
        {"identifiers": {}},
    ],
)
def test_an_order_that_is_not_one_is_the_fault_of_the_ca(change: dict[str, Any]) -> None:
    with pytest.raises(CaServerError, match="CA's order"):
        read_order("alpha", {**ORDER, **change}, URL, None)


def test_the_error_of_an_order_is_told() -> None:
    error = {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids it"}
    assert read_order("alpha", {**ORDER, "error": error}, URL, None).error == "CAA forbids it (caa)"


def test_an_authorization_offers_its_dns_challenge() -> None:
    others = [{"type": "http-01"}, {"type": "dns-account-01", "token": 7}, "odd"]
    found = read_authorization(
        "alpha", {**AUTHORIZATION, "challenges": [*others, CHALLENGE]}, URL, None, str.lower
    )
    assert (found.challenge, found.value, found.challenge_status) == (
        CHALLENGE["url"],
        TOKEN.lower(),
        "pending",
    )
    assert (found.identifier, found.wildcard) == ("a.example.test", False)


@pytest.mark.parametrize(
    "change", [{"wildcard": True}, {"identifier": {"type": "dns", "value": "*.a.example.test"}}]
)
def test_a_wildcard_is_told_by_its_flag(change: dict[str, Any]) -> None:
    found = read_authorization("alpha", {**AUTHORIZATION, **change}, URL, None, str.lower)
    assert (found.identifier, found.wildcard) == ("a.example.test", True)


def test_without_a_dns_challenge_there_is_nothing_to_answer() -> None:
    found = read_authorization(
        "alpha", {**AUTHORIZATION, "challenges": [{"type": "http-01"}]}, URL, None, str.lower
    )
    assert (found.challenge, found.value, found.challenge_status) == (None, None, None)


def test_the_error_of_a_failed_challenge_is_told_whichever_it_was() -> None:
    error = {"type": "urn:ietf:params:acme:error:dns", "detail": "no such name"}
    challenges = [CHALLENGE, {"type": "http-01", "error": error}]
    found = read_authorization("alpha", {**AUTHORIZATION, "challenges": challenges}, URL, None, str.lower)
    assert found.error == "no such name (dns)"


@pytest.mark.parametrize("token", ["short", "A" * 21 + "/", "A" * 30 + ".x", None])
def test_a_token_with_other_characters_is_refused(token: str | None) -> None:
    wrong = {**AUTHORIZATION, "challenges": [{**CHALLENGE, "token": token}]}
    with pytest.raises(CaServerError, match="token"):
        read_authorization("alpha", wrong, URL, None, str.lower)


def test_a_directory_without_meta_is_one() -> None:
    found = read_directory("alpha", DIRECTORY)
    assert found.facts.caa_identities == ()
    assert found.facts.terms_of_service is None
    assert not found.facts.external_account_required


@pytest.mark.parametrize("member", sorted(DIRECTORY))
def test_a_directory_names_https_only(member: str) -> None:
    with pytest.raises(CaServerError, match=member):
        read_directory("alpha", {**DIRECTORY, member: "http://ca.example.test/"})
    with pytest.raises(CaServerError, match=member):
        read_directory("alpha", {key: value for key, value in DIRECTORY.items() if key != member})


@pytest.mark.parametrize(
    ("url", "https"),
    [
        ("https://ca.example.test/a", True),
        ("https://ca.example.test:14000/a?b", True),
        ("http://ca.example.test/a", False),
        ("https:///a", False),
        ("https://ca.example.test:99999/", False),
        ("https://[::1/", False),
        ("https://ca.example.test/a b", False),
        ("https://ca.example.test/ä", False),
        ("https://ca.example.test/a\r\nX: y", False),
        ("/a", False),
    ],
)
def test_is_https(url: str, https: bool) -> None:
    assert is_https(url) is https


@pytest.mark.parametrize(
    ("link", "urls"),
    [
        (None, []),
        ("", []),
        ('<https://ca.example.test/dir>;rel="index"', []),
        ('<https://ca.example.test/2>; rel="alternate"', ["https://ca.example.test/2"]),
        ("<https://ca.example.test/2>;rel=alternate", ["https://ca.example.test/2"]),
        ('<https://ca.example.test/2>;title="a;b, c"; REL="up alternate"', ["https://ca.example.test/2"]),
        ('</2>;rel="alternate"', ["https://ca.example.test/2"]),
        ('<http://ca.example.test/2>;rel="alternate"', []),
        ('<https://[1]/2>;rel="alternate", <//[2>;rel="alternate"', []),
        ('<https://ca.example.test/2>;rel="alternates"', []),
        (
            '<https://ca.example.test/dir>;rel="index", </2>;rel="alternate",</3>;rel="alternate"',
            ["https://ca.example.test/2", "https://ca.example.test/3"],
        ),
    ],
)
def test_alternates(link: str | None, urls: list[str]) -> None:
    assert linked(link, URL, "alternate") == urls


def test_an_account_without_a_contact_is_one() -> None:
    account = read_account("alpha", {"status": "valid", "contact": None}, URL)
    assert (account.url, account.status, account.contact) == (URL, "valid", ())


@pytest.mark.parametrize("document", [[], {}, {"status": 7}, {"status": "valid", "contact": "mailto:a@b"}])
def test_an_account_that_is_none_is_the_cas_fault(document: object) -> None:
    with pytest.raises(CaServerError, match="account"):
        read_account("alpha", document, URL)
