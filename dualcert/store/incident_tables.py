"""The tables of signals, incidents and seals; see ``tables`` for the rest, and for how they are written.

They stand apart because the everyday work of renewal touches none of them.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from dualcert.store.tables import Number, metadata, row_id

# How many there are of what is too many to count each time.
counter = Table(
    "counter",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Number, nullable=False),
)

# Outside evidence about certificates, never changed: a source that takes its word back adds a row.
signal = Table(
    "signal",
    metadata,
    row_id(),
    Column("certificate_id", Number, nullable=False),
    Column("pair_id", Number, nullable=False),
    Column("source", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at", Number, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("reason", Text),
    Column("since", Number),
    Column("url", Text),
    # One row for each thing that a source says, however often it is asked.
    UniqueConstraint("certificate_id", "source", "kind", "evidence"),
)

# Places where CAs say what is revoked: a CRL's distribution point, an OCSP responder, a CA's renewal information.
watch_source = Table(
    "watch_source",
    metadata,
    row_id(),
    Column("kind", Text, nullable=False),
    Column("place", Text, nullable=False),
    # Whose word counts there: the key and the name that have signed what is watched.
    Column("issuing_key", LargeBinary, nullable=False),
    Column("issuer_hash", LargeBinary, nullable=False),
    Column("ca", Text, nullable=False),
    Column("due_at", Number),
    Column("lease_until", Number),
    Column("asked_at", Number),
    Column("good_at", Number),
    Column("etag", Text),
    Column("modified", Text),
    Column("number", LargeBinary),
    Column("this_update", Number),
    Column("next_update", Number),
    Column("digest", LargeBinary),
    Column("entries", Integer),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("problem", Text),
    UniqueConstraint("kind", "place", "issuing_key", "issuer_hash"),
    Index(None, "due_at"),
)

# What each certificate that is in use is watched by; `due_at` is for sources that are asked about each one.
watched = Table(
    "watched",
    metadata,
    Column("certificate_id", Number, nullable=False),
    Column("source_id", Number, nullable=False),
    Column("due_at", Number),
    Column("good_at", Number),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("problem", Text),
    PrimaryKeyConstraint("certificate_id", "source_id"),
    Index(None, "source_id", "due_at"),
)

# Promotions that nobody ordered: the brake counts those of the last hour.
automatic_promotion = Table(
    "automatic_promotion",
    metadata,
    row_id(),
    Column("pair_id", Number, nullable=False),
    Column("at", Number, nullable=False),
    Column("signal_id", Number),
    Index(None, "at"),
)

incident = Table(
    "incident",
    metadata,
    row_id(),
    Column("title", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("selector", Text, nullable=False),
    Column("ca", Text),
    Column("opened_at", Number, nullable=False),
    Column("opened_by", Text, nullable=False),
    Column("deadline", Number, nullable=False),
    Column("closed_at", Number),
    Column("closed_by", Text),
    Column("members", Number, nullable=False, server_default="0"),
    Column("unknown", Number, nullable=False, server_default="0"),
    Column("unreadable", Number, nullable=False, server_default="0"),
    # The newest plan's number, and its hash over the rows.
    Column("plan", Integer, nullable=False, server_default="0"),
    Column("plan_hash", LargeBinary),
    Column("planned_at", Number),
    Column("plan_counts", Text),
    Index(None, "closed_at"),
    sqlite_autoincrement=True,
)

# A certificate that an incident names. Being a member is not being revoked.
incident_member = Table(
    "incident_member",
    metadata,
    Column("certificate_id", Number, nullable=False),
    Column("incident_id", Number, nullable=False),
    Column("pair_id", Number, nullable=False),
    PrimaryKeyConstraint("certificate_id", "incident_id"),
    Index(None, "incident_id", "certificate_id"),
)

# What an incident named and we do not know: serials of others, and lines that could not be read.
incident_stray = Table(
    "incident_stray",
    metadata,
    Column("incident_id", Number, nullable=False),
    Column("line", Number, nullable=False),
    Column("serial", LargeBinary),
    Column("problem", Text),
    PrimaryKeyConstraint("incident_id", "line"),
)

plan_row = Table(
    "plan_row",
    metadata,
    Column("incident_id", Number, nullable=False),
    Column("plan", Integer, nullable=False),
    Column("pair_id", Number, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("serving", Number, nullable=False),
    Column("standby", Number),
    Column("action", Text, nullable=False),
    Column("why", Text),
    Column("state", Text, nullable=False, server_default="planned"),
    Column("at", Number),
    Column("problem", Text),
    # No index has the state: an update is told to none.
    PrimaryKeyConstraint("incident_id", "plan", "pair_id"),
)

# How far the carrying out of a plan has come; one of an incident at a time.
incident_run = Table(
    "incident_run",
    metadata,
    Column("incident_id", Number, primary_key=True, autoincrement=False),
    Column("plan", Integer, nullable=False),
    Column("waves", Text, nullable=False),
    Column("max_failures", Text, nullable=False),
    Column("max_drift", Text, nullable=False),
    Column("rate", Integer),
    Column("wave", Integer, nullable=False),
    Column("up_to_pair", Number, nullable=False),
    Column("started_at", Number, nullable=False),
    Column("ended_at", Number),
    Column("stopped", Text),
)

# The sealed event log: each seal covers a range of events and the seal before it.
seal = Table(
    "seal",
    metadata,
    Column("no", Number, primary_key=True, autoincrement=False),
    Column("first_id", Number, nullable=False),
    Column("last_id", Number, nullable=False),
    Column("count", Integer, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("at", Number, nullable=False),
)

# The keys that heads of the history are signed with; the private ones lie wrapped among those of certificates.
signing_key = Table(
    "signing_key",
    metadata,
    Column("spki", LargeBinary, primary_key=True),
    Column("made_at", Number, nullable=False),
)

# Seals that were signed: what a signature is of follows from the seal.
signed_head = Table(
    "signed_head",
    metadata,
    Column("no", Number, nullable=False, autoincrement=False),
    Column("spki", LargeBinary, nullable=False),
    Column("at", Number, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    PrimaryKeyConstraint("no", "spki"),
)
