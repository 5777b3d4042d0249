"""Several strategies of a run at once: the same numbers, and what becomes of processes that end."""

import errno
import json
import os
import signal
import sys
import time
from contextlib import suppress
from io import StringIO

import pytest
from rich.console import Console

from simulations import jobs as processes
from simulations import run as runs
from simulations.ahead import Ahead, claimed, place_of
from simulations.config import load
from simulations.progress import Progress
from simulations.report.folder import RunFolder
from tests.processes import alive

NAMES = ("fedavg", "finetune", "ditto")
BASELINES = 'baselines=["finetune", "ditto"]'


@pytest.fixture
def loaded(simulation_file):
    return load(simulation_file, [BASELINES])


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """It is drawn from the outcomes, which are what these tests look at."""
    monkeypatch.setattr(RunFolder, "write", lambda *_: None)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create("tiny", tmp_path / "out")


def lines(quiet):
    return quiet.console.file.getvalue().splitlines()


def until(happens):
    end = time.monotonic() + 90
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def first_waits(quiet, monkeypatch, happens):
    """Keep this process at its first strategy's start; return the names that it begins."""
    begun, begin = [], quiet.begin

    def waiting(name, rounds):
        begun.append(name)
        if len(begun) == 1:
            until(happens)
        begin(name, rounds)

    monkeypatch.setattr(quiet, "begin", waiting)
    return begun


def results(folder):
    """What strategies came to, without their clocks."""
    found = {}
    for name in NAMES:
        fields = json.loads((folder / "checkpoint" / f"{name}.json").read_text())["outcome"]
        for record in (fields, *fields["rounds"]):
            for clock in ("wall_seconds", "device_seconds", "evaluation_seconds", "seconds"):
                record.pop(clock, None)
        found[name] = fields
    return found


@pytest.fixture(scope="session")
def alone(stage, tmp_path_factory):
    """The same strategies, one after the other."""
    on, place = stage(BASELINES), tmp_path_factory.mktemp("alone")
    with Progress(Console(file=StringIO())) as progress:
        for name in NAMES:
            runs.StrategyRun(name, on.loaded, on.world, place / "checkpoint", progress).run(on.grid)
    return results(place)


def test_jobs_come_to_the_same(loaded, folder, quiet, alone, monkeypatch):
    last = folder.path / "checkpoint" / "ditto.json"
    begun = first_waits(quiet, monkeypatch, last.exists)
    summary = runs.run(loaded, folder, quiet, jobs=2).summary
    assert begun[0] == "fedavg"
    assert "ditto" not in begun
    assert [summary.strategy, *(each.strategy for each in summary.baselines)] == [*NAMES]
    assert results(folder.path) == alone
    assert [line for line in lines(quiet) if line.startswith("ditto: macro-F1")]
    assert not list(folder.path.glob(".*"))


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "it was ended by signal 9"),
        ("import sys; sys.exit(3)", "it ended with exit code 3"),
    ],
)
def test_a_process_that_ends_is_told_of_and_leaves_its_strategies(
    folder, quiet, monkeypatch, program, how
):
    monkeypatch.setattr(processes, "command", lambda _: [sys.executable, "-c", program])
    said = f"a process beside this one gave up, this one goes on: {how}"
    with Ahead(folder.path, NAMES, 2, quiet) as ahead:
        until(lambda: said in lines(quiet))
        for name in NAMES:
            with ahead.claim(name):
                pass
    assert lines(quiet) == [said]
    assert not place_of(folder.path).exists()


WHOLE = """
import numpy as np
from flwr.app import Array, ArrayRecord
from server.strategies.averaging import FedAvg
class Whole(FedAvg):
    def aggregate_train(self, server_round, replies):
        made, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord({"weights": Array(made["weights"].numpy().astype(np.int64))}), metrics
"""


