"""A real daemon whose broker is killed at every stage of a task, and comes back knowing nothing."""

import time

import pytest

from schemas.link import PahoLink
from tests.client import handmade
from tests.client.hub import Hub
from tests.client.process import DEVICE, Process, install
from tests.client.test_daemon_killed import reference, same
from tests.mosquitto import program, running

pytestmark = pytest.mark.skipif(program() is None, reason="mosquitto is not installed")


@pytest.fixture
def broker(tmp_path):
    with running(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def process(broker, tmp_path):
    handmade.windows(tmp_path / "windows")
    process = Process(tmp_path, broker.port)
    yield process
    if process.child.poll() is None:
        process.end()
    process.log.close()


@pytest.fixture
def hub(broker, process):
    link = PahoLink("127.0.0.1", broker.port, "server", backoff=(0.1, 0.5))
    hub = Hub(link, DEVICE)
    assert link.wait_connected(10)
    process.start()
    hub.until(lambda: any(state.online for state in hub.states))
    yield hub
    link.close()


def killed(hub, broker, away=0.3) -> None:
    """Kill the broker and all that it remembers; start it; the device has said that it is back."""
    broker.kill()
    for memory in broker.folder.glob("*.db*"):
        memory.unlink()
    hub.states.clear()
    time.sleep(away)
    broker.start()
    hub.until(lambda: any(state.online for state in hub.states), 30)


def while_downloading(hub, broker, question):
    hub.serve = lambda number: number < 3
    task = hub.task("train", question)
    hub.until(lambda: hub.asked[-1][1] == 3)
    hub.serve = lambda number: True
    killed(hub, broker)
    return task


def while_learning(hub, broker, question):
    task = hub.task("train", question)
    hub.until(lambda: hub.asked and hub.asked[-1][1] == 5)
    time.sleep(0.2)
    broker.kill()
    assert hub.kinds(task) == ["accepted"]
    broker.start()
    return task


def while_uploading(hub, broker, question):
    hub.fetch = False
    task = hub.task("train", question)
    hub.until(lambda: "result" in hub.kinds(task))
    hub.ask(task)
    hub.until(lambda: hub.came[hub.events[task][-1].body.payload.sha256])
    hub.fetch = True
    killed(hub, broker)
    hub.ask(task)  # the device may have said its result before the hub was back
    return task


def when_nobody_confirmed(hub, broker, question):
    hub.confirm = False
    task = hub.task("train", question)
    hub.answered(task)
    killed(hub, broker)
    hub.received(task)
    return task


@pytest.mark.parametrize(
    "kill",
    [while_downloading, while_learning, while_uploading, when_nobody_confirmed],
    ids=lambda function: function.__name__,
)
def test_the_broker_is_killed(hub, broker, process, tmp_path, kill):
    graphs = install(hub)
    steps = 5000 if kill is while_learning else 2
    questions = [handmade.training(graphs, 1, steps), handmade.training(graphs, 2)]
    task = kill(hub, broker, questions[0])
    first = hub.until(lambda: hub.answers.get(task), 40)
    hub.confirm = True
    again = hub.task("train", questions[1])
    second = hub.until(lambda: hub.answers.get(again), 40)
    assert process.child.poll() is None
    results = [each for each in hub.events[task] if each.body.kind == "result"]
    assert len({each.body.model_dump_json() for each in results}) == 1
    expected = reference(tmp_path, graphs, *questions)
    assert same(first.arrays, expected[0]), "the work was lost or done twice"
    assert same(second.arrays, expected[1]), "what the device keeps is not that of one training"
    said = process.said()
    assert said.count(f"task {task[:8]}: done in") == 1
    assert "connection lost" in said
    asked = [number for name, number in hub.asked if name == hub.asked[0][0]]
    assert len(asked) <= len(set(asked)) + 2
