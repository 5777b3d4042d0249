"""A link cut at any byte of a big transfer costs one chunk; and what a participation costs.

The daemon and the grid are real, and so is Mosquitto; the daemon's line goes through a proxy.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from client.daemon import Daemon, state_message
from client.store import Store
from schemas.link import PahoLink
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.payload_object import pack, unpack
from schemas.wire import CHUNK, node_of
from server.transport import Ledger, MqttGrid
from tests.mosquitto import program, running
from tests.tcp_proxy import Proxy, proxy

pytestmark = pytest.mark.skipif(program() is None, reason="mosquitto is not installed")

BIG = 5 << 20
SMALL_TALK = 300  # bytes for each chunk beside it: the request, its acknowledgement, headers
FIXED = 6_000  # a task's envelopes, and those of a new connection
# Of the bytes of the big object's way: its start, chunk borders (frames have some 60 bytes of
# headers), the middle of chunks, the end.
CUTS = [1, 200, CHUNK - 1, CHUNK + 41, CHUNK + 200, 3 * CHUNK // 2, 2 * CHUNK + 400]
CUTS += [5 * CHUNK, 17 * CHUNK + 77_777, BIG // 2, BIG - CHUNK + 100, BIG - 1]


class Stub:
    """Work that answers with random bytes, as many as the task says."""

    idle = 0.0

    def __init__(self, objects: ObjectStore) -> None:
        self.objects, self.asked, self.answers = objects, 0, list[int]()

    def ask(
        self, request: dict[str, Any], seconds: float, give_up: Callable[[], bool]
    ) -> dict[str, Any]:
        self.asked += 1
        asked = unpack(self.objects.get(request["payload"]), self.objects.get)
        count = int(asked.config["config"]["answer"])
        weights = noise(self.asked, count)
        data, _ = pack(Payload(arrays={"delta": {"weights": weights}}))
        self.answers.append(len(data))
        return {"payload": self.objects.put(data).model_dump(), "objects": [], "kept": None}

    def close(self) -> None:
        pass


def noise(seed: int, count: int) -> Any:
    """Bytes that no compression makes shorter."""
    return np.frombuffer(np.random.default_rng(seed).bytes(count), np.uint8)


class Line:
    """A grid, a daemon, and the proxy between the broker and the daemon."""

    def __init__(self, grid: MqttGrid, objects: ObjectStore, work: Stub, proxy: Proxy) -> None:
        self.grid, self.objects, self.work, self.proxy = grid, objects, work, proxy
        self.count = 0

    def round_trip(self, down: int, up: int) -> tuple[int, int]:
        """Send so many bytes for so many; lengths of the task's and the answer's objects."""
        self.count += 1
        before = set(self.objects.names())
        content = RecordDict(
            {
                "arrays": ArrayRecord({"weights": Array(noise(1000 + self.count, down))}),
                "config": ConfigRecord({"answer": up}),
            }
        )
        (reply,) = self.grid.send_and_receive(
            [Message(content, node_of("pi"), "train", group_id="1")], timeout=25
        )
        assert not reply.has_error(), reply.error.reason
        got = reply.content.array_records["delta"]["weights"].numpy()
        assert np.array_equal(got, noise(self.work.asked, up))
        assert self.work.asked == self.count, "it was done twice"
        sizes = {name: self.objects.ref(name).bytes for name in self.objects.names()}
        answer = self.work.answers[-1]
        fresh = [size for name, size in sizes.items() if name not in before]
        fresh.remove(answer)
        return sum(fresh), answer

    def settled(self) -> dict[str, int]:
        """What crossed, once nothing more comes."""
        crossed: dict[str, int] = {}
        while crossed != self.proxy.crossed:
            crossed = dict(self.proxy.crossed)
            time.sleep(0.1)
        return crossed


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    with ExitStack() as stack:
        broker = stack.enter_context(running(folder / "broker", "set_tcp_nodelay true"))
        through = stack.enter_context(proxy(broker.port))
        ledger = Ledger(folder / "ledger.sqlite")
        stack.callback(ledger.close)
        ledger.add_device("pi")
        objects = ObjectStore(folder / "server", 1 << 30)
        link = PahoLink(broker.host, broker.port, "server")
        grid = stack.enter_context(MqttGrid(link, objects, ledger, interval=0.1))
        store, own = Store(folder / "pi.sqlite"), ObjectStore(folder / "pi", 1 << 30)
        stack.callback(store.close)
        work = Stub(own)
        will = state_message("pi", online=False)
        device = PahoLink(broker.host, through.port, "pi", will=will, backoff=(0.05, 0.2))
        daemon = Daemon("pi", device, store, own, work, lambda: (True, ""))
        daemon.start()
        stack.callback(daemon.stop)
        assert grid.wait_for(1, 10)
        yield Line(grid, objects, work, through)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("way", ["down", "up"])
def test_a_cut_costs_one_chunk(line: Line, way: str, cut: int) -> None:
    line.settled()
    line.proxy.reset()
    line.proxy.cut_after("down" if way == "down" else "up", cut)
    down, up = line.round_trip(*((BIG, 10) if way == "down" else (10, BIG)))
    crossed = line.settled()
    assert line.proxy.cuts == 1
    size = {"down": down, "up": up}[way]
    assert size > BIG
    talk = FIXED + SMALL_TALK * (size // CHUNK + 2)
    assert size <= crossed[way] <= size + CHUNK + talk
    other = crossed["up" if way == "down" else "down"]
    assert other <= 2 * (FIXED + talk), "the other way has small talk only"


@pytest.mark.parametrize(("down", "up"), [(BIG, BIG), (150_000, 40_000), (2_000, 2_000)])
def test_a_participation_is_within_a_tenth_and_2_kb(line: Line, down: int, up: int) -> None:
    line.settled()
    line.proxy.reset()
    sent, answered = line.round_trip(down, up)
    crossed = line.settled()
    payload = sent + answered
    assert line.proxy.cuts == 0
    beside = sum(crossed.values()) - payload
    assert beside <= 0.1 * payload + 2_048, f"{crossed} for a payload of {payload}"
