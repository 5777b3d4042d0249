"""Run a simulation file: every strategy, on the same devices, into one run folder."""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from schemas.simulation import Simulation
from schemas.summary import Summary
from server.checkpoint import Checkpoint, CheckpointError
from server.outcome import Outcome
from server.rounds import Rounds, Watch, outcome_of, progress_of
from simulations.config import Loaded, strategies
from simulations.engine.local_grid import LocalGrid
from simulations.progress import Progress
from simulations.report.files import RunError, atomic_write, make_folder
from simulations.report.folder import RunFolder
from simulations.report.metrics import macro_f1
from simulations.report.summarise import summarise
from simulations.world import World, open_world

APP = "client.app:app"


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    folder: RunFolder
    summary: Summary


def run(loaded: Loaded, folder: RunFolder, progress: Progress) -> Finished:
    """Run all strategies of a file, from the start or from what the folder holds.

    Parameters
    ----------
    loaded : Loaded
    folder : RunFolder
        New, or of an interrupted run of the same file.
    progress : Progress

    Raises
    ------
    DataError, ConfigError, RunError, CheckpointError
    """
    config = loaded.config
    logging.getLogger("flwr").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # one sum order on every machine, and cores for the workers
    folder.write_config(config, loaded.path.parent)
    with open_world(loaded, folder.path / ".windows", progress.note) as world:
        timeout = config.cohort.timeout_seconds
        with LocalGrid(APP, world.nodes, workers_of(config), timeout) as grid:
            names = (config.strategy, *config.baselines)
            outcomes = [
                _Method(name, loaded, world, folder.path, progress).run(grid) for name in names
            ]
    recordings = world.recordings
    notes = recordings.notes
    summary = summarise(config, config.data.kind, recordings.classes, notes, outcomes)
    folder.write(summary, outcomes)
    return Finished(folder, summary)


def workers_of(config: Simulation) -> int:
    """Worker processes: as told, or one a core."""
    return config.engine.workers or len(os.sched_getaffinity(0))


class _Method:
    """One strategy of a run, with its checkpoint and its finished outcome on disk."""

    def __init__(
        self, name: str, loaded: Loaded, world: World, folder: Path, progress: Progress
    ) -> None:
        self.name, self.loaded, self.world, self.progress = name, loaded, world, progress
        self.folder = folder / "checkpoint"
        self.identity = identity_of(loaded, name)

    def run(self, grid: LocalGrid) -> Outcome:
        done = self._finished()
        if done is not None:
            self.progress.note(f"{self.name}: finished before")
            return done
        make_folder(self.folder)
        cls = strategies()[self.name]
        strategy = cls(self.world.federation, self.loaded.parameters[self.name])
        rounds = self.loaded.config.rounds if getattr(cls, "rounds", None) is None else 0
        self.progress.begin(self.name, rounds)
        watch = Watch(self.progress.round, self._save, macro_f1, self.progress.note)
        world = self.world
        loop = Rounds(
            self.name, strategy, grid, world.persons, world.unseen, rounds, watch, self.identity
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

    def _finished(self) -> Outcome | None:
        path = self._path("json")
        if not path.exists():
            return None
        try:
            fields: dict[str, Any] = json.loads(path.read_text())
            if fields["identity"] != self.identity:
                raise CheckpointError(f"{path}: belongs to another configuration")
            return outcome_of(self.name, fields["outcome"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path}: not a readable outcome: {error}") from error

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{kind}"


def identity_of(loaded: Loaded, name: str) -> str:
    """Digest of all that a strategy's result depends on in the file; workers do not matter."""
    config = loaded.config.model_dump(
        mode="json", exclude={"name", "engine", "baselines", "strategies", "strategy"}
    )
    parameters = loaded.parameters[name].model_dump(mode="json")
    text = json.dumps([name, config, parameters], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def resumable(loaded: Loaded, root: Path = Path("runs")) -> RunFolder:
    """The newest interrupted run of this very file.

    Raises
    ------
    RunError
        Where there is none.
    """
    folders = [RunFolder(path) for path in root.glob(f"{loaded.config.name}-*") if path.is_dir()]
    waiting = [f for f in folders if (f.path / "config.toml").is_file() and not f.finished]
    if not waiting:
        raise RunError(
            f"{root}: no interrupted run named {loaded.config.name!r}; name its folder with --out"
        )
    return max(waiting, key=lambda folder: folder.started)

