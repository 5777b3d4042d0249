"""Devices from expected to removed: every change of state, with its keys, certificates and log.

(none), expected ─► pending ─┬─► accepted ─► revoked ─┬─► removed
             └───────────────┴─► rejected ────────────┘
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from schemas.wire import node_of
from server.fleet.authority import Authority, Issued, Revoked
from server.fleet.claims import check_names
from server.fleet.csr import Csr, read
from server.fleet.errors import NotFoundError, Refusal
from server.fleet.listing import Standing, find, known, parts, standings
from server.fleet.registry import Certificate, Claim, Device, Enrolment, Key, Tag, Write
from server.fleet.registry.audit import Entry
from server.fleet.registry.identity import LONGEST
from server.transport.tables import DeviceRow

SUPERSEDED: Final = "superseded"
_ALONE: Final = {"synchronize_session": False}  # no object of those rows is in the session
_WORDS: Final = {"rejected": "reject", "revoked": "revoke", "removed": "remove"}


@dataclass(frozen=True)
class Expected:
    """A device that is known beforehand.

    Attributes
    ----------
    key : str, optional
        SHA-256 of the only public key that it may come with.
    """

    name: str
    tags: tuple[str, ...] = ()
    key: str | None = None


def expect(write: Write, name: str, tags: Iterable[str] = (), key: str | None = None) -> None:
    """Know one device beforehand; see ``expect_all``."""
    expect_all(write, [Expected(name, tuple(tags), key)])


def expect_all(write: Write, them: Iterable[Expected]) -> None:
    """Know devices beforehand: whoever comes with such a name under a good claim is accepted.

    Raises
    ------
    Refusal
        Where a name is none, or there is such a device and it is not merely expected.
    """
    for part in parts(them):
        states = check_expected(write.db, part)
        for one in part:
            states.setdefault(one.name, "")
        _expect(write, part, states)
        _add_tags(write.db, part)
        write.audit_all(
            ("device.expect", one.name, {"tags": sorted(one.tags), "key": one.key}) for one in part
        )


def check_expected(db: Session, them: Iterable[Expected]) -> dict[str, str]:
    """Refuse what cannot be expected; states of those that are there.

    Raises
    ------
    Refusal
        Where a name or tag is none, or there is such a device and it is not merely expected.
    """
    listed = list(them)
    check_names(one.name for one in listed)
    check_names((tag for one in listed for tag in one.tags), "tag")
    states = {name: row.state for name, row in known(db, [one.name for one in listed]).items()}
    for name, state in states.items():
        if state not in ("expected", "removed"):
            raise Refusal(f"{name} is there already, and {state}")
    return states


def _expect(write: Write, them: Iterable[Expected], states: dict[str, str]) -> None:
    """By what they were before: new, removed, or expected already."""
    again = {"state": "expected", "changed": write.now, "reason": None}
    rows = defaultdict[str, list[dict[str, Any]]](list)
    for one in them:
        rows[states[one.name]].append({"id": one.name, "expected_key": one.key})
    if new := rows[""]:
        write.db.execute(insert(Device), [row | again | {"created": write.now} for row in new])
    if removed := rows["removed"]:
        write.db.execute(update(Device), [row | again for row in removed])
    if expected := rows["expected"]:
        write.db.execute(update(Device), expected)


def _add_tags(db: Session, them: Sequence[Expected]) -> None:
    now = select(Tag.device, Tag.tag).where(Tag.device.in_([one.name for one in them]))
    there = {(device, tag) for device, tag in db.execute(now)}
    new = {(one.name, tag) for one in them for tag in one.tags} - there
    if new:
        db.execute(insert(Tag), [{"device": device, "tag": tag} for device, tag in sorted(new)])


def accept(
    write: Write, authority: Authority, device: Device, enrolment: Enrolment, csr: Csr
) -> Issued:
    """Accept a device with the key it came with; its certificate."""
    key = write.db.get_one(Key, enrolment.key)
    for old in _keys(write.db, device.id, "accepted"):
        old.state, old.changed = "retired", write.now
    write.db.flush()  # one accepted key a device, at every moment
    key.state, key.changed = "accepted", write.now
    issued = authority.issue_device(device.id, csr.public)
    _note(write, issued, device.id)
    enrolment.certificate = issued.serial
    if device.state != "accepted":
        device.state, device.changed, device.reason = "accepted", write.now, None
    _admit(write.db, device.id)
    return issued


def approve(write: Write, authority: Authority, names: Iterable[str]) -> list[str]:
    """Accept devices that wait.

    Raises
    ------
    Refusal
        Where one does not wait; none is then accepted.
    """
    done = []
    for device in find(write.db, names):
        if device.state != "pending":
            raise Refusal(f"{device.id} is {device.state}; only pending devices are approved")
        enrolment = last_enrolment(write.db, device.id)
        accept(write, authority, device, enrolment, read(enrolment.csr))
        write.audit("device.approve", device.id, csr=enrolment.csr_sha256, key=enrolment.key)
        done.append(device.id)
    return done


def reject(write: Write, names: Iterable[str], reason: str) -> list[str]:
    """Turn down devices that wait, or are expected."""
    them = standings(write.db, names)
    for device in them:
        if device.state not in ("pending", "expected"):
            raise Refusal(f"{device.id} is {device.state}; revoke it instead")
    return _end(write, them, "rejected", reason)


def revoke(write: Write, names: Iterable[str], reason: str, *, claims: bool = True) -> list[str]:
    """Throw devices out for good: keys and certificates are revoked, and the name is held.

    Parameters
    ----------
    claims : bool
        Also revoke the claims that they enrolled with: one may still lie on them.
    """
    them = standings(write.db, names)
    for device in them:
        if device.state in ("revoked", "removed"):
            raise Refusal(f"{device.id} is {device.state} already")
    return _end(write, them, "revoked", reason, claims="all" if claims else "none")


def revocable(db: Session, names: Iterable[str]) -> list[str]:
    """Those that are not revoked yet: who was interrupted among many says the same again.

    Raises
    ------
    Refusal
        Where one is removed, or all are revoked.
    """
    them = standings(db, names)
    left = [row.id for row in them if row.state != "revoked"]
    if bad := [row for row in them if row.state == "removed" or not left]:
        raise Refusal(f"{bad[0].id} is {bad[0].state} already")
    return left


def remove(write: Write, names: Iterable[str]) -> list[str]:
    """Take devices out of the lists; only a claim bound to its name can bring a name back.

    It must be a new one: those that were made before are revoked with the name.

    Raises
    ------
    Refusal
        Where one is accepted: it is to be revoked first.
    """
    them = standings(write.db, names)
    for device in them:
        if device.state == "accepted":
            raise Refusal(f"{device.id} is accepted; revoke it first")
        if device.state == "removed":
            raise Refusal(f"{device.id} is removed already")
    return _end(write, them, "removed", None, claims="bound")


def set_tags(device: Device, add: Iterable[str] = (), drop: Iterable[str] = ()) -> bool:
    """Change a device's tags; whether any changed.

    Raises
    ------
    Refusal
        Where a tag is none, or the device is removed: it has none then.
    """
    if device.state == "removed":
        raise Refusal(f"{device.id} is removed; only who is in the lists can be tagged")
    check_names(add, "tag")
    now = {tag.tag for tag in device.tags}
    new = (now | set(add)) - set(drop)
    for tag in sorted(new - now):
        device.tags.append(Tag(device=device.id, tag=tag))
    for row in [row for row in device.tags if row.tag not in new]:
        device.tags.remove(row)
    return new != now


def last_enrolment(db: Session, device: str) -> Enrolment:
    """The newest request of a device."""
    rows = select(Enrolment).where(Enrolment.device == device).order_by(Enrolment.id.desc())
    found = db.scalar(rows.limit(1))
    if found is None:
        raise NotFoundError(f"{device} never asked to be enrolled")
    return found


def retire_old(write: Write, before: float) -> list[str]:
    """Revoke certificates of keys that were rotated away before a time; their serials."""
    # Joined: a subquery would go through the keys of years each time, and serve asks all the time.
    rows = select(Certificate).join(Key, Key.id == Certificate.key)
    good = Certificate.revoked.is_(None), Certificate.not_after > write.now
    old = write.db.scalars(rows.where(Key.state == "retired", Key.changed < before, *good)).all()
    for row in old:
        row.revoked, row.reason = write.now, SUPERSEDED
    return [row.serial for row in old]


def outlasting(db: Session, at: float) -> tuple[int, float]:
    """Accepted devices that have a good certificate after a time; when the last of these ends."""
    rows = (
        select(func.count(Certificate.device.distinct()), func.max(Certificate.not_after))
        .join(Device, Device.id == Certificate.device)
        .where(Device.state == "accepted", Certificate.revoked.is_(None))
        .where(Certificate.not_after > at)
    )
    count, end = db.execute(rows).one()
    return count, end or at


def expired(db: Session, at: float) -> list[str]:
    """Accepted devices whose last good certificate is over at a time, by name."""
    rows = (
        select(Certificate.device)
        .join(Device, Device.id == Certificate.device)
        .where(Device.state == "accepted", Certificate.revoked.is_(None))
        .group_by(Certificate.device)
        .having(func.max(Certificate.not_after) <= at)
        .order_by(Certificate.device)
    )
    return [name for name in db.scalars(rows) if name is not None]


def revoked_certificates(db: Session, now: float) -> list[Revoked]:
    """What the revocation list must hold: revoked, and not expired anyway."""
    of = Certificate
    rows = select(of.serial, of.revoked, of.reason, of.issuer, of.device)
    found = db.execute(rows.where(of.revoked.is_not(None), of.not_after > now))
    return [
        Revoked(serial, at or now, reason, issuer, device)
        for serial, at, reason, issuer, device in found
    ]


def accepted(db: Session, names: Iterable[str]) -> list[str]:
    """Those of the devices that are accepted, by name."""
    return sorted(name for name, row in known(db, names).items() if row.state == "accepted")


def note_service(write: Write, issued: Issued, use: Any) -> None:
    """Note a certificate of the server or the broker."""
    write.db.add(Certificate(use=use, device=None, **vars(issued)))
    write.audit("certificate.issue", issued.subject, use=use, serial=issued.serial)


def _note(write: Write, issued: Issued, device: str) -> None:
    write.db.add(Certificate(use="device", device=device, **vars(issued)))


def _admit(db: Session, name: str) -> None:
    """Let the transport know the device; see ``Ledger.add_device``."""
    row = db.get(DeviceRow, name)
    if row is not None:
        row.enrolled = True
        return
    node = node_of(name)
    if db.scalar(select(DeviceRow.id).where(DeviceRow.node == node)) is not None:
        raise Refusal(f"{name}: another device has its node id {node}; choose another name")
    db.add(DeviceRow(id=name, node=node))


def _end(
    write: Write,
    them: list[Standing],
    state: Any,
    reason: str | None,
    *,
    claims: Literal["none", "bound", "all"] = "none",
) -> list[str]:
    """Take devices to an end, by a few statements for hundreds; ``None`` keeps their reasons.

    With them claims that are bound to them, or all: those that they came with, too.
    """
    for part in parts(them):
        _end_rows(write, [row.id for row in part], state, reason)
        revoked = {} if claims == "none" else _revoke_claims(write, part, shared=claims == "all")
        entries = list[Entry]()
        for row in part:
            why = (row.reason or "") if reason is None else reason[:LONGEST]
            detail = {"reason": why, "before": row.state}
            entries += [(f"device.{_WORDS[state]}", row.id, detail), *revoked.get(row.id, ())]
        write.audit_all(entries)
    return [row.id for row in them]


def _end_rows(write: Write, names: list[str], state: Any, reason: str | None) -> None:
    said = {} if reason is None else {"reason": reason[:LONGEST]}
    _set(write, Device, Device.id.in_(names), state=state, changed=write.now, **said)
    _set(write, DeviceRow, DeviceRow.id.in_(names), enrolled=False, online=False)
    for was, now in (("accepted", "revoked"), ("pending", "rejected")):
        mine = Key.device.in_(names) & (Key.state == was)
        _set(write, Key, mine, state=now, changed=write.now)
    if state == "removed":
        write.db.execute(delete(Tag).where(Tag.device.in_(names)), execution_options=_ALONE)
    if state == "revoked":
        _revoke_certificates(write, names, "cessationOfOperation")


def revoke_certificates(write: Write, device: str, reason: str) -> None:
    """Revoke all that a device has, with one of RFC 5280's reasons."""
    _revoke_certificates(write, [device], reason)


