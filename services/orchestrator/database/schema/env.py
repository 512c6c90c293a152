"""Alembic's environment: runs the versions on the connection that the store hands over."""

from alembic import context

from services.orchestrator.database.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite alters no tables in place.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
