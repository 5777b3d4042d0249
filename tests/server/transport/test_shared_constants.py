"""A real daemon gets a constant of two graphs once, over a real broker, and keeps it on disk."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from flwr.app import Message
from numpy.typing import NDArray

from schemas.constants import constant_bytes
from schemas.drift import CONDITION, RECORD, Drift
from schemas.link import PahoLink
from schemas.npy import array_values, npy_bytes
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.plan import Plan
from schemas.wire import node_of
from server.graph_constants import apart
from server.install import InstallError, install
from server.transport import Ledger, MqttGrid
from server.transport.records import records_of
from tests.client import handmade
from tests.mosquitto import program, running
from tests.server.transport.test_real_daemons import daemon

pytestmark = pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
NODE = node_of("a")


class Counting(MqttGrid):
    """Notes what each installation brings."""

    brought: list[set[str]]

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        messages = list(messages)
        for message in messages:
            if message.metadata.message_type == "query.install":
                self.brought.append(set(message.content.config_records["graphs"]))
        return super().send_and_receive(messages, timeout=timeout)


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Counting]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add_device("a")
    with running(tmp_path / "broker") as broker, daemon(broker, tmp_path / "a"):
        link = PahoLink("127.0.0.1", broker.port, "server", backoff=(0.1, 0.5))
        objects = ObjectStore(tmp_path / "objects", 1 << 28)
        with Counting(link, objects, ledger, interval=0.1) as grid:
            grid.brought = []
            assert grid.wait_for(1, 20) == [NODE]
            yield grid
    ledger.close()


def condition(grid: Counting, graph: str, statistics: str) -> str | NDArray[np.float32]:
    """What a graph makes of the device's windows, or why it does not."""
    plan = Plan(
        length=handmade.LENGTH,
        statistics=statistics,
        report={CONDITION: graph},
        drift=Drift(backbone="ab" * 32, threshold=0.1, begin=True),
    )
    told = Payload(config={"config": {"plan": plan.model_dump_json(), "server-round": 1}})
    asked = Message(records_of(told), NODE, "query.drift", group_id="1")
    (reply,) = grid.send_and_receive([asked], timeout=30)
    if reply.has_error():
        return str(reply.error.reason)
    assert reply.content.config_records[RECORD]["choice"] == "ask"
    return array_values(reply.content.array_records["report"][CONDITION])


def truth(graph: bytes, folder: Path) -> NDArray[np.float32]:
    vectors = {name: np.zeros(handmade.CHANNELS) for name in ("input_mean", "input_deviation")}
    given = {"weights": np.zeros(handmade.LENGTH), **vectors}
    feed = {name: array.astype(np.float32) for name, array in given.items()}
    feed["windows"] = np.load(folder / "train.npy")
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, feed)[0]
    return found


def test_a_constant_of_two_graphs_travels_once_and_gives_the_same_numbers(
    grid: Counting, tmp_path: Path
) -> None:
    wholes = [handmade.wide(turned=turned) for turned in (False, True)]
    (one, constants), (other, _) = map(apart, wholes)
    ((constant, data),) = constants.items()
    parts = {sha256(part).hexdigest(): part for part in (handmade.statistics(), one, other, data)}
    statistics, *names, _ = parts
    cache = tmp_path / "a" / "state" / "graphs"

    def asked(name: str) -> str | NDArray[np.float32]:
        return condition(grid, name, statistics)

    install(grid, {name: parts[name] for name in (statistics, names[0], constant)}, 30)
    install(grid, parts, 30)
    assert grid.brought == [{statistics, names[0], constant}, {names[1]}]
    assert sorted(path.name for path in cache.iterdir()) == sorted(
        [f"{constant}.npy", *(f"{name}.onnx" for name in (statistics, *names))]
    )
    (cache / f"{constant}.npy").write_bytes(data[:-1])
    assert f"constant {constant[:12]}: its bytes do not match its name" in str(asked(names[0]))
    assert f"constant {constant[:12]} is not on this device" in str(asked(names[0]))
    install(grid, parts, 30)
    assert grid.brought[2:] == [{constant}]
    for name, whole in zip(names, wholes, strict=True):
        np.testing.assert_array_equal(asked(name), truth(whole, tmp_path / "a" / "windows"))


def test_a_constant_that_does_not_fit_is_refused_and_said(grid: Counting) -> None:
    wrong = npy_bytes(np.zeros(1024))
    with pytest.raises(InstallError, match=r"float64\[1024\]; expected float32 of one axis"):
        install(grid, {sha256(wrong).hexdigest(): wrong}, 30)
    short, data = constant_bytes(np.zeros(1000, np.float32))
    model = onnx.load_from_string(apart(handmade.wide())[0])
    model.graph.initializer[0].external_data[0].value = short
    graph = model.SerializeToString()
    parts = {sha256(part).hexdigest(): part for part in (handmade.statistics(), graph, data)}
    install(grid, parts, 30)
    statistics, name, _ = parts
    assert f"constant {short[:12]} has 1000 numbers; its shape is [2, 512]" in str(
        condition(grid, name, statistics)
    )
