"""PeFLL as a strategy: the functional memory's exchange, one vector up and all weights down."""

import torch
from pydantic import Field
from torch import Tensor, nn

from hypernet.generators.pefll import PeFLL
from hypernet.networks.embedded import EmbeddedClassifier
from hypernet.networks.losses import cross_entropy
from hypernet.parameters import ParameterSpec, vector_of
from hypernet.virtual_users import Turning, VirtualUsers
from schemas.base import Strict
from schemas.plan import Stage
from server.federation import Federation
from server.strategies.functional_memory import Exchange, FunctionalMemoryStrategy

SMOOTHING = 0.05


class PeFLLStrategy(FunctionalMemoryStrategy):
    """All weights of a person's classifier, from an embedding of the person's windows.

    Scott et al., arXiv:2306.05515: the mean over the cohort of (∂θ/∂φ)ᵀΔ moves the hypernetwork.
    Not as there: it starts from episodes over the sources. The embedding network sees windows
    without their labels, learns in these episodes alone, and is a constant on the devices. What is
    generated is a residual, in units of ``scale``, on the sources' model. Neither the networks nor
    the weights have an L2 penalty.
    """

    class Parameters(Exchange):
        """``[strategies.pefll]``."""

        embedding: int = Field(64, ge=1, le=4096, description="Length of a person's embedding.")
        hidden: int = Field(64, ge=4, le=4096, description="Width of the hypernetwork's trunk.")
        chunk: int = Field(1024, ge=16, le=1_000_000, description="Entries made at once.")
        scale: float = Field(0.1, gt=0, le=10, description="Unit of the personal residual.")
        server_steps: int = Field(300, ge=0, le=1_000_000, description="Episodes' steps.")
        server_persons: int = Field(8, ge=1, le=256, description="Virtual persons in a step.")
        server_rate: float = Field(1e-3, gt=0, le=1, description="Adam's in them, cosine to 0.")

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        self.made = parameters
        super().__init__(federation, parameters)

    def trained(self) -> tuple[nn.Module, PeFLL]:
        """Train embedding network and hypernetwork in episodes over the sources."""
        federation, settings = self.federation, self.settings
        config = federation.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            backbone = federation.source_model()
            model = config.model
            network = EmbeddedClassifier(
                backbone, settings.embedding, model.width, model.latent
            ).eval()
            classifier = ParameterSpec.of(backbone)
            generator = PeFLL(
                vector_of(backbone)[: classifier.trainable_length],
                settings.embedding,
                network.version,
                settings.hidden,
                settings.chunk,
                settings.scale,
            )
        if settings.given != "none":
            self._learn(network, generator, classifier)
        return network.freeze(), generator

    def _training(self) -> tuple[Stage, ...]:
        """On labels alone: where clients have none, their embeddings are all that they send."""
        return super()._training() if self.federation.config.data.label_fraction > 0 else ()

    def _learn(
        self, network: EmbeddedClassifier, generator: PeFLL, classifier: ParameterSpec
    ) -> None:
        config, settings = self.federation.config, self.settings
        seeded = torch.Generator().manual_seed(config.seed * 1009 + 6)
        users = VirtualUsers(self.federation.sources, Turning.of(config.source), seeded)
        learned = [*generator.parameters(), *network.embedder.parameters()]
        if settings.given == "static":
            learned = [generator.whole.centre]
        optimizer = torch.optim.Adam(learned, settings.server_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, max(1, settings.server_steps)
        )
        for _ in range(settings.server_steps):
            seen, judged, y = _episode(users, settings.server_persons)
            told = torch.stack([network.embedded(windows) for windows in seen])
            logits = network.batched(judged, generator.generate(told), classifier)
            loss = cross_entropy(logits.flatten(0, 1), y, SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()


def _episode(users: VirtualUsers, persons: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs that make embeddings, and those that are judged with their labels."""
    x, y, _ = users.draw(persons, 64)
    rows = x.reshape(persons, -1, *x.shape[1:])
    return rows[:, :32], rows[:, 32:], y.reshape(persons, -1)[:, 32:].flatten()
