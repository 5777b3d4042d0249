"""The repository as a Flower app: ``flwr run .`` runs a simulation file on Flower's runtimes."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

import simulations
from simulations.config import load
from simulations.engine.flower_grid import FlowerGrid
from simulations.progress import Progress
from simulations.report.folder import RunFolder
from simulations.run import prepare, run_on
from simulations.world import open_world

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all strategies of the file, on the same devices, into one run folder.

    ``run_config`` has ``simulation``: a simulation file, absolute or relative to the repository;
    ``out``: the run's folder, new or empty (``runs/NAME-TIME`` where it is ""); and
    ``wait-seconds``: how long to wait for one node a person.
    """
    settings = context.run_config
    loaded = load(simulation_file(str(settings["simulation"])))
    out = str(settings["out"])
    folder = RunFolder.create(loaded.config.name, Path(out) if out else None)
    folder.write_config(loaded.config, loaded.path.parent)
    prepare()
    with (
        Progress(Console(stderr=True)) as progress,
        open_world(loaded, folder.path / ".windows", progress.note) as world,
    ):
        timeout, wait = loaded.config.cohort.timeout_seconds, float(settings["wait-seconds"])
        persons = FlowerGrid.of(grid, world.nodes, timeout, wait)
        run_on(persons, world, loaded, folder, progress)
        progress.note(f"report: {folder.path.resolve() / 'report.html'}")


def simulation_file(name: str) -> Path:
    """The file of that name; a relative one lies in the repository, next to this package."""
    return Path(simulations.__path__[0]).parent / name
