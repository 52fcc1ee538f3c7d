"""What a failure at a CA means for the order that met it."""

from __future__ import annotations

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
    }
)


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
