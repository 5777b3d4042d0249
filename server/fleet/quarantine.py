"""Devices whose updates count for nothing for a while: who, since when and why, and the end of it.

A quarantined device is asked nothing, and what it sends is not read; it may say how it is. It is
neither revoked nor forgotten: its keys are good, and roll-outs wait for it.
"""

from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from server.fleet.errors import Refusal
from server.fleet.listing import find
from server.fleet.registry import Quarantine, Update, Write, held


def failures(db: Session, device: str, since: float) -> int:
    """Refused updates of a device since a time, or since its last quarantine, if that was later."""
    ends = func.coalesce(Quarantine.lifted, Quarantine.until, Quarantine.since)
    last = db.scalar(select(func.max(ends)).where(Quarantine.device == device))
    rows = select(func.count()).where(
        Update.device == device,
        Update.verdict == "refused",
        Update.at > max(since, last or 0.0),
    )
    return db.scalar(rows) or 0


def begin(
    write: Write, device: str, reason: str, hours: float = 0.0, count: int = 0
) -> Quarantine | None:
    """Quarantine a device for so many hours, or until it is released; None where it is already."""
    lift_those_over(write, device)
    rows = select(Quarantine.id).where(Quarantine.device == device, Quarantine.is_on(write.now))
    if write.db.scalar(rows) is not None:
        return None
    until = write.now + 3600 * hours if hours else None
    row = Quarantine(
        device=device, since=write.now, until=until, failures=count, reason=reason[:500]
    )
    write.db.add(row)
    write.audit("device.quarantine", device, reason=reason[:500], hours=hours, failures=count)
    return row


def by_hand(write: Write, names: Iterable[str], reason: str, hours: float) -> list[str]:
    """Quarantine devices; those that were not.

    Raises
    ------
    Refusal
        Where one is not accepted; none is then quarantined.
    """
    rows = find(write.db, names)
    if others := [row for row in rows if row.state != "accepted"]:
        raise Refusal(f"{others[0].id} is {others[0].state}; only accepted devices send updates")
    return [row.id for row in rows if begin(write, row.id, reason or "by hand", hours)]


def release(write: Write, names: Iterable[str], reason: str) -> list[str]:
    """Let devices count again; what they failed before is not held against them.

    Raises
    ------
    Refusal
        Where one is not quarantined; none is then released.
    """
    on = held(write.db, write.now)
    rows = find(write.db, names)
    if free := [row.id for row in rows if row.id not in on]:
        raise Refusal(f"{free[0]} is not quarantined")
    for row in rows:
        on[row.id].lifted = write.now
        write.audit("device.release", row.id, reason=reason, since=on[row.id].since)
    return [row.id for row in rows]


def lift_those_over(write: Write, device: str | None = None) -> list[str]:
    """Note the end of quarantines whose time is over: all, or one device's."""
    rows = select(Quarantine).where(Quarantine.lifted.is_(None), Quarantine.until <= write.now)
    if device is not None:
        rows = rows.where(Quarantine.device == device)
    over = list(write.db.scalars(rows))
    for row in over:
        row.lifted = row.until
        write.audit("device.release", row.device, reason="its time is over", since=row.since)
    return [row.device for row in over]
