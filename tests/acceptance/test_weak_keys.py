"""Keys with known weaknesses, from the random numbers that were bad to the pair that leaves what has leaked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dualcert.lifecycle import keymaking
from tests import rawdatabase, weak
from tests.labfixture import ProjectLab
from tests.program import Program, finish


def test_a_weak_key_that_a_machine_makes_is_never_sent_to_a_ca(
    lab: ProjectLab, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = lab.domain
    with weak.machine_that_makes(monkeypatch, rsa, "generate_private_key", weak.with_close_primes, 1) as made:
        program.done("issue", name, "--key-type", "rsa-2048")
    assert len(made) == 3
    hashes = [keymaking.spki_hash(one.public_key()) for one in made]
    [(thrown_away,)] = rawdatabase.rows(program.config, "SELECT spki FROM blocked_key")
    hashes.remove(thrown_away)
    shown = program.show(name)
    used = {shown[role]["certificate"]["spki_sha256"] for role in ("primary", "backup")}
    assert used == {one.hex() for one in hashes}
    assert rawdatabase.rows(program.config, "SELECT spki FROM public_key WHERE spki = ?", thrown_away) == []
    [blocked] = [one for one in program.events(name) if one["kind"] == "key-blocked"]
    assert "a new key is weak: fermat" in blocked["cause"]


def test_a_machine_that_makes_nothing_but_weak_keys_orders_nothing_and_says_why(
    lab: ProjectLab, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [weak.with_close_primes() for _ in range(12)]
    with weak.machine_that_makes(monkeypatch, rsa, "generate_private_key", keys.pop, 12):
        refused = program.run("issue", lab.domain, "--key-type", "rsa-2048", "--timeout", "2s")
    assert refused.status == 1
    assert "two new keys in a row are weak: fermat" in refused.err
    assert rawdatabase.rows(program.config, "SELECT count(*) FROM acme_order") == [(0,)]


def leaked_list(cache: Path, key: ec.EllipticCurvePublicKey) -> None:
    """As `badkeys --update-bl` would leave it, with one key."""
    x = key.public_numbers().x
    digest = hashlib.sha256(x.to_bytes((x.bit_length() + 7) // 8, "big")).digest()
    folder = cache / "badkeys"
    folder.mkdir()
    (folder / "badkeysdata.json").write_text(
        json.dumps({"blocklists": [{"id": 1, "name": "found on a wall"}]})
    )
    (folder / "blocklist.dat").write_bytes(digest[:15] + b"\x01")


def test_what_has_leaked_since_is_found_in_the_inventory_and_left(
    lab: ProjectLab, program: Program, tmp_path: Path
) -> None:
    name = lab.domain
    program.done("issue", name)
    before = program.show(name)
    cache = tmp_path / "cache"
    cache.mkdir()
    environment = {"XDG_CACHE_HOME": str(cache)}
    calm = finish(program.start("watch", "--once", "--keys", "--json", environment=environment))
    assert json.loads(calm.out)["keys"] == {"looked_at": 2, "weak": 0, "authorities": []}
    served = x509.load_der_x509_certificate(lab.handshake(name)).public_key()
    assert isinstance(served, ec.EllipticCurvePublicKey)
    leaked_list(cache, served)

    result = finish(program.start("watch", "--once", "--keys", "--json", environment=environment))

    told = json.loads(result.out)
    assert told["keys"] == {"looked_at": 2, "weak": 1, "authorities": []}
    assert told["turned"] == [{"pair": name, "promoted": True, "problem": None}]
    assert hashlib.sha256(lab.handshake(name)).hexdigest() == before["backup"]["certificate"]["sha256"]
    kinds = {one["kind"]: one for one in program.events(name)}
    assert "its key is weak: blocklist (found on a wall) (badkeys " in kinds["promoted"]["cause"]
    assert kinds["promoted"]["actor"] == "watch"
    [_, command] = kinds["key-blocked"]["cause"].split("; to have it revoked: dualcert ")
    program.run(*command.split())
    assert any(
        one["kind"] == "revoked" and one["ca"] == before["primary"]["ca"] for one in program.events(name)
    )
    check = finish(program.start("check", environment=environment))
    assert "looks at every key that enters; its list of leaked keys is of" in check.out


def test_keys_goes_with_once(program: Program) -> None:
    assert program.run("watch", "--keys").status == 2
