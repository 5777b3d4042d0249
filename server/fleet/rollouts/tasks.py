"""What a roll-out asks of a device, as the transport's ledger keeps it."""

from typing import Final

from schemas.rollout import BundleOrder
from schemas.wire import ObjectRef, new_id
from server.fleet.registry import Bundle
from server.fleet.rollouts.plan import Plan
from server.transport.tables import TaskRow

RUN: Final = "rollout/"


def of_rollout(task: TaskRow) -> bool:
    """Whether a roll-out asked it; who trains has its tasks on the same ledger."""
    return task.run.startswith(RUN)


def order_of(plan: Plan, bundle: Bundle) -> BundleOrder:
    """What a device is told of its bundle."""
    return plan.order.model_copy(update={"bundle": bundle.id, "published": bundle.published})


def task_of(
    rollout: str,
    device: str,
    node: int,
    action: str,
    asked: list[ObjectRef],
    now: float,
    expires: float,
) -> TaskRow:
    """Make a task of a roll-out, for the ledger; what is asked is its payload and objects."""
    payload, *objects = asked
    return TaskRow(
        id=new_id(),
        run=f"{RUN}{rollout}",
        device=device,
        node=node,
        action=action,
        created=now,
        expires=expires,
        payload_sha=payload.sha256,
        payload_bytes=payload.bytes,
        objects=[[ref.sha256, ref.bytes] for ref in objects],
        session=RUN,
    )
