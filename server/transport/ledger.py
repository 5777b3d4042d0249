"""What the transport must not forget: devices, their tasks, and what was dropped."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from schemas.wire import ObjectRef, node_of, topic
from server.database import create_tables, open_engine
from server.transport.tables import OPEN, DeviceRow, DropRow, TaskRow, TaskState

TABLES: Final = (DeviceRow, DropRow, TaskRow)


class LedgerError(ValueError):
    """What a ledger is asked to keep and cannot."""


class Ledger:
    """Devices, tasks and counters in a database; each call is one transaction.

    Parameters
    ----------
    where : Path or str
        A file of SQLite's, or an SQLAlchemy URL.
    admit_all : bool, default False
        Enrol whoever states itself: for demos and tests, where the broker lets in friends only.
    """

    def __init__(self, where: Path | str, *, admit_all: bool = False) -> None:
        self.admit_all = admit_all
        self._engine = open_engine(where)
        create_tables(self._engine, TABLES)
        self._begin = sessionmaker(self._engine, expire_on_commit=False).begin
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Write what is counted, and let the database go."""
        self.flush()
        self._engine.dispose()

    # Devices.

    def add_device(self, device: str, node: int | None = None) -> int:
        """Enrol a device; its Flower node id, which is drawn from its name unless given.

        Raises
        ------
        LedgerError
            Where another device has that node id.
        WireError
            Where it is no device id.
        """
        topic(device, "cmd")
        with self._begin() as db:
            number = node_of(device) if node is None else node
            other = db.scalar(
                select(DeviceRow).where(DeviceRow.node == number, DeviceRow.id != device)
            )
            if other is not None:
                raise LedgerError(f"device {device}: node id {number} is {other.id}'s")
            row = db.get(DeviceRow, device)
            if row is None:
                db.add(DeviceRow(id=device, node=number))
            else:
                row.enrolled, row.node = True, row.node if node is None else number
                number = row.node
            return number

    def remove_device(self, device: str) -> None:
        """Enrol a device no longer; what is known of it stays."""
        with self._begin() as db:
            db.execute(update(DeviceRow).where(DeviceRow.id == device).values(enrolled=False))

    def device(self, device: str) -> DeviceRow | None:
        """An enrolled device; one that was removed is none."""
        with self._begin() as db:
            row = db.get(DeviceRow, device)
            return row if row is not None and row.enrolled else None

    def devices(self) -> list[DeviceRow]:
        """All enrolled devices, by node id."""
        with self._begin() as db:
            rows = select(DeviceRow).where(DeviceRow.enrolled).order_by(DeviceRow.node)
            return list(db.scalars(rows))

    def ever_enrolled(self) -> list[DeviceRow]:
        """All devices that are enrolled, or were, by node id."""
        with self._begin() as db:
            return list(db.scalars(select(DeviceRow).order_by(DeviceRow.node)))

    def known(self, device: str) -> bool:
        """Whether a device was ever enrolled: who was removed does not come back by itself."""
        with self._begin() as db:
            return db.get(DeviceRow, device) is not None

    def set_state(self, device: str, state: dict[str, Any], seen: float | None) -> None:
        """Note what an enrolled device states of itself; ``online`` is of it.

        Parameters
        ----------
        device : str
        state : dict
        seen : float or None
            Unix time; None where it says nothing of when the device was there.
        """
        values: dict[str, Any] = {"state": state, "online": bool(state["online"])}
        if seen is not None:
            values["seen"] = seen
        with self._begin() as db:
            rows = update(DeviceRow).where(DeviceRow.id == device, DeviceRow.enrolled)
            db.execute(rows.values(**values))

    def all_offline(self) -> None:
        """Believe of no device that it is online, until it states so."""
        with self._begin() as db:
            db.execute(update(DeviceRow).values(online=False))

    # Tasks.

    def add_tasks(self, tasks: Iterable[TaskRow]) -> None:
        """Keep new tasks, all or none."""
        with self._begin() as db:
            db.add_all(tasks)

    def task(self, task: str) -> TaskRow | None:
        """A task, by its id."""
        with self._begin() as db:
            return db.scalar(select(TaskRow).where(TaskRow.id == task))

    def tasks(self, ids: Iterable[str]) -> list[TaskRow]:
        """Tasks in the order of their ids; unknown ids are passed over."""
        found: dict[str, TaskRow] = {}
        with self._begin() as db:
            for part in _parts(list(ids)):
                rows = db.scalars(select(TaskRow).where(TaskRow.id.in_(part)))
                found |= {row.id: row for row in rows}
        return [found[task] for task in ids if task in found]

    def open_tasks(self, device: str | None = None) -> list[TaskRow]:
        """Tasks without an answer, in their order: all, or one device's."""
        rows = select(TaskRow).where(TaskRow.state.in_(OPEN)).order_by(TaskRow.number)
        if device is not None:
            rows = rows.where(TaskRow.device == device)
        with self._begin() as db:
            return list(db.scalars(rows))

    def orphans(self) -> list[str]:
        """Open tasks of devices that are enrolled no more."""
        rows = select(TaskRow.id).join(DeviceRow, DeviceRow.id == TaskRow.device)
        with self._begin() as db:
            return list(db.scalars(rows.where(TaskRow.state.in_(OPEN), ~DeviceRow.enrolled)))

    def newest(self, device: str, count: int = 100, *, given_up: bool = False) -> list[TaskRow]:
        """A device's last tasks, the newest first: open, answered, and maybe those given up."""
        states = (*OPEN, "answered", "pulled", *(("failed", "expired") if given_up else ()))
        rows = select(TaskRow).where(TaskRow.state.in_(states), TaskRow.device == device)
        with self._begin() as db:
            return list(db.scalars(rows.order_by(TaskRow.number.desc()).limit(count)))

    def waiting(self, ids: Iterable[str]) -> int:
        """How many of these tasks are open."""
        with self._begin() as db:
            counts = [
                db.scalar(select(func.count()).where(TaskRow.id.in_(part), TaskRow.state.in_(OPEN)))
                for part in _parts(list(ids))
            ]
        return sum(count or 0 for count in counts)

    def same(self, like: TaskRow, now: float) -> list[TaskRow]:
        """Tasks that ask the same of the same device, from another life of the server.

        Of those that failed or expired there is none: they are asked anew.
        """
        rows = select(TaskRow).where(
            TaskRow.run == like.run,
            TaskRow.device == like.device,
            TaskRow.action == like.action,
            TaskRow.group == like.group,
            TaskRow.payload_sha == like.payload_sha,
            TaskRow.session != like.session,
            TaskRow.state.in_((*OPEN, "answered", "pulled")),
        )
        with self._begin() as db:
            found = db.scalars(rows.order_by(TaskRow.number))
            return [row for row in found if row.state not in OPEN or row.expires > now]

    def adopt(self, task: str, session: str) -> bool:
        """Take a task over into this life of the server; whether it had none here yet.

        An answer that an earlier life took is there to be taken again.
        """
        with self._begin() as db:
            rows = update(TaskRow).where(TaskRow.id == task, TaskRow.session != session)
            adopted = _count(db, rows.values(session=session))
            again = update(TaskRow).where(TaskRow.id == task, TaskRow.state == "pulled")
            if adopted:
                db.execute(again.values(state="answered"))
            return bool(adopted)

    def move(
        self,
        ids: Iterable[str],
        state: TaskState,
        of: tuple[TaskState, ...] = OPEN,
        error: str | None = None,
    ) -> int:
        """Set the state of tasks that are in one of the states ``of``; how many were."""
        values: dict[str, Any] = {"state": state} | ({} if error is None else {"error": error})
        moved = 0
        with self._begin() as db:
            for part in _parts(list(ids)):
                rows = update(TaskRow).where(TaskRow.id.in_(part), TaskRow.state.in_(of))
                moved += _count(db, rows.values(**values))
        return moved

    def announce(self, task: str, answer: tuple[ObjectRef, ...]) -> None:
        """Note what a device announced as an open task's answer, its payload first."""
        payload, *others = answer
        with self._begin() as db:
            rows = update(TaskRow).where(TaskRow.id == task, TaskRow.state.in_(OPEN))
            db.execute(
                rows.values(
                    state="accepted",
                    reply_sha=payload.sha256,
                    reply_bytes=payload.bytes,
                    reply_objects=[[ref.sha256, ref.bytes] for ref in others],
                )
            )

    def expire(
        self, now: float, which: Callable[[TaskRow], bool] = lambda _task: True
    ) -> list[str]:
        """Mark open tasks whose time is over, of those asked for; their ids."""
        with self._begin() as db:
            rows = select(TaskRow).where(TaskRow.state.in_(OPEN), TaskRow.expires <= now)
            over = [row for row in db.scalars(rows) if which(row)]
            for row in over:
                row.state = "expired"
            return [row.id for row in over]

    def needed(self) -> set[str]:
        """Objects that open tasks and answers not yet taken name."""
        with self._begin() as db:
            rows = db.scalars(select(TaskRow).where(TaskRow.state.in_((*OPEN, "answered"))))
            return {ref.sha256 for row in rows for ref in (*row.asked, *row.answer)}

    # What was dropped.

    def count_drop(self, device: str, reason: str) -> int:
        """Count a message that was dropped; how often that was since the last ``flush``."""
        with self._lock:
            self._dropped[device, reason] += 1
            return self._dropped[device, reason]

    def flush(self) -> None:
        """Write the counts: one by one, a flood of rubbish would be one of transactions."""
        with self._lock:
            counts, self._dropped = self._dropped, Counter()
        if not counts:
            return
        with self._begin() as db:
            for (device, reason), count in counts.items():
                row = db.get(DropRow, (device, reason))
                if row is None:
                    db.add(DropRow(device=device, reason=reason, count=count))
                else:
                    row.count += count

    def drops(self) -> dict[tuple[str, str], int]:
        """How many messages were dropped, by device and reason."""
        self.flush()
        with self._begin() as db:
            return {(row.device, row.reason): row.count for row in db.scalars(select(DropRow))}


def _count(db: Session, statement: Any) -> int:
    return cast("CursorResult[Any]", db.execute(statement)).rowcount


def _parts(ids: list[str], size: int = 500) -> Iterable[list[str]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))
