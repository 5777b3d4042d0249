"""Run a simulation file: every strategy, on the same devices, into one run folder."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid

from schemas.simulation import Simulation
from schemas.summary import Summary
from server.asynchronous import rounds_class
from server.checkpoint import Checkpoint, CheckpointError, foreign
from server.outcome import Outcome, macro_f1
from server.own_code import own_code
from server.rounds import RoundsError, Watch, outcome_of, progress_of
from server.strategies.installed import strategies
from simulations.ahead import Ahead
from simulations.config import Loaded
from simulations.data.paths import named
from simulations.engine.local_grid import LocalGrid
from simulations.engine.rehearsal import rehearse
from simulations.jobs import share_of
from simulations.progress import Progress
from simulations.report.files import RunError, atomic_write, make_folder
from simulations.report.folder import RunFolder
from simulations.report.lock import LOCK, busy, held, who_has
from simulations.report.summarise import summarise
from simulations.world import World, open_world

APP = "client.app:app"


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    folder: RunFolder
    summary: Summary


def run(loaded: Loaded, folder: RunFolder, progress: Progress, jobs: int = 1) -> Finished:
    """Run all strategies of a file, from the start or from what the folder holds.

    Parameters
    ----------
    loaded : Loaded
    folder : RunFolder
        New, or of an interrupted run of the same file.
    progress : Progress
    jobs : int
        Strategies at once. What one comes to does not depend on what runs beside it.

    Raises
    ------
    DataError, ConfigError, RunError, CheckpointError
    """
    prepare()
    with held(folder.path):
        return _run(loaded, folder, progress, jobs)


def _run(loaded: Loaded, folder: RunFolder, progress: Progress, jobs: int) -> Finished:
    config = loaded.config
    new = not (folder.path / "config.toml").exists()
    try:
        if new:
            folder.write_config(config, loaded.path.parent)
        with open_world(loaded, folder.path / ".windows", progress.note) as world:
            if not new:
                _check_resumed(loaded, world, folder, progress)
            left = _left(loaded, world, folder, progress)
            timeout = config.cohort.timeout_seconds
            with Ahead(folder.path, left, jobs, progress) as ahead:
                workers = workers_of(config, share_of(ahead.jobs))
                with LocalGrid(APP, world.nodes, workers, timeout) as grid:
                    return run_on(grid, world, loaded, folder, progress, ahead.claim)
    except Exception:
        if new:
            withdraw(folder)
        raise


def run_on(
    grid: Grid,
    world: World,
    loaded: Loaded,
    folder: RunFolder,
    progress: Progress,
    claim: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Finished:
    """Run all strategies of a file on any engine's grid, and write the report.

    A baseline that cannot go on ends no run: the others' results are worth having.

    Parameters
    ----------
    grid : Grid
        Its node ids are the world's.
    world : World
    loaded, folder, progress
        See ``run``.
    claim : callable
        Of a strategy's name: held while it runs.
    """
    config, recordings = loaded.config, world.recordings
    outcomes, notes = [], [*recordings.notes]
    for one in _all(loaded, world, folder, progress):
        try:
            with claim(one.name):
                outcomes.append(one.run(grid))
        except RoundsError as error:
            if not outcomes:
                raise
            progress.note(str(error))
            notes.append(str(error))
            outcomes.append(Outcome(one.name))
    names = world.persons | world.unseen
    lives = {names[node]: life for node, life in world.federation.lives.items()}
    dataset = named(config.data)
    summary = summarise(config, dataset, recordings.classes, notes, outcomes, lives)
    folder.write(summary, outcomes)
    return Finished(folder, summary)


def names_of(config: Simulation) -> tuple[str, ...]:
    """All strategies of a file, its own first."""
    return (config.strategy, *config.baselines)


def _all(
    loaded: Loaded, world: World, folder: RunFolder, progress: Progress
) -> list["StrategyRun"]:
    checkpoints = folder.path / "checkpoint"
    return [
        StrategyRun(name, loaded, world, checkpoints, progress) for name in names_of(loaded.config)
    ]


def _left(loaded: Loaded, world: World, folder: RunFolder, progress: Progress) -> list[str]:
    """Strategies without a result yet."""
    left = []
    for one in _all(loaded, world, folder, progress):
        if one.finished() is None:
            left.append(one.name)
        else:
            progress.note(f"{one.name}: finished before")
    return left


def _check_resumed(loaded: Loaded, world: World, folder: RunFolder, progress: Progress) -> None:
    """Refuse another run's folder before anything in it is changed."""
    for one in _all(loaded, world, folder, progress):
        one.check()
    for half in folder.path.rglob(".*.part"):
        if half.is_file():
            half.unlink()  # of a process that was killed while it wrote
    folder.write_config(loaded.config, loaded.path.parent)


def withdraw(folder: RunFolder) -> None:
    """Leave nothing of a run that failed before it came to anything."""
    with contextlib.suppress(OSError):
        checkpoints = folder.path / "checkpoint"
        if checkpoints.is_dir():
            checkpoints.rmdir()  # fails where there is one
        (folder.path / "config.toml").unlink(missing_ok=True)
        if folder.made:
            (folder.path / LOCK).unlink(missing_ok=True)
            folder.path.rmdir()


