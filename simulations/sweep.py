"""Run a grid of methods, label fractions and seeds; skip what is done; write one table."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from pydantic import ValidationError

from schemas.base import ConfigError, describe
from schemas.summary import MethodSummary
from schemas.sweep import Method, Sweep
from schemas.toml_file import read_toml
from server.rounds import RoundsError
from server.strategies.installed import strategies
from simulations.config import Loaded, load
from simulations.data.paths import files_digest
from simulations.engine.local_grid import LocalGrid
from simulations.progress import Progress
from simulations.report.files import RunError, atomic_write, make_folder
from simulations.report.metrics import by_person
from simulations.report.summarise import summarise_method
from simulations.run import APP, StrategyRun, identity_of, prepare, workers_of
from simulations.sweep_table import Cell, csv_of, markdown_of
from simulations.world import World, open_world


@dataclass(frozen=True)
class LoadedSweep:
    """A checked sweep file.

    Attributes
    ----------
    path, base : Path
        The sweep file and its simulation file.
    sweep : Sweep
    """

    path: Path
    base: Path
    sweep: Sweep


@dataclass(frozen=True)
class Task:
    """One cell to run."""

    method: Method
    loaded: Loaded

    @property
    def key(self) -> str:
        """The cell's file name: the label in safe letters, fraction and seed, then their digest.

        The digest tells apart what safe letters and a rounded fraction do not.
        """
        label, config = self.method.label, self.loaded.config
        fraction, seed = config.data.label_fraction, config.seed
        digest = hashlib.sha256(json.dumps([label, fraction, seed]).encode()).hexdigest()[:8]
        safe = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        return f"{safe}.f{fraction:g}.s{seed}-{digest}"

    @property
    def title(self) -> str:
        """What it is, for people."""
        config = self.loaded.config
        return f"{self.method.label}  f = {config.data.label_fraction:g}  seed {config.seed}"

    def identity(self) -> str:
        """Digest of all that its result depends on, in the file and in the data as they are now."""
        config = self.loaded.config
        data = files_digest(config.data, self.loaded.path.parent)
        return identity_of(self.loaded, self.method.strategy, data)


def load_sweep(path: Path) -> LoadedSweep:
    """Read and check a sweep file and every cell of it.

    Raises
    ------
    ConfigError
        With all that is wrong in it.
    """
    table = read_toml(path)
    if table and not table.keys() & {"base", "grids", "methods"}:
        problem = "no sweep file: it has no base, grids and methods; flwr-sim run runs a simulation"
        raise ConfigError(str(path), [problem])
    try:
        sweep = Sweep.model_validate(table)
    except ValidationError as error:
        fields = {"": sorted(Sweep.model_fields)}
        raise ConfigError(str(path), describe(error.errors(), fields)) from error
    loaded = LoadedSweep(path, path.parent / sweep.base, sweep)
    for method in sweep.methods:
        cell(loaded, method, 1.0, 0)
    if not any(True for _ in _tasks(loaded)):
        problem = "grids: no cell: every method needs labels, or none is in a grid's only"
        raise ConfigError(str(path), [problem])
    return loaded


def cell(loaded: LoadedSweep, method: Method, fraction: float, seed: int) -> Task:
    """The simulation that a cell runs.

    Raises
    ------
    ConfigError
        Where the method's overrides do not fit.
    """
    grid = (
        f"strategy='{method.strategy}'",
        "baselines=[]",
        f"data.label_fraction={fraction}",
        f"seed={seed}",
    )
    try:
        return Task(method, load(loaded.base, (*loaded.sweep.set, *method.set, *grid)))
    except ConfigError as error:
        where = f"{loaded.path}: method {method.label!r} on {error.where}"
        raise ConfigError(where, error.problems) from None


def run_sweep(
    loaded: LoadedSweep, out: Path | None, progress: Progress, seeds: Sequence[int] = ()
) -> Path:
    """Run what is not done yet; write ``table.csv`` and ``table.md``.

    A cell that cannot go on ends no sweep: the others' results are worth having.

    Several processes may share a folder where each has seeds of its own.

    Parameters
    ----------
    loaded : LoadedSweep
    out : Path, optional
        ``runs/NAME`` if left out.
    progress : Progress
    seeds : Sequence[int]
        Only these; all of them if empty.

    Returns
    -------
    The Markdown table's path.

    Raises
    ------
    RunError, DataError, ConfigError
        And where a cell came to no result, after all others.
    """
    folder = out or Path("runs") / loaded.sweep.name
    if none := set(seeds) - {task.loaded.config.seed for task in _tasks(loaded)}:
        problem = f"{min(none)}: no cell of {loaded.path} has this seed"
        raise ConfigError("--seed", [problem])
    _check_folder(folder)
    make_folder(folder / "cells")
    prepare()
    waiting = [
        task
        for task in _tasks(loaded)
        if _done(folder, task) is None and (not seeds or task.loaded.config.seed in seeds)
    ]
    progress.note(f"{loaded.sweep.name}: {len(waiting)} cells to run, into {folder}")
    failed: list[str] = []
    for group in _groups(waiting):
        failed += _run_group(group, folder, progress)
        write_tables(loaded, folder)
    table = write_tables(loaded, folder)
    if failed:
        cells = "1 cell" if len(failed) == 1 else f"{len(failed)} cells"
        raise RunError("\n".join([*failed, f"no result of {cells}; the rest is in {table}"]))
    return table


def _check_folder(folder: Path) -> None:
    """Refuse to mix cells with what is somebody else's."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; a sweep needs a folder")
    if (folder / "config.toml").exists():
        raise RunError(f"{folder}: is a run's folder; a sweep needs one of its own")


