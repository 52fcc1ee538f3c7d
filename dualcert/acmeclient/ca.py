"""The calls of the port ``CertificateAuthority``, one request each.

acme, josepy and cryptography are imported by the first call that needs them: many commands know their CAs by name
and never talk to one.
"""

from __future__ import annotations

import json
import logging
import threading
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import TYPE_CHECKING, Any

from dualcert.acmeclient import answers, problems
from dualcert.acmeclient.answers import Directory
from dualcert.acmeclient.problems import Subject
from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.clock import Clock
from dualcert.errors import (
    AccountProblem,
    CaError,
    CaRejected,
    CaServerError,
    CaUnreachable,
    ConfigurationError,
    DualcertError,
)
from dualcert.ports.ca import Account, AuthorizationSnapshot, CaFacts, OrderSnapshot

if TYPE_CHECKING:
    from dualcert.acmeclient.connection import Deadline
    from dualcert.acmeclient.signing import Signer
    from dualcert.acmeclient.transport import Answer, Transport

_log = logging.getLogger("dualcert.acmeclient")
_ALTERNATES = 10


class AcmeCa:
    """One ACME CA and our account there. Shared by all threads; each has connections of its own."""

    def __init__(self, settings: AcmeCaSettings, clock: Clock) -> None:
        self.name = settings.name
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._directory: Future[Directory] | None = None
        self._signer: Signer | None = None

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

    def use(self, account: Account) -> None:
        from dualcert.acmeclient.signing import Signer

        self._signer = Signer(account.key, account.url)

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
                    remedy=problems.eab_remedy(self.name),
                    ca=self.name,
                )
            return None
        try:
            return signer.external_account_binding(directory.new_account, kid, secret.reveal())
        except ValueError:
            raise ConfigurationError(
                "the HMAC key of the external account binding is not base64url",
                remedy=f"Set `hmac_key` in `eab` of [ca.{self.name}] exactly as the CA gave it.",
                ca=self.name,
            ) from None

    # --- orders -------------------------------------------------------------------------------------------

    def new_order(self, names: Sequence[str], *, replaces: str | None = None) -> OrderSnapshot:
        deadline = self._wire().deadline()
        directory = self._known_directory(deadline)
        identifiers = [{"type": "dns", "value": name} for name in names]
        profile = {"profile": self._settings.profile} if self._settings.profile else {}
        old = {"replaces": replaces} if replaces else {}
        payload = _payload(identifiers=identifiers, **profile, **old)
        answer = self._post(directory.new_order, payload, deadline, subject=Subject.ACCOUNT)
        return self._order(answer, self._location(answer, "order"))

    def order(self, url: str) -> OrderSnapshot:
        return self._order(self._post(url, b"", subject=Subject.RESOURCE), url)

    def authorization(self, url: str) -> AuthorizationSnapshot:
        signer = self._account()
        answer = self._post(url, b"", subject=Subject.RESOURCE)
        document = answer.document(self.name)
        return answers.read_authorization(self.name, document, url, answer.retry_after, signer.dns_value)

    def answer(self, challenge: str) -> None:
        self._post(challenge, b"{}", subject=Subject.RESOURCE)

    def finalize(self, url: str, order: str, csr: bytes) -> OrderSnapshot:
        return self._order(self._post(url, _payload(csr=_base64url(csr)), subject=Subject.RESOURCE), order)

    def _order(self, answer: Answer, url: str) -> OrderSnapshot:
        return answers.read_order(self.name, answer.document(self.name), url, answer.retry_after)

    # --- certificates -------------------------------------------------------------------------------------

    def certificate(self, url: str) -> str:
        deadline = self._wire().deadline()
        answer = self._download(url, deadline)
        chain = answers.read_chain(self.name, answer.body)
        wanted = self._settings.preferred_chain
        return chain if wanted is None else self._preferred(wanted, chain, answer, deadline)

    def revoke(self, certificate: bytes, reason: int, *, key: bytes | None = None) -> None:
        from dualcert.acmeclient.signing import Signer

        deadline = self._wire().deadline()
        directory = self._known_directory(deadline)
        payload = _payload(certificate=_base64url(certificate), reason=reason)
        signer = Signer(key) if key is not None else self._account()
        self._post(directory.revoke_cert, payload, deadline, signer=signer)

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

    def _preferred(self, wanted: str, default: str, answer: Answer, deadline: Deadline) -> str:
        """The chain that ends at the wanted root; a wish only: the certificate is the same in all."""
        from dualcert.acmeclient.chains import alternates, top_issuer

        if top_issuer(default) == wanted:
            return default
        for url in alternates(answer.link, answer.url)[:_ALTERNATES]:
            try:
                chain = answers.read_chain(self.name, self._download(url, deadline).body)
            except CaError as error:
                _log.warning("CA %s: the alternate chain %s cannot be had: %s", self.name, url, error.reason)
                continue
            if top_issuer(chain) == wanted:
                return chain
        _log.warning("CA %s offers no chain to %r; its default is taken", self.name, wanted)
        return default

    # --- one request --------------------------------------------------------------------------------------

    def _wire(self) -> Transport:
        if self._transport is None:
            from dualcert.acmeclient.transport import Transport

            with self._lock:
                if self._transport is None:
                    self._transport = Transport(self._settings, self._clock)
        return self._transport

    def _account(self) -> Signer:
        if self._signer is None:
            raise AccountProblem(
                "no account of this CA is in use",
                problem="accountDoesNotExist",
                remedy=f"`dualcert account show {self.name}` tells what is known of it.",
                ca=self.name,
            )
        return self._signer

    def _post(
        self,
        url: str,
        payload: bytes,
        deadline: Deadline | None = None,
        *,
        signer: Signer | None = None,
        **options: Any,
    ) -> Answer:
        wire = self._wire()
        signer = signer or self._account()
        deadline = deadline or wire.deadline()
        new_nonce = self._known_directory(deadline).new_nonce
        return wire.post(url, payload, signer, new_nonce, deadline, **options)

    def _location(self, answer: Answer, what: str) -> str:
        location = answer.location
        if location is None or not answers.is_https(location):
            raise CaServerError(
                f"the CA did not say where the new {what} is",
                remedy="This is the CA's fault; it is tried again.",
                ca=self.name,
            )
        return location

    def _known_directory(self, deadline: Deadline) -> Directory:
        """The directory, fetched once.

        Threads that come meanwhile share the one request, and its failure: one by one they would hold each other
        up for a timeout each. A failure is forgotten at once.
        """
        with self._lock:
            known = self._directory
            mine = known is None
            if known is None:
                known = self._directory = Future()
        if mine:
            self._fetch_directory(known, deadline)
            return known.result()
        try:
            return known.result(timeout=deadline.left())
        except (TimeoutError, CancelledError):
            raise CaUnreachable(
                f"the CA's directory did not arrive in time ({self._settings.timeout:g} s)",
                remedy="It is tried again.",
                ca=self.name,
            ) from None

    def _fetch_directory(self, promise: Future[Directory], deadline: Deadline) -> None:
        try:
            answer = self._wire().get(self._settings.directory, deadline)
            promise.set_result(answers.read_directory(self.name, answer.document(self.name)))
        except DualcertError as error:
            self._forget_directory()
            promise.set_exception(error)
        except BaseException:
            self._forget_directory()
            promise.cancel()
            raise

    def _forget_directory(self) -> None:
        with self._lock:
            self._directory = None


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _payload(**members: Any) -> bytes:
    return json.dumps(members).encode()