def test_a_baseline_that_fails_beside_this_process_is_named(
    simulation_file, folder, quiet, installed, monkeypatch, tmp_path
):
    (tmp_path / "whole_strategies.py").write_text(WHOLE)
    installed("whole", "whole_strategies:Whole")
    loaded = load(simulation_file, ["strategy='source'", "baselines=['whole']"])
    failed = "it will be tried once more"
    begun = first_waits(quiet, monkeypatch, lambda: any(failed in line for line in lines(quiet)))
    finished = runs.run(loaded, folder, quiet, jobs=2)
    assert begun == ["source", "whole"]
    assert finished.summary.failed == ["whole"]
    (said,) = [note for note in finished.summary.notes if "returned weights int64[" in note]
    assert failed not in said


def test_an_interrupted_run_ends_all_and_can_go_on(loaded, folder, quiet, monkeypatch, alone):
    """Ctrl-C while both are at work."""
    pids = []
    start = processes.Job.__init__

    def started(self, *words):
        start(self, *words)
        pids.append(self._process.pid)

    monkeypatch.setattr(processes.Job, "__init__", started)
    checkpoints = folder.path / "checkpoint"
    with monkeypatch.context() as patch:

        def interrupted(name, rounds):
            until((checkpoints / "ditto.safetensors").exists)
            raise KeyboardInterrupt

        patch.setattr(quiet, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runs.run(loaded, folder, quiet, jobs=2)
    assert len(pids) == 1
    assert not alive(pids[0])
    assert not list(folder.path.glob(".jobs*"))
    runs.run(loaded, folder, quiet)
    assert results(folder.path) == alone


def test_one_that_cannot_be_started_takes_the_others_along(folder, quiet, monkeypatch):
    made = []

    def sleeper(_):
        if made:
            raise OSError(errno.EAGAIN, "no more processes")
        made.append(None)
        return [sys.executable, "-c", _SLEEPS]

    monkeypatch.setattr(processes, "command", sleeper)
    ahead = Ahead(folder.path, NAMES, 3, quiet)
    with pytest.raises(OSError, match="no more processes"), ahead:
        pass
    assert not alive(ahead._running[0]._job._process.pid)
    assert not place_of(folder.path).exists()


def test_a_killed_run_takes_its_processes_along(folder, tmp_path, quiet):
    """And what it left is gone when it goes on."""
    child = os.fork()
    if not child:
        with suppress(BaseException):
            sleeper = [sys.executable, "-c", _SLEEPS]
            processes.command = lambda _: sleeper
            with Ahead(folder.path, NAMES, 2, quiet) as ahead:
                (tmp_path / "pid").write_text(str(ahead._running[0]._job._process.pid))
                time.sleep(60)
        os._exit(0)
    pid = tmp_path / "pid"
    until(lambda: pid.exists() and pid.read_text())
    until((folder.path / ".jobs").is_dir)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    until(lambda: not alive(int(pid.read_text())))
    assert place_of(folder.path).is_dir()
    with Ahead(folder.path, NAMES, 1, quiet) as ahead, ahead.claim("fedavg"):
        assert not place_of(folder.path).exists()


_SLEEPS = """
import time
from simulations.job import serve
serve(lambda request, relay: time.sleep(600), 1.0)
"""


def test_a_strategy_is_one_process_s(tmp_path):
    place_of(tmp_path).mkdir()
    with claimed(tmp_path, "fedavg") as mine:
        assert mine
        with claimed(tmp_path, "fedavg") as theirs, claimed(tmp_path, "ditto") as other:
            assert not theirs
            assert other
    with claimed(tmp_path, "fedavg", wait=True) as mine:
        assert mine


def test_no_more_processes_than_strategies_are_left(folder, quiet):
    with Ahead(folder.path, ["fedavg"], 8, quiet) as ahead:
        assert ahead.jobs == 1
    with Ahead(folder.path, [], 2, quiet) as ahead:
        assert ahead.jobs == 1
