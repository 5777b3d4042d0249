"""A sweep's groups at once: the same numbers, and what becomes of processes that end early."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from simulations import jobs, sweep_jobs
from simulations.data.base import DataError
from simulations.exits import INTERRUPTED
from simulations.report.files import RunError
from simulations.sweep import run_sweep
from simulations.sweep_cells import load_sweep, tasks_of, windows_of
from tests.processes import alive

SWEEP = """
name = "grid"
base = "tiny.toml"
grids = [{label_fractions = [0.2], seeds = [0, 1]}]
methods = [
  {label = "a", strategy = "source"},
  {label = "b", strategy = "finetune", set = ["strategies.finetune.head_steps=2"]},
]
"""
LONG = """
name = "grid"
base = "tiny.toml"
set = ["rounds=2000", "evaluate_every=2000"]
grids = [{label_fractions = [0.2], seeds = [0, 1]}]
methods = [{label = "a", strategy = "fedavg"}]
"""


@pytest.fixture
def sweep_file(simulation_file):
    path = simulation_file.with_name("sweep.toml")
    path.write_text(SWEEP)
    return path


class Lines:
    """What a sweep says."""

    def __init__(self, quiet):
        self.lines = []
        quiet.note = self.lines.append
        self.progress = quiet


@pytest.fixture
def told(quiet):
    return Lines(quiet)


def numbers(folder):
    """What does not depend on the machine."""
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    timed = {key for key in rows[0] if "second" in key}
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


def test_jobs_come_to_the_same(sweep_file, told, tmp_path):
    loaded = load_sweep(sweep_file)
    run_sweep(loaded, tmp_path / "one", told.progress)
    told.lines.clear()
    run_sweep(loaded, tmp_path / "many", told.progress, jobs=2)
    assert numbers(tmp_path / "many") == numbers(tmp_path / "one")
    assert len(numbers(tmp_path / "one")) == 4
    said = [re.search(r"done; (\d) of 4 cells done", line) for line in told.lines]
    assert [int(found[1]) for found in said if found] == list(range(1, 5))
    assert any(line.startswith("b  f = 0.2  seed 1: finetune: macro-F1") for line in told.lines)
    assert not list((tmp_path / "many").glob(".windows*"))
    told.lines.clear()
    run_sweep(loaded, tmp_path / "many", told.progress, jobs=2)
    assert told.lines == [f"grid: 0 cells to run, into {tmp_path / 'many'}"]


def test_seeds_come_by_turns(sweep_file):
    """Two groups of one seed at once would both train the sources' model."""
    tasks = list(tasks_of(load_sweep(sweep_file)))
    groups = [[task] for task in sorted(tasks, key=lambda task: task.loaded.config.seed)]
    turns = sweep_jobs._by_turns(groups)
    assert [group[0].loaded.config.seed for group in turns] == [0, 1] * 2
    assert sorted(group[0].key for group in turns) == sorted(task.key for task in tasks)


def test_what_ends_a_sweep_ends_it(sweep_file, told, tmp_path):
    sweep_file.write_text(SWEEP.replace("grids =", "set = [\"data.path='none.npz'\"]\ngrids ="))
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        run_sweep(load_sweep(sweep_file), tmp_path / "out", told.progress, jobs=2)


def test_a_file_that_changed_meanwhile_is_refused(sweep_file, told, tmp_path):
    loaded = load_sweep(sweep_file)
    sweep_file.write_text(SWEEP.replace('"b"', '"c"'))
    with pytest.raises(RunError, match=r"sweep\.toml: was changed while its sweep began"):
        run_sweep(loaded, tmp_path / "out", told.progress, jobs=2)


class Running:
    """``flwr-sim sweep --jobs 2`` in a process."""

    def __init__(self, file, out):
        self.out = out
        command = [sys.executable, "-c", "from simulations.cli import main; main()"]
        self.process = subprocess.Popen(
            [*command, "sweep", str(file), "--out", str(out), "--jobs", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def jobs(self):
        """Their process ids."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                words = stat.with_name("cmdline").read_text()
                if int(fields[1]) == self.process.pid and "sweep_job" in words:
                    found.append(int(stat.parent.name))
        return found

    def begun(self):
        """Both jobs, when both are in a cell's rounds."""
        end = time.monotonic() + 90
        while len(list(self.out.glob("checkpoint/*/fedavg.safetensors"))) < 2:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        return self.jobs()


@pytest.fixture
def running(sweep_file, tmp_path):
    sweep_file.write_text(LONG)
    it = Running(sweep_file, tmp_path / "out")
    yield it
    with suppress(ProcessLookupError):
        os.killpg(it.process.pid, signal.SIGKILL)
    it.process.communicate()


def gone(pids):
    end = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, "orphans"
        time.sleep(0.02)


def test_ctrl_c_ends_all_and_leaves_checkpoints(running):
    jobs = running.begun()
    assert len(jobs) == 2
    running.process.send_signal(signal.SIGINT)
    out, said = running.process.communicate(timeout=60)
    assert (running.process.returncode, out) == (INTERRUPTED, "")
    assert said.splitlines()[-1].startswith("flwr-sim: interrupted")
    assert "Traceback" not in said
    gone(jobs)
    assert not list(running.out.glob(".windows*"))
    assert len(list(running.out.glob("checkpoint/*/fedavg.safetensors"))) == 2


def test_jobs_end_with_a_sweep_that_is_killed(running):
    jobs = running.begun()
    running.process.kill()
    gone(jobs)


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9"),
        ("import sys; sys.exit(3)", "ended with exit code 3"),
    ],
)
def test_a_job_that_ends_costs_its_own_cells_alone(
    sweep_file, told, tmp_path, monkeypatch, program, how
):
    """Those of the first seed: the program spares the other."""
    python, flag, boot, path = jobs.command("simulations.sweep_job")
    boot = f"import json, sys\nif 's0-' in sys.argv[-1]: {program}\n{boot}"
    monkeypatch.setattr(jobs, "command", lambda _: [python, flag, boot, path])
    with pytest.raises(RunError) as caught:
        run_sweep(load_sweep(sweep_file), tmp_path / "out", told.progress, jobs=2)
    *lines, last = str(caught.value).splitlines()
    assert lines == [f"{each}  f = 0.2  seed 0: the process that ran it {how}" for each in "ab"]
    assert last.startswith("no result of 2 cells")
    assert {row["seed"] for row in numbers(tmp_path / "out")} == {"1"}


def test_windows_of_a_killed_sweep_are_removed(sweep_file, told, tmp_path):
    out = tmp_path / "out"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = windows_of(out, dead.pid)
    halves = [left.with_name(f".{left.name}.{kind}") for kind in ("part", "old")]
    alive = windows_of(out, os.getppid())
    others = [alive, alive.with_name(f".{alive.name}.part"), out / f".windows-elsewhere-{dead.pid}"]
    for folder in (left, *halves, *others):
        folder.mkdir(parents=True)
    run_sweep(load_sweep(sweep_file), out, told.progress, seeds=[1], jobs=1)
    assert all(folder.is_dir() for folder in others)
    assert not any(folder.exists() for folder in (left, *halves))
