"""What travels between server and device: envelopes, topics and chunk frames.

``server/PROTOCOL.md`` is the specification; this is its border. What does not fit is refused here,
with one line, before anything is allocated for it.
"""

import hashlib
import json
import re
import struct
import time
import uuid
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from schemas.base import Strict, describe
from schemas.plan import Digest

VERSION: Final = 1
MAX_ENVELOPE: Final = 65_536
CHUNK: Final = 131_072
MAX_OBJECT: Final = 1 << 30
ENVELOPE_TYPE: Final = "application/json"
FRAME_TYPE: Final = "application/octet-stream"
PREFIX: Final = "flwr/v1"
KINDS: Final = ("cmd", "evt", "obj/req", "obj/data", "obj/up", "state")
MAX_TTL: Final = 31_536_000.0

_HEADER: Final = struct.Struct("<32sII")
HEADER: Final = _HEADER.size
_DEVICE: Final = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
DeviceId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}$")]
Chunk = Annotated[int, Field(ge=0, le=MAX_OBJECT // CHUNK)]


class WireError(ValueError):
    """A message that is not what the protocol allows."""


class Body(Strict):
    """What an envelope carries."""

    model_config = ConfigDict(strict=True)


class ObjectRef(Body):
    """An object's name, which is its SHA-256, and its length."""

    sha256: Digest
    bytes: int = Field(ge=0, le=MAX_OBJECT)

    @property
    def chunks(self) -> int:
        """Of how many chunks it is made."""
        return -(-self.bytes // CHUNK)


class Bound(Body):
    """For whom a signed task is, and in which envelope: replayed elsewhere, it is refused."""

    device: DeviceId
    id: Id


class Task(Body):
    """Work for a device: an action of ``client/device.py`` and the payload to do it on.

    Attributes
    ----------
    objects
        What the payload names beside itself: graphs and other blobs.
    bound, signature
        Of the fleet's key, over ``canonical(task)``: see ``schemas/signing.py``.
    """

    kind: Literal["task"] = "task"
    run: str = Field(min_length=1, max_length=200)
    action: str = Field(min_length=1, max_length=200)
    payload: ObjectRef
    objects: tuple[ObjectRef, ...] = Field((), max_length=256)
    group: str = Field("", max_length=200)
    bound: Bound | None = None
    signature: str | None = Field(None, pattern=r"^[0-9a-f]{128}$")


class Cancel(Body):
    """Forget a task: what it has not said yet is no longer wanted."""

    kind: Literal["cancel"] = "cancel"
    task: Id


class Want(Body):
    """Ask for chunks of an object: ranges (first, one past the last)."""

    kind: Literal["want"] = "want"
    object: ObjectRef
    chunks: tuple[tuple[Chunk, Chunk], ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _ranges_fit(self) -> "Want":
        for first, stop in self.chunks:
            if not first < stop <= self.object.chunks:
                raise ValueError(f"chunks {first}:{stop} do not lie in 0:{self.object.chunks}")
        return self

    @classmethod
    def of(cls, ref: ObjectRef, *numbers: int) -> "Want":
        """Ask for these chunks."""
        return cls(object=ref, chunks=tuple((number, number + 1) for number in numbers))

    def numbers(self) -> list[int]:
        """The chunks' numbers, each once, ascending."""
        return sorted({number for first, stop in self.chunks for number in range(first, stop)})


class Received(Body):
    """An upload is whole, verified and kept: the sender may forget it."""

    kind: Literal["received"] = "received"
    object: Digest


class Accepted(Body):
    """The task is kept durably; its result or failure will follow."""

    kind: Literal["accepted"] = "accepted"


class Result(Body):
    """The task is done; its answer may be asked for by ``want``."""

    kind: Literal["result"] = "result"
    payload: ObjectRef
    objects: tuple[ObjectRef, ...] = Field((), max_length=256)


class Failed(Body):
    """The task was not done, and will not be."""

    kind: Literal["failed"] = "failed"
    reason: str = Field(max_length=500)


class State(Body):
    """How a device is: retained by the broker; its last will says ``online`` false."""

    kind: Literal["state"] = "state"
    online: bool
    version: str = Field("", max_length=64)
    isa: str | None = Field(None, max_length=64)
    task: Id | None = None
    paused: bool = False
    waiting: str | None = Field(None, max_length=200, description="The condition that holds it.")
    battery: float | None = Field(None, ge=0, le=1)
    on_power: bool | None = None


AnyBody = Annotated[
    Task | Cancel | Want | Received | Accepted | Result | Failed | State,
    Field(discriminator="kind"),
]


class Envelope(Body):
    """A control message.

    Attributes
    ----------
    id
        Taken once by its receiver.
    re
        The task's id in what is said about a task; what a ``want`` serves, or ``None``.
    at
        Unix time at the sender; for logs. Clocks are not trusted: see ``ttl``.
    ttl
        Seconds from its publication after which it means nothing. The broker counts them
        (MQTT's message expiry); a receiver counts from reception what the broker left.
    """

    v: Literal[1] = 1
    id: Id
    re: Id | None = None
    at: float = Field(ge=0)
    ttl: float = Field(gt=0, le=MAX_TTL)
    body: AnyBody


def new_id() -> str:
    """A fresh id, of 32 hexadecimal digits."""
    return uuid.uuid4().hex


def envelope(
    body: Any,  # one of AnyBody
    *,
    ttl: float,
    re: str | None = None,
    at: float | None = None,
    id: str | None = None,  # noqa: A002 - the field's name
) -> Envelope:
    """Put a body into an envelope with a fresh id and this clock's time, where none is given."""
    stamp = time.time() if at is None else at
    return Envelope(id=id or new_id(), re=re, at=stamp, ttl=ttl, body=body)


def encode(message: Envelope) -> bytes:
    """Write an envelope.

    Raises
    ------
    WireError
        Where it is longer than ``MAX_ENVELOPE``.
    """
    data = message.model_dump_json(exclude_none=True).encode()
    if len(data) > MAX_ENVELOPE:
        raise WireError(f"envelope of {len(data)} bytes; at most {MAX_ENVELOPE} are allowed")
    return data


def decode(data: bytes) -> Envelope:
    """Read an envelope.

    Raises
    ------
    WireError
        Too long, no JSON, another version, or not of the schema: one line says which.
    """
    if len(data) > MAX_ENVELOPE:
        raise WireError(f"envelope of {len(data)} bytes; at most {MAX_ENVELOPE} are allowed")
    try:
        raw = from_json(data)
    except ValueError as error:
        raise WireError(f"envelope is no JSON: {error}") from None
    if not isinstance(raw, dict):
        raise WireError("envelope is no JSON object")
    version = raw.get("v")
    if type(version) is not int or version != VERSION:
        raise WireError(f"envelope has version {str(version)[:20]}; this side speaks {VERSION}")
    try:
        return Envelope.model_validate_json(data)
    except ValidationError as error:
        problems = describe(error.errors()[:3])
        raise WireError(f"envelope: {'; '.join(problems)}".replace("\n", " ")) from None


def topic(device: str, kind: str) -> str:
    """The topic of one kind of message of one device."""
    if not _DEVICE.fullmatch(device):
        raise WireError(f"device id {device[:70]!r}; expected 1 to 63 of a-z, 0-9 and -")
    return f"{PREFIX}/{device}/{_kind(kind)}"


def every(kind: str) -> str:
    """The topic filter of one kind of message of all devices."""
    return f"{PREFIX}/+/{_kind(kind)}"


def parse_topic(name: str) -> tuple[str, str]:
    """Device and kind of a topic.

    Raises
    ------
    WireError
        Where it is none of the protocol's.
    """
    parts = name.split("/", 3)
    if len(parts) != 4 or "/".join(parts[:2]) != PREFIX or parts[3] not in KINDS:
        raise WireError(f"topic {name[:120]!r}; expected {PREFIX}/<device>/<one of {KINDS}>")
    if not _DEVICE.fullmatch(parts[2]):
        raise WireError(f"topic {name[:120]!r}: a device id is 1 to 63 of a-z, 0-9 and -")
    return parts[2], parts[3]


def node_of(device: str) -> int:
    """The Flower node id of a device: 63 bits of its id's SHA-256, never 0."""
    digest = hashlib.sha256(device.encode()).digest()
    return int.from_bytes(digest[:8], "big") & (2**63 - 1) or 1


def frame(sha: str, number: int, data: bytes) -> bytes:
    """Write a chunk frame.

    Parameters
    ----------
    sha : str
        Hexadecimal SHA-256 of the whole object.
    number : int
        Of the chunk, from 0.
    data : bytes
        1 to ``CHUNK`` bytes.
    """
    _check_chunk(number, len(data))
    return _HEADER.pack(bytes.fromhex(sha), number, len(data)) + data


def parse_frame(data: bytes) -> tuple[str, int, bytes]:
    """SHA-256 (hexadecimal), number and bytes of a chunk frame.

    Raises
    ------
    WireError
        Where it is truncated, too long, or declares what it does not hold.
    """
    if len(data) < HEADER:
        raise WireError(f"frame of {len(data)} bytes; its header alone has {HEADER}")
    sha, number, length = _HEADER.unpack_from(data)
    _check_chunk(number, length)
    if len(data) - HEADER != length:
        raise WireError(f"frame declares {length} bytes and holds {len(data) - HEADER}")
    return sha.hex(), number, data[HEADER:]


def canonical(task: Task) -> bytes:
    """The bytes of a task that its signature signs: all but the signature, in one spelling."""
    fields = task.model_dump(mode="json", exclude={"signature"})
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return b"flwr-edge task v1\n" + text.encode()


def _kind(kind: str) -> str:
    if kind not in KINDS:
        raise WireError(f"no topic kind {kind[:40]!r}; there are {KINDS}")
    return kind


def _check_chunk(number: int, length: int) -> None:
    if not 0 < length <= CHUNK:
        raise WireError(f"chunk of {length} bytes; expected 1 to {CHUNK}")
    if not 0 <= number < MAX_OBJECT // CHUNK:
        raise WireError(f"chunk number {number}; expected 0 to {MAX_OBJECT // CHUNK - 1}")
