"""The calls of the port ``CertificateAuthority``, one request each.

acme, josepy and cryptography are imported by the first call that needs them: many commands know their CAs by name
and never talk to one.
"""

from __future__ import annotations

import json
import logging
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dualcert.acmeclient import answers, ari, problems, remedies
from dualcert.acmeclient.answers import Directory
from dualcert.acmeclient.directory import SharedDirectory
from dualcert.acmeclient.links import is_https, linked
from dualcert.acmeclient.problems import Subject
from dualcert.acmeclient.settings import AcmeCaSettings, check_binding_key
from dualcert.acmeclient.unsent import before_it_leaves
from dualcert.clock import Clock
from dualcert.errors import (
    AccountProblem,
    CaError,
    CaRejected,
    CaServerError,
    ConfigurationError,
    ResourceGone,
)
from dualcert.ports.ca import (
    Account,
    AccountSnapshot,
    AuthorizationSnapshot,
    CaFacts,
    IssuedCertificate,
    OrderSnapshot,
    Reconsider,
    RenewalInformation,
)

if TYPE_CHECKING:
    from dualcert.acmeclient.connection import Deadline
    from dualcert.acmeclient.signing import Signer
    from dualcert.acmeclient.transport import Answer, Transport

_log = logging.getLogger("dualcert.acmeclient")
_ALTERNATES = 10


@dataclass(frozen=True)
class _Speaker:
    """Who we are at the CA now."""

    account: Account
    signer: Signer
    reconsider: Reconsider | None


