"""Which bundle a device predicts with, as far as its answers to roll-outs say.

A bundle that stood its probation may be spoilt later: then its device puts it aside, predicts with
the one before, and says so of the order that installed it (``client/installer_reports.py``).
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from server.fleet.registry import Bundle, RolloutDevice
from server.fleet.registry.registry import Write
from server.transport.tables import TaskRow

GOOD: Final = ("answered", "pulled")
LATE: Final = "put aside after it had succeeded: "


class InUse(NamedTuple):
    """What a device predicts with, by roll-outs; what it put aside, and why."""

    bundle: Bundle | None
    aside: Bundle | None = None
    reason: str | None = None


def fallen() -> ColumnElement[bool]:
    """Of devices (joined with their tasks) that put aside what they had installed."""
    return and_(RolloutDevice.state == "failed", TaskRow.state.in_(GOOD))


def put_aside(tx: Write, task: TaskRow, reason: str) -> bool:
    """Note that a device does not use what a task installed; False where it is too early to."""
    rows = list(_with_bundle(tx.db, task))
    if any(row.state in ("offered", "testing") for row in rows):
        return False  # its answer is taken first; the device says it again
    for row in rows:
        if row.state == "succeeded":
            row.state, row.reason, row.changed = "failed", f"{LATE}{reason}"[:500], tx.now
            tx.audit("rollout.failed", row.device, rollout=row.rollout, reason=row.reason)
    return True


def used_again(tx: Write, task: TaskRow) -> None:
    """Note that a device uses again what a task installed."""
    for row in _with_bundle(tx.db, task):
        if row.state == "failed":
            row.state, row.reason, row.changed = "succeeded", None, tx.now
            tx.audit("rollout.succeeded", row.device, rollout=row.rollout)


def in_use(db: Session, device: str) -> InUse:
    """Look at the orders about bundles that a device has done, the newest first."""
    rows = (
        select(RolloutDevice, TaskRow)
        .join(TaskRow, TaskRow.id == RolloutDevice.task)
        .where(RolloutDevice.device == device)
        .where((RolloutDevice.state == "succeeded") | fallen())
        .order_by(TaskRow.number.desc())
    )
    found = InUse(None)
    for row, task in db.execute(rows):
        bundle = db.get(Bundle, _bundle(task))
        if bundle is None:
            continue
        if row.state == "succeeded":
            return found._replace(bundle=bundle)
        if found.aside is None:
            found = InUse(None, bundle, (row.reason or "").removeprefix(LATE))
    return found


def faults(db: Session) -> dict[str, str]:
    """Devices whose newest bundle is put aside, and why."""
    them = select(RolloutDevice.device).where(RolloutDevice.state == "failed")
    them = them.where(RolloutDevice.reason.startswith(LATE, autoescape=True)).distinct()
    found = {device: in_use(db, device).reason for device in db.scalars(them)}
    return {device: reason for device, reason in found.items() if reason is not None}


def _with_bundle(db: Session, task: TaskRow) -> Iterator[RolloutDevice]:
    """Where a device stands in roll-outs that had it install the same bundle."""
    rows = (
        select(RolloutDevice, TaskRow)
        .join(TaskRow, TaskRow.id == RolloutDevice.task)
        .where(RolloutDevice.device == task.device)
        .where((RolloutDevice.state != "failed") | fallen())
    )
    for row, other in db.execute(rows):
        if _bundle(other) == _bundle(task):
            yield row


def _bundle(task: TaskRow) -> str:
    """What a task has a device install; "" where that is nothing, as in an order to go back."""
    return str(task.objects[0][0]) if task.objects else ""
