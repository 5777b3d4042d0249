"""The functional memory's training at the server, before the first round; kept by what made it."""

from pathlib import Path
from typing import Final

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from hypernet.adapters import adapter_class
from hypernet.condition import BY_CLASS, CONDITIONERS, Conditioner, ConditionKind
from hypernet.episodes import Course, Episodes, train_memory
from hypernet.frozen_episodes import FrozenEpisodes
from hypernet.generators.class_memory import ClassMemory
from hypernet.generators.functional_memory import FunctionalMemory
from hypernet.generators.memory import Memory
from hypernet.latent import Sample, latent_sources, sample_sources
from hypernet.networks.adapted import AdaptedClassifier, Layers
from hypernet.networks.classifier import Classifier
from hypernet.networks.inputs import InputSpec
from hypernet.networks.personal import Mixing
from hypernet.networks.refined import RefinedClassifier
from hypernet.parameters import ParameterSpec, load_vector, vector_of
from hypernet.virtual_users import Turning, VirtualUsers
from schemas.base import Strict
from server.federation import Federation
from server.kept import kept, kept_at

FAR = Turning(flip=0.7, rotate=0.8, degrees=90.0, stretch=0.3, warp=0.2, noise=0.1)
"""Virtual persons of virtual persons: worn as no backbone saw it in training."""


WINDOWS: Final = 20  # of each source and class in its class means


class MemorySettings(Strict):
    """Adapter, condition, generator, and how it is trained on the sources."""

    adapter: str = Field(
        "rows",
        description="rows: the head's rows, each made from what the condition says of its class; "
        "lora, bone, compacter, scale-shift, or an installed one.",
    )
    layers: Layers | None = Field(
        None,
        description="Where it sits: head; last (the encoder's linear layer and the head); all, "
        "which takes many times longer to train. Left out: head for rows, last for others.",
    )
    rank: int = Field(4, ge=1, le=64, description="The adapter's.")
    adapter_scale: float = Field(1.0, gt=0, le=100, description="s of W + s·BA.")
    condition: ConditionKind = Field("prototypes", description="How windows are summed up.")
    token_limit: float = Field(
        0.0, ge=0, le=1e6, description="Largest length of a condition's token; 0: no limit."
    )
    width: int = Field(
        64, ge=8, le=4096, multiple_of=4, description="Of the generator's tokens; heads share it."
    )
    blocks: int | None = Field(
        None, ge=1, le=64, description="Of its attention. Left out: 1 for rows, 2 for others."
    )
    patch: int = Field(64, ge=1, le=65_536, description="Entries of a factor that a token makes.")
    scale: float = Field(0.1, gt=0, le=10, description="Unit of what is generated.")
    memory_steps: int = Field(
        400, ge=0, le=1_000_000, description="Episodes' optimizer steps at the server."
    )
    memory_persons: int = Field(16, ge=1, le=256, description="Virtual persons in a step.")
    memory_seen: int = Field(200, ge=1, le=4096, description="Windows of a condition in training.")
    memory_judged: int = Field(110, ge=1, le=4096, description="Windows of a person's loss in it.")
    versions: int = Field(
        4, ge=1, le=64, description="Virtual persons of each source, unless layers = 'all'."
    )
    memory_rate: float = Field(1e-3, gt=0, le=1, description="AdamW's in them, cosine to 0.")
    l2: float = Field(1e-3, ge=0, le=10, description="Of generated weights.")
    collapse: float = Field(
        0.0, ge=0, le=10, description="Penalty of cos² between a source's updates."
    )
    prototypes: int = Field(
        0,
        ge=0,
        le=10,
        description="Prototype EM on the device, with the adapter: so many steps; class means of "
        "the person's windows move the head, the sources' as their prior.",
    )
    kappa: float = Field(
        5.0, ge=0, le=1e6, description="Windows that the sources' class means weigh in it."
    )
    guard: float = Field(
        0.7,
        ge=0,
        le=1,
        description="EM is left out where a person's classes are fewer than this share, by the "
        "exponent of their entropy; 0: never.",
    )
    track: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Data of kind days: a device carries its class means to the next day, where "
        "they stand in the sources' place in prototype EM; so much of earlier days' stays beside "
        "today's. 0: each day is by itself.",
    )
    far: bool = Field(
        False, description="Virtual persons worn further off than those of the backbone's training."
    )

    @field_validator("adapter")
    @classmethod
    def _installed(cls, name: str) -> str:
        adapter_class(name)  # says which there are
        return name

    @model_validator(mode="after")
    def _what_is_tracked_stays_where_it_is(self) -> "MemorySettings":
        if self.track and self.prototypes and self.place != "head":
            raise ValueError(
                f"track: an adapter in layers = {self.place!r} moves the latent space that class "
                "means lie in; take layers = 'head'"
            )
        return self

    @model_validator(mode="after")
    def _rows_are_classes(self) -> "MemorySettings":
        if not adapter_class(self.adapter).by_output:
            return self
        if self.place != "head":
            raise ValueError(
                f"layers = {self.place!r}: the adapter {self.adapter!r} is made for the head "
                "alone; leave layers out, or take adapter = 'lora'"
            )
        if self.condition not in BY_CLASS:
            raise ValueError(
                f"condition = {self.condition!r}: the adapter {self.adapter!r} needs a token for "
                f"each class; take {' or '.join(map(repr, BY_CLASS))}, or adapter = 'lora'"
            )
        return self

    @property
    def place(self) -> Layers:
        """Where the adapter sits."""
        return self.layers or ("head" if adapter_class(self.adapter).by_output else "last")


