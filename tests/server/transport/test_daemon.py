"""The grid and the real daemon, whose work is a stub: the two sides speak one protocol."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from client.daemon import Daemon, state_message
from client.store import Store
from schemas.memory_link import MemoryBroker, MemoryLink
from schemas.objects import ObjectStore
from schemas.payload_object import pack, unpack
from schemas.signing import new_key, public_hex
from schemas.wire import Task, node_of
from server.transport import Ledger, MqttGrid
from tests.server.transport.fake_device import twice, weights


class Doubling:
    """Work that doubles what it gets; ``train.fails`` fails."""

    idle = 0.0

    def __init__(self, objects: ObjectStore) -> None:
        self.objects, self.asked = objects, 0

    def ask(
        self, request: dict[str, Any], seconds: float, give_up: Callable[[], bool]
    ) -> dict[str, Any]:
        self.asked += 1
        asked = unpack(self.objects.get(request["payload"]), self.objects.get)
        if "fails" in asked.config.get("config", {}):
            return {"error": "LearnerError: as it was told"}
        task = Task.model_construct()
        data, _ = pack(twice(task, asked))
        return {"payload": self.objects.put(data).model_dump(), "objects": [], "kept": None}

    def close(self) -> None:
        pass


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[MqttGrid, dict[str, Doubling]]]:
    broker, key = MemoryBroker(), new_key()
    ledger = Ledger(tmp_path / "ledger.sqlite", admit_all=True)
    objects = ObjectStore(tmp_path / "server", 1 << 28)
    broker.start()
    works, daemons = {}, []
    for name in "abc":
        store = Store(tmp_path / name / "store.sqlite")
        own = ObjectStore(tmp_path / name / "objects", 1 << 28)
        link = MemoryLink(broker, name, will=state_message(name, online=False))
        works[name] = Doubling(own)
        public = public_hex(key)
        daemon = Daemon(name, link, store, own, works[name], lambda: (True, ""), fleet_key=public)
        daemons.append(daemon)
        daemon.start()
    with MqttGrid(MemoryLink(broker, "server"), objects, ledger, key=key, interval=0.1) as grid:
        assert len(grid.wait_for(3, 5)) == 3
        yield grid, works
        for daemon in daemons:
            daemon.stop()
    broker.stop()
    ledger.close()


def message(name: str, seed: int, **config: bool) -> Message:
    from server.border import weights_record

    content = {"arrays": weights_record(weights(seed, 100_000)), "config": ConfigRecord(config)}
    return Message(RecordDict(content), node_of(name), "train", group_id="1")


def test_rounds(fleet: tuple[MqttGrid, dict[str, Doubling]]) -> None:
    grid, works = fleet
    for number in range(3):
        replies = grid.send_and_receive([message(n, number) for n in "abc"], timeout=10)
        assert [r.metadata.src_node_id for r in replies] == [node_of(n) for n in "abc"]
        for reply in replies:
            got = reply.content.array_records["delta"]["weights"].numpy()
            assert np.array_equal(got, 2 * weights(number, 100_000))
    assert [work.asked for work in works.values()] == [3, 3, 3]
    assert grid.drops() == {}


def test_a_device_that_fails(fleet: tuple[MqttGrid, dict[str, Doubling]]) -> None:
    grid, _ = fleet
    asked = [message("a", 1), message("b", 1, fails=True)]
    good, bad = grid.send_and_receive(asked, timeout=10)
    assert not good.has_error()
    assert "as it was told" in (bad.error.reason or "")
    assert grid.drops() == {}
