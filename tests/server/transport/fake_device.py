"""A device in a few lines, that does as a test tells it: right by default."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from schemas.link import Link, LinkDown, Message
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.payload_object import pack, unpack
from schemas.wire import (
    CHUNK,
    Accepted,
    Cancel,
    Envelope,
    ObjectRef,
    Received,
    Result,
    State,
    Task,
    Want,
    decode,
    encode,
    envelope,
    frame,
    parse_frame,
    topic,
)

Answer = Callable[[Task, Payload], Payload]


def twice(task: Task, asked: Payload) -> Payload:
    """The weights, doubled."""
    weights = asked.vector("arrays", "weights")
    return Payload(
        arrays={"delta": {"weights": 2 * weights}}, metrics={"metrics": {"num-examples": 3}}
    )


def will_of(name: str) -> Message:
    offline = envelope(State(online=False), ttl=3600)
    return Message(topic(name, "state"), encode(offline), retain=True)


class FakeDevice:
    """Takes tasks, pulls their objects and answers.

    Attributes
    ----------
    works : bool
        Whether it does tasks; else it only notes them.
    serves : bool
        Whether it sends the chunks that it is asked for.
    tasks, done, received, cancelled
        What it was told, in order; ``done`` holds ids of tasks that it worked on.
    """

    def __init__(self, link: Link, name: str, folder: Path, answer: Answer = twice) -> None:
        self.link, self.name, self.answer = link, name, answer
        self.store = ObjectStore(folder / name, 1 << 28)
        self.works = self.serves = True
        self.tasks: dict[str, Task] = {}
        self.said: list[str] = []  # ids of tasks as they came
        self.wanted: list[Want] = []
        self.done: list[str] = []
        self.received: list[str] = []
        self.cancelled: list[str] = []
        self.results: dict[str, Result] = {}
        self.uploads: dict[str, bytes] = {}
        link.on_message, link.on_connected = self._take, self._connected
        for kind in ("cmd", "obj/data"):
            link.subscribe(topic(name, kind))
        link.connect()

    def state(self, *, online: bool) -> None:
        said = envelope(State(online=online, version="0"), ttl=3600)
        self._publish("state", encode(said), retain=True)

    def _connected(self) -> None:
        """Say all again that the server may have missed."""
        self.state(online=True)
        for task, result in self.results.items():
            if result.payload.sha256 not in self.received:
                self.say(result, re=task)
        self._go_on()

    def _publish(self, kind: str, data: bytes, **options: Any) -> None:
        with contextlib.suppress(LinkDown):
            self.link.publish(topic(self.name, kind), data, **options)

    def say(self, body: Any, re: str | None = None, kind: str = "evt") -> str:
        """Publish an envelope; its id."""
        said = envelope(body, ttl=60, re=re)
        self._publish(kind, encode(said))
        return said.id

    def raw(self, kind: str, data: bytes) -> None:
        self._publish(kind, data)

    def offer(self, data: bytes) -> ObjectRef:
        """Bytes that it would serve."""
        ref = ObjectRef(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        self.uploads[ref.sha256] = data
        return ref

    def result(self, task: str, payload: Payload) -> Result:
        """Announce an answer."""
        data, blobs = pack(payload)
        objects = tuple(self.offer(blob) for blob in blobs.values())
        self.results[task] = Result(payload=self.offer(data), objects=objects)
        self.say(self.results[task], re=task)
        return self.results[task]

    def send(self, sha: str, number: int, data: bytes) -> None:
        self._publish("obj/up", frame(sha, number, data), qos=0)

    def serve(self, want: Want) -> None:
        whole = self.uploads[want.object.sha256]
        for number in want.numbers():
            data = whole[number * CHUNK : (number + 1) * CHUNK]
            self.send(want.object.sha256, number, data)

    def _take(self, message: Message) -> None:
        if message.topic.endswith("obj/data"):
            self._chunk(*parse_frame(message.payload))
            return
        said = decode(message.payload)
        match said.body:
            case Task():
                self._task(said, said.body)
            case Want():
                self.wanted.append(said.body)
                if self.serves:
                    self.serve(said.body)
            case Received(object=sha):
                self.received.append(sha)
            case Cancel(task=task):
                self.cancelled.append(task)

    def _task(self, said: Envelope, task: Task) -> None:
        self.said.append(said.id)
        known, self.tasks[said.id] = said.id in self.tasks, task
        if not self.works:
            return
        if said.id in self.results:
            self.say(self.results[said.id], re=said.id)
            return
        if not known:
            self.say(Accepted(), re=said.id)
        self._go_on()

    def _lacks(self, task: Task) -> ObjectRef | None:
        refs = (task.payload, *task.objects)
        return next((ref for ref in refs if not self.store.has(ref.sha256)), None)

    def _go_on(self) -> None:
        """Pull what the oldest task lacks; do those that lack nothing."""
        for name, task in self.tasks.items():
            if name in self.done or not self.works:
                continue
            lacks = self._lacks(task)
            if lacks is None:
                self.done.append(name)
                asked = unpack(self.store.get(task.payload.sha256), self.store.get)
                self.result(name, self.answer(task, asked))
            else:
                first = self.store.incoming(lacks).missing()[0]
                self.say(Want(object=lacks, chunks=((first, first + 1),)), re=name, kind="obj/req")

    def _chunk(self, sha: str, number: int, data: bytes) -> None:
        refs = [ref for task in self.tasks.values() for ref in (task.payload, *task.objects)]
        ref = next(ref for ref in refs if ref.sha256 == sha)
        if self.store.has(sha):
            return
        incoming = self.store.incoming(ref)
        incoming.add(number, data)
        if incoming.done:
            incoming.finish()
        self._go_on()


def weights(seed: int, size: int = 1000) -> Any:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)
