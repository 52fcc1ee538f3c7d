"""What to do about what a CA refuses."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 10


def of(ca: str, problem: str, page: str | None, refused: Sequence[str]) -> str | None:
    """The next step after a problem (the last part of its URN); None where only the CA's own words help.

    ``page`` is where the CA sends a person to, ``refused`` are the names that it complains of.
    """
    names = _listed(refused)
    visit = page or "the CA's web site (it gave no address)"
    found = {
        "accountDoesNotExist": f"The CA does not know the account any more: `dualcert account register {ca}`.",
        "externalAccountRequired": eab(ca),
        "userActionRequired": (
            f"A person has to visit {visit}, such as to agree to new terms; then `dualcert account update {ca}`."
        ),
        "invalidContact": f"Mend `contact` in [ca.{ca}], then `dualcert account update {ca}`.",
        "unsupportedContact": f"Use mailto: addresses in `contact` of [ca.{ca}], then `dualcert account update {ca}`.",
        "invalidProfile": f"Name a profile that the CA offers in `profile` of [ca.{ca}].",
        "badSignatureAlgorithm": "The CA does not take this kind of account key.",
        "rejectedIdentifier": _refusal(names),
        "unsupportedIdentifier": _refusal(names),
        "caa": (
            f"Let the CAA records of {names or 'the names'} allow this CA: `dualcert account show {ca}` tells what "
            "they have to say."
        ),
        "badCSR": "The CA issues nothing for such a request: another --key-type, fewer names, or another CA may do.",
        "badPublicKey": "The next order has another key. If the CA refuses that too, it wants another --key-type.",
    }.get(problem)
    return found or (f"The CA complains of {names}, and of no other name." if names else None)


def _refusal(names: str) -> str:
    whom = f"{names}, and says nothing against the other names" if names else "a name of this order"
    return (
        f"The CA refuses {whom}: leave what it refuses out (`dualcert issue NAME... --replace-names`), "
        "or let another CA certify it."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def eab(ca: str) -> str:
    return (
        f"Get a key id and an HMAC key from the CA and set them in [ca.{ca}]: "
        'eab = { kid = "...", hmac_key = { env = "..." } }. Then `dualcert account register '
        f"{ca}`."
    )


def paused(page: str | None) -> str:
    where = f"visit {page}" if page else "follow what the CA says"
    return f"Waiting does not end this. A person has to {where}; then `dualcert renew NAME`."


def foreign_certificate() -> str:
    return (
        "The account did not order this certificate; it may have been registered anew since. Its own key can revoke "
        "it: say --reason keyCompromise."
    )


def unwelcome_account(ca: str) -> str:
    return (
        f"`dualcert account show {ca}` tells how the CA sees the account. One that has ended is replaced by "
        f"`dualcert account register {ca}`."
    )
