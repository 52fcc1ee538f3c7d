"""A CRL counts if the CA signed it, for this distribution point, and it is fresh; anything else proves nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from dualcert.errors import EvidenceRejected
from dualcert.evidence import crl as reading
from dualcert.ports.evidence import KnownCrl
from tests.revocations import Signer, crl, entry
from tests.tinyca import TinyCa, named

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PLACE = "http://crl.example/1.crl"
TINY = TinyCa.make()
CA = TINY.intermediate


def read(
    data: bytes,
    *,
    known: KnownCrl | None = None,
    issuer: Signer = CA,
    now: datetime = NOW,
    of_cas: bool = False,
) -> reading.VerifiedCrl:
    return reading.read(data, PLACE, issuer.certificate, known or KnownCrl(), now, of_cas=of_cas)


def serials(found: reading.VerifiedCrl, size: int = 100) -> list[bytes]:
    return [serial for some, _ in found.batches(size) for serial in some]


def point(place: str = PLACE, **changes: object) -> x509.IssuingDistributionPoint:
    values: dict[str, object] = {
        "full_name": [x509.UniformResourceIdentifier(place)],
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**values, **changes})  # type: ignore[arg-type]


def test_every_entry_is_found_with_its_date_and_reason() -> None:
    found = read(crl(CA, {b"\x01": None, b"\x7f\x02": 1, b"\x03" * 16: 4}, now=NOW))

    told = {
        serial: found.entry(position)
        for some, positions in found.batches(2)
        for serial, position in zip(some, positions, strict=True)
    }
    assert {serial: one.reason for serial, one in told.items()} == {
        b"\x01": "unspecified",
        b"\x7f\x02": "keyCompromise",
        b"\x03" * 16: "superseded",
    }
    assert {one.since for one in told.values()} == {NOW}
    assert (found.number, found.this_update, found.next_update) == (1, NOW, NOW + timedelta(days=1))


def test_a_serial_of_twenty_bytes_with_its_first_bit_set_is_found_as_it_is_stored() -> None:
    serial = b"\xff" + b"\x01" * 19
    assert serials(read(crl(CA, [serial], now=NOW))) == [serial]


def test_an_empty_list_is_a_good_answer() -> None:
    assert serials(read(crl(CA, now=NOW))) == []


def test_entries_may_be_longer_than_a_byte_can_say() -> None:
    long = b"".join(entry(bytes([1, number]), NOW, 1) for number in range(200))
    assert len(serials(read(crl(CA, entries=long, now=NOW)), 7)) == 200


def test_a_crl_that_another_key_has_signed_proves_nothing() -> None:
    forged = crl(CA, [b"\x01"], now=NOW, key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(EvidenceRejected, match="signature"):
        read(forged)


def test_a_crl_that_was_changed_after_it_was_signed_proves_nothing() -> None:
    whole = crl(CA, [b"\x01\x02\x03\x04"], now=NOW)
    with pytest.raises(EvidenceRejected, match="signature"):
        read(whole.replace(b"\x01\x02\x03\x04", b"\x01\x02\x03\x05"))


def test_a_crl_that_is_cut_off_proves_nothing() -> None:
    whole = crl(CA, [bytes([1, number]) for number in range(100)], now=NOW)
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(EvidenceRejected):
            read(whole[:length])


def test_the_crl_of_another_ca_proves_nothing_even_under_the_same_key() -> None:
    with pytest.raises(EvidenceRejected, match="another CA"):
        read(crl(CA, [b"\x01"], now=NOW, name=named("somebody else")))


def test_of_the_name_of_another_ca_so_much_is_told_as_a_person_can_read() -> None:
    for name in ("x" * 64 + "\x1b[2J\n", "y" * 64):
        many = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, name)] * 500)
        with pytest.raises(EvidenceRejected) as told:
            read(crl(CA, [b"\x01"], now=NOW, name=many))
        assert told.value.reason.isprintable()
        assert len(told.value.reason) < 500


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(), timedelta(hours=1)])
def test_a_clock_that_is_an_hour_off_still_sees(off: timedelta) -> None:
    fresh = crl(CA, [b"\x01"], now=NOW, lasts=timedelta(minutes=5))
    assert serials(read(fresh, now=NOW + off)) == [b"\x01"]


def test_a_stale_crl_and_one_of_the_future_prove_nothing() -> None:
    with pytest.raises(EvidenceRejected, match="stale"):
        read(crl(CA, [b"\x01"], now=NOW - timedelta(days=3)))
    with pytest.raises(EvidenceRejected, match="future"):
        read(crl(CA, [b"\x01"], now=NOW + timedelta(days=3)))


def test_a_crl_does_not_go_back() -> None:
    known = KnownCrl(number=7, this_update=NOW)
    with pytest.raises(EvidenceRejected, match="older"):
        read(crl(CA, now=NOW, number=6), known=known)
    with pytest.raises(EvidenceRejected, match="older"):
        read(crl(CA, now=NOW, number=None), known=known)
    with pytest.raises(EvidenceRejected, match="older"):
        read(crl(CA, now=NOW - timedelta(minutes=1), number=7), known=known)
    assert read(crl(CA, now=NOW, number=7), known=known).number == 7


@pytest.mark.parametrize(
    ("extension", "critical", "why"),
    [
        (point("http://crl.example/2.crl"), True, "another distribution point"),
        (point(indirect_crl=True), True, "indirect"),
        (point(only_contains_ca_certs=True), True, "of this kind"),
        (point(only_some_reasons=frozenset([x509.ReasonFlags.superseded])), True, "reasons only"),
        (point(full_name=None, only_contains_attribute_certs=True), True, "reasons only"),
        (x509.DeltaCRLIndicator(3), True, "delta"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True, "not understood"),
    ],
)
def test_what_is_not_the_whole_list_is_refused(
    extension: x509.ExtensionType, critical: bool, why: str
) -> None:
    with pytest.raises(EvidenceRejected, match=why):
        read(crl(CA, [b"\x01"], now=NOW, extensions=[(extension, critical)]))


def test_the_list_of_this_distribution_point_is_taken() -> None:
    assert serials(read(crl(CA, [b"\x01"], now=NOW, extensions=[(point(), True)]))) == [b"\x01"]
    users = [(point(only_contains_user_certs=True), True)]
    assert serials(read(crl(CA, [b"\x01"], now=NOW, extensions=users))) == [b"\x01"]
    with pytest.raises(EvidenceRejected, match="of this kind"):
        read(crl(CA, [b"\x01"], now=NOW, extensions=users), of_cas=True)


def test_an_entry_that_is_none_ends_the_reading() -> None:
    broken = crl(CA, entries=entry(b"\x01", NOW) + b"\x30\x05\x04\x03abc", now=NOW)
    with pytest.raises(EvidenceRejected):
        serials(read(broken))


def test_pem_is_no_crl_on_the_wire() -> None:
    pem = x509.load_der_x509_crl(crl(CA, now=NOW)).public_bytes(Encoding.PEM)
    with pytest.raises(EvidenceRejected, match="cannot be read"):
        read(pem)
