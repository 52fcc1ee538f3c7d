"""Keys that must not be: real ones, made the wrong way on purpose."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gmpy2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

E = 65537


def key_of(p: int, q: int) -> rsa.RSAPrivateKey:
    """The RSA key with these two primes."""
    p, q = max(p, q), min(p, q)
    d = int(gmpy2.invert(E, (p - 1) * (q - 1)))
    public = rsa.RSAPublicNumbers(E, p * q)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    )
    return numbers.private_key()


def _prime(bits: int) -> int:
    # The two highest bits are set: a product of two has twice as many.
    start = secrets.randbits(bits) | (3 << (bits - 2)) | 1
    return int(gmpy2.next_prime(start))


def with_close_primes(bits: int = 2048) -> rsa.RSAPrivateKey:
    """What Fermat's method takes apart at once: the second prime is the next one after the first."""
    while True:
        p = _prime(bits // 2)
        q = int(gmpy2.next_prime(p))
        if gmpy2.gcd((p - 1) * (q - 1), E) == 1:
            return key_of(p, q)


def _infineon_prime() -> int:
    """k * M + (65537 ** a mod M), M the product of the first 126 primes: as for keys of 2048 bits (CVE-2017-15361)."""
    product, prime = 1, 1
    for _ in range(126):
        prime = int(gmpy2.next_prime(prime))
        product *= prime
    lowest = (3 << 1022) // product + 1
    while True:
        k = lowest + secrets.randbelow((1 << 1024) // product - lowest)
        p = k * product + int(gmpy2.powmod(E, secrets.randbits(256), product))
        if gmpy2.is_prime(p) and gmpy2.gcd(p - 1, E) == 1:
            return p


def of_infineon() -> rsa.RSAPrivateKey:
    """A key as smart cards with the ROCA flaw make them."""
    return key_of(_infineon_prime(), _infineon_prime())


def with_a_small_factor() -> rsa.RSAPublicKey:
    """A modulus of 2048 bits that 251 divides, as a damaged one may be."""
    return rsa.RSAPublicNumbers(E, 251 * _prime(2041)).public_key()


@contextmanager
def machine_that_makes(
    monkeypatch: pytest.MonkeyPatch, module: Any, function: str, bad: Callable[[], Any], times: int
) -> Iterator[list[Any]]:
    """As long as this lasts, the library makes bad keys so many times, and then good ones; which it has made."""
    good = getattr(module, function)
    made: list[Any] = []
    left = iter(range(times))  # whichever thread asks

    def make(*arguments: Any, **options: Any) -> Any:
        key = good(*arguments, **options) if next(left, None) is None else bad()
        made.append(key)
        return key

    with monkeypatch.context() as patch:
        patch.setattr(module, function, make)
        yield made
