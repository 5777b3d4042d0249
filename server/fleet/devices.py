"""Devices from expected to removed: every change of state, with its keys, certificates and log.

expected ─┐                        ┌─► rejected ─┐
├─► pending ─► accepted ─┼─► revoked ──┴─► removed
(none) ──┘                        └─ rotated: another key, the same state
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from schemas.wire import node_of
from server.fleet.authority import Authority, Issued, Revoked
from server.fleet.claims import check_names
from server.fleet.csr import Csr, read
from server.fleet.errors import NotFoundError, Refusal
from server.fleet.listing import find
from server.fleet.registry import Certificate, Claim, Device, Enrolment, Key, Tag, Write
from server.transport.tables import DeviceRow

SUPERSEDED: Final = "superseded"


def expect(write: Write, name: str, tags: Iterable[str] = (), key: str | None = None) -> None:
    """Know a device beforehand: whoever comes with its name under a good claim is accepted.

    Raises
    ------
    Refusal
        Where the name is none, or there is such a device and it is not merely expected.
    """
    check_names([name])
    with write.db.no_autoflush:
        row = write.db.get(Device, name)
    if row is None or row.state == "removed":
        row = row or Device(id=name, created=write.now)
        row.state, row.changed, row.reason = "expected", write.now, None
        write.db.add(row)
    elif row.state != "expected":
        raise Refusal(f"{name} is there already, and {row.state}")
    row.expected_key = key
    set_tags(row, add=tags)
    write.audit("device.expect", name, tags=sorted(tags), key=key)


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
    done = []
    for device in find(write.db, names):
        if device.state not in ("pending", "expected"):
            raise Refusal(f"{device.id} is {device.state}; revoke it instead")
        _end(write, device, "rejected", reason)
        done.append(device.id)
    return done


def revoke(write: Write, names: Iterable[str], reason: str, *, claims: bool = True) -> list[str]:
    """Throw devices out for good: keys and certificates are revoked, and the name is held.

    Parameters
    ----------
    claims : bool
        Also revoke the claims that they enrolled with: one may still lie on them.
    """
    done = []
    for device in find(write.db, names):
        if device.state in ("revoked", "removed"):
            raise Refusal(f"{device.id} is {device.state} already")
        _end(write, device, "revoked", reason)
        revoke_certificates(write, device.id, "cessationOfOperation")
        if claims:
            _revoke_claims(write, device)
        done.append(device.id)
    return done


def remove(write: Write, names: Iterable[str]) -> list[str]:
    """Take devices out of the lists; only a claim bound to its name can bring a name back.

    Raises
    ------
    Refusal
        Where one is accepted: it is to be revoked first.
    """
    done = []
    for device in find(write.db, names):
        if device.state == "accepted":
            raise Refusal(f"{device.id} is accepted; revoke it first")
        if device.state == "removed":
            raise Refusal(f"{device.id} is removed already")
        _end(write, device, "removed", device.reason or "")
        device.tags.clear()
        done.append(device.id)
    return done


def set_tags(device: Device, add: Iterable[str] = (), drop: Iterable[str] = ()) -> bool:
    """Change a device's tags; whether any changed."""
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
    retired = select(Key.id).where(Key.state == "retired", Key.changed < before)
    rows = select(Certificate).where(
        Certificate.key.in_(retired),
        Certificate.revoked.is_(None),
        Certificate.not_after > write.now,
    )
    old = write.db.scalars(rows).all()
    for row in old:
        row.revoked, row.reason = write.now, SUPERSEDED
    return [row.serial for row in old]


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
    rows = select(Device.id).where(Device.id.in_(list(names)), Device.state == "accepted")
    return list(db.scalars(rows.order_by(Device.id)))


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


def _end(write: Write, device: Device, state: Any, reason: str) -> None:
    before, device.state = device.state, state
    device.changed, device.reason = write.now, reason[:500]
    row = write.db.get(DeviceRow, device.id)
    if row is not None:
        row.enrolled = row.online = False
    for key in _keys(write.db, device.id, "accepted", "pending"):
        key.state, key.changed = ("revoked" if key.state == "accepted" else "rejected"), write.now
    word = {"rejected": "reject", "revoked": "revoke", "removed": "remove"}[state]
    write.audit(f"device.{word}", device.id, reason=reason[:500], before=before)


def revoke_certificates(write: Write, device: str, reason: str) -> None:
    """Revoke all that a device has, with one of RFC 5280's reasons."""
    rows = update(Certificate).where(Certificate.device == device, Certificate.revoked.is_(None))
    write.db.execute(rows.values(revoked=write.now, reason=reason))


def _revoke_claims(write: Write, device: Device) -> None:
    mine = (Claim.device == device.id) | (Claim.id == (device.claim or ""))
    rows = select(Claim).where(mine, Claim.revoked.is_(None), Claim.used < Claim.uses)
    for claim in write.db.scalars(rows):
        claim.revoked = write.now
        write.audit("claim.revoke", claim.id, because=device.id, used=claim.used)


def _keys(db: Session, device: str, *states: str) -> Sequence[Key]:
    return db.scalars(select(Key).where(Key.device == device, Key.state.in_(states))).all()
