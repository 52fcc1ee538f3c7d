"""From refusals to errors, and what they say."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from dualcert.acmeclient.problems import (
    Failure,
    Subject,
    is_json,
    plain,
    problem_text,
    retry_after,
    to_error,
)
from dualcert.errors import (
    AccountProblem,
    AlreadyRevoked,
    CaBusy,
    CaError,
    CaRejected,
    CaServerError,
    CaUnreachable,
    ResourceGone,
)

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))


def failed(
    status: int,
    kind: str | None = None,
    *,
    subject: Subject = Subject.OTHER,
    wait: timedelta | None = None,
    **members: Any,
) -> CaError:
    document: dict[str, Any] = {"type": f"urn:ietf:params:acme:error:{kind}", **members} if kind else members
    body = json.dumps(document).encode() if document else b""
    content_type = "application/problem+json" if document else ""
    return to_error(Failure("alpha", status, content_type, body, wait, subject))


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("0", timedelta(0)),
        ("120", timedelta(seconds=120)),
        (" 120 ", timedelta(seconds=120)),
        ("86401", timedelta(days=1)),
        ("9" * 5000, timedelta(days=1)),
        ("٣", None),
        ("Sun, 22 Nov 2026 12:02:00 GMT", timedelta(minutes=2)),
        ("Sunday, 22-Nov-26 12:02:00 GMT", timedelta(minutes=2)),
        ("Sun Nov 22 12:02:00 2026", timedelta(minutes=2)),
        ("Sun, 22 Nov 2026 17:32:00 +0530", timedelta(minutes=2)),
        ("Sun, 22 Nov 2026 12:02:00 -0000", timedelta(minutes=2)),
        ("Sun, 22 Nov 2026 11:00:00 GMT", timedelta(0)),
        ("Sun, 22 Nov 2126 12:00:00 GMT", timedelta(days=1)),
        ("Sun, 99 Nov 2026 12:00:00 GMT", None),
        ("22 Nov 99999999999999999999 12:00:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, wait: timedelta | None) -> None:
    assert retry_after(header, NOW) == wait


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/Los_Angeles"])
def test_a_date_without_a_zone_is_never_local(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after("Sun Nov 22 12:02:00 2026", NOW) == timedelta(minutes=2)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retry_after_counts_from_an_instant_in_any_zone() -> None:
    header = format_datetime(NOW + timedelta(seconds=90), usegmt=True)
    assert retry_after(header, NOW.astimezone(INDIA)) == timedelta(seconds=90)


@pytest.mark.parametrize(
    ("status", "kind", "subject", "error"),
    [
        (429, "rateLimited", Subject.OTHER, CaBusy),
        (403, "rateLimited", Subject.OTHER, CaBusy),
        (429, None, Subject.OTHER, CaBusy),
        (503, None, Subject.OTHER, CaBusy),
        (503, "serverInternal", Subject.OTHER, CaBusy),
        (500, "serverInternal", Subject.OTHER, CaServerError),
        (400, "serverInternal", Subject.OTHER, CaServerError),
        (504, None, Subject.OTHER, CaServerError),
        (500, "malformed", Subject.RESOURCE, CaServerError),
        (400, "accountDoesNotExist", Subject.OTHER, AccountProblem),
        (403, "externalAccountRequired", Subject.ACCOUNT, AccountProblem),
        (403, "userActionRequired", Subject.RESOURCE, AccountProblem),
        (401, "unauthorized", Subject.ACCOUNT, AccountProblem),
        (401, "unauthorized", Subject.RESOURCE, CaRejected),
        (400, "invalidContact", Subject.ACCOUNT, AccountProblem),
        (404, "malformed", Subject.RESOURCE, ResourceGone),
        (404, None, Subject.RESOURCE, ResourceGone),
        (404, "malformed", Subject.OTHER, CaRejected),
        (400, "alreadyRevoked", Subject.OTHER, AlreadyRevoked),
        (403, "unauthorized", Subject.REVOCATION, CaRejected),
        (404, "malformed", Subject.REVOCATION, CaRejected),
        (403, "rejectedIdentifier", Subject.OTHER, CaRejected),
        (409, "alreadyReplaced", Subject.OTHER, CaRejected),
        (400, None, Subject.OTHER, CaUnreachable),
    ],
)
def test_each_refusal_has_its_error(
    status: int, kind: str | None, subject: Subject, error: type[CaError]
) -> None:
    made = failed(status, kind, subject=subject, wait=timedelta(seconds=7))
    assert type(made) is error
    assert made.ca == "alpha"
    assert made.retry_after == timedelta(seconds=7)
    if kind and isinstance(made, CaRejected):
        assert made.problem == kind


def test_terms_that_have_changed_lead_to_their_page() -> None:
    made = failed(403, "userActionRequired", detail="new terms", instance="https://ca.example.test/terms")
    assert "https://ca.example.test/terms" in str(made)


def test_terms_that_have_changed_may_be_linked_to_instead() -> None:
    body = json.dumps(
        {"type": "urn:ietf:params:acme:error:userActionRequired", "detail": "new terms"}
    ).encode()
    link = '<https://ca.example.test/dir>;rel="index", <https://ca.example.test/tos>;rel="terms-of-service"'
    made = to_error(Failure("alpha", 403, "application/problem+json", body, None, link=link))
    assert "visit https://ca.example.test/tos, " in str(made)
    assert "account update alpha" in str(made)


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        (
            "rateLimited",
            "Your account is temporarily prevented from requesting certificates for a.test. Visit: URL",
        ),
        ("rateLimited", "This account is paused (URL)."),
        ("unauthorized", "Account paused, see <URL>"),
    ],
)
def test_a_pause_is_no_limit_that_time_ends(kind: str, detail: str) -> None:
    url = "https://portal.example.test/unpause?jwt=" + "x" * 1500
    made = failed(429, kind, subject=Subject.ACCOUNT, detail=detail.replace("URL", url), wait=timedelta(1))
    assert type(made) is CaRejected
    assert made.problem == "paused"
    assert f"visit {url};" in (made.remedy or "")
    assert made.retry_after is None


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("rateLimited", "too many orders"),
        ("unauthorized", "no such right"),
        ("dns", "paused"),
        ("rateLimited", 'too many certificates (5) for "paused-shop.example.com" in the last 168h'),
        (
            "rateLimited",
            "too many certificates for www.paused.example and unpause.example.com, see https://a.test/limits",
        ),
    ],
)
def test_what_is_no_pause_is_none(kind: str, detail: str) -> None:
    made = failed(403, kind, detail=detail)
    assert getattr(made, "problem", "") != "paused"


def test_an_address_that_is_no_end_of_words_is_not_shown() -> None:
    made = failed(429, "rateLimited", detail="paused: https://a.test/" + "x" * 5000)
    assert "x" * 600 not in str(made)
    assert "follow what the CA says" in str(made)


def test_the_names_that_are_refused_are_told_from_the_others() -> None:
    subproblems = [
        {"type": "urn:x", "identifier": {"type": "dns", "value": f"{number}.test"}} for number in range(12)
    ]
    made = failed(403, "rejectedIdentifier", detail="some", subproblems=subproblems)
    assert made.remedy is not None
    assert made.remedy.startswith("The CA refuses 0.test, 1.test, ")
    assert "9.test and 2 more, and says nothing against the other names" in made.remedy
    alone = failed(403, "rejectedIdentifier", detail="no")
    assert "The CA refuses a name of this order" in (alone.remedy or "")
    other = failed(400, "malformed", subproblems=subproblems[:1])
    assert other.remedy == "The CA complains of 0.test, and of no other name."


def test_an_account_without_the_right_to_revoke_leads_to_the_certificates_key() -> None:
    made = failed(403, "unauthorized", subject=Subject.REVOCATION, detail="not yours")
    assert "--reason keyCompromise" in (made.remedy or "")


def test_a_binding_that_is_missing_leads_to_the_configuration() -> None:
    assert "[ca.alpha]" in str(failed(403, "externalAccountRequired"))
    assert "eab = {" in str(failed(403, "externalAccountRequired"))


def test_a_type_of_another_registry_is_kept_whole() -> None:
    made = failed(400, type="https://ca.example.test/problems/odd", detail="odd")
    assert isinstance(made, CaRejected)
    assert made.problem == "https://ca.example.test/problems/odd"


def test_subproblems_come_with_their_names_also_of_unknown_kinds() -> None:
    subproblems = [
        {
            "type": "urn:ietf:params:acme:error:caa",
            "detail": "no",
            "identifier": {"type": "dns", "value": "a.test"},
        },
        {"type": "urn:x:odd", "identifier": {"type": "permanent-identifier", "value": "serial 7"}},
        {"detail": "without a name"},
        "not even an object",
    ]
    made = failed(403, "compound", detail="two names", subproblems=subproblems)
    assert made.reason.endswith(
        "two names (compound); a.test: no (caa); serial 7: urn:x:odd; without a name (about:blank)"
    )


@pytest.mark.parametrize(
    "members",
    [
        {"detail": 7},
        {"detail": None, "title": ["x"]},
        {"subproblems": {"a": 1}},
        {"subproblems": [{"identifier": "a", "type": 3, "detail": []}]},
        {"instance": {"a": 1}},
        {"type": 7, "detail": "only a detail"},
    ],
)
def test_a_strange_document_still_makes_an_error(members: dict[str, Any]) -> None:
    assert isinstance(failed(400, "malformed", **members), CaRejected)


def test_reasons_are_short_and_plain() -> None:
    long = failed(400, "malformed", detail="x" * 100_000)
    assert len(long.reason) < 550
    assert long.reason.endswith("...")
    evil = failed(400, "malformed", detail="a\x1b[31mb\r\nc\u202ed\u200be\x00f")
    assert evil.reason.endswith("a [31mb c d e f (malformed)")


@pytest.mark.parametrize("body", [b"<html>secret page</html>", b"{", b"[" * 100_000, b"\xff", b"null", b"7"])
def test_rubbish_is_never_quoted(body: bytes) -> None:
    for content_type in ("text/html", "application/problem+json", "x" * 1000, ""):
        made = to_error(Failure("alpha", 400, content_type, body, None))
        assert isinstance(made, CaUnreachable)
        assert "secret" not in str(made)
        assert "status 400" in made.reason
        assert len(made.reason) < 200


@pytest.mark.parametrize(
    ("content_type", "json_it_is"),
    [
        ("application/json", True),
        ("application/problem+json; charset=utf-8", True),
        ("Application/JSON", True),
        ("text/html", False),
        ("", False),
    ],
)
def test_is_json(content_type: str, json_it_is: bool) -> None:
    assert is_json(content_type) is json_it_is


def test_problem_text() -> None:
    assert problem_text(None) is None
    assert problem_text("odd") == "an error without words"
    assert problem_text({"type": "urn:ietf:params:acme:error:dns", "detail": "no TXT"}) == "no TXT (dns)"


def test_plain_cuts_at_its_limit() -> None:
    assert plain("a" * 10, 10) == "a" * 10
    assert plain("a" * 11, 10) == "a" * 7 + "..."
    assert plain("  a\t\n b  ") == "a b"
