"""What a failure at a CA means for the order that met it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum

from dualcert.errors import (
    AccountProblem,
    CaBusy,
    CaError,
    CaRejected,
    CaServerError,
    CaUnreachable,
    CertificateUnfit,
    ResourceGone,
)


class Recovery(Enum):
    SAME_ORDER = "the same order goes on later"
    NEW_ORDER = "this order is given up; a new one follows after a pause"
    NEW_ORDER_NOW = "this order is gone; a new one follows at once"
    NEXT_DAY = "kept, not used, and not ordered again before a day has passed"
    PERSON = "nothing will change before a person acts"


_FOR_A_PERSON = frozenset(
    {
        "rejectedIdentifier",
        "unsupportedIdentifier",
        "userActionRequired",
        "externalAccountRequired",
        "invalidProfile",
        "paused",
    }
)


_LONGEST = timedelta(hours=36)
"""A certificate of six days has half of its last three left then; and of one set CAs issue five in a week."""

_CLOCKS = timedelta(hours=2)
"""Ours may be an hour off, and then nothing would ever be issued by a CA that gives its orders an hour."""


def is_overdue(asked_at: datetime, now: datetime, expires: datetime | None = None) -> bool:
    """Whether an order that its CA does not end is given up: until then its lineage gets no other one.

    ``asked_at``: when the CA was last asked for something. What we took before that is no delay of its.
    ``expires``: until when the CA said that it would keep it (RFC 8555 section 7.1.3). Where the clocks are so far
    apart that it is over at once, the order has its time nevertheless.
    """
    return now - asked_at >= _LONGEST or (expires is not None and now - max(expires, asked_at) >= _CLOCKS)


def recover(error: CaError, *, placed: bool) -> Recovery:
    """``placed`` says whether the CA has answered the order; one that it has not is never asked about again."""
    match error:
        case CertificateUnfit():
            return Recovery.NEXT_DAY
        case AccountProblem():
            return Recovery.PERSON
        case ResourceGone():
            return Recovery.NEW_ORDER_NOW
        case CaBusy() | CaUnreachable() | CaServerError():
            return Recovery.SAME_ORDER if placed else Recovery.NEW_ORDER
        case CaRejected(problem="orderNotReady") if placed:
            # Somebody else's finalize, or a copy at the CA that lags behind: what the order is now, it says itself.
            return Recovery.SAME_ORDER
        case CaRejected(problem=problem) if problem in _FOR_A_PERSON:
            return Recovery.PERSON
        case _:
            return Recovery.NEW_ORDER


def passing(error: CaError) -> bool:
    """Whether the trouble may be over in a second."""
    if isinstance(error, CaRejected):
        return error.problem == "orderNotReady"
    return isinstance(error, CaUnreachable | CaServerError)


def lost_account(error: CaRejected) -> bool:
    """Whether the CA says that it knows no such account. With the same key it is registered anew, and nothing that was
    decided by a person is undone by that; one that was deactivated is refused otherwise."""
    return error.problem == "accountDoesNotExist"


def about_account(error: CaRejected) -> bool:
    """Whether a refusal may mean that the account, or its key, is another by now.

    A signature that does not fit is ``malformed`` at some CAs and ``unauthorized`` at others.
    """
    return not isinstance(error, ResourceGone) and error.problem in {
        "accountDoesNotExist",
        "unauthorized",
        "malformed",
    }
