"""Known weaknesses of keys, found in real ones that were made the wrong way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x448
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dualcert.errors import KeyProblem
from dualcert.evidence import weakkeys
from dualcert.evidence.weakkeys import BadKeys
from tests import weak


def der(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture
def inspector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BadKeys:
    """Without any list of leaked keys."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return BadKeys()


def test_it_is_found_where_it_is_installed_and_names_its_version() -> None:
    found = weakkeys.installed()
    assert found is not None
    assert found.name.startswith("badkeys 0.")


def test_without_it_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "badkeys", raising=False)
    sys.path_importer_cache.clear()
    assert weakkeys.installed() is None


def test_good_keys_have_no_weakness(inspector: BadKeys) -> None:
    for key in (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        rsa.generate_private_key(65537, 3072),
    ):
        assert inspector.weaknesses(der(key.public_key())) == ()


def test_close_primes_the_flaw_of_infineon_and_small_factors_are_found(inspector: BadKeys) -> None:
    assert inspector.weaknesses(der(weak.with_close_primes().public_key())) == ("fermat",)
    assert inspector.weaknesses(der(weak.of_infineon().public_key())) == ("roca",)
    assert inspector.weaknesses(der(weak.with_a_small_factor())) == ("smallfactors (valid)",)


def test_what_is_told_does_not_hold_the_private_key_that_follows_from_it(inspector: BadKeys) -> None:
    key = weak.with_close_primes()
    numbers = key.private_numbers()
    [said] = inspector.weaknesses(der(key.public_key()))
    assert str(numbers.p) not in said
    assert len(said) < 40


def test_a_key_of_a_kind_that_it_does_not_know_is_no_good_key(
    inspector: BadKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "_look", lambda pem, checks: {"type": "unsupported", "results": {}})
    with pytest.raises(KeyProblem, match="cannot look"):
        inspector.weaknesses(der(x448.X448PrivateKey.generate().public_key()))


# --- the list of leaked keys -----------------------------------------------------------------------------


def put_list(cache: Path, *hashes: bytes) -> Path:
    """A list as `badkeys --update-bl` leaves it."""
    folder = cache / "badkeys"
    folder.mkdir(parents=True)
    (folder / "badkeysdata.json").write_text(json.dumps({"blocklists": [{"id": 7, "name": "leaked"}]}))
    (folder / "blocklist.dat").write_bytes(b"".join(sorted(one[:15] + b"\x07" for one in hashes)))
    return folder


def entry(key: ec.EllipticCurvePublicKey) -> bytes:
    x = key.public_numbers().x
    return hashlib.sha256(x.to_bytes((x.bit_length() + 7) // 8, "big")).digest()


def test_a_key_on_the_list_of_leaked_keys_is_found_by_its_curve_point(tmp_path: Path) -> None:
    leaked = ec.generate_private_key(ec.SECP256R1()).public_key()
    sound = ec.generate_private_key(ec.SECP256R1()).public_key()
    put_list(tmp_path, entry(leaked), *(hashlib.sha256(b"%d" % number).digest() for number in range(9)))
    # badkeys reads its list once for each process.
    script = (
        "import sys\nfrom dualcert.evidence.weakkeys import BadKeys\n"
        "one = BadKeys()\nassert one.blocklist.fetched is not None\n"
        "print([one.weaknesses(bytes.fromhex(word)) for word in sys.argv[1:]])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, der(leaked).hex(), der(sound).hex()],
        env={"XDG_CACHE_HOME": str(tmp_path), "PATH": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[('blocklist (leaked)',), ()]"


@pytest.mark.parametrize("broken", ["empty", "cut off", "no names", "no list"])
def test_a_list_that_is_broken_is_told_and_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    folder = put_list(tmp_path, hashlib.sha256(b"one").digest())
    match broken:
        case "empty":
            (folder / "blocklist.dat").write_bytes(b"")
        case "cut off":
            (folder / "blocklist.dat").write_bytes(bytes(17))
        case "no names":
            (folder / "badkeysdata.json").write_text("{}")
        case "no list":
            (folder / "blocklist.dat").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    inspector = BadKeys()
    assert inspector.blocklist.fetched is None
    assert inspector.blocklist.problem is not None
    assert inspector.weaknesses(der(ec.generate_private_key(ec.SECP256R1()).public_key())) == ()


def test_without_a_list_the_process_lives_on(inspector: BadKeys) -> None:
    assert inspector.blocklist.fetched is None
    assert inspector.blocklist.problem is None
    assert inspector.weaknesses(der(ec.generate_private_key(ec.SECP256R1()).public_key())) == ()
