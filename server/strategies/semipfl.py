"""SemiPFL: each person's autoencoder is generated; base models live in its latent space.

Tashakori et al., "SemiPFL: Personalized Semi-Supervised Federated Learning Framework for Edge
Intelligence", arXiv:2203.08176. ``variant = "figure"`` is the paper's system figure; ``"joint"`` is
ours and keeps the idea: see ``semipfl_figure`` and ``semipfl_joint``.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field
from torch import Tensor

from hypernet.classification import SourceClassification
from hypernet.networks.autoencoder import Autoencoder
from hypernet.parameters import ParameterSpec, load_vector, vector_of
from hypernet.virtual_users import Turning, VirtualUsers
from schemas.base import Strict
from schemas.npy import array_values
from schemas.plan import Adapt, Plan, Train
from server.border import admit, weights_record
from server.federation import Federation
from server.strategies.autoencoder_training import trained_autoencoder
from server.strategies.base import State, config_of, request
from server.strategies.buffered import Returned
from server.strategies.generated import GeneratedStrategy, Generating, unread
from server.strategies.semipfl_figure import FigurePersonaliser, FigureSettings
from server.strategies.semipfl_joint import JointPersonaliser, JointSettings


class SemiPFL(GeneratedStrategy):
    """A generated autoencoder a person; the sources' base models combined by each."""

    class Parameters(Generating, FigureSettings, JointSettings):
        """``[strategies.semipfl]``."""

        variant: Literal["joint", "figure"] = Field(
            "joint", description="Ours, or the paper's figure to the letter."
        )
        reconstruction_steps: int = Field(
            400, ge=0, le=1_000_000, description="Server's training of the shared start."
        )
        epochs: int = Field(0, ge=0, le=1000, description="Device's passes a round, no labels.")
        steps: int = Field(5, ge=0, le=100_000, description="Least number of its steps.")
        batch_size: int = Field(64, ge=1, le=4096, description="Windows a step.")
        learning_rate: float = Field(1e-3, gt=0, le=10, description="Device's SGD.")
        residual: bool = Field(
            True, description="Generate a personal residual; without it all share one autoencoder."
        )
        server_steps: int = Field(
            10,
            ge=0,
            le=10_000,
            description="The generator's steps on the sources' labels, each round (joint).",
        )
        join_rounds: int = Field(
            5,
            ge=0,
            le=1000,
            description="Exchanges in which an unseen person's v is fitted, φ frozen.",
        )

    needs_labels: ClassVar[bool] = False

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        super().__init__(federation, parameters)
        joint = self.settings.variant == "joint"
        self.network = trained_autoencoder(
            federation,
            self.settings.reconstruction_steps,
            federation.source_model() if joint else None,
        )
        self.spec = ParameterSpec.of(self.network)
        self.begin(vector_of(self.network), self.spec.trainable_length)
        self.labels: SourceClassification | None = None
        if joint:
            self.freeze_centre()
            self.labels = self._source_labels()
        make = JointPersonaliser if joint else FigurePersonaliser
        self.personaliser = make(federation, self.settings)
        self.reports: dict[int, Tensor] = {}

    def freeze_centre(self) -> None:
        """Keep the sources' encoder as the centre: reconstruction alone would blur its classes."""
        self.generator.get_parameter("centre").requires_grad_(False)

    def _source_labels(self) -> SourceClassification:
        federation = self.federation
        turning = Turning.of(federation.config.source)
        users = VirtualUsers(federation.sources, turning, torch.Generator())
        return SourceClassification(self.network, federation.source_model().head, users)

    def train_config(self) -> ConfigRecord:
        """Fine-tune the autoencoder on all training windows, labels unread."""
        settings, book = self.settings, self.federation.graphs
        config = self.federation.config
        share = config.model.own_statistics
        adapt = Adapt(graph=book.adapt(self.network), mix=share, windows=128)
        figure = settings.variant == "figure"
        train = Train(
            graph=book.step(self.network, "reconstruction_loss", "sgd", labels=False),
            part="unlabelled",
            epochs=settings.epochs,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
        )
        plan = Plan(
            length=self.spec.length,
            variances=self.spec.ranges(lambda name: name.endswith(".var")),
            unsent=unread(self.spec, learning=settings.residual),
            statistics=book.statistics(self.network.spec),
            stages=(adapt, train),
            report={"errors": book.forward(self.network, "errors")} if figure else {},
            encoding=config.upload.encoding,
            topk=config.upload.topk,
            seed=config.seed,
        )
        return config_of(plan)

    def evaluate_config(self) -> ConfigRecord:
        """The personal model's plan."""
        return config_of(self.personaliser.plan())

    def pull(self, nodes: list[int], updates: list[Message], *, learn: bool) -> None:
        """Remember a user's own errors, from which τ is set (figure); pull the changes back."""
        self._remember(updates)
        if self.settings.residual:
            super().pull(nodes, updates, learn=learn)

    def absorb(
        self, version: int, arrays: ArrayRecord, returned: Sequence[Returned]
    ) -> ArrayRecord:
        """Pull the changes back as they come, then learn on the sources' labels."""
        self._remember([one.update for one in returned])
        if self.settings.residual:
            super().absorb(version, arrays, returned)
            if self.labels is not None:
                self._learn_labels(self.labels, version)
        return arrays

    def _remember(self, updates: Iterable[Message]) -> None:
        for update in updates:
            if "report" in update.content.array_records:
                errors = array_values(update.content.array_records["report"]["errors"])
                self.reports[update.metadata.src_node_id] = torch.from_numpy(errors)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Pull the cohort's changes back, then learn on the sources' labels."""
        result = super().aggregate_train(server_round, replies)
        if self.labels is not None and self.settings.residual:
            self._learn_labels(self.labels, server_round)
        return result

    def _learn_labels(self, labels: SourceClassification, server_round: int) -> None:
        """Adam on φ, SGD on the sources' embeddings; nodes 0, −1, −2 … are the sources."""
        seed = self.federation.config.seed
        labels.users.generator.manual_seed(seed * 1_000_003 + server_round)
        sources = [-number for number in range(len(self.federation.sources))]
        for _ in range(self.settings.server_steps):
            embeddings = self.condition(sources).requires_grad_()
            self.optimizer.zero_grad()
            labels.loss(self.generator, embeddings, self.buffers).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.settings.clip)
            self.optimizer.step()
            gradient = torch.zeros_like(embeddings) if embeddings.grad is None else embeddings.grad
            for node, value, slope in zip(sources, embeddings, gradient, strict=True):
                self.embeddings[node] = (value - self.settings.embedding_rate * slope).detach()

    def shared_buffers(self, learned: Tensor) -> Tensor:
        """Keep the sources' batch-norm statistics in the centre; every device mixes in its own."""
        return self.buffers

    def messages(
        self, nodes: Sequence[int], kind: str, config: ConfigRecord, server_round: int
    ) -> list[Message]:
        """Autoencoders to train; whole personal models to evaluate."""
        if kind == MessageType.TRAIN or not nodes:
            return super().messages(nodes, kind, config, server_round)
        vectors = self.vectors(nodes)
        return [
            request(node, kind, self._personal(node, vector), config, server_round)
            for node, vector in zip(nodes, vectors, strict=True)
        ]

    def _personal(self, node: int, vector: Tensor) -> ArrayRecord:
        config = self.federation.config
        network = Autoencoder(self.federation.spec, config.model.width, config.model.latent)
        load_vector(network, vector)
        return weights_record(
            self.personaliser.vector(network.eval(), self.reports.get(node)).numpy()
        )

    def state(self) -> State:
        """The generator's, and the users' own errors."""
        return super().state() | {f"report/{n}": e.numpy() for n, e in self.reports.items()}

    def load(self, state: State) -> None:
        """Go on from ``state``."""
        super().load(state)
        self.reports = {
            int(name.removeprefix("report/")): torch.from_numpy(np.array(errors))
            for name, errors in state.items()
            if name.startswith("report/")
        }

    def join(self, nodes: Iterable[int], grid: Grid) -> None:
        """Fit the embeddings of unseen persons in a few exchanges, φ frozen."""
        config = self.federation.config
        for number in range(1, self.settings.join_rounds + 1):
            asked = self.messages(list(nodes), MessageType.TRAIN, self.train_config(), number)
            replies = grid.send_and_receive(asked, timeout=None)
            limits, timeout = config.upload, config.cohort.timeout_seconds
            admitted = admit(asked, replies, limits.max_norm, timeout, limits.max_examples)
            learned = [update.metadata.src_node_id for update in admitted.updates]
            if learned:
                self.pull(learned, admitted.updates, learn=False)
