"""A CRL with a million entries: fetched, verified, walked through and matched; and what memory that takes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from sqlalchemy import delete, select, update

from bench.inventory import Made, fill
from bench.results import Goal, Result, result
from bench.stage import Stage, in_turns, run
from dualcert import bootstrap
from dualcert.clock import SystemClock
from dualcert.lifecycle.inspection import spki_of_ca
from dualcert.lifecycle.watching import asking
from dualcert.policy.watching import SourceKind
from dualcert.store import Store, watching
from dualcert.store import tables as t
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import watch_source, watched
from dualcert.store.watching import Place
from tests import postgres
from tests.revocations import crl, entry, publishing
from tests.tinyca import TinyCa

ENTRIES = 1_000_000
PAIRS = 20_000
OURS = 5


def a_million(stage: Stage, rounds: int) -> list[Result]:
    """On both databases, each time in a process of its own; against cryptography, entry by entry, from memory."""
    results: list[Result] = []
    tiny = TinyCa.make()
    with stage.project("watching") as project, publishing() as publisher:
        place = f"{publisher.url}/crl"
        for name, config in _configured(project.config):
            settings = bootstrap.load_settings(config)
            bootstrap.upgrade_database(settings)
            application = bootstrap.build(settings)
            fill(application, Made(PAIRS))
            serials = _adopt(application.world.store, tiny, place)
            application.close()
            data = _list(tiny, serials)
            publisher.put("/crl", data)
            took: list[dict[str, float]] = []

            def mine(_: int, config: Path = config, took: list[dict[str, float]] = took) -> float:
                told = run([sys.executable, "-m", "bench.watching", str(config)]).stdout
                took.append(json.loads(told))
                return took[-1]["seconds"]

            ours, theirs = in_turns(rounds, mine, partial(_entry_by_entry, data))
            against = ("cryptography, entry by entry, nothing matched", theirs)
            goal = Goal.at_most(ours, 10, "s")
            results.append(
                result(f"CRL of {ENTRIES:,} entries, seen, {name}", ours, "s", against=against, goal=goal)
            )
            memory = max(one["memory"] for one in took)
            size = len(data) / 1e6
            goal = Goal.at_most(memory, 2.5 * size, "MB")
            results.append(result(f"  memory for its {size:.0f} MB", memory, "MB", goal=goal))
    return results


def _configured(config: Path) -> Iterator[tuple[str, Path]]:
    config.write_text(config.read_text() + "\n[watch]\nprivate_networks = true\n")
    yield "SQLite", config
    with postgres.running() as server:
        text = config.read_text()
        config.write_text(text.replace("sqlite:///dualcert.db", server.url(server.create())))
        yield "PostgreSQL", config


def _adopt(store: Store, tiny: TinyCa, place: str) -> list[bytes]:
    """The inventory's serving certificates are this CA's, as far as the database knows; serials of some of them."""
    by = tiny.intermediate.certificate
    key, name = spki_of_ca(by), hashlib.sha256(by.subject.public_bytes()).digest()
    with store.write() as tx:
        # What the invented certificates name does not exist.
        for table in (watched, watch_source):
            tx.execute(delete(table))
        tx.execute(upsert(t.chain).values(hash=b"bench", pem=tiny.chain).on_conflict_do_nothing())
        serving = t.certificate.c.id.in_(select(t.pair_state.c.serving))
        values = {"issuing_key": key, "issuer_hash": name, "chain_hash": b"bench"}
        tx.execute(update(t.certificate).where(serving).values(**values))
        some = tx.execute(
            select(t.certificate.c.id, t.certificate.c.serial, t.certificate.c.ca).where(serving).limit(OURS)
        ).all()
        for one in some:
            watching.watch(tx, one.id, [Place(SourceKind.CRL, place, key, name, one.ca)])
    return [bytes(one.serial).lstrip(b"\0") for one in some]


def _list(tiny: TinyCa, ours: list[bytes]) -> bytes:
    since = SystemClock().now() - timedelta(days=1)
    others = (b"\x05" + os.urandom(17) for _ in range(ENTRIES - len(ours)))
    body = b"".join(entry(serial, since, 4) for serial in (*ours, *others))
    return crl(tiny.intermediate, entries=body)


def _entry_by_entry(data: bytes, _: int) -> float:
    began = time.perf_counter()
    count = sum(one.serial_number > 0 for one in x509.load_der_x509_crl(data))
    if count != ENTRIES:
        raise RuntimeError("entries are missing")
    return time.perf_counter() - began


@contextmanager
def _memory() -> Iterator[dict[str, float]]:
    """Peak of this process, above what it had before, in MB."""
    told: dict[str, float] = {}
    before = _peak()
    yield told
    told["memory"] = (_peak() - before) / 1e3


def _peak() -> int:
    """In KB. What getrusage() tells begins with the peak of whoever started this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def main(config: Path) -> None:
    application = bootstrap.build(bootstrap.load_settings(config))
    world = application.world
    with world.store.write() as tx:
        tx.execute(update(watch_source).values(good_at=None, number=None, this_update=None, lease_until=None))
    with _memory() as told:
        began = time.perf_counter()
        done = asking.ask_due(world, all_of_them=True)
        told["seconds"] = time.perf_counter() - began
    application.close()
    if (done.revoked, done.failed) != (OURS, 0):
        raise RuntimeError(f"not all was seen: {done}")
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
