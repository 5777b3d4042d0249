"""Strategies whose weights come from a generator: one device, one vector."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field
from torch import Tensor

from hypernet.generators.base import WeightGenerator
from hypernet.generators.hypernetwork import Hypernetwork
from hypernet.parameters import ParameterSpec
from schemas.base import Strict
from schemas.plan import Range
from server.border import keep_variances, weights_of, weights_record
from server.federation import Federation
from server.strategies.base import EdgeStrategy, State, answered, request, sample
from server.strategies.buffered import Buffered, Returned


class Generating(Strict):
    """The generator and its learning."""

    embedding: int = Field(16, ge=1, le=1024, description="Length of a person's embedding v.")
    hidden: int = Field(64, ge=4, le=4096, description="Width of the hypernetwork's trunk.")
    chunk: int = Field(1024, ge=16, le=1_000_000, description="Entries that a head makes at once.")
    scale: float = Field(0.1, gt=0, le=10, description="Unit of the personal residual.")
    generator_rate: float = Field(1e-3, gt=0, le=1, description="Adam's, for φ.")
    embedding_rate: float = Field(1e-2, ge=0, le=10, description="SGD's, for v.")
    clip: float = Field(
        50.0, gt=0, description="Largest norm of a gradient of φ, and of each person's v."
    )


@dataclass
class Snapshot:
    """φ, and the embeddings of who was asked, when weights were generated."""

    generator: dict[str, Tensor]
    embeddings: dict[int, Tensor] = field(default_factory=dict)


class GeneratedStrategy(EdgeStrategy, Buffered):
    """θ_i = h(v_i; φ), sent; Δ_i = θ_i − θ̃_i, pulled back into φ and v_i.

    φ and v never leave the server. Buffers (batch norm's statistics) are not generated: they are
    shared, and move by the cohort's mean change.
    """

    Parameters: ClassVar[type[Strict]] = Generating
    generator: WeightGenerator

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        super().__init__(federation, parameters)
        self.settings: Any = parameters
        self.embeddings: dict[int, Tensor] = {}
        self.snapshots: dict[int, Snapshot] = {}

    def begin(self, start: Tensor, trainable: int) -> None:
        """Set the generator up around a start vector; its first entries are generated."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.federation.config.seed)
            self.generator = self.make_generator(start[:trainable])
        self.buffers = start[trainable:].clone()
        rate = self.settings.generator_rate
        self.optimizer = torch.optim.Adam(self.generator.parameters(), rate)

    def make_generator(self, start: Tensor) -> WeightGenerator:
        """The generator h: pFedHN's hypernetwork. One of your own overrides this alone.

        It is called once, with torch's random numbers seeded by the run's ``seed``.

        Parameters
        ----------
        start : (length,)
            Weights that all persons start near; so many are generated.
        """
        settings = self.settings
        return Hypernetwork(
            start,
            settings.embedding,
            settings.hidden,
            chunk=settings.chunk,
            scale=settings.scale,
        )

    def condition(self, nodes: Sequence[int]) -> Tensor:
        """Embeddings (nodes, embedding); who is new gets one near zero."""
        for node in nodes:
            if node not in self.embeddings:
                seed = (self.federation.config.seed * 1009 + node) % 2**63  # node ids have 64 bits
                seeded = torch.Generator().manual_seed(seed)
                self.embeddings[node] = 0.1 * torch.randn(self.settings.embedding, generator=seeded)
        return torch.stack([self.embeddings[node] for node in nodes])

    def vectors(self, nodes: Sequence[int]) -> Tensor:
        """Weights (nodes, length) of so many persons, in one pass."""
        with torch.no_grad():
            asked = self.condition(nodes)
            # One condition, one adapter: a row's last bits may depend on its place in a batch.
            differ = asked if (asked != asked[0]).any() else asked[:1]
            generated = self.generator.generate(differ).expand(len(nodes), -1)
        return torch.cat([generated, self.buffers.expand(len(nodes), -1)], dim=1)

    def initial(self) -> ArrayRecord:
        """The centre: for whoever looks at a checkpoint. Every device gets its own."""
        return weights_record(self.vectors([0])[0].numpy())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Generate the cohort's weights as one batch."""
        nodes = [int(node) for node in grid.get_node_ids()]
        cohort = sample(nodes, self.federation.cohort, self.federation.config.seed, server_round)
        return self.messages(cohort, MessageType.TRAIN, config, server_round)

    def messages(
        self, nodes: Sequence[int], kind: str, config: ConfigRecord, server_round: int
    ) -> list[Message]:
        """One message a device, each with its own weights."""
        if not nodes:
            return []
        vectors = self.vectors(nodes).numpy()
        return [
            request(node, kind, weights_record(vector), config, server_round)
            for node, vector in zip(nodes, vectors, strict=True)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Pull the cohort's changes back: one optimizer step on φ, one on each v."""
        updates = answered(replies)
        if updates:
            nodes = [update.metadata.src_node_id for update in updates]
            self.pull(nodes, updates, learn=True)
        return None, None

    def pull(self, nodes: list[int], updates: list[Message], *, learn: bool) -> None:
        """Pull changes back into v, and into φ where it is to learn."""
        learned = torch.from_numpy(np.stack([weights_of(update) for update in updates]))
        sent = self.vectors(nodes)
        size = sent.shape[1] - self.buffers.numel()
        deltas = sent[:, :size] - learned[:, :size]
        self.optimizer.zero_grad()
        gradients = self.generator.pull_back(self.condition(nodes), deltas)
        self._move_embeddings(nodes, gradients)
        if learn:
            self._move_generator()
            self.buffers = self.shared_buffers(learned[:, size:])

    def _move_embeddings(self, nodes: Sequence[int], gradients: Tensor) -> None:
        for node, gradient in zip(nodes, gradients, strict=True):
            step = self.settings.embedding_rate * _clipped(gradient, self.settings.clip)
            self.embeddings[node] = self.embeddings[node] - step

    def _move_generator(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.settings.clip)
        self.optimizer.step()

    def ask(
        self,
        nodes: Sequence[int],
        arrays: ArrayRecord,
        config: Mapping[str, Any],
        number: int,
        version: int,
    ) -> list[Message]:
        """Everyone's own weights; φ and v that made them are kept under the version."""
        if version not in self.snapshots:
            now = {k: v.clone() for k, v in self.generator.state_dict().items()}
            self.snapshots[version] = Snapshot(now)
        told = ConfigRecord(dict(config))
        messages = self.messages(nodes, MessageType.TRAIN, told, number)
        self.snapshots[version].embeddings |= {node: self.embeddings[node] for node in nodes}
        return messages

    def absorb(
        self, version: int, arrays: ArrayRecord, returned: Sequence[Returned]
    ) -> ArrayRecord:
        """Pull each change back through the φ and v that its weights came from; one step on φ.

        φ moves by the mean of the weighted products, and each v by its own.
        """
        self.optimizer.zero_grad()
        by_version = sorted(returned, key=lambda one: one.version)
        for made_for, group in groupby(by_version, lambda one: one.version):
            self._pull_stale(self.snapshots[made_for], list(group), len(returned))
        self._move_generator()
        size = len(weights_of(returned[0].request)) - self.buffers.numel()
        moved = [
            one.weight * (weights_of(one.update)[size:] - weights_of(one.request)[size:])
            for one in returned
        ]
        before = self.buffers.numpy()
        learned = [
            keep_variances(returned[0].request, before + move, before, size) for move in moved
        ]
        self.buffers = self.shared_buffers(torch.from_numpy(np.stack(learned)))
        return arrays

    def _pull_stale(self, then: Snapshot, group: list[Returned], count: int) -> None:
        """Add a share of φ's gradient, taken where φ and v were then."""
        nodes = [one.node for one in group]
        generator = copy.deepcopy(self.generator)
        generator.load_state_dict(then.generator)
        generator.zero_grad()
        deltas = [one.weight * (weights_of(one.request) - weights_of(one.update)) for one in group]
        size = len(deltas[0]) - self.buffers.numel()
        conditions = torch.stack([then.embeddings[node] for node in nodes])
        gradients = generator.pull_back(conditions, torch.from_numpy(np.stack(deltas))[:, :size])
        self._move_embeddings(nodes, gradients)
        for ours, theirs in zip(self.generator.parameters(), generator.parameters(), strict=True):
            if theirs.grad is not None:
                share = theirs.grad * (len(group) / count)
                ours.grad = share if ours.grad is None else ours.grad + share

    def forget(self, versions: set[int]) -> None:
        """Keep the snapshots that somebody works on."""
        self.snapshots = {v: kept for v, kept in self.snapshots.items() if v in versions}

    def shared_buffers(self, learned: Tensor) -> Tensor:
        """New buffers (buffers,) from the cohort's (cohort, buffers): their mean."""
        return learned.mean(0)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Every device's own weights."""
        nodes = sorted(int(node) for node in grid.get_node_ids())
        return self.messages(nodes, MessageType.EVALUATE, config, server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Leave the counts to the run."""
        return None

    def state(self) -> State:
        """φ, Adam's moments, embeddings and buffers; φ and v that devices work on."""
        state = {f"generator/{k}": v.numpy() for k, v in self.generator.state_dict().items()}
        state["buffers"] = self.buffers.numpy()
        for number, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"adam/{number}/{k}": v.numpy() for k, v in moments.items()}
        state |= {f"embedding/{node}": v.numpy() for node, v in self.embeddings.items()}
        for version, then in self.snapshots.items():
            place = f"snapshot/{version}"
            state |= {f"{place}/generator/{k}": v.numpy() for k, v in then.generator.items()}
            state |= {f"{place}/embedding/{n}": v.numpy() for n, v in then.embeddings.items()}
        return {
            name: array.copy() for name, array in state.items()
        }  # the optimizer writes in place

    def load(self, state: State) -> None:
        """Go on from ``state``."""
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
        self.generator.load_state_dict(
            {
                name.removeprefix("generator/"): tensor
                for name, tensor in tensors.items()
                if name.startswith("generator/")
            }
        )
        self.buffers = tensors["buffers"]
        adam = self.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("adam/"):
                _, number, key = name.split("/")
                adam["state"].setdefault(int(number), {})[key] = tensor
            elif name.startswith("embedding/"):
                self.embeddings[int(name.removeprefix("embedding/"))] = tensor
            elif name.startswith("snapshot/"):
                self._load_snapshot(name.split("/"), tensor)
        self.optimizer.load_state_dict(adam)

    def _load_snapshot(self, path: list[str], tensor: Tensor) -> None:
        _, version, part, name = path
        then = self.snapshots.setdefault(int(version), Snapshot({}))
        if part == "generator":
            then.generator[name] = tensor
        else:
            then.embeddings[int(name)] = tensor


def unread(spec: ParameterSpec, *, learning: bool) -> tuple[Range, ...]:
    """Ranges that a strategy whose ``shared_buffers`` stay as they are reads no change of.

    Parameters
    ----------
    spec : ParameterSpec
        Of the devices' vector: what is generated, then the buffers.
    learning : bool
        Whether changes of what is generated are pulled back.
    """
    first = spec.trainable_length if learning else 0
    return ((first, spec.length),) if first < spec.length else ()


def _clipped(gradient: Tensor, most: float) -> Tensor:
    norm = float(gradient.norm())
    return gradient if norm <= most else gradient * (most / norm)
