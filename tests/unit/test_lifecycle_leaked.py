"""What is given as a leaked key or its certificate may be anything."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from dualcert.errors import UsageProblem
from dualcert.lifecycle import leaked
from tests.store.watched import spki_of
from tests.tinyca import TinyCa

LEAF = TinyCa.make().leaf("a.example", began=datetime(2026, 1, 1, tzinfo=UTC))
VERSION = bytes.fromhex("a003020102")


def test_a_certificate_is_known_by_its_key_in_pem_and_der() -> None:
    for encoding in (Encoding.PEM, Encoding.DER):
        assert leaked.spki_of_certificate(LEAF.public_bytes(encoding), "a file") == spki_of(LEAF)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        LEAF.public_bytes(Encoding.DER)[:-1],
        LEAF.public_bytes(Encoding.DER).replace(VERSION, VERSION[:-1] + b"\x05"),
    ],
    ids=["nothing", "no certificate", "cut off", "of no version"],
)
def test_what_is_no_certificate_is_refused(content: bytes) -> None:
    with pytest.raises(UsageProblem, match="holds no certificate"):
        leaked.spki_of_certificate(content, "a file")
