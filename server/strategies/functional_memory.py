"""Functional memory: unlabelled windows to an adapter in one exchange, for whoever asks.

HY-WU's generator on a small sensor network. A device sends a condition (hidden states of the
frozen backbone over its own windows, pooled) and gets an adapter made for it: no id, no label.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.serverapp import Grid
from pydantic import Field
from torch import Tensor, nn

from hypernet.generators.conditioned import ConditionedGenerator
from hypernet.networks.refined import RefinedClassifier
from hypernet.parameters import ParameterSpec, vector_of
from schemas.base import Strict
from schemas.npy import array_values
from schemas.plan import STREAM, Adapt, Plan, Stage, Train
from server.border import admit, weights_record
from server.federation import Federation
from server.strategies.base import State, config_of, request
from server.strategies.buffered import Returned
from server.strategies.generated import GeneratedStrategy, Snapshot, unread
from server.strategies.memory_training import MemorySettings, trained_memory
from server.strategies.stream import Noticing, Stream, threshold_of

Given = Literal["matched", "mean", "random", "static", "none"]
ALL_WINDOWS = 65_536  # a batch of all of a person's windows, so that neighbours lie side by side


class Exchange(Strict):
    """What devices are asked, sent and told to do."""

    given: Given = Field(
        "matched",
        description="Whose adapter a person gets: their own; that of the mean condition; that "
        "of another person; a static one, trained without conditions; none. All but the first "
        "are ablations.",
    )
    adapt: bool = Field(True, description="AdaBN on the device, with the adapter.")
    steps: int = Field(
        5,
        ge=0,
        le=10_000,
        description="Device's steps a round; 0: conditions are all it sends.",
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Labelled windows a step.")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="Device's Adam.")
    generator_rate: float = Field(1e-4, gt=0, le=1, description="Adam's, for pull-backs.")
    clip: float = Field(50.0, gt=0, description="Largest norm of a gradient of the generator.")
    tuning_steps: int = Field(
        0, ge=0, le=100_000, description="At last, steps of the adapter on the person's labels."
    )
    tuning_least: int = Field(90, ge=1, le=100_000, description="Labelled windows that this takes.")
    noise: float = Field(
        0.0, ge=0, le=1e6, description="Deviation of noise that a device adds to its condition."
    )


class FunctionalMemoryStrategy(GeneratedStrategy):
    """A person's adapter, generated from what a frozen network makes of the person's windows."""

    class Parameters(Exchange, Noticing, MemorySettings):
        """``[strategies.functional-memory]``."""

    needs_labels: ClassVar[bool] = False
    network: Any
    generator: ConditionedGenerator

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        super().__init__(federation, parameters)
        self.network, self.generator = self.trained()
        static = self.settings.given == "static"
        if self.settings.given in ("static", "none"):
            self.generator.requires_grad_(False)
            self.generator.start.requires_grad_(static)
        self.spec = ParameterSpec.of(self.network)
        self.buffers = vector_of(self.network)[self.spec.trainable_length :]
        learned = [p for p in self.generator.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            learned or self.generator.parameters(), self.settings.generator_rate
        )
        noticing = isinstance(parameters, Noticing) and self.settings.given == "matched"
        if federation.lives and noticing:
            self.stream = Stream(self, threshold_of(self))

    def trained(self) -> tuple[nn.Module, ConditionedGenerator]:
        """Return the devices' network and the generator, trained on the sources."""
        steps = 0 if self.settings.given == "none" else self.settings.memory_steps
        return trained_memory(
            self.federation, self.settings, steps, conditions=self.settings.given != "static"
        )

    def condition(self, nodes: Sequence[int]) -> Tensor:
        """What adapters are generated from (nodes, condition), as ``given`` says."""
        known, center = self.embeddings, self.generator.center
        if self.settings.given == "matched":
            return torch.stack([known.get(node, center) for node in nodes])
        if self.settings.given == "random":
            return torch.stack([self._other(node) for node in nodes])
        return center.expand(len(nodes), -1)

    def _other(self, node: int) -> Tensor:
        """Return another person's condition, the same one always: the next in the order of ids."""
        others = [n for n in sorted(self.embeddings) if n != node]
        later = [n for n in others if n > node] or others
        return self.embeddings[later[0]] if later else self.generator.center

    def train_config(self) -> ConfigRecord:
        """Learn from the adapter; tell the condition anew."""
        training = self._training()
        unsent = unread(self.spec, learning=bool(training))
        return config_of(self.plan((*self._adapted(), *training), tell=True, unsent=unsent))

    def evaluate_config(self) -> ConfigRecord:
        """AdaBN, perhaps tune, and predict."""
        return config_of(self.evaluation())

    def evaluation(self, **fields: Any) -> Plan:
        """What a device does with an adapter before it is judged; ``Plan``'s fields besides."""
        settings, book = self.settings, self.federation.graphs
        stages = self._adapted()
        if isinstance(self.network, RefinedClassifier):
            graph = book.update(self.network, "prototypes")
            stages.append(Adapt(graph=graph, windows=STREAM))
        if settings.tuning_steps:
            stages.append(
                Train(
                    graph=book.step(self.network, "classification_loss", "adam"),
                    part="labelled",
                    steps=settings.tuning_steps,
                    batch_size=settings.batch_size,
                    learning_rate=settings.learning_rate,
                    cosine=True,
                    at_least=settings.tuning_least,
                )
            )
        if fields.get("drift") is not None:
            fields["carried"] = self.spec.ranges(lambda name: name.startswith("own_"))
        return self.plan(tuple(stages), predict=book.forward(self.network), **fields)

    def asking_config(self) -> ConfigRecord:
        """Tell the condition, and nothing else."""
        return config_of(self.plan((), tell=True))

    def _adapted(self) -> list[Stage]:
        if not self.settings.adapt:
            return []
        share = self.federation.config.model.own_statistics
        return [Adapt(graph=self.federation.graphs.adapt(self.network), mix=share)]

    def _training(self) -> tuple[Stage, ...]:
        """On labels where clients have any, else by what neighbouring windows tell each other."""
        settings, book = self.settings, self.federation.graphs
        if not settings.steps or settings.given == "none":
            return ()
        common: dict[str, Any] = {"steps": settings.steps, "learning_rate": settings.learning_rate}
        if self.federation.config.data.label_fraction > 0:
            graph = book.step(self.network, "classification_loss", "adam")
            return (Train(graph=graph, part="labelled", batch_size=settings.batch_size, **common),)
        graph = book.step(self.network, "consistency_loss", "adam", labels=False)
        return (Train(graph=graph, part="unlabelled", batch_size=ALL_WINDOWS, **common),)

    def plan(self, stages: tuple[Stage, ...], *, tell: bool = False, **fields: Any) -> Plan:
        """Build a plan on an adapter's vector; ``tell`` asks for the condition."""
        config, book, memory = self.federation.config, self.federation.graphs, self.generator
        if tell:
            fields["report"] = {"condition": book.forward(self.network, "condition")}
            fields["shapes"] = {"condition": (memory.tokens, memory.channels)}
            fields["noise"] = self.settings.noise
        return Plan(
            length=self.spec.length,
            variances=self.spec.ranges(lambda name: name.endswith(".var")),
            statistics=book.statistics(self.network.spec),
            stages=stages,
            encoding=config.upload.encoding,
            topk=config.upload.topk,
            seed=config.seed,
            **fields,
        )

    def messages(
        self, nodes: Sequence[int], kind: str, config: ConfigRecord, server_round: int
    ) -> list[Message]:
        """Adapters; whoever has told no condition yet is asked for it first."""
        if kind != MessageType.TRAIN:
            return super().messages(nodes, kind, config, server_round)
        known = [node for node in nodes if node in self.embeddings]
        new = [node for node in nodes if node not in self.embeddings]
        asked = super().messages(new, kind, self.asking_config(), server_round)
        return super().messages(known, kind, config, server_round) + asked

    def pull(self, nodes: list[int], updates: list[Message], *, learn: bool) -> None:
        """Pull back what was learned from adapters; then take the new conditions."""
        learned = [at for at, node in enumerate(nodes) if node in self.embeddings]
        if learned and learn and self._training():
            super().pull([nodes[at] for at in learned], [updates[at] for at in learned], learn=True)
        self._remember(updates)

    def _remember(self, updates: Iterable[Message]) -> None:
        for update in updates:
            told = array_values(update.content.array_records["report"]["condition"])
            condition = torch.from_numpy(told)
            node = update.metadata.src_node_id
            self.embeddings[node] = self.generator.check(condition, self.network.version)

    def _move_embeddings(self, nodes: Sequence[int], gradients: Tensor) -> None:
        """Conditions are measured, not learned."""

    def _move_generator(self) -> None:
        if any(p.requires_grad for p in self.generator.parameters()):
            super()._move_generator()

    def shared_buffers(self, learned: Tensor) -> Tensor:
        """Keep the sources' batch-norm statistics; every device mixes in its own."""
        return self.buffers

    def ask(
        self,
        nodes: Sequence[int],
        arrays: ArrayRecord,
        config: Mapping[str, Any],
        number: int,
        version: int,
    ) -> list[Message]:
        """As of ``Buffered``; the version keeps conditions of those that had told one."""
        if version not in self.snapshots:
            now = {k: v.clone() for k, v in self.generator.state_dict().items()}
            self.snapshots[version] = Snapshot(now)
        told = dict(zip(nodes, self.condition(nodes), strict=True))
        known = {node: told[node] for node in nodes if node in self.embeddings}
        self.snapshots[version].embeddings |= known
        return self.messages(nodes, MessageType.TRAIN, ConfigRecord(dict(config)), number)

    def absorb(
        self, version: int, arrays: ArrayRecord, returned: Sequence[Returned]
    ) -> ArrayRecord:
        """Pull back what was made from adapters; take the conditions of all."""
        learned = [r for r in returned if r.node in self.snapshots[r.version].embeddings]
        if learned and self._training():
            super().absorb(version, arrays, learned)
        self._remember([one.update for one in returned])
        return arrays

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask those who have told no condition; then everyone's own adapter."""
        nodes = [int(node) for node in grid.get_node_ids()]
        self.join([node for node in nodes if node not in self.embeddings], grid)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def join(self, nodes: Iterable[int], grid: Grid) -> None:
        """One exchange: persons tell their conditions; who does not gets the mean one's adapter."""
        config = self.federation.config
        new = sorted(nodes)
        if not new or self.settings.given in ("mean", "static", "none"):
            return
        asked = super().messages(new, MessageType.TRAIN, self.asking_config(), 0)
        replies = grid.send_and_receive(asked, timeout=None)
        limits, timeout = config.upload, config.cohort.timeout_seconds
        admitted = admit(asked, replies, limits.max_norm, timeout, limits.max_examples)
        self._remember(admitted.updates)

    def unadapted(self, node: int, server_round: int = 0) -> Message:
        """Return the request to evaluate a person with an adapter that changes nothing."""
        start = weights_record(vector_of(self.network).numpy())
        return request(node, MessageType.EVALUATE, start, self.evaluate_config(), server_round)

    def state(self) -> State:
        """The generator's, conditions, and the backbone that they belong to."""
        version = np.frombuffer(bytes.fromhex(self.network.version), np.uint8)
        return super().state() | {"backbone": version.copy()}

    def load(self, state: State) -> None:
        """Go on from ``state``.

        Raises
        ------
        ValueError
            Where it is of another backbone: its adapters and conditions would not fit this one.
        """
        found = bytes(np.asarray(state["backbone"], np.uint8)).hex()
        if found != self.network.version:
            raise ValueError(
                f"its memory belongs to backbone {found[:12]}; this run's is "
                f"{self.network.version[:12]}"
            )
        super().load({name: array for name, array in state.items() if name != "backbone"})
