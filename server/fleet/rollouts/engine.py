"""Drives roll-outs: offers bundles to devices, hears what came of it, and judges group by group.

All that it knows lies in the database, and each look is a transaction: an engine that was killed
goes on with the next look, and a task is known by its id on both sides. It works through the
transport's courier as every other task does.
"""

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from schemas.objects import MissingObjectError, ObjectStore
from schemas.payload import Payload, PayloadError
from schemas.payload_object import pack, unpack
from schemas.rollout import ACTION, BACK, RECORD, BundleOrder
from schemas.wire import ObjectRef
from server.fleet.errors import Refusal
from server.fleet.installed import GOOD, fallen
from server.fleet.listing import parts
from server.fleet.registry import Bundle, Quarantine, Registry, Rollout, RolloutDevice
from server.fleet.registry.registry import Write
from server.fleet.rollouts.control import stop
from server.fleet.rollouts.judge import judge, pass_over, recall
from server.fleet.rollouts.plan import ACTIVE, Plan, bundles_for
from server.fleet.rollouts.tasks import order_of, task_of
from server.plain import plain
from server.transport.courier import Courier
from server.transport.ledger import Ledger
from server.transport.tables import OPEN, DeviceRow, TaskRow

ACTOR: Final = "server"
_AT_ONCE: Final = 500  # answers taken in one transaction
_MOST: Final = 2**63  # of a number in a device's report
_ATTEMPTS: Final = 5  # at a device, an order to go back counted
_BACK_TTL: Final = 14 * 86_400.0
# Written out, not bound: a database must see that these are the states of the partial index.
_MOVING: Final = RolloutDevice.state.in_(
    bindparam("moving", ("offered", "testing", "returning"), expanding=True, literal_execute=True)
)
# By device, from the open tasks: those are few, and what is of past roll-outs is not looked at.
_OF_TASK: Final = (
    RolloutDevice,
    (RolloutDevice.device == TaskRow.device) & (RolloutDevice.task == TaskRow.id),
)
_RECALLED: Final = (RolloutDevice.state.in_(("aborted", "skipped")), TaskRow.state.in_(OPEN))


