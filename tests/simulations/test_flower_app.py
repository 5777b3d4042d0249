"""The repository as a Flower app, run by ``flwr run`` for real."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from simulations import flower_app
from simulations.config import load
from simulations.progress import Progress
from simulations.report.files import RunError
from simulations.report.folder import RunFolder
from simulations.run import run
from tests.mosquitto import free_port

ROOT = Path(__file__).parents[2]
FILE = """
name = "tiny"
rounds = 3
evaluate_every = 2
strategy = "fedavg"
baselines = ["fedper", "functional-memory"]
[data]
kind = "npz"
path = "tiny.npz"
label_fraction = 0.5
source_persons = 1
unseen_persons = 1
[model]
width = 16
latent = 16
[source]
steps = 5
[cohort]
size = 2
[strategies.functional-memory]
width = 8
memory_steps = 2
memory_persons = 1
steps = 2
"""
NODES = 4  # of five persons one is the source


@pytest.fixture
def simulation(tmp_path: Path) -> Path:
    """A simulation file, and the data of five persons."""
    rng = np.random.default_rng(0)
    person, y = np.repeat(np.arange(5), 40), np.tile(np.repeat([0, 1], 20), 5)
    x = rng.standard_normal((200, 32, 3)) + y[:, None, None] * 0.5 + person[:, None, None] * 0.1
    np.savez(tmp_path / "tiny.npz", X=x.astype(np.float32), y=y, subject=person)
    path = tmp_path / "tiny.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def home() -> Iterator[Path]:
    """Flower's and Ray's home; nothing that was started from it outlives the test."""
    folder = Path(tempfile.mkdtemp(prefix="flwr"))  # short: Ray puts sockets into it
    try:
        yield folder
    finally:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            _stop(folder, kind)
        left = _started_from(folder)
        shutil.rmtree(folder, ignore_errors=True)
        assert not left


def _stop(home: Path, kind: signal.Signals) -> None:
    for pid in _started_from(home):
        try:
            os.kill(pid, kind)
        except ProcessLookupError:
            continue
    end = time.monotonic() + 15
    while _started_from(home) and time.monotonic() < end:
        time.sleep(0.1)


def _started_from(home: Path) -> list[int]:
    """Processes whose environment names the home."""
    mark, found = f"FLWR_HOME={home}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _environment(home: Path) -> dict[str, str]:
    """Of a machine with nothing but this Python: Flower finds its own commands on the path."""
    commands = home / "bin"
    commands.mkdir()
    for point in distribution("flwr").entry_points.select(group="console_scripts"):
        script = (
            f"#!{sys.executable}\nimport sys\nfrom {point.module} import {point.attr} as main\n"
        )
        (commands / point.name).write_text(f"{script}sys.exit(main())\n")
        (commands / point.name).chmod(0o755)
    return os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(home),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "FLWR_EDGE_CACHE": str(home / "cache"),
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _flwr_run(home: Path, simulation: Path, out: Path, nodes: int) -> str:
    settings = f"simulation='{simulation}' out='{out}' wait-seconds=2.0"
    command = [
        *(str(home / "bin" / "flwr"), "run", str(ROOT), "local", "--stream"),
        *("--run-config", settings, "--federation-config"),
        f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-num-cpus=2",
    ]
    ended = subprocess.run(
        command,
        env=_environment(home),
        cwd=home,
        capture_output=True,
        check=False,  # it ends with 0 whatever became of the run
        text=True,
        timeout=250,
    )
    return ended.stdout + ended.stderr


class NoNodes:
    """Flower's grid before anybody has come."""

    def get_node_ids(self) -> list[int]:
        return []


def _context(simulation: Path, out: Path) -> SimpleNamespace:
    settings = {"simulation": str(simulation), "out": str(out), "wait-seconds": 0.0}
    return SimpleNamespace(run_config=settings)


def test_without_a_node_a_person_no_folder_is_left(simulation: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunError, match="4 persons, but 0 nodes after 0 s"):
        flower_app.main(NoNodes(), _context(simulation, out))  # type: ignore[arg-type]
    assert not out.exists()


def test_a_folder_in_use_is_refused_in_the_words_of_flwr_run(
    simulation: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"is not empty; name a new one.* as out in --run-config"):
        flower_app.main(NoNodes(), _context(simulation, tmp_path))  # type: ignore[arg-type]
    assert simulation.exists()


def test_flwr_run_gives_the_numbers_of_flwr_sim(
    home: Path, simulation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    output = _flwr_run(home, simulation, tmp_path / "ray", NODES)
    assert (tmp_path / "ray" / "summary.json").is_file(), output[-5000:]
    theirs = RunFolder(tmp_path / "ray").summary()

    monkeypatch.setenv("FLWR_EDGE_CACHE", str(home / "cache"))
    with Progress(Console(file=StringIO())) as progress:
        folder = RunFolder.create("tiny", tmp_path / "local")
        ours = run(load(simulation), folder, progress).summary

    assert [m.macro_f1 for m in (theirs, *theirs.baselines)] == [
        m.macro_f1 for m in (ours, *ours.baselines)
    ]
    assert theirs.client_updates == ours.client_updates == 6
    assert theirs.bytes_per_participation == ours.bytes_per_participation
    assert not theirs.failures
    assert not any(baseline.failures for baseline in theirs.baselines)
    assert list((home / "cache" / "graphs").glob("*.npy")), "the memory's constants went apart"
    with (
        np.load(tmp_path / "ray" / "confusion.npz") as a,
        np.load(tmp_path / "local" / "confusion.npz") as b,
    ):
        assert {name: a[name].tolist() for name in a} == {name: b[name].tolist() for name in b}
    bundle = next((home / "apps").glob("flwr-edge.flwr-edge.*"))
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < 100_000
