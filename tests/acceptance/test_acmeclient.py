"""The ACME client against real CAs, and against CAs that misbehave."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import ssl
import threading
import time
import traceback
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dualcert.acmeclient import AcmeCa, AcmeCaSettings
from dualcert.clock import Clock, SystemClock
from dualcert.errors import (
    AccountProblem,
    AlreadyRevoked,
    CaBusy,
    CaError,
    CaRejected,
    CaServerError,
    CaUnreachable,
    ConfigurationError,
    ResourceGone,
)
from dualcert.lab import LabOptions, LabServers
from dualcert.lab.pebble import PebbleServer
from dualcert.ports.ca import Account, CertificateAuthority, IssuedCertificate, OrderSnapshot
from dualcert.ports.options import Secret
from dualcert.testing.clock import FakeClock
from tests.faultproxy import (
    Answer,
    Cut,
    Dribble,
    Fault,
    FaultProxy,
    Hang,
    SpoilNonce,
    html,
    problem,
    too_many,
)
from tests.labfixture import ProjectLab
from tests.years import PassingClock

_clock = SystemClock()


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_key() -> bytes:
    return pem(ec.generate_private_key(ec.SECP256R1()))


def new_csr(names: tuple[str, ...]) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    request = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    return key, request.public_bytes(Encoding.DER)


def settings_of(server: PebbleServer, **more: object) -> AcmeCaSettings:
    eab = server.eab
    values = {
        "name": server.name,
        "directory": server.directory_url,
        "contact": ("mailto:ops@example.test",),
        "terms_agreed": True,
        "eab_kid": eab.kid if eab else None,
        "eab_hmac_key": Secret(eab.hmac_key) if eab else None,
        "profile": next(iter(server.profiles)),
        "ca_bundle": server.api_ca_pem,
        "user_agent": "dualcert-tests",
        **more,
    }
    return AcmeCaSettings(**values)  # type: ignore[arg-type]


@contextmanager
def opened(settings: AcmeCaSettings, *, register: bool = True, clock: Clock = _clock) -> Iterator[AcmeCa]:
    with closing(AcmeCa(settings, clock)) as ca:
        if register:
            key = new_key()
            ca.use(Account(ca.register(key), key))
        yield ca


def poll(ca: AcmeCa, order: OrderSnapshot, *statuses: str) -> OrderSnapshot:
    end = _clock.monotonic() + 15
    while order.status not in statuses:
        assert _clock.monotonic() < end, order
        _clock.sleep(0.01)
        order = ca.order(order.url)
    return order


def validate(ca: AcmeCa, order: OrderSnapshot, lab: ProjectLab) -> OrderSnapshot:
    for url in order.authorizations:
        authorization = ca.authorization(url)
        if authorization.status == "valid":
            continue
        assert authorization.challenge
        lab.add_record(f"_acme-challenge.{authorization.identifier}", "TXT", f'"{authorization.value}"')
        ca.answer(authorization.challenge)
    return poll(ca, order, "ready", "valid", "invalid")


def issue(ca: AcmeCa, lab: ProjectLab, *names: str) -> tuple[str, bytes]:
    """The chain and the key of a new certificate."""
    order = validate(ca, ca.new_order(names), lab)
    key, csr = new_csr(names)
    order = poll(ca, ca.finalize(order.finalize, order.url, csr), "valid", "invalid")
    assert order.certificate, order
    return ca.certificate(order.certificate).default, pem(key)


def der(chain: str) -> bytes:
    return x509.load_pem_x509_certificates(chain.encode())[0].public_bytes(Encoding.DER)


@pytest.fixture
def proxy(lab_servers: LabServers, tmp_path: Path) -> Iterator[FaultProxy]:
    lab_servers.heal()
    with FaultProxy(lab_servers.alpha.direct_url, folder=tmp_path) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: FaultProxy, lab_servers: LabServers) -> AcmeCaSettings:
    """Settings for alpha behind the proxy."""
    return settings_of(lab_servers.alpha, directory=proxy.directory, ca_bundle=proxy.ca_bundle, timeout=10.0)


# --- the whole way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_the_whole_way(lab: ProjectLab, name: str) -> None:
    server: PebbleServer = getattr(lab, name)
    names = (lab.domain, f"*.{lab.domain}")
    with opened(settings_of(server)) as ca:
        order = ca.new_order(names)
        assert set(order.identifiers) == set(names)
        assert order.status == "pending"
        assert order.expires
        assert order.expires > _clock.now()
        assert order.expires.utcoffset() == timedelta(0)
        authorizations = [ca.authorization(url) for url in order.authorizations]
        assert {(each.identifier, each.wildcard) for each in authorizations} == {
            (lab.domain, False),
            (lab.domain, True),
        }
        order = validate(ca, order, lab)
        assert order.status == "ready"
        key, csr = new_csr(names)
        done = poll(ca, ca.finalize(order.finalize, order.url, csr), "valid")
        assert done.url == order.url
        assert done.certificate
        chain = ca.certificate(done.certificate).default
        leaf = x509.load_pem_x509_certificates(chain.encode())[0]
        assert chain.count("BEGIN CERTIFICATE") >= 2
        assert leaf.public_key() == key.public_key()
        ca.revoke(der(chain), 4)
        with pytest.raises(AlreadyRevoked) as caught:
            ca.revoke(der(chain), 4)
        assert caught.value.ca == server.name


def test_the_client_is_what_the_port_asks_for(lab_servers: LabServers) -> None:
    port: CertificateAuthority = AcmeCa(settings_of(lab_servers.alpha), _clock)
    facts = port.facts()
    assert facts.caa_identities == ("alpha.lab.test",)
    assert facts.terms_of_service
    assert set(facts.profiles) == set(lab_servers.alpha.profiles)
    assert facts.renewal_info
    assert not facts.external_account_required


def test_the_profile_decides_the_life_of_the_certificate(lab: ProjectLab) -> None:
    with opened(settings_of(lab.alpha, profile="hour")) as ca:
        chain, _ = issue(ca, lab, lab.domain)
    leaf = x509.load_pem_x509_certificates(chain.encode())[0]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(hours=1)


def test_an_unknown_profile_is_refused_before_anything_is_ordered(
    proxy: FaultProxy, proxied: AcmeCaSettings
) -> None:
    with opened(replace(proxied, profile="nonesuch")) as ca, pytest.raises(CaRejected) as caught:
        ca.new_order(["a.example.test"])
    assert caught.value.problem == "invalidProfile"
    assert "'nonesuch'" in caught.value.reason
    assert "classic, hour, shortlived" in str(caught.value)
    assert proxy.count("/order-plz") == 0


def test_a_profile_where_the_ca_has_none_is_refused(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(proxied) as ca:
        directory = json.loads(ca._wire().get(proxied.directory, ca._wire().deadline()).body)
    directory["meta"]["profiles"] = {}
    proxy.on("/dir", Answer(200, json.dumps(directory).encode(), "application/json"), times=None)
    with opened(proxied) as ca, pytest.raises(CaRejected, match="no profiles at all"):
        ca.new_order(["a.example.test"])
    with opened(replace(proxied, profile=None)) as ca:
        assert ca.new_order(["a.example.test"]).status == "pending"


def test_replaces_names_the_old_certificate_once(lab: ProjectLab) -> None:
    with opened(settings_of(lab.alpha)) as ca:
        chain, _ = issue(ca, lab, lab.domain)
        certificate = x509.load_pem_x509_certificates(chain.encode())[0]
        identifier = ari_identifier(certificate)
        order = validate(ca, ca.new_order([lab.domain], replaces=identifier), lab)
        poll(ca, ca.finalize(order.finalize, order.url, new_csr((lab.domain,))[1]), "valid")
        with pytest.raises(CaRejected) as caught:
            ca.new_order([lab.domain], replaces=identifier)
    assert caught.value.problem == "alreadyReplaced"


def ari_identifier(certificate: x509.Certificate) -> str:
    """RFC 9773 section 4.1."""
    extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    serial = certificate.serial_number
    parts = [extension.key_identifier or b"", serial.to_bytes(serial.bit_length() // 8 + 1, "big")]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_revoking_with_the_key_of_the_certificate_needs_no_account(lab: ProjectLab) -> None:
    with opened(settings_of(lab.alpha)) as ca:
        chain, key = issue(ca, lab, lab.domain)
    with opened(settings_of(lab.alpha), register=False) as stranger:
        stranger.revoke(der(chain), 1, key=key)
        with pytest.raises(AlreadyRevoked):
            stranger.revoke(der(chain), 1, key=key)


def test_a_failed_challenge_tells_what_the_ca_said(lab: ProjectLab) -> None:
    with opened(settings_of(lab.alpha)) as ca:
        order = ca.new_order([lab.domain])
        authorization = ca.authorization(order.authorizations[0])
        assert authorization.error is None
        assert authorization.challenge
        ca.answer(authorization.challenge)
        order = poll(ca, order, "invalid")
        failed = ca.authorization(order.authorizations[0])
    assert failed.status == "invalid"
    assert failed.challenge_status == "invalid"
    assert failed.error
    assert "TXT" in failed.error


# --- accounts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA"],
)
def test_an_account_is_made_once_and_then_found(
    lab_servers: LabServers, make: Callable[[], ec.EllipticCurvePrivateKey]
) -> None:
    key = pem(make())
    with opened(settings_of(lab_servers.alpha), register=False) as ca:
        url = ca.register(key)
        assert ca.register(key) == url
        ca.use(Account(url, key))
        assert ca.new_order([f"{secrets.token_hex(6)}.example.test"]).status == "pending"


def test_an_external_account_binding_is_demanded_and_named(lab_servers: LabServers) -> None:
    settings = settings_of(lab_servers.beta, eab_kid=None, eab_hmac_key=None)
    with opened(settings, register=False) as ca, pytest.raises(AccountProblem) as caught:
        ca.register(new_key())
    assert caught.value.problem == "externalAccountRequired"
    assert "the CA refused" not in caught.value.reason  # it was not even asked
    assert "[ca.beta]" in str(caught.value)


@pytest.mark.parametrize("padding", ["", "=", "=="])
def test_the_binding_key_may_be_padded(lab_servers: LabServers, padding: str) -> None:
    eab = lab_servers.beta.eab
    assert eab
    settings = settings_of(lab_servers.beta, eab_hmac_key=Secret(eab.hmac_key + padding))
    with opened(settings, register=False) as ca:
        assert ca.register(new_key()).startswith("https://")


def test_a_wrong_binding_key_is_an_account_problem(lab_servers: LabServers) -> None:
    settings = settings_of(lab_servers.beta, eab_hmac_key=Secret("A" * 43))
    with opened(settings, register=False) as ca, pytest.raises(AccountProblem) as caught:
        ca.register(new_key())
    assert "AAAA" not in str(caught.value)


def test_an_account_is_found_although_its_binding_is_used_up(lab_servers: LabServers, tmp_path: Path) -> None:
    key = new_key()
    with opened(settings_of(lab_servers.beta), register=False) as ca:
        url = ca.register(key)
    with FaultProxy(lab_servers.beta.direct_url, folder=tmp_path) as proxy:
        proxy.on("/sign-me-up", problem(403, "unauthorized", "this key id was used before"))
        behind = settings_of(lab_servers.beta, directory=proxy.directory, ca_bundle=proxy.ca_bundle)
        with opened(behind, register=False) as ca:
            again = ca.register(key)
            proxy.on("/sign-me-up", problem(403, "unauthorized", "this key id was used before"))
            with pytest.raises(AccountProblem, match="used before"):
                ca.register(new_key())
    assert again.rpartition("/")[2] == url.rpartition("/")[2]


def test_terms_are_agreed_to_by_a_person(lab_servers: LabServers) -> None:
    settings = settings_of(lab_servers.alpha, terms_agreed=False)
    with opened(settings, register=False) as ca, pytest.raises(ConfigurationError) as caught:
        ca.register(new_key())
    assert "terms_agreed = true" in str(caught.value)
    assert "data:text/plain" in str(caught.value)


def test_an_account_that_the_ca_has_forgotten_is_an_account_problem(lab_servers: LabServers) -> None:
    with opened(settings_of(lab_servers.alpha)) as ca:
        strange = ca.register(key := new_key()) + "0"
        ca.use(Account(strange, key))
        with pytest.raises(AccountProblem):
            ca.new_order(["a.example.test"])


def test_a_key_leads_to_its_account_or_to_none(lab_servers: LabServers) -> None:
    for server in (lab_servers.alpha, lab_servers.beta):
        with opened(settings_of(server), register=False) as ca:
            key = new_key()
            assert ca.find_account(key) is None
            assert ca.find_account(key) is None, "looking registers nothing"
            url = ca.register(key)
            assert ca.find_account(key) == url


def test_an_account_tells_its_status_and_takes_another_contact(lab_servers: LabServers) -> None:
    key = new_key()
    with opened(settings_of(lab_servers.alpha), register=False) as ca:
        account = Account(ca.register(key), key)
        assert ca.account(account).status == "valid"
        assert ca.account(account).contact == ("mailto:ops@example.test",)
    with opened(settings_of(lab_servers.alpha, contact=("mailto:b@example.test",)), register=False) as ca:
        assert ca.update_account(account).contact == ("mailto:b@example.test",)
        assert ca.account(account).contact == ("mailto:b@example.test",)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_an_account_changes_its_key_once_and_for_all(lab_servers: LabServers, name: str) -> None:
    old, new = new_key(), new_key()
    with opened(settings_of(getattr(lab_servers, name)), register=False) as ca:
        account = Account(ca.register(old), old)
        ca.change_key(account, new)
        assert ca.account(Account(account.url, new)).status == "valid"
        assert (ca.find_account(old), ca.find_account(new)) == (None, account.url)
        with pytest.raises(CaRejected):
            ca.account(account)
        ca.change_key(account, new)  # nobody had heard that it was done


def test_a_key_of_another_account_is_not_taken(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    first, second = new_key(), new_key()
    with opened(proxied, register=False) as ca:
        account = Account(ca.register(first), first)
        proxy.on("/rollover", problem(409, "conflict", "another account has this key"))
        for _ in range(2):
            with pytest.raises(CaRejected, match="another account has this key"):
                ca.change_key(account, second)
            ca.register(second)
            proxy.on("/rollover", problem(409, "conflict", "another account has this key"))


def test_a_ca_that_changes_no_keys_says_so(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(proxied) as ca:
        directory = json.loads(ca._wire().get(proxied.directory, ca._wire().deadline()).body)
    del directory["keyChange"]
    proxy.on("/dir", Answer(200, json.dumps(directory).encode(), "application/json"))
    with opened(proxied, register=False) as ca, pytest.raises(CaRejected, match="keyChange"):
        ca.change_key(Account(f"{proxy.url}/my-account/1", new_key()), new_key())


def test_an_account_that_was_deactivated_is_an_account_problem(lab_servers: LabServers) -> None:
    key = new_key()
    with opened(settings_of(lab_servers.alpha), register=False) as ca:
        account = Account(ca.register(key), key)
        ca.deactivate_account(account)
        ca.use(account)
        for call in (
            lambda: ca.new_order(["a.example.test"]),
            lambda: ca.account(account),
            lambda: ca.find_account(key),
            lambda: ca.register(key),
        ):
            with pytest.raises(AccountProblem, match="deactivated") as caught:
                call()
            assert "dualcert account register alpha" in str(caught.value)


def test_a_refused_request_is_repeated_once_for_the_account_that_is_named_then(
    lab_servers: LabServers,
) -> None:
    old, new = new_key(), new_key()
    with opened(settings_of(lab_servers.alpha), register=False) as ca:
        account = Account(ca.register(old), old)
        asked: list[tuple[str, Account]] = []

        def reconsider(error: CaRejected, used: Account) -> Account | None:
            asked.append((error.problem, used))
            return Account(used.url, new) if len(asked) == 1 else None

        ca.use(account, reconsider)
        ca.change_key(account, new)
        order = ca.new_order(["a.example.test"])
        assert asked == [("malformed", account)]
        value = ca.authorization(order.authorizations[0]).value
        ca.use(Account(account.url, new))
        assert ca.authorization(order.authorizations[0]).value == value, "made with the key that counts"
        ca.use(Account(account.url, old), lambda _error, _used: None)
        with pytest.raises(CaRejected, match="JWS"):
            ca.new_order(["a.example.test"])


def test_an_order_that_expired_is_gone(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    document = {"status": "invalid", "expires": "2020-01-01T00:00:00Z", "finalize": f"{proxy.url}/f"}
    with opened(proxied) as ca:
        proxy.on("/my-order/", Answer(200, json.dumps(document).encode(), "application/json"))
        with pytest.raises(ResourceGone, match="expired on 2020-01-01"):
            ca.order(f"{proxy.url}/my-order/1")
        failed = {**document, "error": {"type": "urn:ietf:params:acme:error:caa", "detail": "no"}}
        proxy.on("/my-order/", Answer(200, json.dumps(failed).encode(), "application/json"))
        assert ca.order(f"{proxy.url}/my-order/1").error == "no (caa)"


def test_without_an_account_nothing_is_ordered(lab_servers: LabServers) -> None:
    with opened(settings_of(lab_servers.alpha), register=False) as ca, pytest.raises(AccountProblem):
        ca.new_order(["a.example.test"])


# --- CAs that say no ----------------------------------------------------------------------------------------


def test_what_is_gone_is_gone(lab_servers: LabServers) -> None:
    with opened(settings_of(lab_servers.alpha)) as ca:
        base = lab_servers.alpha.directory_url.removesuffix("/dir")
        for call, path in [
            (ca.order, "my-order"),
            (ca.authorization, "authZ"),
            (ca.answer, "chalZ"),
            (ca.certificate, "certZ"),
        ]:
            with pytest.raises(ResourceGone) as caught:
                call(f"{base}/{path}/nonesuch")
            assert caught.value.ca == "alpha"


def test_subproblems_are_named(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    inner = [
        {
            "type": "urn:ietf:params:acme:error:caa",
            "detail": "CAA forbids it",
            "identifier": {"type": "dns", "value": "b.example.test"},
        }
    ]
    with opened(proxied) as ca:
        proxy.on("/order-plz", problem(403, "rejectedIdentifier", "no\x1b[2J way\nat all", subproblems=inner))
        with pytest.raises(CaRejected) as caught:
            ca.new_order(["a.example.test"])
    assert caught.value.problem == "rejectedIdentifier"
    assert "b.example.test: CAA forbids it (caa)" in caught.value.reason
    assert "no [2J way at all" in caught.value.reason


def in_two_minutes() -> str:
    return format_datetime(_clock.now() + timedelta(seconds=120), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("when", [lambda: "120", in_two_minutes], ids=["seconds", "date"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/Los_Angeles"])
def test_a_busy_ca_says_when_to_come_back(
    proxy: FaultProxy,
    proxied: AcmeCaSettings,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    when: Callable[[], str],
    zone: str,
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        with opened(proxied) as ca:
            proxy.on("/order-plz", too_many(when(), status))
            with pytest.raises(CaBusy) as caught:
                ca.new_order(["a.example.test"])
    finally:
        monkeypatch.undo()
        time.tzset()
    wait = caught.value.retry_after
    assert wait is not None
    assert timedelta(seconds=110) < wait <= timedelta(seconds=120)
    assert "too many requests" in caught.value.reason


def test_a_retry_after_in_the_past_means_now(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(proxied) as ca:
        proxy.on("/order-plz", too_many("Wed, 01 Jan 2020 00:00:00 GMT"))
        with pytest.raises(CaBusy) as caught:
            ca.new_order(["a.example.test"])
    assert caught.value.retry_after == timedelta(0)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Answer(500, b"oops"), CaServerError, "status 500, text/plain"),
        (problem(500, "serverInternal", "database down"), CaServerError, "database down"),
        (html(502), CaServerError, "status 502, text/html"),
        (html(503), CaBusy, "status 503, text/html"),
        (html(200), CaUnreachable, "status 200, text/html"),
        (html(404), CaUnreachable, "status 404, text/html"),
        (Answer(200, b"{nonsense", "application/json"), CaUnreachable, "JSON was due"),
        (Answer(200, b"[1]", "application/json"), CaServerError, "is not a JSON object"),
        (Answer(200, b'{"status": 7}', "application/json"), CaServerError, "strange status"),
        (Answer(200, b"{}", "application/json"), CaServerError, "has no"),
        (Answer(200, b" " * 300_000, "application/json"), CaServerError, "longer than 256 KiB"),
        (Answer(200, b"{", "application/json", length=300_000), CaServerError, "longer than 256 KiB"),
        (Answer(200, b" " * 300_000, "application/json", length=None), CaServerError, "longer than 256 KiB"),
        (Answer(200, b"{", "application/json", length=1000), CaUnreachable, "broke off"),
        (Answer(302, headers=(("Location", "http://127.0.0.1/"),)), CaUnreachable, "sends us elsewhere"),
        (Cut(after=None), CaUnreachable, "cut the connection"),
        (Cut(after=10), CaUnreachable, "broke off"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_answer_has_a_readable_reason(
    proxy: FaultProxy, proxied: AcmeCaSettings, fault: Fault, error: type[Exception], words: str
) -> None:
    with opened(proxied) as ca:
        order = ca.new_order(["a.example.test"])
        proxy.on("/my-order/", fault)
        with pytest.raises(error) as caught:
            ca.order(order.url)
        assert type(caught.value) is error
        assert words in str(caught.value)
        assert "alpha" in str(caught.value)
        assert "Maintenance" not in str(caught.value)
        assert ca.order(order.url).status == "pending"  # nothing of it is remembered


def test_urls_that_are_not_https_are_not_followed(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    body = b'{"status": "pending", "authorizations": ["http://127.0.0.1/a"], "finalize": "https://a.test/f"}'
    with opened(proxied) as ca:
        order = ca.new_order(["a.example.test"])
        proxy.on("/my-order/", Answer(200, body, "application/json"))
        with pytest.raises(CaServerError, match="not https"):
            ca.order(order.url)


# --- CAs that do not answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Hang(), Hang(forward=True), Dribble(0.2), Dribble(0.2, head=True)],
    ids=["hang", "silent", "slow body", "slow head"],
)
def test_a_request_ends_in_time(proxy: FaultProxy, proxied: AcmeCaSettings, fault: Fault) -> None:
    with opened(proxied) as ca:
        order = ca.new_order(["a.example.test"])
    with opened(replace(proxied, timeout=1.5)) as ca:
        proxy.on("/my-order/", fault)
        started = _clock.monotonic()
        with pytest.raises(CaUnreachable, match="did not answer in time"):
            ca.order(order.url)
        assert _clock.monotonic() - started < 3


def test_a_server_that_does_not_shake_hands_is_left_in_time(tmp_path: Path, lab_servers: LabServers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        directory = f"https://127.0.0.1:{silent.getsockname()[1]}/dir"
        settings = settings_of(lab_servers.alpha, directory=directory, timeout=1.0)
        started = _clock.monotonic()
        with (
            opened(settings, register=False) as ca,
            pytest.raises(CaUnreachable, match="accepts no connection"),
        ):
            ca.facts()
        assert 0.9 < _clock.monotonic() - started < 3  # a slow handshake has all the time that is left


def test_a_server_that_accepts_no_connection_is_left_in_time(lab_servers: LabServers) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        directory = f"https://127.0.0.1:{full.getsockname()[1]}/dir"
        settings = settings_of(lab_servers.alpha, directory=directory, timeout=1.5)
        started = _clock.monotonic()
        with (
            opened(settings, register=False) as ca,
            pytest.raises(CaUnreachable, match="accepts no connection"),
        ):
            ca.facts()
        assert _clock.monotonic() - started < 3


def test_nobody_listens(lab_servers: LabServers) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        directory = f"https://127.0.0.1:{taken.getsockname()[1]}/dir"
        settings = settings_of(lab_servers.alpha, directory=directory)
        with (
            opened(settings, register=False) as ca,
            pytest.raises(CaUnreachable, match="refused the connection"),
        ):
            ca.facts()


@pytest.mark.parametrize("name", ["nonesuch.invalid", "none..such.invalid", f"{'n' * 64}.invalid"])
def test_a_name_that_does_not_resolve(lab_servers: LabServers, name: str) -> None:
    """Also one that no resolver would be asked for."""
    settings = settings_of(lab_servers.alpha, directory=f"https://{name}/dir")
    with opened(settings, register=False) as ca, pytest.raises(CaUnreachable, match="does not resolve"):
        ca.facts()


def test_tls_that_is_not_trusted_leads_to_the_bundle(lab_servers: LabServers) -> None:
    settings = settings_of(lab_servers.alpha, ca_bundle=None)
    with opened(settings, register=False) as ca, pytest.raises(CaUnreachable) as caught:
        ca.facts()
    assert "not trusted" in caught.value.reason
    assert "ca_bundle" in str(caught.value)


def place_orders_at(proxy: FaultProxy, proxied: AcmeCaSettings, url: str) -> None:
    """From now on the CA's directory says that orders are placed there."""
    with opened(proxied, register=False) as ca:
        directory = json.loads(ca._wire().get(proxied.directory, ca._wire().deadline()).body)
    directory["newOrder"] = url
    proxy.on("/dir", Answer(200, json.dumps(directory).encode(), "application/json"), times=None)


