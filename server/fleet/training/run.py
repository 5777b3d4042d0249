"""One training of a strategy on a fleet, from what is to be checked first to its summary."""

import hashlib
import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch

from schemas.fleet import FleetConfig, FleetFolder
from server.checkpoint import Checkpoint, CheckpointError
from server.federation import Federation
from server.fleet.errors import NotFoundError, Refusal
from server.fleet.grid import FleetGrid, open_grid
from server.fleet.registry import Registry
from server.fleet.training.devices import Choice, choose, too_few
from server.fleet.training.file import Loaded
from server.fleet.training.folder import TrainingFolder, line_of
from server.fleet.training.progress import Progress
from server.fleet.training.sources import SourceModel, read_sources
from server.graphs import GraphBook, default_cache
from server.outcome import Outcome, macro_f1, progress_of
from server.rounds import Rounds, RoundsError, Watch
from server.strategies.base import EdgeStrategy

_BROKER: Final = 10.0  # seconds for the broker to greet
_PATIENCE: Final = {"timeout_seconds", "min_replies", "give_up_after"}


class _FleetRounds(Rounds):
    """Rounds whose limits a training file names."""

    least_key, deadline_key = "cohort.min_replies", "cohort.timeout_seconds"


@dataclass(frozen=True)
class Place:
    """Where a training runs, and who runs it.

    Attributes
    ----------
    folder : FleetFolder
    config : FleetConfig
    registry : Registry
    actor : str
        For the audit log.
    """

    folder: FleetFolder
    config: FleetConfig
    registry: Registry
    actor: str

    def audit(self, action: str, subject: str, **detail: Any) -> None:
        """Note what is done."""
        with self.registry.write(self.actor) as write:
            write.audit(action, subject, **detail)


@dataclass(frozen=True)
class Plan:
    """A training that nothing is wrong with, as far as can be told before a device is asked.

    Attributes
    ----------
    name : str
        The run's, unique in the fleet's life: devices keep their own state by it.
    devices : dict[str, int]
        Those that it began with, and their nodes.
    choice : Choice
        Who of them takes part now.
    identity : str
        Of the run, for its checkpoint.
    done : Checkpoint, optional
        Where it stands.
    """

    loaded: Loaded
    runs: TrainingFolder
    name: str
    devices: dict[str, int]
    choice: Choice
    strategy: EdgeStrategy
    identity: str
    done: Checkpoint | None


