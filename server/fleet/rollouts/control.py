"""An operator's hand on a roll-out. The engine does what follows from it, with its next look."""

from typing import Final, Literal

from sqlalchemy import update

from server.fleet.errors import NotFoundError, Refusal
from server.fleet.registry import Registry, Rollout, RolloutDevice, RolloutGroup
from server.fleet.registry.registry import Write
from server.fleet.rollouts.plan import ACTIVE, Plan

_OVER: Final = {
    "finished": "it is finished",
    "failed": "it stopped by itself; make another one",
    "aborted": "it was aborted; make another one",
}


def pause(registry: Registry, actor: str, rollout: str) -> bool:
    """Offer it to no further device; whether it was not paused already. Who has begun goes on."""
    return _move(registry, actor, rollout, "paused", "rollout.pause")


def resume(registry: Registry, actor: str, rollout: str) -> bool:
    """Go on; whether it was paused."""
    return _move(registry, actor, rollout, "running", "rollout.resume")


def abort(registry: Registry, actor: str, rollout: str, *, roll_back: bool = False) -> bool:
    """End it: who has not finished keeps, or goes back to, what it had; whether that is news.

    Parameters
    ----------
    registry : Registry
    actor : str
    rollout : str
    roll_back : bool
        Who has installed the bundle goes back too; so it may be said after the end as well.
    """
    with registry.write(actor) as tx:
        row = found(tx, rollout)
        if row.state not in ACTIVE and not roll_back:
            return False
        stop(tx, row, "aborted" if row.state in ACTIVE else row.state, "aborted by an operator")
        if roll_back:
            plan = Plan.model_validate(row.plan)
            row.plan = plan.model_copy(update={"roll_back": True}).model_dump(mode="json")
        tx.audit("rollout.abort", rollout, roll_back=roll_back)
        return True


def stop(tx: Write, row: Rollout, state: Literal["aborted", "failed"] | str, reason: str) -> None:
    """End a roll-out; devices that wait get nothing, the engine recalls what others were told."""
    if row.state in ACTIVE:
        row.state, row.reason = state, reason[:500]  # type: ignore[assignment]
    row.changed = tx.now
    mine = update(RolloutDevice).where(RolloutDevice.rollout == row.id)
    waiting = mine.where(RolloutDevice.state == "waiting")
    tx.db.execute(waiting.values(state="aborted", changed=tx.now))
    groups = update(RolloutGroup).where(RolloutGroup.rollout == row.id)
    tx.db.execute(
        groups.where(RolloutGroup.state.in_(("waiting", "running"))).values(state="aborted")
    )


def found(tx: Write, rollout: str) -> Rollout:
    """The roll-out.

    Raises
    ------
    NotFoundError
    """
    row = tx.db.get(Rollout, rollout)
    if row is None:
        raise NotFoundError(f"no roll-out {rollout}; see flwr-fleet rollout list")
    return row


def _move(
    registry: Registry, actor: str, rollout: str, state: Literal["running", "paused"], action: str
) -> bool:
    with registry.write(actor) as tx:
        row = found(tx, rollout)
        if row.state not in ACTIVE:
            raise Refusal(f"roll-out {rollout}: {_OVER[row.state]}")
        if row.state == state:
            return False
        if state == "running":
            _wait_on(row, tx.now - row.changed)
        row.state, row.changed = state, tx.now
        tx.audit(action, rollout)
        return True


def _wait_on(row: Rollout, paused: float) -> None:
    """Have groups wait as much longer for their devices as nothing was offered to them."""
    plan = Plan.model_validate(row.plan)
    started = {group: began + max(0.0, paused) for group, began in plan.started.items()}
    row.plan = plan.model_copy(update={"started": started}).model_dump(mode="json")
