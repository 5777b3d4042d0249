"""How roll-outs stand: counts by one query each, whatever the fleet's size."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from server.fleet.errors import NotFoundError
from server.fleet.listing import when
from server.fleet.registry import Bundle, Quarantine, Rollout, RolloutDevice, RolloutGroup
from server.transport.tables import DeviceRow

UNDECIDED: Final = ("waiting", "offered", "testing")
STATES: Final = (*UNDECIDED, "succeeded", "failed", "skipped", "aborted", "returning", "returned")


@dataclass(frozen=True)
class Status:
    """A roll-out as a command shows it.

    Attributes
    ----------
    rollout : Rollout
    bundle : Bundle
    groups : list of (RolloutGroup, dict of str to int)
        Each with its devices by state.
    failures : list of (reason, devices, one of them)
        The most frequent first.
    waits : list of (why, devices, one of them)
        Those of groups that have begun which cannot answer now: off, or quarantined.
    """

    rollout: Rollout
    bundle: Bundle
    groups: list[tuple[RolloutGroup, dict[str, int]]]
    failures: list[tuple[str, int, str]]
    waits: list[tuple[str, int, str]]

    @property
    def done(self) -> bool:
        """Whether nothing will change any more."""
        moving = ("offered", "testing", "returning")
        going = any(by.get(state) for _, by in self.groups for state in moving)
        return self.rollout.state not in ("running", "paused") and not going

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        row = self.rollout
        return {
            "id": row.id,
            "state": row.state,
            "reason": row.reason,
            "bundle": row.bundle,
            "name": _name(row, self.bundle),
            "created": when(row.created),
            "changed": when(row.changed),
            "success": row.success,
            "error": row.error,
            "plan": _plan(row.plan),
            "groups": [
                {"name": group.name, "state": group.state, "devices": sum(by.values()), **by}
                for group, by in self.groups
            ],
            "failures": [
                {"reason": reason, "devices": count, "for_example": name}
                for reason, count, name in self.failures
            ],
            "waits": [
                {"why": why, "devices": count, "for_example": name}
                for why, count, name in self.waits
            ],
        }


def status(db: Session, rollout: str, most_failures: int = 10) -> Status:
    """Look at one.

    Raises
    ------
    NotFoundError
    """
    row = db.get(Rollout, rollout)
    if row is None:
        raise NotFoundError(f"no roll-out {rollout}; see flwr-fleet rollout list")
    counts = by_group(db, rollout)
    bundle = db.get(Bundle, row.bundle)
    assert bundle is not None, "a foreign key"
    groups = [(group, dict(counts.get(group.number, {}))) for group in row.groups]
    failures = _failures(db, rollout, most_failures)
    return Status(row, bundle, groups, failures, _waits(db, row))


def summaries(db: Session) -> list[dict[str, Any]]:
    """All, the newest first, each with its devices by state."""
    grouped = (
        select(RolloutDevice.rollout, RolloutDevice.state, func.count())
        .group_by(RolloutDevice.rollout, RolloutDevice.state)
        .order_by(RolloutDevice.rollout)
    )
    counts: dict[str, Counter[str]] = {}
    for rollout, state, count in db.execute(grouped):
        counts.setdefault(rollout, Counter())[state] = count
    rows = db.execute(
        select(Rollout, Bundle)
        .join(Bundle, Bundle.id == Rollout.bundle)
        .order_by(Rollout.created.desc())
    )
    return [
        {
            "id": row.id,
            "state": row.state,
            "bundle": bundle.id,
            "name": _name(row, bundle),
            "created": when(row.created),
            "devices": counts.get(row.id, Counter()).total(),
            **{state: counts.get(row.id, Counter())[state] for state in STATES},
            "reason": row.reason,
        }
        for row, bundle in rows
    ]


def by_group(db: Session, rollout: str) -> dict[int, Counter[str]]:
    """Devices by state, by group."""
    grouped = (
        select(RolloutDevice.group, RolloutDevice.state, func.count())
        .where(RolloutDevice.rollout == rollout)
        .group_by(RolloutDevice.group, RolloutDevice.state)
    )
    counts: dict[int, Counter[str]] = {}
    for group, state, count in db.execute(grouped):
        counts.setdefault(group, Counter())[state] = count
    return counts


def devices_of(db: Session, rollout: str, states: Iterable[str]) -> list[str]:
    """Names of the devices in these states."""
    rows = (
        select(RolloutDevice.device)
        .where(RolloutDevice.rollout == rollout, RolloutDevice.state.in_(list(states)))
        .order_by(RolloutDevice.device)
    )
    return list(db.scalars(rows))


def _name(row: Rollout, bundle: Bundle) -> str:
    if row.plan.get("personal"):
        return f"{bundle.name}, each device its own"
    return f"{bundle.name}@{bundle.version}"


def _plan(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan for programs: its times as all others."""
    order, started = plan.get("order", {}), plan.get("started", {})
    return plan | {
        "order": order | {"published": when(order.get("published"))},
        "started": {group: when(at) for group, at in started.items()},
    }


def _waits(db: Session, rollout: Rollout) -> list[tuple[str, int, str]]:
    undecided = UNDECIDED if rollout.state in ("running", "paused") else ()
    out = select(Quarantine.device).where(Quarantine.is_on(time.time()))
    off = DeviceRow.online.is_not(True)
    why = case((RolloutDevice.device.in_(out), "quarantined"), (off, "off")).label("why")
    rows = (
        select(why, func.count(), func.min(RolloutDevice.device))
        .join(DeviceRow, DeviceRow.id == RolloutDevice.device)
        .join(
            RolloutGroup,
            (RolloutGroup.rollout == RolloutDevice.rollout)
            & (RolloutGroup.number == RolloutDevice.group),
        )
        .where(RolloutDevice.rollout == rollout.id, RolloutGroup.state != "waiting")
        .where(RolloutDevice.state.in_((*undecided, "returning")))
        .group_by(why)
        .order_by(why)
    )
    return [(reason, count, name) for reason, count, name in db.execute(rows) if reason]


def _failures(db: Session, rollout: str, most: int) -> list[tuple[str, int, str]]:
    count = func.count()
    rows = (
        select(RolloutDevice.reason, count, func.min(RolloutDevice.device))
        .where(RolloutDevice.rollout == rollout, RolloutDevice.state.in_(("failed", "skipped")))
        .group_by(RolloutDevice.reason)
        .order_by(count.desc())
        .limit(most)
    )
    return [(reason or "no reason", number, name) for reason, number, name in db.execute(rows)]
