"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("caa_identities", sa.Text(), nullable=False),
        sa.Column("created_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("ca", name=op.f("pk_account")),
    )
    op.create_table(
        "acme_order",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("issuance_id", Number, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("lineage_id", Number, nullable=False),
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("csr", sa.LargeBinary(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("finalize", sa.Text(), nullable=True),
        sa.Column("authorizations", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acme_order")),
    )
    op.create_index(op.f("ix_acme_order_pair_id_ca_id"), "acme_order", ["pair_id", "ca", "id"], unique=False)
    op.create_table(
        "blocked_key",
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("spki", name=op.f("pk_blocked_key")),
    )
    op.create_table(
        "certificate",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("lineage_id", Number, nullable=False),
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("serial", sa.LargeBinary(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("issuer_hash", sa.LargeBinary(), nullable=False),
        sa.Column("issuing_key", sa.LargeBinary(), nullable=False),
        sa.Column("root_key", sa.LargeBinary(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("names_digest", sa.LargeBinary(), nullable=False),
        sa.Column("key_type", sa.Text(), nullable=False),
        sa.Column("not_before", Number, nullable=False),
        sa.Column("not_after", Number, nullable=False),
        sa.Column("chain_hash", sa.LargeBinary(), nullable=False),
        sa.Column("stored_at", Number, nullable=False),
        sa.Column("flaw", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificate")),
    )
    op.create_index(
        op.f("ix_certificate_pair_id_lineage_id"), "certificate", ["pair_id", "lineage_id"], unique=False
    )
    op.create_index(op.f("ix_certificate_spki"), "certificate", ["spki"], unique=True)
    op.create_index("ux_certificate_serial_issuer", "certificate", ["serial", "issuer_hash"], unique=True)
    op.create_table(
        "chain",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_chain")),
    )
    op.create_table(
        "challenge_record",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("order_id", Number, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("dns", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("authorization", sa.Text(), nullable=False),
        sa.Column("challenge", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", Number, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_challenge_record")),
        sa.UniqueConstraint("record", "value", name=op.f("uq_challenge_record_record_value")),
    )
    op.create_index(op.f("ix_challenge_record_order_id"), "challenge_record", ["order_id"], unique=False)
    op.create_index(op.f("ix_challenge_record_pair_id"), "challenge_record", ["pair_id"], unique=False)
    op.create_table(
        "coverage",
        sa.Column("certificate_id", Number, nullable=False),
        sa.Column("names_digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("certificate_id", "names_digest", name=op.f("pk_coverage")),
    )
    op.create_table(
        "deployment",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("certificate_id", Number, nullable=False),
        sa.Column("arrived_at", Number, nullable=False),
        sa.Column("verified_at", Number, nullable=True),
        sa.Column("left_at", Number, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment")),
    )
    op.create_index(op.f("ix_deployment_pair_id_target"), "deployment", ["pair_id", "target"], unique=False)
    op.create_index(
        op.f("ix_deployment_target_arrived_at"), "deployment", ["target", "arrived_at"], unique=False
    )
    op.create_table(
        "event",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("pair_id", Number, nullable=True),
        sa.Column("ca", sa.Text(), nullable=True),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("certificate_id", Number, nullable=True),
        sa.Column("previous_id", Number, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_pair_id_id"), "event", ["pair_id", "id"], unique=False)
    op.create_table(
        "issuance",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("opened_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_issuance")),
    )
    op.create_index(op.f("ix_issuance_pair_id"), "issuance", ["pair_id"], unique=False)
    op.create_table(
        "leaf",
        sa.Column("certificate_id", Number, autoincrement=False, nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_leaf")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("until", Number, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "lineage",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("opened_at", Number, nullable=False),
        sa.Column("retired_at", Number, nullable=True),
        sa.Column("renew_at", Number, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lineage")),
    )
    op.create_index(op.f("ix_lineage_pair_id_ca"), "lineage", ["pair_id", "ca"], unique=False)
    op.create_table(
        "observation",
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("how", sa.Text(), nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("pair_id", "target", name=op.f("pk_observation")),
    )
    op.create_table(
        "pair",
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
    )
    op.create_table(
        "pair_name",
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("reversed_name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pair_id", "position", name=op.f("pk_pair_name")),
    )
    op.create_index(op.f("ix_pair_name_reversed_name"), "pair_name", ["reversed_name"], unique=False)
    op.create_table(
        "pair_state",
        sa.Column("pair_id", Number, autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("serving", Number, nullable=True),
        sa.Column("standby", Number, nullable=True),
        sa.Column("primary_lineage", Number, nullable=False),
        sa.Column("backup_lineage", Number, nullable=False),
        sa.Column("backup_ok_until", Number, nullable=True),
        sa.Column("next_action_at", Number, nullable=True),
        sa.PrimaryKeyConstraint("pair_id", name=op.f("pk_pair_state")),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index(op.f("ix_pair_state_next_action_at"), "pair_state", ["next_action_at"], unique=False)
    op.create_table(
        "pair_target",
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pair_id", "target", name=op.f("pk_pair_target")),
    )
    op.create_index(op.f("ix_pair_target_target"), "pair_target", ["target"], unique=False)
    op.create_table(
        "public_key",
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("issuance_id", Number, nullable=False),
        sa.Column("created_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("spki", name=op.f("pk_public_key")),
    )
    op.create_table(
        "revocation",
        sa.Column("certificate_id", Number, autoincrement=False, nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_revocation")),
    )
    op.create_table(
        "revocation_request",
        sa.Column("certificate_id", Number, autoincrement=False, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_at", Number, nullable=False),
        sa.Column("revoke_by", Number, nullable=False),
        sa.Column("unverified", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_revocation_request")),
    )
    op.create_index(op.f("ix_revocation_request_pair_id"), "revocation_request", ["pair_id"], unique=False)
    op.create_table(
        "work",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("ca", sa.Text(), server_default="", nullable=False),
        sa.Column("target", sa.Text(), server_default="", nullable=False),
        sa.Column("due_at", Number, nullable=True),
        sa.Column("lease_until", Number, nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("since", Number, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("waiting_for", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_work_due_at"), "work", ["due_at"], unique=False)
    op.create_index("ix_work_owner", "work", ["owner"], unique=False)
    op.create_index("ix_work_target", "work", ["target", "kind"], unique=False)
    op.create_index("ux_work_subject", "work", ["pair_id", "kind", "ca", "target"], unique=True)
    op.create_table(
        "wrapped_key",
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("proved_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("spki", name=op.f("pk_wrapped_key")),
    )
    op.create_index(op.f("ix_wrapped_key_domain"), "wrapped_key", ["domain"], unique=False)


def downgrade() -> None:
    for table in (
        "wrapped_key",
        "work",
        "revocation_request",
        "revocation",
        "public_key",
        "pair_target",
        "pair_state",
        "pair_name",
        "pair",
        "observation",
        "lineage",
        "lease",
        "leaf",
        "issuance",
        "event",
        "deployment",
        "coverage",
        "challenge_record",
        "chain",
        "certificate",
        "blocked_key",
        "acme_order",
        "account",
    ):
        op.drop_table(table)
