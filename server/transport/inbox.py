"""The border of the wire: what comes from the broker is read and checked here, once."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol

from schemas.link import Message
from schemas.wire import (
    CHUNK,
    HEADER,
    KINDS,
    MAX_ENVELOPE,
    Envelope,
    State,
    WireError,
    decode,
    parse_frame,
    parse_topic,
)
from server.transport.ledger import Ledger
from server.transport.tables import OPEN, TaskRow

STRANGER: Final = "?"  # whoever is not enrolled: names that anybody may invent are not kept
LISTENS: Final = tuple(kind for kind in KINDS if kind in ("evt", "obj/req", "obj/up", "state"))
_SAYS: Final = {"evt": ("accepted", "result", "failed"), "obj/req": ("want",), "state": ("state",)}
_REMEMBERED: Final = 4096  # ids a device


class DroppedError(ValueError):
    """A message that is not acted upon.

    Parameters
    ----------
    device : str
        Whose topic it came on, or ``STRANGER``.
    reason : str
        One word, to count by.
    detail : str
    task : TaskRow, optional
        Where it was an answer to one.
    """

    def __init__(self, device: str, reason: str, detail: str, task: TaskRow | None = None) -> None:
        self.device, self.reason, self.task = device, reason, task
        super().__init__(detail)


@dataclass(frozen=True)
class Part:
    """A part of an upload."""

    sha: str
    number: int
    data: bytes


class Guard(Protocol):
    """Who is asked before a message is read, and told of what was refused.

    All is called under the courier's lock.
    """

    def mine(self, task: TaskRow) -> bool:
        """Whether a task is this courier's: several may share a ledger, and hear the same."""

    def bars(self, device: str, kind: str) -> str | None:
        """Why a device's message of a kind is dropped unread, in one word; None: it is not."""

    def refused(self, device: str, reason: str, detail: str, task: TaskRow | None) -> None:
        """Something of a device was refused; where it is an answer, that of ``task``."""


class Open:
    """A guard that lets everything in."""

    def mine(self, task: TaskRow) -> bool:
        """All are."""
        return True

    def bars(self, device: str, kind: str) -> str | None:
        """Nothing is."""
        return None

    def refused(self, device: str, reason: str, detail: str, task: TaskRow | None) -> None:
        """It is counted, and that is all."""


class Inbox:
    """Reads messages, and tells which task they are of.

    Parameters
    ----------
    ledger : Ledger
    guard : Guard, optional
    """

    def __init__(self, ledger: Ledger, guard: Guard | None = None) -> None:
        self._ledger, self._guard = ledger, guard or Open()
        self._seen: dict[str, OrderedDict[str, None]] = {}

    def read(self, message: Message) -> tuple[str, Envelope | Part]:
        """The device and what it said.

        Raises
        ------
        DroppedError
            Where it is malformed, oversized, from a stranger, replayed or here already.
        """
        device, kind = self._sender(message)
        limit = HEADER + CHUNK if kind == "obj/up" else MAX_ENVELOPE
        if (size := len(message.payload)) > limit:
            raise DroppedError(device, "oversized", f"{size} bytes on {kind}; at most {limit}")
        if message.retain and kind != "state":
            raise DroppedError(device, "replayed", f"a retained message on {kind}")
        try:
            if kind == "obj/up":
                return device, Part(*parse_frame(message.payload))
            said = decode(message.payload)
        except WireError as error:
            raise DroppedError(device, "malformed", str(error)) from error
        if said.body.kind not in _SAYS[kind]:
            raise DroppedError(device, "malformed", f"a {said.body.kind!r} on {kind}")
        if not isinstance(said.body, State):  # which is retained: it comes with every connection
            self._once(device, said.id)
        return device, said

    @staticmethod
    def cleared(message: Message) -> bool:
        """Whether a message says no more than that a retained state was taken back: no device's."""
        return not message.payload and message.topic.endswith("/state")

    def task(self, device: str, said: Envelope, now: float) -> TaskRow | None:
        """The open task that something is said about; None where it is another courier's.

        Raises
        ------
        DroppedError
            Where there is none, it is another device's, or its time is over or its answer here.
        """
        name = f"{said.body.kind!r} of task {said.re}"
        row = self._ledger.task(said.re) if said.re else None
        if row is None:
            raise DroppedError(device, "unknown", f"{name}: there is no such task")
        if row.device != device:
            raise DroppedError(device, "foreign", f"{name}: the task is {row.device}'s")
        if not self._guard.mine(row):
            return None
        if row.state in ("answered", "pulled"):
            raise DroppedError(device, "duplicate", f"{name}: it was answered")
        if row.state == "expired" or (row.state in OPEN and row.expires <= now):
            raise DroppedError(device, "expired", f"{name}: its time is over")
        if row.state not in OPEN:
            raise DroppedError(device, "late", f"{name}: it was given up: {row.error}")
        return row

    def _sender(self, message: Message) -> tuple[str, str]:
        try:
            device, kind = parse_topic(message.topic)
        except WireError as error:
            raise DroppedError(STRANGER, "malformed", str(error)) from error
        if kind not in LISTENS:
            raise DroppedError(STRANGER, "malformed", f"{message.topic} is not for the server")
        if reason := self._guard.bars(device, kind):
            raise DroppedError(device, reason, f"its messages on {kind} are not read")
        if self._ledger.device(device) is None and not self._admit(device, kind):
            raise DroppedError(STRANGER, "stranger", f"device {device} is not enrolled")
        return device, kind

    def _admit(self, device: str, kind: str) -> bool:
        if not self._ledger.admit_all or kind != "state" or self._ledger.known(device):
            return False
        self._ledger.add_device(device)
        return True

    def _once(self, device: str, name: str) -> None:
        seen = self._seen.setdefault(device, OrderedDict())
        if name in seen:
            raise DroppedError(device, "duplicate", f"message {name} was here before")
        seen[name] = None
        if len(seen) > _REMEMBERED:
            seen.popitem(last=False)
