"""A large inventory, written straight into the tables: no CA would issue it in time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Table, insert

from dualcert.bootstrap import Application
from dualcert.clock import to_microseconds
from dualcert.model import names as naming
from dualcert.store import tables

_LIFE = timedelta(days=60) // timedelta(microseconds=1)

Row = tuple[Table, dict[str, Any]]


def fill(application: Application, pairs: int) -> None:
    """So many whole pairs: two names, two certificates, both seen at the one target."""
    with application.world.store.write() as tx:
        rows: dict[Table, list[dict[str, Any]]] = {}
        for number in range(1, pairs + 1):
            for table, row in _pair(number, to_microseconds(tx.now)):
                rows.setdefault(table, []).append(row)
        for table, content in rows.items():
            tx.execute(insert(table), content)


def _pair(number: int, at: int) -> Iterator[Row]:
    name = f"pair-{number:06}.example.test"
    names = (name, f"*.{name}")
    primary, backup = 2 * number - 1, 2 * number
    digest = naming.digest(names)
    made = {"key_type": "ec-p256", "dns": "lab", "first_wait": 600, "created_at": at}
    yield tables.pair, {"id": number, "name": name, "names_digest": digest, **made}
    for position, one in enumerate(names):
        reversed_name = naming.reversed_name(one)
        yield tables.pair_name, {"pair_id": number, "position": position, "reversed_name": reversed_name}
    yield tables.pair_target, {"pair_id": number, "target": "web"}
    for lineage, ca in ((primary, "alpha"), (backup, "beta")):
        yield from _side(number, lineage, ca, digest, at)
    roles = {"serving": primary, "standby": backup, "primary_lineage": primary, "backup_lineage": backup}
    clocks = {"backup_ok_until": at + _LIFE, "next_action_at": at + _LIFE * 2 // 3}
    yield tables.pair_state, {"pair_id": number, "epoch": 0, **roles, **clocks}
    seen = {"sha256": _hash(f"certificate {primary}"), "how": "wire", "at": at}
    yield tables.observation, {"pair_id": number, "target": "web", **seen}


def _side(pair: int, number: int, ca: str, digest: bytes, at: int) -> Iterator[Row]:
    """A lineage and its certificate, which share a number here."""
    of_pair = {"id": number, "pair_id": pair, "ca": ca}
    opened = {"domain": f"of {ca}", "opened_at": at, "renew_at": at + _LIFE * 2 // 3}
    yield tables.lineage, {**of_pair, **opened}
    issuer = {"issuer": f"CN={ca}", "issuer_hash": _hash(ca), "issuing_key": _hash(f"key of {ca}")}
    times = {"not_before": at, "not_after": at + _LIFE, "stored_at": at}
    yield (
        tables.certificate,
        {
            **of_pair,
            **issuer,
            **times,
            "lineage_id": number,
            "serial": _hash(f"serial {number}")[:16],
            "sha256": _hash(f"certificate {number}"),
            "spki": _hash(f"key {number}"),
            "names_digest": digest,
            "key_type": "ec-p256",
            "chain_hash": _hash(f"chain of {ca}"),
        },
    )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
