"""Flower's Grid over an MQTT broker."""

import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from flwr.app import Error, Message, RecordDict

from schemas.delta import DeltaError
from schemas.link import Link
from schemas.objects import MissingObjectError, ObjectError, ObjectStore
from schemas.payload import PayloadError
from schemas.payload_object import pack, unpack
from schemas.wire import new_id
from server.flower_private import (
    CLIENT_RAISED,
    NO_REPLY,
    assign_id,
    empty_run,
    metadata_fields,
    rebuild,
)
from server.own_grid import OwnGrid
from server.plain import plain
from server.transport.courier import DETAIL, Courier, default_tell
from server.transport.inbox import Guard
from server.transport.ledger import Ledger
from server.transport.records import payload_of, records_of
from server.transport.tables import DeviceRow, TaskRow
from server.transport.waiting import wait_for_answers

if TYPE_CHECKING:
    from server.transport.courier import Key

ENDED: Final = ("answered", "failed", "expired")
ENDED_BEFORE: Final = "the server that asked has ended"  # why a question is waited for no more
_QUERY: Final = "query"


class MqttGrid(OwnGrid):
    """Carries Flower's messages to devices behind a broker, and their replies back.

    All that is under way lies in the ledger and the object store. A grid that is made on the same
    ledger goes on where the last one ended: who pushes the same message again, in the same run,
    gets the answer that is there, or waits for the one that is being made; the device does not
    work twice. Questions (``query.*``) ask how a device is now, and are always asked afresh.

    Parameters
    ----------
    link : Link
        Not connected yet. Its client id is the server's own, and the same in each of its lives.
    objects : ObjectStore
    ledger : Ledger
    key : bytes or Ed25519PrivateKey, optional
        The fleet's, to sign tasks.
    log : callable(str), optional
        Takes a line: what went wrong, was dropped, or is waited for.
    run_name : str, default "run"
        Of the run, unique in the ledger's life: devices keep their own state by it, and answers
        are found by it.
    timeout : float, default 600
        Seconds that ``send_and_receive`` waits where it is told nothing else.
    max_upload : int, default 256 MiB
        Bytes of one answer.
    clock : callable() -> float
        Unix time.
    interval : float, default 0.5
        Seconds between looks at what is due; 0 leaves it to whoever calls ``tick``.
    guard : Guard, optional
        Of the courier: who is asked before a message is read.
    """

    def __init__(
        self,
        link: Link,
        objects: ObjectStore,
        ledger: Ledger,
        *,
        key: "Key | None" = None,
        log: Callable[[str], None] | None = None,
        run_name: str = "run",
        timeout: float = 600.0,
        max_upload: int = 256 * 2**20,
        clock: Callable[[], float] = time.time,
        interval: float = 0.5,
        guard: Guard | None = None,
    ) -> None:
        self._objects, self._ledger, self._clock = objects, ledger, clock
        self._log, self._timeout = log or default_tell, timeout
        self._max_upload = max_upload
        self._life = new_id()
        self._asked: dict[str, Message] = {}
        self._base, self._chapter, self._name = run_name, 0, f"{run_name}/0"
        self.set_run(empty_run(1))
        self._courier = Courier(
            link,
            objects,
            ledger,
            key=key,
            tell=self._log,
            max_upload=max_upload,
            clock=clock,
            guard=guard,
        )
        self._forget_questions()
        self._end = threading.Event()
        self._courier.start()
        self._thread: threading.Thread | None = None
        if interval > 0:
            self._thread = threading.Thread(target=self._watch, args=(interval,), daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Disconnect; what is under way stays so in the ledger."""
        if not self._end.is_set():
            self._end.set()
            if self._thread is not None:
                self._thread.join()
            self._courier.close()

    def wait_connected(self, timeout: float) -> bool:
        """Wait so many seconds for the broker; whether there is a connection."""
        return self._courier.wait_connected(timeout)

    def tick(self) -> None:
        """Do what is due by the clock; who was thrown out meanwhile is waited for no longer."""
        self._courier.tick()
        with self._courier.changed:
            gone = [task for task in self._ledger.orphans() if task in self._asked]
            self._courier.withdraw(gone, "it is enrolled no more")

    def states(self) -> dict[int, bytes]:
        """Under which name the devices keep their states: those themselves never leave them."""
        return {0: self._name.encode()}

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Have the devices go on from the states of a name that ``states`` gave, or start afresh.

        Raises
        ------
        ValueError
            If it is another grid's checkpoint.
        """
        name = states[0].decode(errors="replace") if set(states) == {0} else ""
        base, _, chapter = name.rpartition("/")
        if not states:
            self._chapter += 1
        elif base == self._base and chapter.isdecimal():
            self._chapter = int(chapter)
        else:
            raise ValueError(
                f"the checkpoint holds states of nodes {sorted(states)[:5]}, but no name of a run "
                f"of {self._base!r}: it is of another run, or of an engine that keeps the states"
            )
        self._name = f"{self._base}/{self._chapter}"

    def get_node_ids(self) -> list[int]:
        """Nodes that are enrolled and online, ascending."""
        hears = self._courier.hears
        return [device.node for device in self._ledger.devices() if hears(device.id)]

    def wait_for(self, count: int, timeout: float) -> list[int]:
        """Wait until that many nodes are online; those that are, also where they are fewer."""
        with self._courier.changed:
            self._courier.changed.wait_for(lambda: len(self.get_node_ids()) >= count, timeout)
            return self.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep messages durably, then send them; their replies are there for `pull_messages`.

        A device that is offline gets its message when it comes back, within the message's time
        to live. One that is enrolled no more gets none: the reply is an error that names it.

        Raises
        ------
        ValueError
            If a message is for a node that never was, is no message to a client or was sent
            before; then none is sent.
        """
        batch = list(messages)
        devices = {device.node: device for device in self._ledger.ever_enrolled()}
        for message in batch:
            _check(message, devices)
        if len({id(message) for message in batch}) < len(batch):
            raise ValueError("one message object is to be sent twice; every node needs its own")
        rows = [self._row(message, devices[message.metadata.dst_node_id]) for message in batch]
        with self._courier.changed:
            ids = [self._adopted(row) for row in rows]
            fresh = [row for row, task in zip(rows, ids, strict=True) if task == row.id]
            self._ledger.add_tasks(fresh)
            self._courier.pinned.clear()
            for message, task in zip(batch, ids, strict=True):
                assign_id(message, task)
                self._asked[task] = rebuild(metadata_fields(message), RecordDict())
            self._courier.publish_new(self._ledger.tasks(ids))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, in the order of the ids, each of them once."""
        mine = [task for task in message_ids if task in self._asked]
        with self._courier.changed:
            ended = [row for row in self._ledger.tasks(mine) if row.state in ENDED]
            replies = [self._reply(row, self._asked.pop(row.id)) for row in ended]
            self._ledger.move([row.id for row in ended], "pulled", of=("answered",))
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return the replies in the order of the messages.

        Parameters
        ----------
        messages
            Messages to nodes; each its own object.
        timeout
            Seconds after which to return what is there, by default the grid's. The other
            messages are withdrawn: their devices are told so, and their replies are dropped; so are
            all where Ctrl-C comes meanwhile.
        """
        ids = self.push_messages(messages)
        seconds = self._timeout if timeout is None else timeout
        with self._courier.changed:
            try:
                wait_for_answers(self._courier.changed, self._ledger, ids, seconds, self._log)
            except KeyboardInterrupt:  # else they work for nobody, until the time to live is over
                with suppress(Exception):
                    self.withdraw(ids, "the server was interrupted")
                raise
            replies = self.pull_messages(ids)
            self.withdraw(ids, f"no reply within {seconds:g} s")
        return replies

    def withdraw(self, message_ids: Iterable[str], reason: str = "it was withdrawn") -> None:
        """Give up messages whose replies were not taken; devices are told so, replies dropped."""
        with self._courier.changed:
            left = [task for task in message_ids if self._asked.pop(task, None) is not None]
            self._courier.withdraw(left, reason)

    def drops(self) -> dict[tuple[str, str], int]:
        """How many messages were dropped, by device and reason."""
        return self._ledger.drops()

    def _watch(self, interval: float) -> None:
        while not self._end.wait(interval):
            try:
                self.tick()
            except Exception as error:  # noqa: BLE001 - a full disk must not end the watch
                self._log(f"the grid's watch: {type(error).__name__}: {error}")

    def _forget_questions(self) -> None:
        """No one waits for the answers to questions that an earlier life asked."""
        old = [row.id for row in self._ledger.open_tasks() if _is_question(row.action)]
        self._ledger.move(old, "failed", error=ENDED_BEFORE)

    def _row(self, message: Message, device: DeviceRow) -> TaskRow:
        meta, now = message.metadata, self._clock()
        data, blobs = pack(payload_of(message.content))
        payload = self._courier.put(data)
        objects = [self._courier.put(blob) for blob in blobs.values()]
        return TaskRow(
            id=new_id(),
            run=self._name,
            device=device.id,
            node=device.node,
            action=meta.message_type,
            group=meta.group_id,
            created=now,
            expires=now + meta.ttl,
            payload_sha=payload.sha256,
            payload_bytes=payload.bytes,
            objects=[[ref.sha256, ref.bytes] for ref in objects],
            state="queued" if device.enrolled else "failed",
            error=None if device.enrolled else "it is enrolled no more",
            session=self._life,
        )

    def _adopted(self, row: TaskRow) -> str:
        """The id of a task of an earlier life that asks the same, else the new one's."""
        if not _is_question(row.action) and row.state == "queued":
            for old in self._ledger.same(row, self._clock()):
                here = old.state not in ("answered", "pulled") or all(
                    self._objects.has(ref.sha256) for ref in old.answer
                )
                if here and self._ledger.adopt(old.id, self._life):
                    return old.id
        return row.id

    def _reply(self, row: TaskRow, request: Message) -> Message:
        if row.state == "expired":
            text = f"device {row.device}: no reply within its time to live"
            return Message(Error(NO_REPLY, text), reply_to=request)
        if row.state == "failed":
            text = f"device {row.device}: {row.error}"
            return Message(Error(CLIENT_RAISED, text), reply_to=request)
        try:
            return Message(self._unpacked(row), reply_to=request)
        except (MissingObjectError, ObjectError, PayloadError, DeltaError, OSError) as error:
            self._blame(row, error)
            text = f"device {row.device}: refused: {plain(str(error), DETAIL)}"
            return Message(Error(CLIENT_RAISED, text), reply_to=request)

    def _blame(self, row: TaskRow, error: Exception) -> None:
        """Whose fault it was that an answer is not to be had: ours, where the disk lost it."""
        reason = error.reason if isinstance(error, DeltaError) else "malformed"
        ours = isinstance(error, OSError)
        text = f"answer to task {row.id}: {error}"
        self._courier.refuse(row.device, "lost" if ours else reason, text, None if ours else row)

    def _unpacked(self, row: TaskRow) -> RecordDict:
        """What a device answered; a subclass may judge it, and raise DeltaError."""
        payload, *others = row.answer
        named = {ref.sha256 for ref in others}  # a device's answer holds what it sent, no more

        def fetch(sha: str) -> bytes:
            if sha not in named:
                raise PayloadError(f"object {sha[:12]} is not of this answer")
            return self._objects.get(sha)

        data = self._objects.get(payload.sha256)
        return records_of(unpack(data, fetch, limit=2 * self._max_upload))


def _is_question(action: str) -> bool:
    return action.partition(".")[0] == _QUERY


def _check(message: Message, devices: Container[int]) -> None:
    node = message.metadata.dst_node_id
    if node not in devices:
        raise ValueError(f"message to node {node}: no enrolled device has this node id")
    if not message.has_content() or message.metadata.reply_to_message_id:
        raise ValueError(f"message to node {node}: it is a reply or an error, not a request")
    if message.metadata.message_id:
        raise ValueError(f"message to node {node}: it was sent before; make a new one")
