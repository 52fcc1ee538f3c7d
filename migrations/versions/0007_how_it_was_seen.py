"""What a report tells of the first sight at a target stays as it was, whatever is looked at later."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Of what incidents have promoted: nobody asks it of anything else, and there may be many millions.
_TOLD = """
UPDATE deployment SET how = (
    SELECT min(CASE event.cause WHEN 'seen by wire' THEN 'wire' WHEN 'seen by stored' THEN 'stored' END)
    FROM event
    WHERE event.pair_id = deployment.pair_id AND event.kind = 'verified' AND event.target = deployment.target
        AND event.certificate_id = deployment.certificate_id AND event.at = deployment.verified_at
)
WHERE verified_at IS NOT NULL AND pair_id IN (SELECT pair_id FROM plan_row)
"""


def upgrade() -> None:
    op.add_column("deployment", sa.Column("how", sa.Text(), nullable=True))
    op.execute(_TOLD)


def downgrade() -> None:
    op.drop_column("deployment", "how")
