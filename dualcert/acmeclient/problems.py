"""From a CA's refusal to the error of ours that says what to do (RFC 7807, RFC 8555 section 6.7)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from http import HTTPStatus
from re import compile as pattern
from typing import Any

from dualcert.acmeclient import remedies
from dualcert.acmeclient.links import linked
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

_PREFIX = "urn:ietf:params:acme:error:"
_REASON_LIMIT = 500
_URL_LIMIT = 2000
_DAY = timedelta(days=1)

_ACCOUNT_PROBLEMS = frozenset({"accountDoesNotExist", "externalAccountRequired", "userActionRequired"})
# What these complain of is the account only where the request was about the account.
_ACCOUNT_PROBLEMS_OF_ACCOUNT_CALLS = frozenset({"unauthorized", "invalidContact", "unsupportedContact"})

# Let's Encrypt stops those who order in vain for months: https://letsencrypt.org/docs/rate-limits/, "Pausing". It
# says so as a rate limit, which no waiting ends.
_PAUSED = pattern(r"(?i)\bpaused\b|\bunpause\b|temporarily prevented from requesting certificates")
_NAMES = pattern(r'"[^"]*"|(?:[\w-]+\.)+[\w-]+')  # of hosts, in which any word may stand
_URL = pattern(r"https://[!#-;=?-~]+")


@dataclass(frozen=True)
class Problem:
    """A problem document, cleaned. ``name``: the last part of an ACME URN, else the whole type.

    ``refused`` are the identifiers that subproblems complain of, ``url`` the first one that the detail names.
    """

    name: str
    text: str
    instance: str | None = None
    refused: tuple[str, ...] = ()
    url: str | None = None

    @property
    def paused(self) -> bool:
        """Whether the CA has stopped the account until a person has visited a page of its."""
        return self.name in {"rateLimited", "unauthorized"} and bool(
            _PAUSED.search(_NAMES.sub("", self.text))
        )


class Subject(Enum):
    """What a request is about; it decides what a refusal means."""

    ACCOUNT = "the account, whose right alone it hangs on"
    RESOURCE = "an order, authorization, challenge or certificate that may be gone"
    REVOCATION = "a revocation, to which its account may have no right"
    OTHER = "anything else"


@dataclass(frozen=True)
class Failure:
    """An answer that is no success, to a request about ``subject``. ``link``: its Link header."""

    ca: str
    status: int
    content_type: str
    body: bytes
    retry_after: timedelta | None
    subject: Subject = Subject.OTHER
    link: str | None = None


def plain(text: str, limit: int = _REASON_LIMIT) -> str:
    """``text`` on one line, without control and format characters, at most ``limit`` characters."""
    visible = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text[: 4 * limit])
    line = " ".join(visible.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def read_problem(document: object) -> Problem | None:
    """The problem in a decoded JSON value; None where it is no problem document.

    Read by hand, because acme's ``Error`` refuses a whole document for one identifier of an unknown type.
    """
    if not isinstance(document, Mapping):
        return None
    kind, detail, instance = document.get("type"), document.get("detail"), document.get("instance")
    if not isinstance(kind, str) and not isinstance(detail, str):
        return None
    kind = kind if isinstance(kind, str) and kind else "about:blank"
    name = plain(kind.removeprefix(_PREFIX), 100)
    return Problem(
        name,
        plain(_sentence(name, document)),
        plain(instance, _URL_LIMIT) if isinstance(instance, str) else None,
        tuple(dict.fromkeys(filter(None, map(_identifier, _subproblems(document))))),
        _first_url(detail) if isinstance(detail, str) else None,
    )


def _first_url(detail: str) -> str | None:
    """The first https URL in a text, whole: a reason is cut, and half an address leads nowhere."""
    found = _URL.search(detail[: 2 * _URL_LIMIT])
    return found[0].rstrip(".,;:!?)'") if found and len(found[0]) <= _URL_LIMIT else None


def problem_text(document: object) -> str | None:
    """What a problem document inside an order or a challenge says; None where there is none."""
    if document is None:
        return None
    problem = read_problem(document)
    return problem.text if problem else "an error without words"


def _sentence(name: str, document: Mapping[str, Any]) -> str:
    said = document.get("detail") or document.get("title")
    text = f"{said} ({name})" if isinstance(said, str) else name
    # The detail of the whole comes first; a hundred subproblems are cut off by the limit on the reason.
    return "; ".join([text, *map(_subproblem, _subproblems(document))])


def _subproblems(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = document.get("subproblems")
    return [each for each in found[:100] if isinstance(each, Mapping)] if isinstance(found, list) else []


def _identifier(document: Mapping[str, Any]) -> str | None:
    identifier = document.get("identifier")
    value = identifier.get("value") if isinstance(identifier, Mapping) else None
    return plain(value, 253) if isinstance(value, str) else None


def _subproblem(document: Mapping[str, Any]) -> str:
    who = _identifier(document)
    kind = str(document.get("type") or "about:blank").removeprefix(_PREFIX)
    said = document.get("detail")
    text = f"{said} ({kind})" if isinstance(said, str) else kind
    return f"{who}: {text}" if who else text


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """A Retry-After header (RFC 9110 section 10.2.3), seconds or an HTTP date, between zero and a day.

    None where it is missing or makes no sense.
    """
    if header is None:
        return None
    value = header.strip()
    if value.isascii() and value.isdigit():
        # Ten digits are three centuries; more of them are not worth a big number.
        return min(timedelta(seconds=int(value[:10])), _DAY)
    from email.utils import parsedate_to_datetime  # not cheap, and rarely needed

    try:
        instant = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # A date without a zone is the obsolete asctime form, which is GMT by definition, never local time.
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return max(timedelta(0), min(aware - now, _DAY))


def is_bad_nonce(status: int, content_type: str, body: bytes) -> bool:
    if status < HTTPStatus.BAD_REQUEST or not is_json(content_type):
        return False
    problem = read_problem(decode(body))
    return problem is not None and problem.name == "badNonce"


def is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def decode(body: bytes) -> object:
    """The JSON value of a body; None where it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def to_error(failure: Failure) -> CaError:
    """The error that an unsuccessful answer means."""
    problem = read_problem(decode(failure.body)) if is_json(failure.content_type) else None
    if problem is not None and problem.paused:
        return _paused(failure, problem)
    if failure.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE} or (
        problem and problem.name == "rateLimited"
    ):
        said = problem.text if problem else f"the CA answered {_bare(failure)}"
        return CaBusy(
            f"the CA asks us to come back later: {said}", ca=failure.ca, retry_after=failure.retry_after
        )
    if failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR or (problem and problem.name == "serverInternal"):
        said = problem.text if problem else _bare(failure)
        return CaServerError(
            f"the CA failed: {said}",
            remedy="The same request may work later; it is tried again.",
            ca=failure.ca,
            retry_after=failure.retry_after,
        )
    if problem is None and failure.status == HTTPStatus.NOT_FOUND and not failure.body.strip():
        # Some say it without words. With words that are no problem document, it was no ACME CA that spoke.
        problem = Problem("about:blank", "it knows no such thing (status 404)")
    if problem is None:
        return CaUnreachable(
            f"what answered is not an ACME CA: {_bare(failure)}",
            remedy=f"Look at `directory` in [ca.{failure.ca}], and at proxies on the way.",
            ca=failure.ca,
            retry_after=failure.retry_after,
        )
    return _rejection(failure, problem)


