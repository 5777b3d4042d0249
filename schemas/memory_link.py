"""The link's twin in memory: retained messages, wills and filters, and faults at will."""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from paho.mqtt.client import topic_matches_sub

from schemas.link_base import LinkDown, Message, call, ignore


@dataclass
class _Kept:
    """A message with the time at which it expires."""

    message: Message
    deadline: float

    def at(self, now: float) -> Message | None:
        """The message with the seconds that it has left; None where it has none."""
        if self.deadline <= now:
            return None
        left = None if self.message.expiry is None else self.deadline - now
        return replace(self.message, expiry=left)


@dataclass
class _Event:
    """A callback that is due, on a link's connection of that number."""

    link: "MemoryLink"
    connection: int
    argument: _Kept | str | None


class MemoryBroker:
    """A broker without a network.

    Nothing is delivered until ``pump``, so that a test decides what happens when; ``start`` gives
    it a thread that pumps.

    Parameters
    ----------
    seed : int
        Of the faults.
    clock : callable() -> float, optional
        Seconds, for expiry.

    Attributes
    ----------
    drop, duplicate, reorder : float
        Probabilities that a delivery is lost, comes twice, comes before the one ahead of it.
    faulty : callable(Message) -> bool
        Which messages faults may touch; all by default.
    """

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.drop = self.duplicate = self.reorder = 0.0
        self.faulty: Callable[[Message], bool] = lambda _: True
        self._random, self._clock = random.Random(seed), clock  # noqa: S311 - faults of tests
        self._change = threading.Condition(threading.RLock())
        self._turn = threading.Lock()
        self._links: dict[str, MemoryLink] = {}
        self._retained: dict[str, _Kept] = {}
        self._events: deque[_Event] = deque()
        self._is_up = True
        self._thread: threading.Thread | None = None
        self._ending = False

    @property
    def threaded(self) -> bool:
        """Whether it pumps by itself."""
        return self._thread is not None

    def pump(self, limit: int = 100_000) -> int:
        """Connect, deliver and call back until nothing is left to do.

        Returns
        -------
        int
            How many events there were.

        Raises
        ------
        RuntimeError
            Where more than ``limit`` events came: somebody answers himself.
        """
        if self._turn.locked() and not self.threaded:
            raise RuntimeError("pump was called from within a callback")
        with self._turn:
            done = 0
            while event := self._next():
                event.link._happen(event)
                done += 1
                if done > limit:
                    raise RuntimeError(f"more than {limit} events in one pump")
            return done

    def start(self) -> None:
        """Pump on a thread of its own, until ``stop``."""
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="memory broker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        thread, self._ending = self._thread, True
        with self._change:
            self._change.notify_all()
        if thread is not None:
            thread.join()
            self._thread = None

    def cut(self, client_id: str) -> None:
        """Lose a client's connection (its will is published); it comes back with the next pump."""
        with self._change:
            link = self._links.get(client_id)
            if link is not None and link.connected:
                self._lose(link, "cut")
                self._publish_will(link)

    def crash(self, *, forget: bool = True) -> None:
        """Lose all connections, and retained messages too; stay down until ``up``."""
        with self._change:
            self._is_up = False
            for link in self._links.values():
                if link.connected:
                    self._lose(link, "the broker is gone")
            if forget:
                self._retained.clear()

    def up(self) -> None:
        """Be there again."""
        with self._change:
            self._is_up = True
            self._change.notify_all()

    # What follows is for links.

    def attach(self, link: "MemoryLink") -> None:
        """Take a link, and throw out the one that has its client id."""
        with self._change:
            before = self._links.get(link.client_id)
            if before is not None and before is not link:
                self.detach(before)
                self._publish_will(before)
            self._links[link.client_id] = link
            self._change.notify_all()

    def detach(self, link: "MemoryLink") -> None:
        """Let a link go."""
        with self._change:
            if self._links.get(link.client_id) is link:
                del self._links[link.client_id]
                self._leave(link)

    def filter(self, link: "MemoryLink", name: str) -> None:
        """Subscribe a link, and give it what is retained."""
        with self._change:
            for topic, kept in self._retained.items():
                if topic_matches_sub(name, topic):
                    self._deliver(link, replace(kept, message=replace(kept.message, retain=True)))

    def route(self, message: Message) -> None:
        """Give a message to all who asked for it."""
        with self._change:
            left = math.inf if message.expiry is None else message.expiry
            kept = _Kept(message, self._clock() + left)
            if message.retain:
                self._retained.pop(message.topic, None)
                if message.payload:
                    self._retained[message.topic] = kept
            sent = replace(kept, message=replace(message, retain=False))
            for link in self._links.values():
                here = link.connected
                if here and any(topic_matches_sub(name, message.topic) for name in link.filters):
                    self._deliver(link, sent)

    def now(self) -> float:
        """The clock's time."""
        return self._clock()

    def _run(self) -> None:
        while not self._ending:
            self.pump()
            with self._change:
                if not self._events and not self._ending:
                    self._change.wait(0.2)

    def _next(self) -> _Event | None:
        with self._change:
            if not self._events:
                for link in list(self._links.values()):
                    if self._is_up and not link.connected:
                        self._admit(link)
            return self._events.popleft() if self._events else None

    def _admit(self, link: "MemoryLink") -> None:
        link._up.set()
        link._connection += 1
        self._add(_Event(link, link._connection, None))
        for name in link.filters:
            self.filter(link, name)

    def _deliver(self, link: "MemoryLink", kept: _Kept) -> None:
        event = _Event(link, link._connection, kept)
        if not self.faulty(kept.message):
            self._add(event)
            return
        if self._random.random() < self.drop:
            return
        last = self._events[-1] if self._events else None
        early = self._random.random() < self.reorder
        if early and last is not None and isinstance(last.argument, _Kept):
            self._events.insert(len(self._events) - 1, event)
        else:
            self._add(event)
        if self._random.random() < self.duplicate:
            self._add(event)

    def _add(self, event: _Event) -> None:
        self._events.append(event)
        self._change.notify_all()

    def _lose(self, link: "MemoryLink", reason: str) -> None:
        self._leave(link)
        self._add(_Event(link, link._connection, reason))

    def _leave(self, link: "MemoryLink") -> None:
        link._up.clear()
        link._connection += 1

    def _publish_will(self, link: "MemoryLink") -> None:
        if link.will is not None:
            self.route(link.will)


