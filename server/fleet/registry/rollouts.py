"""Tables of bundles and their roll-outs."""

from typing import Any, Final, Literal

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from server.database import Base

RolloutState = Literal["running", "paused", "finished", "failed", "aborted"]
GroupState = Literal["waiting", "running", "finished", "failed", "aborted"]
DeviceRolloutState = Literal[
    "waiting",
    "offered",
    "testing",
    "succeeded",
    "failed",
    "aborted",
    "skipped",
    "returning",
    "returned",
]
_MOVING: Final = text("state IN ('offered', 'testing', 'returning')")


class Bundle(Base):
    """A bundle's file in the fleet's folder, by its SHA-256."""

    __tablename__ = "bundles"
    __table_args__ = (Index("bundles_by_name", "name", "version", unique=True),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    version: Mapped[str] = mapped_column(String(63))
    bytes: Mapped[int] = mapped_column(BigInteger)
    base: Mapped[str | None] = mapped_column(String(64), default=None)
    signer: Mapped[str | None] = mapped_column(String(64), default=None)
    device: Mapped[str | None] = mapped_column(String(63), default=None)
    published: Mapped[float]
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    note: Mapped[str] = mapped_column(String(500), default="")


class Rollout(Base):
    """A bundle on its way to devices, group after group.

    Attributes
    ----------
    success, error
        Shares of a group's devices: to go on with the next group, and to stop.
    plan
        What else it was created with, JSON.
    """

    __tablename__ = "rollouts"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    bundle: Mapped[str] = mapped_column(ForeignKey("bundles.id"))
    state: Mapped[RolloutState] = mapped_column(String(10), index=True)
    created: Mapped[float]
    changed: Mapped[float]
    success: Mapped[float]
    error: Mapped[float]
    plan: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    reason: Mapped[str | None] = mapped_column(String(500), default=None)
    groups: Mapped[list["RolloutGroup"]] = relationship(
        order_by="RolloutGroup.number", lazy="selectin"
    )


class RolloutGroup(Base):
    """Devices that get the bundle at the same time."""

    __tablename__ = "rollout_groups"

    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(63), default="")
    state: Mapped[GroupState] = mapped_column(String(10), default="waiting")


class RolloutDevice(Base):
    """Where one device stands in one roll-out.

    Attributes
    ----------
    before
        The bundle that it had, to which it goes back.
    reason, report
        Why it failed, and what its self-test measured.
    """

    __tablename__ = "rollout_devices"
    __table_args__ = (
        Index("rollout_devices_by_device", "device"),
        Index("rollout_devices_by_state", "rollout", "group_number", "state"),
        Index(
            "rollout_devices_moving",
            "state",
            "rollout",
            sqlite_where=_MOVING,
            postgresql_where=_MOVING,
        ),
    )

    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    group: Mapped[int] = mapped_column("group_number")
    state: Mapped[DeviceRolloutState] = mapped_column(String(12), default="waiting")
    task: Mapped[str | None] = mapped_column(String(32), default=None)
    before: Mapped[str | None] = mapped_column(String(64), default=None)
    attempts: Mapped[int] = mapped_column(default=0)
    changed: Mapped[float]
    reason: Mapped[str | None] = mapped_column(String(500), default=None)
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
