"""Keys, and the JWS that every request to a CA is (RFC 8555 section 6.2).

acme's ``JWS`` parses again what it has just written, which takes four times as long as the signature. The
protected header has four members, so it is written here, and josepy makes key, thumbprint and signature.
``acme.jws`` is the part of acme that is cheap to import: ``acme.messages`` brings in requests and pyOpenSSL.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from re import compile as pattern
from typing import Any

from acme.jws import JWS
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from josepy import jwa
from josepy.jwk import JWK, JWKEC, JWKRSA, JWKOct

from dualcert.errors import KeyProblem

_BASE64URL = pattern(r"[A-Za-z0-9_-]+")
_EC_ALGORITHMS: dict[str, jwa.JWASignature] = {
    "secp256r1": jwa.ES256,
    "secp384r1": jwa.ES384,
    "secp521r1": jwa.ES512,
}


class Signer:
    """Signs requests with one key; shared by all threads. ``repr`` shows nothing of the key.

    ``account`` is the account's URL, which then names the key; without it the public key travels along.
    ``thumbprint`` is the public key's (RFC 7638), base64url.
    Raises KeyProblem where ``key`` is not a PKCS#8 PEM of a kind that ACME knows.
    """

    def __init__(self, key: bytes, account: str | None = None) -> None:
        self.account = account
        self._jwk, self._algorithm = _load(key)
        self._public: dict[str, Any] = self._jwk.public_key().to_json()
        self._identity = {"jwk": self._public} if account is None else {"kid": account}
        self.thumbprint = _base64url(self._jwk.thumbprint())

    def sign(self, url: str, nonce: str, payload: bytes) -> bytes:
        """A request's body; an empty payload makes it a POST-as-GET (section 6.3)."""
        return json.dumps(self._jws({**self._identity, "nonce": nonce, "url": url}, payload)).encode()

    def key_change(self, url: str, account: str, old: Signer) -> dict[str, str]:
        """What the old key has to sign once more for this one to take its place (section 7.3.5): it has no nonce, and
        the public key travels along."""
        payload = json.dumps({"account": account, "oldKey": old._public}).encode()
        return self._jws({"jwk": self._public, "url": url}, payload)

    def _jws(self, header: dict[str, Any], payload: bytes) -> dict[str, str]:
        protected = _base64url(json.dumps({"alg": self._algorithm.name, **header}).encode())
        body = _base64url(payload)
        signature = self._algorithm.sign(self._jwk.key, f"{protected}.{body}".encode())
        return {"protected": protected, "payload": body, "signature": _base64url(signature)}

    def dns_value(self, token: str) -> str:
        """The TXT value that answers a dns-01 challenge (section 8.4)."""
        return _base64url(hashlib.sha256(f"{token}.{self.thumbprint}".encode()).digest())

    def external_account_binding(self, url: str, kid: str, hmac_key: str) -> dict[str, Any]:
        """The binding of this key to an account outside ACME, for newAccount at ``url`` (section 7.3.4).

        Raises ValueError where ``hmac_key`` is not base64url.
        """
        secret = binding_key(hmac_key)
        public = json.dumps(self._public).encode()
        binding = JWS.sign(public, key=JWKOct(key=secret), alg=jwa.HS256, nonce=None, url=url, kid=kid)
        return dict(binding.to_json())

    def __repr__(self) -> str:
        return f"Signer({self._algorithm.name})"


def binding_key(hmac_key: str) -> bytes:
    """The key of an external account, with or without padding. Raises ValueError where it is not base64url."""
    bare = hmac_key.rstrip("=")
    # The decoder would skip what is not of its alphabet, and the CA would say that the signature is wrong.
    if not _BASE64URL.fullmatch(bare) or len(bare) % 4 == 1:
        raise ValueError("not base64url")
    return urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def _load(key: bytes) -> tuple[JWK, jwa.JWASignature]:
    # JWK.load would take what it cannot read for a symmetric key.
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        raise KeyProblem("the key that is to sign is not an unencrypted PKCS#8 PEM") from None
    if isinstance(private, rsa.RSAPrivateKey):
        return JWKRSA(key=private), jwa.RS256
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _EC_ALGORITHMS:
        return JWKEC(key=private), _EC_ALGORITHMS[private.curve.name]
    raise KeyProblem("ACME takes no key of the kind that is to sign: use EC P-256, P-384 or RSA")


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
