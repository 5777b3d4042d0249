"""The personal model: encoder, base models of the sources in its latent space, and their mix."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from hypernet.networks.encoder import ConvEncoder
from hypernet.networks.inputs import InputSpec
from hypernet.networks.losses import cross_entropy, log_softmax

_SMALLEST: Final = 1e-6  # windows: of a class that nobody has told of


@dataclass(frozen=True)
class Mixing:
    """How base models are combined on a device.

    Attributes
    ----------
    iterations : int
        Of expectation–maximisation over the person's windows; 0 keeps the sources' head.
    kappa : float
        Windows that a class's base models weigh against the person's own.
    sharpness : float
        τ of the base models' weights, softmax(−distance²/τ) by class; a large one averages them.
    prior_windows : float
        Windows that the sources' mean weighs in the person's place for that distance.
    blend : float
        Share of the mixed head; the rest is the sources' discriminative one.
    label_weight : float
        Unlabelled windows that a labelled one counts for.
    """

    iterations: int = 10
    kappa: float = 20.0
    sharpness: float = 30.0
    prior_windows: float = 5.0
    blend: float = 0.5
    label_weight: float = 3.0


class PersonalModel(nn.Module):
    """Encoder, the sources' head, and a head mixed from base models on the device.

    A base model of a source is generative: class means in the person's latent space, whitened by
    the covariance within class and person that all sources share. The mix is by class and needs no
    label: each class's prior mean is the base models', weighted by how near they are to the
    person's windows of that class, and the person's windows refine it (soft prototypes by EM,
    labelled windows clamped). Classes are taken to be equally likely. A class that no source has
    (``lacking``) has no base model: the person's labels make its mean, or it keeps its row of the
    sources' head.

    Buffers: ``whiten`` (latent, latent), ``base`` (sources, classes, latent), ``mixed_weight`` and
    ``mixed_bias`` (the mixed head), ``tuned`` (1,): set when the model was fine-tuned; then the
    tuned head predicts.
    """

    whiten: Tensor
    base: Tensor
    mixed_weight: Tensor
    mixed_bias: Tensor
    tuned: Tensor

    def __init__(
        self,
        spec: InputSpec,
        classes: int,
        sources: int,
        width: int = 32,
        latent: int = 64,
        mixing: Mixing | None = None,
        lacking: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.spec = spec
        self.mixing, self.lacking = mixing or Mixing(), lacking
        self.encoder = ConvEncoder(spec, width, latent)
        self.head = nn.Linear(latent, classes)
        self.register_buffer("whiten", torch.eye(latent))
        self.register_buffer("base", torch.zeros(sources, classes, latent))
        self.register_buffer("mixed_weight", torch.zeros(classes, latent))
        self.register_buffer("mixed_bias", torch.zeros(classes))
        self.register_buffer("tuned", torch.zeros(1))

    def extra_repr(self) -> str:
        """Name what a graph of this network has as constants."""
        return constants(self.mixing, self.lacking)

    def encode(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows (windows, time, channels) → (windows, latent)."""
        z: Tensor = self.encoder(self.spec.normalise(x, mean, deviation))
        return z

    def forward(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → logits (windows, classes)."""
        z = self.encode(x, mean, deviation)
        return torch.where(self.tuned > 0, self.head(z), self._mixed(z))

    def mix(self, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Set the mixed head from all training windows; y (windows,) is −1 where unlabelled.

        Returns
        -------
        The windows' class probabilities (windows, classes).
        """
        z = self.encode(x, mean, deviation)
        plain = self.head(z)
        known = (y >= 0).to(z.dtype)[:, None]
        target = (y[:, None] == torch.arange(plain.shape[1])).to(z.dtype)
        white = z @ self.whiten
        weight: Tensor = self.head.weight
        bias: Tensor = self.head.bias
        probable = softmax(plain, 1)
        blend = self.mixing.blend
        for _ in range(self.mixing.iterations):
            probable = known * target + (1 - known) * probable
            centres = class_centres(self.mixing, self.base, white, probable, known, self.lacking)
            share = blend * mixed_classes(target, self.lacking)
            weight = share * (centres @ self.whiten.T) + (1 - share) * self.head.weight
            share = share.squeeze(1)
            bias = (1 - share) * self.head.bias - share * 0.5 * centres.square().sum(1)
            probable = softmax(z @ weight.T + bias, 1)
        self.mixed_weight, self.mixed_bias = weight, bias
        return probable

    def posteriors(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Class probabilities (windows, classes) by the mixed head."""
        return softmax(self._mixed(self.encode(x, mean, deviation)), 1)

    def tuning_loss(
        self, x: Tensor, y: Tensor, targets: Tensor, mean: Tensor, deviation: Tensor
    ) -> Tensor:
        """Cross-entropy where labels are known; elsewhere with soft targets (windows, classes).

        The targets are the mixed head's posteriors from before the first step: a teacher that
        moves with the encoder collapses (measured: .65 instead of .85 at f = .2).

        Sets ``tuned``. A scalar: the mean over labelled windows plus that over the others.
        """
        z = self.encode(x, mean, deviation)
        logits = log_softmax(self.head(z))
        known = (y >= 0).to(z.dtype)
        target = (y[:, None] == torch.arange(logits.shape[1])).to(z.dtype)
        self.tuned = torch.ones_like(self.tuned)
        hard = -(target * logits).sum(1) * known
        soft = -(targets * logits).sum(1) * (1 - known)
        return hard.sum() / known.sum().clamp(min=1) + soft.sum() / (1 - known).sum().clamp(min=1)

    def head_loss(self, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Plain cross-entropy of the sources' head; sets ``tuned``. For ablations."""
        self.tuned = torch.ones_like(self.tuned)
        return cross_entropy(self.head(self.encode(x, mean, deviation)), y)

    def _mixed(self, z: Tensor) -> Tensor:
        return z @ self.mixed_weight.T + self.mixed_bias


def constants(mixing: Mixing, lacking: tuple[int, ...]) -> str:
    """How a network names what its graphs have as constants."""
    return f"{mixing!r}, lacking={lacking}" if lacking else repr(mixing)


def mixed_classes(target: Tensor, lacking: tuple[int, ...]) -> Tensor:
    """1 (classes, 1) where ``class_centres`` says something, 0 where nobody has told of a class.

    Parameters
    ----------
    target : (windows, classes)
        1 where a label says so.
    lacking
        See ``class_centres``.
    """
    classes = target.shape[1]
    if not lacking:
        return torch.ones(classes, 1)
    labelled = (target.sum(0) > 0).to(target.dtype)
    return (1 - _gone(classes, lacking) * (1 - labelled))[:, None]


def _gone(classes: int, lacking: tuple[int, ...]) -> Tensor:
    return torch.tensor([float(label in lacking) for label in range(classes)])


def class_centres(
    mixing: Mixing,
    base: Tensor,
    white: Tensor,
    probable: Tensor,
    known: Tensor,
    lacking: tuple[int, ...] = (),
) -> Tensor:
    """Class means in whitened space, by base models and by the person's windows.

    Parameters
    ----------
    mixing : Mixing
    base : (sources, classes, latent)
        Base models' class means, whitened.
    white : (windows, latent)
        The person's windows, whitened.
    probable : (windows, classes)
        What each window is taken to be.
    known : (windows, 1)
        1 where a label says it.
    lacking : tuple[int, ...]
        Classes that no source has: they have no prior, and count labelled windows alone, for the
        sources' head has never seen what it would call so.

    Returns
    -------
    (classes, latent); of a lacking class without a label, zeros.
    """
    weights = probable * (1 + (mixing.label_weight - 1) * known)
    kappa: Tensor | float = mixing.kappa
    if lacking:
        gone = _gone(base.shape[1], lacking)
        weights = weights * (1 - gone * (1 - known))
        kappa = kappa * (1 - gone[:, None])
    count = weights.sum(0)[:, None]
    total = weights.T @ white
    pooled = base.mean(0)
    person = (mixing.prior_windows * pooled + total) / (mixing.prior_windows + count)
    distance = (person - base).square().sum(2)
    share = softmax(-distance / mixing.sharpness, 0)
    prior = (share[:, :, None] * base).sum(0)
    if not lacking:
        return (mixing.kappa * prior + total) / (mixing.kappa + count)
    return (kappa * prior + total) / (kappa + count).clamp(min=_SMALLEST)
