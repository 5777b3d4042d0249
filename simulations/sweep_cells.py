"""A sweep file and its cells: which there are, how they are run, and where their results lie."""

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.base import ConfigError, describe
from schemas.simulation import Data
from schemas.summary import MethodSummary
from schemas.sweep import Method, Sweep
from schemas.toml_file import allowed_keys, read_toml
from server.own_code import own_code
from server.rounds import RoundsError
from server.strategies.installed import strategies
from simulations.config import Loaded, load
from simulations.data.base import DataError
from simulations.data.load import kind_of
from simulations.data.paths import files_digest
from simulations.engine.local_grid import LocalGrid
from simulations.progress import Progress
from simulations.report.files import RunError, atomic_write
from simulations.report.metrics import by_person
from simulations.report.summarise import summarise_method
from simulations.report.tables import person_rows
from simulations.run import APP, StrategyRun, identity_of, workers_of
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
        """Digest of all that its result depends on: file, data and code not ours, as of now."""
        config = self.loaded.config
        files = files_digest(config.data, self.loaded.path.parent)
        return identity_of(self.loaded, self.method.strategy, files + _source_code(config.data))


def _source_code(config: Data) -> str:
    """Digest of the data source's code, if it is not ours: what it loads is read anew."""
    try:
        return own_code([kind_of(config)])
    except (ConfigError, DataError):
        return ""  # opening the data says what is wrong


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
        raise ConfigError(str(path), describe(error.errors(), allowed_keys(Sweep))) from error
    loaded = LoadedSweep(path, path.parent / sweep.base, sweep)
    for method in sweep.methods:
        cell(loaded, method, 1.0, 0)
    if not any(True for _ in tasks_of(loaded)):
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


def tasks_of(loaded: LoadedSweep) -> Iterator[Task]:
    """All cells."""
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


def run_group(
    tasks: list[Task], folder: Path, progress: Progress, workers: int | None = None
) -> list[str]:
    """Run cells on the same devices; return what is wrong with those without a result.

    Parameters
    ----------
    tasks : list[Task]
    folder : Path
        The sweep's.
    progress : Progress
    workers : int, optional
        Worker processes, where the file does not say how many; one a core if left out.
    """
    failed: list[str] = []
    first = tasks[0].loaded
    config = first.config
    # Before the data are opened: what changes from here on is run again the next time.
    identities = [task.identity() for task in tasks]
    with open_world(first, windows_of(folder, os.getpid()), progress.note) as world:
        timeout = config.cohort.timeout_seconds
        with LocalGrid(APP, world.nodes, workers_of(config, workers), timeout) as grid:
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
    progress.cell(task.title)
    own = replace(world, federation=replace(world.federation, config=config))
    one = StrategyRun(task.method.strategy, task.loaded, own, _checkpoint(folder, task), progress)
    outcome = one.run(grid)
    if not by_person(outcome.confusion):
        one.remove()  # it would be found finished, and never be tried again
        raise RoundsError(f"{task.method.strategy}: no person was tested")
    summary = summarise_method(outcome)
    content = {
        "identity": identity,
        "summary": summary.model_dump(mode="json"),
        "persons": list(person_rows(outcome)),
    }
    atomic_write(_path(folder, task), json.dumps(content).encode())
    one.remove()
    progress.cell_done()


def windows_of(folder: Path, process: int | str) -> Path:
    """Where a process lays out its devices' windows; several machines may share a folder."""
    return folder / f".windows-{socket.gethostname()}-{process}"


@dataclass(frozen=True)
class Done:
    """What a cell came to; one of an earlier release knows no persons."""

    summary: MethodSummary
    persons: list[dict[str, Any]]


def done(folder: Path, task: Task) -> Done | None:
    """A cell's result, where it has one that is of the file and the data as they are now.

    Raises
    ------
    RunError
        Where it cannot be read.
    """
    path = _path(folder, task)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content["identity"] != task.identity():
            return None  # the file or the data were changed since: run the cell again
        summary = MethodSummary.model_validate(content["summary"])
        return Done(summary, [dict(row) for row in content.get("persons", ())])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a readable cell; remove it to run it again") from error


def forget(folder: Path, task: Task) -> None:
    """Remove a cell's result, and what an interrupted run left of it: it is run from the start."""
    _path(folder, task).unlink(missing_ok=True)
    shutil.rmtree(_checkpoint(folder, task), ignore_errors=True)


def _checkpoint(folder: Path, task: Task) -> Path:
    return folder / "checkpoint" / task.key


def _path(folder: Path, task: Task) -> Path:
    return folder / "cells" / f"{task.key}.json"
