"""SemiPFL, our variant: what the figure means, with what it lacks mended.

The encoder is discriminative (trained on the sources' labels and virtual users; the residual that
reconstruction makes is small); base models are generative and mixed by class, near ones first,
with or without labels; fine-tuning is the last step, and only where labels are many.
"""

import torch
from pydantic import Field
from torch import Tensor

from hypernet.latent import latent_sources, sample_sources
from hypernet.networks.autoencoder import Autoencoder
from hypernet.networks.norm import set_own
from hypernet.networks.personal import Mixing, PersonalModel
from hypernet.parameters import ParameterSpec, vector_of
from schemas.plan import STREAM, Adapt, Plan, Stage, Train
from server.federation import Federation
from server.strategies.semipfl_figure import BaseModelSettings


class JointSettings(BaseModelSettings):
    """How base models are mixed, and the last step."""

    adapt: bool = Field(True, description="AdaBN on the device (joint).")
    mixing_iterations: int = Field(
        10, ge=0, le=50, description="EM steps on the person's windows; 0: the sources' head."
    )
    kappa: float = Field(
        20.0, ge=0, le=1e6, description="Windows that base models weigh against the person's own."
    )
    sharpness: float = Field(
        30.0, gt=0, le=1e9, description="τ of base models' weights; 1e9 averages all sources."
    )
    blend: float = Field(
        0.5, ge=0, le=1, description="Share of the mixed head; the rest is the sources' head."
    )
    many: int = Field(
        90, ge=0, description="With more labelled windows than this, the encoder is tuned too."
    )
    tuning_steps: int = Field(100, ge=0, le=100_000, description="Steps of that tuning.")
    tuning_epochs: int = Field(5, ge=0, le=1000, description="And at least so many passes.")
    tuning_batch: int = Field(96, ge=1, le=4096, description="Windows a step of it.")
    tuning_rate: float = Field(1e-3, gt=0, le=10, description="Adam's, cosine.")
    distil: bool = Field(
        True, description="Unlabelled windows hold the tuning by the mixed head's posteriors."
    )


class JointPersonaliser:
    """Base models from class means in the person's latent space; the device mixes them."""

    def __init__(self, federation: Federation, settings: JointSettings) -> None:
        self.federation, self.settings = federation, settings
        model = federation.config.model
        mixing = Mixing(
            iterations=settings.mixing_iterations,
            kappa=settings.kappa,
            sharpness=settings.sharpness,
            blend=settings.blend,
        )
        self.network = PersonalModel(
            federation.spec,
            federation.classes,
            len(federation.sources),
            model.width,
            model.latent,
            mixing,
            federation.sources.lacking,
        ).eval()
        set_own(self.network, model.own_statistics)
        self.network.head.load_state_dict(federation.source_model().head.state_dict())
        self.spec = ParameterSpec.of(self.network)
        self.samples = sample_sources(federation.sources, settings.base_windows)

    def plan(self) -> Plan:
        """AdaBN, mix, and tune where labels are many."""
        book, settings = self.federation.graphs, self.settings
        stages: list[Stage] = []
        if settings.adapt:
            share = self.federation.config.model.own_statistics
            stages.append(Adapt(graph=book.adapt(self.network), mix=share))
        stages.append(Adapt(graph=book.update(self.network, "mix"), windows=STREAM))
        if settings.tuning_steps:
            stages.append(self._tuning())
        return Plan(
            length=self.spec.length,
            statistics=book.statistics(self.network.spec),
            stages=tuple(stages),
            predict=book.forward(self.network),
            seed=self.federation.config.seed,
        )

    def _tuning(self) -> Train:
        settings = self.settings
        book = self.federation.graphs
        loss = "tuning_loss" if settings.distil else "head_loss"
        classes = self.federation.classes if settings.distil else 0
        return Train(
            graph=book.step(self.network, loss, "adam", targets=classes),
            targets=book.forward(self.network, "posteriors") if classes else None,
            part="all" if settings.distil else "labelled",
            steps=settings.tuning_steps,
            epochs=settings.tuning_epochs,
            batch_size=settings.tuning_batch,
            learning_rate=settings.tuning_rate,
            cosine=True,
            at_least=settings.many + 1,
        )

    def vector(self, autoencoder: Autoencoder, _errors: Tensor | None) -> Tensor:
        """The personal model (length,) of a user with this autoencoder."""
        network = self.network
        network.encoder.load_state_dict(autoencoder.encoder.state_dict())
        found = latent_sources(network, self.samples, self.federation.classes)
        with torch.no_grad():
            network.whiten.copy_(found.whiten)
            network.base.copy_(found.base)
            # Without mixing on the device, the sources' head predicts.
            network.mixed_weight.copy_(network.head.weight)
            network.mixed_bias.copy_(network.head.bias)
        return vector_of(network)
