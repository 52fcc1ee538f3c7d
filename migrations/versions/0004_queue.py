"""One lease for each engine instead of one on each row that it holds; one queue for each CA's orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_HOLDERS = """
    INSERT INTO lease (name, owner, until)
    SELECT 'engine:' || owner, owner, max(lease_until) FROM work
    WHERE owner IS NOT NULL AND lease_until IS NOT NULL GROUP BY owner
"""
_HELD = """
    UPDATE work SET lease_until = coalesce(
        (SELECT until FROM lease WHERE lease.name = 'engine:' || work.owner), 0
    ) WHERE owner IS NOT NULL
"""


def upgrade() -> None:
    op.execute(_HOLDERS)
    op.drop_index("ix_work_owner", "work")
    op.drop_index("ix_work_due_at", "work")
    op.drop_column("work", "lease_until")
    op.add_column("work", sa.Column("queue", sa.Integer(), server_default="0", nullable=False))
    op.add_column("work", sa.Column("needed_by", Number, nullable=True))
    if op.get_context().dialect.name == "postgresql":
        # A claim writes each row anew, twice as long with its owner. Where that fits into the page of the old one, no
        # index has to be told.
        op.execute("ALTER TABLE work SET (fillfactor = 30)")
    op.execute("UPDATE work SET queue = 1 WHERE kind = 'order'")
    op.create_index("ix_work_due", "work", ["queue", "due_at"])
    op.create_index("ix_work_turn", "work", ["queue", "ca", "needed_by", "due_at"])


def downgrade() -> None:
    op.drop_index("ix_work_turn", "work")
    op.drop_index("ix_work_due", "work")
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE work RESET (fillfactor)")
    op.drop_column("work", "needed_by")
    op.drop_column("work", "queue")
    op.add_column("work", sa.Column("lease_until", Number, nullable=True))
    op.create_index("ix_work_due_at", "work", ["due_at"])
    op.create_index("ix_work_owner", "work", ["owner"])
    op.execute(_HELD)
    op.execute("DELETE FROM lease WHERE name LIKE 'engine:%'")
