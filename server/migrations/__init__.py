"""The database's history, by Alembic; ``server.database.migrate`` runs it."""

from typing import Final

HEAD: Final = "0003"  # the newest revision: to compare it, a command need not load Alembic