def _rejection(failure: Failure, problem: Problem) -> CaRejected:
    kind: Callable[..., CaRejected] = CaRejected
    if problem.name == "alreadyRevoked":
        kind = AlreadyRevoked
    elif problem.name in _ACCOUNT_PROBLEMS or (
        failure.subject is Subject.ACCOUNT and problem.name in _ACCOUNT_PROBLEMS_OF_ACCOUNT_CALLS
    ):
        kind = AccountProblem
    elif failure.status == HTTPStatus.NOT_FOUND and failure.subject is Subject.RESOURCE:
        kind = ResourceGone
    return kind(
        f"the CA refused: {problem.text}",
        problem=problem.name,
        remedy=_remedy(failure, problem),
        ca=failure.ca,
        retry_after=failure.retry_after,
    )


def _paused(failure: Failure, problem: Problem) -> CaRejected:
    page = problem.instance or problem.url
    return CaRejected(
        f"the CA has paused this account: {problem.text}",
        problem="paused",
        remedy=remedies.paused(page),
        ca=failure.ca,
    )


def _remedy(failure: Failure, problem: Problem) -> str | None:
    if failure.subject is Subject.REVOCATION and problem.name == "unauthorized":
        return remedies.foreign_certificate()
    if failure.subject is Subject.ACCOUNT and problem.name == "unauthorized":
        return remedies.unwelcome_account(failure.ca)
    terms = linked(failure.link, "", "terms-of-service")
    page = problem.instance or (plain(terms[0], _URL_LIMIT) if terms else None)
    return remedies.of(failure.ca, problem.name, page, problem.refused)


def _bare(failure: Failure) -> str:
    """Status and type of an answer that holds no problem document: its body is never quoted."""
    return f"status {failure.status}, {plain(failure.content_type, 60) or 'no content type'}"
