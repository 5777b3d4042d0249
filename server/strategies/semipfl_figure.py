"""SemiPFL's personal model as in the paper's figure, steps 4 to 6."""

import torch
from pydantic import Field
from torch import Tensor

from hypernet.base_models import fit_base_models, kept_latents, nearness
from hypernet.latent import sample_sources
from hypernet.networks.autoencoder import Autoencoder
from hypernet.networks.mixture import Mixture
from hypernet.parameters import ParameterSpec, vector_of
from schemas.base import Strict
from schemas.plan import Plan, Train
from server.federation import Federation


class BaseModelSettings(Strict):
    """What both variants' base models are made from."""

    base_windows: int = Field(
        20, ge=1, le=10_000, description="Windows of each source and class that base models see."
    )


class FigureSettings(BaseModelSettings):
    """What the figure leaves open."""

    quantile: float = Field(
        0.9, gt=0, le=1, description="τ: this quantile of the user's own reconstruction errors."
    )
    filtered: bool = Field(True, description="Filter the sources' windows by τ (figure).")
    combination_steps: int = Field(
        100, ge=0, le=100_000, description="Device's steps on the combination (figure)."
    )


class FigurePersonaliser:
    """Filter by τ, train a base model a source, send them frozen; the user combines them.

    A user without labels weights each source by the share of its windows that were kept, which is
    where learning the weights starts for one with labels. The steps are the figure's. What runs in
    them is ours in both variants: a convolutional autoencoder with AdaBN, trained on the sources
    first, few SGD steps a round (the public code has five passes of Adam), τ relative to the user.
    """

    def __init__(self, federation: Federation, settings: FigureSettings) -> None:
        self.federation, self.settings = federation, settings
        model = federation.config.model
        self.network = Mixture(
            federation.spec,
            federation.classes,
            len(federation.sources),
            model.width,
            model.latent,
        ).eval()
        self.spec = ParameterSpec.of(self.network)
        self.samples = sample_sources(federation.sources, settings.base_windows)

    def plan(self) -> Plan:
        """Learn the combination on the labels there are; all else stays as sent."""
        book = self.federation.graphs
        train = Train(
            graph=book.step(self.network, "classification_loss", "adam"),
            part="labelled",
            steps=self.settings.combination_steps,
            learning_rate=0.05,
            cosine=True,
            trainable=self.spec.ranges(lambda name: name == "combination"),
        )
        return Plan(
            length=self.spec.length,
            statistics=book.statistics(self.network.spec),
            stages=(train,),
            predict=book.forward(self.network),
            seed=self.federation.config.seed,
        )

    def vector(self, autoencoder: Autoencoder, errors: Tensor | None) -> Tensor:
        """The personal model (length,) of a user with this autoencoder and these own errors."""
        threshold = float("inf")
        if self.settings.filtered and errors is not None:
            threshold = float(errors.quantile(self.settings.quantile))
        z, y, kept = kept_latents(autoencoder, self.samples, threshold)
        models = fit_base_models(z, y, kept, self.federation.classes, self.federation.config.seed)
        self.network.encoder.load_state_dict(autoencoder.encoder.state_dict())
        self.network.models.load_state_dict(models.state_dict())
        with torch.no_grad():
            self.network.combination.copy_(nearness(kept))
        return vector_of(self.network)
