"""Files that name certificates: serials as hex, a CA's list, a CRL; hashes of keys; names. Read line by line."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from cryptography import x509

from dualcert.errors import InvalidName, UsageProblem
from dualcert.lifecycle.incidents.opening import Entry
from dualcert.model import names

_GZIP = b"\x1f\x8b"
_PEM = b"-----BEGIN "
_PEM_CRL = b"-----BEGIN X509 CRL-----"
_LONGEST_LINE = 65_536
_LONGEST_SERIAL = 20
"""RFC 5280 section 4.1.2.2; a sign byte may stand before it."""

_SPKI = 32
_LONGEST_NAME = 253

LARGEST_CRL = 256 * 2**20
"""Bytes, unpacked: some five million entries. A few kilobytes can unpack to more than any machine holds."""

_NOT_UNPACKED = (EOFError, gzip.BadGzipFile, zlib.error)
"""What gzip says of a file that is cut off, is none, or is damaged."""


class _Begun(io.RawIOBase):
    """A file whose first bytes were read already. They are given together: a pipe may bring them one by one."""

    def __init__(self, head: bytes, rest: io.BufferedReader) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        given = self._head[: len(buffer)] or self._rest.read1(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def opened(file: BinaryIO) -> io.BufferedReader:
    """The file, unpacked where it is packed by gzip."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", file))
    buffered = io.BufferedReader(_Begun(buffered.read(len(_PEM_CRL)), buffered))
    if buffered.peek(2)[:2] == _GZIP:
        return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=buffered)))
    return buffered


def is_crl(file: io.BufferedReader) -> bool:
    """Whether it is a CRL, by its first bytes: no text begins like DER does.

    Raises ``UsageProblem`` where it is packed and cannot be unpacked.
    """
    try:
        head = file.peek(len(_PEM_CRL)).lstrip()
    except _NOT_UNPACKED as error:
        raise _packed_badly(error) from None
    return head.startswith(_PEM_CRL) or (head[:1] == b"\x30" and head[1:2] >= b"\x80")


def crl(file: io.BufferedReader) -> Iterator[Entry]:
    """The entries of a CRL, with their issuer, or of several in PEM one after the other. No signature is looked at:
    whoever gives it answers for it.

    Raises ``UsageProblem``, at once, where one of them cannot be read, or they are larger than ``LARGEST_CRL``.
    """
    try:
        data = file.read(LARGEST_CRL + 1)
    except _NOT_UNPACKED as error:
        raise _packed_badly(error) from None
    if len(data) > LARGEST_CRL:
        raise UsageProblem(
            f"the CRL is larger than {LARGEST_CRL >> 20} MB",
            remedy="Give the serials as a list, one a line: that has no limit.",
        )
    try:
        found = _in_pem(data) if data.lstrip().startswith(_PEM_CRL) else [x509.load_der_x509_crl(data)]
        issuers = [hashlib.sha256(one.issuer.public_bytes()).digest() for one in found]
    except (ValueError, x509.InvalidVersion) as error:
        raise UsageProblem(f"the CRL cannot be read: {error}", remedy="Fetch it again.") from None
    return _revoked(found, issuers)


def _in_pem(data: bytes) -> list[x509.CertificateRevocationList]:
    """All of them: whoever has put the CRLs of two CAs into one file means both. Raises ``ValueError``."""
    found = []
    for number, part in enumerate(data.split(_PEM)[1:], 1):
        block = _PEM + part
        if not block.startswith(_PEM_CRL):
            kind = part.partition(b"-----")[0].decode("ascii", "replace")
            raise ValueError(f"part {number} of the file is another thing, {_short(kind)}")
        found.append(x509.load_pem_x509_crl(block))
    return found


def _packed_badly(error: Exception) -> UsageProblem:
    return UsageProblem(f"the file cannot be unpacked: {error}", remedy="Fetch it again.")


def _revoked(found: list[x509.CertificateRevocationList], issuers: list[bytes]) -> Iterator[Entry]:
    # Numbered over all of them: by its number a stray is kept.
    entries = ((entry, issuer) for one, issuer in zip(found, issuers, strict=True) for entry in one)
    for number, (entry, issuer_hash) in enumerate(entries, 1):
        serial = entry.serial_number
        if serial > 0:
            yield Entry(number, serial=_bytes(serial), issuer_hash=issuer_hash)
        else:
            yield Entry(number, problem=f"{serial} is no serial")


def _bytes(serial: int) -> bytes:
    return serial.to_bytes((serial.bit_length() + 7) // 8, "big")


def _lines(file: io.BufferedReader, read: Callable[[int, str], Entry]) -> Iterator[Entry]:
    number = 0
    try:
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                _skip(file)
                yield Entry(number, problem=f"longer than {_LONGEST_LINE >> 10} KB")
                continue
            text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
            if text and not text.startswith("#"):
                yield read(number, text)
    except _NOT_UNPACKED as error:
        # What is cut off in the middle has named some of the certificates and not the others.
        yield Entry(number + 1, problem=f"the file ends here: {error}")


def _skip(file: io.BufferedReader) -> None:
    """The rest of a line: what stands in its middle may look like one of its own."""
    while (rest := file.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
        pass


def serials(file: io.BufferedReader) -> Iterator[Entry]:
    """One a line: hex with colons or without, or as Let's Encrypt publishes them (regID,"serial",notAfter,names...)."""
    return _lines(file, _serial)


_DATE = re.compile(r"\d{4}-\d\d-\d\d(?!\d)", re.ASCII)


def _published(text: str) -> str | None:
    """The serial of a line as Let's Encrypt publishes them; None where it is another one, such as several serials with
    commas between them, of which all but one would be lost."""
    account, word, ends, *_ = [*(field.strip().strip('"') for field in text.split(",", 3)), "", ""]
    return word if account.isascii() and account.isdigit() and _DATE.match(ends) else None


def _serial(line: int, text: str) -> Entry:
    word = _published(text) if "," in text else text
    if word is None:
        return Entry(line, problem=f'neither a serial nor regID,"serial",notAfter: {_short(text)}')
    digits = word.strip().strip('"').replace(":", "").removeprefix("0x").lstrip("0")
    try:
        serial = bytes.fromhex(digits if len(digits) % 2 == 0 else f"0{digits}")
    except ValueError:
        return Entry(line, problem=f"no serial in hex: {_short(text)}")
    if not 0 < len(serial) <= _LONGEST_SERIAL:
        return Entry(line, problem=f"no serial: {_short(text)}")
    return Entry(line, serial=serial)


def keys(file: io.BufferedReader) -> Iterator[Entry]:
    """The SHA-256 of a SubjectPublicKeyInfo a line, as hex."""
    return _lines(file, _key)


def _key(line: int, text: str) -> Entry:
    try:
        key = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        key = b""
    return Entry(line, key=key) if len(key) == _SPKI else Entry(line, problem=f"no SHA-256: {_short(text)}")


def host_names(file: io.BufferedReader) -> Iterator[Entry]:
    """A DNS name a line, as it stands in certificates."""
    return _lines(file, _name)


def _name(line: int, text: str) -> Entry:
    try:
        return Entry(line, name=names.normalise(text))
    except InvalidName as error:
        return Entry(line, problem=error.reason if len(text) <= _LONGEST_NAME else f"no name: {_short(text)}")


def _short(text: str) -> str:
    # Whoever wrote the file may have meant it for the terminal that shows this.
    shown = "".join(one if one.isprintable() else "\ufffd" for one in text[:60])
    return shown if len(text) <= 60 else f"{shown[:57]}..."
