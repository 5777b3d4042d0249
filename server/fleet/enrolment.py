"""Enrolment and rotation: what a device's request comes to.

Both may be asked again, word for word, where the answer was lost: the same request gets the same
answer, and uses nothing up.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select
from sqlalchemy.orm import Session

from schemas.enrolment import (
    PURPOSE,
    BrokerSettings,
    EnrolReply,
    EnrolRequest,
    RotateRequest,
)
from schemas.fleet import FleetConfig
from server.fleet import claims, csr, devices
from server.fleet.authority import Authority, serial_hex
from server.fleet.csr import Csr
from server.fleet.errors import Denied
from server.fleet.registry import Certificate, Claim, Device, Enrolment, Key, Registry, Write

_RENEW: Final = 2 / 3  # of a certificate's life, after which it is to be rotated
_AGAIN: Final = 15.0  # seconds after which a device that waits asks again


@dataclass(frozen=True)
class Registrar:
    """Where requests are decided.

    Attributes
    ----------
    fleet_key : str
        The public half, hexadecimal.
    """

    registry: Registry
    authority: Authority
    config: FleetConfig
    fleet_key: str

    def enrol(self, request: EnrolRequest, address: str) -> EnrolReply:
        """Enroll a device, or let it wait for an operator.

        Raises
        ------
        Denied
            Nothing was changed then.
        """
        asked = csr.read(request.csr)
        with self.registry.write(f"device:{asked.device}") as write:
            claim = claims.presented(write.db, request.claim)
            known = _same(write.db, asked, claim.id)
            if known is not None:
                return self._again(write.db, known)
            claims.use(write, claim, asked.device)
            self._not_reserved(asked.device)
            device = _admitted(write, asked, claim)
            automatic = claim.approval == "automatic" or device.state == "expected"
            enrolment = _taken(write, device, asked, claim, address)
            replaced = device.state == "accepted"
            if replaced:
                devices.revoke_certificates(write, device.id, devices.SUPERSEDED)
            if automatic or replaced:
                devices.accept(write, self.authority, device, enrolment, asked)
            else:
                device.state, device.changed = "pending", write.now
            write.audit(
                "device.replace" if replaced else "device.enrol",
                device.id,
                state=device.state,
                claim=claim.id,
                csr=asked.sha256,
                key=asked.key,
                address=address,
            )
            return self._reply(write.db, device, enrolment)

    def rotate(self, request: RotateRequest, address: str) -> EnrolReply:
        """Give a device another certificate, for another key, on the word of its present one.

        Raises
        ------
        Denied
            Nothing was changed then.
        """
        asked = csr.read(request.csr)
        with self.registry.write(f"device:{asked.device}") as write:
            old = _certificate(write.db, request.certificate)
            _signed(request, asked)
            if old.device != asked.device:
                raise Denied("other-name", "the request is for another name than the certificate")
            known = _same(write.db, asked, None)
            if known is not None:
                return self._again(write.db, known)
            device = _may_rotate(write, old)
            _unknown_key(write.db, asked)
            enrolment = _taken(write, device, asked, None, address)
            devices.accept(write, self.authority, device, enrolment, asked)
            write.audit("device.rotate", device.id, key=asked.key, old=old.key, address=address)
            return self._reply(write.db, device, enrolment)

    def denied(self, denial: Denied, address: str, device: str, times: int = 1) -> None:
        """Note what was refused; nothing of the request but the name it gave is repeated."""
        with self.registry.write(f"address:{address}") as write:
            write.audit(
                "enrol.refused", device, error=denial.error, detail=str(denial), times=times
            )

    def _not_reserved(self, name: str) -> None:
        if name in self.config.reserved:
            raise Denied("name-taken", f"{name} is the fleet's own")

    def _again(self, db: Session, enrolment: Enrolment) -> EnrolReply:
        device, key = db.get_one(Device, enrolment.device), db.get_one(Key, enrolment.key)
        if device.state in ("revoked", "removed"):
            raise Denied("device-revoked", f"{device.id} was revoked")
        if device.state == "rejected":
            raise Denied("device-rejected", f"{device.id} was turned down: {device.reason}")
        if key.state not in ("accepted", "pending"):
            raise Denied("key-reused", "this key was given up; make a new one")
        return self._reply(db, device, enrolment)

    def _reply(self, db: Session, device: Device, enrolment: Enrolment) -> EnrolReply:
        if enrolment.certificate is None:
            return EnrolReply(
                state="pending",
                device=device.id,
                csr_sha256=enrolment.csr_sha256,
                retry_after=_AGAIN,
            )
        db.flush()
        row = db.get_one(Certificate, enrolment.certificate)
        broker = self.config.broker
        return EnrolReply(
            state="accepted",
            device=device.id,
            csr_sha256=enrolment.csr_sha256,
            certificate=row.pem,
            ca=self.authority.chain,
            broker=BrokerSettings(host=broker.host, port=broker.port),
            fleet_key=self.fleet_key,
            renew_at=row.not_before + (row.not_after - row.not_before) * _RENEW,
        )


def _same(db: Session, asked: Csr, claim: str | None) -> Enrolment | None:
    rows = select(Enrolment).where(
        Enrolment.csr_sha256 == asked.sha256, Enrolment.device == asked.device
    )
    return db.scalar(rows.where(Enrolment.claim == claim if claim else Enrolment.claim.is_(None)))


def _admitted(write: Write, asked: Csr, claim: Claim) -> Device:
    """The device that a request is for; a new one, or one that may come (back) so."""
    _unknown_key(write.db, asked)
    device = write.db.get(Device, asked.device)
    if device is None:
        device = Device(
            id=asked.device, state="pending", created=write.now, changed=write.now, tags=[]
        )
        write.db.add(device)
    elif device.state == "revoked":
        raise Denied("device-revoked", f"{device.id} was revoked, and stays so")
    elif device.state == "pending":
        raise Denied("name-taken", f"a request for {device.id} waits already")
    elif device.state == "accepted" and not claim.replaces:
        raise Denied("name-taken", f"{device.id} is enrolled already")
    elif device.state == "expected" and device.expected_key not in (None, asked.key):
        raise Denied("other-key", f"{device.id} was announced with another key")
    elif device.state in ("rejected", "removed"):
        if claim.device != device.id:
            raise Denied("device-revoked", f"{device.id} needs a claim made for it by name")
        if claim.created < device.changed:
            old = f"this claim was made before it was {device.state}; ask for a new one"
            raise Denied("device-revoked", f"{device.id}: {old}")
        device.state, device.created = "pending", write.now
    return device


def _taken(
    write: Write, device: Device, asked: Csr, claim: Claim | None, address: str
) -> Enrolment:
    if claim is not None:
        device.claim = claim.id
        devices.set_tags(device, add=claim.tags)
    write.db.flush()
    write.db.add(
        Key(
            id=asked.key,
            device=device.id,
            state="pending",
            kind=asked.kind,
            created=write.now,
            changed=write.now,
        )
    )
    write.db.flush()
    enrolment = Enrolment(
        device=device.id,
        key=asked.key,
        claim=claim.id if claim else None,
        csr=asked.pem,
        csr_sha256=asked.sha256,
        address=address[:64],
        asked=write.now,
    )
    write.db.add(enrolment)
    return enrolment


def _unknown_key(db: Session, asked: Csr) -> None:
    if db.get(Key, asked.key) is not None:
        raise Denied("key-reused", "this key was used before; make a new one")


def _certificate(db: Session, pem: str) -> Certificate:
    """The certificate that a device shows, as the registry has it: that is what we issued."""
    try:
        shown = x509.load_pem_x509_certificate(pem.encode("ascii"))
        serial, der = serial_hex(shown.serial_number), shown.public_bytes(Encoding.DER)
    except csr.UNREADABLE:
        raise Denied("malformed", "expected one certificate, PEM") from None
    row = db.get(Certificate, serial) if len(serial) <= 40 else None
    if row is None or row.device is None or _der(row.pem) != der:
        known = "another fleet's, or newer than the backup that this registry is from"
        raise Denied("not-this-fleet", f"the registry has no such certificate: {known}")
    return row


def _der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def _may_rotate(write: Write, old: Certificate) -> Device:
    device = write.db.get_one(Device, old.device)
    if device.state != "accepted":
        raise Denied("device-revoked", f"{device.id} is {device.state}")
    if old.revoked is not None or write.db.get_one(Key, old.key).state != "accepted":
        raise Denied("certificate-revoked", "the certificate was revoked, or replaced")
    if write.now < old.not_before:
        raise Denied("certificate-early", "the certificate is not valid yet: check the clocks")
    if write.now >= old.not_after:
        raise Denied("certificate-expired", "it expired; ask the operator for: device rotate")
    return device


def _signed(request: RotateRequest, asked: Csr) -> None:
    key = x509.load_pem_x509_certificate(request.certificate.encode("ascii")).public_key()
    try:
        signature, data = base64.b64decode(request.signature, validate=True), PURPOSE + asked.der
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, data)  # type: ignore[union-attr, call-arg] # Ed25519
    except (InvalidSignature, binascii.Error, ValueError):
        raise Denied("signature", "not signed by the certificate's key") from None
