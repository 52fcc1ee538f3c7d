"""Runs the migrations inside the unit of work that dualcert opened, or on the database that alembic.ini names."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

from dualcert.store import incident_tables

connection = context.config.attributes.get("connection")
if connection is None:
    connection = create_engine(context.config.get_main_option("sqlalchemy.url") or "").connect()

context.configure(connection=connection, target_metadata=incident_tables.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
