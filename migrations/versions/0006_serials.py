"""PostgreSQL finds certificates by their serials in the index alone."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NAME = "ux_certificate_serial_issuer"
_COLUMNS = ["serial", "issuer_hash"]


def upgrade() -> None:
    _index_again("postgresql", ["id", "pair_id", "ca"])


def downgrade() -> None:
    _index_again("postgresql", [])


def _index_again(dialect: str, included: list[str]) -> None:
    # A row of SQLite's indexes has the number of its certificate in any case, and all of the table is near.
    if op.get_context().dialect.name == dialect:
        op.drop_index(_NAME, "certificate")
        op.create_index(_NAME, "certificate", _COLUMNS, unique=True, postgresql_include=included)
