"""Real daemons and a server's process on a real broker: kills mid-round, and a hostile device."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from schemas.delta import BLOCK
from schemas.link import PahoLink
from schemas.payload import Payload
from schemas.wire import Accepted, Failed, Task, node_of
from tests.client import handmade
from tests.mosquitto import Mosquitto, program, running
from tests.server.transport.fake_device import FakeDevice, will_of

pytestmark = pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
ROOT = Path(__file__).parents[3]
NAMES = ["a", "b"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def logs(broker: Mosquitto, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Two daemons, as a person starts them; where each logs."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(daemon(broker, tmp_path / name)) for name in NAMES}


@contextmanager
def daemon(broker: Mosquitto, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    handmade.windows(folder / "windows")
    config, log = folder / "pi.toml", folder / "log"
    config.write_text(
        f'device = "{folder.name}"\nnumber = 3\nstate = "state"\n'
        f'[broker]\nhost = "127.0.0.1"\nport = {broker.port}\n[windows]\nfolder = "windows"\n'
    )
    words = [sys.executable, "-m", "client.cli", "run", "--config", str(config)]
    with log.open("wb") as said:
        process = subprocess.Popen([*words, "--socket", str(folder / "s")], cwd=ROOT, stderr=said)
    try:
        yield log
        assert process.poll() is None, f"the daemon ended: {log.read_text()[-1000:]}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


@contextmanager
def server(
    broker: Mosquitto, folder: Path, names: list[str], steps: int
) -> Iterator[subprocess.Popen[str]]:
    script = "tests.server.transport.handmade_server"
    words = [sys.executable, "-m", script, str(broker.port), str(folder)]
    words += [",".join(names), str(steps)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> dict[str, dict[str, str]]:
    """What the server came to."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    found: dict[str, dict[str, str]] = json.loads(output.splitlines()[-1])
    return found


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def trainings(log: Path, what: str) -> int:
    """How many lines of a log say so of a task that is a training."""
    lines = log.read_text().splitlines()
    tasks = [line.split("task ")[1][:8] for line in lines if ": train of run" in line]
    return sum(f"task {task}: {what}" in line for task in set(tasks) for line in lines)


class Row(NamedTuple):
    """The training in a device's own store: its whole id, and how often it was begun."""

    id: str | None
    attempts: int


def row_of(folder: Path) -> Row:
    """Look at it; a device of the real world would let nobody."""
    rows: list[tuple[str, int, str]] = []
    path = folder / "state" / "device.sqlite"
    not_made_yet = contextlib.suppress(sqlite3.OperationalError)
    with not_made_yet, contextlib.closing(sqlite3.connect(path)) as store:
        rows = store.execute("SELECT id, attempts, body FROM task").fetchall()
    return next((Row(*row[:2]) for row in rows if '"train"' in row[2]), Row(None, 0))


def check(found: dict[str, dict[str, str]], logs: dict[str, Path]) -> None:
    """Both devices have the same windows and number: they come to the same, and did it once."""
    answers = found["answers"]
    assert sorted(answers) == sorted(str(node_of(name)) for name in NAMES)
    assert len(set(answers.values())) == 1
    assert all(len(digest) == 64 for digest in answers.values()), answers
    for log in logs.values():
        assert trainings(log, "train of run") == 1
        assert trainings(log, "done in") == 1
        until(lambda log=log: trainings(log, "the server has the answer") == 1)  # type: ignore[misc]


def test_the_broker_is_killed_mid_round(
    broker: Mosquitto, logs: dict[str, Path], tmp_path: Path
) -> None:
    with server(broker, tmp_path / "server", NAMES, 3000) as process:
        until(lambda: all(row_of(log.parent).attempts for log in logs.values()))
        broker.kill()
        time.sleep(0.3)
        broker.start()
        check(said(process), logs)


def test_the_server_is_killed_mid_round(
    broker: Mosquitto, logs: dict[str, Path], tmp_path: Path
) -> None:
    with server(broker, tmp_path / "server", NAMES, 3000):
        until(lambda: all(row_of(log.parent).attempts for log in logs.values()))
    assert not any(trainings(log, "done in") for log in logs.values()), "killed too late"
    until(lambda: all(trainings(log, "done in") for log in logs.values()))  # with no server
    with server(broker, tmp_path / "server", NAMES, 3000) as process:
        check(said(process), logs)


def test_a_hostile_device_is_named_and_harms_nobody(
    broker: Mosquitto, logs: dict[str, Path], tmp_path: Path
) -> None:
    """It says things about another's task, and answers its own with NaN."""
    seen: list[Task] = []

    def poisoned(task: Task, asked: Payload) -> Payload:
        seen.append(task)
        if task.action != "train":
            return Payload()
        until(lambda: row_of(tmp_path / "a").id is not None)
        stolen = row_of(tmp_path / "a").id
        device.say(Accepted(), re=stolen)
        device.say(Failed(reason="sabotage"), re=stolen)
        codes = np.ones(handmade.LENGTH, np.int8)
        scales = np.full(-(-codes.size // BLOCK), np.nan, np.float32)
        lie = Payload(
            arrays={"delta": {"codes": codes, "scales": scales}},
            metrics={"metrics": {"num-examples": 3, "loss": 0.0, "seconds": 0.1}},
        )
        device.result(str(stolen), lie)
        return lie

    link = PahoLink(broker.host, broker.port, "evil", will=will_of("evil"))
    device = FakeDevice(link, "evil", tmp_path / "evil", poisoned)
    try:
        with server(broker, tmp_path / "server", [*NAMES, "evil"], 3000) as process:
            until(lambda: all(trainings(log, "train of run") for log in logs.values()))
            found = said(process)
    finally:
        link.close()
    why = found["answers"].pop(str(node_of("evil")))
    assert why == "refused: the change holds NaN or infinity"
    assert found["drops"]["evil foreign"] == 3
    check(found, logs)
