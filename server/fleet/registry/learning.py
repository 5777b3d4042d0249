"""Tables of what devices contribute. What they are asked is ``transport_tasks``, the ledger's."""

from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, LargeBinary, String, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from server.database import Base

Verdict = Literal["accepted", "refused"]


class Update(Base):
    """An update that reached the border, and what was said of it there.

    Attributes
    ----------
    task
        Id of the task that it answers; None where a message was refused that answers none.
    object
        SHA-256 of its payload.
    reason
        One word where it was refused, as in ``norm``; ``detail`` is a sentence.
    """

    __tablename__ = "updates"
    __table_args__ = (
        Index("updates_by_device", "device", "at"),
        Index("updates_by_task", "task"),
        Index("updates_by_object", "object"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    task: Mapped[str | None] = mapped_column(String(32), default=None)
    run: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(200), default="train")
    at: Mapped[float]
    bytes: Mapped[int] = mapped_column(default=0)
    norm: Mapped[float | None] = mapped_column(default=None)
    verdict: Mapped[Verdict] = mapped_column(String(10))
    reason: Mapped[str | None] = mapped_column(String(40), default=None)
    detail: Mapped[str | None] = mapped_column(String(500), default=None)
    object: Mapped[str | None] = mapped_column(String(64), default=None)


class Embedding(Base):
    """What a strategy knows of a device in one run: the vector that its weights are made from.

    Attributes
    ----------
    values
        float32, little-endian.
    """

    __tablename__ = "embeddings"

    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    run: Mapped[str] = mapped_column(String(200), primary_key=True)
    at: Mapped[float]
    values: Mapped[bytes] = mapped_column(LargeBinary)


class Quarantine(Base):
    """A time in which a device's updates count for nothing; at most one at a time is open.

    Attributes
    ----------
    until
        When it ends by itself; never where it is None.
    lifted
        When it ended.
    """

    __tablename__ = "quarantines"
    __table_args__ = (Index("quarantines_by_device", "device", "lifted"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    since: Mapped[float]
    until: Mapped[float | None] = mapped_column(default=None)
    lifted: Mapped[float | None] = mapped_column(default=None)
    failures: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(String(500))

    @classmethod
    def is_on(cls, now: float) -> Any:
        """The condition of one that is on."""
        return cls.lifted.is_(None) & or_(cls.until.is_(None), cls.until > now)


def held(db: Session, now: float) -> dict[str, Quarantine]:
    """All quarantines that are on, by device."""
    return {row.device: row for row in db.scalars(select(Quarantine).where(Quarantine.is_on(now)))}
