"""A real daemon on a real broker, killed at every stage: nothing is lost, nothing done twice."""

import time

import numpy as np
import pytest

from client.device import Device
from client.graphs import GraphStore
from client.learner import Learner
from client.windows import PersonWindows
from schemas.link import PahoLink
from tests.client import handmade
from tests.client.hub import Hub
from tests.client.process import DEVICE, NUMBER, Process, install
from tests.mosquitto import running


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with running(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def process(broker, tmp_path):
    handmade.windows(tmp_path / "windows")
    process = Process(tmp_path, broker.port)
    yield process
    if process.child.poll() is None:
        process.end()
    process.log.close()
    deadline = time.monotonic() + 5
    while process.learning():
        assert time.monotonic() < deadline, "a process that learns was left running"
        time.sleep(0.05)


@pytest.fixture
def hub(broker, process):
    link = PahoLink("127.0.0.1", broker.port, "server")
    hub = Hub(link, DEVICE)
    assert link.wait_connected(30)
    process.start()
    hub.until(lambda: any(state.online for state in hub.states))
    yield hub
    link.publish(f"flwr/v1/{DEVICE}/state", b"", retain=True)
    link.close()


@pytest.fixture
def graphs(hub):
    """Installed as a server does it; their digests."""
    return install(hub)


def reference(folder, graphs, *questions):
    """What an unbroken device answers."""
    store = GraphStore(folder / "state" / "graphs")
    learner = Learner(PersonWindows.open(folder / "windows"), store)
    device = Device(store, lambda: learner, NUMBER)
    return [device.answer("train", question).arrays for question in questions]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[record][name], other[record][name])
        for record in one
        for name in one[record]
    )


def kill_while_downloading(hub, process, graphs, question):
    hub.serve = lambda number: number < 3
    task = hub.task("train", question)
    hub.until(lambda: hub.asked[-1][1] == 3)
    process.end()
    hub.serve = lambda number: True
    return task


def kill_while_learning(hub, process, graphs, question):
    task = hub.task("train", question)
    hub.until(lambda: hub.asked and hub.asked[-1][1] == 5)
    time.sleep(0.4)
    assert process.learning()
    process.end()
    assert hub.kinds(task) == ["accepted"]
    return task


def kill_while_uploading(hub, process, graphs, question):
    hub.fetch = False
    task = hub.task("train", question)
    hub.until(lambda: "result" in hub.kinds(task))
    hub.ask(task)
    hub.until(lambda: hub.came[hub.events[task][-1].body.payload.sha256])
    process.end()
    hub.fetch = True
    return task


def kill_before_it_is_confirmed(hub, process, graphs, question):
    hub.confirm = False
    task = hub.task("train", question)
    hub.answered(task)
    process.end()
    hub.confirm = True
    return task


def kill_after_it_is_confirmed(hub, process, graphs, question):
    task = hub.task("train", question)
    hub.answered(task)
    hub.until(lambda: "has the answer" in process.said().split(task[:8])[-1])
    process.end()
    return task


def kill_again_and_again(hub, process, graphs, question):
    task = hub.task("train", question)
    for wait in (0.1, 0.3, 0.6):
        time.sleep(wait)
        process.end()
        process.start()
    time.sleep(0.2)
    process.end()
    return task


@pytest.mark.parametrize(
    "kill",
    [
        kill_while_downloading,
        kill_while_learning,
        kill_while_uploading,
        kill_before_it_is_confirmed,
        kill_after_it_is_confirmed,
        kill_again_and_again,
    ],
    ids=lambda function: function.__name__,
)
def test_killed(hub, process, graphs, tmp_path, kill):
    steps = 5000 if kill in (kill_while_learning, kill_again_and_again) else 2
    questions = [handmade.training(graphs, 1, steps), handmade.training(graphs, 2)]
    task = kill(hub, process, graphs, questions[0])
    before = hub.times_online
    process.start()
    hub.until(lambda: hub.times_online > before)  # what is said to who is away is lost
    first = hub.answered(task)
    second = hub.answered(hub.task("train", questions[1]))
    said = [envelope for envelope in hub.events[task] if envelope.body.kind == "result"]
    assert len({envelope.body.model_dump_json() for envelope in said}) == 1
    expected = reference(tmp_path, graphs, *questions)
    assert same(first.arrays, expected[0]), "the work was lost or done twice"
    assert same(second.arrays, expected[1]), "what the device keeps is not that of one training"
    if kill is kill_while_downloading:
        asked = [number for name, number in hub.asked if name == hub.asked[-1][0]]
        assert len(asked) <= len(set(asked)) + 1
