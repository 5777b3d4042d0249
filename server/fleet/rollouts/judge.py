"""Whether a group is good enough for the next to begin, or bad enough to stop."""

from collections import Counter
from typing import Final

from sqlalchemy import select, update

from server.fleet.registry import Quarantine, Rollout, RolloutDevice, RolloutGroup
from server.fleet.registry.registry import Write
from server.fleet.rollouts.plan import Plan
from server.fleet.rollouts.status import UNDECIDED, by_group
from server.transport.tables import DeviceRow

_ROUNDING: Final = 1e-9  # of a share times a count


def judge(tx: Write, row: Rollout, plan: Plan) -> str | None:
    """Begin and finish groups, and the roll-out; why it has to stop, where it has.

    A device that was passed over (off for too long, or gone) counts for neither share: they are of
    the group's other devices.
    """
    counts = by_group(tx.db, row.id)
    for group in row.groups:
        if group.state == "waiting":
            _begin(tx, row, plan, group)
        by = counts.get(group.number, Counter())
        problem = _too_bad(row, group, by)
        if problem is not None:
            group.state = "failed"
            return problem
        if group.state == "running":
            problem = _judged(tx, row, group, by)
            if problem is not None:
                group.state = "failed"
                return problem
        if group.state == "running":
            return None  # those after it wait
    if not any(by[state] for by in counts.values() for state in UNDECIDED):
        row.state, row.changed = "finished", tx.now
        tx.audit("rollout.finish", row.id)
    return None


def _begin(tx: Write, row: Rollout, plan: Plan, group: RolloutGroup) -> None:
    group.state = "running"
    plan.started[group.number] = tx.now
    row.plan = plan.model_dump(mode="json")
    row.changed = tx.now
    tx.audit("rollout.group", row.id, group=group.name, state="running")


def _judged(tx: Write, row: Rollout, group: RolloutGroup, by: Counter[str]) -> str | None:
    """Finish a group whose share is reached; why not, where it cannot be any more."""
    reached = by.total() - by["skipped"]
    undecided = sum(by[state] for state in UNDECIDED)
    needed = row.success * reached - _ROUNDING
    if reached and by["succeeded"] >= needed:
        group.state, row.changed = "finished", tx.now
        tx.audit("rollout.group", row.id, group=group.name, state="finished", devices=dict(by))
        return None
    if not reached:
        return f"group {group.name}: none of its devices was reached"
    if by["succeeded"] + undecided < needed:
        most = by["succeeded"] + undecided
        need = f"{100 * row.success:g} % have to"
        return f"group {group.name}: at most {most} of {reached} devices can succeed; {need}"
    return None


def _too_bad(row: Rollout, group: RolloutGroup, by: Counter[str]) -> str | None:
    """Failures over the limit, also late ones of a group that is finished."""
    reached = by.total() - by["skipped"]
    if not reached or by["failed"] <= row.error * reached + _ROUNDING:
        return None
    return (
        f"group {group.name}: {by['failed']} of {reached} devices failed; {100 * row.error:g} % may"
    )


def pass_over(tx: Write, row: Rollout, plan: Plan) -> None:
    """Give up devices that were not reached in time, or are of the fleet no more."""
    mine = (RolloutDevice.rollout == row.id) & (RolloutDevice.state == "waiting")
    for group, began in plan.started.items():
        if began + plan.deadline <= tx.now:
            days = plan.deadline / 86_400
            within = f"within {days:g} days of its group's start"
            late = update(RolloutDevice).where(mine, RolloutDevice.group == group)
            held = RolloutDevice.device.in_(
                select(Quarantine.device).where(Quarantine.is_on(tx.now))
            )
            for which, why in ((late.where(held), "was quarantined"), (late, "was not online")):
                reason = f"{why} {within}"
                tx.db.execute(which.values(state="skipped", reason=reason, changed=tx.now))
    gone = select(DeviceRow.id).where(~DeviceRow.enrolled)
    left = update(RolloutDevice).where(
        RolloutDevice.rollout == row.id,
        RolloutDevice.state.in_(UNDECIDED),
        RolloutDevice.device.in_(gone),
    )
    reason = "is of the fleet no more"
    tx.db.execute(left.values(state="skipped", reason=reason, changed=tx.now))


def recall(tx: Write, row: Rollout) -> None:
    """Note that devices which have not finished are recalled."""
    mine = (RolloutDevice.rollout == row.id) & RolloutDevice.state.in_(("offered", "testing"))
    tx.db.execute(update(RolloutDevice).where(mine).values(state="aborted", changed=tx.now))
