"""A fleet in memory: a broker without a network, a grid whose clock a test moves, fake devices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from schemas.memory_link import MemoryBroker, MemoryLink
from schemas.objects import ObjectStore
from schemas.wire import node_of
from server.transport import Ledger, MqttGrid
from tests.server.transport.fake_device import Answer, FakeDevice, twice, weights, will_of


class Clock:
    """Unix time that stands still."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """What a test holds.

    Attributes
    ----------
    lines : list[str]
        What the grid logged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.lines = folder, Clock(), list[str]()
        self.broker = MemoryBroker(clock=self.clock)
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.objects = ObjectStore(folder / "server", 1 << 28)
        self.devices: dict[str, FakeDevice] = {}
        self.grid = self.new_grid()

    def new_grid(self, **options: Any) -> MqttGrid:
        link = MemoryLink(self.broker, "server")
        options = {"clock": self.clock, "interval": 0, "log": self.lines.append} | options
        self.grid = MqttGrid(link, self.objects, self.ledger, **options)
        self.broker.pump()
        return self.grid

    def device(self, name: str, answer: Answer = twice, *, enrol: bool = True) -> FakeDevice:
        if enrol:
            self.ledger.add_device(name)
        link = MemoryLink(self.broker, name, will=will_of(name))
        self.devices[name] = FakeDevice(link, name, self.folder, answer)
        self.broker.pump()
        return self.devices[name]

    def ask(self, name: str, action: str = "train", seed: int = 0, **options: Any) -> Message:
        content = RecordDict(
            {
                "arrays": ArrayRecord({"weights": Array(weights(seed))}),
                "config": ConfigRecord({"server-round": seed + 1}),
            }
        )
        return Message(content, node_of(name), action, group_id="1", **options)

    def push(self, name: str, **options: Any) -> str:
        """Send a task; its id."""
        (task,) = self.grid.push_messages([self.ask(name, **options)])
        self.broker.pump()
        return task

    def pull(self, *ids: str) -> list[Message]:
        self.broker.pump()
        return self.grid.pull_messages(ids)

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.grid.tick()
        self.broker.pump()


@pytest.fixture
def fleet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.grid.close()
    fleet.ledger.close()
    raised = [record.message for record in caplog.records if record.exc_info]
    assert not raised  # a link logs what its callbacks raise
