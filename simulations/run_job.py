"""A process that runs a run's strategies from the last one on; ``simulations.ahead`` starts it."""

from pathlib import Path
from typing import Any

from schemas.toml_file import read_toml
from server.rounds import RoundsError
from simulations.ahead import claimed, place_of
from simulations.config import check
from simulations.engine.local_grid import LocalGrid
from simulations.job import Relay, serve
from simulations.run import APP, StrategyRun, names_of, prepare, workers_of
from simulations.world import open_world


def main() -> None:
    """Run what nobody else runs."""
    serve(_run, every=20.0)


def _run(request: dict[str, Any], relay: Relay) -> dict[str, Any]:
    folder = Path(request["folder"])
    file = folder / "config.toml"
    loaded = check(file, read_toml(file))
    config = loaded.config
    prepare()
    windows = place_of(folder) / f"windows-{request['number']}"
    with (
        open_world(loaded, windows, relay.note) as world,
        LocalGrid(
            APP,
            world.nodes,
            workers_of(config, request["workers"]),
            config.cohort.timeout_seconds,
        ) as grid,
    ):
        for name in reversed(names_of(config)):
            one = StrategyRun(name, loaded, world, folder / "checkpoint", relay)
            with claimed(folder, name) as free:
                if free and one.finished() is None:
                    _run_one(one, grid, relay)
    return {}


def _run_one(one: StrategyRun, grid: LocalGrid, relay: Relay) -> None:
    try:
        one.run(grid)
    except RoundsError as error:
        relay.note(f"{error}; it will be tried once more")
