"""What Alembic runs: the migrations, on the engine that it is given, in one transaction."""

from alembic import context
from sqlalchemy import Engine

from server.database import Base
from server.fleet import registry
from server.transport import tables

TABLES = (registry, tables)  # importing them declares them
engine: Engine = context.config.attributes["engine"]

with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
