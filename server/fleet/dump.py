"""The database as lines of JSON, the same from SQLite and PostgreSQL, and back into either.

Its tables are read as they are there, not as this release declares them: a backup is made before
an upgrade too, and one of an earlier release is brought up to date when it is restored.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

from sqlalchemy import (
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
)

from server.database import Base, knows, migrate, revision_of, unmake
from server.fleet import registry
from server.fleet.errors import Refusal
from server.migrations import HEAD
from server.transport import tables

_DECLARED: Final = (registry, tables)  # importing them declares their tables
_PART: Final = 1000


def check(connection: Connection) -> str:
    """The database's revision.

    Raises
    ------
    Refusal
        Where it has none, or one that this release does not know: there may be more tables then.
    """
    revision = revision_of(connection)
    if not revision:
        raise Refusal("the database holds no fleet")
    if revision != HEAD and not knows(revision):
        raise Refusal(f"the database is of a newer release ({revision}); back it up with that one")
    return revision


def dump(engine: Engine, out: IO[bytes]) -> int:
    """Write all rows as they are at one moment, while others write; how many.

    Raises
    ------
    Refusal
        Where the database is none of this release or an earlier one.
    """
    count = 0
    sqlite = engine.dialect.name == "sqlite"
    options: dict[str, Any] = {} if sqlite else {"isolation_level": "REPEATABLE READ"}
    with engine.execution_options(**options).begin() as connection:
        if sqlite:
            connection.exec_driver_sql("BEGIN")  # from here on it sees one moment
        _line(out, {"revision": check(connection)})
        for table in _tables(connection):
            for row in connection.execute(select(table)).mappings():
                _line(out, [table.name, {key: _plain(value) for key, value in row.items()}])
                count += 1
    return count


def load(engine: Engine, lines: IO[bytes]) -> int:
    """Fill an empty database; how many rows.

    Raises
    ------
    Refusal
        Where the database is not empty, which is then as it was, or the lines are of a newer
        release.
    """
    revision = _revision(lines)
    _prepare(engine, revision)
    with engine.begin() as connection:
        count = _fill(connection, lines)
    migrate(engine)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            for table in Base.metadata.sorted_tables:
                _go_on_counting(connection, table)
    return count


def _revision(lines: IO[bytes]) -> str:
    first = json.loads(lines.readline() or b"{}")
    revision = first.get("revision") if isinstance(first, dict) else None
    if not isinstance(revision, str) or not knows(revision):
        raise Refusal(f"the backup is of a newer release: this one does not know {revision!r}")
    return revision


def _prepare(engine: Engine, revision: str) -> None:
    """Make the tables of a revision, in a database that has no rows; it is looked at first."""
    with engine.connect() as connection:
        _must_be_empty(connection)
        now = revision_of(connection)
    if now not in ("", revision):
        if not knows(now):
            raise Refusal(f"the database is of a newer release ({now}); restore into a new one")
        unmake(engine)
    migrate(engine, revision)


def _fill(connection: Connection, lines: IO[bytes]) -> int:
    known = {table.name: table for table in _tables(connection)}
    count = 0
    for name, rows in _batches(lines):
        if name not in known:
            raise Refusal(f"the backup has rows of a table that its revision has not: {name!r}")
        connection.execute(insert(known[name]), [_typed(known[name], row) for row in rows])
        count += len(rows)
    return count


def _tables(connection: Connection) -> list[Table]:
    """Ours, as they are in the database, those that others name first.

    A table that a later revision drops has to be named here beside those that are declared.
    """
    found = MetaData()
    there = set(inspect(connection).get_table_names())
    found.reflect(connection, only=sorted(there & set(Base.metadata.tables)))
    return found.sorted_tables


def _must_be_empty(connection: Connection) -> None:
    for table in _tables(connection):
        if connection.scalar(select(func.count()).select_from(table)):
            raise Refusal("the database is not empty; restore into a new one")


def _batches(lines: Iterable[bytes]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    name, rows = "", list[dict[str, Any]]()
    for line in lines:
        table, row = json.loads(line)
        if rows and (table != name or len(rows) == _PART):
            yield name, rows
            rows = []
        name = table
        rows.append(row)
    if rows:
        yield name, rows


def _typed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: base64.b64decode(value["base64"])
        if isinstance(value, dict) and set(value) == {"base64"} and _binary(table, key)
        else value
        for key, value in row.items()
    }


def _binary(table: Table, key: str) -> bool:
    return table.c[key].type.python_type is bytes


def _go_on_counting(connection: Connection, table: Table) -> None:
    """PostgreSQL counts on its own where rows were numbered by hand."""
    column = table.autoincrement_column
    if column is None or not isinstance(column.type, Integer):
        return
    sequence = connection.scalar(
        text("SELECT pg_get_serial_sequence(:table, :column)"),
        {"table": table.name, "column": column.name},
    )
    top = connection.scalar(select(func.max(column)))
    if sequence and top:
        connection.execute(
            text("SELECT setval(:sequence, :top)"), {"sequence": sequence, "top": top}
        )


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _line(out: IO[bytes], value: Any) -> None:
    out.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
