"""Tiny simulations: six persons, three classes that anyone can tell apart, few steps."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.console import Console

from tests.once import once, shared

PERSONS, CLASSES, WINDOWS, TIME = 6, 3, 40, 20

FILE = """
name = "tiny"
rounds = 3
evaluate_every = 2
strategy = "fedavg"
baselines = ["ditto", "pfedhn"]
[data]
kind = "npz"
path = "{path}"
overlap = 0.0
label_fraction = 0.2
source_persons = 2
unseen_persons = 1
[model]
width = 4
latent = 4
[source]
steps = 5
persons_per_step = 2
windows_per_person = 8
[cohort]
size = 2
timeout_seconds = 60
[engine]
workers = 2
"""


@pytest.fixture(scope="session")
def edge_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Graphs are exported once a session, for the processes that tests start and xdist's too."""
    folder = shared(tmp_path_factory) / "edge-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_EDGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def arrays() -> dict[str, Any]:
    """What the npz file holds: a class is a frequency."""
    rng = np.random.default_rng(0)
    count = PERSONS * CLASSES * WINDOWS
    person = np.repeat(np.arange(PERSONS), CLASSES * WINDOWS)
    y = np.tile(np.repeat(np.arange(CLASSES), WINDOWS), PERSONS)
    steps = np.arange(TIME)[None, :, None]
    phase = rng.uniform(0, 6, (count, 1, 6))
    x = np.sin(steps * (0.25 + 0.5 * y[:, None, None]) + phase)
    x = (
        x
        + 0.5 * rng.standard_normal((count, TIME, 6))
        + rng.standard_normal((PERSONS, 1, 6))[person]
    )
    names = [f"person {chr(65 + number)}" for number in range(PERSONS)]
    return {"X": x.astype(np.float32), "y": y, "subject": person, "subjects": names, "hz": 10.0}


@pytest.fixture(scope="session")
def recordings_file(arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        np.savez(folder / "tiny.npz", **arrays)

    return once(tmp_path_factory, "recordings", make) / "tiny.npz"


@pytest.fixture
def simulation_file(recordings_file: Path, edge_cache: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(FILE.format(path=recordings_file))
    return path


class Stage(NamedTuple):
    """Data laid out and workers running: any strategy may run on it."""

    loaded: Any
    world: Any
    grid: Any


@pytest.fixture(scope="session")
def stage(
    recordings_file: Path, edge_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Stage]]:
    """Make a stage, once a session for the same overrides and number of workers."""
    from simulations.config import load
    from simulations.engine.local_grid import LocalGrid
    from simulations.run import APP, prepare
    from simulations.world import open_world

    folder = tmp_path_factory.mktemp("stages")
    path = folder / "tiny.toml"
    path.write_text(FILE.format(path=recordings_file))
    made: dict[Any, Stage] = {}
    prepare()
    with ExitStack() as stack:

        def make(*overrides: str, workers: int = 2) -> Stage:
            key = (overrides, workers)
            if key not in made:
                loaded = load(path, overrides)
                windows = folder / f"windows-{len(made)}"
                world = stack.enter_context(open_world(loaded, windows, lambda _: None))
                grid = stack.enter_context(LocalGrid(APP, world.nodes, workers, 60))
                made[key] = Stage(loaded, world, grid)
            return made[key]

        yield make


@pytest.fixture
def quiet() -> Iterator[Any]:
    """A progress whose lines are in ``quiet.console.file``."""
    from simulations.progress import Progress

    with Progress(Console(file=StringIO(), width=200)) as progress:
        yield progress


@pytest.fixture(scope="session")
def finished_run(
    recordings_file: Path, edge_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished run of several strategies, all workers'; not to be changed."""
    from simulations.config import load
    from simulations.progress import Progress
    from simulations.report.folder import RunFolder
    from simulations.run import run

    overrides = (
        "strategy=semipfl",
        'baselines=["ditto", "fedper", "finetune", "pfedhn"]',
        "strategies.semipfl.reconstruction_steps=5",
        "rounds=2",
    )

    def make(folder: Path) -> None:
        path = folder / "tiny.toml"
        path.write_text(FILE.format(path=recordings_file))
        loaded = load(path, overrides)
        with Progress(Console(file=StringIO(), width=200)) as progress:
            run(loaded, RunFolder.create("tiny", folder / "run"), progress)

    return once(tmp_path_factory, "finished", make) / "run"


@pytest.fixture
def sim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, list[str]]]:
    """Run the command in this process: exit code, standard output, lines of standard error."""

    from simulations import cli

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["flwr-sim", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err.splitlines()

    return call


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install a strategy of somebody else, as an entry point names it."""

    def install(name: str, place: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[flwr_edge.strategy]\n{name} = {place}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install
