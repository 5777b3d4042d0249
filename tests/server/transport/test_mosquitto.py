"""The grid over a real Mosquitto: the broker killed mid-round, the server killed mid-round."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.link import PahoLink
from schemas.payload import Payload
from schemas.wire import Task, node_of
from tests.mosquitto import Mosquitto, program, running
from tests.server.transport.fake_device import FakeDevice, twice, weights, will_of

pytestmark = pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
ROOT = Path(__file__).parents[3]
NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(tmp_path / "broker") as broker:
        yield broker


@contextmanager
def server(broker: Mosquitto, folder: Path) -> Iterator[subprocess.Popen[str]]:
    script = "tests.server.transport.server_process"
    words = [sys.executable, "-m", script, str(broker.port), str(folder), ",".join(NAMES)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def devices(broker: Mosquitto, tmp_path: Path) -> Iterator[dict[str, FakeDevice]]:
    """Four devices; the last two answer when the gate opens."""
    gate = threading.Event()

    def gated(task: Task, asked: Payload) -> Payload:
        gate.wait(15)
        return twice(task, asked)

    def device(name: str) -> FakeDevice:
        link = PahoLink(broker.host, broker.port, name, will=will_of(name))
        stack.callback(link.close)
        return FakeDevice(link, name, tmp_path, gated if name in "cd" else twice)

    with ExitStack() as stack:
        stack.callback(gate.set)
        found: dict[str, Any] = {name: device(name) for name in NAMES}
        found["gate"] = gate
        yield found


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def check(answers: str, devices: dict[str, Any]) -> None:
    expected = {
        str(node_of(name)): float((2 * weights(at, 100_000))[:10].sum())
        for at, name in enumerate(NAMES)
    }
    got = json.loads(answers)
    assert list(got) == list(expected)
    assert np.allclose(list(got.values()), list(expected.values()), rtol=1e-6)
    assert [len(devices[name].done) for name in NAMES] == [1, 1, 1, 1]


def test_the_broker_is_killed_mid_round(
    broker: Mosquitto, devices: dict[str, Any], tmp_path: Path
) -> None:
    with server(broker, tmp_path / "server") as process:
        until(lambda: bool(devices["a"].received and devices["b"].received))
        until(lambda: bool(devices["c"].done and devices["d"].done))
        broker.kill()
        devices["gate"].set()  # they finish while there is no broker
        time.sleep(0.3)
        broker.start()
        answers, _ = process.communicate(timeout=30)
    check(answers, devices)
    assert process.returncode == 0


def test_the_server_is_killed_mid_round(
    broker: Mosquitto, devices: dict[str, Any], tmp_path: Path
) -> None:
    with server(broker, tmp_path / "server"):
        until(lambda: bool(devices["a"].received and devices["b"].received))
        until(lambda: bool(devices["c"].done and devices["d"].done))
    said = {name: list(devices[name].said) for name in "ab"}
    devices["gate"].set()  # they finish while there is no server
    with server(broker, tmp_path / "server") as process:
        answers, _ = process.communicate(timeout=30)
    check(answers, devices)
    assert {name: devices[name].said for name in "ab"} == said  # the answered are not sent again