class Engine:
    """Roll-outs of one fleet; ``tick`` it about once a second.

    Parameters
    ----------
    registry : Registry
    ledger : Ledger
        On the registry's database.
    courier : Courier
    objects : ObjectStore
        From which the courier serves.
    read : callable(str) -> bytes
        A published bundle's file by its SHA-256; raises ``Refusal`` where it is gone.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        courier: Courier,
        objects: ObjectStore,
        read: Callable[[str], bytes],
    ) -> None:
        self._registry, self._ledger, self._courier = registry, ledger, courier
        self._objects, self._read = objects, read
        # Who may have what was rolled back, by roll-out that is over: those do not grow any more,
        # and there is nothing to do until one of them is online.
        self._left: dict[str, list[str]] = {}

    def tick(self) -> None:
        """Do what is due, of every roll-out that is not over."""
        with self._registry.read() as db:
            moving = select(RolloutDevice.rollout).where(_MOVING)
            recalled = select(RolloutDevice.rollout).select_from(TaskRow).join(*_OF_TASK)
            ids = set(db.scalars(select(Rollout.id).where(Rollout.state.in_(ACTIVE))))
            ids |= {*db.scalars(moving.distinct())}
            ids |= {*db.scalars(recalled.where(*_RECALLED).distinct())}
            ended = select(Rollout.id).where(Rollout.state.not_in(ACTIVE))
            back = db.scalars(ended.where(Rollout.plan["roll_back"].as_boolean()))
            ids |= {each for each in back if self._may_send_back(db, each)}
        for rollout in sorted(ids):
            self._look(rollout)

    def _may_send_back(self, db: Session, rollout: str) -> bool:
        """Whether a device is there that may have it; also where nobody has looked yet."""
        left = self._left.get(rollout)
        there = select(DeviceRow.id).where(DeviceRow.online, DeviceRow.enrolled).limit(1)
        return left is None or any(
            db.scalar(there.where(DeviceRow.id.in_(part))) for part in parts(left)
        )

    def _look(self, rollout: str) -> None:
        with self._courier.changed:
            self._hear(rollout)
            with self._registry.write(ACTOR) as tx:
                row = tx.db.get(Rollout, rollout)
                assert row is not None, "roll-outs are never deleted"
                fresh = self._decided(tx, row)
            self._withdraw(rollout)
            if fresh:
                self._courier.publish_new(self._ledger.tasks(fresh))
            self._courier.pinned.clear()

    def _decided(self, tx: Write, row: Rollout) -> list[str]:
        """Judge a roll-out, and go on with it or end it; tasks that are new."""
        plan = Plan.model_validate(row.plan)
        if row.state == "running":
            pass_over(tx, row, plan)
            if problem := judge(tx, row, plan):
                _stop(tx, row, problem)
        if row.state == "running":
            try:
                return self._offer(tx, row, Plan.model_validate(row.plan))
            except Refusal as error:  # the bundle's file is gone
                _stop(tx, row, str(error))
        if row.state in ACTIVE:
            return []
        recall(tx, row)
        return self._send_back(tx, row, plan) if plan.roll_back else []

    def _withdraw(self, rollout: str) -> None:
        """Take back the tasks of devices that were recalled; also what a killed server did not."""
        with self._registry.read() as db:
            rows = select(TaskRow.id).join(*_OF_TASK)
            tasks = list(db.scalars(rows.where(*_RECALLED, RolloutDevice.rollout == rollout)))
        if tasks:
            self._courier.withdraw(tasks, "the roll-out was ended")

    # -- what devices say -------------------------------------------------------------------------

    def _hear(self, rollout: str) -> None:
        """Take what devices said of it; an answer stays in the ledger until it is noted here."""
        while self._heard(rollout) == _AT_ONCE:
            pass  # there are more

    def _heard(self, rollout: str) -> int:
        with self._registry.read() as db:
            ended = (
                select(RolloutDevice.device, RolloutDevice.state, TaskRow)
                .join(TaskRow, TaskRow.id == RolloutDevice.task)
                .where(RolloutDevice.rollout == rollout)
                .where(
                    RolloutDevice.state.in_(("offered", "testing", "returning"))
                    & TaskRow.state.not_in(OPEN)
                    | (RolloutDevice.state == "offered") & (TaskRow.state == "accepted")
                )
                .limit(_AT_ONCE)
            )
            rows = db.execute(ended).all()
        if not rows:
            return 0
        found = [(device, *self._outcome(state, task)) for device, state, task in rows]
        with self._registry.write(ACTOR) as tx:
            same = {"rollout": rollout, "changed": tx.now}
            keys = ("device", "state", "reason", "report")
            values = [{**same, **dict(zip(keys, each, strict=True))} for each in found]
            tx.db.execute(update(RolloutDevice), values)
            for device, state, reason, _ in found:
                if state == "failed":
                    tx.audit("rollout.failed", device, rollout=rollout, reason=reason)
        taken = [task.id for _, _, task in rows if task.state == "answered"]
        self._ledger.move(taken, "pulled", of=("answered",))
        return len(rows)

    def _outcome(self, state: str, task: TaskRow) -> tuple[str, str | None, dict[str, Any] | None]:
        """A device's next state, why, and what its self-test measured."""
        if task.state == "accepted":
            return "testing", None, None
        if state == "returning":
            went = task.state in GOOD
            return ("returned", None, None) if went else ("succeeded", task.error, None)
        if task.state in GOOD:
            return "succeeded", None, self._report(task)
        if task.state == "expired":
            return "skipped", "it did not answer within its time", None
        return "failed", (task.error or "no reason was given")[:500], None

    def _report(self, task: TaskRow) -> dict[str, Any] | None:
        try:
            data = self._objects.get(task.answer[0].sha256)
            said = unpack(data, self._objects.get, limit=1 << 20).config.get(RECORD, {})
        except (IndexError, MissingObjectError, PayloadError, ValueError) as error:
            self._courier.refuse(task.device, "malformed", f"answer to task {task.id}: {error}")
            return None
        told = {plain(str(key), 40): _told(value) for key, value in list(said.items())[:20]}
        return {key: value for key, value in told.items() if value is not None}

    # -- what devices are told --------------------------------------------------------------------

    def _offer(self, tx: Write, row: Rollout, plan: Plan) -> list[str]:
        """Tasks for devices that wait, may be asked, are online, and whose group has begun."""
        devices = select(func.count()).where(RolloutDevice.rollout == row.id)
        busy = tx.db.scalar(devices.where(RolloutDevice.state.in_(("offered", "testing")))) or 0
        room = plan.at_once - busy
        if room <= 0 or not plan.started:
            return []
        out = select(Quarantine.device).where(Quarantine.is_on(tx.now))  # those could not answer
        waiting = (
            select(RolloutDevice, DeviceRow.node)
            .join(DeviceRow, DeviceRow.id == RolloutDevice.device)
            .where(RolloutDevice.rollout == row.id, RolloutDevice.state == "waiting")
            .where(RolloutDevice.group.in_(list(plan.started)))
            .where(DeviceRow.online, DeviceRow.enrolled)
            .where(RolloutDevice.device.not_in(out))
            .order_by(RolloutDevice.group, RolloutDevice.device)
            .limit(room)
        )
        found = tx.db.execute(waiting).all()
        if not found:
            return []
        bundles = bundles_for(tx.db, row, plan, [device.device for device, _ in found])
        tasks = []
        for device, node in found:
            asked = self._asked(order_of(plan, bundles[device.device]), bundles[device.device])
            expires = plan.started[device.group] + plan.deadline
            task = task_of(row.id, device.device, node, ACTION, asked, tx.now, expires)
            device.state, device.task, device.changed = "offered", task.id, tx.now
            device.attempts += 1
            tasks.append(task)
        tx.db.add_all(tasks)
        return [task.id for task in tasks]

    def _asked(self, order: BundleOrder, bundle: Bundle) -> list[ObjectRef]:
        """The payload, the bundle and its base, for the courier to serve."""
        body, _ = pack(Payload(config={RECORD: order.model_dump(exclude_none=True)}))
        files = [name for name in (bundle.id, bundle.base) if name]
        return [self._courier.put(body), *(self._served(name) for name in files)]

    def _served(self, sha: str) -> ObjectRef:
        if not self._objects.has(sha):
            self._courier.put(self._read(sha))
        self._courier.pinned.add(sha)
        return self._objects.ref(sha)

    def _send_back(self, tx: Write, row: Rollout, plan: Plan) -> list[str]:
        """Tasks to go back, for those who may have installed it and are online."""
        may_have = (
            RolloutDevice.rollout == row.id,
            RolloutDevice.state.in_(("succeeded", "aborted")) | fallen(),
            RolloutDevice.attempts < _ATTEMPTS,
        )
        on_task = TaskRow.id == RolloutDevice.task
        self._left[row.id] = list(
            tx.db.scalars(select(RolloutDevice.device).join(TaskRow, on_task).where(*may_have))
        )
        rows = (
            select(RolloutDevice, DeviceRow.node)
            .join(DeviceRow, DeviceRow.id == RolloutDevice.device)
            .join(TaskRow, on_task)
            .where(*may_have)
            .where(TaskRow.state.not_in(OPEN))  # else its recall comes first, which goes by it
            .where(DeviceRow.online, DeviceRow.enrolled)
            .order_by(RolloutDevice.device)
            .limit(_AT_ONCE)
        )
        found = tx.db.execute(rows).all()
        if not found:
            return []
        bundles = bundles_for(tx.db, row, plan, [device.device for device, _ in found])
        tasks = []
        for device, node in found:
            order = order_of(plan, bundles[device.device])
            body, _ = pack(Payload(config={RECORD: order.model_dump(exclude_none=True)}))
            payload = self._courier.put(body)
            expires = tx.now + _BACK_TTL
            task = task_of(row.id, device.device, node, BACK, [payload], tx.now, expires)
            device.state, device.task, device.changed = "returning", task.id, tx.now
            device.attempts += 1
            tasks.append(task)
        tx.db.add_all(tasks)
        return [task.id for task in tasks]


def _stop(tx: Write, row: Rollout, problem: str) -> None:
    stop(tx, row, "failed", problem)
    tx.audit("rollout.stop", row.id, reason=problem)


def _told(value: object) -> bool | int | float | str | None:
    """What a device says of itself, if any database takes it: JSON has no NaN and no infinity."""
    if isinstance(value, str):
        return plain(value, 200)
    if isinstance(value, bool | int | float) and -_MOST <= value <= _MOST:
        return value
    return None
