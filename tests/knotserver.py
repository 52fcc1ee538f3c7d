"""A Knot DNS on loopback with given zones and TSIG keys, gone when the test is over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from dualcert.lab.binaries import Program, find_program
from dualcert.lab.process import ServerProcess
from tests.bindserver import KEY, STRANGER, BindServer, free_port

KNOTD = Program("knotd", (3, 2), "--version", "knot")


@contextlib.contextmanager
def knot(folder: Path, zones: Mapping[str, str]) -> Iterator[BindServer]:
    """Serve ``zones``, each a name and its records beside SOA and NS; what is asked and changed is as for BIND."""
    program = find_program(KNOTD)
    assert isinstance(program, Path), program
    server = BindServer(free_port(), folder, dict(zones))
    _write_configuration(server)
    process = ServerProcess(
        "knotd",
        [str(program), "--config", str(folder / "knot.conf")],
        directory=folder,
        log=folder / "knotd.log",
    )
    process.spawn()
    try:
        process.wait_ready(server.answers)
        yield server
    finally:
        process.stop()


def _write_configuration(server: BindServer) -> None:
    (server.folder / "db").mkdir()
    zones = []
    for zone, records in server.zones.items():
        (server.folder / f"{zone}.zone").write_text(
            f"$ORIGIN {zone}.\n$TTL 60\n"
            f"@ SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 1\n@ NS localhost.\n{records}\n"
        )
        zones.append(f'  - domain: "{zone}."\n    file: "{zone}.zone"\n    acl: "{KEY}"\n')
    keys = "".join(
        f'  - id: "{name}"\n    algorithm: {server.algorithm}\n    secret: "{secret}"\n'
        for name, secret in ((KEY, server.key), (STRANGER, server.stranger))
    )
    path = server.folder / "knot.conf"
    path.touch(mode=0o600)
    # Changes are kept in the journal, and the zone's file is never written: as an administrator of updates would.
    path.write_text(
        f'server:\n  rundir: "{server.folder}"\n  listen: 127.0.0.1@{server.port}\n'
        "  udp-workers: 1\n  tcp-workers: 2\n  background-workers: 1\n"
        "log:\n  - target: stderr\n    any: info\n"
        f'database:\n  storage: "{server.folder}/db"\n  journal-db-max-size: 16M\n  timer-db-max-size: 1M\n'
        "  kasp-db-max-size: 5M\n  catalog-db-max-size: 5M\n"
        f"key:\n{keys}"
        f'acl:\n  - id: "{KEY}"\n    key: "{KEY}"\n    action: update\n    update-type: TXT\n'
        f'template:\n  - id: default\n    storage: "{server.folder}"\n    zonefile-sync: -1\n'
        "    zonefile-load: difference-no-serial\n    journal-content: all\n"
        f"zone:\n{''.join(zones)}"
    )
