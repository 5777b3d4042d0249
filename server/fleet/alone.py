"""One ``flwr-fleet serve`` a fleet: it holds the folder and the database for as long as it runs.

Two folders, or two machines, may name one database, and both would drive its roll-outs. Each lock
is an open file's or a session's, and ends with its process, however that ends.
"""

import contextlib
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from server.fleet.errors import TakenError
from server.fleet.listing import when

_KEY: Final = 0x666C7773  # PostgreSQL's advisory lock of who serves; 1 less is that of who writes
_WORD: Final = "flwr-fleet-serve"
_LONGEST: Final = 63  # characters that PostgreSQL keeps of a session's name
_TRIES: Final = 3  # at a file's lock, which doctor holds for a moment
_GONE: Final = 15  # seconds without an answer, until a session is given up
_DRIVERS: Final = ("psycopg", "psycopg2")  # whose connections take libpq's settings
# The database lets the lock of a machine that lost its power or its network go within a minute.
_SETTINGS: Final = {
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_HOLDER: Final = text("""
SELECT held.pid, session.application_name FROM pg_locks AS held JOIN pg_stat_activity AS session
USING (pid) WHERE held.locktype = 'advisory' AND held.granted AND held.classid = 0
AND held.objid = :key AND held.objsubid = 1
AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())""")
_log = logging.getLogger("flwr_edge.fleet")


class Lock(Protocol):
    """Of a database."""

    def look(self) -> None:
        """See that it is held, and take it again where it was lost; as ``Alone.look`` raises."""

    def release(self) -> None:
        """Let it go."""


class Alone:
    """What the one server of a fleet holds.

    Parameters
    ----------
    root : Path
        The fleet's folder.
    engine : Engine
        Of its database.

    Raises
    ------
    TakenError
        Where another server holds one of the two; it says who.
    """

    def __init__(self, root: Path, engine: Engine) -> None:
        with contextlib.ExitStack() as undo:
            folder = _folder(root)
            undo.callback(os.close, folder)
            self._database = _lock(engine)
            self._held = undo.pop_all()
        self._held.callback(self._database.release)

    def look(self) -> None:
        """See that all is still held; what a restarted database forgot is taken again.

        Raises
        ------
        TakenError
            Where another server was quicker.
        DBAPIError
            While the database is away.
        """
        self._database.look()

    def release(self) -> None:
        """Let all go."""
        self._held.close()


def serving(engine: Engine) -> str | None:
    """Who serves on a database; None where nobody does."""
    name = _serving(engine)
    return None if name is None else _shown(name)


def serving_since(engine: Engine) -> float | None:
    """When who serves on a database began, Unix time; None where nobody does, or it is no name."""
    name = _serving(engine)
    told = None if name is None else _parts(name)
    return None if told is None else float(told[1])


def _serving(engine: Engine) -> str | None:
    """The name of who holds a database, as ``_name`` made it."""
    path = _file(engine)
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            return _holder(connection)[1]
    if path is None or not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read()
    return None


class _File:
    """A lock beside a database's file: SQLite's own are let go where that is opened and closed."""

    def __init__(self, path: Path, shown: str) -> None:
        self._file = path.open("a+")
        for left in reversed(range(_TRIES)):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if left:
                    time.sleep(0.05)
                    continue
                self._file.seek(0)
                with self._file:
                    raise _taken(shown, self._file.read()) from None
        self._file.truncate(0)
        self._file.write(_name())
        self._file.flush()

    def look(self) -> None:
        """Nobody takes it away."""

    def release(self) -> None:
        self._file.close()


class _Session:
    """A lock of PostgreSQL's, that lasts as long as a session which does nothing else."""

    def __init__(self, engine: Engine, shown: str) -> None:
        libpq = {"connect_timeout": _GONE, "tcp_user_timeout": 1000 * _GONE}
        self._engine = create_engine(
            engine.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=libpq if engine.dialect.driver in _DRIVERS else {},
        )
        self._shown, self._name = shown, _name()
        self._session: Connection | None = None
        self._backend: int | None = None  # that held it last
        self._take()

    def look(self) -> None:
        if self._session is None or not self._alive(self._session):
            self._take()
            _log.warning("this server holds the database again")

    def release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(DBAPIError):
                session.close()

    def _alive(self, session: Connection) -> bool:
        try:
            session.execute(text("SELECT 1"))
        except DBAPIError as error:
            line = str(error.orig).partition("\n")[0]
            _log.warning("the session that holds the database was lost: %s", line)
            self.release()
            return False
        return True

    def _take(self) -> None:
        with contextlib.ExitStack() as undo:
            session = self._engine.connect()
            undo.callback(session.close)
            set_ = text("SELECT set_config(:key, :value, false)")
            for key, value in (*_SETTINGS.items(), ("application_name", self._name)):
                session.execute(set_, {"key": key, "value": value})
            if not self._try(session):
                raise _taken(self._shown, _holder(session)[1])
            self._backend = session.scalar(text("SELECT pg_backend_pid()"))
            undo.pop_all()
        self._session = session

    def _try(self, session: Connection) -> bool:
        """Whether it is held now.

        The database may not have missed a session of ours that was lost: that one is ended.
        """
        for _ in range(_TRIES):
            if session.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _KEY}):
                return True
            pid, name = _holder(session)
            if (pid, name) == (self._backend, self._name):
                session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            elif pid is not None:  # nobody: it was let go since
                return False
            time.sleep(0.1)
        return False


class _Nothing:
    """Of a database that no other process can open, or of a system that has no such lock."""

    def look(self) -> None:
        """All is well."""

    def release(self) -> None:
        """There is nothing to let go."""


def _folder(root: Path) -> int:
    """Hold a folder itself: a file in it could be replaced, and commands hold ``.lock`` at times.

    Returns
    -------
    int
        A descriptor, whose end is the lock's.
    """
    held = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        problem = "another flwr-fleet serve runs on this folder; one serves all of it"
        raise TakenError(f"{root}: {problem}") from None
    return held


def _lock(engine: Engine) -> Lock:
    shown = engine.url.render_as_string(hide_password=True)
    if engine.dialect.name == "postgresql":
        return _Session(engine, shown)
    path = _file(engine)
    return _Nothing() if path is None else _File(path, shown)


def _file(engine: Engine) -> Path | None:
    """The lock of a SQLite file, beside it: also in a folder, since another may name that file."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or name in (None, "", ":memory:"):
        return None
    path = Path(str(name)).resolve()
    return path.with_name(f".{path.name}.lock")


def _holder(session: Connection) -> tuple[int | None, str | None]:
    """The backend that holds PostgreSQL's lock, and its session's name."""
    row = session.execute(_HOLDER, {"key": _KEY}).first()
    return (None, None) if row is None else (row[0], row[1] or "")


def _taken(shown: str, name: str | None) -> TakenError:
    who = f": {said}" if (said := _shown(name or "")) else ""
    return TakenError(
        f"{shown}: another flwr-fleet serve runs on this database{who}; one serves all of it"
    )


def _name() -> str:
    """Say which process it is that serves; no other has the same name."""
    host = socket.gethostname().partition(".")[0] or "?"
    return f"{_WORD} {os.getpid()} {time.time():.0f} {host}"[:_LONGEST]


def _parts(name: str) -> list[str] | None:
    """Process, Unix time and host of a name; None where it is none."""
    word, *rest = name.split(" ", 3)
    return rest if word == _WORD and len(rest) == 3 and rest[1].isdecimal() else None


def _shown(name: str) -> str:
    if (told := _parts(name)) is None:
        return name
    pid, since, host = told
    return f"pid {pid} on {host}, since {when(float(since))}"
