"""One stage for both links: what is played on Mosquitto is played in memory too."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from schemas.link import Link, Message, PahoLink
from schemas.memory_link import MemoryBroker, MemoryLink
from tests.mosquitto import Mosquitto

PATIENCE = 30.0
PROBE = "probe"


class Ears:
    """What a link heard."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.messages: list[Message] = []
        self.connections = 0
        self.losses: list[str] = []
        self.failures: list[str] = []
        self.probes = 0
        link.on_message = self._heard
        link.on_connected = self._connected
        link.on_lost, link.on_failed = self.losses.append, self.failures.append

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    def probe(self) -> None:
        """Publish to itself: what was subscribed before, the broker has when this comes back."""
        topic = f"{PROBE}/{id(self)}"
        self.link.subscribe(topic)
        self.link.publish(topic, b"")

    def _connected(self) -> None:
        self.connections += 1

    def _heard(self, message: Message) -> None:
        if message.topic.startswith(PROBE):
            self.probes += 1
        else:
            self.messages.append(message)


def subscribed(stage: "Stage", *all_ears: Ears) -> None:
    """Wait until the broker has the filters of connected links."""
    for ears in all_ears:
        ears.probes = 0
        ears.probe()
    stage.until(lambda: all(ears.probes for ears in all_ears))


class Stage(Protocol):
    """A broker, and links to it."""

    def link(self, client_id: str, **settings: Any) -> Ears: ...

    def until(self, condition: Callable[[], object]) -> None: ...

    def quiet(self) -> None: ...

    def crash(self) -> None: ...

    def revive(self) -> None: ...

    def vanish(self, ears: Ears) -> None: ...

    def close(self) -> None: ...


class MemoryStage:
    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def link(self, client_id: str, **settings: Any) -> Ears:
        return Ears(MemoryLink(self.broker, client_id, **settings))

    def until(self, condition: Callable[[], object]) -> None:
        self.broker.pump()
        assert condition()

    def quiet(self) -> None:
        self.broker.pump()

    def crash(self) -> None:
        self.broker.crash()

    def revive(self) -> None:
        self.broker.up()

    def vanish(self, ears: Ears) -> None:
        assert isinstance(ears.link, MemoryLink)
        self.broker.cut(ears.link.client_id)

    def close(self) -> None: ...


class MosquittoStage:
    def __init__(self, broker: Mosquitto) -> None:
        self.broker = broker
        self.links: list[Ears] = []

    def link(self, client_id: str, **settings: Any) -> Ears:
        link = PahoLink(
            self.broker.host, self.broker.port, client_id, backoff=(0.05, 0.2), **settings
        )
        self.links.append(Ears(link))
        return self.links[-1]

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.broker.log
            time.sleep(0.005)

    def quiet(self) -> None:
        time.sleep(0.3)

    def crash(self) -> None:
        self.broker.kill()

    def revive(self) -> None:
        self.broker.start()

    def vanish(self, ears: Ears) -> None:
        link: Any = ears.link
        with contextlib.suppress(OSError, AttributeError):  # it is gone already
            link._client.socket().shutdown(2)

    def close(self) -> None:
        for ears in self.links:
            ears.link.close()
        self.broker.stop()
