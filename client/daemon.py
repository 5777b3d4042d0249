"""The device's daemon: takes tasks from the link, has each done once, and says what came of it.

Two threads: the link's takes messages and serves uploads, the runner's pulls and works. What must
outlive a power cut is in the store before it is said aloud; see ``server/PROTOCOL.md``.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Final

from client.installed import Installed
from client.installer import ACTIONS as BUNDLES
from client.installer import MAX_BYTES, Installer
from client.runner import Runner
from client.store import Store, TaskRow
from client.sweep import objects_of
from client.transfer import Downloads, TransferError, chunks_of
from client.verifier import verify
from client.work import Work
from schemas import wire
from schemas.link import Link, LinkDown, Message
from schemas.objects import MissingObjectError, ObjectStore
from schemas.release import release
from schemas.signing import SignatureError

_log = logging.getLogger("flwr_edge.daemon")
ACTIONS: Final = frozenset(
    {
        "query.graphs",
        "query.install",
        "query.place",
        "query.begin",
        "query.drift",
        "train",
        "evaluate",
        "evaluate.ranges",
        *BUNDLES,
    }
)
_STATE_TTL: Final = wire.MAX_TTL


class Daemon:
    """One device.

    Parameters
    ----------
    device : str
        Its id.
    link : Link
        Not connected yet; made with ``will(device)``.
    store : Store
    objects : ObjectStore
    work : Work
        Does a task, in a process of its own.
    may_work : callable() -> (bool, str)
        Whether conditions for work are met, and why not.
    bundle_bytes : int
        Of the largest bundle taken.
    settings
        ``fleet_key``, ``most_tasks`` and the runner's settings.
    """

    def __init__(
        self,
        device: str,
        link: Link,
        store: Store,
        objects: ObjectStore,
        work: Work,
        may_work: Callable[[], tuple[bool, str]],
        *,
        fleet_key: str | None = None,
        most_tasks: int = 64,
        bundle_bytes: int = MAX_BYTES,
        **settings: Any,
    ) -> None:
        self.device, self.link, self.store, self.objects = device, link, store, objects
        self._fleet_key, self._most_tasks = fleet_key, most_tasks
        self.dropped, self._unlinked = 0, ""
        self.downloads = Downloads(objects, self._ask)
        installed = Installed(store, objects.folder.with_name("bundles"))
        self.bundles = Installer(store, objects, installed, bundle_bytes)
        self.runner = Runner(
            store, objects, work, self.downloads, self.bundles, may_work, self.announce, **settings
        )
        self._thread = threading.Thread(target=self.runner.run, name="runner", daemon=True)
        link.on_message = self._on_message
        link.on_connected, link.on_lost, link.on_failed = self._online, self._lost, self._failed

    def start(self) -> None:
        """Begin; returns at once. The link connects when it can."""
        self.link.subscribe(wire.topic(self.device, "cmd"))
        self.link.subscribe(wire.topic(self.device, "obj/data"))
        self.link.connect()
        self._thread.start()

    def stop(self) -> None:
        """Give up what is under way (it starts afresh the next time), say so and end."""
        self.runner.stop()
        self._state(online=False)
        self._thread.join(1.0)
        self.link.close()

    def pause(self, *, paused: bool) -> None:
        """Take no work, or take it again; kept over restarts.

        Raises
        ------
        sqlite3.Error
            Where it holds only until the daemon ends.
        """
        try:
            self.runner.pause(paused=paused)
        finally:  # a full disk cannot keep it over restarts; it is so all the same
            self._state(online=True)

    def status(self) -> dict[str, Any]:
        """How it stands, for the local API."""
        rows, connected, why = self.store.open(), self.link.connected, self._unlinked
        return {
            "device": self.device,
            "version": release(),
            "connected": connected,
            **({} if connected or not why else {"link": why}),
            "paused": self.runner.paused,
            "waiting": self.runner.waiting,
            "task": self.runner.current,
            "queued": sum(row.state == "queued" for row in rows),
            "unsent": sum(row.state == "done" for row in rows),
            "dropped": self.dropped + self.downloads.stray,
            "bundle": self.bundles.status(),
        }

    # -- what comes ----------------------------------------------------------------------------

    def _online(self) -> None:
        _log.info("connected")
        self._state(online=True)
        for row in self.store.open():
            self.announce(row)
        self.downloads.nudge()

    def _lost(self, reason: str) -> None:
        _log.warning("connection lost: %s", reason)
        self._unlinked = reason

    def _failed(self, reason: str) -> None:
        self._unlinked = reason  # the link has logged it

    def _on_message(self, message: Message) -> None:
        try:
            if message.topic == wire.topic(self.device, "obj/data"):
                self.downloads.on_frame(message.payload)
            else:
                self._command(wire.decode(message.payload), message.expiry)
        except wire.WireError as error:
            _log.warning("dropped a message: %s", error)
            self.dropped += 1

    def _command(self, envelope: wire.Envelope, expiry: float | None) -> None:
        body = envelope.body
        if isinstance(body, wire.Task):
            left = envelope.ttl if expiry is None else min(expiry, envelope.ttl)
            self._task(envelope, body, left)
        elif isinstance(body, wire.Cancel):
            if self.runner.cancel(body.task):
                _log.info("task %s: cancelled", body.task[:8])
        elif isinstance(body, wire.Want):
            self._serve(body)
        elif isinstance(body, wire.Received):
            self._received(envelope.re, body.object)
        else:
            raise wire.WireError(f"a {body.kind!r} is no command")

    def _task(self, envelope: wire.Envelope, task: wire.Task, ttl: float) -> None:
        known = self.store.task(envelope.id)
        if known is not None:
            _log.info("task %s: came again; it is %s", known.id[:8], known.state)
            self.announce(known)
            return
        refusal = self._refusal(envelope, task)
        try:
            if refusal is None:
                self.store.take(envelope.id, task.run, task.model_dump(mode="json"), ttl)
        except sqlite3.Error as error:
            refusal = f"the device cannot note the task: {error}"
        if refusal is not None:
            _log.error("task %s: refused: %s", envelope.id[:8], refusal)
            self._say(wire.Failed(reason=refusal[:500]), envelope.id, ttl)
            return
        _log.info("task %s: %s of run %s", envelope.id[:8], task.action, task.run)
        self._say(wire.Accepted(), envelope.id, ttl)
        self.runner.wake()

    def _refusal(self, envelope: wire.Envelope, task: wire.Task) -> str | None:
        if self._fleet_key is not None:
            try:
                verify(self._fleet_key, self.device, envelope)
            except SignatureError as error:
                return str(error)
        if task.action not in ACTIONS:
            return f"no action {task.action!r}; there are {', '.join(sorted(ACTIONS))}"
        if refusal := self.bundles.refusal(task):
            return refusal
        if len(self.store.open("queued")) >= self._most_tasks:
            return f"{self._most_tasks} tasks wait already"
        return None

    def _serve(self, want: wire.Want) -> None:
        """Send chunks of an answer; of nothing else that lies here."""
        name = want.object.sha256
        rows = self.store.open("done")
        if not any(name in objects_of(row.answer or {}) for row in rows):
            _log.warning("object %s: asked for, and part of no answer", name[:12])
            return
        topic = wire.topic(self.device, "obj/up")
        try:
            for data in chunks_of(self.objects, want):
                self.link.publish(topic, data, qos=0, content_type=wire.FRAME_TYPE)
        except LinkDown:
            pass  # the server asks again
        except (OSError, MissingObjectError, TransferError) as error:
            _log.error("object %s: cannot be sent: %s", name[:12], error)

    def _received(self, task: str | None, name: str) -> None:
        for row in self.store.open("done"):
            if task in (None, row.id) and _settles(row.answer, name) and self.store.end(row.id):
                _log.info("task %s: the server has the answer", row.id[:8])
                self.runner.wake()

    # -- what is said --------------------------------------------------------------------------

    def announce(self, row: TaskRow) -> None:
        """Say where a task stands; the same each time it is said."""
        left = row.expires - self.store.clock()
        if row.state == "closed" or left <= 0:
            return
        if row.answer is None:
            self._say(wire.Accepted(), row.id, left)
        elif row.answer["kind"] == "failed":
            self._say(wire.Failed.model_validate(row.answer), row.id, left)
        else:
            self._say(_result(row.answer), row.id, left)

    def _ask(self, want: wire.Want) -> bool:
        return self._publish("obj/req", wire.envelope(want, ttl=60.0, re=self.runner.current))

    def _say(self, body: wire.Accepted | wire.Result | wire.Failed, task: str, ttl: float) -> bool:
        return self._publish("evt", wire.envelope(body, ttl=min(ttl, wire.MAX_TTL), re=task))

    def _publish(self, kind: str, envelope: wire.Envelope) -> bool:
        try:
            self.link.publish(
                wire.topic(self.device, kind),
                wire.encode(envelope),
                expiry=max(1.0, envelope.ttl),
                content_type=wire.ENVELOPE_TYPE,
            )
        except LinkDown:
            return False  # said again once the link is back
        return True

    def _state(self, *, online: bool) -> None:
        message = state_message(
            self.device, online=online, task=self.runner.current, paused=self.runner.paused
        )
        try:
            self.link.publish(
                message.topic, message.payload, retain=True, content_type=message.content_type
            )
        except LinkDown:
            _log.debug("no link to say the state over")


def state_message(
    device: str, *, online: bool, task: str | None = None, paused: bool = False
) -> Message:
    """A device's state; offline, it is the link's will."""
    body = wire.State(online=online, version=release(), task=task, paused=paused)
    return Message(
        wire.topic(device, "state"),
        wire.encode(wire.envelope(body, ttl=_STATE_TTL)),
        content_type=wire.ENVELOPE_TYPE,
        retain=True,
    )


def _settles(answer: dict[str, Any] | None, name: str) -> bool:
    names = objects_of(answer or {})
    return not names or name in names


def _result(answer: dict[str, Any]) -> wire.Result:
    return wire.Result(
        payload=wire.ObjectRef(**answer["payload"]),
        objects=tuple(wire.ObjectRef(**one) for one in answer["objects"]),
    )
