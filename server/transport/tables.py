"""The ledger's tables, in the database that the registry shares (``server/database.py``)."""

from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import JSON, BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base

if TYPE_CHECKING:
    from schemas.wire import ObjectRef

TaskState = Literal["queued", "sent", "accepted", "answered", "failed", "expired", "pulled"]
OPEN: Final[tuple[TaskState, ...]] = ("queued", "sent", "accepted")
Refs = list[list[Any]]  # (SHA-256, bytes), as JSON holds them


class DeviceRow(Base):
    """A device that was enrolled; in a fleet, ``server.fleet.registry`` enrols and revokes it."""

    __tablename__ = "transport_devices"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    node: Mapped[int] = mapped_column(BigInteger, unique=True)
    enrolled: Mapped[bool] = mapped_column(default=True)
    online: Mapped[bool] = mapped_column(default=False)
    seen: Mapped[float | None] = mapped_column(default=None)
    state: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


class DropRow(Base):
    """How many messages of a device were dropped for one reason."""

    __tablename__ = "transport_drops"

    device: Mapped[str] = mapped_column(String(63), primary_key=True)
    reason: Mapped[str] = mapped_column(String(20), primary_key=True)
    count: Mapped[int] = mapped_column(default=0)


class TaskRow(Base):
    """A message to a device, from the first to the last that is known of it.

    Attributes
    ----------
    id
        Of the task's envelope; it is Flower's message id too.
    payload, objects
        What the device is to pull: (SHA-256, bytes).
    reply, reply_objects
        What it announced as its answer, which is here when the state is ``answered``.
    session
        The life of the grid that asked last, by which an answer is given once a life.
    """

    __tablename__ = "transport_tasks"
    __table_args__ = (
        Index("transport_tasks_by_key", "run", "device", "action", "payload_sha"),
        Index("transport_tasks_by_state", "state", "device"),
    )

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    run: Mapped[str] = mapped_column(String(200))
    device: Mapped[str] = mapped_column(String(63))
    node: Mapped[int] = mapped_column(BigInteger)
    action: Mapped[str] = mapped_column(String(200))
    group: Mapped[str] = mapped_column("group_id", String(200), default="")
    created: Mapped[float]
    expires: Mapped[float]
    payload_sha: Mapped[str] = mapped_column(String(64))
    payload_bytes: Mapped[int]
    objects: Mapped[Refs] = mapped_column(JSON, default=list)
    state: Mapped[TaskState] = mapped_column(String(10), default="queued")
    reply_sha: Mapped[str | None] = mapped_column(String(64), default=None)
    reply_bytes: Mapped[int | None] = mapped_column(default=None)
    reply_objects: Mapped[Refs] = mapped_column(JSON, default=list)
    error: Mapped[str | None] = mapped_column(default=None)
    session: Mapped[str] = mapped_column(String(32))

    @property
    def asked(self) -> "list[ObjectRef]":
        """All that the device may pull for this task, its payload first."""
        return refs([[self.payload_sha, self.payload_bytes], *self.objects])

    @property
    def answer(self) -> "list[ObjectRef]":
        """All that the device announced, its payload first; nothing before that."""
        if self.reply_sha is None or self.reply_bytes is None:
            return []
        return refs([[self.reply_sha, self.reply_bytes], *self.reply_objects])


def refs(rows: Refs) -> "list[ObjectRef]":
    """Object names as a row holds them."""
    from schemas.wire import ObjectRef  # the wire is not loaded for an operator's command

    return [ObjectRef(sha256=sha, bytes=size) for sha, size in rows]
