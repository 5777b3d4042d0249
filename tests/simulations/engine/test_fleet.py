"""Real daemons behind a real broker come to what LocalGrid comes to, and nothing of them stays."""

import contextlib
import os
import signal
import socket
import threading
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from simulations.config import load
from simulations.engine import fleet as fleets
from simulations.engine.fleet import device_of, fleet
from simulations.engine.local_grid import LocalGrid
from simulations.progress import Progress
from simulations.report.files import RunError
from simulations.report.metrics import macro_f1
from simulations.run import APP, StrategyRun, prepare
from simulations.world import open_world
from tests.mosquitto import program

pytestmark = pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
METHODS = ("semipfl", "fedavg")
FILE = """
name = "tiny"
rounds = 2
evaluate_every = 1
strategy = "semipfl"
baselines = ["fedavg"]
[data]
kind = "npz"
path = "{path}"
overlap = 0.0
label_fraction = 0.2
source_persons = 3
unseen_persons = 1
[model]
width = 4
latent = 4
[source]
steps = 5
persons_per_step = 2
windows_per_person = 8
[cohort]
timeout_seconds = 60
[upload]
encoding = "float32"
[strategies.semipfl]
variant = "joint"
reconstruction_steps = 5
"""


@pytest.fixture
def loaded(recordings_file, edge_cache, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(FILE.format(path=recordings_file))
    prepare()
    return load(path, ())


@pytest.fixture
def sockets(monkeypatch):
    """Folders of the daemons' sockets, as they are made."""
    made, make = [], fleets.tempfile.mkdtemp

    def noted(*arguments, **options):
        made.append(make(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(fleets.tempfile, "mkdtemp", noted)
    return made


def outcomes(grid, world, loaded, folder):
    with Progress(Console(file=StringIO(), width=200)) as quiet:
        return {name: StrategyRun(name, loaded, world, folder, quiet).run(grid) for name in METHODS}


def processes(folder: Path) -> list[str]:
    """Command lines that name a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().decode(errors="replace").replace("\0", " "))
    return [line for line in lines if str(folder) in line]


def daemon_of(folder: Path, node: int) -> int:
    """The process id of a node's daemon."""
    config = str(folder / "devices" / device_of(node) / "config.toml").encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if config in path.read_bytes():
                return int(path.parent.name)
    raise AssertionError(f"no daemon of node {node}")


def check_that_nothing_is_left(folder: Path, sockets: list[str], threads: set) -> None:
    end = time.monotonic() + 5
    while left := processes(folder):
        assert time.monotonic() < end, f"left running: {left}"
        time.sleep(0.05)
    (words,) = [
        line.split()
        for line in (folder / "broker" / "broker.conf").read_text().splitlines()
        if line.startswith("listener")
    ]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(words[1]))) != 0, "the broker still listens"
    assert sockets
    unix = Path("/proc/net/unix").read_text()
    for made in sockets:
        assert not Path(made).exists()
        assert made not in unix
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= threads


def test_a_fleet_equals_local_grid(loaded, sockets, tmp_path):
    threads = set(threading.enumerate())
    folder = tmp_path / "fleet"
    with open_world(loaded, tmp_path / "windows", lambda _: None) as world:
        with LocalGrid(APP, world.nodes, 2, 60) as grid:
            local = outcomes(grid, world, loaded, tmp_path / "local")
        with fleet(world.nodes, folder, 60, "tiny") as grid:
            assert grid.get_node_ids() == sorted(world.nodes)
            mqtt = outcomes(grid, world, loaded, tmp_path / "mqtt")
            assert grid.drops() == {}
    check_that_nothing_is_left(folder, sockets, threads)
    for name in METHODS:
        one, other = local[name], mqtt[name]
        assert one.failures == other.failures == {}
        assert one.confusion
        assert len(one.rounds) == 2
        for part in ("confusion", "unseen"):
            here, there = getattr(one, part), getattr(other, part)
            assert here.keys() == there.keys(), (name, part)
            for person, counts in here.items():
                assert np.array_equal(counts, there[person]), (name, part, person)
                assert macro_f1(counts) == pytest.approx(macro_f1(there[person]), abs=1e-6)
        for here, there in zip(one.rounds, other.rounds, strict=True):
            assert here.loss == pytest.approx(there.loss, abs=1e-6)
            assert here.macro_f1 == pytest.approx(there.macro_f1, abs=1e-6)
            assert (here.bytes_down, here.bytes_up) == (there.bytes_down, there.bytes_up)


def test_nothing_is_left_of_a_fleet_that_breaks(loaded, sockets, tmp_path):
    """A daemon that hangs, and an error of whoever uses the grid, while the others learn."""
    threads = set(threading.enumerate())
    folder = tmp_path / "fleet"
    with open_world(loaded, tmp_path / "windows", lambda _: None) as world:
        with contextlib.suppress(ZeroDivisionError), fleet(world.nodes, folder, 60) as grid:
            assert grid.get_node_ids()
            os.kill(daemon_of(folder, min(world.nodes)), signal.SIGSTOP)
            raise ZeroDivisionError
        check_that_nothing_is_left(folder, sockets, threads)


def test_a_fleet_whose_daemons_cannot_start_says_why(loaded, sockets, tmp_path, monkeypatch):
    monkeypatch.setattr(fleets, "_WAIT", 3.0)
    threads = set(threading.enumerate())
    nodes = {3: {"windows": str(tmp_path / "nowhere"), "partition-id": 0}}
    why = r"1 of 1 daemons are not online.*person-3 said:.*nowhere"
    with pytest.raises(RunError, match=why), fleet(nodes, tmp_path / "fleet", 60):
        pass
    check_that_nothing_is_left(tmp_path / "fleet", sockets, threads)
