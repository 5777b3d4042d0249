"""An adapted classifier whose head is moved, on the device, by the person's own class means."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, softmax

from hypernet.latent import LatentSources
from hypernet.networks.adapted import AdaptedClassifier
from hypernet.networks.personal import Mixing, class_centres, constants, mixed_classes
from hypernet.networks.self_training import diversity, known_labels


class RefinedClassifier(AdaptedClassifier):
    """Adds prototype EM behind the adapter: see ``SelfTraining.prototypes``, here without bouts.

    What EM adds to the head is part of the vector (``shift_weight``, ``shift_bias``); the sources'
    class means and their whitening are constants of the graphs.

    Parameters
    ----------
    *args, **options
        ``AdaptedClassifier``'s.
    mixing : Mixing
    sources : LatentSources
        In the latent space of adapted networks, each source with its own adapter.
    guard : float
        Least number of classes in the windows, as a share of all, for EM to be trusted: it pulls
        towards an even mix. Where there are fewer the head stays.
    track : float
        On a device that lives through days: what its earlier days' class means (``own_centres``,
        whitened) weigh beside today's when they are carried to the next day, where they stand in
        the sources' place. 0: each day is by itself.
    """

    whiten: Tensor
    base: Tensor
    shift_weight: Tensor
    shift_bias: Tensor
    own_centres: Tensor
    own_days: Tensor

    def __init__(
        self,
        *args: Any,
        mixing: Mixing,
        sources: LatentSources,
        guard: float,
        track: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.mixing, self.guard, self.track = mixing, guard, track
        self.lacking = sources.lacking
        self.register_buffer("whiten", sources.whiten, persistent=False)
        self.register_buffer("base", sources.base, persistent=False)
        classes, latent = self.body.head.weight.shape
        self.register_buffer("shift_weight", torch.zeros(classes, latent))
        self.register_buffer("shift_bias", torch.zeros(classes))
        if track:
            self.register_buffer("own_centres", torch.zeros(classes, latent))
            self.register_buffer("own_days", torch.zeros(1))

    def forward(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → logits (windows, classes)."""
        return self._shifted(self.encode(x, mean, deviation))

    def prototypes(self, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Set the head's shift from all training windows; y (windows,) is −1 where unlabelled.

        Returns
        -------
        The windows' class probabilities (windows, classes).
        """
        z = self.encode(x, mean, deviation)
        weight, bias = self.body.head.merged()
        known, target = known_labels(y, z, weight.shape[0])
        probable = softmax(z @ weight.T + bias, 1)
        enough = (diversity(probable) >= self.guard).to(z.dtype)
        white, blend = z @ self.whiten, enough * self.mixing.blend
        base = self.base
        if self.track:
            base, probable = self._as_yesterday(z, probable)
        for _ in range(self.mixing.iterations):
            probable = known * target + (1 - known) * probable
            centres = class_centres(self.mixing, base, white, probable, known, self.lacking)
            self._shift(centres, blend * mixed_classes(target, self.lacking))
            probable = softmax(self._shifted(z), 1)
        if self.track:
            self._carry(centres, enough)
        return probable

    def _as_yesterday(self, z: Tensor, probable: Tensor) -> tuple[Tensor, Tensor]:
        """The class means to start from, and what the windows are by both heads.

        From the second day on those are the device's own, for what drifts from day to day is
        nearer to yesterday than to the sources.
        """
        later = (self.own_days > 0).to(z.dtype)
        base = self.base + later * (self.own_centres - self.base)
        told = mixed_classes(torch.zeros_like(probable), self.lacking)  # labels are of today
        self._shift(self.own_centres, later * self.mixing.blend * told)
        return base, (probable + softmax(self._shifted(z), 1)) / 2

    def _carry(self, centres: Tensor, enough: Tensor) -> None:
        """Mix today's class means into those of earlier days, where EM was trusted."""
        share = enough * (1 - self.track * (self.own_days > 0).to(centres.dtype))
        self.own_centres = self.own_centres + share * (centres - self.own_centres)
        self.own_days = self.own_days + enough

    def _shift(self, centres: Tensor, blend: Tensor) -> None:
        weight, bias = self.body.head.merged()
        self.shift_weight = blend * (centres @ self.whiten.T - weight)
        self.shift_bias = -blend.squeeze(1) * (0.5 * centres.square().sum(1) + bias)

    def _shifted(self, z: Tensor) -> Tensor:
        weight, bias = self.body.head.merged()
        return linear(z, weight + self.shift_weight, bias + self.shift_bias)

    def extra_repr(self) -> str:
        """Name what graphs hold as constants."""
        digest = hashlib.sha256(self.whiten.numpy().tobytes() + self.base.numpy().tobytes())
        mixed = constants(self.mixing, self.lacking)
        own = f"{mixed}, guard={self.guard}, sources={digest.hexdigest()}"
        if self.track:
            own += f", track={self.track}"
        return f"{super().extra_repr()}, {own}"
