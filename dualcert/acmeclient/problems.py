"""From a CA's refusal to the error of ours that says what to do (RFC 7807, RFC 8555 section 6.7)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from http import HTTPStatus
from typing import Any

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
_DAY = timedelta(days=1)

_ACCOUNT_PROBLEMS = frozenset({"accountDoesNotExist", "externalAccountRequired", "userActionRequired"})
# What these complain of is the account only where the request was about the account.
_ACCOUNT_PROBLEMS_OF_ACCOUNT_CALLS = frozenset({"unauthorized", "invalidContact", "unsupportedContact"})


@dataclass(frozen=True)
class Problem:
    """A problem document, cleaned. ``name``: the last part of an ACME URN, else the whole type."""

    name: str
    text: str
    instance: str | None = None


class Subject(Enum):
    """What a request is about; it decides what a refusal means."""

    ACCOUNT = "the account, whose right alone it hangs on"
    RESOURCE = "an order, authorization, challenge or certificate that may be gone"
    OTHER = "anything else"


@dataclass(frozen=True)
class Failure:
    """An answer that is no success, to a request about ``subject``."""

    ca: str
    status: int
    content_type: str
    body: bytes
    retry_after: timedelta | None
    subject: Subject = Subject.OTHER


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
    where = plain(instance) if isinstance(instance, str) else None
    return Problem(name, plain(_sentence(name, document)), where)


def problem_text(document: object) -> str | None:
    """What a problem document inside an order or a challenge says; None where there is none."""
    if document is None:
        return None
    problem = read_problem(document)
    return problem.text if problem else "an error without words"


def _sentence(name: str, document: Mapping[str, Any]) -> str:
    said = document.get("detail") or document.get("title")
    text = f"{said} ({name})" if isinstance(said, str) else name
    subproblems = document.get("subproblems")
    if not isinstance(subproblems, list):
        return text
    # The detail of the whole comes first; a hundred subproblems are cut off by the limit on the reason.
    return "; ".join([text, *(_subproblem(each) for each in subproblems[:100] if isinstance(each, Mapping))])


def _subproblem(document: Mapping[str, Any]) -> str:
    identifier = document.get("identifier")
    who = identifier.get("value") if isinstance(identifier, Mapping) else None
    kind = str(document.get("type") or "about:blank").removeprefix(_PREFIX)
    said = document.get("detail")
    text = f"{said} ({kind})" if isinstance(said, str) else kind
    return f"{who}: {text}" if isinstance(who, str) else text


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
    except ValueError:
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
        remedy=_remedy(failure.ca, problem),
        ca=failure.ca,
        retry_after=failure.retry_after,
    )


def _remedy(ca: str, problem: Problem) -> str | None:
    where = f" ({problem.instance})" if problem.instance else ""
    remedies = {
        "accountDoesNotExist": f"The CA does not know the account any more: `dualcert account show {ca}`.",
        "externalAccountRequired": eab_remedy(ca),
        "userActionRequired": f"A person has to visit the CA's page{where}, such as to agree to new terms.",
        "invalidContact": f"Mend `contact` in [ca.{ca}].",
        "unsupportedContact": f"Use mailto: addresses in `contact` of [ca.{ca}].",
        "invalidProfile": f"Name a profile that the CA offers in `profile` of [ca.{ca}].",
        "badSignatureAlgorithm": "The CA does not take this kind of account key.",
    }
    return remedies.get(problem.name)


def eab_remedy(ca: str) -> str:
    return (
        f"Get a key id and an HMAC key from the CA and set them in [ca.{ca}]: "
        'eab = { kid = "...", hmac_key = { env = "..." } }.'
    )


def _bare(failure: Failure) -> str:
    """Status and type of an answer that holds no problem document: its body is never quoted."""
    return f"status {failure.status}, {plain(failure.content_type, 60) or 'no content type'}"
