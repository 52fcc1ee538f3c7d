"""What the client signs is what acme and josepy verify."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode
from typing import TypeAlias

import pytest
from acme import challenges, jws
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from josepy.jwk import JWK, JWKOct

from dualcert.acmeclient.signing import Signer
from dualcert.errors import KeyProblem
from dualcert.lifecycle import accountkeys

URL = "https://ca.example.test/order"
ACCOUNT = "https://ca.example.test/account/1"

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

P_256 = ec.generate_private_key(ec.SECP256R1())
KEYS: list[PrivateKey] = [
    P_256,
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP521R1()),
    rsa.generate_private_key(65537, 2048),
]
IDS = ["P-256", "P-384", "P-521", "RSA"]


def pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def decoded(value: str) -> bytes:
    return urlsafe_b64decode(value + "==")


@pytest.mark.parametrize("key", KEYS, ids=IDS)
@pytest.mark.parametrize("payload", [b"", b"{}", b'{"identifiers": []}'])
def test_a_request_verifies_and_names_the_account(key: PrivateKey, payload: bytes) -> None:
    body = Signer(pem(key), ACCOUNT).sign(URL, "bm9uY2U", payload)
    signed = jws.JWS.json_loads(body.decode())
    header = signed.signature.combined
    assert signed.verify(JWK.load(pem(key)).public_key())
    assert signed.payload == payload
    assert (header.kid, header.url, header.nonce, header.jwk) == (ACCOUNT, URL, b"nonce", None)
    assert json.loads(body).keys() == {"protected", "payload", "signature"}


@pytest.mark.parametrize("key", KEYS, ids=IDS)
def test_without_an_account_the_public_key_travels_along(
    key: PrivateKey,
) -> None:
    body = Signer(pem(key)).sign(URL, "bm9uY2U", b"{}")
    signed = jws.JWS.json_loads(body.decode())
    assert signed.verify()
    header = json.loads(decoded(json.loads(body)["protected"]))
    assert "kid" not in header
    assert not {"d", "p", "q", "dp", "dq", "qi"} & header["jwk"].keys()


@pytest.mark.parametrize("key", KEYS, ids=IDS)
def test_the_txt_value_is_the_one_acme_computes(
    key: PrivateKey,
) -> None:
    jwk = JWK.load(pem(key))
    challenge = challenges.DNS01(token=hashlib.sha256(b"token").digest())
    assert Signer(pem(key), ACCOUNT).dns_value(challenge.encode("token")) == challenge.validation(jwk)


@pytest.mark.parametrize(
    "secret", ["c2VjcmV0LXNlY3JldC1zZWNyZXQ_", "c2VjcmV0LXNlY3JldC1zZWNyZX==", "c2VjcmV0LXNlY3JldC1zZWNyZXQ"]
)
def test_a_binding_verifies_under_the_shared_key(secret: str) -> None:
    key = P_256
    binding = Signer(pem(key)).external_account_binding(URL, "kid-1", secret)
    signed = jws.JWS.from_json(binding)
    assert signed.verify(
        JWKOct(key=urlsafe_b64decode(secret.rstrip("=") + "=" * (-len(secret.rstrip("=")) % 4)))
    )
    header = json.loads(decoded(binding["protected"]))
    assert header == {"alg": "HS256", "kid": "kid-1", "url": URL}
    assert json.loads(signed.payload) == JWK.load(pem(key)).public_key().to_json()


@pytest.mark.parametrize("secret", ["not base64url!", "ä", "A"])
def test_a_binding_key_that_is_no_base64url_is_a_value_error_without_the_key(secret: str) -> None:
    with pytest.raises(ValueError, match="^not base64url$"):
        Signer(pem(P_256)).external_account_binding(URL, "kid-1", secret)


@pytest.mark.parametrize(
    "key",
    [
        b"not a key",
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP256K1())),
        P_256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    ],
    ids=["rubbish", "Ed25519", "secp256k1", "encrypted"],
)
def test_a_key_that_cannot_sign_is_refused_unseen(key: bytes) -> None:
    with pytest.raises(KeyProblem) as caught:
        Signer(key)
    assert caught.value.__cause__ is None
    assert not any(line in str(caught.value) for line in key.decode().splitlines() if line)


def test_a_signer_shows_nothing_of_its_key() -> None:
    assert repr(Signer(pem(P_256), ACCOUNT)) == "Signer(ES256)"


def test_a_key_change_is_signed_by_the_new_key_and_names_the_old_one() -> None:
    new, old = P_256, ec.generate_private_key(ec.SECP384R1())
    inner = Signer(pem(new)).key_change(URL, ACCOUNT, Signer(pem(old), ACCOUNT))
    signed = jws.JWS.from_json(inner)
    assert signed.verify(JWK.load(pem(new)).public_key())
    header = json.loads(decoded(inner["protected"]))
    assert header == {"alg": "ES256", "jwk": JWK.load(pem(new)).public_key().to_json(), "url": URL}
    assert json.loads(signed.payload) == {
        "account": ACCOUNT,
        "oldKey": JWK.load(pem(old)).public_key().to_json(),
    }


def test_a_thumbprint_is_made_as_rfc_7638_says() -> None:
    assert Signer(pem(P_256)).thumbprint == accountkeys.thumbprint(pem(P_256))
    assert len(Signer(pem(P_256)).thumbprint) == 43
