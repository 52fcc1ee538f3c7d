"""Lists of serials as they are found in the world."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tracemalloc
import zlib
from typing import Any, BinaryIO, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from dualcert.errors import UsageProblem
from dualcert.lifecycle.incidents import reading
from dualcert.lifecycle.incidents.opening import Entry
from tests.revocations import crl
from tests.tinyca import TinyCa


def serials(content: bytes) -> list[Entry]:
    return list(reading.serials(reading.opened(io.BytesIO(content))))


@pytest.mark.parametrize(
    "line",
    [
        "03a1b2",
        "3A1B2",
        "03:A1:B2",
        "0003a1b2",
        "00:03:a1:b2",
        "0x3a1b2",
        " 03a1b2 \r",
        '123,"03a1b2",2027-01-01 00:00:00+00:00,example.com,www.example.com',
        "123,03a1b2,2027-01-01,example.com",
        ' 123 , "03a1b2" , "2027-01-01 10:00:00 +0000 UTC" , example.com',
        "123,03:a1:b2,2027-01-01",
        "\ufeff03a1b2",
    ],
)
def test_a_serial_is_its_number_however_it_is_written(line: str) -> None:
    [one] = serials(f"{line}\n".encode())
    assert one == Entry(1, serial=bytes.fromhex("03a1b2"))


@pytest.mark.parametrize("line", ["serial", "0", "00:00", "03a1zz", "11" * 21, "id,,x", "\xff\xfe"])
def test_what_is_no_serial_is_told_with_its_line_and_the_rest_goes_on(line: str) -> None:
    found = serials(f"# a remark\n\n{line}\n03a1b2".encode("latin-1"))
    assert [one.line for one in found] == [3, 4]
    assert found[0].serial is None
    assert found[0].problem
    assert found[1].serial == bytes.fromhex("03a1b2")


@pytest.mark.parametrize(
    "line",
    [
        "03a1b2,03a1b3",
        "03a1b2,03a1b3,03a1b4",
        "1234,5678,9012",
        "03a1b2,",
        "123,03a1b2",
        "03a1b2,123,2027-01-01,example.com",
        "123,03a1b2,example.com",
        "12a,03a1b2,2027-01-01",
        "\u0661,03a1b2,2027-01-01",
        "123,03a1b2,20270101",
    ],
)
def test_a_line_with_commas_that_is_not_of_the_published_form_is_no_serial(line: str) -> None:
    """Of several serials on a line one would be named, and the others would vanish."""
    found = serials(f"{line}\n03a1b2\n".encode())
    assert [one.serial for one in found] == [None, bytes.fromhex("03a1b2")]
    assert line in (found[0].problem or "")


def test_what_cannot_be_read_is_told_without_what_a_terminal_would_obey() -> None:
    [one] = serials(b"\x1b[2Jaway\x07\n")
    assert one.problem is not None
    assert one.problem.isprintable()
    assert "away" in one.problem


def test_a_line_that_is_too_long_is_one_line_and_names_nothing() -> None:
    found = serials(b"0" * 70_000 + b"3a1b2\n" + b'1,"03a1b2",' + b"x" * 140_000 + b"\nserial\n03a1b2\n")
    assert [(one.line, one.serial) for one in found] == [
        (1, None),
        (2, None),
        (3, None),
        (4, bytes.fromhex("03a1b2")),
    ]
    assert "longer than" in (found[0].problem or "")


def test_twenty_bytes_with_a_sign_byte_in_front_are_a_serial() -> None:
    [one] = serials(b"00" + b"ff" * 20)
    assert one.serial == b"\xff" * 20


def test_a_packed_list_that_is_cut_off_gives_what_it_has_and_says_so() -> None:
    whole = gzip.compress(b"".join(b"%08x\n" % number for number in range(2**24, 2**24 + 20_000)))
    found = serials(whole[: len(whole) // 2])
    assert len(found) > 100
    assert found[-1].problem is not None
    assert "ends here" in found[-1].problem


def test_a_broken_crl_is_a_usage_problem_before_anything_is_named() -> None:
    file = reading.opened(io.BytesIO(b"\x30\x82\x01\x00nonsense"))
    assert reading.is_crl(file)
    with pytest.raises(UsageProblem, match="CRL"):
        reading.crl(file)


def damaged(content: bytes, *, at: int) -> bytes:
    """Packed, with bytes in the middle that no packer writes: found by its checks, not by the end of the file."""
    packed = bytearray(gzip.compress(content))
    packed[at : at + 64] = b"\xff" * 64
    return bytes(packed)


def test_a_packed_list_that_is_damaged_in_the_middle_gives_what_it_has_and_says_so() -> None:
    lines = b"".join(b"%08x\n" % (number * 2654435761 % 2**32) for number in range(20_000))
    packed = damaged(lines, at=60_000)
    with pytest.raises(zlib.error):
        gzip.decompress(packed)
    found = serials(packed)
    assert len(found) > 100
    assert found[-1].problem is not None
    assert "ends here" in found[-1].problem


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(damaged(b"03a1b2\n", at=10), id="damaged at once"),
        pytest.param(gzip.compress(b"03a1b2\n")[:12], id="cut off at once"),
        pytest.param(b"\x1f\x8bnothing that was ever packed", id="not packed at all"),
        pytest.param(b"\x1f\x8b", id="two bytes"),
    ],
)
def test_what_cannot_be_unpacked_is_a_usage_problem_whatever_was_in_it(packed: bytes) -> None:
    with pytest.raises(UsageProblem, match="unpacked"):
        reading.is_crl(reading.opened(io.BytesIO(packed)))


@pytest.mark.parametrize("end", ["cut off", "damaged", "wrong sum"])
def test_a_packed_crl_that_is_cut_off_or_damaged_is_a_usage_problem(end: str) -> None:
    noise = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(10_000))
    packed = gzip.compress(b"\x30\x84" + noise)
    broken = {
        "cut off": packed[:100_000],
        "damaged": packed[:100_000] + b"\xff" * 1000 + packed[101_000:],
        "wrong sum": packed[:-8] + bytes(8),
    }[end]
    file = reading.opened(io.BytesIO(broken))
    assert reading.is_crl(file)
    with pytest.raises(UsageProblem, match="unpacked"):
        reading.crl(file)


def test_a_crl_that_unpacks_to_more_than_any_crl_has_is_refused_before_it_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "LARGEST_CRL", 1_000_000)
    packed = gzip.compress(b"\x30\x84" + bytes(50_000_000))
    file = reading.opened(io.BytesIO(packed))
    assert reading.is_crl(file)
    tracemalloc.start()
    with pytest.raises(UsageProblem, match="larger than"):
        reading.crl(file)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4_000_000


class Trickle(io.RawIOBase):
    """A pipe that gives its first bytes one by one."""

    def __init__(self, content: bytes) -> None:
        self._rest = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        given, self._rest = self._rest[:1], self._rest[1:]
        buffer[: len(given)] = given
        return len(given)


def test_what_a_slow_pipe_brings_is_told_by_its_first_bytes_all_the_same() -> None:
    def opened(content: bytes) -> io.BufferedReader:
        return reading.opened(cast("BinaryIO", Trickle(content)))

    assert list(reading.serials(opened(gzip.compress(b"03a1b2\n")))) == [
        Entry(1, serial=bytes.fromhex("03a1b2"))
    ]
    assert reading.is_crl(opened(b"-----BEGIN X509 CRL-----\n"))
    assert reading.is_crl(opened(bytes.fromhex("308201a0")))
    assert list(reading.serials(opened(b"03"))) == [Entry(1, serial=b"\x03")]
    assert list(reading.serials(opened(b""))) == []


def test_keys_and_names() -> None:
    key = "ab" * 32
    found = list(reading.keys(reading.opened(io.BytesIO(f"{key}\n{key[2:]}\n".encode()))))
    assert found[0].key == bytes.fromhex(key)
    assert found[1].problem is not None
    names = list(reading.host_names(reading.opened(io.BytesIO(b"Example.COM.\nno name!\n"))))
    assert names[0].name == "example.com"
    assert names[1].problem is not None


def test_a_crl_of_no_version_is_refused() -> None:
    whole = crl(TinyCa.make().intermediate, [b"\x01"])
    version = whole.index(b"\x02\x01\x01")
    with pytest.raises(UsageProblem, match="the CRL cannot be read"):
        list(reading.crl(reading.opened(io.BytesIO(whole[: version + 2] + b"\x05" + whole[version + 3 :]))))


def pem(der: bytes, kind: str = "X509 CRL") -> bytes:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n".encode()


def of_crl(content: bytes) -> list[Entry]:
    file = reading.opened(io.BytesIO(content))
    assert reading.is_crl(file)
    return list(reading.crl(file))


def test_all_crls_of_a_file_in_pem_are_read_each_with_its_own_issuer() -> None:
    first, second = (TinyCa.make().intermediate for _ in range(2))
    found = of_crl(pem(crl(first, [b"\x01", b"\x02"])) + b"\nof the other CA\n" + pem(crl(second, [b"\x01"])))

    issuers = [
        hashlib.sha256(one.certificate.subject.public_bytes()).digest() for one in (first, first, second)
    ]
    assert [one.serial for one in found] == [b"\x01", b"\x02", b"\x01"]
    assert [one.issuer_hash for one in found] == issuers
    assert len({one.line for one in found}) == 3


@pytest.mark.parametrize("after", ["a certificate", "cut off", "damaged"])
def test_a_crl_with_something_after_it_that_is_none_is_refused_before_anything_is_named(after: str) -> None:
    ca = TinyCa.make().intermediate
    whole = pem(crl(ca, [b"\x01"]))
    rest = {
        "a certificate": pem(ca.certificate.public_bytes(Encoding.DER), "CERTIFICATE") + whole,
        "cut off": whole[: len(whole) // 2],
        "damaged": pem(crl(ca, [b"\x01"])[:-3]),
    }[after]
    with pytest.raises(UsageProblem, match="the CRL cannot be read"):
        reading.crl(reading.opened(io.BytesIO(whole + rest)))


def test_crls_in_der_one_after_the_other_are_refused() -> None:
    one = crl(TinyCa.make().intermediate, [b"\x01"])
    with pytest.raises(UsageProblem, match="the CRL cannot be read"):
        of_crl(one + one)


def test_a_line_that_is_much_too_long_for_a_name_is_told_in_short() -> None:
    [found] = reading.host_names(reading.opened(io.BytesIO(b"\x1b\xff*" * 2000)))
    assert found.problem is not None
    assert len(found.problem) < 100
    assert found.problem.isprintable()