def _revoke_certificates(write: Write, names: list[str], reason: str) -> None:
    mine = Certificate.device.in_(names) & Certificate.revoked.is_(None)
    _set(write, Certificate, mine, revoked=write.now, reason=reason)


def _revoke_claims(write: Write, them: list[Standing], *, shared: bool) -> dict[str, list[Entry]]:
    """Revoke what is left of claims that are bound to devices; ``shared``: that they came with.

    Returns
    -------
    dict[str, list[Entry]]
        For the audit log, by the device that each was revoked for.
    """
    of_name, of_claim = [row.id for row in them], dict[str, str]()
    for row in them if shared else ():
        of_claim.setdefault(row.claim or "", row.id)
    mine = or_(Claim.device.in_(of_name), Claim.id.in_(list(of_claim)))
    rows = select(Claim.id, Claim.device, Claim.used).order_by(Claim.id)
    left = write.db.execute(
        rows.where(mine, Claim.revoked.is_(None), Claim.used < Claim.uses)
    ).all()
    entries = defaultdict[str, list[Entry]](list)
    for id_, bound, used in left:
        device = of_claim.get(id_, bound or "")
        entries[device].append(("claim.revoke", id_, {"because": device, "used": used}))
    for part in parts([id_ for id_, *_ in left]):
        _set(write, Claim, Claim.id.in_(part), revoked=write.now)
    return entries


def _set(write: Write, table: Any, which: ColumnElement[bool], **values: Any) -> None:
    write.db.execute(update(table).where(which).values(**values), execution_options=_ALONE)


def _keys(db: Session, device: str, *states: str) -> Sequence[Key]:
    return db.scalars(select(Key).where(Key.device == device, Key.state.in_(states))).all()
