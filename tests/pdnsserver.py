"""A PowerDNS on loopback with given zones and TSIG keys, gone when the test is over."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import dns.zone

from dualcert.lab.binaries import Program, find_program
from dualcert.lab.process import ServerProcess
from tests.bindserver import KEY, STRANGER, BindServer, free_port

# Asked for its version, it says the number without the word that the others put before it.
PDNS_SERVER = Program(
    "pdns_server",
    (4, 7),
    "--version",
    "pdns-server and pdns-backend-sqlite3",
    unnumbered="PowerDNS Authoritative Server",
)

# What the gsqlite3 backend of 4.7 reads and writes, without the constraints.
TABLES = """
CREATE TABLE domains (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE UNIQUE, master TEXT,
  last_check INTEGER, type TEXT NOT NULL, notified_serial INTEGER, account TEXT, options TEXT, catalog TEXT);
CREATE TABLE records (id INTEGER PRIMARY KEY, domain_id INTEGER, name TEXT, type TEXT, content TEXT, ttl INTEGER,
  prio INTEGER, disabled BOOLEAN DEFAULT 0, ordername TEXT, auth BOOL DEFAULT 1);
CREATE INDEX records_by_name ON records(name, type);
CREATE TABLE supermasters (ip TEXT NOT NULL, nameserver TEXT NOT NULL, account TEXT NOT NULL);
CREATE TABLE comments (id INTEGER PRIMARY KEY, domain_id INTEGER NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL,
  modified_at INT NOT NULL, account TEXT, comment TEXT NOT NULL);
CREATE TABLE domainmetadata (id INTEGER PRIMARY KEY, domain_id INT NOT NULL, kind TEXT COLLATE NOCASE, content TEXT);
CREATE TABLE cryptokeys (id INTEGER PRIMARY KEY, domain_id INT NOT NULL, flags INT NOT NULL, active BOOL,
  published BOOL DEFAULT 1, content TEXT);
CREATE TABLE tsigkeys (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, algorithm TEXT COLLATE NOCASE, secret TEXT);
"""


@contextlib.contextmanager
def pdns(folder: Path, zones: Mapping[str, str]) -> Iterator[BindServer]:
    """Serve ``zones``, each a name and its records beside SOA and NS; what is asked and changed is as for BIND."""
    program = find_program(PDNS_SERVER)
    assert isinstance(program, Path), program
    server = BindServer(free_port(), folder, dict(zones))
    _write_database(server)
    _write_configuration(server)
    process = ServerProcess(
        "pdns_server", [str(program), f"--config-dir={folder}"], directory=folder, log=folder / "pdns.log"
    )
    process.spawn()
    try:
        process.wait_ready(server.answers)
        yield server
    finally:
        process.stop()


def _write_database(server: BindServer) -> None:
    file = server.folder / "pdns.sqlite3"
    file.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.executescript(TABLES)
        for name, secret in ((KEY, server.key), (STRANGER, server.stranger)):
            database.execute(
                "INSERT INTO tsigkeys (name, algorithm, secret) VALUES (?, ?, ?)",
                (name, server.algorithm, secret),
            )
        for zone, records in server.zones.items():
            _write_zone(database, zone, records)
        database.commit()


def _write_zone(database: sqlite3.Connection, zone: str, records: str) -> None:
    number = database.execute("INSERT INTO domains (name, type) VALUES (?, 'NATIVE')", (zone,)).lastrowid
    # The serial grows with every update, and only this key may send one.
    for kind, content in (("TSIG-ALLOW-DNSUPDATE", KEY), ("SOA-EDIT-DNSUPDATE", "INCREASE")):
        database.execute(
            "INSERT INTO domainmetadata (domain_id, kind, content) VALUES (?, ?, ?)", (number, kind, content)
        )
    soa = "@ SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 1\n@ NS localhost.\n"
    text = f"$TTL 60\n{soa}{records}\n"
    for name, ttl, rdata in dns.zone.from_text(text, f"{zone}.", relativize=False).iterate_rdatas():
        database.execute(
            "INSERT INTO records (domain_id, name, type, content, ttl, prio) VALUES (?, ?, ?, ?, ?, 0)",
            (
                number,
                name.to_text(omit_final_dot=True),
                dns.rdatatype.to_text(rdata.rdtype),
                rdata.to_text().rstrip("."),
                ttl,
            ),
        )


def _write_configuration(server: BindServer) -> None:
    # Nothing is cached: a change shows at once.
    (server.folder / "pdns.conf").write_text(
        f"local-address=127.0.0.1\nlocal-port={server.port}\nsocket-dir={server.folder}\n"
        f"launch=gsqlite3\ngsqlite3-database={server.folder}/pdns.sqlite3\n"
        "dnsupdate=yes\nallow-dnsupdate-from=127.0.0.0/8\n"
        "cache-ttl=0\nnegquery-cache-ttl=0\nquery-cache-ttl=0\nzone-cache-refresh-interval=0\n"
        "receiver-threads=1\ndistributor-threads=2\nretrieval-threads=1\nmax-tcp-connections=50\n"
        "security-poll-suffix=\nversion-string=anonymous\n"
    )