def trained_memory(
    federation: Federation, settings: MemorySettings, steps: int, *, conditions: bool
) -> tuple[AdaptedClassifier, Memory]:
    """Train a memory, or read the one that the same training made before.

    Parameters
    ----------
    federation : Federation
    settings : MemorySettings
    steps : int
        Of training; 0 leaves a memory whose adapters change nothing.
    conditions : bool
        See ``Course``.
    """
    seed, backbone = federation.config.seed, federation.source_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [state.shape[1] for state in _states(backbone, federation.spec)]
        conditioner = CONDITIONERS[settings.condition](
            widths, federation.classes, settings.token_limit
        )
        network = _network(federation, settings, conditioner)
        memory = _memory(settings, network)
    if steps:
        course = Course(
            steps=steps,
            persons=settings.memory_persons,
            seen=settings.memory_seen,
            judged=settings.memory_judged,
            rate=settings.memory_rate,
            l2=settings.l2,
            collapse=settings.collapse,
            conditions=conditions,
        )
        path = _path(federation, settings, course, backbone_version=network.version)
        networks: dict[str, nn.Module] = {"memory": memory, "conditioner": conditioner}

        def train() -> dict[str, nn.Module]:
            train_memory(memory, _episodes(federation, settings, network), conditioner, course)
            return networks

        kept(path, networks, train)
    network = _network(federation, settings, conditioner)
    if not settings.prototypes:
        return network, memory
    return _refined(federation, settings, network, memory), memory


def _memory(settings: MemorySettings, network: AdaptedClassifier) -> Memory:
    """Made for what there is to make: one map for all classes, or tokens over layers."""
    spec = ParameterSpec.of(network)
    told: Conditioner = network.conditioner
    start = vector_of(network)[: spec.trainable_length]
    if adapter_class(settings.adapter).by_output:
        return ClassMemory(
            start,
            network.plain.head.weight,
            told.tokens,
            told.channels,
            network.version,
            width=settings.width,
            blocks=settings.blocks or 1,
            scale=settings.scale,
        )
    return FunctionalMemory(
        start,
        spec,
        told.tokens,
        told.channels,
        network.version,
        width=settings.width,
        blocks=settings.blocks or 2,
        patch=settings.patch,
        scale=settings.scale,
    )


def _episodes(
    federation: Federation, settings: MemorySettings, network: AdaptedClassifier
) -> Episodes:
    config = federation.config
    turning = FAR if settings.far else Turning.of(config.source)
    generator = torch.Generator().manual_seed(config.seed * 1009 + 5)
    users = VirtualUsers(federation.sources, turning, generator)
    if settings.place != "all":
        return FrozenEpisodes(network, users, settings.versions)
    return Episodes(network, users)


def _network(
    federation: Federation, settings: MemorySettings, conditioner: Conditioner
) -> AdaptedClassifier:
    return AdaptedClassifier(
        federation.source_model(),
        settings.adapter,
        settings.rank,
        settings.adapter_scale,
        conditioner,
        federation.config.seed,
        settings.place,
    ).eval()


@torch.no_grad()
def _refined(
    federation: Federation,
    settings: MemorySettings,
    network: AdaptedClassifier,
    memory: Memory,
) -> RefinedClassifier:
    """The network with prototypes: the sources' class means as seen through their own adapters."""
    samples = sample_sources(federation.sources, WINDOWS)
    buffers = vector_of(network)[memory.start.numel() :]

    def own(sample: Sample) -> None:
        told = network.condition(sample.x, sample.mean, sample.deviation).flatten()
        load_vector(network, torch.cat([memory.generate(told[None])[0], buffers]))

    return RefinedClassifier(
        federation.source_model(),
        settings.adapter,
        settings.rank,
        settings.adapter_scale,
        network.conditioner,
        federation.config.seed,
        settings.place,
        mixing=Mixing(iterations=settings.prototypes, kappa=settings.kappa),
        sources=latent_sources(network, samples, federation.classes, own),
        guard=settings.guard,
        track=settings.track,
    ).eval()


@torch.no_grad()
def _states(backbone: Classifier, spec: InputSpec) -> list[Tensor]:
    states: list[Tensor] = backbone.encoder.states(torch.zeros(2, spec.features, spec.time))
    return states


def _path(
    federation: Federation, settings: MemorySettings, course: Course, backbone_version: str
) -> Path | None:
    later = {"prototypes", "kappa", "guard", "track"}  # of what comes after the memory's training
    names = [name for name in MemorySettings.model_fields if name not in later]
    made_from = {name: getattr(settings, name) for name in names}
    config = federation.config
    text = f"{backbone_version} {made_from!r} {course!r} {config.seed}"
    text += f" {config.source!r} {federation.sources.digest}"
    return kept_at(federation.graphs.cache, "memory", text)
