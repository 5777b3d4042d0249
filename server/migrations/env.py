"""What Alembic runs: the migrations, on the engine that it is given, in one transaction.

SQLite's driver begins none for DDL, and each statement would be on the disk at once: a kill in
between left a half of a migration that none could follow. So the transaction is begun by hand
(``serialised``), and DDL and the revision's number are there together, or not at all.
"""

from alembic import context
from sqlalchemy import Engine

from server.database import Base, serialised
from server.fleet import registry
from server.transport import tables

TABLES = (registry, tables)  # importing them declares them
engine: Engine = context.config.attributes["engine"]

with serialised(engine).begin() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
