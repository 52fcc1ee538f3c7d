"""The tables. ``migrations/`` builds them; a test demands that both agree.

Times are integer UTC microseconds, serials and hashes bytes. No foreign keys: consistency is the work of one
transaction per change, and a key to check is what a mass promotion cannot afford.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Number = BigInteger().with_variant(Integer(), "sqlite")
"""Row numbers and microseconds; SQLite numbers rows by itself only where the type is INTEGER."""


def row_id() -> Column[int]:
    return Column("id", Number, primary_key=True, autoincrement=True)


pair = Table(
    "pair",
    metadata,
    row_id(),
    Column("name", Text, nullable=False, unique=True),
    Column("names_digest", LargeBinary, nullable=False, unique=True),
    Column("key_type", Text, nullable=False),
    Column("dns", Text, nullable=False),
    Column("first_wait", Integer, nullable=False),
    Column("created_at", Number, nullable=False),
    # The number of a pair that was removed is not given to another one: its history stays its own.
    sqlite_autoincrement=True,
)

pair_name = Table(
    "pair_name",
    metadata,
    Column("pair_id", Number, nullable=False),
    Column("position", Integer, nullable=False),
    Column("reversed_name", Text, nullable=False),
    PrimaryKeyConstraint("pair_id", "position"),
    Index(None, "reversed_name"),
)

pair_target = Table(
    "pair_target",
    metadata,
    Column("pair_id", Number, nullable=False),
    Column("target", Text, nullable=False),
    PrimaryKeyConstraint("pair_id", "target"),
    Index(None, "target"),
)

pair_state = Table(
    "pair_state",
    metadata,
    Column("pair_id", Number, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("serving", Number),
    Column("standby", Number),
    Column("primary_lineage", Number, nullable=False),
    Column("backup_lineage", Number, nullable=False),
    Column("backup_ok_until", Number),
    Column("next_action_at", Number),
    Index(None, "next_action_at"),
    # The fillfactor that it has on PostgreSQL stands in the migration alone: saying it here would import that
    # dialect, a tenth of what a command needs to start.
)

# Pairs that were ended: whose their history is, and what may still have to be revoked.
former_pair = Table(
    "former_pair",
    metadata,
    Column("pair_id", Number, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("names", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("serving", Number),
    Column("standby", Number),
    Column("removed_at", Number, nullable=False),
    Index(None, "name"),
)

lineage = Table(
    "lineage",
    metadata,
    row_id(),
    Column("pair_id", Number, nullable=False),
    Column("ca", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("opened_at", Number, nullable=False),
    Column("retired_at", Number),
    Column("renew_at", Number),
    Index(None, "pair_id", "ca"),
)

account = Table(
    "account",
    metadata,
    Column("ca", Text, primary_key=True),
    Column("directory", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("spki", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("url", Text),
    Column("caa_identities", Text, nullable=False),
    Column("created_at", Number, nullable=False),
    Column("contact", Text),
    Column("deactivated_at", Number),
    # The key that a rollover is under way to: the CA may know it already.
    Column("next_spki", LargeBinary),
    Column("next_key_id", Text),
    Column("next_wrapped", LargeBinary),
)

issuance = Table(
    "issuance",
    metadata,
    row_id(),
    Column("pair_id", Number, nullable=False),
    Column("cause", Text, nullable=False),
    Column("opened_at", Number, nullable=False),
    Index(None, "pair_id"),
)

acme_order = Table(
    "acme_order",
    metadata,
    row_id(),
    Column("issuance_id", Number, nullable=False),
    Column("pair_id", Number, nullable=False),
    Column("lineage_id", Number, nullable=False),
    Column("ca", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("names", Text, nullable=False),
    Column("spki", LargeBinary, nullable=False),
    Column("csr", LargeBinary, nullable=False),
    Column("url", Text),
    Column("finalize", Text),
    Column("authorizations", Text),
    Column("error", Text),
    Column("created_at", Number, nullable=False),
    Column("replaces", Text),
    Index(None, "pair_id", "ca", "id"),
)

challenge_record = Table(
    "challenge_record",
    metadata,
    row_id(),
    Column("order_id", Number, nullable=False),
    Column("pair_id", Number, nullable=False),
    Column("ca", Text, nullable=False),
    Column("dns", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("record", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("identifier", Text, nullable=False),
    Column("authorization", Text, nullable=False),
    Column("challenge", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("since", Number, nullable=False),
    UniqueConstraint("record", "value"),
    Index(None, "pair_id"),
    Index(None, "order_id"),
)

public_key = Table(
    "public_key",
    metadata,
    Column("spki", LargeBinary, primary_key=True),
    Column("pair_id", Number, nullable=False),
    Column("ca", Text, nullable=False),
    Column("issuance_id", Number, nullable=False),
    Column("created_at", Number, nullable=False),
)

wrapped_key = Table(
    "wrapped_key",
    metadata,
    Column("spki", LargeBinary, primary_key=True),
    Column("domain", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("proved_at", Number, nullable=False),
    Column("destroy_at", Number),
    Index(None, "domain", "key_id"),
    Index(None, "destroy_at"),
)

blocked_key = Table(
    "blocked_key",
    metadata,
    Column("spki", LargeBinary, primary_key=True),
    Column("at", Number, nullable=False),
    Column("cause", Text, nullable=False),
)

certificate = Table(
    "certificate",
    metadata,
    row_id(),
    Column("pair_id", Number, nullable=False),
    Column("lineage_id", Number, nullable=False),
    Column("ca", Text, nullable=False),
    Column("serial", LargeBinary, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("issuer_hash", LargeBinary, nullable=False),
    Column("issuing_key", LargeBinary, nullable=False),
    Column("root_key", LargeBinary),
    Column("sha256", LargeBinary, nullable=False),
    Column("spki", LargeBinary, nullable=False),
    Column("names_digest", LargeBinary, nullable=False),
    Column("key_type", Text, nullable=False),
    Column("not_before", Number, nullable=False),
    Column("not_after", Number, nullable=False),
    Column("chain_hash", LargeBinary, nullable=False),
    Column("stored_at", Number, nullable=False),
    Column("flaw", Text),
    # On PostgreSQL it includes what a list of a million serials asks for: their rows lie anywhere on the disk. Saying
    # so here would import that dialect at every start.
    Index("ux_certificate_serial_issuer", "serial", "issuer_hash", unique=True),
    Index(None, "pair_id", "lineage_id"),
    Index(None, "spki", unique=True),
    Index(None, "names_digest", "ca"),
    Index(None, "not_after"),
)

leaf = Table(
    "leaf",
    metadata,
    Column("certificate_id", Number, primary_key=True, autoincrement=False),
    Column("der", LargeBinary, nullable=False),
)

chain = Table(
    "chain",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("pem", Text, nullable=False),
)

certificate_chain = Table(
    "certificate_chain",
    metadata,
    Column("certificate_id", Number, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("certificate_id", "hash"),
)

renewal_info = Table(
    "renewal_info",
    metadata,
    Column("certificate_id", Number, primary_key=True, autoincrement=False),
    Column("pair_id", Number, nullable=False),
    Column("ca", Text, nullable=False),
    Column("ari_id", Text, nullable=False),
    # When its life alone demands a renewal: drawn once, too.
    Column("life_at", Number, nullable=False),
    Column("window_start", Number),
    Column("window_end", Number),
    Column("explanation", Text),
    # Drawn once per window: what is drawn anew at every look may never come.
    Column("renew_at", Number),
    Column("asked_at", Number),
    Column("check_at", Number),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("problem", Text),
    # By CA first: what one that hangs leaves overdue is not gone through for the others.
    Index(None, "ca", "check_at"),
    Index(None, "pair_id"),
)

coverage = Table(
    "coverage",
    metadata,
    Column("certificate_id", Number, nullable=False),
    Column("names_digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("certificate_id", "names_digest"),
)

revocation_request = Table(
    "revocation_request",
    metadata,
    Column("certificate_id", Number, primary_key=True, autoincrement=False),
    Column("pair_id", Number, nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_at", Number, nullable=False),
    Column("revoke_by", Number, nullable=False),
    Column("unverified", Boolean, nullable=False),
    Column("actor", Text, nullable=False),
    Index(None, "pair_id"),
)

revocation = Table(
    "revocation",
    metadata,
    Column("certificate_id", Number, primary_key=True, autoincrement=False),
    Column("at", Number, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
)

deployment = Table(
    "deployment",
    metadata,
    row_id(),
    Column("pair_id", Number, nullable=False),
    Column("target", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("certificate_id", Number, nullable=False),
    Column("arrived_at", Number, nullable=False),
    Column("verified_at", Number),
    Column("left_at", Number),
    # How it was seen when it was for the first time: an observation tells the last look alone.
    Column("how", Text),
    Index(None, "pair_id", "target"),
    Index(None, "target", "arrived_at"),
)

observation = Table(
    "observation",
    metadata,
    Column("pair_id", Number, nullable=False),
    Column("target", Text, nullable=False),
    Column("sha256", LargeBinary),
    Column("how", Text, nullable=False),
    Column("at", Number, nullable=False),
    Column("problem", Text),
    PrimaryKeyConstraint("pair_id", "target"),
)

work = Table(
    "work",
    metadata,
    row_id(),
    Column("kind", Text, nullable=False),
    Column("pair_id", Number, nullable=False),
    Column("ca", Text, nullable=False, server_default=""),
    Column("target", Text, nullable=False, server_default=""),
    Column("due_at", Number),
    # Whose it is as long as he has a lease as an engine. In no index: a claim changes nothing that one is made of.
    Column("owner", Text),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("since", Number),
    Column("reason", Text),
    Column("waiting_for", Text),
    # Where it stands: see `queue`. What is in the queue of its CA has its turn by when its pair needs it.
    Column("queue", Integer, nullable=False, server_default="0"),
    Column("needed_by", Number),
    Index("ux_work_subject", "pair_id", "kind", "ca", "target", unique=True),
    Index("ix_work_due", "queue", "due_at"),
    # Of what stands in no queue, or is at no target, they have nothing. On PostgreSQL, too: see the migration.
    Index("ix_work_turn", "queue", "ca", "needed_by", "due_at", sqlite_where=text("queue > 1")),
    Index("ix_work_target", "target", "kind", sqlite_where=text("target > ''")),
    # A number is never used twice: a holder that comes back late must not find another row under its own.
    sqlite_autoincrement=True,
)

lease = Table(
    "lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until", Number, nullable=False),
)

event = Table(
    "event",
    metadata,
    row_id(),
    Column("at", Number, nullable=False),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("pair_id", Number),
    Column("ca", Text),
    Column("target", Text),
    Column("certificate_id", Number),
    Column("previous_id", Number),
    Index(None, "pair_id", "id"),
)

budget = Table(
    "budget",
    metadata,
    Column("ca", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False, server_default=""),
    # When the bucket is full again, by the database's clock (GCRA's theoretical arrival time).
    Column("full_at", Number, nullable=False),
    Column("held_until", Number),
    Column("reason", Text),
    PrimaryKeyConstraint("ca", "kind", "subject"),
)

daemon = Table(
    "daemon",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("started_at", Number, nullable=False),
    Column("seen_at", Number, nullable=False),
)

# CAs that get no orders, or whose certificates are not to be relied on.
ca_standing = Table(
    "ca_standing",
    metadata,
    Column("ca", Text, primary_key=True),
    Column("frozen_at", Number),
    Column("frozen_by", Text),
    Column("distrusted_at", Number),
    Column("distrusted_by", Text),
    Column("distrust_after", Number),
    Column("refills_held_for", Number),
)
