"""Runs the migrations inside the unit of work that dualcert opened, or on the database that alembic.ini names."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

import dualcert.store.incident_tables  # noqa: F401 - its tables belong to the metadata
from dualcert.store.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    connection = create_engine(context.config.get_main_option("sqlalchemy.url") or "").connect()

context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
