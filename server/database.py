"""One database for all that the server must not forget: the transport's ledger and the registry.

Both declare their tables on ``Base``, and share one URL and one history of migrations
(``server/migrations``), which ``flwr-fleet init`` and ``serve`` run. A ledger that is opened alone,
for a demonstration or a test, makes its own tables; the first migration takes such a file over.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import StaticPool

from schemas.base import ConfigError
from server.migrations import HEAD

ABSENT: Final = (OperationalError, InterfaceError, PoolTimeout)  # the database is away
_LOCK: Final = 0x666C7772  # PostgreSQL's advisory lock of whoever writes
_NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Of every table."""

    metadata = MetaData(naming_convention=_NAMES)


def open_engine(where: Path | str) -> Engine:
    """Open a database: a file of SQLite's, or an SQLAlchemy URL.

    On SQLite commits are on the disk when they return, and readers do not wait for writers (WAL).

    Raises
    ------
    ConfigError
        Where it is no URL, or its driver is not installed.
    """
    url = _url(where)
    if url.get_backend_name() != "sqlite":
        return _create(url, pool_pre_ping=True)
    if url.database in (None, "", ":memory:"):
        return _create(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    assert url.database is not None
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = _create(url, connect_args={"timeout": 30})
    event.listen(engine, "connect", _durable)
    return engine


def serialised(engine: Engine) -> Engine:
    """The same database, whose transactions write one after the other from their first line on.

    So what a transaction has read still holds when it writes: a claim is used once, and the audit
    log has one order. SQLite takes its write lock at the start; PostgreSQL takes an advisory one.
    """
    writer = engine.execution_options()
    event.listen(writer, "begin", _take_turn)
    return writer


def create_tables(engine: Engine, tables: Sequence[type[Base]]) -> None:
    """Make tables that are not there, without migrations."""
    made: list[Any] = [table.__table__ for table in tables]
    Base.metadata.create_all(engine, tables=made)


def revision_of(connection: Connection) -> str:
    """The revision that a database is at; "" where it is at none."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""


def migrate(engine: Engine, to: str = "head") -> str:
    """Bring a database up to date, or to a revision; its revision before, "" where it was empty.

    Raises
    ------
    ConfigError
        Where the database is of a newer release.
    """
    from alembic import command
    from alembic.util import CommandError

    with engine.connect() as connection:
        before = revision_of(connection)
    config = _alembic()
    config.attributes["engine"] = engine
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise ConfigError(_shown(engine), [f"{error}; it is of a newer flwr-edge"]) from None
    return before


def unmake(engine: Engine) -> None:
    """Drop the tables of a database at a known revision, and all that is in them."""
    from alembic import command

    config = _alembic()
    config.attributes["engine"] = engine
    command.downgrade(config, "base")


def knows(revision: str) -> bool:
    """Whether this release can bring a database of that revision up to date."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_alembic())
    return revision in {one.revision for one in script.walk_revisions()}


def pending(engine: Engine) -> bool:
    """Whether migrations are to be run before this release can use the database."""
    with engine.connect() as connection:
        return revision_of(connection) != HEAD


def newer(engine: Engine) -> bool:
    """Whether a database is of a newer release, so that this one cannot bring it up to date."""
    with engine.connect() as connection:
        revision = revision_of(connection)
    return bool(revision) and not knows(revision)


def why_absent(error: Exception) -> str:
    """The driver's own first line, without the statement."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).splitlines() or [type(error).__name__])[0]


def _alembic() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "server:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _url(where: Path | str) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return URL.create("sqlite", database=str(where))
    try:
        return make_url(where)
    except ArgumentError:
        raise ConfigError("database", ["expected a file, or a URL as SQLAlchemy has"]) from None


def _create(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(url, **options)
    except (ModuleNotFoundError, ArgumentError) as error:
        hint = "; install flwr-edge[postgres]" if "psycopg" in str(error) else ""
        shown = url.render_as_string(hide_password=True)
        raise ConfigError("database", [f"{shown}: {error}{hint}"]) from None


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _durable(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _take_turn(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
