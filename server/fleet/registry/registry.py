"""The registry: transactions on the fleet's database, each with its line in the audit log."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy.orm import Session, sessionmaker

from schemas.base import ConfigError
from server.database import migrate, newer, open_engine, pending, serialised
from server.fleet.registry import audit
from server.fleet.registry.audit import Entry


class Write:
    """A transaction that may write.

    Attributes
    ----------
    db : Session
    now : float
        Unix time, the same for all that the transaction notes.
    actor : str
        On whose behalf.
    """

    def __init__(self, db: Session, now: float, actor: str) -> None:
        self.db, self.now, self.actor = db, now, actor
        self._head: audit.Head | None = None  # it is this transaction's turn: nobody else adds

    def audit(self, action: str, subject: str, **detail: Any) -> None:
        """Note what is done, in the same transaction."""
        self.audit_all([(action, subject, detail)])

    def audit_all(self, entries: Iterable[Entry]) -> None:
        """Note many things in their order, a row each: written at once, they take less long."""
        last = self._head or audit.head(self.db)
        self._head = audit.append(self.db, last, self.now, self.actor, entries)


class Registry:
    """The fleet's database.

    Parameters
    ----------
    where : Path or str
        A file of SQLite's, or an SQLAlchemy URL.
    clock : callable() -> float
        Unix time.
    create : bool
        Bring the database up to date first; else it must be.

    Raises
    ------
    ConfigError
        Where it is not up to date, or cannot be.
    """

    def __init__(
        self,
        where: Path | str,
        *,
        clock: Callable[[], float] = time.time,
        create: bool = False,
    ) -> None:
        self.clock = clock
        self.engine = open_engine(where)
        if create:
            migrate(self.engine)
        elif pending(self.engine):
            shown = self.engine.url.render_as_string(hide_password=True)
            if newer(self.engine):
                raise ConfigError(shown, ["of a newer flwr-edge; use that release with it"])
            raise ConfigError(shown, ["not of this release; run flwr-fleet init or serve first"])
        self._read = sessionmaker(self.engine, expire_on_commit=False)
        self._write = sessionmaker(serialised(self.engine), expire_on_commit=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the database go."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only looks."""
        with self._read() as db:
            yield db

    @contextmanager
    def write(self, actor: str) -> Iterator[Write]:
        """A transaction that takes its turn; it is done whole, or not at all where it raises."""
        with self._write.begin() as db:
            yield Write(db, self.clock(), actor)
