"""The repository as a Flower app: ``flwr run .`` runs a simulation file on Flower's runtimes."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

import simulations
from simulations.config import Loaded, load
from simulations.engine.flower_grid import FlowerGrid
from simulations.progress import Progress
from simulations.report.folder import RunFolder
from simulations.report.lock import held
from simulations.run import prepare, run_on, withdraw
from simulations.world import open_world

ADVICE = "name a new one, or an empty one, as out in --run-config"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all strategies of the file, on the same devices, into one run folder.

    ``run_config`` has ``simulation``: a simulation file, absolute or relative to the repository;
    ``out``: the run's folder, new or empty (``runs/NAME-TIME`` where it is ""); and
    ``wait-seconds``: how long to wait for one node a person.

    A run that fails before its first round leaves no folder.
    """
    settings = context.run_config
    loaded = load(simulation_file(str(settings["simulation"])))
    out = str(settings["out"])
    folder = RunFolder.create(loaded.config.name, Path(out) if out else None, advice=ADVICE)
    prepare()
    with held(folder.path):
        try:
            _run(grid, loaded, folder, float(settings["wait-seconds"]))
        except Exception:
            withdraw(folder)
            raise


def _run(grid: Grid, loaded: Loaded, folder: RunFolder, wait: float) -> None:
    """The folder is empty until there is a node for every person."""
    with (
        Progress(Console(stderr=True)) as progress,
        open_world(loaded, folder.path / ".windows", progress.note) as world,
    ):
        timeout = loaded.config.cohort.timeout_seconds
        persons = FlowerGrid.of(grid, world.nodes, timeout, wait)
        folder.write_config(loaded.config, loaded.path.parent)
        run_on(persons, world, loaded, folder, progress)
        progress.note(f"report: {folder.path.resolve() / 'report.html'}")


def simulation_file(name: str) -> Path:
    """The file of that name; a relative one lies in the repository, next to this package."""
    return Path(simulations.__path__[0]).parent / name