class AcmeCa:
    """One ACME CA and our account there. Shared by all threads; each has connections of its own."""

    def __init__(
        self, settings: AcmeCaSettings, clock: Clock, permit: Callable[[], float] | None = None
    ) -> None:
        """``permit`` is asked before each signed request: in how many seconds it may go out."""
        self.name = settings.name
        self._settings = settings
        self._clock = clock
        self._permit = permit
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._directory = SharedDirectory(settings, clock)
        self._speaker: _Speaker | None = None

    def __repr__(self) -> str:
        return f"AcmeCa({self.name!r})"

    def close(self) -> None:
        """Close all connections; the next call opens new ones."""
        if self._transport is not None:
            self._transport.close()

    # --- the CA and the account ---------------------------------------------------------------------------

    def facts(self) -> CaFacts:
        return self._known_directory(self._wire().deadline()).facts

    def register(self, key: bytes) -> str:
        from dualcert.acmeclient.signing import Signer

        deadline = self._wire().deadline()
        directory = self._known_directory(deadline)
        self._demand_agreement(directory.facts)
        signer = Signer(key)
        binding = self._binding(signer, directory)
        post = partial(self._post_account, signer, directory, deadline)
        agreed = {"termsOfServiceAgreed": True} if self._settings.terms_agreed else {}
        bound = {"externalAccountBinding": binding} if binding else {}
        try:
            return post(_payload(contact=list(self._settings.contact), **agreed, **bound))
        except CaRejected as error:
            # A key for external accounts often works once: used up, it must not hide the account it made.
            if binding is None:
                raise
            try:
                return post(_payload(onlyReturnExisting=True))
            except CaRejected:
                raise error from None

    def use(self, account: Account, reconsider: Reconsider | None = None) -> None:
        from dualcert.acmeclient.signing import Signer

        self._speaker = _Speaker(account, Signer(account.key, account.url), reconsider)

    def find_account(self, key: bytes) -> str | None:
        from dualcert.acmeclient.signing import Signer

        deadline = self._wire().deadline()
        directory = self._known_directory(deadline)
        try:
            return self._post_account(Signer(key), directory, deadline, _payload(onlyReturnExisting=True))
        except CaRejected as error:
            if error.problem != "accountDoesNotExist":
                raise
            return None

    def account(self, account: Account) -> AccountSnapshot:
        return self._about(account, b"")

    def update_account(self, account: Account) -> AccountSnapshot:
        return self._about(account, _payload(contact=list(self._settings.contact)))

    def deactivate_account(self, account: Account) -> None:
        self._about(account, _payload(status="deactivated"))

    def change_key(self, account: Account, key: bytes) -> None:
        from dualcert.acmeclient.signing import Signer

        deadline = self._wire().deadline()
        url = self._known_directory(deadline).key_change
        if url is None:
            raise CaRejected(
                "the CA lets nobody change an account's key: its directory names no keyChange",
                problem="unsupported",
                remedy=f"`dualcert account deactivate {self.name}` ends the account that has the old key.",
                ca=self.name,
            )
        old, new = Signer(account.key, account.url), Signer(key)
        payload = json.dumps(new.key_change(url, account.url, old)).encode()
        try:
            self._post(url, payload, deadline, signer=old, subject=Subject.ACCOUNT)
        except CaRejected:
            # It may be that the CA has taken the key before, and nobody heard of it.
            if self.find_account(key) != account.url:
                raise

    def _about(self, account: Account, payload: bytes) -> AccountSnapshot:
        """A request to the account's own URL; an empty payload asks only."""
        from dualcert.acmeclient.signing import Signer

        signer = Signer(account.key, account.url)
        answer = self._post(account.url, payload, signer=signer, subject=Subject.ACCOUNT)
        return answers.read_account(self.name, answer.document(self.name), account.url)

    def _post_account(self, signer: Signer, directory: Directory, deadline: Deadline, payload: bytes) -> str:
        answer = self._wire().post(
            directory.new_account, payload, signer, directory.new_nonce, deadline, subject=Subject.ACCOUNT
        )
        return self._location(answer, "account")

    def _demand_agreement(self, facts: CaFacts) -> None:
        if facts.terms_of_service and not self._settings.terms_agreed:
            raise ConfigurationError(
                f"the CA wants its terms agreed to: {problems.plain(facts.terms_of_service)}",
                remedy=f"Read them, then set `terms_agreed = true` in [ca.{self.name}].",
                ca=self.name,
            )

    def _binding(self, signer: Signer, directory: Directory) -> dict[str, Any] | None:
        kid, secret = self._settings.eab_kid, self._settings.eab_hmac_key
        if kid is None or secret is None:
            if directory.facts.external_account_required:
                raise AccountProblem(
                    "the CA opens accounts only for those who have an account with it elsewhere",
                    problem="externalAccountRequired",
                    remedy=remedies.eab(self.name),
                    ca=self.name,
                )
            return None
        check_binding_key(self.name, secret.reveal())
        return signer.external_account_binding(directory.new_account, kid, secret.reveal())

    # --- orders -------------------------------------------------------------------------------------------

    def new_order(self, names: Sequence[str], *, replaces: str | None = None) -> OrderSnapshot:
        deadline = self._wire().deadline()
        directory = self._known_directory(deadline)
        with before_it_leaves():
            self._demand_profile(directory.facts)
        identifiers = [{"type": "dns", "value": name} for name in names]
        profile = {"profile": self._settings.profile} if self._settings.profile else {}
        old = {"replaces": replaces} if replaces else {}
        payload = _payload(identifiers=identifiers, **profile, **old)
        answer = self._post(directory.new_order, payload, deadline, subject=Subject.ACCOUNT)
        return self._order(answer, self._location(answer, "order"))

    def _demand_profile(self, facts: CaFacts) -> None:
        wanted = self._settings.profile
        if wanted is not None and wanted not in facts.profiles:
            known = ", ".join(problems.plain(one, 60) for one in sorted(facts.profiles))
            raise CaRejected(
                f"the CA offers no profile {wanted!r}, so nothing was ordered",
                problem="invalidProfile",
                remedy=f"Set `profile` in [ca.{self.name}] to one of: {known}."
                if known
                else f"The CA has no profiles at all: leave `profile` out of [ca.{self.name}].",
                ca=self.name,
            )

    def order(self, url: str) -> OrderSnapshot:
        order = self._order(self._post(url, b"", subject=Subject.RESOURCE), url)
        late = order.expires is not None and order.expires <= self._clock.now()
        if order.status == "invalid" and order.error is None and late:
            raise ResourceGone(
                f"the order expired on {order.expires:%Y-%m-%d %H:%M} UTC before it was finished",
                problem="expired",
                ca=self.name,
            )
        return order

    def authorization(self, url: str) -> AuthorizationSnapshot:
        answer = self._post(url, b"", subject=Subject.RESOURCE)
        document = answer.document(self.name)
        dns_value = self._account().signer.dns_value
        return answers.read_authorization(self.name, document, url, answer.retry_after, dns_value)

    def answer(self, challenge: str) -> None:
        self._post(challenge, b"{}", subject=Subject.RESOURCE)

    def finalize(self, url: str, order: str, csr: bytes) -> OrderSnapshot:
        return self._order(self._post(url, _payload(csr=_base64url(csr)), subject=Subject.RESOURCE), order)

    def _order(self, answer: Answer, url: str) -> OrderSnapshot:
        return answers.read_order(self.name, answer.document(self.name), url, answer.retry_after)

    # --- certificates -------------------------------------------------------------------------------------

    def certificate(self, url: str) -> IssuedCertificate:
        deadline = self._wire().deadline()
        answer = self._download(url, deadline)
        default = answers.read_chain(self.name, answer.body)
        urls = linked(answer.link, answer.url, "alternate")[:_ALTERNATES]
        found = [self._alternate(each, deadline) for each in urls]
        return IssuedCertificate(default, tuple(chain for chain in found if chain is not None))

    def revoke(self, certificate: bytes, reason: int, *, key: bytes | None = None) -> None:
        from dualcert.acmeclient.signing import Signer

        deadline = self._wire().deadline()
        directory = self._known_directory(deadline)
        payload = _payload(certificate=_base64url(certificate), reason=reason)
        signer = Signer(key) if key is not None else None
        self._post(directory.revoke_cert, payload, deadline, signer=signer, subject=Subject.REVOCATION)

    def _download(self, url: str, deadline: Deadline) -> Answer:
        from dualcert.acmeclient.transport import CERTIFICATE_LIMIT

        return self._post(
            url,
            b"",
            deadline,
            subject=Subject.RESOURCE,
            accept="application/pem-certificate-chain",
            limit=CERTIFICATE_LIMIT,
        )

    def _alternate(self, url: str, deadline: Deadline) -> str | None:
        """Another chain for the certificate; a gift, whose lack keeps nothing from going on."""
        try:
            return answers.read_chain(self.name, self._download(url, deadline).body)
        except CaError as error:
            _log.warning("CA %s: the alternate chain %s cannot be had: %s", self.name, url, error.reason)
            return None

    def renewal_info(self, ari_id: str) -> RenewalInformation | None:
        deadline = self._wire().deadline()
        base = self._known_directory(deadline).facts.renewal_info
        return None if base is None else ari.fetch(self._wire(), base, ari_id, self.name, deadline)

    # --- one request --------------------------------------------------------------------------------------

    def _wire(self) -> Transport:
        if self._transport is None:
            from dualcert.acmeclient.transport import Transport

            with self._lock:
                if self._transport is None:
                    self._transport = Transport(self._settings, self._clock)
        return self._transport

    def _account(self) -> _Speaker:
        if self._speaker is None:
            raise AccountProblem(
                "no account of this CA is in use",
                problem="accountDoesNotExist",
                remedy=f"`dualcert account show {self.name}` tells what is known of it.",
                ca=self.name,
            )
        return self._speaker

    def _post(
        self,
        url: str,
        payload: bytes,
        deadline: Deadline | None = None,
        *,
        signer: Signer | None = None,
        **options: Any,
    ) -> Answer:
        """A request signed by ``signer``, or else for the account in use, which may then prove to be another."""
        if signer is not None:
            return self._send(url, payload, signer, deadline, options)
        speaker = self._account()
        try:
            return self._send(url, payload, speaker.signer, deadline, options)
        except CaRejected as error:
            again = speaker.reconsider(error, speaker.account) if speaker.reconsider else None
            if again is None:
                raise
            self.use(again, speaker.reconsider)
            return self._send(url, payload, self._account().signer, None, options)

    def _send(
        self, url: str, payload: bytes, signer: Signer, deadline: Deadline | None, options: dict[str, Any]
    ) -> Answer:
        if self._permit is not None and (wait := self._permit()) > 0:
            self._clock.sleep(wait)
        wire = self._wire()
        deadline = deadline or wire.deadline()
        new_nonce = self._known_directory(deadline).new_nonce
        return wire.post(url, payload, signer, new_nonce, deadline, **options)

    def _location(self, answer: Answer, what: str) -> str:
        location = answer.location
        if location is None or not is_https(location):
            raise CaServerError(
                f"the CA did not say where the new {what} is",
                remedy="This is the CA's fault; it is tried again.",
                ca=self.name,
            )
        return location

    def _known_directory(self, deadline: Deadline) -> Directory:
        with before_it_leaves():
            return self._directory.known(self._wire(), deadline)


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _payload(**members: Any) -> bytes:
    return json.dumps(members).encode()
