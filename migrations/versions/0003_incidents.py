"""What is remembered of the worst days: signals, what is watched, incidents with their plans, and seals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_TABLES = (
    "automatic_promotion",
    "ca_standing",
    "counter",
    "incident",
    "incident_member",
    "incident_run",
    "incident_stray",
    "plan_row",
    "seal",
    "signal",
    "watch_source",
    "watched",
)


def upgrade() -> None:
    op.create_table(
        "automatic_promotion",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("signal_id", Number, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_automatic_promotion")),
    )
    op.create_index(op.f("ix_automatic_promotion_at"), "automatic_promotion", ["at"])
    op.create_table(
        "ca_standing",
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("frozen_at", Number, nullable=True),
        sa.Column("frozen_by", sa.Text(), nullable=True),
        sa.Column("distrusted_at", Number, nullable=True),
        sa.Column("distrusted_by", sa.Text(), nullable=True),
        sa.Column("distrust_after", Number, nullable=True),
        sa.Column("refills_held_for", Number, nullable=True),
        sa.PrimaryKeyConstraint("ca", name=op.f("pk_ca_standing")),
    )
    op.create_table(
        "counter",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", Number, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counter")),
    )
    op.create_table(
        "incident",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("ca", sa.Text(), nullable=True),
        sa.Column("opened_at", Number, nullable=False),
        sa.Column("opened_by", sa.Text(), nullable=False),
        sa.Column("deadline", Number, nullable=False),
        sa.Column("closed_at", Number, nullable=True),
        sa.Column("closed_by", sa.Text(), nullable=True),
        sa.Column("members", Number, server_default="0", nullable=False),
        sa.Column("unknown", Number, server_default="0", nullable=False),
        sa.Column("unreadable", Number, server_default="0", nullable=False),
        sa.Column("plan", sa.Integer(), server_default="0", nullable=False),
        sa.Column("plan_hash", sa.LargeBinary(), nullable=True),
        sa.Column("planned_at", Number, nullable=True),
        sa.Column("plan_counts", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incident")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_incident_closed_at"), "incident", ["closed_at"])
    op.create_table(
        "incident_member",
        sa.Column("certificate_id", Number, nullable=False),
        sa.Column("incident_id", Number, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.PrimaryKeyConstraint("certificate_id", "incident_id", name=op.f("pk_incident_member")),
    )
    op.create_index(
        op.f("ix_incident_member_incident_id_certificate_id"),
        "incident_member",
        ["incident_id", "certificate_id"],
    )
    op.create_table(
        "incident_run",
        sa.Column("incident_id", Number, autoincrement=False, nullable=False),
        sa.Column("plan", sa.Integer(), nullable=False),
        sa.Column("waves", sa.Text(), nullable=False),
        sa.Column("max_failures", sa.Text(), nullable=False),
        sa.Column("max_drift", sa.Text(), nullable=False),
        sa.Column("rate", sa.Integer(), nullable=True),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("up_to_pair", Number, nullable=False),
        sa.Column("started_at", Number, nullable=False),
        sa.Column("ended_at", Number, nullable=True),
        sa.Column("stopped", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("incident_id", name=op.f("pk_incident_run")),
    )
    op.create_table(
        "incident_stray",
        sa.Column("incident_id", Number, nullable=False),
        sa.Column("line", Number, nullable=False),
        sa.Column("serial", sa.LargeBinary(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("incident_id", "line", name=op.f("pk_incident_stray")),
    )
    op.create_table(
        "plan_row",
        sa.Column("incident_id", Number, nullable=False),
        sa.Column("plan", sa.Integer(), nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("serving", Number, nullable=False),
        sa.Column("standby", Number, nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="planned", nullable=False),
        sa.Column("at", Number, nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("incident_id", "plan", "pair_id", name=op.f("pk_plan_row")),
    )
    op.create_index(
        op.f("ix_plan_row_incident_id_plan_state_pair_id"),
        "plan_row",
        ["incident_id", "plan", "state", "pair_id"],
    )
    op.create_table(
        "seal",
        sa.Column("no", Number, autoincrement=False, nullable=False),
        sa.Column("first_id", Number, nullable=False),
        sa.Column("last_id", Number, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_seal")),
    )
    op.create_table(
        "signal",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("certificate_id", Number, nullable=False),
        sa.Column("pair_id", Number, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("since", Number, nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signal")),
        sa.UniqueConstraint(
            "certificate_id",
            "source",
            "kind",
            "evidence",
            name=op.f("uq_signal_certificate_id_source_kind_evidence"),
        ),
    )
    op.create_table(
        "watch_source",
        sa.Column("id", Number, autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("issuing_key", sa.LargeBinary(), nullable=False),
        sa.Column("issuer_hash", sa.LargeBinary(), nullable=False),
        sa.Column("ca", sa.Text(), nullable=False),
        sa.Column("due_at", Number, nullable=True),
        sa.Column("lease_until", Number, nullable=True),
        sa.Column("asked_at", Number, nullable=True),
        sa.Column("good_at", Number, nullable=True),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("modified", sa.Text(), nullable=True),
        sa.Column("number", sa.LargeBinary(), nullable=True),
        sa.Column("this_update", Number, nullable=True),
        sa.Column("next_update", Number, nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("entries", sa.Integer(), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_watch_source")),
        sa.UniqueConstraint(
            "kind",
            "place",
            "issuing_key",
            "issuer_hash",
            name=op.f("uq_watch_source_kind_place_issuing_key_issuer_hash"),
        ),
    )
    op.create_index(op.f("ix_watch_source_due_at"), "watch_source", ["due_at"])
    op.create_table(
        "watched",
        sa.Column("certificate_id", Number, nullable=False),
        sa.Column("source_id", Number, nullable=False),
        sa.Column("due_at", Number, nullable=True),
        sa.Column("good_at", Number, nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("certificate_id", "source_id", name=op.f("pk_watched")),
    )
    op.create_index(op.f("ix_watched_source_id_due_at"), "watched", ["source_id", "due_at"])

    op.execute("INSERT INTO counter (name, value) SELECT 'pairs', count(*) FROM pair")


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.drop_table(table)