def write_tables(loaded: LoadedSweep, folder: Path) -> Path:
    """Write both tables from the cells that are done."""
    cells = []
    for task in _tasks(loaded):
        summary = _done(folder, task)
        if summary is not None:
            config = task.loaded.config
            cells.append(Cell(task.method.label, config.data.label_fraction, config.seed, summary))
    atomic_write(folder / "table.csv", csv_of(cells).encode())
    atomic_write(folder / "table.md", markdown_of(cells).encode())
    return folder / "table.md"


def _tasks(loaded: LoadedSweep) -> Iterator[Task]:
    known = strategies()
    for method in loaded.sweep.methods:
        for fraction, seed in _points(loaded.sweep, method):
            if fraction > 0 or not known[method.strategy].needs_labels:
                yield cell(loaded, method, fraction, seed)


def _points(sweep: Sweep, method: Method) -> list[tuple[float, int]]:
    """A method's label fractions and seeds, each pair once."""
    points: dict[tuple[float, int], None] = {}
    for grid in sweep.grids:
        if not grid.only or method.label in grid.only:
            points |= dict.fromkeys(product(grid.label_fractions, grid.seeds))
    wanted = method.label_fractions
    return [point for point in points if wanted is None or point[0] in wanted]


def _groups(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Cells on the same data, seed by seed: they share the devices and the sources' model."""

    def shared(task: Task) -> tuple[int, str]:
        config = task.loaded.config
        parts = (config.data, config.model, config.source, config.cohort, config.engine)
        return config.seed, " ".join(part.model_dump_json() for part in parts)

    for key in sorted({shared(task) for task in tasks}):
        yield [task for task in tasks if shared(task) == key]


def _run_group(tasks: list[Task], folder: Path, progress: Progress) -> list[str]:
    """Run cells on the same devices; return what is wrong with those without a result."""
    failed: list[str] = []
    first = tasks[0].loaded
    config = first.config
    # Before the data are opened: what changes from here on is run again the next time.
    identities = [task.identity() for task in tasks]
    with open_world(first, folder / f".windows-{os.getpid()}", progress.note) as world:
        timeout = config.cohort.timeout_seconds
        with LocalGrid(APP, world.nodes, workers_of(config), timeout) as grid:
            for task, identity in zip(tasks, identities, strict=True):
                try:
                    _run_cell(task, identity, world, grid, folder, progress)
                except RoundsError as error:
                    progress.note(str(error))
                    failed.append(f"{task.title}: {error}")
    return failed


def _run_cell(
    task: Task, identity: str, world: World, grid: LocalGrid, folder: Path, progress: Progress
) -> None:
    config = task.loaded.config
    progress.note(task.title)
    own = replace(world, federation=replace(world.federation, config=config))
    one = StrategyRun(
        task.method.strategy, task.loaded, own, folder / "checkpoint" / task.key, progress
    )
    outcome = one.run(grid)
    if not by_person(outcome.confusion):
        one.remove()  # it would be found finished, and never be tried again
        raise RoundsError(f"{task.method.strategy}: no person was tested")
    summary = summarise_method(outcome)
    content = {"identity": identity, "summary": summary.model_dump(mode="json")}
    atomic_write(_path(folder, task), json.dumps(content).encode())
    one.remove()


def _done(folder: Path, task: Task) -> MethodSummary | None:
    path = _path(folder, task)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content["identity"] != task.identity():
            return None  # the file or the data were changed since: run the cell again
        return MethodSummary.model_validate(content["summary"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a readable cell; remove it to run it again") from error


def _path(folder: Path, task: Task) -> Path:
    return folder / "cells" / f"{task.key}.json"
