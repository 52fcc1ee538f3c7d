"""Whether an order that names its predecessor (RFC 9773 section 5) was refused for that."""

from __future__ import annotations

from dualcert.errors import CaError, CaRejected, CaServerError

_OTHER_REASONS = frozenset(
    {
        "accountDoesNotExist",
        "badSignatureAlgorithm",
        "externalAccountRequired",
        "invalidProfile",
        "paused",
        "rejectedIdentifier",
        "unsupportedIdentifier",
        "userActionRequired",
    }
)


def order_without(error: CaError) -> bool:
    """Whether the same order may be taken without its predecessor.

    CAs say in many ways that they do not like it: alreadyReplaced, malformed, unauthorized, or a failure of their own.
    So whatever is not plainly about something else is tried again without; what the CA says then counts.
    """
    match error:
        case CaRejected(problem=problem):
            return problem not in _OTHER_REASONS
        case CaServerError():
            return True
        case _:
            return False
