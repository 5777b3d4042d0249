"""What lists and status commands show, read in a few queries however many devices there are."""

import datetime as dt
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from server.fleet.errors import NotFoundError
from server.fleet.installed import faults, in_use
from server.fleet.registry import (
    Bundle,
    Certificate,
    Claim,
    Device,
    Enrolment,
    Key,
    Quarantine,
    Tag,
    Update,
    held,
)
from server.transport.tables import DeviceRow

PART: Final = 500  # names in a query, and devices in a transaction where there are many
_LAST = 5  # refused updates that a device's card shows
T = TypeVar("T")


class Standing(NamedTuple):
    """What decides over a device's next state, read without the rest of it."""

    id: str
    state: str
    claim: str | None
    reason: str | None


def parts(items: Iterable[T], most: int = PART) -> Iterator[list[T]]:
    """Lists of so many items, the last of fewer."""
    rest = list(items)
    for start in range(0, len(rest), most):
        yield rest[start : start + most]


def find(db: Session, names: Iterable[str]) -> list[Device]:
    """Devices by their names, in that order.

    Raises
    ------
    NotFoundError
        Where one is not there; none is then returned.
    """
    wanted, rows = list(dict.fromkeys(names)), dict[str, Device]()
    for part in parts(wanted):
        rows |= {row.id: row for row in db.scalars(select(Device).where(Device.id.in_(part)))}
    return _in_order(wanted, rows)


def standings(db: Session, names: Iterable[str]) -> list[Standing]:
    """How devices stand, in that order: rows take a tenth of the time that objects do.

    Raises
    ------
    NotFoundError
        Where one is not there; none is then returned.
    """
    wanted = list(dict.fromkeys(names))
    return _in_order(wanted, known(db, wanted))


def known(db: Session, names: Iterable[str]) -> dict[str, Standing]:
    """How devices stand, of those that are there."""
    rows = select(Device.id, Device.state, Device.claim, Device.reason)
    found = dict[str, Standing]()
    for part in parts(names):
        them = db.execute(rows.where(Device.id.in_(part)))
        found |= {row.id: Standing(*row) for row in them}
    return found


def _in_order(wanted: Sequence[str], rows: Mapping[str, T]) -> list[T]:
    if missing := [name for name in wanted if name not in rows]:
        more = ", …" if len(missing) > 3 else ""
        raise NotFoundError(f"no device {', '.join(missing[:3])}{more}; see device list")
    return [rows[name] for name in wanted]


def device_rows(
    db: Session,
    names: Iterable[str] | None = None,
    *,
    state: str | None = None,
    tag: str | None = None,
) -> list[dict[str, Any]]:
    """Devices by name, as lists show them; removed ones only where they are asked for."""
    rows = (
        select(Device.id, Device.state, DeviceRow.online, DeviceRow.seen)
        .outerjoin(DeviceRow, DeviceRow.id == Device.id)
        .order_by(Device.id)
    )
    ends, tags = _ends(), select(Tag.device, Tag.tag).order_by(Tag.device, Tag.tag)
    rows = rows.where(Device.state == state if state else Device.state != "removed")
    if tag is not None:
        rows = rows.where(Device.id.in_(select(Tag.device).where(Tag.tag == tag)))
    if names is not None:
        some = list(names)
        rows, tags = rows.where(Device.id.in_(some)), tags.where(Tag.device.in_(some))
        ends = ends.where(Certificate.device.in_(some))
    until: dict[str, float] = {row[0]: row[1] for row in db.execute(ends)}
    tagged = defaultdict[str, list[str]](list)
    for device, word in db.execute(tags):
        tagged[device].append(word)
    at, aside = time.time(), faults(db)
    out = held(db, at)
    return [
        {
            "device": device,
            "state": now,
            "quarantined": device in out,
            "quarantine": out[device].reason if device in out else None,
            "bundle_put_aside": aside.get(device),
            "online": None if seen is None else bool(online),  # nobody has listened yet
            "seen": when(seen),
            "certificate_until": when(until.get(device)),
            "certificate_expired": until.get(device, at) < at,
            "tags": tagged.get(device, []),
        }
        for device, now, online, seen in db.execute(rows)
    ]


