"""Run a grid of methods, label fractions and seeds; skip what is done; write one table."""

import contextlib
import re
import shutil
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from schemas.base import ConfigError
from simulations.progress import Progress
from simulations.report.files import RunError, atomic_write, make_folder
from simulations.run import prepare
from simulations.sweep_cells import (
    LoadedSweep,
    Task,
    done,
    forget,
    run_group,
    tasks_of,
    windows_of,
)
from simulations.sweep_jobs import run_jobs
from simulations.sweep_table import Cell, csv_of, markdown_of, persons_of


def run_sweep(
    loaded: LoadedSweep,
    out: Path | None,
    progress: Progress,
    seeds: Sequence[int] = (),
    jobs: int = 1,
    again: Sequence[str] = (),
) -> Path:
    """Run what is not done yet; write ``table.csv``, ``persons.parquet`` and ``table.md``.

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
    jobs : int
        Groups of cells at once.
    again : Sequence[str]
        Labels of methods whose cells are run anew, whatever became of them.

    Returns
    -------
    The Markdown table's path.

    Raises
    ------
    RunError, DataError, ConfigError
        And where a cell came to no result, after all others.
    """
    folder = out or Path("runs") / loaded.sweep.name
    if none := set(seeds) - {task.loaded.config.seed for task in tasks_of(loaded)}:
        problem = f"{min(none)}: no cell of {loaded.path} has this seed"
        raise ConfigError("--seed", [problem])
    if unknown := set(again) - {method.label for method in loaded.sweep.methods}:
        labels = ", ".join(repr(method.label) for method in loaded.sweep.methods)
        problem = f"{min(unknown)!r}: no method of {loaded.path} has this label; there are {labels}"
        raise ConfigError("--again", [problem])
    _check_folder(folder)
    make_folder(folder / "cells")
    _sweep_up(folder)
    prepare()
    chosen = [t for t in tasks_of(loaded) if not seeds or t.loaded.config.seed in seeds]
    for task in chosen:
        if task.method.label in again:
            forget(folder, task)
    waiting = [task for task in chosen if done(folder, task) is None]
    progress.note(f"{loaded.sweep.name}: {len(waiting)} cells to run, into {folder}")
    progress.cells(len(waiting))
    failed: list[str] = []
    with contextlib.closing(
        _run_groups(loaded, list(_groups(waiting)), folder, progress, jobs)
    ) as over:
        for wrong in over:
            failed += wrong
            write_tables(loaded, folder)
    table = write_tables(loaded, folder)
    if failed:
        cells = "1 cell" if len(failed) == 1 else f"{len(failed)} cells"
        raise RunError("\n".join([*failed, f"no result of {cells}; the rest is in {table}"]))
    return table


def _run_groups(
    loaded: LoadedSweep, groups: list[list[Task]], folder: Path, progress: Progress, jobs: int
) -> Generator[list[str]]:
    """Run groups here one after the other, or in several processes; see ``run_group``."""
    if min(jobs, len(groups)) > 1:
        yield from run_jobs(groups, loaded, folder, jobs, progress)
        return
    for group in groups:
        yield run_group(group, folder, progress)


def _check_folder(folder: Path) -> None:
    """Refuse to mix cells with what is somebody else's."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; a sweep needs a folder")
    if (folder / "config.toml").exists():
        raise RunError(f"{folder}: is a run's folder; a sweep needs one of its own")


def _sweep_up(folder: Path) -> None:
    """Remove windows that processes of this machine which were killed left here."""
    ours = re.escape(windows_of(folder, "").name)
    for path in folder.iterdir():
        # Whole, or half-written: see ``simulations.data.shards``.
        left = re.fullmatch(rf"{ours}(\d+)|\.{ours}(\d+)\.(part|old)", path.name)
        if left and not Path("/proc", left[1] or left[2]).exists():
            shutil.rmtree(path, ignore_errors=True)


def write_tables(loaded: LoadedSweep, folder: Path) -> Path:
    """Write the tables from the cells that are done."""
    cells = []
    for task in tasks_of(loaded):
        if (found := done(folder, task)) is not None:
            label, config = task.method.label, task.loaded.config
            point = config.data.label_fraction, config.seed
            cells.append(Cell(label, *point, found.summary, found.persons))
    atomic_write(folder / "table.csv", csv_of(cells).encode())
    atomic_write(folder / "persons.parquet", persons_of(cells))
    atomic_write(folder / "table.md", markdown_of(cells).encode())
    return folder / "table.md"


def _groups(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Cells on the same data, seed by seed: they share the devices and the sources' model."""

    def shared(task: Task) -> tuple[int, str]:
        config = task.loaded.config
        parts = (config.data, config.model, config.source, config.cohort, config.engine)
        return config.seed, " ".join(part.model_dump_json() for part in parts)

    for key in sorted({shared(task) for task in tasks}):
        yield [task for task in tasks if shared(task) == key]
