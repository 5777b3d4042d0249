"""From a finished run to one person's float model: what the device predicts with, baked."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray
from onnx import ModelProto

from client.app import kept_in, payload_of
from client.device import Device
from client.graphs import GraphStore, default_folder
from client.learner import Learner
from client.windows import PersonWindows
from edge_kernels.quantize.constants import fold
from hypernet.inference import Inference
from schemas.base import ConfigError
from schemas.plan import Adapt, Plan
from schemas.toml_file import read_toml
from server.border import weights_of
from server.checkpoint import Checkpoint
from server.install import install
from server.outcome import Outcome, macro_f1, outcome_of
from server.strategies.base import EdgeStrategy
from server.strategies.installed import strategies
from server.view import GridView
from simulations.config import Loaded, check
from simulations.engine.codec import decode
from simulations.engine.local_grid import LocalGrid
from simulations.report.failed import reason
from simulations.report.files import RunError
from simulations.report.folder import RunFolder
from simulations.run import APP, prepare
from simulations.world import World, open_world

Floats = NDArray[np.float32]
Weights = tuple[Floats, Floats, Floats]  # weights, and the mean and deviation of the inputs


@dataclass(frozen=True)
class Personal:
    """One person's float model, and what quantizing and judging it takes.

    Attributes
    ----------
    person, strategy : str
    model : ModelProto
        ``windows`` (batch, time, channels), as measured → ``logits`` (batch, classes).
    windows : PersonWindows
        In memory.
    classes : tuple[str, ...]
    hz : float
        Samples a second.
    sources : (windows, time, channels) float32
        The sources' windows, for calibration: nobody's own, but each source's mean and deviation
        are moved to the person's, which ``model`` takes off again. Measured on the watch run, 4
        bits, MobileQuant: mean error of the logits 9.5% instead of 10.5%; with the person's own
        windows it would be 8.4%.
    shared : ModelProto
        The same layers with the weights that persons have in common, on the sources' statistics.
    macro_f1 : float
        Of the test windows, in the run and as rebuilt.
    """

    person: str
    strategy: str
    model: ModelProto
    windows: PersonWindows
    classes: tuple[str, ...]
    hz: float
    sources: Floats
    shared: ModelProto
    macro_f1: float


def personal_model(run: Path, person: str, strategy: str | None = None) -> Personal:
    """Rebuild one person's model; see ``Models``.

    Parameters
    ----------
    run : Path
        The folder of a finished run.
    person : str
        A client, or a person whom the run had not seen.
    strategy : str, optional
        One of the run's; its main one if left out.

    Raises
    ------
    RunError, CheckpointError, DataError, ConfigError
        Where there is no such run or person, the run is not finished, its checkpoint is gone, or
        what is rebuilt predicts otherwise than the run did.
    """
    with open_models(run, strategy) as models:
        return models.personal(person)


@contextmanager
def open_models(
    run: Path, strategy: str | None = None, tell: Callable[[str], None] = lambda _: None
) -> Iterator["Models"]:
    """Take a finished run up where it ended; see ``personal_model``.

    Parameters
    ----------
    run, strategy
        As there.
    tell : callable
        Takes a line for whoever watches.
    """
    folder = RunFolder.open(run)
    summary = folder.summary()  # says so where the run is not finished
    loaded = check(run / "config.toml", read_toml(run / "config.toml"))
    name = strategy or loaded.config.strategy
    ran = (loaded.config.strategy, *loaded.config.baselines)
    if name not in ran:
        raise ConfigError(str(run), [f"no strategy {name!r} ran here; there are {', '.join(ran)}"])
    if name in summary.failed:
        raise RunError(f"{run}: {name} came to no result in this run: {reason(summary, name)}")
    checkpoint, outcome = _kept(run, loaded, name)
    prepare()
    with (
        tempfile.TemporaryDirectory(prefix="flwr-edge-") as scratch,
        open_world(loaded, Path(scratch) / "windows", tell) as world,
        LocalGrid(APP, world.nodes, 1, loaded.config.cohort.timeout_seconds) as grid,
    ):
        yield Models(run, loaded, world, grid, checkpoint, outcome)


def _kept(run: Path, loaded: Loaded, name: str) -> tuple[Checkpoint | None, Outcome]:
    """The last round's checkpoint (none where the strategy has no rounds) and the outcome."""
    path = run / "checkpoint" / f"{name}.json"
    weights = path.with_suffix(".safetensors")
    rounds = loaded.config.rounds if strategies()[name].rounds is None else 0
    if not path.is_file() or (rounds and not weights.is_file()):
        raise RunError(
            f"{path.parent}: no checkpoint of {name}: its models are gone (a sweep keeps results "
            "only); run it again with flwr-sim run"
        )
    try:
        fields = json.loads(path.read_text())
        identity, outcome = fields["identity"], outcome_of(name, fields["outcome"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: not a readable outcome: {error}") from error
    checkpoint = Checkpoint.read(weights, identity) if rounds else None
    if checkpoint is not None and checkpoint.round != rounds:
        raise RunError(f"{weights}: of round {checkpoint.round}; the run ended after {rounds}")
    return checkpoint, outcome


class Models:
    """A finished run taken up again: the strategy as it ended, its devices and their windows.

    Everything is done as in the run, with the same code: persons unseen by it join, the strategy
    makes its evaluation requests, and a device personalises by the plan in one.
    """

    def __init__(
        self,
        run: Path,
        loaded: Loaded,
        world: World,
        grid: LocalGrid,
        checkpoint: Checkpoint | None,
        outcome: Outcome,
    ) -> None:
        self.run, self.loaded, self.world, self.grid = run, loaded, world, grid
        self.outcome = outcome
        self._inferences: dict[str, Inference] = {}
        self.strategy = self._restored(checkpoint)

    @property
    def persons(self) -> tuple[str, ...]:
        """Clients by name, then the unseen."""
        return (*self.world.persons.values(), *self.world.unseen.values())

    @cached_property
    def sources(self) -> Floats:
        """The sources' windows (windows, time, channels)."""
        return torch.cat(self.world.federation.sources.x).float().numpy()

    def personal(self, person: str) -> Personal:
        """Rebuild a person's model and check that it predicts as in the run."""
        node = self.node(person)
        plan, learner, weights = self._personalised(node)
        confusion = learner.evaluate(plan, weights)
        found = (self.outcome.confusion | self.outcome.unseen).get(person)
        if found is None:
            why = self.outcome.failures.get(person, ["no test windows"])[-1]
            raise RunError(f"{self.run}: {person} has no result in this run: {why}")
        if not np.array_equal(found, confusion):
            raise RunError(
                f"{self.run}: {person}: what is rebuilt has macro-F1 {macro_f1(confusion):.4f}, in "
                f"the run it was {macro_f1(found):.4f}: data, code or libraries have changed since"
            )
        recordings, windows = self.world.recordings, learner.windows
        return Personal(
            person=person,
            strategy=self.outcome.strategy,
            model=self._baked(plan, (weights, *_statistics(learner, plan))),
            windows=PersonWindows(*(np.array(getattr(windows, part)) for part in _PARTS)),
            classes=recordings.classes,
            hz=recordings.hz,
            sources=self._sources_as(windows.train),
            shared=self.shared,
            macro_f1=macro_f1(confusion),
        )

    def _sources_as(self, x: NDArray[np.floating]) -> Floats:
        """Each source's windows with the mean and deviation of a person's, by channel."""
        (_, mean, deviation), moved = _moments(x), []
        for source in self.world.federation.sources.x:
            theirs, center, spread = _moments(source.numpy())
            moved.append((theirs - center) / (spread + 1e-6) * deviation + mean)
        return np.concatenate(moved).astype(np.float32)

    def _restored(self, checkpoint: Checkpoint | None) -> EdgeStrategy:
        name, timeout = self.outcome.strategy, self.loaded.config.cohort.timeout_seconds
        strategy = strategies()[name](self.world.federation, self.loaded.parameters[name])
        self._arrays = strategy.initial()
        strategy.train_config()
        self._told = strategy.evaluate_config()  # both put their graphs into the book
        if checkpoint is not None:
            try:
                strategy.load(checkpoint.state)
                self.grid.restore(checkpoint.devices)
            except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())
                raise RunError(
                    f"{self.run}: {name}: its checkpoint does not fit: {said}"
                ) from error
            self._arrays = checkpoint.arrays
        install(self.grid, self.world.federation.graphs.graphs, timeout)
        return strategy

    @cached_property
    def shared(self) -> ModelProto:
        """What persons have in common: their mean, adapted on the sources as on a person."""
        vectors = [weights_of(request) for request in self._requests.values()]
        request = payload_of(next(iter(self._requests.values())).content)
        plan = Plan.model_validate_json(str(request.setting("config", "plan")))
        sources = self.world.federation.sources
        x, y = torch.cat(sources.x).numpy(), torch.cat(sources.y).numpy()
        learner = Learner(PersonWindows(x, y, x[:0], y[:0]), GraphStore(default_folder()))
        adapts = tuple(stage for stage in plan.stages if isinstance(stage, Adapt))
        adapting = plan.model_copy(update={"stages": adapts, "own": (), "report": {}})
        mean = np.stack(vectors).mean(0, dtype=np.float64).astype(np.float32)
        fitted = learner.fit(adapting, mean)
        return self._baked(plan, (fitted.weights, *_statistics(learner, plan)))

    def node(self, person: str) -> int:
        """A person's node; says whom there is where there is none of that name."""
        for node, name in (self.world.persons | self.world.unseen).items():
            if name == person:
                return node
        names = ", ".join(sorted(self.persons))
        raise ConfigError(str(self.run), [f"no person {person!r}; there are {names}"])

    @cached_property
    def _requests(self) -> dict[int, Message]:
        """Evaluation requests to the clients, by node."""
        return self._asked(self.world.persons)

    @cached_property
    def _unseen_requests(self) -> dict[int, Message]:
        """Those to the unseen, who join first."""
        unseen = self.world.unseen
        self.strategy.join(sorted(unseen), GridView(self.grid, unseen))
        return self._asked(unseen)

    def _asked(self, persons: Mapping[int, str]) -> dict[int, Message]:
        # All at once, as in the run: a batch of another size may round its sums otherwise.
        rounds = self.loaded.config.rounds if self.strategy.rounds is None else 0
        told, view = ConfigRecord(dict(self._told)), GridView(self.grid, persons)
        requests = self.strategy.configure_evaluate(rounds, self._arrays, told, view)
        return {int(request.metadata.dst_node_id): request for request in requests}

    def judged(self, node: int, request: Message) -> NDArray[np.int64]:
        """Confusion counts of a person whose device is asked so."""
        plan, learner, weights = self._personalised(node, request)
        return learner.evaluate(plan, weights)

    def _personalised(
        self, node: int, request: Message | None = None
    ) -> tuple[Plan, Learner, Floats]:
        """The person's weights, by the code that the device runs."""
        if request is None:
            known = node in self.world.persons
            request = (self._requests if known else self._unseen_requests)[node]
        settings = self.world.nodes[node]
        store = GraphStore(default_folder())
        windows = PersonWindows.open(Path(str(settings["windows"])))
        device = Device(
            store,
            lambda: Learner(windows, store),
            int(settings["partition-id"]),
            kept_in(_state(self.grid.states().get(node, b""))),
        )
        plan, learner, fitted = device.personalised(payload_of(request.content))
        return plan, learner, fitted.weights

    def _baked(self, plan: Plan, arrays: Weights) -> ModelProto:
        assert plan.predict is not None, "an evaluation's plan predicts"
        tensors = (torch.from_numpy(np.array(each)) for each in arrays)
        graph = self._inference(plan.predict).baked(*tensors)
        return fold(onnx.load_from_string(graph))

    def _inference(self, digest: str) -> Inference:
        if digest not in self._inferences:
            self._inferences[digest] = Inference(*self.world.federation.graphs.origin(digest))
        return self._inferences[digest]


_PARTS = ("train", "labels", "test", "test_labels")


def _moments(x: NDArray[np.floating]) -> tuple[NDArray[np.float64], ...]:
    """Windows in float64, and their mean and deviation (channels,)."""
    wide = x.astype(np.float64)
    return wide, wide.mean((0, 1)), wide.std((0, 1))


def _statistics(learner: Learner, plan: Plan) -> tuple[Floats, Floats]:
    found = learner.statistics(plan)
    return found["input_mean"], found["input_deviation"]


def _state(state: bytes) -> RecordDict:
    if not state:
        return RecordDict()
    records, _ = decode(lambda start, length: state[start : start + length])
    return records or RecordDict()
