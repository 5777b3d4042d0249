"""The product's best recipe: a good start, then each device learns from its own stream.

No round is needed: the server sends one vector and a plan. What is personal happens on the device,
with labels or without, and each step is a stage that can be left out. The start is the sources'
model, or has a head that functional memory made for the person's condition.
"""

from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.serverapp import Grid
from pydantic import Field
from torch import Tensor

from hypernet.condition import shares
from hypernet.latent import latent_sources, pooled_means, sample_sources
from hypernet.networks.norm import set_own
from hypernet.networks.personal import Mixing
from hypernet.networks.self_training import Bouts, SelfTraining, diversity
from hypernet.parameters import ParameterSpec, load_vector, vector_of
from schemas.base import Strict
from schemas.plan import STREAM, Adapt, Blend, Plan, Range, Stage, Train
from server.border import weights_record
from server.federation import Federation
from server.strategies.base import Adapts, State, config_of, request
from server.strategies.functional_memory import FunctionalMemoryStrategy, Given
from server.strategies.local import Unfederated

LAST = ("encoder.linear", "encoder.norm4", "head")
MOVED = (".mean", ".var")


class Personal(Unfederated):
    """The sources' model, AdaBN, and self-training on the person's stream of windows.

    A memory (``FunctionalMemoryStrategy``, its defaults) has the same backbone: what it generates
    is merged into the classifier that is sent.
    """

    class Parameters(Strict):
        """``[strategies.personal]``."""

        memory: Given = Field(
            "none",
            description="Whose generated head a device starts from: matched asks for its "
            "condition first; none: the sources', and no exchange.",
        )
        memory_steps: int = Field(
            400, ge=0, le=1_000_000, description="Steps of the memory's training at the server."
        )
        memory_guard: float = Field(
            0.85,
            ge=0,
            le=1,
            description="A person whose condition tells of fewer classes than this share, by the "
            "exponent of their entropy, starts from the sources' head; 0: nobody.",
        )
        adapt: Adapts = True
        prototypes: int = Field(
            0,
            ge=0,
            le=10,
            description="Prototype EM, so many steps: class means of the person's windows move "
            "the head, with the sources' as their prior.",
        )
        rounds: int = Field(
            4, ge=0, le=10, description="Of self-training: each asks for new targets first."
        )
        steps: int = Field(40, ge=1, le=10_000, description="Optimizer steps a round.")
        batch_size: int = Field(128, ge=1, le=4096, description="Windows a step.")
        learning_rate: float = Field(5e-4, gt=0, le=10, description="Adam's.")
        stay: float = Field(
            0.95,
            ge=0,
            lt=1,
            description="Probability that the next window is of the same class: how long bouts "
            "are. 0 where windows are not in the order of time.",
        )
        evidence: float = Field(
            0.4,
            gt=0,
            le=1,
            description="Share of a window's score that counts along the stream: neighbours are "
            "alike, and a classifier errs on them alike.",
        )
        floor: float = Field(
            0.05,
            gt=0,
            le=1e3,
            description="Windows given to every class in the pool's mix, as a share of an even "
            "one; 1000 learns the mix with the classes (no logit adjustment).",
        )
        trust: float = Field(
            0.5,
            ge=0,
            le=1,
            description="Share of what self-training changed that is kept where nothing but the "
            "stream vouches for it; with labels, or the prior, it is all.",
        )
        replay: float = Field(
            0.3, ge=0, le=1e3, description="Weight of the sources' class means in the loss."
        )
        label_weight: float = Field(
            3.0, ge=1, le=1e3, description="Unlabelled windows that a labelled one counts for."
        )
        balanced_classes: bool = Field(
            False,
            description="A prior: this person does all classes equally often. True of few data.",
        )
        guard: float = Field(
            0.65,
            ge=0,
            le=1,
            description="Self-training is left out where the stream's classes are fewer than this "
            "share, by the exponent of their entropy; 0: never.",
        )
        many: int = Field(
            90,
            ge=0,
            description="With at most so many labelled windows the last layers alone learn; 0: the "
            "whole network always does.",
        )
        many_steps: int = Field(
            100, ge=0, le=100_000, description="Steps a round of the whole network, with more."
        )
        base_windows: int = Field(
            20, ge=1, le=10_000, description="Windows of each source and class in its class means."
        )

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        super().__init__(federation, parameters)
        self.network = self._network()
        self.spec = ParameterSpec.of(self.network)
        self.memory = self._memory()

    def _memory(self) -> FunctionalMemoryStrategy | None:
        wanted = self.parameters
        if wanted.memory == "none":
            return None
        made = FunctionalMemoryStrategy.Parameters(
            given=wanted.memory, memory_steps=wanted.memory_steps
        )
        return FunctionalMemoryStrategy(self.federation, made)

    def initial(self) -> ArrayRecord:
        """The sources' classifier, and their class means."""
        return weights_record(vector_of(self.network).numpy())

    def evaluate_config(self) -> ConfigRecord:
        """The device's stages."""
        if self.memory is not None:
            self.memory.asking_config()  # its graph must be where devices find it
        return config_of(self.plan())

    def join(self, nodes: Iterable[int], grid: Grid) -> None:
        """One exchange: persons tell their conditions; who does not has the mean one."""
        if self.memory is not None:
            known = self.memory.embeddings
            self.memory.join([node for node in nodes if node not in known], grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask those who have told no condition; then everyone's own start."""
        nodes = sorted(int(node) for node in grid.get_node_ids())
        self.join(nodes, grid)
        shared = torch.from_numpy(arrays["weights"].numpy().copy())
        starts = self.starts(nodes, shared)
        return [
            request(node, MessageType.EVALUATE, weights_record(start.numpy()), config, server_round)
            for node, start in zip(nodes, starts, strict=True)
        ]

    def unadapted(self, node: int) -> Message:
        """Return the request to evaluate a person from the sources' head."""
        return request(node, MessageType.EVALUATE, self.initial(), self.evaluate_config(), 0)

    @torch.no_grad()
    def starts(self, nodes: list[int], shared: Tensor) -> list[Tensor]:
        """Weights (length,) of each person: the shared ones with what the memory made merged in."""
        if self.memory is None or not nodes:
            return [shared] * len(nodes)
        adapted, tensors, starts = self.memory.network, self.spec.unflatten(shared), []
        for node, vector in zip(nodes, self.memory.vectors(nodes), strict=True):
            own = {}
            if self._various(self.memory, node):
                load_vector(adapted, vector)
                own = adapted.merged()
            starts.append(self.spec.flatten(tensors | own))
        return starts

    def _various(self, memory: FunctionalMemoryStrategy, node: int) -> bool:
        """Whether a condition tells of enough classes; the mean one does."""
        told = memory.embeddings.get(node)
        if told is None:
            return True
        share = shares(told.reshape(memory.generator.tokens, -1))
        return bool(diversity(share[None]) >= self.parameters.memory_guard)

    def state(self) -> State:
        """The memory's: the generator and conditions."""
        return {} if self.memory is None else self.memory.state()

    def load(self, state: State) -> None:
        """Go on from ``state``."""
        if self.memory is not None:
            self.memory.load(state)

    def plan(self) -> Plan:
        """AdaBN, prototypes, self-training: those that are wanted."""
        wanted, book = self.parameters, self.federation.graphs
        stages: list[Stage] = []
        if wanted.adapt:
            share = self.federation.config.model.own_statistics
            stages.append(Adapt(graph=book.adapt(self.network), mix=share))
        if wanted.prototypes:
            stages.append(Adapt(graph=book.update(self.network, "prototypes"), windows=STREAM))
        last = self.spec.ranges(lambda name: name.startswith(LAST) and not name.endswith(MOVED))
        first = len(stages)
        for _ in range(wanted.rounds):
            stages += self._round(last)
        if wanted.trust < 1 and len(stages) > first and not wanted.balanced_classes:
            stages.append(Blend(since=first, share=wanted.trust, at_most=0))
        return Plan(
            length=self.spec.length,
            statistics=book.statistics(self.network.spec),
            stages=tuple(stages),
            predict=book.forward(self.network),
            seed=self.federation.config.seed,
        )

    def _round(self, last: tuple[Range, ...]) -> list[Stage]:
        """A round of self-training: of the last layers, or with more labels of all."""
        wanted, stages = self.parameters, list[Stage]()
        if wanted.many:
            few = self._learning("learn_last", wanted.steps, trainable=last, at_most=wanted.many)
            stages.append(few)
        if wanted.many_steps:
            least = wanted.many + 1 if wanted.many else 0
            stages.append(self._learning("learn", wanted.many_steps, at_least=least))
        return stages

    def _learning(self, loss: str, steps: int, at_least: int = 0, **fields: Any) -> Train:
        wanted, book = self.parameters, self.federation.graphs
        return Train(
            graph=book.step(self.network, loss, "adam", targets=2 * self.federation.classes),
            targets=book.targets(self.network, "teach"),
            part="all",
            steps=steps,
            batch_size=wanted.batch_size,
            learning_rate=wanted.learning_rate,
            at_least=at_least,
            **fields,
        )

    def _network(self) -> SelfTraining:
        """The start: another one is another encoder and head in its place."""
        federation, wanted = self.federation, self.parameters
        model, sources = federation.config.model, federation.sources
        network = SelfTraining(
            federation.spec,
            federation.classes,
            len(sources),
            model.width,
            model.latent,
            Mixing(iterations=wanted.prototypes),
            Bouts(
                stay=wanted.stay,
                evidence=wanted.evidence,
                floor=wanted.floor,
                balanced=wanted.balanced_classes,
                label_weight=wanted.label_weight,
                replay=wanted.replay,
                guard=wanted.guard,
            ),
            sources.lacking,
        ).eval()
        set_own(network, model.own_statistics)
        start = federation.source_model()
        network.encoder.load_state_dict(start.encoder.state_dict())
        network.head.load_state_dict(start.head.state_dict())
        samples = sample_sources(sources, wanted.base_windows)
        found = latent_sources(network, samples, federation.classes)
        with torch.no_grad():
            network.whiten.copy_(found.whiten)
            network.base.copy_(found.base)
            network.replay.copy_(pooled_means(network, samples, federation.classes))
        return network