def cut_one(server: socket.socket) -> None:
    server.accept()[0].close()


@pytest.mark.parametrize(
    "away", ["refused", "no name", "no handshake", "cut in the handshake", "not trusted"]
)
def test_an_order_that_no_connection_was_made_for_was_not_sent(
    proxy: FaultProxy, proxied: AcmeCaSettings, tmp_path: Path, away: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as others:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/order"
        if away == "refused":
            server.close()
        elif away == "no name":
            url = "https://nonesuch.invalid/order"
        elif away == "cut in the handshake":
            others.enter_context(ThreadPoolExecutor(1)).submit(cut_one, server)
        elif away == "not trusted":
            (tmp_path / "other").mkdir()
            other = FaultProxy(proxied.directory, folder=tmp_path / "other")
            url = others.enter_context(other).url + "/order"
        place_orders_at(proxy, proxied, url)
        with opened(replace(proxied, timeout=3.0)) as ca, pytest.raises(CaUnreachable) as caught:
            ca.new_order(["a.example.test"])
    assert not caught.value.sent


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/dir", html(502)),
        ("/dir", html(200)),
        ("/nonce-plz", html(502)),
        ("/nonce-plz", Cut(after=None)),
        ("/nonce-plz", Answer(200)),
    ],
)
def test_an_order_that_the_directory_or_a_nonce_was_lacking_for_was_not_sent(
    proxy: FaultProxy, proxied: AcmeCaSettings, path: str, fault: Fault
) -> None:
    account = Account("https://alpha.test/account", new_key())
    with opened(proxied, register=False) as ca:
        ca.use(account)
        proxy.on(path, fault)
        with pytest.raises(CaError) as caught:
            ca.new_order(["a.example.test"])
    assert not caught.value.sent
    assert proxy.count("/order-plz") == 0


