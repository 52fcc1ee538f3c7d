"""DNS names as certificates hold them: lower-case A-labels, ``*`` only as the whole first label."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence

from dualcert.errors import InvalidName

MAX_NAMES = 100
"""What the common public CAs put into one certificate."""

_MAX_LENGTH = 253 - len("_acme-challenge.")
_MEND = "Give the bare name that clients connect to, such as www.example.com, or a wildcard that covers it."
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def normalise(text: str) -> str:
    """The name in the form that is stored and compared. Raises :class:`InvalidName`."""
    name = text.strip().rstrip(".") if text.strip() != "." else ""
    if not name:
        raise InvalidName(
            "an empty name cannot be in a certificate", remedy="Give a DNS name such as www.example.com."
        )
    if _is_address(name):
        raise InvalidName(
            f"{text!r} is an IP address",
            remedy="dualcert proves control by DNS-01, which exists for DNS names only.",
        )
    wildcard, base = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    if "*" in base:
        raise InvalidName(
            f"{text!r}: a wildcard is the whole first label", remedy="Write it like *.example.com."
        )
    ascii_name = _to_ascii(base, text).lower()
    labels = ascii_name.split(".")
    for label in labels:
        _check_label(label, text)
    if len(labels) < 2:
        raise InvalidName(
            f"{text!r} has a single label", remedy="Public CAs want a full name such as www.example.com."
        )
    if labels[-1].isdigit():
        raise InvalidName(
            f"{text!r} ends in a number, as no DNS name does",
            remedy="Give a DNS name such as www.example.com.",
        )
    if len(wildcard + ascii_name) > _MAX_LENGTH:
        raise InvalidName(
            f"{text!r} is longer than {_MAX_LENGTH} octets",
            remedy="Its challenge name _acme-challenge.NAME would not fit into DNS.",
        )
    return wildcard + ascii_name


def normalise_all(texts: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in the order given. Raises :class:`InvalidName`."""
    names = tuple(dict.fromkeys(normalise(text) for text in texts))
    if not names:
        raise InvalidName("no name was given", remedy="Give at least one DNS name.")
    if len(names) > MAX_NAMES:
        raise InvalidName(
            f"{len(names)} names in one pair; CAs put at most {MAX_NAMES} into one certificate",
            remedy="Make several pairs, or use a wildcard.",
        )
    return names


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _to_ascii(name: str, text: str) -> str:
    if name.isascii() and "xn--" not in name.lower():
        return name
    import idna  # its tables cost milliseconds that an ASCII name need not pay

    try:
        ascii_name = idna.encode(name, uts46=True).decode("ascii")
        idna.decode(ascii_name)
    except idna.IDNAError as error:
        raise InvalidName(
            f"{text!r} is not an internationalised name: {error}",
            remedy="Write it as people read it, in letters of its script; its A-label is made of that.",
        ) from error
    return ascii_name


def _check_label(label: str, text: str) -> None:
    if not label:
        raise InvalidName(
            f"{text!r} has an empty label", remedy="Two dots stand beside each other, or one in front."
        )
    if len(label) > 63:
        raise InvalidName(f"{text!r}: the label {label[:20]}... is longer than 63 octets", remedy=_MEND)
    if "_" in label:
        raise InvalidName(f"{text!r}: an underscore cannot be in a certificate's name", remedy=_MEND)
    if not _LETTERS.issuperset(label):
        raise InvalidName(f"{text!r}: letters, digits and hyphens make a label", remedy=_MEND)
    if label.startswith("-") or label.endswith("-"):
        raise InvalidName(f"{text!r}: a label neither starts nor ends with a hyphen", remedy=_MEND)
    if label[2:4] == "--" and not label.startswith("xn--"):
        raise InvalidName(
            f"{text!r}: CAs refuse a label with two hyphens in third and fourth place", remedy=_MEND
        )


def reversed_name(name: str) -> str:
    """``www.example.com`` as ``com.example.www``: in this form a suffix search is a range of an index."""
    return ".".join(reversed(name.split(".")))


def digest(names: Iterable[str]) -> bytes:
    """SHA-256 that is equal for equal sets, whatever their order."""
    return hashlib.sha256("\n".join(sorted(set(names))).encode("ascii")).digest()


def covers(certificate_names: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether a client that wants any of ``wanted`` accepts a certificate for ``certificate_names`` (RFC 6125)."""
    held = set(certificate_names)
    return all(name in held or (not name.startswith("*.") and _wildcard_of(name) in held) for name in wanted)


def covering(name: str) -> tuple[str, ...]:
    """The names that a certificate may hold to cover ``name``: itself, and the wildcard beside it."""
    return (name,) if name.startswith("*.") else (name, _wildcard_of(name))


def _wildcard_of(name: str) -> str:
    return "*." + name.partition(".")[2]


def own_name(names: Sequence[str]) -> str:
    """What a pair is called after: its first name that is no wildcard; the wildcard where there is nothing else."""
    return next((name for name in names if not name.startswith("*.")), names[0])


def probe_name(names: Sequence[str]) -> str:
    """The server name to ask for when looking at what is served: for a wildcard, a label under it."""
    name = own_name(names)
    return "dualcert-probe" + name[1:] if name.startswith("*.") else name
