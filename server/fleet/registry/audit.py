"""The audit log: rows that are only added, each with the hash of the one before it.

A row's hash covers all of it and the hash before, so that a row that was changed, removed or moved
breaks the chain. Who can write to the database can also make a new chain, or cut off its end:
therefore the head is noted outside of it too (``server/fleet/anchor.py``).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Index, String, Text, insert, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from schemas.base import Strict
from server.database import Base
from server.plain import plain

FIRST: Final = "0" * 64
_PAGE: Final = 1000


class Audit(Base):
    """Something that was done, or refused.

    Attributes
    ----------
    actor
        Who: ``operator:NAME``, ``device:NAME``, ``server``, or an address.
    action
        As in ``device.revoke``; refusals end in ``.refused``.
    subject
        What it was done to: a device, a claim, a bundle.
    detail
        JSON, as it is hashed.
    """

    __tablename__ = "audit"
    __table_args__ = (Index("audit_by_subject", "subject"), Index("audit_by_action", "action"))

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    actor: Mapped[str] = mapped_column(String(80))
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(80))
    detail: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


def digest(row: Any) -> str:
    """The hash that a row should have."""
    return _digest(row.number, row.at, row.actor, row.action, row.subject, row.detail, row.previous)


class Head(Strict):
    """The last row of a log."""

    number: int
    hash: str


Entry = tuple[str, str, dict[str, Any]]  # action, subject, detail


def append(db: Session, last: Head, at: float, actor: str, entries: Iterable[Entry]) -> Head:
    """Add rows after the last, in a transaction of ``Registry.write``: only those take turns.

    What comes from outside is cut to its column, and written so that no line of a log can be
    forged with it: JSON escapes what is not printable ASCII.
    """
    rows, number, before = list[dict[str, Any]](), last.number, last.hash
    for action, subject, detail in entries:
        number += 1
        fields = {
            "number": number,
            "at": at,
            "actor": plain(actor, 80),
            "action": plain(action, 40),
            "subject": plain(subject, 80),
            "detail": json.dumps(detail, sort_keys=True),
            "previous": before,
        }
        before = _digest(*fields.values())
        rows.append(fields | {"hash": before})
    if rows:
        db.execute(insert(Audit), rows)
    return Head(number=number, hash=before)


def _digest(*fields: object) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def head(db: Session) -> Head:
    """The last row's number and hash; 0 and zeros where there is none."""
    row = db.execute(select(Audit.number, Audit.hash).order_by(Audit.number.desc()).limit(1))
    number, digest = row.one_or_none() or (0, FIRST)
    return Head(number=number, hash=digest)


def newest(
    db: Session,
    count: int,
    subject: str | None = None,
    action: str | None = None,
    actor: str | None = None,
) -> list[Audit]:
    """The newest rows, oldest first: of one subject or actor, or of actions that begin so."""
    rows = select(Audit).order_by(Audit.number.desc()).limit(count)
    if subject is not None:
        rows = rows.where(Audit.subject == subject)
    if actor is not None:
        rows = rows.where(Audit.actor == actor)
    if action is not None:
        rows = rows.where(Audit.action.startswith(action, autoescape=True))
    return list(db.scalars(rows))[::-1]


def times(db: Session, numbers: Iterable[int]) -> dict[int, float]:
    """When rows were written, by their numbers."""
    wanted, found = list(numbers), dict[int, float]()
    for start in range(0, len(wanted), _PAGE):
        part = wanted[start : start + _PAGE]
        rows = select(Audit.number, Audit.at).where(Audit.number.in_(part))
        found |= {row.number: row.at for row in db.execute(rows)}
    return found


def faults(db: Session, anchors: dict[int, str] | None = None) -> Iterator[str]:
    """What is wrong with the chain, a line each.

    Parameters
    ----------
    db : Session
    anchors : dict[int, str], optional
        Hashes of rows that were noted elsewhere, by the rows' numbers.
    """
    left, number, before = dict(anchors or {}), 0, FIRST
    while page := _page(db, number):
        for row in page:
            if row.number != number + 1:
                yield f"row {number + 1} is missing: row {row.number} follows row {number}"
            if row.previous != before:
                yield f"row {row.number} does not follow what stands before it"
            if row.hash != digest(row):
                yield f"row {row.number} ({row.action} {row.subject}) was changed"
            if left.pop(row.number, row.hash) != row.hash:
                yield f"row {row.number} is not the row that was noted when it was written"
            number, before = row.number, row.hash
    for lost in sorted(left):
        yield f"row {lost} was noted and is gone: the log's end was cut off at row {number}"


def _page(db: Session, after: int) -> Sequence[Any]:
    """Rows as tuples: objects would take longer than their hashes."""
    table = Audit.__table__.c
    rows = select(*table).where(table.number > after).order_by(table.number).limit(_PAGE)
    return db.execute(rows).all()