def device_card(db: Session, device: Device) -> dict[str, Any]:
    """All that is known of one device."""
    (row,) = device_rows(db, [device.id], state=device.state)
    keys = select(Key).where(Key.device == device.id).order_by(Key.created)
    issued = select(Certificate).where(Certificate.device == device.id)
    asked = select(Enrolment).where(Enrolment.device == device.id).order_by(Enrolment.id)
    return (
        row
        | {
            "reason": device.reason,
            "created": when(device.created),
            "changed": when(device.changed),
            "claim": device.claim,
            "keys": [
                {"sha256": key.id, "state": key.state, "kind": key.kind} for key in db.scalars(keys)
            ],
            "certificates": [
                {"serial": one.serial, "until": when(one.not_after), "revoked": when(one.revoked)}
                for one in db.scalars(issued.order_by(Certificate.not_before))
            ],
            "requests": [
                {"at": when(one.asked), "csr_sha256": one.csr_sha256, "address": one.address}
                for one in db.scalars(asked)
            ],
        }
        | _bundles(db, device.id)
        | _updates(db, device.id)
    )


def _bundles(db: Session, device: str) -> dict[str, Any]:
    """What it predicts with by its answers, and what it found that it cannot use."""
    found = in_use(db, device)
    why = found.aside and f"{_bundle(found.aside)}: {found.reason}"
    return {"bundle": found.bundle and _bundle(found.bundle), "bundle_put_aside": why}


def _bundle(bundle: Bundle) -> str:
    return f"{bundle.name}@{bundle.version} ({bundle.id[:12]})"


def _updates(db: Session, device: str) -> dict[str, Any]:
    """What was said of its updates: how many were good, the last refused, its quarantines."""
    mine = select(func.count()).where(Update.device == device)
    bad = select(Update).where(Update.device == device, Update.verdict == "refused")
    times = select(Quarantine).where(Quarantine.device == device).order_by(Quarantine.id)
    return {
        "updates_accepted": db.scalar(mine.where(Update.verdict == "accepted")),
        "updates_refused": db.scalar(mine.where(Update.verdict == "refused")),
        "refused": [
            {"at": when(one.at), "task": one.task, "reason": one.reason, "detail": one.detail}
            for one in list(db.scalars(bad.order_by(Update.id.desc()).limit(_LAST)))[::-1]
        ],
        "quarantines": [
            {"since": when(one.since), "until": when(one.until), "lifted": when(one.lifted)}
            | {"failures": one.failures, "reason": one.reason}
            for one in db.scalars(times)
        ],
    }


def claim_row(claim: Claim, state: str) -> dict[str, Any]:
    """A claim, as lists show it."""
    return {
        "claim": claim.id,
        "state": state,
        "device": claim.device,
        "tags": claim.tags,
        "used": claim.used,
        "uses": claim.uses,
        "approval": claim.approval,
        "expires": when(claim.expires),
        "note": claim.note,
    }


def when(unix: float | None) -> str | None:
    """Unix time, for people; as a number where no calendar has it, which must end no list."""
    if unix is None:
        return None
    try:
        return dt.datetime.fromtimestamp(unix, dt.UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"Unix time {unix:g}"


def fingerprint(sha256: str) -> str:
    """A fingerprint for eyes: groups of four, as the device prints it too."""
    return " ".join(sha256[start : start + 4] for start in range(0, len(sha256), 4))


def _ends() -> Any:
    """When the last good certificate of each device ends."""
    return (
        select(Certificate.device, func.max(Certificate.not_after))
        .where(Certificate.device.is_not(None), Certificate.revoked.is_(None))
        .group_by(Certificate.device)
    )
