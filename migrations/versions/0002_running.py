"""What a tool that runs every day remembers: renewal information, budgets, daemons, when a key is to go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "renewal_info",
        sa.Column("certificate_id", Number, autoincrement=False, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("ari_id", sa.Text(), nullable=False),
        sa.Column("life_at", Number, nullable=False),
        sa.Column("window_start", Number, nullable=True),
        sa.Column("window_end", Number, nullable=True),
        sa.Column("explanation", sa.Text(), nullable=True),
        sa.Column("renew_at", Number, nullable=True),
        sa.Column("asked_at", Number, nullable=True),
        sa.Column("check_at", Number, nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_renewal_info")),
    )
    op.create_index(op.f("ix_renewal_info_ca_check_at"), "renewal_info", ["ca", "check_at"])
    op.create_index(op.f("ix_renewal_info_pair_id"), "renewal_info", ["pair_id"])
    op.create_table(
        "certificate_chain",
        sa.Column("certificate_id", Number, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("certificate_id", "hash", name=op.f("pk_certificate_chain")),
    )
    op.create_table(
        "budget",
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), server_default="", nullable=False),
        sa.Column("full_at", Number, nullable=False),
        sa.Column("held_until", Number, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("ca", "kind", "subject", name=op.f("pk_budget")),
    )
    op.create_table(
        "daemon",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", Number, nullable=False),
        sa.Column("seen_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_daemon")),
    )
    op.create_table(
        "former_pair",
        sa.Column("pair_id", Number, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("serving", Number, nullable=True),
        sa.Column("standby", Number, nullable=True),
        sa.Column("removed_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("pair_id", name=op.f("pk_former_pair")),
    )
    op.create_index(op.f("ix_former_pair_name"), "former_pair", ["name"])
    _number_pairs_once(True)
    if op.get_context().dialect.name == "postgresql":
        # Byte by byte, as SQLite compares: in the order of a language, a suffix is no range of an index.
        for table, column in (("pair", "name"), ("pair_name", "reversed_name")):
            op.alter_column(table, column, type_=sa.Text(collation="C"))
    for name, kind in (
        ("contact", sa.Text()),
        ("deactivated_at", Number),
        ("next_spki", sa.LargeBinary()),
        ("next_key_id", sa.Text()),
        ("next_wrapped", sa.LargeBinary()),
    ):
        op.add_column("account", sa.Column(name, kind, nullable=True))
    op.add_column("acme_order", sa.Column("replaces", sa.Text(), nullable=True))
    op.add_column("wrapped_key", sa.Column("destroy_at", Number, nullable=True))
    op.create_index(op.f("ix_wrapped_key_destroy_at"), "wrapped_key", ["destroy_at"])
    op.drop_index(op.f("ix_wrapped_key_domain"), "wrapped_key")
    op.create_index(op.f("ix_wrapped_key_domain_key_id"), "wrapped_key", ["domain", "key_id"])
    op.create_index(op.f("ix_certificate_names_digest_ca"), "certificate", ["names_digest", "ca"])
    op.create_index(op.f("ix_certificate_not_after"), "certificate", ["not_after"])
    # A key goes when its certificate has ended; one whose attempt came to nothing has no further use.
    ends = "(SELECT not_after FROM certificate WHERE certificate.spki = wrapped_key.spki)"
    op.execute(f"UPDATE wrapped_key SET destroy_at = {ends}")  # noqa: S608 - a constant


def _number_pairs_once(once: bool) -> None:
    """Let SQLite give no pair the number of one that was removed, as PostgreSQL never does; or let it again."""
    if op.get_context().dialect.name != "sqlite":
        return
    op.create_table(
        "pair_again",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("names_digest", sa.LargeBinary(), nullable=False),
        sa.Column("key_type", sa.Text(), nullable=False),
        sa.Column("dns", sa.Text(), nullable=False),
        sa.Column("first_wait", sa.Integer(), nullable=False),
        sa.Column("created_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pair")),
        sa.UniqueConstraint("name", name=op.f("uq_pair_name")),
        sa.UniqueConstraint("names_digest", name=op.f("uq_pair_names_digest")),
        sqlite_autoincrement=once,
    )
    columns = "id, name, names_digest, key_type, dns, first_wait, created_at"
    op.execute(f"INSERT INTO pair_again ({columns}) SELECT {columns} FROM pair")  # noqa: S608 - a constant
    op.drop_table("pair")
    op.rename_table("pair_again", "pair")


def downgrade() -> None:
    _number_pairs_once(False)
    op.drop_index(op.f("ix_certificate_not_after"), "certificate")
    op.drop_index(op.f("ix_certificate_names_digest_ca"), "certificate")
    op.drop_index(op.f("ix_wrapped_key_domain_key_id"), "wrapped_key")
    op.create_index(op.f("ix_wrapped_key_domain"), "wrapped_key", ["domain"])
    op.drop_index(op.f("ix_wrapped_key_destroy_at"), "wrapped_key")
    op.drop_column("wrapped_key", "destroy_at")
    op.drop_column("acme_order", "replaces")
    for name in ("next_wrapped", "next_key_id", "next_spki", "deactivated_at", "contact"):
        op.drop_column("account", name)
    for table in ("former_pair", "daemon", "budget", "certificate_chain", "renewal_info"):
        op.drop_table(table)