def prepare() -> None:
    """Set this process up to run strategies."""
    logging.getLogger("flwr").setLevel(logging.WARNING)  # the run's own report says it better
    torch.set_num_threads(1)  # one sum order on every machine, and cores for the workers


def workers_of(config: Simulation, share: int | None = None) -> int:
    """Worker processes: as told, or as many as this run's share of the cores; all, if left out."""
    return config.engine.workers or share or len(os.sched_getaffinity(0))


class StrategyRun:
    """One strategy of a run, with its checkpoint and its finished outcome on disk."""

    def __init__(
        self, name: str, loaded: Loaded, world: World, folder: Path, progress: Progress
    ) -> None:
        self.name, self.loaded, self.world, self.progress = name, loaded, world, progress
        self.folder = folder
        self.identity = identity_of(loaded, name, world.digest)

    def check(self) -> None:
        """Refuse what another configuration, or other data, left in the folder.

        Raises
        ------
        CheckpointError
        """
        if self.finished() is None:
            self._checkpoint()

    def remove(self) -> None:
        """Remove what only an interrupted run needs."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, grid: Grid) -> Outcome:
        """Run it, from its checkpoint if there is one, or return what it came to before."""
        done = self.finished()
        if done is not None:
            return done
        make_folder(self.folder)
        cls = strategies()[self.name]
        strategy = cls(self.world.federation.apart(), self.loaded.parameters[self.name])
        rounds = self.loaded.config.rounds if cls.rounds is None else 0
        self.progress.begin(self.name, rounds)
        progress = self.progress
        watch = Watch(progress.round, self._save, macro_f1, progress.note, progress.people)
        world = self.world
        carrier = rehearse(grid, self.loaded.config)
        loop = rounds_class(strategy)(
            self.name, strategy, carrier, world.persons, world.unseen, rounds, watch, self.identity
        )
        outcome = loop.run(self._checkpoint())
        self._keep(outcome)
        self.progress.end(outcome)
        return outcome

    def _save(self, checkpoint: Checkpoint) -> None:
        atomic_write(self._path("safetensors"), checkpoint.to_bytes())

    def _checkpoint(self) -> Checkpoint | None:
        path = self._path("safetensors")
        return Checkpoint.read(path, self.identity) if path.exists() else None

    def _keep(self, outcome: Outcome) -> None:
        fields = {"identity": self.identity, "outcome": progress_of(outcome)}
        atomic_write(self._path("json"), json.dumps(fields).encode())

    def finished(self) -> Outcome | None:
        """What it came to, if it is through.

        Raises
        ------
        CheckpointError
            Where that is another's or cannot be read.
        """
        path = self._path("json")
        if not path.exists():
            return None
        try:
            fields: dict[str, Any] = json.loads(path.read_text())
            identity, outcome = fields["identity"], outcome_of(self.name, fields["outcome"])
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not a readable outcome: {error}") from error
        if identity != self.identity:
            raise foreign(path)
        return outcome

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{kind}"


def identity_of(loaded: Loaded, name: str, data: str = "") -> str:
    """Digest of all that a strategy's result depends on in the file, and of its code if not ours.

    Workers do not matter.

    Parameters
    ----------
    loaded : Loaded
    name : str
        The strategy's.
    data : str, optional
        Digest of the recordings.
    """
    config = loaded.config.model_dump(
        mode="json", exclude={"name", "engine", "baselines", "strategies", "strategy"}
    )
    # A table that a later release brought and that the file lacks changes nothing.
    config = {key: value for key, value in config.items() if value is not None}
    later = ("source_days", "client_days", "rectify", "options")
    config["data"] = {
        key: value for key, value in config["data"].items() if value or key not in later
    }
    if data:  # what lies there counts, and not how its place is written
        del config["data"]["path"]
    parameters = loaded.parameters[name].model_dump(mode="json")
    parts = [name, config, parameters, data]
    if own := own_code([strategies()[name]]):  # another version of it is another strategy
        parts.append(own)
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def resumable(loaded: Loaded, root: Path = Path("runs")) -> RunFolder:
    """The newest interrupted run of this very file that no process is at.

    Raises
    ------
    RunError
        Where there is none.
    """
    folders = [RunFolder(path) for path in root.glob(f"{loaded.config.name}-*")]
    waiting = [f for f in folders if not f.finished and _name(f) == loaded.config.name]
    if not waiting:
        raise RunError(
            f"{root}: no interrupted run named {loaded.config.name!r}; name its folder with --out"
        )
    taken = {f.path: who for f in waiting if (who := who_has(f.path))}
    free = [f for f in waiting if f.path not in taken]
    if not free:
        raise busy(*next(iter(taken.items())))
    return max(free, key=lambda folder: folder.started)


def _name(folder: RunFolder) -> str | None:
    """The name of the run in a folder, which may begin as another's does."""
    try:
        return folder.config().name
    except RunError:
        return None
