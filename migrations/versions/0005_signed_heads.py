"""Heads of the history that were signed, and with which keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "signing_key",
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", Number, nullable=False),
        sa.PrimaryKeyConstraint("spki", name=op.f("pk_signing_key")),
    )
    op.create_table(
        "signed_head",
        sa.Column("no", Number, autoincrement=False, nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("at", Number, nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("no", "spki", name=op.f("pk_signed_head")),
    )


def downgrade() -> None:
    op.drop_table("signed_head")
    op.execute("DELETE FROM wrapped_key WHERE spki IN (SELECT spki FROM signing_key)")
    op.drop_table("signing_key")
