"""The database as lines of JSON, the same from SQLite and PostgreSQL, and back into either."""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

from sqlalchemy import Connection, Engine, Integer, Table, func, insert, select, text

from server.database import Base, migrate
from server.fleet import registry
from server.fleet.errors import Refusal
from server.migrations import HEAD
from server.transport import tables

_DECLARED: Final = (registry, tables)  # importing them declares their tables
_PART: Final = 1000


def dump(engine: Engine, out: IO[bytes]) -> int:
    """Write all rows as they are at one moment, while others write; how many."""
    count = 0
    sqlite = engine.dialect.name == "sqlite"
    options: dict[str, Any] = {} if sqlite else {"isolation_level": "REPEATABLE READ"}
    with engine.execution_options(**options).begin() as connection:
        if sqlite:
            connection.exec_driver_sql("BEGIN")  # from here on it sees one moment
        _line(out, {"revision": HEAD})
        for table in Base.metadata.sorted_tables:
            for row in connection.execute(select(table)).mappings():
                _line(out, [table.name, {key: _plain(value) for key, value in row.items()}])
                count += 1
    return count


def load(engine: Engine, lines: IO[bytes]) -> int:
    """Fill an empty database; how many rows.

    Raises
    ------
    Refusal
        Where the database holds devices, or the lines are of another release.
    """
    migrate(engine)
    first = json.loads(lines.readline() or b"{}")
    if not isinstance(first, dict) or first.get("revision") != HEAD:
        raise Refusal(f"the backup is of another release; its database is not at {HEAD}")
    known = {table.name: table for table in Base.metadata.sorted_tables}
    count = 0
    with engine.begin() as connection:
        _must_be_empty(connection)
        for name, rows in _batches(lines):
            connection.execute(insert(known[name]), [_typed(known[name], row) for row in rows])
            count += len(rows)
        if engine.dialect.name == "postgresql":
            for table in known.values():
                _go_on_counting(connection, table)
    return count


def _must_be_empty(connection: Connection) -> None:
    for table in (registry.Device.__table__, registry.Audit.__table__):
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
