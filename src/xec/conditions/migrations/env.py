"""Where alembic begins: it runs the migrations on the connection that the caller hands over."""

from __future__ import annotations

from alembic import context

from xec.conditions.schema import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