def plan(
    place: Place,
    loaded: Loaded,
    runs: TrainingFolder,
    progress: Progress,
    *,
    resume: bool,
    dry_run: bool = False,
) -> Plan:
    """Check all that can be checked before a device is asked.

    Parameters
    ----------
    place : Place
    loaded : Loaded
    runs : TrainingFolder
    progress : Progress
    resume : bool
        Go on with what is in the folder.
    dry_run : bool
        Leave out what takes long: to train on the sources.

    Raises
    ------
    ConfigError
        Where the sources cannot be read, or the strategy needs some and there are none.
    Refusal
        Where the folder is no place for the run, or is another's; where too few would take part.
    NotFoundError
        Where no device takes part.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # one sum order on every machine
    training = loaded.training
    began = runs.begun() if resume else None
    if began is None:
        runs.check_new()
    choice = chosen(place.registry, loaded, began)
    if few := too_few(choice, training):
        raise Refusal(few)
    devices = choice.nodes if began is None else began["devices"]
    name = f"{training.name}-{secrets.token_hex(4)}" if began is None else str(began["name"])
    sources, digest = read_sources(training, loaded.path)
    federation = Federation(
        config=training.simulation(),
        sources=sources,
        clients=tuple(sorted(devices.values())),
        graphs=GraphBook(default_cache()),
        source_model=SourceModel(training, sources, loaded.path, progress.note),
    )
    strategy = loaded.strategy(federation, loaded.parameters)
    if training.sources is None or not dry_run:
        strategy.initial()  # what is missing shows here, and no device was asked yet
    identity = _identity(loaded, digest, devices)
    try:
        done = runs.checkpoint(identity)
    except CheckpointError as error:
        raise Refusal(str(error)) from None
    return Plan(loaded, runs, name, devices, choice, strategy, identity, done)


def chosen(registry: Registry, loaded: Loaded, began: dict[str, Any] | None = None) -> Choice:
    """Who takes part: by tags, or of those that a run began with.

    Raises
    ------
    NotFoundError
        Where nobody does.
    """
    tags = loaded.training.devices.tags
    with registry.read() as db:
        choice = choose(db, tags, began and began["devices"])
    if not choice.nodes:
        of = f" with the tag {' or '.join(tags)}" if tags else ""
        out = ", ".join(f"{count} {why}" for why, count in choice.counts.items())
        raise NotFoundError(f"no device{of} could take part" + (f": {out}" if out else ""))
    return choice


def train(place: Place, it: Plan, progress: Progress) -> dict[str, Any]:
    """Run the rounds that are left; the summary, which lies in the run's folder too.

    Raises
    ------
    Refusal
        Where the broker does not answer, too few devices are online, or another process trains.
    RoundsError, InstallError
        Where devices answer too seldom, or take no graphs.
    KeyboardInterrupt
        As it came; the folder holds what is needed to go on.
    """
    training = it.loaded.training
    with _connected(place, it, progress) as grid:
        done = it.done.round if it.done else 0
        if it.done is None:
            settings = training.model_dump(mode="json")
            it.runs.begin(it.name, it.devices, settings)
        facts = {"strategy": training.strategy, "rounds": training.rounds, "after": done}
        count = len(it.choice.nodes)
        place.audit("training.begin", it.name, **facts, devices=count, left_out=it.choice.counts)
        progress.begin(done)
        how = "failed"
        try:
            outcome = _rounds(it, grid, progress).run(it.done)
            _check_learned(outcome)
            summary = _summary(it, outcome)
            it.runs.finish(summary)
            how = "finished"
        except KeyboardInterrupt:
            how = "interrupted"
            progress.note(f"interrupted after round {progress.last}; go on with --resume")
            raise
        finally:
            place.audit("training.end", it.name, how=how, round=progress.last)
    return summary


def _check_learned(outcome: Outcome) -> None:
    """Refuse to call a training finished from which nothing was learned."""
    rounds = [record for record in outcome.rounds if record.cohort]
    if rounds and not any(record.applied for record in rounds):
        raise RoundsError(
            f"{outcome.strategy}: nothing was learned: none of {len(rounds)} rounds had "
            "cohort.min_replies good replies; the lines above, and device show, say why"
        )


@contextmanager
def _connected(place: Place, it: Plan, progress: Progress) -> Iterator[FleetGrid]:
    """The grid, with enough devices online."""
    training, broker = it.loaded.training, place.config.broker
    logging.getLogger("flwr_edge.link").setLevel(logging.ERROR)  # it is said below, once
    root, seconds = place.folder.root, training.cohort.timeout_seconds
    with open_grid(root, run_name=it.name, timeout=seconds, log=progress.heard) as grid:
        if not grid.wait_connected(_BROKER):
            raise Refusal(
                f"the broker {broker.host}:{broker.port} does not answer within {_BROKER:g} s; is "
                "it running? flwr-fleet doctor looks"
            )
        wait, least = training.devices.wait_seconds, training.devices.least
        there = grid.find(it.choice.nodes, wait)
        if len(there) < least:
            raise Refusal(
                f"{len(there)} of {len(it.choice.nodes)} devices are online after {wait:g} s; "
                f"{least} needed (devices.least)"
            )
        progress.note(f"{len(there)} of {len(it.choice.nodes)} devices are online")
        yield grid


def _rounds(it: Plan, grid: FleetGrid, progress: Progress) -> Rounds:
    training = it.loaded.training
    persons = {node: name for name, node in it.devices.items()}

    def save(checkpoint: Checkpoint) -> None:
        it.runs.save(checkpoint)
        progress.check()

    watch = Watch(progress.round, save, macro_f1, progress.note)
    unseen: dict[int, str] = {}
    name, rounds = training.strategy, training.rounds
    return _FleetRounds(name, it.strategy, grid, persons, unseen, rounds, watch, it.identity)


def _summary(it: Plan, outcome: Outcome) -> dict[str, Any]:
    fields = progress_of(outcome)
    lines = [line_of(record) for record in fields["rounds"]]
    it.runs.lines(fields["rounds"])  # the last has its evaluation now
    scores = {name: macro_f1(c) for name, c in outcome.confusion.items() if c.any()}
    return {
        "run": it.name,
        "strategy": outcome.strategy,
        "rounds": len(lines),
        "devices": len(it.choice.nodes),
        "left_out": it.choice.counts,
        **{key: sum(line[key] for line in lines) for key in ("asked", "answered")},
        **{key: sum(line[key] for line in lines) for key in ("refused", "late")},
        "loss": lines[-1]["loss"],
        "macro_f1": lines[-1]["macro_f1"],
        "seconds": round(outcome.wall_seconds, 1),
        "bytes_down": outcome.bytes_down,
        "bytes_up": outcome.bytes_up,
        "by_device": {
            name: {
                "macro_f1": scores.get(name),
                "late": outcome.late.get(name, 0),
                "refused": outcome.dropped.get(name, 0),
            }
            for name in sorted(it.devices)
        },
    }


def _identity(loaded: Loaded, sources: str, devices: dict[str, int]) -> str:
    """Digest of all that the result depends on, but how long devices are waited for.

    Who finds a run given up for want of replies goes on with more patience.
    """
    without: dict[str, Any] = {"name": True, "devices": True, "strategies": True}
    told = loaded.training.model_dump(mode="json", exclude=without | {"cohort": _PATIENCE})
    parameters = loaded.parameters.model_dump(mode="json")
    text = json.dumps([told, parameters, sources, devices], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
