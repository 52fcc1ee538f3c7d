"""Every failure dualcert knows by name.

An error carries what a person needs at three in the morning: what happened (``reason``), to which ``name`` and
``ca``, and what to do next (``remedy``). ``retry_after`` is set where the other side said when to come back.
Which exit status a failure means is a property of its class, so that no command decides it for itself.
"""

from __future__ import annotations

from datetime import timedelta

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_REFUSED = 4


def is_strangers(error: BaseException) -> bool:
    """Whether code that is not ours may have raised it by mistake: whatever is no signal to this process.

    A plain ``SystemExit`` is: a program's code that was made a plugin calls ``sys.exit``, and would end all of dualcert
    as if everything were done. Who ends this process by a signal raises a class of his own.
    """
    if isinstance(error, SystemExit):
        return type(error) is SystemExit
    return not isinstance(error, KeyboardInterrupt | GeneratorExit)


_MOST_TOLD = 1000
_MOST_KEPT = 30_000
"""Characters of a reason: it has room for a hundred names, and none for a page that somebody sent instead."""


def printable(text: object, most: int = _MOST_KEPT) -> str:
    """Text that every terminal, log and database takes, whoever wrote it: a plugin, a CA, a program.

    Half characters, NUL and what steers terminals become U+FFFD; lines and tabs stay. What cannot even be asked for its
    text is told by its type.
    """
    try:
        said = str(text)
    except Exception:  # noqa: BLE001 - whatever a stranger's method raises; there is no better text
        return f"({type(text).__name__} without a text)"
    if len(said) > most:
        said = f"{said[:most]}..."
    if said.isprintable():
        return said
    return "".join(
        [one if one in "\n\t" or one.isprintable() else " " if one.isspace() else "\ufffd" for one in said]
    )


def told(error: BaseException) -> str:
    """What any exception is and says, in one line that can be printed and stored."""
    said = " ".join(printable(error, _MOST_TOLD).split())
    name = type(error).__name__
    return f"{name}: {said}" if said else name


class DualcertError(Exception):
    """The root of the tree; never raised itself."""

    exit_status = EXIT_FAILED
    unforeseen = False
    """Whether it stands for an exception that nobody foresaw, which may concern less than what was asked for."""

    def __init__(
        self,
        reason: str,
        *,
        remedy: str | None = None,
        ca: str | None = None,
        name: str | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        self.reason = printable(reason)
        super().__init__(self.reason)
        self.remedy = None if remedy is None else printable(remedy)
        self.ca = None if ca is None else printable(ca)
        self.name = None if name is None else printable(name)
        self.retry_after = retry_after

    def __str__(self) -> str:
        ca = f"CA {self.ca}" if self.ca and not self.reason.startswith(f"CA {self.ca} ") else None
        about = ", ".join(part for part in (self.name, ca) if part)
        text = f"{about}: {self.reason}" if about else self.reason
        return f"{text}\n  {self.remedy}" if self.remedy else text


# --- what the person typed or configured -----------------------------------------------------------------


class UsageProblem(DualcertError):
    """A command cannot mean what was typed: an unknown or ambiguous name, options that contradict."""

    exit_status = EXIT_USAGE


class InvalidName(UsageProblem):
    """Not a DNS name that a public CA would put into a certificate."""


class ConfigurationError(DualcertError):
    """The configuration, or what it points to, cannot be used; names file, key and remedy."""

    exit_status = EXIT_USAGE


class DatabaseRevisionError(ConfigurationError):
    """The database was made by an older or a newer dualcert."""


class Refused(DualcertError):
    """Doing it would leave things worse; nothing was changed."""

    exit_status = EXIT_REFUSED


# --- the CA ----------------------------------------------------------------------------------------------


class CaError(DualcertError):
    """Something went wrong between dualcert and one CA; the other CA is not concerned.

    ``sent``: the CA may have heard of what was asked. False where it cannot: then it has counted nothing.
    """

    sent = True


class CaUnreachable(CaError):
    """No usable answer: refused, timed out, cut off, not TLS that we trust, or not ACME at all."""


class CaBusy(CaError):
    """429 or 503: come back at ``retry_after`` (RFC 8555 section 6.6)."""


class CaServerError(CaError):
    """The CA failed with a 5xx or serverInternal; the same request may work later."""


class CaRejected(CaError):
    """The CA understood and said no; asking again unchanged will not help.

    ``problem`` is the last part of the problem type's URN (RFC 8555 section 6.7), such as ``rejectedIdentifier``.
    """

    def __init__(
        self,
        reason: str,
        *,
        problem: str,
        remedy: str | None = None,
        ca: str | None = None,
        name: str | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(reason, remedy=remedy, ca=ca, name=name, retry_after=retry_after)
        self.problem = problem


class AccountProblem(CaRejected):
    """The account is missing, deactivated, or needs an external account binding or agreement."""


class ResourceGone(CaRejected):
    """The order, authorization or challenge does not exist any more (404): a new order is the way on."""


class AlreadyRevoked(CaRejected):
    """The CA says that the certificate was revoked before: what was wanted is the case."""


class ChallengeFailed(CaError):
    """The CA looked and did not accept a challenge; its own words are in the reason."""


class CertificateUnfit(CaError):
    """A certificate arrived that must not be used; it is kept, and not ordered again before a day has passed."""


# --- DNS -------------------------------------------------------------------------------------------------


class DnsError(DualcertError):
    """A TXT value could not be published, seen, or withdrawn."""


class DnsUnreachable(DnsError):
    """The DNS server or API does not answer."""


class DnsThrottled(DnsError):
    """The provider asks us to slow down; see ``retry_after``."""


class DnsCredentialsRejected(DnsError):
    """Wrong key or signature, or a key without the right to this name."""


class ZoneNotFound(DnsError):
    """Nobody is authoritative for the name, or the provider does not hold its zone."""


class DnsRefused(DnsError):
    """The server understood the change and did not make it."""


class NotPropagated(DnsError):
    """Not every authoritative server shows the value in time."""


# --- what CAs publish --------------------------------------------------------------------------------------


class EvidenceError(DualcertError):
    """A place where a CA says what it has revoked told nothing that counts: never taken for "nothing is revoked"."""


class SourceUnreachable(EvidenceError):
    """No answer, or not all of it; later there may be one."""


class EvidenceRejected(EvidenceError):
    """What came proves nothing: not signed by the CA, stale, of another CA, too large, from where nobody may ask."""


# --- keys, targets, the database -------------------------------------------------------------------------


class KeyProblem(DualcertError):
    """A private key cannot be wrapped or opened."""


class KeyUnreadable(KeyProblem):
    """A wrapped key does not open: another KEK or domain, or its bytes were changed."""


class KeyWeak(KeyProblem):
    """Keys that are made here are of a kind that others can compute, or know; none of them was used."""


class DeployError(DualcertError):
    """A target could not be brought to serve what it should; what it served before is still there."""


class OlderEpoch(DeployError):
    """The target holds a newer state already; the older one was not written."""


class ProbeFailed(DualcertError):
    """An endpoint could not be looked at."""


class ProbeHindered(DualcertError):
    """A certificate could not be tried on this machine, which says nothing of the certificate."""


class StoreError(DualcertError):
    """The database failed, or does not hold what it should."""


class StoreUnavailable(StoreError):
    """The database cannot be reached or stayed locked too long.

    Nothing was written; where it went away in a commit, that is done wholly or not at all.
    """


class StoreNotWritable(StoreUnavailable):
    """The database may only be read, until a person has changed that."""


class LeaseLost(StoreError):
    """Another process holds this work now; what this one was about to write was not written."""
