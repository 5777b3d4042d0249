"""Between ledger and broker: publishes tasks, serves objects, takes answers in."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from schemas.link import Link, LinkDown, Message
from schemas.objects import MissingObjectError, ObjectStore, StoreFullError
from schemas.signing import sign_task
from schemas.wire import (
    ENVELOPE_TYPE,
    FRAME_TYPE,
    Accepted,
    Cancel,
    Envelope,
    Failed,
    ObjectRef,
    Received,
    Result,
    State,
    Task,
    Want,
    encode,
    envelope,
    every,
    frame,
    topic,
)
from server.database import ABSENT, why_absent
from server.plain import plain
from server.transport.inbox import LISTENS, DroppedError, Guard, Inbox, Open, Part
from server.transport.ledger import Ledger
from server.transport.tables import TaskRow
from server.transport.uploads import Fetch, Told, Uploads

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    Key = bytes | Ed25519PrivateKey

SAY_AGAIN: Final = (
    15.0  # seconds after which a task that was not accepted is published again; doubles
)
SAY_AGAIN_AT_MOST: Final = 300.0
AT_ONCE: Final = 16  # chunks served for one request
AGAIN: Final = (4, 64)  # chunks served for a task: so many times what it has, and so many more
DROPPED: Final = "dropped"  # in what is told of a message that was refused
DETAIL: Final = 500  # characters of what is kept of a reason; a device may have put in any
_WANT_TTL: Final = 60.0
_RECEIVED_TTL: Final = 86_400.0


class Courier:
    """Carries tasks and answers; thread-safe.

    Parameters
    ----------
    link : Link
        Not connected yet; its callbacks become the courier's.
    objects : ObjectStore
    ledger : Ledger
    key : bytes or Ed25519PrivateKey, optional
        The fleet's, to sign tasks.
    tell : callable(str)
        Takes a line: what was dropped, for the first time of its kind, and what went wrong.
    max_upload : int
        Bytes of one object of an answer.
    clock : callable() -> float
        Unix time.
    guard : Guard, optional
        Asked before a message is read, and told of what is dropped.

    Attributes
    ----------
    changed : Condition
        Notified whenever a task ends or a device comes or goes. Its lock is the courier's.
    pinned : set[str]
        Objects to keep though no task in the ledger names them yet.
    """

    def __init__(
        self,
        link: Link,
        objects: ObjectStore,
        ledger: Ledger,
        *,
        key: "Key | None",
        tell: Callable[[str], None],
        max_upload: int,
        clock: Callable[[], float],
        guard: Guard | None = None,
    ) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._link, self._objects, self._ledger = link, objects, ledger
        self._key, self._tell, self._clock = key, tell, clock
        self._max_upload = max_upload
        self._guard = guard or Open()
        self._inbox = Inbox(ledger, self._guard)
        told = Told(self._ask, self._answered, self._give_up, self._make_room, self._trouble)
        self._uploads = Uploads(objects, told, clock)
        self.pinned: set[str] = set()
        self._online: set[str] = set()  # who stated so since the last connection
        self._said: dict[str, tuple[float, float]] = {}  # by task: when to say it again, the wait
        self._served: Counter[str] = Counter()  # chunks, by task
        self._dropped: set[tuple[str, str]] = set()
        self._absent = False  # the database
        link.on_message, link.on_connected, link.on_lost = self._take, self._connected, self._lost

    def start(self) -> None:
        """Connect; answers that were on their way when the server ended go on."""
        with self.changed:
            self._expect_nobody()
            self._resume(self._open())
        for kind in LISTENS:
            self._link.subscribe(every(kind))
        self._link.connect()

    def close(self) -> None:
        """Disconnect; tasks stay open in the ledger."""
        self._link.close()
        self._ledger.flush()

    def wait_connected(self, timeout: float) -> bool:
        """Wait for a connection; whether there is one."""
        return self._link.wait_connected(timeout)

    def hears(self, device: str) -> bool:
        """Whether a device has stated, since the last connection, that it is online."""
        return device in self._online

    def put(self, data: bytes) -> ObjectRef:
        """Keep an object of a task that is to be published, where need be in place of others."""
        with self.changed:
            try:
                ref = self._objects.put(data)
            except StoreFullError:
                self._make_room(len(data))
                ref = self._objects.put(data)
            self.pinned.add(ref.sha256)
            return ref

    def publish(self, tasks: Iterable[TaskRow]) -> None:
        """Say tasks to their devices, or as soon as there is a connection."""
        with self.changed:
            done = [task.id for task in tasks if self._say(task)]
            self._ledger.move(done, "sent", of=("queued",))

    def publish_new(self, tasks: Iterable[TaskRow]) -> None:
        """Say those of the tasks that wait to be accepted and were not said in this life."""
        waiting = [task for task in tasks if task.state in ("queued", "sent")]
        self.publish(task for task in waiting if task.id not in self._said)

    def withdraw(self, ids: list[str], reason: str) -> None:
        """Give tasks up: their devices may forget them, their answers will be too late."""
        with self.changed:
            for row in self._ledger.tasks(ids):
                self._cancel(row.device, row.id, max(1.0, row.expires - self._clock()))
            self._end(ids, "failed", reason)

    def tick(self) -> None:
        """Do what is due: expire, ask again, say again."""
        with self.changed:
            now = self._clock()
            expired = self._ledger.expire(now, self._guard.mine)
            self._end(expired, "expired", None)
            if self._link.connected:
                self._guarded("", lambda: self._uploads.tick(self._online.__contains__))
                due = [task for task in self._open() if self._due(task, now)]
                self.publish(due)
        self._ledger.flush()

    def refuse(self, device: str, reason: str, detail: str, task: TaskRow | None = None) -> None:
        """Count something that was dropped; tell it, the first time of its kind."""
        detail = plain(detail, DETAIL)
        self._ledger.count_drop(device, reason)
        self._guard.refused(device, reason, detail, task)
        if (device, reason) not in self._dropped:
            self._dropped.add((device, reason))
            self._tell(
                f"{device}: {DROPPED} ({reason}): {detail}; more of the kind are counted only"
            )

    # What comes from the link.

    def _take(self, message: Message) -> None:
        with self.changed:
            self._guarded(message.topic, lambda: self._handle(message))

    def _connected(self) -> None:
        with self.changed:
            self._tell("connected to the broker")
            self._expect_nobody()  # the retained states that now come say who there is
            fresh = [task for task in self._open() if task.state == "queued"]
            self.publish(fresh)

    def _expect_nobody(self) -> None:
        """Take nobody for online; the ledger keeps what others on it have heard."""
        self._online.clear()

    def _lost(self, reason: str) -> None:
        self._tell(f"connection to the broker lost: {reason}")

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except DroppedError as error:
            self.refuse(error.device, error.reason, str(error), error.task)
        except OSError as error:
            self._tell(f"{what}: {error}")
        except ABSENT as error:  # what was said is said again
            if not self._absent:
                self._tell(f"the database: {why_absent(error)}; messages wait until it is back")
            self._absent = True
        else:
            self._absent = False

    def _handle(self, message: Message) -> None:
        if self._inbox.cleared(message):
            return
        device, said = self._inbox.read(message)
        if isinstance(said, Part):
            if self._uploads.awaits(said.sha) or not self._others_await(device, said.sha):
                self._uploads.take(device, said)
        elif isinstance(said.body, State):
            self._state(device, said.body, retained=message.retain)
        elif isinstance(said.body, Want):
            self._serve(device, said, said.body)
        else:
            self._about_task(device, said)

    def _state(self, device: str, state: State, *, retained: bool) -> None:
        # That one is off, as the broker kept it, was so before: it is no sign of life now.
        here = state.online or not retained
        at = self._clock() if here else None
        self._ledger.set_state(device, state.model_dump(mode="json"), at)
        self.changed.notify_all()
        if not state.online:
            self._online.discard(device)
        elif device not in self._online:
            self._online.add(device)
            tasks = self._open(device)
            self._uploads.wake(device)
            self._resume(tasks)
            self.publish(tasks)  # those accepted too: what it said of them may be lost

    def _about_task(self, device: str, said: Envelope) -> None:
        try:
            row = self._inbox.task(device, said, self._clock())
        except DroppedError as error:
            self._console(device, said, error.reason)
            raise
        if row is None:
            return
        match said.body:
            case Accepted():
                self._ledger.move([row.id], "accepted")
                self._said[row.id] = (self._clock() + SAY_AGAIN_AT_MOST, SAY_AGAIN_AT_MOST)
            case Failed(reason=reason):
                self._give_up(row.id, reason)
                self._cancel(device, row.id, _RECEIVED_TTL)  # else it says so again and again
            case Result(payload=payload, objects=objects):
                self._announced(row, (payload, *objects))

    def _console(self, device: str, said: Envelope, reason: str) -> None:
        """A device that is late, or was not heard, need keep its answer no longer, nor work on."""
        if said.re is None or reason == "foreign":
            return
        if reason == "duplicate" and isinstance(said.body, Accepted):
            return  # it comes after its answer, which is kept until it is here
        if reason == "duplicate" and isinstance(said.body, Result):
            self._received(device, said.re, [*said.body.objects, said.body.payload])
        else:
            self._cancel(device, said.re, _RECEIVED_TTL)

    def _announced(self, row: TaskRow, answer: tuple[ObjectRef, ...]) -> None:
        if (size := sum(ref.bytes for ref in answer)) > self._max_upload:
            text = f"an answer of {size} bytes; at most {self._max_upload} are taken"
            self.withdraw([row.id], text)
            raise DroppedError(row.device, "oversized", text, row)
        if row.answer and row.answer != list(answer):
            self._uploads.forget(row.id)  # it was done again, after the device lost its own
        self._ledger.announce(row.id, answer)
        self._uploads.begin(row.id, row.device, list(answer))

    def _open(self, device: str | None = None) -> list[TaskRow]:
        return [task for task in self._ledger.open_tasks(device) if self._guard.mine(task)]

    def _others_await(self, device: str, sha: str) -> bool:
        """Whether a chunk is for another courier on this ledger, or was a moment ago."""
        return any(
            sha in [ref.sha256 for ref in task.answer]
            for task in self._ledger.newest(device)
            if not self._guard.mine(task)
        )

    def _serve(self, device: str, said: Envelope, want: Want) -> None:
        named = want.object
        tasks = [task for task in self._ledger.open_tasks(device) if named in task.asked]
        if not tasks:
            self._refuse_want(device, named)
            return
        if not (tasks := [task for task in tasks if self._guard.mine(task)]):
            return
        numbers = want.numbers()[:AT_ONCE]
        self._count_served(tasks[0], len(numbers))
        for number in numbers:
            try:
                data = self._objects.chunk(named.sha256, number)
            except MissingObjectError as error:
                self.withdraw([task.id for task in tasks], f"the server lost an object: {error}")
                return
            self._post(device, "obj/data", frame(named.sha256, number, data), qos=0)

    def _refuse_want(self, device: str, named: ObjectRef) -> None:
        """Of a task that ended a moment ago the question was under way: nobody's fault.

        The device need not ask again: it did not hear that the task was given up.
        """
        text = f"object {named.sha256[:12]} is of no open task of this device"
        past = self._ledger.newest(device, given_up=True)
        if not (past := [task for task in past if named in task.asked]):
            raise DroppedError(device, "foreign", text)
        if mine := [task for task in past if self._guard.mine(task)]:
            for task in mine:
                if task.state in ("failed", "expired"):
                    self._cancel(device, task.id, _RECEIVED_TTL)
            raise DroppedError(device, "late", text)

    def _count_served(self, task: TaskRow, chunks: int) -> None:
        """A small question for many chunks, said again and again, costs us and not who asks."""
        times, more = AGAIN
        most = times * sum(ref.chunks for ref in task.asked) + more
        self._served[task.id] += chunks
        if self._served[task.id] > most:
            text = f"task {task.id} was served {most} chunks, and more are asked for"
            raise DroppedError(task.device, "greedy", text)

    # What goes to the link.

    def _post(self, device: str, kind: str, data: bytes, qos: int = 1, ttl: float = 60.0) -> bool:
        what = ENVELOPE_TYPE if qos else FRAME_TYPE
        try:
            self._link.publish(
                topic(device, kind), data, qos=qos, expiry=ttl if qos else None, content_type=what
            )
        except LinkDown:
            return False
        return True

    def _tell_device(self, device: str, task: str, body: Any, ttl: float) -> bool:
        said = envelope(body, ttl=ttl, re=task, at=self._clock())
        return self._post(device, "cmd", encode(said), ttl=ttl)

    def _say(self, row: TaskRow) -> bool:
        now = self._clock()
        if (left := row.expires - now) <= 0:
            return False
        _, wait = self._said.get(row.id, (0.0, SAY_AGAIN / 2))
        wait = min(2 * wait, SAY_AGAIN_AT_MOST)
        self._said[row.id] = (now + wait, wait)
        payload, *objects = row.asked
        body = Task(
            run=row.run,
            action=row.action,
            payload=payload,
            objects=tuple(objects),
            group=row.group,
        )
        said = envelope(body, ttl=left, at=now, id=row.id)
        if self._key is not None:
            said = sign_task(self._key, row.device, said)
        return self._post(row.device, "cmd", encode(said), ttl=left)

    def _due(self, row: TaskRow, now: float) -> bool:
        if row.answer:
            return False  # it is on its way
        due, _ = self._said.get(row.id, (0.0, 0.0))
        return due <= now and (row.state == "queued" or row.device in self._online)

    def _ask(self, fetch: Fetch, ref: ObjectRef, number: int) -> None:
        want = Want(object=ref, chunks=((number, number + 1),))
        self._tell_device(fetch.device, fetch.task, want, _WANT_TTL)

    def _cancel(self, device: str, task: str, ttl: float) -> None:
        self._tell_device(device, task, Cancel(task=task), ttl)

    def _received(self, device: str, task: str, refs: Iterable[ObjectRef]) -> None:
        for ref in refs:
            self._tell_device(device, task, Received(object=ref.sha256), _RECEIVED_TTL)

    # How tasks end.

    def _resume(self, tasks: Iterable[TaskRow]) -> None:
        for task in tasks:
            if task.answer:
                begin = partial(self._uploads.begin, task.id, task.device, task.answer)
                self._guarded(task.device, begin)

    def _answered(self, task: str) -> None:
        row = self._ledger.task(task)
        if row is not None and self._end([task], "answered", None):
            self._received(row.device, task, reversed(row.answer))

    def _give_up(self, task: str, reason: str) -> None:
        self._end([task], "failed", plain(reason, DETAIL) or "the device gave no reason")

    def _end(self, ids: list[str], state: Any, error: str | None) -> int:
        moved = self._ledger.move(ids, state, error=error) if ids else 0
        for task in ids:
            self._uploads.forget(task)
            self._said.pop(task, None)
            self._served.pop(task, None)
        self.changed.notify_all()
        return moved

    def _make_room(self, size: int) -> None:
        self._objects.make_room(size, keep=self._ledger.needed() | self.pinned)

    def _trouble(self, device: str, error: OSError) -> None:
        self._tell(f"{device}: its answer cannot be kept: {error}; it is tried again")


def default_tell(line: str) -> None:
    """Log a line as this module's warning."""
    logging.getLogger(__name__).warning(line)
