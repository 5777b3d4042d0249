"""What a device must not forget: tasks, their answers, and what it keeps of each run.

SQLite, write-ahead log, every commit on the disk before it returns. An answer and what the device
keeps after it are one transaction, so that a power cut leaves both or neither.
"""

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.store_file import (
    check_whole,
    connect,
    is_full,
    is_spoilt,
    put_aside,
    spoilt_name,
    why,
)

_log = logging.getLogger("flwr_edge.store")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS task (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    run TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'done', 'closed')),
    boot TEXT NOT NULL,
    expires REAL NOT NULL,
    ttl REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    answer TEXT
);
CREATE INDEX IF NOT EXISTS open_task ON task (state) WHERE state != 'closed';
CREATE TABLE IF NOT EXISTS kept (
    run TEXT PRIMARY KEY, object TEXT NOT NULL, used INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = 1;
"""
# How long the machine was off nobody knows whose clock may be wrong: the ttl starts again.
_SELECT: Final = """
SELECT id, run, body, state, CASE boot WHEN ? THEN expires ELSE ? + ttl END, attempts, answer
FROM task"""
REMEMBERED: Final = 20_000  # ids of closed tasks: none of them is taken again


class StoreError(RuntimeError):
    """A file that is no store of this version, or that cannot be used now."""


class SpoiltError(StoreError):
    """A file whose bytes are no store's, or no store's any more: it will never be one again."""


@dataclass(frozen=True)
class TaskRow:
    """A task.

    Attributes
    ----------
    id, run : str
    body : dict
        As it came, JSON.
    state : str
        'queued', then 'done' (it has an answer), then 'closed' (nobody needs the answer).
    expires : float
        On this boot's clock.
    attempts : int
        How often work on it began.
    answer : dict or None
        The reply's body, JSON.
    """

    id: str
    run: str
    body: dict[str, Any]
    state: str
    expires: float
    attempts: int
    answer: dict[str, Any] | None


def boot_clock() -> float:
    """Seconds since this machine started, sleep counted: no setting of the clock moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The name of this start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Store:
    """The device's database.

    Parameters
    ----------
    path : Path
        Its file; made where it is missing.
    clock, boot
        Seconds since the machine's start, and that start's name.

    Attributes
    ----------
    path : Path

    Raises
    ------
    StoreError
        Where the file is something else or cannot be used now; ``SpoiltError``: or ever.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = boot_clock, boot: str | None = None
    ) -> None:
        self.clock, self._boot = clock, boot_id() if boot is None else boot
        self.path, self._opened = path, clock()
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = connect(path)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._look()
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.Error):
                raise self._unusable(error) from error
            raise

    @classmethod
    def mended(
        cls, path: Path, clock: Callable[[], float] = boot_clock, boot: str | None = None
    ) -> "Store":
        """Open a store; in place of one that is malformed a fresh one is begun.

        What an SD card spoilt is put aside, and not lost. What the fresh one does not know: tasks
        that were accepted are published again by the server, which takes their first whole answer
        and consoles who says another (``server/PROTOCOL.md``, "Said once, said again"), so that
        one may be learned twice and is never counted twice; what was kept of runs starts afresh;
        the bundle of the configuration predicts until a roll-out names one.

        Raises
        ------
        StoreError
            As the constructor, but for what is malformed.
        """
        try:
            return cls(path, clock, boot)
        except SpoiltError as error:
            aside = put_aside(path)
            _log.error("%s; it is kept as %s, and a fresh one is begun", error, aside.name)
            return cls(path, clock, boot)

    @property
    def begun_afresh(self) -> str | None:
        """What a person should know of a store that was put aside; None where none lies there."""
        aside = spoilt_name(self.path)
        if not aside.exists():
            return None
        return f"was malformed, begun afresh; {aside.name} is the old one: remove it once seen"

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # -- tasks ---------------------------------------------------------------------------------

    def take(self, task: str, run: str, body: dict[str, Any], ttl: float) -> bool:
        """Queue a task, once; whether it was new."""
        with self._change() as db:
            done = db.execute(
                "INSERT OR IGNORE INTO task (id, run, body, state, boot, expires, ttl)"
                " VALUES (?, ?, ?, 'queued', ?, ?, ?)",
                (task, run, json.dumps(body), self._boot, self.clock() + ttl, ttl),
            )
            return done.rowcount == 1

    def task(self, task: str) -> TaskRow | None:
        """Look a task up."""
        return next(self._rows("WHERE id = ?", task), None)

    def open(self, state: str | None = None) -> list[TaskRow]:
        """Tasks that are not closed (or those of one state), in the order in which they came."""
        if state is None:
            return list(self._rows("WHERE state != 'closed'"))
        return list(self._rows("WHERE state = ?", state))

    def begin(self, task: str, by: int = 1) -> int:
        """Count a start of work on a task (or take it back); how many there were."""
        with self._change() as db:
            db.execute("UPDATE task SET attempts = attempts + ? WHERE id = ?", (by, task))
            row = db.execute("SELECT attempts FROM task WHERE id = ?", (task,)).fetchone()
            return 0 if row is None else int(row[0])

    def finish(
        self, task: str, answer: dict[str, Any], kept: str | None = None, runs: int = 4
    ) -> bool:
        """Note a task's answer and what the device keeps after it, both or neither.

        Parameters
        ----------
        task : str
        answer : dict
        kept : str, optional
            Object of what is kept; "" forgets what was; nothing changes where it is left out.
        runs : int
            Most runs of which something is kept; the one longest unused goes.

        Returns
        -------
        bool
            False where the task is not queued any more: nothing is noted then.
        """
        with self._change() as db:
            row = db.execute(
                "UPDATE task SET state = 'done', answer = ?"
                " WHERE id = ? AND state = 'queued' RETURNING run, number",
                (json.dumps(answer), task),
            ).fetchone()
            if row is None:
                return False
            if kept == "":
                db.execute("DELETE FROM kept WHERE run = ?", row[:1])
            elif kept is not None:
                db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (row[0], kept, row[1]))
                db.execute(
                    "DELETE FROM kept WHERE run NOT IN"
                    " (SELECT run FROM kept ORDER BY used DESC LIMIT ?)",
                    (runs,),
                )
            return True

    def end(self, task: str) -> bool:
        """Close a task: answer received, cancelled or expired; its id is never taken again."""
        with self._change() as db:
            done = db.execute(
                "UPDATE task SET state = 'closed', body = '{}', answer = NULL"
                " WHERE id = ? AND state != 'closed'",
                (task,),
            )
            db.execute(
                "DELETE FROM task WHERE state = 'closed' AND number <="
                " (SELECT max(number) FROM task) - ?",
                (REMEMBERED,),
            )
            return done.rowcount == 1

    def answer_again(
        self, task: str, answer: dict[str, Any], ttl: float, key: str, value: Any
    ) -> bool:
        """Open a closed task with another answer, and note a setting, both or neither.

        Parameters
        ----------
        task : str
            One that is remembered no more is taken for closed.
        answer : dict
        ttl : float
            Seconds for which it may be said.
        key : str
        value
            JSON.

        Returns
        -------
        bool
            False where the task is open: nothing is noted then.
        """
        with self._change() as db:
            done = db.execute(
                "INSERT INTO task (id, run, body, state, boot, expires, ttl, answer)"
                " VALUES (?, '', '{}', 'done', ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " state = 'done', boot = excluded.boot, expires = excluded.expires,"
                " ttl = excluded.ttl, answer = excluded.answer WHERE state = 'closed'",
                (task, self._boot, self.clock() + ttl, ttl, json.dumps(answer)),
            )
            if done.rowcount:
                db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))
            return done.rowcount == 1

    # -- what is kept --------------------------------------------------------------------------

    def kept(self, run: str) -> str | None:
        """The object of what the device keeps of a run."""
        with self._lock:
            row = self._db.execute("SELECT object FROM kept WHERE run = ?", (run,)).fetchone()
        return None if row is None else str(row[0])

    def all_kept(self) -> set[str]:
        """Objects of all runs."""
        with self._lock:
            return {str(row[0]) for row in self._db.execute("SELECT object FROM kept")}

    def set(self, key: str, value: Any) -> None:
        """Note a setting, JSON."""
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, json.dumps(value)))

    def get(self, key: str, default: Any = None) -> Any:
        """Read a setting."""
        with self._lock:
            row = self._db.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    # ------------------------------------------------------------------------------------------

    def _rows(self, where: str, *values: Any) -> Iterator[TaskRow]:
        with self._lock:
            rows = self._db.execute(
                f"{_SELECT} {where} ORDER BY number",
                (self._boot, self._opened, *values),
            ).fetchall()
        for name, run, body, state, expires, attempts, answer in rows:
            said = None if answer is None else json.loads(answer)
            yield TaskRow(name, run, json.loads(body), state, expires, attempts, said)

    def _unusable(self, error: sqlite3.Error) -> StoreError:
        said = f"{self.path}: no store that can be used: {why(error, self.path.parent)}"
        return SpoiltError(said) if is_spoilt(error) else StoreError(said)

    def _look(self) -> None:
        """Make it where it is new, and see that all of it can be read."""
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(_SCHEMA)
        elif version != 1:
            raise StoreError(f"{self.path}: a store of version {version}; this daemon reads 1")
        check_whole(self._db)
        try:
            self.open()
            for (value,) in self._db.execute("SELECT value FROM setting"):
                json.loads(value)
        except ValueError as error:  # a page of zeros within a long text
            raise SpoiltError(f"{self.path}: no store that can be used: {error}") from None
        self._after_reboot()

    def _after_reboot(self) -> None:
        try:
            with self._change() as db:
                db.execute(
                    "UPDATE task SET boot = ?, expires = ? + ttl"
                    " WHERE boot != ? AND state != 'closed'",
                    (self._boot, self._opened, self._boot),
                )
        except sqlite3.Error as error:  # rows are read as if it were done; the next start does it
            if not is_full(error, self.path.parent):
                raise
            _log.error("%s: %s; what comes is refused", self.path, why(error, self.path.parent))

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
