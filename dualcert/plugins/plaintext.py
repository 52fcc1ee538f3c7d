"""What a program wrote, made fit for an error: plain, short, and without private keys."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_PIECE = 16  # characters of a key, as base64, by which it is recognised
_BASE64 = re.compile(rf"[A-Za-z0-9+/=]{{{_PIECE},}}")
_HIDDEN = "[a private key, left out]"


def plain(text: str, keys: Iterable[bytes] = ()) -> str:
    """Without control characters, and without the base64 of ``keys`` (PEM).

    A program that fails may print what it was given: a shell's ``set -x`` does, and so does a careless traceback.
    """
    hidden = _without(text, keys)
    return "".join(one if _is_harmless(one) else "\N{REPLACEMENT CHARACTER}" for one in hidden).strip()


def end_of(data: bytes, most: int, keys: Iterable[bytes] = (), *, whole: bool) -> str:
    """At most the last ``most`` characters. Unless ``whole``, a key may have lost its beginning to a cut before."""
    text = plain(data.decode("utf-8", "replace"), keys)
    return (text if whole else text[_PIECE:])[-most:].strip()


def start_of(data: bytes, most: int, keys: Iterable[bytes] = ()) -> str:
    """At most the first ``most`` characters. The cut here may leave a piece of a key that is too short to be known."""
    piece = data[: 4 * most]
    text = plain(piece.decode("utf-8", "replace"), keys)
    return (text if len(piece) == len(data) else text[:-_PIECE])[:most].strip()


def _is_harmless(character: str) -> bool:
    """Neither moves the cursor nor turns the direction of writing."""
    return character in {"\n", "\t"} or unicodedata.category(character)[0] != "C"


def _without(text: str, keys: Iterable[bytes]) -> str:
    """Every run of base64 that has a piece in common with a key is replaced, however its lines were folded."""
    runs = _BASE64.findall(text)
    if not runs:
        return text
    pieces = {
        body[start : start + _PIECE] for body in map(_body, keys) for start in range(len(body) - _PIECE + 1)
    }

    def shown(run: re.Match[str]) -> str:
        found = run[0]
        starts = range(len(found) - _PIECE + 1)
        return _HIDDEN if any(found[start : start + _PIECE] in pieces for start in starts) else found

    return _BASE64.sub(shown, text)


def _body(pem: bytes) -> str:
    lines = pem.decode("ascii", "replace").splitlines()
    return "".join(line.strip() for line in lines if not line.startswith("-----"))
