"""A client that needs a permit for each signed request waits for as long as it is told, and asks again for the next."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dualcert.acmeclient import AcmeCa, AcmeCaSettings
from dualcert.errors import CaUnreachable
from dualcert.ports.ca import Account
from dualcert.testing.clock import FakeClock

NOWHERE = "https://127.0.0.1:1"


def test_each_request_waits_as_its_permit_says() -> None:
    clock, waits = FakeClock(), [0.25, 0.0, 0.5]
    ca = AcmeCa(AcmeCaSettings(name="alpha", directory=f"{NOWHERE}/dir"), clock, lambda: waits.pop(0))
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    ca.use(Account(f"{NOWHERE}/account/1", pem))
    for _ in range(3):
        with pytest.raises(CaUnreachable):
            ca.order(f"{NOWHERE}/order/1")
    assert clock.slept == [0.25, 0.5]
