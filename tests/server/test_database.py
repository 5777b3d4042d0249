"""Migrations and the engine; ``tests/server/fleet`` runs what lies above on two systems."""

import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from schemas.base import ConfigError
from server.database import Base, _alembic, migrate, open_engine, pending, serialised
from server.fleet import registry
from server.migrations import HEAD
from server.transport import Ledger

assert registry  # declares its tables


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request, tmp_path):
    url = tmp_path / "new" / "some.sqlite"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_server").new()
    engine = open_engine(url)
    yield engine
    engine.dispose()


def test_migrations_make_exactly_the_models_and_go_back(empty):
    assert pending(empty)
    assert migrate(empty) == ""
    assert not pending(empty)
    assert migrate(empty) != ""
    with empty.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    config = _alembic()
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
    config.attributes["engine"] = empty
    command.downgrade(config, "base")
    assert set(inspect(empty).get_table_names()) <= {"alembic_version"}


def test_a_ledger_from_before_there_were_migrations_is_taken_over(tmp_path):
    ledger = Ledger(tmp_path / "old.sqlite")
    ledger.add_device("a", 5)
    ledger.close()
    engine = open_engine(tmp_path / "old.sqlite")
    migrate(engine)
    engine.dispose()
    again = Ledger(tmp_path / "old.sqlite")
    assert [(device.id, device.node) for device in again.devices()] == [("a", 5)]
    again.close()


@pytest.mark.parametrize(
    ("start", "step", "where"),
    [("0001", "add_column", "updates"), ("0001", "create_index", "updates_by_object")]
    + [("base", "create_table", name) for name in ("audit", "devices", "enrolments")],
)
def test_a_kill_within_a_migration_leaves_none_of_it(tmp_path, start, step, where):
    """The real step is done, and then the process is killed."""
    path = tmp_path / "some.sqlite"
    script = f"""
import os, signal, sys
from alembic import op
from server.database import migrate, open_engine
engine = open_engine({str(path)!r})
if {start!r} != "base":
    migrate(engine, {start!r})
real = op.{step}
def killed(*words, **options):
    real(*words, **options)
    if {where!r} in words[:2]:
        os.kill(os.getpid(), signal.SIGKILL)
op.{step} = killed
migrate(engine)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    engine = open_engine(path)
    tables = set(inspect(engine).get_table_names())
    if start == "base":
        assert tables == set()
    else:
        columns = inspect(engine).get_columns("updates")
        assert "object" not in {column["name"] for column in columns}
    migrate(engine)
    _is_whole(engine)
    engine.dispose()


def test_what_a_kill_left_in_earlier_releases_is_completed(tmp_path):
    for number, left in enumerate(("column", "tables", "no revision")):
        engine = open_engine(tmp_path / f"{number}.sqlite")
        migrate(engine, "0001")
        with engine.begin() as connection:
            if left == "column":
                connection.execute(text("ALTER TABLE updates ADD COLUMN object VARCHAR(64)"))
            else:
                connection.execute(text("DELETE FROM alembic_version"))
            if left == "tables":
                connection.execute(text("DROP TABLE enrolments"))
                connection.execute(text("DROP INDEX updates_by_task"))
        assert pending(engine)
        migrate(engine)
        _is_whole(engine)
        engine.dispose()


def _is_whole(engine):
    assert not pending(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []


def test_a_newer_database_is_refused(tmp_path):
    engine = open_engine(tmp_path / "new.sqlite")
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"9999.*newer flwr-edge"):
        migrate(engine)
    engine.dispose()


def test_files_of_sqlite_are_durable_and_readers_do_not_wait(tmp_path):
    engine = open_engine(tmp_path / "some.sqlite")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x INTEGER)")
    with serialised(engine).begin() as writer:
        writer.exec_driver_sql("INSERT INTO t VALUES (1)")
        with engine.connect() as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0
    engine.dispose()


def test_who_writes_waits_for_the_writer_before_it_reads(empty):
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE n (x INTEGER)"))
        connection.execute(text("INSERT INTO n VALUES (0)"))
    writer = serialised(empty)

    def count():
        for _ in range(20):
            with writer.begin() as connection:
                x = connection.execute(text("SELECT x FROM n")).scalar()
                connection.execute(text("UPDATE n SET x = :x"), {"x": x + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with empty.connect() as connection:
        assert connection.execute(text("SELECT x FROM n")).scalar() == 80


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("nonsense://", "nonsense"),
        ("postgresql+nodriver://u:secret@h/d", "nodriver"),
        ("://", "expected a file, or a URL"),
    ],
)
def test_what_is_no_database_is_said_without_its_password(where, says):
    with pytest.raises(ConfigError, match=says) as caught:
        open_engine(where)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_said(tmp_path):
    path = tmp_path / "no.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(path).execute("SELECT * FROM sqlite_master")
    with pytest.raises(Exception, match="not a database"):
        migrate(open_engine(path))
