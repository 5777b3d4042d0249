"""Tables of who a device is: its name, keys, certificates, tags, and the claims it came with.

No row here is ever deleted but a tag's: a device that was removed keeps its name and its keys, so
that neither comes back by itself. Times are Unix time.
"""

from typing import Final, Literal, get_args

from sqlalchemy import JSON, Connection, ForeignKey, Index, String, Table, Text, event, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from server.database import Base

DeviceState = Literal["expected", "pending", "accepted", "rejected", "revoked", "removed"]
STATES: Final = get_args(DeviceState)
KeyState = Literal["pending", "accepted", "retired", "rejected", "revoked"]
Use = Literal["device", "server", "broker", "operator"]
Approval = Literal["automatic", "operator"]
LONGEST: Final = 500  # characters of a note, or a reason


class Device(Base):
    """A device by its name, which is its MQTT client id and its certificate's common name.

    Whom the transport admits is ``transport_devices``: ``Registry`` writes both in one
    transaction, and a device is ``enrolled`` there exactly while it is ``accepted`` here.

    Attributes
    ----------
    state
        ``expected`` devices were listed beforehand; ``pending`` ones wait for an operator.
    expected_key
        The only key (SHA-256 of its SubjectPublicKeyInfo) that an expected device may come with.
    reason
        Why it was rejected, revoked or removed.
    """

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    state: Mapped[DeviceState] = mapped_column(String(10), index=True)
    created: Mapped[float]
    changed: Mapped[float]
    expected_key: Mapped[str | None] = mapped_column(String(64), default=None)
    claim: Mapped[str | None] = mapped_column(ForeignKey("claims.id"), default=None)
    reason: Mapped[str | None] = mapped_column(String(LONGEST), default=None)
    note: Mapped[str] = mapped_column(String(LONGEST), default="")
    tags: Mapped[list["Tag"]] = relationship(
        cascade="all, delete-orphan", order_by="Tag.tag", lazy="selectin"
    )


class Tag(Base):
    """A word on a device, by which operators name groups."""

    __tablename__ = "device_tags"
    __table_args__ = (Index("device_tags_by_tag", "tag"),)

    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(63), primary_key=True)


class Key(Base):
    """A public key of a device; the database itself allows one accepted key a device.

    Attributes
    ----------
    id
        SHA-256 of its SubjectPublicKeyInfo, hexadecimal.
    """

    __tablename__ = "keys"
    __table_args__ = (
        Index("keys_one_accepted", "device", unique=True),  # see _one_accepted
        Index("keys_by_device", "device"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    state: Mapped[KeyState] = mapped_column(String(10))
    kind: Mapped[str] = mapped_column(String(20))
    created: Mapped[float]
    changed: Mapped[float]


@event.listens_for(Key.__table__, "before_create")
def _one_accepted(table: Table, connection: Connection, **_: object) -> None:
    """Unique among accepted keys alone; said at the model, it would load PostgreSQL's dialect."""
    (index,) = (one for one in table.indexes if one.name == "keys_one_accepted")
    index.dialect_kwargs[f"{connection.dialect.name}_where"] = text("state = 'accepted'")


class Certificate(Base):
    """A certificate that the fleet's CA issued, and whether it stands on the revocation list.

    Attributes
    ----------
    serial
        Hexadecimal, as OpenSSL and Mosquitto print it.
    subject
        The common name.
    issuer
        SHA-256 of the issuing CA's certificate, hexadecimal.
    """

    __tablename__ = "certificates"
    __table_args__ = (
        Index("certificates_by_device", "device"),
        Index("certificates_by_revoked", "revoked"),
    )

    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    use: Mapped[Use] = mapped_column(String(10))
    subject: Mapped[str] = mapped_column(String(64))
    device: Mapped[str | None] = mapped_column(ForeignKey("devices.id"), default=None)
    key: Mapped[str] = mapped_column(String(64))
    issuer: Mapped[str] = mapped_column(String(64))
    not_before: Mapped[float]
    not_after: Mapped[float] = mapped_column(index=True)
    revoked: Mapped[float | None] = mapped_column(default=None)
    reason: Mapped[str | None] = mapped_column(String(40), default=None)
    pem: Mapped[str] = mapped_column(Text)


class Claim(Base):
    """Leave to enroll: a secret, of which only the hash is here, and what it is good for.

    Attributes
    ----------
    device
        The only name it enrolls, where it is bound to one.
    tags
        What its devices are tagged with.
    uses, used
        How many devices it may enroll, and did.
    replaces
        It puts a new key in the place of its device's accepted one: an operator's rotation.
    """

    __tablename__ = "claims"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    secret: Mapped[str] = mapped_column(String(64))
    created: Mapped[float]
    expires: Mapped[float]
    device: Mapped[str | None] = mapped_column(String(63), default=None, index=True)
    tags: Mapped[list[str]] = mapped_column(JSON, default=list)
    uses: Mapped[int] = mapped_column(default=1)
    used: Mapped[int] = mapped_column(default=0)
    replaces: Mapped[bool] = mapped_column(default=False)
    approval: Mapped[Approval] = mapped_column(String(10), default="automatic")
    revoked: Mapped[float | None] = mapped_column(default=None)
    note: Mapped[str] = mapped_column(String(LONGEST), default="")


class Enrolment(Base):
    """A request to enroll that was let in: what the device sent, and what came of it.

    Attributes
    ----------
    csr_sha256
        Of the request's DER, which device and operator both show.
    certificate
        Serial of what was issued.
    """

    __tablename__ = "enrolments"
    __table_args__ = (Index("enrolments_by_device", "device"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    key: Mapped[str] = mapped_column(ForeignKey("keys.id"))
    claim: Mapped[str | None] = mapped_column(ForeignKey("claims.id"), default=None)
    csr: Mapped[str] = mapped_column(Text)
    csr_sha256: Mapped[str] = mapped_column(String(64), index=True)
    address: Mapped[str] = mapped_column(String(64))
    asked: Mapped[float]
    certificate: Mapped[str | None] = mapped_column(String(40), default=None)