class MemoryLink:
    """``Link`` over a MemoryBroker; ``Link`` says what its methods do."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        *,
        will: Message | None = None,
    ) -> None:
        self.on_message: Callable[[Message], None] = ignore
        self.on_connected: Callable[[], None] = ignore
        self.on_lost: Callable[[str], None] = ignore
        self.on_failed: Callable[[str], None] = ignore  # no attempt here comes to nothing
        self.client_id, self.will = client_id, will
        self.filters: dict[str, None] = {}
        self._broker = broker
        self._up = threading.Event()
        self._connection = 0
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether a message may be published now."""
        return self._up.is_set()

    def connect(self) -> None:
        """Begin; the next pump connects."""
        if self._closed:
            raise LinkDown("this link was closed; make another")
        self._broker.attach(self)

    def wait_connected(self, timeout: float) -> bool:
        """Wait for a connection, or pump once where the broker does not by itself."""
        if not self._broker.threaded:
            self._broker.pump()
            return self.connected
        return self._up.wait(timeout)

    def close(self) -> None:
        """Say goodbye and end."""
        self._closed = True
        self._broker.detach(self)

    def subscribe(self, filter: str) -> None:  # noqa: A002 - MQTT's word
        """Subscribe now, or as soon as there is a connection, and after each of them."""
        with self._broker._change:
            self.filters[filter] = None
            if self.connected:
                self._broker.filter(self, filter)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry: float | None = None,
        content_type: str = "",
    ) -> None:
        """Hand a message over."""
        if not self.connected:
            raise LinkDown("no connection to the broker in memory")
        self._broker.route(Message(topic, payload, content_type, retain, expiry))

    def _happen(self, event: _Event) -> None:
        """Call back, on the thread that pumps."""
        what, stale = event.argument, event.connection != self._connection
        if isinstance(what, str):
            call(self.on_lost, what)
        elif stale:
            return
        elif what is None:
            call(self.on_connected)
        elif message := what.at(self._broker.now()):
            call(self.on_message, message)
