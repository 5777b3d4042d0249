"""The server's side of the protocol, as little of it as a daemon's tests need."""

import hashlib
import threading
import time
from collections import defaultdict

from schemas import wire
from schemas.payload_object import pack, unpack


class Hub:
    """Sends tasks to one device and fetches what it answers.

    Attributes
    ----------
    serve, fetch, confirm : bool or callable
        Whether it sends a chunk (number), asks for one, says that it has an answer.
    events : dict[str, list[Envelope]]
        By task.
    answers : dict[str, Payload]
    """

    def __init__(self, link, device: str) -> None:
        self.link, self.device = link, device
        self.objects: dict[str, bytes] = {}
        self.events = defaultdict(list)
        self.states: list[wire.State] = []
        self.answers = {}
        self.asked: list[tuple[str, int]] = []
        self.serve = lambda _: True
        self.fetch = self.confirm = True
        self.corrupt = lambda data: data
        self.came = defaultdict(dict)
        self._change = threading.Condition()
        link.on_message = self._on_message
        link.on_connected = lambda: None
        for kind in ("evt", "obj/req", "obj/up", "state"):
            link.subscribe(wire.topic(device, kind))
        link.connect()

    def put(self, data: bytes) -> wire.ObjectRef:
        name = hashlib.sha256(data).hexdigest()
        self.objects[name] = data
        return wire.ObjectRef(sha256=name, bytes=len(data))

    def task(self, action, payload, *, run="run", ttl=60.0, change=lambda e: e) -> str:
        body, others = pack(payload)
        references = tuple(self.put(other) for other in others.values())
        task = wire.Task(run=run, action=action, payload=self.put(body), objects=references)
        envelope = change(wire.envelope(task, ttl=ttl))
        self.tell(envelope)
        return envelope.id

    def tell(self, envelope, expiry=None) -> None:
        self.raw(wire.encode(envelope), expiry)

    def raw(self, data: bytes, expiry=None) -> None:
        self.link.publish(wire.topic(self.device, "cmd"), data, expiry=expiry)

    @property
    def times_online(self) -> int:
        return sum(state.online for state in self.states)

    def kinds(self, task: str) -> list[str]:
        return [envelope.body.kind for envelope in self.events[task]]

    def failure(self, task: str) -> str:
        return self.events[task][-1].body.reason

    def until(self, condition, seconds=30.0):
        end = time.monotonic() + seconds
        with self._change:
            while not (found := condition()):
                left = end - time.monotonic()
                assert left > 0, f"it did not come to pass; {dict(self.events)}, {self.states}"
                self._change.wait(min(left, 0.05))
        return found

    def answered(self, task: str):
        return self.until(lambda: self.answers.get(task))

    def _on_message(self, message) -> None:
        kind = wire.parse_topic(message.topic)[1]
        with self._change:
            if kind == "obj/up":
                self._chunk(*wire.parse_frame(message.payload))
            elif message.payload:
                envelope = wire.decode(message.payload)
                if kind == "state":
                    self.states.append(envelope.body)
                elif kind == "obj/req":
                    self._send(envelope.body)
                else:
                    self.events[envelope.re].append(envelope)
                    if envelope.body.kind == "result" and self.fetch:
                        self.ask(envelope.re)
            self._change.notify_all()

    def _send(self, want) -> None:
        for number in want.numbers():
            self.asked.append((want.object.sha256, number))
            if self.serve(number) and want.object.sha256 in self.objects:
                data = self.objects[want.object.sha256]
                part = self.corrupt(data[number * wire.CHUNK : (number + 1) * wire.CHUNK])
                frame = wire.frame(want.object.sha256, number, part)
                self.link.publish(wire.topic(self.device, "obj/data"), frame, qos=0)

    def ask(self, task: str) -> None:
        reference = self.events[task][-1].body.payload
        have = self.came[reference.sha256]
        lacking = [number for number in range(reference.chunks) if number not in have]
        if lacking:
            want = wire.Want(object=reference, chunks=((lacking[0], lacking[0] + 1),))
            self.tell(wire.envelope(want, ttl=60.0, re=task))
            return
        data = b"".join(have[number] for number in range(reference.chunks))
        assert hashlib.sha256(data).hexdigest() == reference.sha256
        self.answers[task] = unpack(data, self.objects.__getitem__)
        if self.confirm:
            self.received(task)

    def received(self, task: str) -> None:
        body = wire.Received(object=self.events[task][-1].body.payload.sha256)
        self.tell(wire.envelope(body, ttl=60.0, re=task))

    def _chunk(self, name, number, data) -> None:
        self.came[name][number] = data
        for task, said in list(self.events.items()):
            last = said[-1].body
            ours = last.kind == "result" and last.payload.sha256 == name
            if ours and self.fetch and task not in self.answers:
                self.ask(task)