def test_an_order_for_an_unknown_profile_was_not_sent(proxied: AcmeCaSettings) -> None:
    with opened(replace(proxied, profile="nonesuch")) as ca, pytest.raises(CaRejected) as caught:
        ca.new_order(["a.example.test"])
    assert not caught.value.sent


@pytest.mark.parametrize(
    "fault",
    [Cut(after=None), Cut(after=10), Hang(), html(502), html(503), problem(400, "rejectedIdentifier")],
    ids=["cut", "broke off", "no answer", "502", "503", "refused"],
)
def test_an_order_that_the_ca_may_have_heard_of_was_sent(
    proxy: FaultProxy, proxied: AcmeCaSettings, fault: Fault
) -> None:
    with opened(replace(proxied, timeout=2.0)) as ca:
        proxy.on("/order-plz", fault)
        with pytest.raises(CaError) as caught:
            ca.new_order(["a.example.test"])
    assert caught.value.sent


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bundle_that_cannot_be_read(lab_servers: LabServers, tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "roots.pem"
    if content is not None:
        bundle.write_text(content)
    settings = settings_of(lab_servers.alpha, ca_bundle=bundle)
    with opened(settings, register=False) as ca, pytest.raises(ConfigurationError, match="ca_bundle"):
        ca.facts()


def test_a_failing_directory_is_not_remembered(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(proxied, register=False) as ca:
        proxy.on("/dir", html(502))
        with pytest.raises(CaServerError):
            ca.facts()
        assert ca.facts().renewal_info
        assert ca.facts().renewal_info
    assert proxy.count("/dir") == 2


def test_the_directory_is_fetched_anew_every_day(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    clock = FakeClock()
    with closing(AcmeCa(proxied, clock)) as ca:
        found = ca.facts()
        clock.advance(timedelta(hours=23, minutes=59))
        assert ca.facts() == found
        assert proxy.count("/dir") == 1
        directory = json.loads(ca._wire().get(proxied.directory, ca._wire().deadline()).body)
        directory["meta"]["profiles"] = {"another": "came meanwhile"}
        proxy.on("/dir", Answer(200, json.dumps(directory).encode(), "application/json"), times=None)
        proxy.forget()
        clock.advance(timedelta(minutes=1))
        assert [*ca.facts().profiles] == [*ca.facts().profiles] == ["another"]
        assert proxy.count("/dir") == 1
        clock.advance(timedelta(hours=24))
        assert [*ca.facts().profiles] == ["another"]
    assert proxy.count("/dir") == 2


def test_an_old_directory_is_gone_by_while_no_other_is_to_be_had(
    proxy: FaultProxy, proxied: AcmeCaSettings
) -> None:
    clock = FakeClock()
    with closing(AcmeCa(proxied, clock)) as ca:
        found = ca.facts()
        proxy.on("/dir", html(502), times=None)
        proxy.forget()
        clock.advance(timedelta(hours=24))
        assert ca.facts() == ca.facts() == found
        clock.advance(timedelta(minutes=4))
        assert ca.facts() == found
        assert proxy.count("/dir") == 1
        clock.advance(timedelta(minutes=1))
        assert ca.facts() == found
        assert proxy.count("/dir") == 2
        proxy.calm()
        clock.advance(timedelta(minutes=5))
        assert ca.facts() != found  # of another moment
    assert proxy.count("/dir") == 3


def test_threads_share_one_look_at_a_hanging_directory(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(replace(proxied, timeout=1.5), register=False) as ca, ThreadPoolExecutor(4) as pool:
        proxy.on("/dir", Hang(), times=None)
        started = _clock.monotonic()
        calls = [pool.submit(ca.facts) for _ in range(4)]
        assert all(isinstance(call.exception(), CaUnreachable) for call in calls)
        assert _clock.monotonic() - started < 3
    assert proxy.count("/dir") == 1


# --- nonces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nonce", ["bm90LWEtbm9uY2U", None, "not/a+nonce"], ids=["foreign", "none", "malformed"]
)
def test_a_bad_nonce_is_replaced_by_a_fresh_one(
    proxy: FaultProxy, proxied: AcmeCaSettings, nonce: str | None
) -> None:
    with opened(proxied) as ca:
        order = ca.new_order(["a.example.test"])
        proxy.on("/my-order/", SpoilNonce(nonce), times=5)
        for _ in range(6):
            assert ca.order(order.url).status == "pending"
    sent = [json.loads(b64(seen.body)["protected"])["nonce"] for seen in proxy.seen if seen.body]
    assert "not/a+nonce" not in sent  # it is to be ignored (RFC 8555 section 6.5.1)


def test_the_tenth_repetition_still_counts_and_no_eleventh_is_made(
    proxy: FaultProxy, proxied: AcmeCaSettings
) -> None:
    order = f'{{"status": "ready", "finalize": "{proxy.url}/finalize"}}'.encode()
    with opened(proxied) as ca:
        proxy.on("/my-order/", Answer(200, order, "application/json"), times=None)
        url = f"{proxy.url}/my-order/1"
        for refusals, requests in [(10, 11), (11, 11)]:
            ca.new_order(["a.example.test"])  # leaves a nonce behind
            proxy.forget()
            rule = proxy.on("/my-order/", problem(400, "badNonce"), times=refusals)
            if refusals == 10:
                assert ca.order(url).status == "ready"
            else:
                with pytest.raises(CaServerError, match="nonces"):
                    ca.order(url)
            assert rule.hits == refusals
            assert proxy.count("/my-order/") == requests
            assert proxy.count("/nonce-plz") == 10  # the refusals brought none along
            nonces = {json.loads(b64(seen.body)["protected"])["nonce"] for seen in proxy.seen if seen.body}
            assert len(nonces) == requests


def test_none_of_the_nonces_that_were_kept_follows_a_refused_one(
    proxy: FaultProxy, proxied: AcmeCaSettings
) -> None:
    """A CA that was restarted knows none of them."""
    order = f'{{"status": "ready", "finalize": "{proxy.url}/finalize"}}'.encode()
    with opened(proxied) as ca, ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            list(pool.map(lambda number: ca.new_order([f"{number}.example.test"]), range(4)))
            if proxy.count("/nonce-plz") > 2:
                break  # so many are kept now
        assert proxy.count("/nonce-plz") > 2
        proxy.forget()
        proxy.on("/my-order/", Answer(200, order, "application/json"), times=None)
        proxy.on("/my-order/", problem(400, "badNonce"), times=2)
        assert ca.order(f"{proxy.url}/my-order/1").status == "ready"
    assert proxy.count("/nonce-plz") == 2


def b64(body: bytes) -> dict[str, bytes]:
    """The decoded members of a JWS."""
    return {name: urlsafe_b64decode(value + "==") for name, value in json.loads(body).items()}


def test_refused_nonces_end_with_the_deadline(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(proxied) as ca:
        order = ca.new_order(["a.example.test"])
    with opened(replace(proxied, timeout=1.5)) as ca:
        proxy.on("/my-order/", problem(400, "badNonce"), times=None)
        proxy.on("/nonce-plz", Dribble(0.01, head=True), times=None)
        started = _clock.monotonic()
        with pytest.raises(CaUnreachable, match="in time"):
            ca.order(order.url)
        assert _clock.monotonic() - started < 3


def test_nonces_are_kept_for_the_next_request(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(proxied) as ca:
        order = ca.new_order(["a.example.test"])
        proxy.calm()
        proxy.forget()
        for _ in range(10):
            ca.order(order.url)
    # Pebble refuses a few good nonces of itself; its refusal brings the next one along.
    assert proxy.count("/nonce-plz") == 0


def test_many_rejected_nonces_are_no_failure(tmp_path: Path) -> None:
    with (
        # Eleven in a row end a call: of half of all, that would be met here once in sixty runs.
        LabServers.start(tmp_path / "servers", LabOptions(nonce_reject=25, retry_after=2)) as servers,
        ProjectLab.on(servers, tmp_path / "project") as lab,
        opened(settings_of(servers.alpha)) as ca,
    ):
        order = ca.new_order([lab.domain])
        for _ in range(30):
            assert ca.order(order.url).status == "pending"
        order = validate(ca, order, lab)
        order = ca.finalize(order.finalize, order.url, new_csr((lab.domain,))[1])
        assert order.status == "processing"
        # The CA's wish for the next look; by chance it comes as seconds or as a date.
        assert order.retry_after is not None
        assert timedelta(0) < order.retry_after <= timedelta(seconds=2)
        assert poll(ca, order, "valid").certificate


# --- threads, connections, logs -----------------------------------------------------------------------------


def test_many_threads_share_one_client(lab: ProjectLab) -> None:
    with opened(settings_of(lab.alpha)) as ca, ThreadPoolExecutor(8) as pool:
        gate = threading.Barrier(8)

        def order(number: int) -> str:
            gate.wait(10)
            made = ca.new_order([f"n{number}.{lab.domain}"])
            authorization = ca.authorization(made.authorizations[0])
            assert authorization.identifier == f"n{number}.{lab.domain}"
            return made.url

        assert len(set(pool.map(order, range(8)))) == 8


def test_a_connection_is_used_again(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(proxied) as ca:
        order = ca.new_order(["a.example.test"])
        for _ in range(5):
            ca.order(order.url)
    assert proxy.connections == 1


def test_a_connection_that_the_server_has_closed_is_not_used(
    proxy: FaultProxy, proxied: AcmeCaSettings
) -> None:
    with opened(proxied) as ca:
        order = ca.new_order(["a.example.test"])
        proxy.hang_up()
        assert ca.order(order.url).status == "pending"
    assert proxy.connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used(
    lab_servers: LabServers, proxy: FaultProxy, proxied: AcmeCaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A gateway between that has forgotten it says nothing, and a request on it would have no answer.
    clock = PassingClock()
    with opened(proxied, clock=clock) as ca:
        clock.advance(timedelta(seconds=29))
        ca.new_order(["a.example.test"])
        assert proxy.connections == 1
        clock.advance(timedelta(seconds=31))
        ca.new_order(["a.example.test"])
        assert proxy.connections == 2
    with Tunnel(None) as tunnel:
        through(monkeypatch, f"http://127.0.0.1:{tunnel.port}")
        with opened(settings_of(lab_servers.alpha), clock=clock) as ca:
            clock.advance(timedelta(seconds=29))
            ca.new_order(["a.example.test"])
            assert len(tunnel.seen) == 1
            clock.advance(timedelta(seconds=31))
            ca.new_order(["a.example.test"])
            assert len(tunnel.seen) == 2


def test_a_name_with_many_silent_addresses_gets_the_time_of_one_call(
    lab_servers: LabServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4):  # they fill its queue: nobody else is let in
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())

        def addresses(*_: object, **__: object) -> Iterator[object]:
            for number in range(20):
                tried.append(number)
                yield socket.AF_INET, socket.SOCK_STREAM, 0, "", silent.getsockname()

        monkeypatch.setattr(socket, "getaddrinfo", addresses)
        settings = settings_of(lab_servers.alpha, directory="https://ca.example.test/dir", timeout=0.6)
        with (
            opened(settings, register=False) as ca,
            pytest.raises(CaUnreachable, match="accepts no connection"),
        ):
            ca.facts()
    assert 1 < len(tried) <= 4


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxy_of_the_environment_is_used(
    lab_servers: LabServers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str
) -> None:
    context = trusted_context(monkeypatch, tmp_path) if scheme == "https" else None
    with Tunnel(context) as tunnel:
        through(monkeypatch, f"{scheme}://user:p%C3%A4%20ss@127.0.0.1:{tunnel.port}")
        with opened(settings_of(lab_servers.alpha)) as ca:
            assert ca.facts().renewal_info
        assert len(tunnel.seen) == 1
        place = str(lab_servers.alpha.limited_address)
        assert tunnel.seen[0].startswith(f"CONNECT {place} HTTP/1.")
        secret = b64encode("user:pä ss".encode()).decode()
        assert f"proxy-authorization: basic {secret}".lower() in tunnel.seen[0].lower()
        assert secret in tunnel.seen[0]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with opened(settings_of(lab_servers.alpha), register=False) as ca:
            assert ca.facts().renewal_info
        assert len(tunnel.seen) == 1


@pytest.mark.parametrize(
    "url",
    ["socks5://u:hidden@127.0.0.1:1", "http://u:hidden@", "http://u:hidden@[::1", "http://u:hidden@a:b"],
)
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    lab_servers: LabServers, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    through(monkeypatch, url)
    with opened(settings_of(lab_servers.alpha), register=False) as ca:
        with pytest.raises(ConfigurationError, match="https_proxy") as caught:
            ca.facts()
        assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_a_proxy_that_refuses_is_not_taken_for_the_ca(
    lab_servers: LabServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        through(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}")
        with (
            opened(settings_of(lab_servers.alpha), register=False) as ca,
            pytest.raises(CaUnreachable, match=r"environment's proxy\) refused the connection"),
        ):
            ca.facts()


def test_a_request_through_a_proxy_with_tls_ends_in_time(
    proxy: FaultProxy, proxied: AcmeCaSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Tunnel(trusted_context(monkeypatch, tmp_path)) as tunnel:
        through(monkeypatch, f"https://127.0.0.1:{tunnel.port}")
        with opened(replace(proxied, timeout=1.5), register=False) as ca:
            proxy.on("/dir", Dribble(0.2, head=True))
            started = _clock.monotonic()
            with pytest.raises(CaUnreachable, match="did not answer in time"):
                ca.facts()
            assert _clock.monotonic() - started < 3


def trusted_context(monkeypatch: pytest.MonkeyPatch, folder: Path) -> ssl.SSLContext:
    """For a server that this machine's own trust store trusts, and the CA's bundle does not."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "system.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "system.pem"))
    return context


def through(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")


class Tunnel:
    """A proxy that knows CONNECT and nothing else."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[str] = []
        self._context = context
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Tunnel:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            context = self._context
            with context.wrap_socket(plain, server_side=True) if context else plain as client:
                head = client.recv(65536).decode()
                self.seen.append(head)
                host, _, port = head.split()[1].partition(":")
                with socket.create_connection((host, int(port))) as server:
                    client.sendall(b"HTTP/1.1 200 go on\r\n\r\n")
                    back = threading.Thread(target=_pump, args=(server, client))
                    back.start()
                    _pump(client, server)
                    back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one of the two has gone


def test_the_client_says_who_it_is(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    with opened(proxied):
        pass
    assert {request.headers["User-Agent"] for request in proxy.seen} == {"dualcert-tests"}


def test_the_log_tells_requests_and_no_secrets(
    lab_servers: LabServers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="dualcert")  # a command run before may have set a level of its own
    eab = lab_servers.beta.eab
    assert eab
    key = new_key()
    settings = settings_of(lab_servers.beta)
    with opened(settings, register=False) as ca:
        ca.use(Account(ca.register(key), key))
        ca.new_order(["a.example.test"])
    ours = [record.getMessage() for record in caplog.records if record.name == "dualcert.acmeclient"]
    assert any(line.startswith(f"GET {settings.directory}: 200, ") for line in ours)
    assert any("/order-plz: 201, " in line for line in ours)
    everything = caplog.text + repr(settings) + repr(ca) + repr(vars(ca))
    assert eab.hmac_key not in everything
    assert key.decode().splitlines()[1] not in everything
    assert '"protected"' not in everything


# --- chains -------------------------------------------------------------------------------------------------


def chain_to(root: str) -> bytes:
    """A chain of one certificate that a root of this name has issued."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, root)])
    builder = x509.CertificateBuilder(name, x509.Name([]), key.public_key(), x509.random_serial_number())
    now = _clock.now()
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def download(settings: AcmeCaSettings) -> IssuedCertificate:
    with opened(settings) as ca:
        return ca.certificate(settings.directory.replace("/dir", "/certZ/1"))


def test_all_chains_of_a_certificate_are_fetched(
    proxy: FaultProxy, proxied: AcmeCaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    default, first, second = (chain_to(name) for name in ("Root X1", "Root X2", "Root X3"))
    media_type = "application/pem-certificate-chain"
    links = f'<{proxy.url}/more/1>; rel="alternate", </more/2>;rel="alternate", <{proxy.url}/dir>;rel="index"'
    proxy.on("/certZ/1", Answer(200, default, media_type, (("Link", links),)), times=None)
    proxy.on("/more/1", Answer(200, first, media_type), times=None)
    proxy.on("/more/2", Answer(200, second, media_type), times=None)

    issued = download(proxied)

    assert (issued.default.encode(), [one.encode() for one in issued.alternates]) == (
        default,
        [first, second],
    )
    assert not caplog.messages
    proxy.on("/more/1", html(500))
    assert [one.encode() for one in download(proxied).alternates] == [second]
    assert "cannot be had" in caplog.text


def test_a_certificate_with_one_chain_costs_one_request(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    proxy.on("/certZ/1", Answer(200, chain_to("Root X1"), "application/pem-certificate-chain"))
    with opened(proxied) as ca:
        ca.facts()
        proxy.forget()
        assert ca.certificate(proxied.directory.replace("/dir", "/certZ/1")).alternates == ()
    assert len(proxy.seen) == 1


def test_a_certificate_links_to_a_hundred_chains_in_vain(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    pem, media_type = chain_to("Root X1"), "application/pem-certificate-chain"
    links = ", ".join(f'</more/{number}>;rel="alternate"' for number in range(100))
    proxy.on("/certZ/1", Answer(200, pem, media_type, (("Link", links),)))
    proxy.on("/more/", Answer(200, pem, media_type), times=None)
    assert len(download(proxied).alternates) == 10


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA",
        b"-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIBA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"<html></html>",
        chain_to("Root") + b"and some words\n",
        new_key(),
        b"\xff\xfe",
    ],
    ids=["empty", "cut", "not base64", "bad padding", "not DER", "html", "with words", "a key", "binary"],
)
def test_what_is_no_chain_is_refused(proxy: FaultProxy, proxied: AcmeCaSettings, body: bytes) -> None:
    proxy.on("/certZ/1", Answer(200, body, "application/pem-certificate-chain"))
    with pytest.raises(CaServerError, match="not a chain"):
        download(proxied)


def test_a_chain_that_never_ends_is_refused(proxy: FaultProxy, proxied: AcmeCaSettings) -> None:
    chain = chain_to("Root")
    limit = 1024 * 1024
    proxy.on("/certZ/1", Answer(200, chain * (limit // len(chain)), "application/pem-certificate-chain"))
    assert len(download(proxied).default) > limit - len(chain)
    proxy.on("/certZ/1", Answer(200, chain * (limit // len(chain) + 1), "application/pem-certificate-chain"))
    with pytest.raises(CaServerError, match="longer than 1024 KiB"):
        download(proxied)
